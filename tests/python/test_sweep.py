"""`glyptic run --sweep` as a process: the same bits as separate runs, killed and continued, driven by an array."""

import json
import os
import pathlib
import signal
import subprocess
import time

import glyptic as package
import pytest

BUILD = os.environ.get("GLYPTIC_BUILD")
if not BUILD:
    pytest.skip("GLYPTIC_BUILD does not name a build folder", allow_module_level=True)
GLYPTIC = pathlib.Path(BUILD) / "bin" / "glyptic"
if not GLYPTIC.exists():
    pytest.skip(f"{GLYPTIC} is not built", allow_module_level=True)

ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
ENVIRONMENT.pop("SLURM_ARRAY_TASK_ID", None)

TINY = """
threads: 1
data: {name: shapes, train_limit: 160, test_limit: 40, size: 12, classes: 3}
model: {name: mlp, widths: [12]}
train: {epochs: 2, batch_size: 16, eval_batch_size: 40, log_every: 1}
throughput: {enabled: false}
sparsity: {method: rigl, density: 0.2, update_every: 3}
"""
GRID = ["--sweep", "seed=1,2", "sparsity.density=0.1,0.3"]
NAMES = ["seed=1,density=0.1", "seed=1,density=0.3", "seed=2,density=0.1", "seed=2,density=0.3"]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


class Result:
    pass


@pytest.fixture
def glyptic(capfd, monkeypatch):
    """The command line in this process: loading torch takes longer than these runs."""
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)

    def run(*arguments, code=0, **environment):
        capfd.readouterr()
        with monkeypatch.context() as context:
            for name, value in environment.items():
                context.setenv(name, value)
            returned = package._C.cli([str(a) for a in arguments])
        result = Result()
        result.stdout, result.stderr = capfd.readouterr()
        assert returned == code, result.stderr
        return result

    return run


def runs(out):
    return sorted(p.parent.name for p in out.glob("*/results.json"))


def test_a_grid_has_the_bits_of_separate_runs(glyptic, config, tmp_path):
    out = tmp_path / "out"
    result = glyptic("run", *GRID, config, "--out", out)
    assert runs(out) == NAMES
    for density in (0.1, 0.3):  # mean and deviation over the seeds
        row = next(line for line in result.stdout.splitlines() if f"| seed=*,density={density} | 2 |   1 2 |" in line)
        assert "±" in row
    assert result.stdout.count("| network") <= 1 and "\n\n|" not in result.stdout  # one table, at the end
    # The last of the grid, after three others in the same process, and alone.
    alone = tmp_path / "alone"
    glyptic("run", config, "--out", alone, "--set", "seed=2", "--set", "sparsity.density=0.3")
    for name in "metrics.jsonl", "config.yaml", "environment.json", "extracted/model.safetensors":
        assert (alone / name).read_bytes() == (out / NAMES[3] / name).read_bytes(), name
    # Finished points are left alone.
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    again = glyptic("run", config, *GRID, "--out", out)
    assert again.stderr.count("is finished") == 4 and again.stdout == result.stdout
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}


def test_both_ways_of_writing_it(glyptic, config, tmp_path):
    for k, words in enumerate([["--sweep", "seed=1", "--sweep", "optimizer.lr=0.1"], ["--sweep", "seed=1", "optimizer.lr=0.1"]]):
        glyptic("run", *words, config, "--out", tmp_path / str(k), "--set", "train.max_steps=2")
        assert runs(tmp_path / str(k)) == ["seed=1,lr=0.1"]


def test_killed_and_continued(glyptic, config, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = ["run", str(config), "--sweep", "seed=1,2,3", "--set", "train.checkpoint_every=2"]
    glyptic(*command, "--out", whole)
    for sent, code, seed in (signal.SIGKILL, -9, 1), (signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 3):
        run = subprocess.Popen([str(GLYPTIC), *command, "--out", str(out)], env=ENVIRONMENT,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
        metrics = out / f"seed={seed}" / "metrics.jsonl"
        begin = time.monotonic()
        while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 3):
            assert run.poll() is None, run.stderr.read()
            assert time.monotonic() - begin < 60
            time.sleep(0.001)
        run.send_signal(sent)
        _, error = run.communicate(timeout=60)
        if run.returncode == 0 and seed == 3:
            continue  # it was faster: the point is whole, which is compared below
        assert run.returncode == code, error
        assert not (out / f"seed={seed + 1}").exists()
    glyptic(*command, "--out", out)
    for seed in 1, 2, 3:
        a, b = out / f"seed={seed}", whole / f"seed={seed}"
        assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
        assert (a / "extracted/model.safetensors").read_bytes() == (b / "extracted/model.safetensors").read_bytes()


def test_a_diverged_point(glyptic, config, tmp_path):
    out = tmp_path / "out"
    result = glyptic("run", config, "--sweep", "optimizer.lr=0.1,1e30,0.2", "--out", out, code=4)
    assert runs(out) == ["lr=0.1", "lr=0.2"]
    assert "lr=1e30" in result.stderr and "1 of 3 points failed" in result.stderr
    assert "lr=0.1" in result.stdout and "lr=1e30" not in result.stdout


def test_an_array_of_jobs(glyptic, config, tmp_path):
    out = tmp_path / "out"
    for k in range(4):
        if k % 2:
            glyptic("run", config, *GRID, "--out", out, "--sweep-index", k, SLURM_ARRAY_TASK_ID="0")
        else:
            glyptic("run", config, *GRID, "--out", out, SLURM_ARRAY_TASK_ID=str(k))
        assert runs(out) == NAMES[: k + 1]
    assert "0 to 3" in glyptic("run", config, *GRID, "--out", out, SLURM_ARRAY_TASK_ID="4", code=2).stderr
    assert "'x'" in glyptic("run", config, *GRID, "--out", out, SLURM_ARRAY_TASK_ID="x", code=2).stderr
    # Without --sweep the variable means nothing.
    glyptic("run", config, "--out", tmp_path / "one", "--set", "train.max_steps=2", SLURM_ARRAY_TASK_ID="7")


def test_another_config_is_refused(glyptic, config, tmp_path):
    out = tmp_path / "out"
    glyptic("run", config, "--sweep", "seed=1", "--out", out)
    config.write_text(TINY.replace("density: 0.2", "density: 0.25"))
    line = glyptic("run", config, "--sweep", "seed=1,2", "--out", out, code=2).stderr
    assert "sparsity.density is 0.2 there and 0.25 here" in line and not (out / "seed=2").exists()


def test_an_index_needs_a_sweep(glyptic, config):
    assert "--sweep" in glyptic("run", config, "--sweep-index", "1", code=2).stderr
    assert "-1 not in range" in glyptic("run", config, *GRID, "--sweep-index", "-1", code=2).stderr


def test_a_point_in_use(glyptic, config, tmp_path):
    """Two sweeps over one grid share the work: a point that another process runs is reported, not touched."""
    import fcntl

    out = tmp_path / "out"
    point = out / "seed=1"
    point.mkdir(parents=True)
    with open(point / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = glyptic("run", config, "--sweep", "seed=1,2", "--out", out, code=2)
    assert "another process is running" in result.stderr
    assert runs(out) == ["seed=2"]
    assert json.loads((out / "seed=2" / "results.json").read_text())
