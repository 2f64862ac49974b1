"""A run that survives anything: kills, full disks, clocks that leap, folders that vanish, files that rot."""

import errno
import os
import pathlib
import random
import shutil
import signal
import sys
import time
import zlib

import glyptic
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "soak"))
import soak  # noqa: E402

BUILD = os.environ.get("GLYPTIC_BUILD")
if not BUILD:
    pytest.skip("GLYPTIC_BUILD does not name a build folder", allow_module_level=True)
PROGRAM = soak.Program(pathlib.Path(BUILD).resolve())
for needed in "bin/glyptic", "lib/libfaults.so":
    if not (PROGRAM.build / needed).exists():
        pytest.skip(f"{needed} is not built", allow_module_level=True)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("soak")


@pytest.fixture(scope="module")
def unbroken(work):
    made = {}

    def make(name):
        if name not in made:
            made[name] = soak.Unbroken.make(PROGRAM, name, work)
        return made[name]

    return make


def last_line(result, code):
    """The one line that a failed run says; before it may stand what the run said while all was well."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("glyptic: ")]
    assert result.returncode == code, result.stderr
    assert len(lines) == 1 and result.stderr.endswith(lines[0] + "\n"), result.stderr
    assert "internal error" not in result.stderr and "LOG ERROR" not in result.stderr
    return lines[0]


def finish(unbroken, folder):
    """Continues the run without faults, to the bits of the unbroken one."""
    begun = (folder / "config.yaml").exists() and (folder / "metrics.jsonl").exists()
    result = PROGRAM.run(*(["resume", folder] if begun else ["run", unbroken.config, "--out", folder]))
    assert result.returncode == 0, result.stderr
    assert soak.differences(unbroken.folder, folder) == []


# --- killed


@pytest.mark.parametrize("name", soak.RUNS)
def test_killed_at_random_moments(name, unbroken, tmp_path):
    figures = soak.soak(PROGRAM, unbroken(name), 5, random.Random(7), tmp_path)
    assert figures["kills"] >= 5 and figures["left a temporary"] >= 1, figures


def test_the_comparison_sees_a_difference(unbroken, tmp_path):
    whole = unbroken("rigl").folder
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    assert soak.differences(whole, copy) == []
    (copy / "checkpoints" / ".glyptic-1-1.tmp").write_text("x")
    lines = (copy / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_bytes(b"".join(lines[:3] + lines[2:]))
    path = copy / "checkpoints" / "rigl.safetensors"
    tensors, metadata = glyptic.load_safetensors(str(path))
    for tensor_name, tensor in tensors:
        if tensor_name == "model.fc1.weight":
            tensor.view(-1)[5] += 2.0**-20
    glyptic.save_safetensors(str(path), tensors, metadata)
    found = soak.differences(whole, copy)
    assert any("glyptic-1-1.tmp" in line for line in found)
    assert "metrics.jsonl" in found and "checkpoints/rigl.safetensors: model.fc1.weight" in found
    assert len(found) == 3


# --- a disk that is full, read-only or gone


def test_a_full_disk_stops_with_one_line_and_keeps_the_last_checkpoint(unbroken, tmp_path):
    run = unbroken("chase")
    whole = sum(p.stat().st_size for p in run.folder.rglob("*") if p.is_file())
    met = set()
    for share in 0.002, 0.6, 2.5:  # of what the finished folder holds: checkpoints are written many times
        folder = tmp_path / str(share)
        result = PROGRAM.run("run", run.config, "--out", folder, faults={"folder": folder, "quota": int(share * whole)})
        line = last_line(result, 3)
        assert "No space left on device" in line and str(folder) in line
        assert not list(folder.rglob(".glyptic-*.tmp"))
        checkpoint = folder / "checkpoints" / "last.safetensors"
        met.add(checkpoint.exists())
        if checkpoint.exists():
            assert glyptic.load_safetensors(str(checkpoint))[1]["phase"] == "chase"
        finish(run, folder)
    assert met == {False, True}


@pytest.mark.parametrize(("reason", "file"), [(errno.ENOSPC, ".tmp"), (errno.EIO, "metrics.jsonl")])
def test_an_fsync_that_fails_is_not_taken_for_success(reason, file, unbroken, tmp_path):
    run = unbroken("chase")
    folder = tmp_path / "run"
    faults = {"folder": folder, "sync": f"{reason}:{file}"}
    assert os.strerror(reason) in last_line(PROGRAM.run("run", run.config, "--out", folder, faults=faults), 3)
    assert not list(folder.rglob(".glyptic-*.tmp"))
    finish(run, folder)


def test_metrics_that_do_not_reach_the_disk_are_not_counted_in(unbroken, tmp_path):
    """A checkpoint knows how long metrics.jsonl was; a length that only the cache knew would cut off nothing."""
    run = unbroken("chase")
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    (folder / "results.json").unlink()
    with open(folder / "metrics.jsonl", "r+b") as file:
        file.truncate(100)
    line = last_line(PROGRAM.run("resume", folder), 3)
    assert "metrics.jsonl' is shorter than the" in line and "put it back" in line


def test_a_read_only_folder(unbroken, tmp_path):
    run = unbroken("chase")
    folder = tmp_path / "run"
    faults = {"folder": folder, "readonly": 1}
    line = last_line(PROGRAM.run("run", run.config, "--out", folder, faults=faults), 3)
    assert "Read-only file system" in line and str(folder) in line
    assert not folder.exists()
    shutil.copytree(run.folder, folder)
    (folder / "results.json").unlink()
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert "Read-only file system" in last_line(PROGRAM.run("resume", folder, faults=faults), 3)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def wait_for(condition, process, seconds=60):
    begin = time.monotonic()
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() - begin < seconds
        time.sleep(0.005)


def test_a_folder_deleted_underneath(unbroken, tmp_path):
    run = unbroken("chase")
    folder = tmp_path / "run"
    process = PROGRAM.start("run", run.config, "--out", folder)
    wait_for((folder / "checkpoints" / "last.safetensors").exists, process)
    while folder.exists():  # a file may come into being while its folder is emptied
        shutil.rmtree(folder, ignore_errors=True)
    out, error = process.communicate(timeout=60)
    line = last_line(soak.subprocess.CompletedProcess([], process.returncode, out, error), 3)
    assert "No such file or directory" in line and str(folder) in line
    assert not folder.exists()


def test_two_runs_on_one_folder(unbroken, tmp_path):
    run = unbroken("chase")
    folder = tmp_path / "run"
    process = PROGRAM.start("run", run.config, "--out", folder)
    wait_for((folder / "checkpoints" / "last.safetensors").exists, process)
    process.send_signal(signal.SIGSTOP)  # so that it is still there
    before = (folder / "metrics.jsonl").read_bytes()
    assert "already holds a run" in last_line(PROGRAM.run("run", run.config, "--out", folder), 2)
    assert "another process is running" in last_line(PROGRAM.run("resume", folder), 2)
    assert (folder / "metrics.jsonl").read_bytes() == before
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert error.splitlines()[-1].endswith(f"continue with: glyptic resume {folder}")
    finish(run, folder)


def test_a_clock_that_leaps(unbroken, tmp_path):
    run = unbroken("rigl")
    folder = tmp_path / "run"
    result = PROGRAM.run("run", run.config, "--out", folder, faults={"folder": folder, "clock": 1})
    assert result.returncode == 0, result.stderr
    assert soak.differences(run.folder, folder) == []
    stamps = [line.split()[0] for line in (folder / "log.txt").read_text().splitlines()]
    assert stamps != sorted(stamps), "the clock did not leap"


# --- a checkpoint that rots


def parts(data):
    length = 8 + int.from_bytes(data[:8], "little")
    return data[:length], data[length:]


def test_every_damage_to_a_checkpoint_is_noticed(unbroken, tmp_path):
    """Cut at every length of its last 4 KiB and of its header, every header byte flipped, and bits of the data."""
    original = unbroken("chase").folder / "checkpoints" / "last.safetensors"
    data = original.read_bytes()
    whole = glyptic.load_safetensors(str(original))[0]
    header, body = parts(data)
    path = tmp_path / "damaged.safetensors"

    def refused():
        try:
            found = glyptic.load_safetensors(str(path))[0]
        except glyptic.DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return True
        # Only where the checksum's own name was hit, which makes it a file without one: nothing else differs.
        for (a, x), (b, y) in zip(whole, found, strict=True):
            assert a == b and x.dtype == y.dtype and x.shape == y.shape
            assert x.numpy().tobytes() == y.numpy().tobytes()
        return False

    name = data.index(b"glyptic.crc32")
    path.write_bytes(data)
    assert not refused()
    every, rest = range(len(header)), random.Random(3)
    flips = [(at, 0xFF) for at in every] + [(at, 1 << at % 8) for at in every[::5]]
    flips += [(at, 1 << at % 8) for at in rest.sample(range(len(header), len(data)), 300)]
    with open(path, "r+b", buffering=0) as file:
        for at, flip in flips:
            os.pwrite(file.fileno(), bytes([data[at] ^ flip]), at)
            assert refused() or name <= at < name + 13, at
            os.pwrite(file.fileno(), data[at : at + 1], at)
        assert not refused()
        tail = range(len(data) - 1, max(len(header), len(data) - 4096) - 1, -1)
        for length in [*tail, *range(len(header) - 1, -1, -1)]:
            file.truncate(length)
            assert refused(), length


def test_a_damaged_checkpoint_stops_a_resume(unbroken, tmp_path):
    run = unbroken("chase")
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    (folder / "results.json").unlink()
    path = folder / "checkpoints" / "chase.safetensors"  # what the end of a run reads
    data = path.read_bytes()
    header, body = parts(data)
    name = data.index(b"glyptic.crc32")
    for content in (
        data[:-1],
        data[: len(header) + len(body) // 2],
        data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],  # a weight or state that is off by one bit
        data[:name] + b"G" + data[name + 1 :],  # the checksum's name
        b"",
    ):
        path.write_bytes(content)
        line = last_line(PROGRAM.run("resume", folder), 3)
        assert str(path) in line
    path.write_bytes(data)
    finish(run, folder)


def test_the_checksum_is_the_one_that_zlib_computes(unbroken):
    data = (unbroken("chase").folder / "checkpoints" / "last.safetensors").read_bytes()
    header, body = parts(data)
    prefix = b'{"__metadata__":{"glyptic.crc32":"'
    assert header[8:].startswith(prefix)
    at = 8 + len(prefix)
    assert header[at : at + 8] == b"%08x" % zlib.crc32(header[:at] + b"00000000" + header[at + 8 :])
