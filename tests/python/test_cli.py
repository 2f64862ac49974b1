"""The command line as its users meet it: a process with arguments, two streams and an exit code."""

import array
import csv
import gzip
import json
import math
import os
import pathlib
import pty
import random
import re
import select
import shutil
import signal
import subprocess
import time
import zlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = os.environ.get("GLYPTIC_BUILD")
if not BUILD:
    pytest.skip("GLYPTIC_BUILD does not name a build folder", allow_module_level=True)
GLYPTIC = pathlib.Path(BUILD) / "bin" / "glyptic"
if not GLYPTIC.exists():
    pytest.skip(f"{GLYPTIC} is not built", allow_module_level=True)

ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
ENVIRONMENT.pop("GLYPTIC_DATA", None)

TINY = """
threads: 1
data: {name: shapes, train_limit: 160, test_limit: 40, size: 12, classes: 3}
model: {name: mlp, widths: [12]}
train: {epochs: 2, batch_size: 16, eval_batch_size: 40, log_every: 2}
throughput: {enabled: false}
sparsity: {method: rigl, density: 0.2, update_every: 3}
"""

# Long enough (seconds) to be killed in the middle, of the same small parts. The loader works for its time: large
# images, averaged from nothing, with every augmentation.
LONG = """
name: long
threads: 1
data: {name: shapes, train_limit: 1600, test_limit: 100, size: 28, classes: 4}
augment: {crop_padding: 2, flip: true}
model: {name: vgg_small, width: 0.125}
optimizer: {lr: 0.05}
train: {epochs: 2, batch_size: 32, eval_batch_size: 100, log_every: 1, checkpoint_every: 5}
throughput: {enabled: false}
sparsity: {method: chase, density: 0.2, update_every: 7, channel_sparsity: 0.4}
"""


def glyptic(*arguments, cwd=None, **options):
    return subprocess.run(
        [str(GLYPTIC), *map(str, arguments)],
        cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False, **options,
    )  # fmt: skip


