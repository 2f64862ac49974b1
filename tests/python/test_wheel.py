"""`pip install .` as documented: a wheel that works from elsewhere, with the command and the small data set in it."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    pytest.importorskip("scikit_build_core", reason="building a wheel needs scikit-build-core")
    # A path with a space and a letter outside ASCII, as people have them.
    target = tmp_path_factory.mktemp("site päckages with space")
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--target", str(target), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return target


def run(installed, tmp_path, *arguments):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "GLYPTIC_DATA")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_imports_from_elsewhere(installed, tmp_path):
    code = (
        "import glyptic, torch, pathlib; "
        "m = torch.nn.Sequential(torch.nn.Linear(8, 8)); "
        "s = glyptic.sparsity.Static(m, density=0.25); "
        "print(int((m[0].weight != 0).sum()), pathlib.Path(glyptic.__file__).parent.parent)"
    )
    result = run(installed, tmp_path, "-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split(" ", 1) == ["16", f"{installed}\n"]


def test_command_and_data_are_in_it(installed, tmp_path):
    result = run(installed, tmp_path, "-m", "glyptic", "list")
    assert result.returncode == 0, result.stderr
    assert "chase" in result.stdout
    assert str(installed) in result.stdout, "the small MNIST of the wheel itself"
    assert (installed / "bin" / "glyptic").exists()
    assert (installed / "glyptic" / "py.typed").exists()


def test_another_torch_is_refused_in_one_line(installed, tmp_path):
    code = "import torch; torch.__version__ = '9.9.0'; import glyptic"
    result = run(installed, tmp_path, "-c", code)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: this glyptic was built for torch") and "9.9.0" in last
