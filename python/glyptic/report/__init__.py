"""``glyptic report``: runs as one HTML page that needs nothing else, and as TensorBoard scalars.

>>> import glyptic.report
>>> glyptic.report.write(["runs/a"], "a.html")  # doctest: +SKIP
'a.html'
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .. import _C
from ._load import read_groups
from ._page import GENERATOR, Page

__all__ = ["main", "write"]


def _may_write(out: Path) -> None:
    """ArgumentError before anything is computed: only a report is ever replaced."""
    if out.is_dir():
        raise _C.ArgumentError(f"'{out}' is a folder; name a file with --out, such as {out / 'report.html'}")
    if not out.parent.is_dir():
        raise _C.MissingFileError(f"the folder of '{out}' is not there; make it, or give another --out")
    try:
        with out.open("rb") as file:
            begin = file.read(512)
    except FileNotFoundError:
        return
    except OSError:
        begin = b""
    if GENERATOR.encode() not in begin:
        raise _C.ArgumentError(f"'{out}' is there already and is no report; give another --out")


def _write_atomically(out: Path, content: bytes) -> None:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent)
    except OSError as error:
        raise _C.MissingFileError(f"cannot write in '{out.parent}': {error.strerror}; give another --out") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, out)
    except OSError as error:
        raise _C.DataError(f"cannot write '{out}': {error.strerror}; what was there is unchanged") from None
    finally:
        Path(name).unlink(missing_ok=True)


def write(runs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] = "report.html", tensorboard: str = "") -> str:
    """Writes the report of run folders (a folder of run folders stands for all of them) and returns its path.

    Args:
        runs: one run, or several to compare. Those whose configs differ in nothing but the seed are drawn as mean and
            standard deviation.
        out: the page. It appears whole or not at all; a file that is no report is not replaced.
        tensorboard: a folder for event files, one folder per run; those of an earlier call are replaced.

    Raises:
        glyptic.ArgumentError: no run, `out` is taken, or a package is missing.
        glyptic.MissingFileError: a folder holds no run.
        glyptic.DataError: a file of the run is damaged beyond reading.
    """
    if not runs:
        raise _C.ArgumentError("report: no run was given")
    target = Path(out)
    _may_write(target)
    if tensorboard:
        from . import _tensorboard

        _tensorboard.load()
    groups = read_groups([os.fspath(run) for run in runs])
    _write_atomically(target, Page(groups).html().encode("utf-8", "replace"))
    if tensorboard:
        _tensorboard.write(groups, Path(tensorboard))
    return str(target)


def main(arguments: Sequence[str]) -> int:
    """The command line without its first word; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="glyptic report",
        description="Runs as one HTML page that needs no network and no other file. Runs that differ in nothing but the "
        "seed become one, with mean and standard deviation.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, or a folder of run folders")
    parser.add_argument("--out", default="report.html", metavar="FILE", help="the page (default: report.html)")
    parser.add_argument("--tensorboard", default="", metavar="DIR", help="also write TensorBoard event files below DIR")
    parser.add_argument("-v", "--verbose", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-q", "--quiet", action="store_true", help="do not name the files that were written")
    given = parser.parse_args(list(arguments))
    try:
        out = write(given.runs, given.out, given.tensorboard)
    except _C.Error as error:
        print(f"glyptic: {str(error).splitlines()[0]}", file=sys.stderr)
        return 3 if isinstance(error, _C.DataError | _C.MissingFileError) else 2 if isinstance(error, ValueError) else 1
    if not given.quiet:
        print(f"report in {out}" + (f"; TensorBoard events in {given.tensorboard}" if given.tensorboard else ""))
    return 0