def start(*arguments, **options):
    return subprocess.Popen(
        [str(GLYPTIC), *map(str, arguments)],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def ok(*arguments, **options):
    result = glyptic(*arguments, **options)
    assert result.returncode == 0, result.stderr
    return result


def refused(code, *arguments, alone=False, **options):
    """The one line that it said; `alone`: nothing else was said, since nothing had begun."""
    result = glyptic(*arguments, **options)
    lines = [line for line in result.stderr.splitlines() if line.startswith("glyptic: ")]
    assert result.returncode == code, result.stderr
    assert len(lines) == 1 and result.stderr.endswith(lines[0] + "\n"), result.stderr
    assert "internal error" not in lines[0] and "Exception raised from" not in result.stderr
    assert result.stdout == ""
    assert not alone or result.stderr == lines[0] + "\n"
    return lines[0]


def only_line(code, *arguments, **options):
    return refused(code, *arguments, alone=True, **options)


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    config = folder / "tiny.yaml"
    config.write_text(TINY)
    ok("run", config, "--out", folder / "run", "--set", "name=finished")
    return folder / "run"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    config = folder / "long.yaml"
    config.write_text(LONG)
    ok("run", config, "--out", folder / "run")
    return folder / "run", config


def tensors(path):
    """Names to bytes, without the run's wall-clock seconds (the last float64 of `progress`)."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    result = {}
    for name, info in header.items():
        if name == "__metadata__":
            result[name] = {key: value for key, value in info.items() if key != "glyptic.crc32"}
            continue
        begin, end = info["data_offsets"]
        result[name] = (info["shape"], body[begin : end - 8 if name == "progress" else end])
    return result


def finite_tensors(path):
    """The names of a checkpoint, whose weights are all numbers."""
    for name, (_, data) in ((n, t) for n, t in tensors(path).items() if n.startswith("model.")):
        assert all(map(math.isfinite, array.array("f", data))), name
    return sorted(tensors(path))


def assert_same_run(a, b):
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    files = sorted(p.name for p in (a / "checkpoints").iterdir())
    assert files == sorted(p.name for p in (b / "checkpoints").iterdir())
    for name in files:
        x, y = tensors(a / "checkpoints" / name), tensors(b / "checkpoints" / name)
        assert x.keys() == y.keys()
        for key in x:
            assert x[key] == y[key], (name, key)
    for name in "model.safetensors", "graph.json", "plan.json":
        assert (a / "extracted" / name).read_bytes() == (b / "extracted" / name).read_bytes()


# --- what is refused: one line, what, where, how to mend


def test_without_arguments():
    assert "glyptic --help" in only_line(2)


def test_unknown_command():
    line = only_line(2, "trian", "x.yaml")
    assert line == "glyptic: unknown command 'trian'; see: glyptic --help"
    assert "did you mean 'resume'" in only_line(2, "resum", "x")


def test_unknown_flag_and_missing_argument(tiny):
    assert "--sett" in only_line(2, "run", tiny, "--sett", "a=1")
    assert "config is required" in only_line(2, "run")


def test_missing_config():
    line = only_line(3, "run", "/nowhere/x.yaml")
    assert "'/nowhere/x.yaml'" in line and "check the path" in line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("sparsity:\n  densty: 0.5\n", ["c.yaml:2:3:", "'sparsity.densty'", "did you mean 'sparsity.density'"]),
        ("sparsity:\n  density: 0\n", ["c.yaml:2:12:", "sparsity.density is 0", "in (0, 1]"]),
        ("train:\n  epochs: 0\n", ["c.yaml:2:11:", "train.epochs is 0", ">= 1"]),
        ("train:\n  epochs: many\n", ["c.yaml:2:11:", "many (string)", "expected int"]),
        ("train: {epochs: 1\n", ["c.yaml:", "not valid YAML"]),
        ("\tseed: 1\n", ["c.yaml:1:", "not valid YAML"]),
        ("seed: 1\nseed: 2\n", ["c.yaml:2:1:", "'seed' is given twice"]),
        ("- a\n", ["c.yaml:1:1:", "a mapping of options"]),
        ("include: gone.yaml\n", ["c.yaml:1:10:", "gone.yaml'", "counts from the folder"]),
        ("experiment: classificatoin\n", ["did you mean 'classification'"]),
        ("model: {name: resnet21}\n", ["c.yaml:1:15:", "did you mean 'resnet20'"]),
        ("train: {select: best_val}\n", ["train.select", "data.validation is 0"]),
        ("device: cuda\nmodel: {name: mlp, dropout: 1}\n", ["model.dropout is 1", "[0, 1)"]),
    ],
)
def test_bad_configs(tmp_path, text, parts):
    config = tmp_path / "c.yaml"
    config.write_text(text)
    line = only_line(2, "run", config, "--out", tmp_path / "run")
    for part in parts:
        assert part in line
    assert not (tmp_path / "run").exists()  # refused before anything was written


def test_bad_sets(tiny, tmp_path):
    line = only_line(2, "run", tiny, "--out", tmp_path / "run", "--set", "sparsity.density=0")
    assert line == "glyptic: --set sparsity.density=0: sparsity.density is 0, expected float in (0, 1]"
    assert "did you mean 'train.epochs'" in only_line(2, "validate", tiny, "--set", "train.epoch=1")
    assert "expected name=value" in only_line(2, "validate", tiny, "--set", "train.epochs")


def test_set_takes_one_value_each(tiny):
    text = ok("validate", "--set", "train.epochs=7", tiny, "--set", "seed=3").stdout
    assert "  epochs: 7\n" in text and "seed: 3\n" in text


def test_missing_data(tiny, tmp_path):
    line = refused(3, "run", tiny, "--out", tmp_path / "run",
                   "--set", "data.name=cifar10", "--set", "data.size=0", "--set", "data.classes=0",
                   "--set", "data.folder=/nowhere")  # fmt: skip
    assert "no data set 'cifar10' was found in '/nowhere'" in line and "get the binary version" in line
    assert not (tmp_path / "run").exists()
    # A folder that was there stays, with what was in it.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    refused(3, "run", tiny, "--out", tmp_path / "mine", "--set", "data.name=mnist", "--set", "data.size=0",
            "--set", "data.classes=0", "--set", "data.folder=/nowhere")  # fmt: skip
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    ok("run", tiny, "--out", tmp_path / "mine", "--set", "train.max_steps=2")


def test_a_setting_that_only_the_data_refuse_leaves_no_folder(tiny, tmp_path):
    line = refused(2, "run", tiny, "--out", tmp_path / "run", "--set", "train.batch_size=1000")
    assert "more than the 160 training images" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("compressed", [True, False])
def test_truncated_data(tiny, tmp_path, compressed):
    folder = tmp_path / "mnist"
    shutil.copytree(ROOT / "data" / "mnist-6k", folder)
    name = "train-images-idx3-ubyte"
    data = (folder / f"{name}.gz").read_bytes()
    if compressed:
        (folder / f"{name}.gz").write_bytes(data[: len(data) // 2])
    else:
        (folder / f"{name}.gz").unlink()
        (folder / name).write_bytes(gzip.decompress(data)[:-100])
    line = refused(3, "run", tiny, "--out", tmp_path / "run", "--set", "data.name=mnist",
                   "--set", "data.size=0", "--set", "data.classes=0", "--set", f"data.folder={folder}")  # fmt: skip
    assert name in line
    assert not (tmp_path / "run").exists()


def test_a_file_where_the_run_folder_should_be(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    for out in tmp_path / "file", tmp_path / "file" / "run", "/proc/glyptic-run":
        line = only_line(3, "run", tiny, "--out", out)
        assert f"cannot make the run folder '{out}'" in line and "--out" in line


def test_an_existing_run_folder(tiny, finished):
    line = only_line(2, "run", tiny, "--out", finished)
    assert f"already holds a run; continue it with: glyptic resume {finished}" in line


def test_resume_of_no_run(tmp_path):
    assert "holds no run" in only_line(3, "resume", tmp_path)
    assert "holds no run" in only_line(3, "table", tmp_path)


def interrupted(tiny, folder):
    """A run that has checkpoints and is not done: as after a kill in its second epoch."""
    ok("run", tiny, "--out", folder, "--set", "train.checkpoint_every=3")
    (folder / "results.json").unlink()
    return folder


def edit_checkpoint(path, change):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    metadata = header["__metadata__"]  # first, and the checksum first in it
    metadata["glyptic.crc32"] = "0" * 8 + metadata["glyptic.crc32"][8:]
    text = json.dumps(header, separators=(",", ":"))
    checksum = zlib.crc32(len(text).to_bytes(8, "little") + text.encode())
    text = text.replace("0" * 8, f"{checksum:08x}", 1).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_a_damaged_checkpoint_on_resume(tiny, tmp_path):
    folder = interrupted(tiny, tmp_path / "run")
    last = folder / "checkpoints" / "last.safetensors"
    whole = last.read_bytes()
    for damaged in whole[:-1], b"\xff" * 64:
        last.write_bytes(damaged)
        line = refused(3, "resume", folder)
        assert "last.safetensors', byte" in line and "fetch or save it again" in line
    last.write_bytes(whole)
    # A tensor of another shape, of the same number of bytes.
    final = folder / "checkpoints" / "rigl.safetensors"

    def turn(header):
        header["model.fc1.weight"]["shape"].reverse()

    edit_checkpoint(final, turn)
    line = refused(3, "resume", folder)
    assert "rigl.safetensors' does not fit config.yaml" in line and "'fc1.weight'" in line


def test_nan_loss_keeps_the_last_good_checkpoint(tiny, tmp_path):
    folder = tmp_path / "run"
    line = refused(4, "run", tiny, "--out", folder, "--set", "optimizer.lr=1e30", "--set", "train.checkpoint_every=1")
    assert re.search(r"at step \d+ of 'rigl'|after step \d+ of 'rigl'", line) and "lower optimizer.lr" in line
    last = folder / "checkpoints" / "last.safetensors"
    if last.exists():
        assert str(last) in line and finite_tensors(last)
    assert not (folder / "results.json").exists()
    # A good run that turns bad keeps what it had.
    good = tmp_path / "good"
    run = start("run", tiny, "--out", good, "--set", "train.epochs=400", "--set", "train.checkpoint_every=1")
    wait_for(lambda: (good / "checkpoints" / "last.safetensors").exists(), run)
    run.send_signal(signal.SIGINT)
    assert run.wait(30) == 130
    before = finite_tensors(good / "checkpoints" / "last.safetensors")
    text = (good / "config.yaml").read_text()
    (good / "config.yaml").write_text(re.sub(r"\n  lr: [^\n]*", "\n  lr: 1.0e+38", text, count=1))
    refused(4, "resume", good)
    assert finite_tensors(good / "checkpoints" / "last.safetensors") == before


# --- ended and continued


def wait_for(condition, process, seconds=60):
    begin = time.monotonic()
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() - begin < seconds
        time.sleep(0.01)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_ends(tmp_path, unbroken, sent, code):
    whole, config = unbroken
    folder = tmp_path / "run"
    run = start("run", config, "--out", folder)
    metrics = folder / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= 8, run)
    run.send_signal(sent)
    _, error = run.communicate(timeout=60)
    assert run.returncode == code, error
    last = error.splitlines()[-1]
    assert re.fullmatch(rf"glyptic: stopped after step \d+ of 'chase'; continue with: glyptic resume {folder}", last)
    ok("resume", folder)
    assert_same_run(whole, folder)


def test_killed_at_random_moments(tmp_path, unbroken):
    whole, config = unbroken
    folder = tmp_path / "run"
    metrics = folder / "metrics.jsonl"
    moments = random.Random(5)
    command = ["run", config, "--out", folder]
    for first, last in (2, 20), (30, 55), (65, 90):  # of about 100 lines
        lines = moments.randint(first, last)
        run = start(*command)
        wait_for(lambda lines=lines: metrics.exists() and metrics.read_bytes().count(b"\n") >= lines, run)
        time.sleep(moments.uniform(0, 0.04))  # anywhere in a step or a checkpoint
        run.kill()
        run.communicate()
        assert run.returncode == -signal.SIGKILL and not (folder / "results.json").exists()
        command = ["resume", folder]
    ok(*command)
    assert_same_run(whole, folder)


def test_resume_of_a_finished_run_prints_its_table(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    result = ok("resume", finished)
    assert "is finished" in result.stderr and "| masked" in result.stdout
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()} == before


def test_two_processes_on_one_folder(tmp_path, unbroken):
    _, config = unbroken
    folder = tmp_path / "run"
    run = start("run", config, "--out", folder)
    wait_for(lambda: (folder / "config.yaml").exists(), run)
    line = only_line(2, "resume", folder)
    assert "another process is running in" in line and str(folder) in line
    run.kill()
    run.communicate()


def test_a_changed_number_of_threads_is_said(tiny, tmp_path):
    folder = interrupted(tiny, tmp_path / "run")
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["threads"] == 1
    environment["threads"] = 7
    (folder / "environment.json").write_text(json.dumps(environment))
    assert "warning: threads, versions or machine" in ok("resume", folder).stderr


# --- the other commands


def test_run_writes_all_of_it(finished):
    for name in (
        "config.yaml", "environment.json", "metrics.jsonl", "log.txt", "results.json",
        "checkpoints/last.safetensors", "checkpoints/rigl.safetensors",
    ):  # fmt: skip
        assert (finished / name).stat().st_size > 0, name
    assert not list(finished.rglob("*.tmp"))
    for line in (finished / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


def test_the_default_folder_is_named_after_the_run(tiny, tmp_path):
    ok("run", tiny, "--set", "name=abc", "--set", "train.max_steps=2", cwd=tmp_path)
    assert (tmp_path / "runs" / "abc" / "results.json").exists()


def test_list_and_describe_everything():
    text = ok("list").stdout
    names = re.findall(r"^  (\S+)", text, re.MULTILINE)
    assert {"classification", "chase", "rigl", "vgg_small", "mnist"} <= set(names)
    for name in "classification", "chase", "vgg_small", "mnist", "sparsity", "sparsity.density":
        assert name in ok("describe", name).stdout
    assert "did you mean 'chase'" in only_line(2, "describe", "chasee")
    assert "did you mean 'sparsity.density'?" in only_line(2, "describe", "density")
    assert "sparsity.channel_sparsity" in ok("describe", "chase").stdout
    assert "name something" in only_line(2, "describe")
    page = ok("describe", "--markdown").stdout
    assert page.startswith("# Reference") and all(f"`{name}`" in page for name in names)


def test_list_says_which_data_are_read(tmp_path):
    shipped = shutil.copytree(ROOT / "data" / "mnist-6k", tmp_path / "mnist")
    (tmp_path / "cifar10").mkdir()  # without the files, so nothing is read from there
    result = subprocess.run([str(GLYPTIC), "list"], env={**ENVIRONMENT, "GLYPTIC_DATA": str(tmp_path)},
                            capture_output=True, text=True, check=True, cwd=tmp_path)  # fmt: skip
    line = next(line for line in result.stdout.splitlines() if line.startswith("  mnist"))
    assert line.startswith(f"  mnist  (read from {shipped}; also in ")
    assert str(tmp_path / "cifar10") not in result.stdout


def configs():
    return sorted(p for p in (ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("config", [p for p in configs() if p.parent.name in ("sparsity", "sharpness")], ids=lambda p: p.stem)
def test_every_config_takes_a_step(config, tmp_path):
    # Anywhere but here, so that no data are found: a dry run needs none.
    assert f"name: {config.stem}\n" in ok("validate", config, "--dry-run", cwd=tmp_path).stdout


def test_a_resolved_config_resolves_to_itself(tmp_path):
    text = ok("validate", ROOT / "configs/sparsity/chase_resnet50_imagenet_full.yaml").stdout
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(text)
    assert ok("validate", resolved).stdout == text


def test_the_small_config_runs(tmp_path):
    begin = time.monotonic()
    result = ok("run", ROOT / "configs/sparsity/chase_mnist_test.yaml", "--out", tmp_path / "run",
                "--set", f"data.folder={ROOT}/data/mnist-6k")  # fmt: skip
    assert time.monotonic() - begin < 60
    assert re.search(r"\| extracted ", result.stdout) and "images/s at batch 16" in result.stdout


def test_the_small_configs_of_sharpness_run(tmp_path):
    for name in ("label_noise_mnist_test", "zo_sam_toy_test"):
        result = ok("run", ROOT / f"configs/sharpness/{name}.yaml", "--out", tmp_path / name, "-q")
        assert "step" in result.stdout.splitlines()[0]
        rows = json.loads((tmp_path / name / "results.json").read_text())["rows"]
        assert rows[-1]["sharpness"] in ("sam", "zosam") and rows[-1]["sharpness_source"]


def test_table(finished, tmp_path):
    one = ok("table", finished).stdout
    titles = re.split(r" *\| *", one.splitlines()[0])
    assert titles[1:-1] == ["network", "accuracy %", "density", "live channels", "parameters", "FLOPs"]
    assert one.splitlines()[1].startswith("|--") and "| masked" in one
    # Runs of one name, told apart by what differs in their folders.
    other = shutil.copytree(finished, tmp_path / "other")
    both = ok("table", finished, other, "--format", "csv").stdout
    rows = list(csv.DictReader(both.splitlines()))
    assert both.startswith("run,network,accuracy %")
    assert rows[0]["run"].endswith("/run") and rows[-1]["run"].endswith("other") and len(rows) % 2 == 0
    stored = json.loads((finished / "results.json").read_text())["rows"]
    for row, kept in zip(rows, stored):  # numbers to the last digit, without grouping or units
        assert float(row["parameters"]) == kept["parameters"] and float(row["FLOPs"]) == kept["flops"]
        assert float(row["accuracy %"]) == kept["accuracy"]
        assert "," not in row["parameters"] and not re.search("[kMG]", row["FLOPs"])
    assert "expected markdown, csv or latex" in only_line(2, "table", finished, "--format", "html")


def test_table_of_an_unfinished_run(tiny, tmp_path):
    folder = interrupted(tiny, tmp_path / "run")
    assert f"has no results yet; continue it with: glyptic resume {folder}" in only_line(3, "table", folder)


def test_version_help_and_doctor():
    assert re.fullmatch(r"glyptic \d+\.\d+\.\d+ \(torch \d+\.\d+\S*\)\n", ok("--version").stdout)
    assert "run the experiment of a YAML file" in ok("--help").stdout
    assert "--dry-run" in ok("validate", "--help").stdout
    text = ok("doctor").stdout
    assert "built for torch" in text and "forward and backward: ok" in text


# --- progress and log lines

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(*arguments):
    """All that reaches a terminal of 80 columns, as one string."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(str(GLYPTIC), ["glyptic", *map(str, arguments)], ENVIRONMENT)
    output = b""
    begin = time.monotonic()
    while time.monotonic() - begin < 90:
        ready, _, _ = select.select([terminal], [], [], 1)
        if not ready:
            continue
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side has ended
            break
        if not chunk:
            break
        output += chunk
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), output.decode()


