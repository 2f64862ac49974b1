"""What SAM costs besides its two passes: norm, ascent, restore and step, beside the implementations people use.

    python benchmarks/peers/sharpness.py --threads 2 --json sharpness.json

Gradients are in place and do not change, so that the optimizer's own work is all that is timed. Contenders are run in turn,
round after round; the table gives medians and ratios. The floor is 40 bytes per parameter (norm: read g; ascent: read g and w,
write w and the copy; restore and step: read copy, g and momentum, write w and momentum) over the measured bandwidth of a
copy. `pytorch_optimizer`, where it is installed (benchmarks/peers/sharpness-requirements.txt), is timed too.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys

from kernels import commit, cpu_name, interleave


def resnet18_shapes() -> list[tuple[int, ...]]:
    """All 62 parameters of ResNet-18 with a CIFAR stem: 11.2 M weights."""
    shapes: list[tuple[int, ...]] = [(64, 3, 3, 3), (64,), (64,)]
    width_in = 64
    for stage in range(4):
        width = 64 << stage
        for block in range(2):
            shapes += [(width, width_in, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            if block == 0 and stage > 0:
                shapes += [(width, width_in, 1, 1), (width,), (width,)]
            width_in = width
    return [*shapes, (10, 512), (10,)]


def mlp_shapes() -> list[tuple[int, ...]]:
    """784-256-256-10: 0.27 M weights."""
    return [(256, 784), (256,), (256, 256), (256,), (10, 256), (10,)]


class TensorByTensor:
    """SAM as its most used torch implementation has it: a norm per tensor, stacked; a new copy and a new perturbation for
    each; the copy takes the place of the storage."""

    def __init__(self, torch, params, base, rho):
        self.torch, self.params, self.base, self.rho, self.saved = torch, params, base, rho, {}

    def step(self):
        torch = self.torch
        with torch.no_grad():
            norm = torch.norm(torch.stack([p.grad.norm(p=2) for p in self.params]), p=2)
            scale = self.rho / (norm + 1e-12)
            for p in self.params:
                self.saved[p] = p.data.clone()
                p.add_(p.grad * scale)
            for p in self.params:
                p.data = self.saved[p]
            self.base.step()


def contenders(torch, glyptic, shapes, rounds):
    options = {"lr": 1e-6, "momentum": 0.9, "weight_decay": 5e-4}

    def parameters():
        params = [torch.nn.Parameter(torch.randn(s)) for s in shapes]
        for p in params:
            p.grad = torch.randn_like(p)
        return params

    result = {}

    def halves(optimizer):
        def call():
            optimizer.first_step()
            optimizer.second_step()

        return call

    p = parameters()
    result["fused SGD step alone"] = torch.optim.SGD(p, fused=True, **options).step
    p = parameters()
    result["SAM, ours on glyptic.optim.SGD"] = halves(glyptic.sharpness.SAM(p, glyptic.optim.SGD(p, **options), rho=0.05))
    p = parameters()
    result["SAM, ours on torch's fused SGD"] = halves(
        glyptic.sharpness.SAM(p, torch.optim.SGD(p, fused=True, **options), rho=0.05)
    )
    p = parameters()
    result["SAM, tensor by tensor on torch's fused SGD"] = TensorByTensor(
        torch, p, torch.optim.SGD(p, fused=True, **options), 0.05
    ).step
    p = parameters()
    friendly = glyptic.sharpness.FriendlySAM(p, glyptic.optim.SGD(p, **options), rho=0.05)
    result["F-SAM, ours on glyptic.optim.SGD"] = halves(friendly)
    try:
        from pytorch_optimizer import SAM as TheirSAM
    except ImportError:
        print("pytorch_optimizer is not installed and left out", file=sys.stderr)
    else:
        p = parameters()
        theirs = TheirSAM(p, torch.optim.SGD, rho=0.05, fused=True, **options)
        result["SAM, pytorch_optimizer on torch's fused SGD"] = halves(theirs)
    count = sum(torch.Size(s).numel() for s in shapes)
    a, b = torch.randn(max(count, 25_000_000)), torch.empty(max(count, 25_000_000))
    result["copy"] = lambda: b.copy_(a)
    times = interleave(result, rounds)
    copy = statistics.median(times.pop("copy"))
    bandwidth = 8 * a.numel() / copy * 1e3  # bytes per second, read and written
    return times, count, bandwidth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    import glyptic
    import torch

    torch.set_num_threads(arguments.threads)
    record: dict = {
        "processor": cpu_name(), "threads": arguments.threads, "torch": torch.__version__, "commit": commit(),
        "rounds": arguments.rounds, "tables": {},
    }  # fmt: skip
    for name, shapes in (("ResNet-18, 62 tensors", resnet18_shapes()), ("MLP, 6 tensors", mlp_shapes())):
        times, count, bandwidth = contenders(torch, glyptic, shapes, arguments.rounds)
        floor = 40 * count / bandwidth * 1e3
        print(f"\n{name}: {count / 1e6:.2f} M parameters; copy {bandwidth / 1e9:.1f} GB/s, floor {floor:.3f} ms\n")
        ours = statistics.median(times["SAM, ours on glyptic.optim.SGD"])
        print("| | median ms | of the floor | of ours |\n|---|---|---|---|")
        for label, values in times.items():
            m = statistics.median(values)
            print(f"| {label} | {m:.3f} | {m / floor:.2f} | {m / ours:.2f} |")
        record["tables"][name] = {"parameters": count, "bandwidth": bandwidth, "floor_ms": floor, "ms": times}
    if arguments.json:
        arguments.json.write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
