"""Our operators beside what a PyTorch user would write, in one process, on the weights of ResNet-50.

Every contender is run in turn, round after round, so that a disturbance of the machine hits all alike; the table
gives medians and ratios. `--json FILE` keeps the raw times with hardware, threads, versions and commit.

    python benchmarks/peers/kernels.py --threads 2 --json kernels.json
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def resnet50_shapes() -> list[tuple[int, ...]]:
    """Weights of the convolutions and of the classifier: 54 tensors, 25.5 M weights."""
    shapes, width_in = [(64, 3, 7, 7)], 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            shapes += [(width, width_in, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                shapes.append((4 * width, width_in, 1, 1))
            width_in = 4 * width
    return shapes + [(1000, 2048)]


def cpu_name() -> str:
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> str:
    run = lambda *words: subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return run("git", "rev-parse", "--short", "HEAD") + ("+changes" if run("git", "status", "--porcelain", "-uno") else "")


def interleave(contenders: dict, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each contender; all are called once to warm up, then once a round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    for _ in range(rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def optimizer_steps(torch, ops, weights, grads, density):
    """SGD with momentum 0.9 and weight decay, weight and momentum masked after the step."""
    masks = [torch.rand(w.shape) < density for w in weights]

    def masked_weights():
        copies = [w.clone() for w in weights]
        ops.mask_apply_(copies, masks)
        return copies

    def parameters():
        copies = [w.requires_grad_() for w in masked_weights()]
        for p, g in zip(copies, grads):
            p.grad = g
        return copies

    def torch_step(**how):
        params = parameters()
        optimizer = torch.optim.SGD(params, lr=1e-4, momentum=0.9, weight_decay=1e-4, **how)
        optimizer.step()
        momenta = [optimizer.state[p]["momentum_buffer"] for p in params]
        float_masks = [m.float() for m in masks]  # made once, as a user would

        def call():
            optimizer.step()
            with torch.no_grad():
                torch._foreach_mul_(params, float_masks)
                torch._foreach_mul_(momenta, float_masks)

        return call

    def glyptic_step(**how):
        ours = masked_weights()
        momenta = [torch.zeros_like(w) for w in weights]
        return lambda: ops.masked_sgd_(ours, grads, momenta, masks, lr=1e-4, momentum=0.9, weight_decay=1e-4, **how)

    return {
        "glyptic masked_sgd_, off_mask_is_zero": glyptic_step(off_mask_is_zero=True),
        "glyptic masked_sgd_": glyptic_step(),
        "torch foreach SGD + 2 mask products": torch_step(foreach=True),
        "torch fused SGD + 2 mask products": torch_step(fused=True),
    }


def selections(torch, np, ops, grads):
    """The 10 % largest magnitudes over all tensors together."""
    flat = torch.cat([g.flatten() for g in grads]).abs_()
    array = flat.numpy()
    k = flat.numel() // 10
    return {
        "glyptic topk_masks (to a mask)": lambda: ops.topk_masks(grads, [], [], [], [k], across_tensors=True),
        "torch.topk (values, indices)": lambda: torch.topk(flat, k, sorted=False),
        "torch.kthvalue (threshold only)": lambda: torch.kthvalue(flat, flat.numel() - k + 1),
        "torch.sort": lambda: torch.sort(flat, descending=True),
        "numpy.partition (threshold only)": lambda: np.partition(array, array.size - k),
    }


def rigl_updates(torch, ops, weights, grads, masks):
    """One event: keep 70 % of the active weights of each layer, grow as many by |gradient|, clear what is new."""
    active = [int(m.sum()) for m in masks]
    grow = [int(0.3 * a) for a in active]
    keep = [a - g for a, g in zip(active, grow)]

    def state():
        return [w.clone() for w in weights], [torch.ones_like(w) for w in weights], [m.clone() for m in masks]

    w1, v1, m1 = state()
    counts = [1] * len(w1)

    def glyptic_update():
        kept = ops.topk_masks(w1, [], m1, [], keep)
        kept_and_grown = ops.topk_masks(grads, [], [], kept, grow, merge_excluded=True)
        ops.mask_update_(w1, m1, v1, counts, kept_and_grown)

    w2, v2, m2 = state()

    def torch_update():
        for w, v, m, g, n_keep, n_grow in zip(w2, v2, m2, grads, keep, grow):
            scores = torch.where(m, w.abs(), -1.0).flatten()
            new = torch.zeros_like(m).flatten()
            new[torch.topk(scores, n_keep, sorted=False).indices] = True
            scores = torch.where(new, -1.0, g.abs().flatten())
            new[torch.topk(scores, n_grow, sorted=False).indices] = True
            new = new.view_as(m)
            stays = new & m
            w.mul_(stays)
            v.mul_(stays)
            m.copy_(new)

    return {"glyptic topk_masks x 2 + mask_update_": glyptic_update, "torch.topk per layer": torch_update}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--library", default=str(ROOT / "build/release/lib/libglyptic.so"))
    parser.add_argument("--json", type=pathlib.Path, help="write the raw times here")
    args = parser.parse_args()
    if args.rounds < 1 or args.threads < 1:
        parser.error("--rounds and --threads must be 1 or more")
    if not pathlib.Path(args.library).exists():
        parser.error(f"{args.library} does not exist; build the library, or name it with --library")

    import numpy as np
    import torch

    torch.ops.load_library(args.library)
    ops = torch.ops.glyptic
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    shapes = resnet50_shapes()
    weights = [0.05 * torch.randn(s) for s in shapes]
    grads = [0.01 * torch.randn(s) for s in shapes]
    masks = [torch.rand(s) < 0.1 for s in shapes]
    ops.mask_apply_(weights, masks)
    size = sum(w.numel() for w in weights)

    source = torch.randn(size)
    target = torch.empty_like(source)
    sections = {
        "plain copy (the floor's measure)": (lambda: {"torch copy_": lambda: target.copy_(source)}, args.rounds),
        "masked SGD step, density 0.1": (lambda: optimizer_steps(torch, ops, weights, grads, 0.1), args.rounds),
        "masked SGD step, density 0.02": (lambda: optimizer_steps(torch, ops, weights, grads, 0.02), args.rounds),
        "global selection, k = 10 %": (lambda: selections(torch, np, ops, grads), max(3, args.rounds // 3)),
        "RigL update, 90 % sparse, per layer": (
            lambda: rigl_updates(torch, ops, weights, grads, masks),
            max(3, args.rounds // 3),
        ),
    }
    record = {
        "cpu": cpu_name(),
        "threads": args.threads,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "commit": commit(),
        "weights": size,
        "tensors": len(weights),
        "load_before": os.getloadavg(),
        "milliseconds": {},
    }
    print(f"{record['cpu']}, {args.threads} threads, torch {torch.__version__}, numpy {np.__version__}, "
          f"commit {record['commit']}; {size / 1e6:.1f} M float32 weights in {len(weights)} tensors")
    for title, (make, rounds) in sections.items():
        times = interleave(make(), rounds)
        record["milliseconds"][title] = times
        base = statistics.median(next(iter(times.values())))
        print(f"\n{title:<42} {'median ms':>10} {'best ms':>10} {'ratio':>7}")
        for name, values in times.items():
            median = statistics.median(values)
            print(f"  {name:<40} {median:>10.1f} {min(values):>10.1f} {median / base:>6.1f}x")
    record["load_after"] = os.getloadavg()
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
