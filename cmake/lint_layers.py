#!/usr/bin/env python3
"""Imports point downward only: the order of modules is the table in docs/architecture.md.

Checked are the includes of src/, include/, kernels/ and python/bindings/, and the imports of python/glyptic; that
kernels know no torch; that public headers include public headers only, and no torch header that includes all of torch.
"""

from __future__ import annotations

import ast
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
ALL_OF_TORCH = {"torch/all.h", "torch/torch.h", "torch/extension.h", "torch/script.h", "ATen/ATen.h"}
# Public headers that need one of them: name -> why.
MAY_INCLUDE_ALL_OF_TORCH: dict[str, str] = {}
# The package's own layers, lowest first. A module may import what is on its own line or further up in this list.
PYTHON = [
    ["_C", "_build"],
    ["nn"],
    ["data", "metrics", "optim"],
    ["fairness"],
    ["sharpness"],
    ["multimodal"],
    ["pruning"],
    ["_trace"],
    ["sparsity"],
    ["callbacks", "report", "_ranks"],
    ["__init__"],
    ["__main__"],
]


def order() -> list[str]:
    """Module names, highest first, out of the table."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `(\w+)/` \|", text, re.M)
    if names[:1] != ["python"] or names[-1:] != ["core"]:
        sys.exit("lint: docs/architecture.md: the table of modules must go from `python/` down to `core/`")
    return names


def module_of(path: pathlib.Path) -> str:
    """'sparsity' for src/sparsity/x.cpp, 'kernels' for kernels/cpu/x.cpp, '' for what is in no module."""
    parts = path.relative_to(ROOT).parts
    if parts[0] == "include":
        return parts[2] if len(parts) > 3 else ""
    if parts[0] == "src":
        return parts[1] if len(parts) > 2 else ""
    return parts[0]


def check_includes(path: pathlib.Path, ranks: dict[str, int]) -> list[str]:
    findings = []
    own = module_of(path)
    name = path.relative_to(ROOT).as_posix()
    if own not in ranks:
        return [f"{name}:1: the module '{own}' is not in the table of docs/architecture.md; add it there"]
    public = name.startswith("include/")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        kind, target = match.groups()
        at = f"{name}:{number}"
        if target in ALL_OF_TORCH and public and name not in MAY_INCLUDE_ALL_OF_TORCH:
            findings.append(
                f"{at}: a public header includes <{target}>, which costs every user 20 to 40 s; include what it uses "
                "(ATen/core/Tensor.h, ATen/ops/...), or give a reason in cmake/lint_layers.py"
            )
        if own == "kernels" and target.startswith(("torch/", "ATen/", "c10/", "caffe2/")):
            findings.append(f"{at}: kernels are plain C++ on pointers; <{target}> belongs into ops/")
        if target.startswith("glyptic/"):
            used = target.split("/")[1] if target.count("/") > 1 else ""
        elif kind == '"':
            file = (path.parent / target).resolve()
            if not file.is_file() or not file.is_relative_to(ROOT):
                continue
            if public and not file.is_relative_to(ROOT / "include"):
                findings.append(f"{at}: a public header includes '{target}', which is not installed")
            used = module_of(file)
        else:
            continue
        if used and used not in ranks:
            findings.append(f"{at}: '{target}' is of the module '{used}', which docs/architecture.md does not list")
        elif used and ranks[used] > ranks[own]:
            findings.append(f"{at}: {own}/ includes '{target}' of {used}/, which is above it in docs/architecture.md")
    return findings


def python_module(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT / "python" / "glyptic").parts
    return parts[0].removesuffix(".py")


def check_imports(path: pathlib.Path) -> list[str]:
    ranks = {name: rank for rank, names in enumerate(PYTHON) for name in names}
    name = path.relative_to(ROOT).as_posix()
    own = python_module(path)
    if own not in ranks:
        return [f"{name}:1: '{own}' is in no layer of cmake/lint_layers.py; add it there"]
    folder = path.relative_to(ROOT / "python" / "glyptic").parent.parts
    findings = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        targets: list[tuple[str, ...]] = []
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        if isinstance(node, ast.Import):
            targets = [tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "glyptic"]
        else:
            module = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                base = folder[: len(folder) - (node.level - 1)] + module
            elif module[:1] == ("glyptic",):
                base = module[1:]
            else:
                continue
            targets = [base or (alias.name,) for alias in node.names]
        for target in targets:
            used = target[0] if target else "__init__"
            if used in ranks and ranks[used] > ranks[own]:
                findings.append(f"{name}:{node.lineno}: glyptic.{own} imports glyptic.{used}, which is above it")
    return findings


def main() -> int:
    names = order()
    ranks = {name: len(names) - i for i, name in enumerate(names)}
    findings = []
    count = 0
    for folder in "include", "src", "kernels", "python/bindings":
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".h", ".cpp", ".cu", ".cuh", ".c"):
                findings += check_includes(path, ranks)
                count += 1
    for path in sorted((ROOT / "python" / "glyptic").rglob("*.py")):
        findings += check_imports(path)
        count += 1
    for stale in sorted(set(MAY_INCLUDE_ALL_OF_TORCH)):
        if not (ROOT / stale).is_file():
            findings.append(f"cmake/lint_layers.py: '{stale}' is gone; take it off the list")
    for finding in findings:
        print(finding)
    print(f"layers: {count} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
