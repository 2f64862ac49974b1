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
    for module in (glyptic, glyptic.sparsity, glyptic.nn, glyptic.optim):
        for name in module.__all__:
            member = getattr(module, name)
            if callable(member):
                assert member.__doc__, f"{module.__name__}.{name}"


def test_stub_names_what_the_binding_has():
    import ast
    import inspect
    import pathlib

    from glyptic import _C

    stub = pathlib.Path(inspect.getfile(glyptic)).resolve().parent / "_C.pyi"
    declared = {
        node.name if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else node.target.id
        for node in ast.parse(stub.read_text()).body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AnnAssign))
    }
    built = {name for name in dir(_C) if not name.startswith("_")}
    assert declared == built
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.body and isinstance(node.body[0], ast.FunctionDef):
            methods = {m.name for m in node.body if isinstance(m, ast.FunctionDef)}
            assert {m for m in vars(getattr(_C, node.name)) if not m.startswith("_")} == {m for m in methods if not m.startswith("_")}
