"""An installed copy: `find_package(glyptic)` from a project outside the tree, and the command."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = os.environ.get("GLYPTIC_BUILD")
if not BUILD or not (pathlib.Path(BUILD) / "bin" / "glyptic").exists():
    pytest.skip("GLYPTIC_BUILD does not name a build folder with the command in it", allow_module_level=True)
if not shutil.which("cmake") or not shutil.which("ninja"):
    pytest.skip("cmake or ninja is not installed", allow_module_level=True)

ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
for _name in "GLYPTIC_DATA", "LD_LIBRARY_PATH", "VIRTUAL_ENV":
    ENVIRONMENT.pop(_name, None)


def run(*command, **options):
    result = subprocess.run(
        list(map(str, command)), env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", BUILD, "--prefix", prefix)
    return prefix


def test_the_installed_tree(prefix):
    package = next(prefix.rglob("glypticConfig.cmake")).parent
    names = {p.name for p in package.iterdir()}
    assert {"glypticConfigVersion.cmake", "glypticTargets.cmake", "FindLibTorch.cmake"} <= names
    public = {p.relative_to(ROOT / "include") for p in (ROOT / "include").rglob("*.h")}
    assert public == {p.relative_to(prefix / "include") for p in (prefix / "include").rglob("*.h")}
    assert len(list((prefix / "share/glyptic/data/mnist-6k").glob("*.gz"))) == 4
    # Nothing of it points back into the tree that it was built from.
    for path in package.iterdir():
        assert str(ROOT / "build") not in path.read_text() and str(ROOT / "include") not in path.read_text()
    for binary in (prefix / "bin" / "glyptic", next(prefix.rglob("libglyptic.so"))):
        rpath = run("readelf", "-d", binary)
        assert "$ORIGIN" in rpath and str(BUILD) not in rpath


def test_the_installed_command(prefix, tmp_path):
    glyptic = prefix / "bin" / "glyptic"
    found = re.search(r"^  mnist  \(read from ([^);]*)[);]", run(glyptic, "list", cwd=tmp_path), re.MULTILINE)
    assert found and pathlib.Path(found.group(1)).resolve() == (prefix / "share/glyptic/data/mnist-6k").resolve()
    config = prefix / "share/glyptic/configs/sparsity/chase_mnist_test.yaml"
    table = run(glyptic, "run", config, "--set", "train.max_steps=4", "--set", "throughput.enabled=false", cwd=tmp_path)
    assert "| extracted" in table and "6,000" in table


def test_a_program_of_its_own(prefix, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "tests" / "consumer", source)
    compiler = shutil.which("clang++") or shutil.which("g++")
    # -O0: the test is about headers, libraries and paths, and LibTorch's headers take long enough.
    run("cmake", "-S", source, "-B", tmp_path / "build", "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}",
        f"-DCMAKE_CXX_COMPILER={compiler}", "-DCMAKE_CXX_FLAGS=-O0")  # fmt: skip
    run("cmake", "--build", tmp_path / "build")
    line = run(tmp_path / "build" / "consumer", cwd=tmp_path)
    match = re.fullmatch(
        r"glyptic \S+: loss \d+\.\d+, density 0\.100, channels (\d+) of (\d+), parameters (\d+) of (\d+), same yes, "
        r"data (\S+)\n",
        line,
    )
    assert match, line
    live, channels, small, large = map(int, match.groups()[:4])
    assert live == channels // 2 and small < large
    assert pathlib.Path(match.group(5)).resolve() == (prefix / "share/glyptic/data/mnist-6k").resolve()


def test_another_version_is_refused_in_words(prefix, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(p LANGUAGES NONE)\nfind_package(glyptic 9.9 CONFIG REQUIRED)\n"
    )
    result = subprocess.run(
        ["cmake", "-S", tmp_path, "-B", tmp_path / "b", f"-DCMAKE_PREFIX_PATH={prefix}"],
        env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode != 0 and 'compatible with requested version "9.9"' in " ".join(result.stderr.split())