def test_a_terminal_has_a_bar_that_tears_no_line(tmp_path, unbroken):
    _, config = unbroken
    code, text = on_a_terminal("run", config, "--out", tmp_path / "run")
    assert code == 0, text
    assert "\x1b[2K" in text and re.search(r"chase \[#*\.*\] \d+/100  \d+ s left  loss \d", text)
    # What stays on the screen: of each line, what follows the last erasure.
    lines = [ESCAPES.sub("", re.split(r"\r?\x1b\[2K", line)[-1]).strip("\r") for line in text.split("\n")]
    log = (tmp_path / "run" / "log.txt").read_text().splitlines()
    said = [re.sub(r"^\S+ \S+ \S ", "", line) for line in log]
    assert len(said) >= 5
    for message in said:
        assert message in lines, message
    for line in lines:
        assert not re.search(r"\[#*\.*\] \d+/\d+", line), line  # no bar is left behind


def test_a_pipe_has_plain_lines(tmp_path, finished, tiny):
    result = ok("run", tiny, "--out", tmp_path / "run")
    assert "\x1b" not in result.stderr + result.stdout and "\r" not in result.stderr + result.stdout
    assert "[#" not in result.stderr
    assert "rigl epoch 2: train loss" in result.stderr


def test_quiet_and_verbose(tiny, tmp_path):
    assert ok("run", "-q", tiny, "--out", tmp_path / "a").stderr == ""
    assert ok("run", tiny, "--out", tmp_path / "b", "-v").stderr != ""
