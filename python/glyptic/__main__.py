"""``python -m glyptic``: the command line."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line with ``sys.argv``; the console script ``glyptic`` calls this."""
    from . import _C

    return _C.cli(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
