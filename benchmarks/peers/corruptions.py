"""Corruptions: Glyptic beside imagecorruptions, on 32 x 32 images.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install -r benchmarks/peers/corruptions-requirements.txt
    GLYPTIC_DATA=... python benchmarks/peers/corruptions.py --peer-python /tmp/peer/bin/python --json out.json

Every round corrupts the same 1,000 images under all nineteen corruptions at all five severities; the medians of the
rounds are reported, raw times are in the JSON file. The peer works on one image at a time in one thread and has no
batch call, so it gets fewer images (--peer-images) of the same set in a process of its own, and microseconds per
image are compared: Glyptic's with --threads threads, as a user would call both, and with one.

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


def time_peer(count: int) -> dict[str, float]:
    """Seconds per image and severity, of one thread."""
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
        start = time.perf_counter()
        for severity in range(1, 6):
            for image in batch:
                imagecorruptions.corrupt(image, corruption_name=name, severity=severity)
        result[name] = (time.perf_counter() - start) / (5 * count)
    return result


def time_glyptic(count: int, rounds: int, threads: int, table: int) -> dict[str, list[float]]:
    """Seconds of each round for `count` images at five severities."""
    import glyptic
    import torch

    batch = torch.from_numpy(images(count)).permute(0, 3, 1, 2).contiguous()
    names = glyptic.data.corruption_names()
    glyptic.data.corrupt(batch[:8], names[0], 1)
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            start = time.perf_counter()
            for severity in range(1, 6):
                glyptic.data.corrupt(batch, name, severity, seed=1, table=table, threads=threads)
            times[name].append(time.perf_counter() - start)
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
    same_table = time_glyptic(args.count, args.rounds, args.threads, 224)
    single = time_glyptic(args.count, args.rounds, 1, 224)
    totals = [sum(own[name][r] for name in own) for r in range(args.rounds)]
    peer = None
    if args.peer_python:
        command = [args.peer_python, __file__, "--as-peer", "--peer-images", str(args.peer_images)]
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        peer = json.loads(answer.stdout.strip().splitlines()[-1])

    per_image = lambda times: {n: statistics.median(t) / (5 * args.count) for n, t in times.items()}
    fast, beside, one = per_image(own), per_image(same_table), per_image(single)
    print(f"{args.count} images x 19 x 5 on {args.threads} threads: median {statistics.median(totals):.2f} s of {args.rounds} rounds")
    print(f"\n{'us per image':20s} {'glyptic':>9s} {'table 224':>10s} {'1 thread':>9s}" + (f" {'peer':>9s} {'ratio':>7s} {'1 thread':>9s}" if peer else ""))
    for name in fast:
        line = f"{name:20s} {fast[name] * 1e6:9.1f} {beside[name] * 1e6:10.1f} {one[name] * 1e6:9.1f}"
        if peer:
            line += f" {peer[name] * 1e6:9.1f} {peer[name] / beside[name]:7.1f} {peer[name] / one[name]:9.1f}"
        print(line)
    if peer:
        whole = sum(peer.values())
        print(f"{'all':20s} {sum(fast.values()) * 1e6:9.1f} {sum(beside.values()) * 1e6:10.1f} {sum(one.values()) * 1e6:9.1f} "
              f"{whole * 1e6:9.1f} {whole / sum(beside.values()):7.1f} {whole / sum(one.values()):9.1f}")  # fmt: skip
    if args.json:
        commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        report = {
            "images": args.count,
            "size": [3, 32, 32],
            "threads": args.threads,
            "torch": torch.__version__,
            "commit": commit.stdout.strip(),
            "load_before": load,
            "seconds_all": {"median": statistics.median(totals), "rounds": totals},
            "seconds": {"own table": own, "table 224": same_table, "table 224, one thread": single},
            "microseconds_per_image": {"glyptic": {n: t * 1e6 for n, t in fast.items()}},
        }
        if peer:
            report["peer"] = {
                "name": "imagecorruptions 1.1.2",
                "images": args.peer_images,
                "microseconds_per_image": {n: t * 1e6 for n, t in peer.items()},
                "ratio": {n: peer[n] / beside[n] for n in peer},
                "ratio_one_thread": {n: peer[n] / one[n] for n in peer},
                "ratio_all": sum(peer.values()) / sum(beside.values()),
                "ratio_all_one_thread": sum(peer.values()) / sum(one.values()),
            }
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
