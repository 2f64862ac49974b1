#!/usr/bin/env python3
"""clang-tidy over the library, where it has not been already.

    cmake/lint_tidy.py BUILD [SOURCE ...] [--all] [--base origin/main] [--jobs N]

A source passes once: the same text of it and of our headers that it includes, the same checks and compiler flags, is
not looked at again (a note in $XDG_CACHE_HOME/glyptic/tidy; any clone uses it). Without --all only what differs from
the base is looked at: changed sources, and for each changed header one source that includes it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
OURS = ("src/", "kernels/", "python/bindings/")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def included(path: pathlib.Path, seen: dict[pathlib.Path, str], foreign: set[str]) -> None:
    """Our files that `path` includes, with their text, and the names of all the others."""
    if path in seen:
        return
    seen[path] = path.read_text(encoding="utf-8")
    for _, name in INCLUDE.findall(seen[path]):
        for folder in (path.parent, ROOT / "include", ROOT):
            candidate = (folder / name).resolve()
            if candidate.is_file() and candidate.is_relative_to(ROOT):
                included(candidate, seen, foreign)
                break
        else:
            foreign.add(name)


class Unit:
    """A source and the command that compiles it."""

    def __init__(self, entry: dict[str, str]) -> None:
        self.path = pathlib.Path(entry["file"]).resolve()
        self.name = self.path.relative_to(ROOT).as_posix()
        self.directory = entry["directory"]
        self.texts: dict[pathlib.Path, str] = {}
        foreign: set[str] = set()
        included(self.path, self.texts, foreign)
        self.arguments = shlex.split(entry["command"])
        self.heavy = any(name.startswith(("torch/", "pybind11/")) for name in foreign)
        if not self.heavy:
            self.drop_precompiled_header()

    def drop_precompiled_header(self) -> None:
        """All of torch is in it, which is much to walk through for a file that does not use it."""
        kept: list[str] = []
        header = ""
        i = 0
        while i < len(self.arguments):
            if self.arguments[i] == "-Xclang" and self.arguments[i + 1] in ("-include-pch", "-include"):
                header = self.arguments[i + 3]
                i += 4
                continue
            if self.arguments[i] != "-Winvalid-pch":
                kept.append(self.arguments[i])
            i += 1
        if header:
            # The standard headers in it are part of what a source may rely on.
            text = (pathlib.Path(self.directory) / header.removesuffix(".pch")).read_text(encoding="utf-8")
            for _, name in INCLUDE.findall(text):
                if "/" not in name:
                    kept[1:1] = ["-include", name]
        self.arguments = kept

    def key(self, common: str) -> str:
        hasher = hashlib.sha256(common.encode())
        hasher.update(" ".join(self.arguments).replace(str(ROOT), ".").encode())
        for path in sorted(self.texts):
            hasher.update(f"\0{path.relative_to(ROOT)}\0{self.texts[path]}".encode())
        return hasher.hexdigest()


def git(*arguments: str) -> list[str]:
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return result.stdout.splitlines() if result.returncode == 0 else []


def changed(base: str) -> set[str] | None:
    """What differs from where this branch left the base (on the base itself: from the commit before)."""
    head = git("rev-parse", "HEAD")
    start = git("merge-base", "HEAD", base) or git("merge-base", "HEAD", "main")
    if not start or start == head:
        start = git("rev-parse", "HEAD~1")
    if not start:
        return None
    return set(git("diff", "--name-only", start[0])) | set(git("ls-files", "--others", "--exclude-standard"))


def choose(units: list[Unit], base: str) -> list[Unit]:
    names = changed(base)
    if names is None:
        return units
    chosen = {unit.name: unit for unit in units if unit.name in names}
    for header in sorted(n for n in names if n.endswith(".h") and (ROOT / n).exists()):
        path = (ROOT / header).resolve()
        users = [unit for unit in units if path in unit.texts]
        if users and not any(unit.name in chosen for unit in users):
            best = min(users, key=lambda unit: (unit.path.stem != path.stem, unit.heavy, len(unit.texts), unit.name))
            chosen[best.name] = best
    return [chosen[name] for name in sorted(chosen)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("sources", nargs="*", help="only these, named from the root of the repository")
    parser.add_argument("--all", action="store_true", help="every source, not only those that differ from the base")
    parser.add_argument("--base", default="origin/main")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_intermixed_args()

    try:
        version = subprocess.run(["clang-tidy", "--version"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        print("lint: clang-tidy is missing (Debian: apt-get install clang-tidy)", file=sys.stderr)
        return 2
    database = json.loads((options.build / "compile_commands.json").read_text(encoding="utf-8"))
    units: dict[str, Unit] = {}
    for entry in database:
        path = pathlib.Path(entry["file"]).resolve()
        name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
        if name.startswith(OURS) and path.suffix == ".cpp" and "clang" in shlex.split(entry["command"])[0]:
            units.setdefault(name, Unit(entry))
    if not units:
        print(f"lint: {options.build} was not configured with clang++; nothing for clang-tidy", file=sys.stderr)
        return 2

    # Of the headers of others, the version of torch stands for all.
    torch = re.findall(r"^torch==.*$", (ROOT / "python/requirements-dev.txt").read_text(encoding="utf-8"), re.M)
    common = "\0".join([version, (ROOT / ".clang-tidy").read_text(encoding="utf-8"), *torch])
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    cache = pathlib.Path(home) / "glyptic" / "tidy"
    cache.mkdir(parents=True, exist_ok=True)
    for name in options.sources:
        if name not in units:
            parser.error(f"'{name}' is not a source that {options.build} compiles")
    if options.sources:
        chosen = [units[name] for name in options.sources]
    else:
        chosen = list(units.values()) if options.all else choose(list(units.values()), options.base)
    waiting = [unit for unit in chosen if not (cache / unit.key(common)).exists()]
    print(f"clang-tidy: {len(waiting)} of {len(chosen)} sources to look at ({len(units)} in all)", flush=True)

    begin = time.monotonic()
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        commands = [
            {"directory": u.directory, "file": str(u.path), "arguments": u.arguments} for u in waiting
        ]
        (pathlib.Path(scratch) / "compile_commands.json").write_text(json.dumps(commands), encoding="utf-8")

        def look(unit: Unit) -> tuple[Unit, int, str]:
            run = subprocess.run(
                ["clang-tidy", "-p", scratch, "--quiet", str(unit.path)],
                cwd=ROOT, capture_output=True, text=True, check=False,
            )  # fmt: skip
            # What goes to standard error besides is a count of warnings in the headers of others.
            return unit, run.returncode, run.stdout or (run.stderr if run.returncode else "")

        # The slow ones first, so that no core ends up alone with one.
        waiting.sort(key=lambda unit: (not unit.heavy, unit.name))
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for future in concurrent.futures.as_completed([pool.submit(look, unit) for unit in waiting]):
                unit, code, text = future.result()
                if code:
                    bad += 1
                    print(text.replace(str(ROOT) + "/", ""), flush=True)
                else:
                    (cache / unit.key(common)).touch()
    if waiting:
        print(f"clang-tidy: {time.monotonic() - begin:.0f} s", flush=True)
    if bad:
        print(f"lint: clang-tidy has findings in {bad} sources", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
