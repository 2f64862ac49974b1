"""Kills real training runs and compares what becomes of them with the unbroken run, bit for bit.

``tests/python/test_soak.py`` delivers ten kills; ``make soak`` a hundred, and prints what they met::

    GLYPTIC_BUILD=build/release python tests/soak/soak.py --kills 100 --seed 1 --json figures.json

Half of the kills come after a random time. The other half come inside a system call that the run makes on its
folder: in the middle of writing a checkpoint, before its fsync, before its rename, after it, in the middle of a
line of metrics (``faults.c``). A killed run is resumed, and killed again, until it gets to its end.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time

CHASE = """
name: chase
threads: 1
data: {name: shapes, train_limit: 480, test_limit: 100, validation: 60, size: 16, classes: 4}
augment: {crop_padding: 2, flip: true}
model: {name: vgg_small, width: 0.125}
optimizer: {name: sgd, lr: 0.05}
train: {epochs: 3, batch_size: 20, eval_batch_size: 100, log_every: 1, checkpoint_every: 3, select: best_val}
throughput: {enabled: false}
sparsity: {method: chase, density: 0.2, update_every: 4, channel_sparsity: 0.5, channel_until: 0.6, hard_phase: 0.3}
"""

RIGL = """
name: rigl
threads: 1
data: {name: shapes, train_limit: 640, test_limit: 100, size: 16, classes: 4}
model: {name: lenet_bn}
optimizer: {name: adamw, lr: 0.003, max_grad_norm: 1.0}
lr: {warmup_epochs: 1}
train: {epochs: 3, batch_size: 10, accumulate: 2, eval_batch_size: 100, log_every: 1, checkpoint_every: 5, baseline: true}
throughput: {enabled: false}
sparsity: {method: rigl, density: 0.1, update_every: 5, grow_state: mean_active}
"""

RUNS = {"chase": CHASE, "rigl": RIGL}
CALLS = ("write", "patch", "sync", "rename", "folder", "metrics", "truncate")
TIMEOUT = 120


@dataclasses.dataclass
class Program:
    """The command and the shim of one build."""

    build: pathlib.Path
    environment: dict = dataclasses.field(default_factory=dict)

    def start(self, *arguments, faults: dict | None = None, **options) -> subprocess.Popen:
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", **self.environment}
        environment.pop("GLYPTIC_DATA", None)
        if faults is not None:
            environment.update({f"FAULTS_{key.upper()}": str(value) for key, value in faults.items()})
            environment["LD_PRELOAD"] = str(self.build / "lib" / "libfaults.so")
        return subprocess.Popen(
            [str(self.build / "bin" / "glyptic"), *map(str, arguments)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
        )  # fmt: skip

    def run(self, *arguments, **options) -> subprocess.CompletedProcess:
        process = self.start(*arguments, **options)
        out, error = process.communicate(timeout=TIMEOUT)
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def tensors(path: pathlib.Path) -> dict:
    """Names to shapes and bytes, without what the clock decides: the seconds at the end of `progress`, and the checksum."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    result = {}
    for name, info in header.items():
        if name == "__metadata__":
            result[name] = {key: value for key, value in info.items() if key != "glyptic.crc32"}
            continue
        begin, end = (8 + length + offset for offset in info["data_offsets"])
        result[name] = (info["dtype"], info["shape"], data[begin : end - 8 if name == "progress" else end])
    return result


def results(path: pathlib.Path) -> dict:
    content = json.loads(path.read_text())
    for row in content["rows"]:
        row.pop("training_seconds")
    return content


