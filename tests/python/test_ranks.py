"""One run of the command line made of several processes, as torchrun starts them."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import glyptic
import pytest
import torch
import torch.distributed as dist

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no c10d")

# No BatchNorm: then two processes with half a batch each compute what one does with all of it, up to the order of sums.
CONFIG = """
name: ranks
threads: 1
data: {name: shapes, train_limit: 320, test_limit: 60, size: 12, classes: 3}
augment: {flip: true}
model: {name: mlp, widths: [24]}
optimizer: {lr: 0.05}
train: {epochs: 3, batch_size: 32, eval_batch_size: 20, log_every: 1, checkpoint_every: 4}
throughput: {enabled: false}
sparsity: {method: rigl, density: 0.3, update_every: 4}
"""
WITH_STATISTICS = CONFIG.replace("{name: mlp, widths: [24]}", "{name: vgg_small, width: 0.125}") + "sharpness: {method: gsam}\n"


def environment(rank, port, size=2, **more):
    return {
        **os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **more,
    }  # fmt: skip


def start(port, *arguments, **more):
    return [
        subprocess.Popen(
            [sys.executable, "-m", "glyptic", *map(str, arguments)], env=environment(rank, port, **more),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip


def end(processes, timeout=120):
    outputs = [p.communicate(timeout=timeout) for p in processes]
    return [p.returncode for p in processes], outputs


def one(*arguments):
    env = {k: v for k, v in environment(0, 0).items() if k not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    result = subprocess.run(
        [sys.executable, "-m", "glyptic", *map(str, arguments)], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return result


def tensors(folder, name):
    return dict(glyptic.load_safetensors(str(folder / "checkpoints" / f"{name}.safetensors"))[0])


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """An unbroken run of two processes."""
    import socket

    folder = tmp_path_factory.mktemp("ranks")
    (folder / "config.yaml").write_text(CONFIG)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    codes, outputs = end(start(port, "run", folder / "config.yaml", "--out", folder / "run"))
    assert codes == [0, 0], outputs
    return folder, outputs


def test_torchrun_starts_one_run(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "glyptic", "run",
         "config.yaml", "--out", "run", "--set", "train.epochs=1"],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("| masked") == 1  # one table, of the process that leads
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2


def test_two_processes_train_what_one_does(two, tmp_path):
    folder, outputs = two
    one("run", folder / "config.yaml", "--out", tmp_path / "one")
    a, b = tensors(folder / "run", "rigl"), tensors(tmp_path / "one", "rigl")
    assert a.keys() == b.keys()
    for name in a:
        if ".mask." in name:
            assert torch.equal(a[name], b[name]), name
        elif name.startswith("model."):
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)  # 30 steps of float32 rounding
    for x, y in zip(losses(folder / "run"), losses(tmp_path / "one"), strict=True):
        assert x == pytest.approx(y, abs=1e-4)
    rows = [json.loads((f / "results.json").read_text())["rows"] for f in (folder / "run", tmp_path / "one")]
    assert [r["accuracy"] for r in rows[0]] == pytest.approx([r["accuracy"] for r in rows[1]], abs=2)  # a sample of 60
    assert outputs[1] == ("", "")  # the other process is silent


def test_statistics_and_sharpness_agree(unused_port, tmp_path):
    """GSAM and BatchNorm: what each process has of its own must not pull them apart (the run compares all weights)."""
    (tmp_path / "config.yaml").write_text(WITH_STATISTICS)
    codes, outputs = end(start(unused_port, "run", tmp_path / "config.yaml", "--out", tmp_path / "run", "--set", "train.epochs=1"))
    assert codes == [0, 0], outputs


def wait_for_lines(folder, count, processes):
    metrics = folder / "metrics.jsonl"
    until = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= count):
        assert time.monotonic() < until and all(p.poll() is None for p in processes), [p.communicate() for p in processes]
        time.sleep(0.005)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_dies_ends_the_run_and_a_restart_goes_on(two, victim, unused_port, tmp_path):
    folder, _ = two
    run = tmp_path / "run"
    processes = start(unused_port, "run", folder / "config.yaml", "--out", run)
    wait_for_lines(run, 9, processes)
    processes[victim].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    codes, outputs = end(processes)
    assert time.monotonic() - begin < 30  # not the timeout of the group
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1
    line = outputs[1 - victim][1].splitlines()[-1]
    assert line.startswith("glyptic: another process of this run cannot be reached"), line
    codes, outputs = end(start(unused_port, "resume", run))
    assert codes == [0, 0], outputs
    assert (run / "metrics.jsonl").read_bytes() == (folder / "run" / "metrics.jsonl").read_bytes()
    a, b = tensors(run, "rigl"), tensors(folder / "run", "rigl")
    for name in a:
        assert name == "progress" or torch.equal(a[name], b[name]), name  # progress holds seconds


def test_a_signal_to_one_stops_all(two, unused_port, tmp_path):
    folder, _ = two
    run = tmp_path / "run"
    processes = start(unused_port, "run", folder / "config.yaml", "--out", run)
    wait_for_lines(run, 9, processes)
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = end(processes)
    assert codes == [143, 143], outputs
    codes, outputs = end(start(unused_port, "resume", run))
    assert codes == [0, 0], outputs
    assert (run / "metrics.jsonl").read_bytes() == (folder / "run" / "metrics.jsonl").read_bytes()


def test_bad_input_is_said_once(two, unused_port, tmp_path):
    folder, _ = two
    codes, outputs = end(start(unused_port, "run", folder / "config.yaml", "--out", tmp_path / "a", "--set", "train.batch_size=33"))
    assert codes == [2, 2]
    assert "train.batch_size is 33, which 2 processes cannot share evenly" in outputs[0][1]
    # Only the leading process finds that the folder is taken; the other is told that it is gone.
    codes, outputs = end(start(unused_port, "run", folder / "config.yaml", "--out", folder / "run", GLYPTIC_TIMEOUT="20"))
    assert codes[0] == 2 and "already holds a run" in outputs[0][1]
    assert codes[1] != 0 and "cannot be reached" in outputs[1][1]
    result = pathlib.Path(folder / "run" / "results.json")
    assert result.exists()


def test_another_number_of_processes_is_said(two, tmp_path):
    import shutil

    folder, _ = two
    run = shutil.copytree(folder / "run", tmp_path / "run")
    (run / "results.json").unlink()
    assert "warning: threads, versions or machine" in one("resume", run).stderr
