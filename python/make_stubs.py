"""Writes python/glyptic/_C.pyi from the built binding.

    PYTHONPATH=build/release/python python python/make_stubs.py [--check]

pybind11-stubgen reads signatures and docstrings out of the module; what it cannot know is put right here: the error
classes, which say that they live in ``glyptic``, and dicts, whose keys are strings. ``--check`` compares instead and ends
with 1 when the file in the tree is of another binding.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import tempfile

sys.path = sys.path[1:]  # the folder of this file, whose glyptic/ has no binding
TARGET = pathlib.Path(__file__).resolve().parent / "glyptic" / "_C.pyi"


def errors() -> str:
    from glyptic import _C

    lines = []
    found = {n: v for n, v in vars(_C).items() if isinstance(v, type) and issubclass(v, Exception)}
    for name, value in sorted(found.items(), key=lambda item: (len(item[1].__mro__), item[0])):
        bases = ", ".join(base.__name__ for base in value.__bases__)
        lines.append(f'class {name}({bases}):\n    """{value.__doc__}"""\n')
    return "\n".join(lines)


def generate() -> str:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-P", "-m", "pybind11_stubgen", "glyptic._C", "-o", folder], check=True, stdout=subprocess.DEVNULL
        )
        text = (pathlib.Path(folder) / "glyptic" / "_C.pyi").read_text()
        text = re.sub(r"^from glyptic import \w+\n", "", text, flags=re.M)
        text = re.sub(r"^__all__.*\n", "\n" + errors() + "\n", text, flags=re.M)
        text = re.sub(r"\bdict\b(?!\[)", "dict[str, typing.Any]", text)
        text = re.sub(r"\blist\b(?!\[)(?=[\],:)]| *\n)", "list[typing.Any]", text)
        text = re.sub(r"\btuple\b(?!\[)(?=[\],:)]| *\n)", "tuple[typing.Any, ...]", text)
        text = re.sub(r"\bcollections\.abc\.Callable\b(?!\[)", "collections.abc.Callable[..., typing.Any]", text)
        text = "# Made by python/make_stubs.py; do not edit.\n" + text
        for tool in (["check", "--fix", "--quiet", "--select", "I"], ["format"]):
            text = subprocess.run(
                [sys.executable, "-m", "ruff", *tool, "--stdin-filename", str(TARGET), "-"],
                input=text, capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
        return text


def main() -> int:
    text = generate()
    if "--check" in sys.argv[1:]:
        if TARGET.read_text() != text:
            print(f"{TARGET} is not of this binding; run: make stubs", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