def differences(whole: pathlib.Path, broken: pathlib.Path) -> list[str]:
    """What is not the same in two run folders; log.txt has times and may differ."""

    def listing(folder):
        return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())

    names = listing(whole)
    found = [f"other files: {set(names) ^ set(listing(broken))}"] if names != listing(broken) else []
    for name in names:
        a, b = whole / name, broken / name
        if not b.exists() or name == "log.txt":
            continue
        if name.endswith(".safetensors"):
            x, y = tensors(a), tensors(b)
            found += [f"{name}: {key}" for key in sorted(x.keys() | y.keys()) if x.get(key) != y.get(key)]
        elif name == "results.json":
            found += [name] if results(a) != results(b) else []
        elif a.read_bytes() != b.read_bytes():
            found.append(name)
    return found


@dataclasses.dataclass
class Unbroken:
    """A run without a fault, what it took, and how often it made each system call on its folder."""

    config: pathlib.Path
    folder: pathlib.Path
    seconds: float
    calls: collections.Counter

    @staticmethod
    def make(program: Program, name: str, work: pathlib.Path) -> Unbroken:
        work.mkdir(parents=True, exist_ok=True)
        config = work / f"{name}.yaml"
        config.write_text(RUNS[name])
        folder, log = work / f"{name}-unbroken", work / f"{name}.calls"
        begin = time.monotonic()
        done = program.run("run", config, "--out", folder, faults={"folder": folder, "log": log})
        seconds = time.monotonic() - begin
        assert done.returncode == 0, done.stderr
        calls = collections.Counter(line.split(" ", 1)[0] for line in log.read_text().splitlines())
        return Unbroken(config, folder, seconds, calls)


def soak(program: Program, unbroken: Unbroken, kills: int, rng: random.Random, work: pathlib.Path) -> dict:
    """Delivers `kills` SIGKILLs over as many lives as that takes. AssertionError at the first difference."""
    met: collections.Counter = collections.Counter()
    temporaries = lives = 0
    wanted = [None, *(call for call in CALLS if call != "truncate" and unbroken.calls[call] > 0)]
    while met.total() < kills:
        lives += 1
        folder = work / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        while True:
            begun = (folder / "config.yaml").exists()
            computed = (folder / "metrics.jsonl").exists() or (folder / "checkpoints" / "last.safetensors").exists()
            command = ["resume", folder] if begun and computed else ["run", unbroken.config, "--out", folder]
            # Alternately at a time and in a call, the calls in turn so that none is left out.
            call = None
            if met.total() % 2 == 1 and met.total() < kills:
                call = wanted[1 + (met.total() // 2) % (len(wanted) - 1)]
            faults = {"folder": folder}
            if call:
                # A resumed run makes fewer: the later ones are drawn as seldom as it lives long.
                faults["kill"] = f"{call}:{rng.randint(1, max(1, unbroken.calls[call] * 2 // 3))}"
            process = program.start(*command, faults=faults)
            if call is None and met.total() < kills:
                try:
                    process.wait(rng.uniform(0.0, unbroken.seconds))
                except subprocess.TimeoutExpired:
                    process.kill()
            _, error = process.communicate(timeout=TIMEOUT)
            if process.returncode == -signal.SIGKILL:
                met[call or "any time"] += 1
                temporaries += any(folder.rglob(".glyptic-*.tmp"))
                continue
            assert process.returncode == 0, f"{command}: {error}"
            break
        found = differences(unbroken.folder, folder)
        assert not found, f"after {met}: {found[:5]}"
    return {"kills": met.total(), "lives": lives, "met": dict(sorted(met.items())), "left a temporary": temporaries}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="in all, half of them to each run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    program = Program(pathlib.Path(os.environ.get("GLYPTIC_BUILD", "build/release")).resolve())
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        for index, name in enumerate(RUNS):
            unbroken = Unbroken.make(program, name, work)
            kills = arguments.kills * (index + 1) // len(RUNS) - arguments.kills * index // len(RUNS)
            begin = time.monotonic()
            figures[name] = {
                "unbroken run, s": round(unbroken.seconds, 2),
                **soak(program, unbroken, kills, random.Random(f"{arguments.seed}/{name}"), work),
                "seconds": round(time.monotonic() - begin),
                "differences": 0,
            }
            print(name, json.dumps(figures[name]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
