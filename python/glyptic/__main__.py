"""``python -m glyptic``: the command line."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line with ``sys.argv``; the console script ``glyptic`` calls this."""
    if sys.argv[1:2] == ["report"]:
        from .report import main as report

        return report(sys.argv[2:])
    from . import _C
    from ._ranks import all_ranks

    with all_ranks():
        return _C.cli(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
