"""Every example in a docstring runs, and shows what it says."""

import doctest
import importlib
import pkgutil

import glyptic
import pytest


def modules():
    names = ["glyptic"]
    for info in pkgutil.walk_packages(glyptic.__path__, "glyptic."):
        if not info.name.rsplit(".", 1)[-1].startswith(("_C", "__main__")):
            names.append(info.name)
    return names


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    found = [t for name in modules() for t in finder.find(importlib.import_module(name)) if t.examples]
    assert len(found) >= 8


def test_public_names_have_docstrings():
    for module in (glyptic, glyptic.sparsity, glyptic.nn, glyptic.optim, glyptic.sharpness, glyptic.pruning):
        for name in module.__all__:
            member = getattr(module, name)
            if callable(member):
                assert member.__doc__, f"{module.__name__}.{name}"


def test_stubs_are_those_of_the_binding():
    """`make stubs` writes them; a wheel has them, but not the script that makes them."""
    import pathlib
    import subprocess
    import sys

    script = pathlib.Path(__file__).resolve().parents[2] / "python" / "make_stubs.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
