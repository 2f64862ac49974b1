"""Corruptions: Glyptic beside imagecorruptions, on 32 x 32 images.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install -r benchmarks/peers/corruptions-requirements.txt
    GLYPTIC_DATA=... python benchmarks/peers/corruptions.py --peer-python /tmp/peer/bin/python --json out.json

Every round corrupts the same 1,000 images under all nineteen corruptions at all five severities; the medians of the
rounds are reported, raw times are in the JSON file. The peer works on one image at a time and has no batch call, so
it gets fewer images (--peer-images) of the same set in a process of its own. Both are compared by time of the processor,
all threads together, which other programs on the machine do not lengthen, and by the clock.

imagecorruptions has one table, that of 224 pixels, and its own way with frost, fog, elastic_transform and pixelate;
Glyptic is timed on the same table beside it (`table=224`), and on CIFAR-10-C's for the headline.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]


def images(count: int) -> np.ndarray:
    """Smooth pictures with edges and grain, uint8 [N, 32, 32, 3]: what a corruption costs hardly depends on them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] / 32
    a, b, p, q = rng.uniform(2, 9, (4, count, 1, 1, 3))
    wave = 110 + 70 * np.sin(a * x[..., None] + b * y[..., None] + p)
    disc = 40 * (np.hypot(x - 0.4, y - 0.3)[..., None] < q / 20)
    return np.clip(wave + disc + rng.normal(0, 6, wave.shape), 0, 255).astype(np.uint8)


def time_peer(count: int) -> dict[str, tuple[float, float]]:
    """Seconds per image and severity: by the clock, and of the processor."""
    import warnings

    warnings.filterwarnings("ignore")
    import imagecorruptions
    from imagecorruptions import corruptions as inner

    # Its call of scikit-image has a keyword that went away; the same blur by today's name.
    gaussian = inner.gaussian

    def renamed(image, *args, multichannel=False, **kwargs):
        return gaussian(image, *args, channel_axis=-1 if multichannel else None, **kwargs)

    inner.gaussian = renamed
    batch = images(count)
    result = {}
    for name in imagecorruptions.get_corruption_names("all"):
        imagecorruptions.corrupt(batch[0], corruption_name=name, severity=1)  # numba compiles here
        start, begun = time.perf_counter(), time.process_time()
        for severity in range(1, 6):
            for image in batch:
                imagecorruptions.corrupt(image, corruption_name=name, severity=severity)
        result[name] = ((time.perf_counter() - start) / (5 * count), (time.process_time() - begun) / (5 * count))
    return result


def time_glyptic(count: int, rounds: int, threads: int, table: int) -> dict[str, list[tuple[float, float]]]:
    """Per round the seconds for `count` images at five severities: by the clock, and of the processor (all threads)."""
    import glyptic
    import torch

    batch = torch.from_numpy(images(count)).permute(0, 3, 1, 2).contiguous()
    names = glyptic.data.corruption_names()
    glyptic.data.corrupt(batch[:8], names[0], 1)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            start, begun = time.perf_counter(), time.process_time()
            for severity in range(1, 6):
                glyptic.data.corrupt(batch, name, severity, seed=1, table=table, threads=threads)
            times[name].append((time.perf_counter() - start, time.process_time() - begun))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-python", help="interpreter of the environment with imagecorruptions")
    parser.add_argument("--peer-images", type=int, default=40)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--as-peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_peer:
        print(json.dumps(time_peer(args.peer_images)))
        return

    import torch

    load = list(os.getloadavg())
    own = time_glyptic(args.count, args.rounds, args.threads, 0)
    beside = time_glyptic(args.count, args.rounds, args.threads, 224)
    peer = None
    if args.peer_python:
        command = [args.peer_python, __file__, "--as-peer", "--peer-images", str(args.peer_images)]
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        peer = json.loads(answer.stdout.strip().splitlines()[-1])

    def total(times: dict, which: int) -> list[float]:
        return [sum(times[name][r][which] for name in times) for r in range(args.rounds)]

    def micro(times: dict, which: int) -> dict[str, float]:
        return {n: 1e6 * statistics.median(t[which] for t in rounds) / (5 * args.count) for n, rounds in times.items()}

    wall, cpu = total(own, 0), total(own, 1)
    print(f"{args.count} images x 19 x 5, {args.threads} threads, medians of {args.rounds} rounds: "
          f"{statistics.median(wall):.2f} s by the clock, {statistics.median(cpu):.2f} s of the processor; load {load[0]:.1f}")  # fmt: skip
    columns = {"own table": micro(own, 1), "table 224": micro(beside, 1)}
    if peer:
        columns["peer"] = {n: 1e6 * t[1] for n, t in peer.items()}
        columns["ratio"] = {n: columns["peer"][n] / columns["table 224"][n] for n in peer}
        columns["by clock"] = {n: 1e6 * t[0] / micro(beside, 0)[n] for n, t in peer.items()}
    print("\nmicroseconds of the processor per image; ratio: peer / table 224, of the processor and by the clock")
    print(f"{'':20s}" + "".join(f"{c:>11s}" for c in columns))
    for name in own:
        print(f"{name:20s}" + "".join(f"{values[name]:11.1f}" for values in columns.values()))
    ratio_all = None
    if peer:
        ratio_all = {
            "processor": sum(columns["peer"].values()) / sum(columns["table 224"].values()),
            "clock": sum(1e6 * t[0] for t in peer.values()) / sum(micro(beside, 0).values()),
        }
        print(f"all: {ratio_all['processor']:.1f} of the processor, {ratio_all['clock']:.1f} by the clock")
    if args.json:
        commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        report = {
            "images": args.count,
            "size": [3, 32, 32],
            "threads": args.threads,
            "torch": torch.__version__,
            "commit": commit.stdout.strip(),
            "load_before": load,
            "seconds_all": {
                "clock": {"median": statistics.median(wall), "rounds": wall},
                "processor": {"median": statistics.median(cpu), "rounds": cpu},
            },
            "processor_microseconds_per_image": columns,
            "seconds": {"own table": own, "table 224": beside},
        }
        if peer:
            report["peer"] = {"name": "imagecorruptions 1.1.2", "images": args.peer_images, "seconds_per_image": peer}
            report["ratio_all"] = ratio_all
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
