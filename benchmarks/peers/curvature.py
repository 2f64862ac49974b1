"""The largest Hessian eigenvalue: Lanczos beside power iteration as PyHessian does it, written plainly in torch.

Power iteration: v normal, normalised; repeat H v by two backward passes, batch by batch, weighted by size; lambda =
<v, H v>; v = H v / ||H v||. The networks are small and trained for a few epochs on the images that come with the
repository. Two counts of products, for several random starts:

    needed   until the estimate stays within a relative error of the exact value (Lanczos in float64 to a residual of
             1e-6, so an error of about 1e-12), for both the steps alone; and the seconds of that many steps
             (those of Lanczos with the product that checks the residual)
    stopped  by each one's own rule at 1e-3: Lanczos when ||H v - lambda v|| <= 1e-3 lambda, the product that checks it
             included; power iteration when two successive values differ by less than 1e-3; and the error reached

    python benchmarks/peers/curvature.py --json benchmarks/results/cpu-2core/curvature.json
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import os
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from glyptic.sharpness import diagnostics  # noqa: E402
from torch import nn  # noqa: E402

from kernels import commit, cpu_name  # noqa: E402

ERRORS = (1e-2, 1e-3, 1e-4)
POWER_LIMIT, LANCZOS_LIMIT, TOLERANCE = 80, 20, 1e-3


def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    folder = ROOT / "data" / "mnist-6k"
    raw = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
    x = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(-1, 1, 28, 28)[:count].float() / 255
    return x, torch.frombuffer(bytearray(labels), dtype=torch.uint8)[:count].long()


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    conv = nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 12, 3, stride=2), nn.BatchNorm2d(12),
        nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(108, 10),
    )  # fmt: skip
    return {"MLP 784-64-64-10": mlp, "2 convolutions with BatchNorm": conv}


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(5):
        for i in range(0, len(x), 50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[i : i + 50]), y[i : i + 50]).backward()
            optimizer.step()


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def power_iteration(model: nn.Module, data: list, products: int, seed: int) -> list[float]:
    """The estimate after each product."""
    torch.manual_seed(seed)
    parameters = list(model.parameters())
    v = [torch.randn_like(p) for p in parameters]
    total = sum(len(b[0]) for b in data)
    found = []
    for _ in range(products):
        length = sum((t * t).sum() for t in v).sqrt()
        v = [t / length for t in v]
        image = [torch.zeros_like(p) for p in parameters]
        for batch in data:
            grads = torch.autograd.grad(loss(model, batch), parameters, create_graph=True)
            for out, part in zip(image, torch.autograd.grad(grads, parameters, v), strict=True):
                out += part * (len(batch[0]) / total)
        found.append(sum((a * b).sum() for a, b in zip(v, image, strict=True)).item())
        v = image
    return found


def needed(history: list[float], exact: float, error: float) -> int | None:
    """The first product after which the estimate stays within the error."""
    for k in range(len(history), 0, -1):
        if abs(history[k - 1] - exact) > error * exact:
            return k + 1 if k < len(history) else None
    return 1


def stopped(history: list[float]) -> int | None:
    """Where the change of successive values stops power iteration."""
    for k in range(1, len(history)):
        if abs(history[k] - history[k - 1]) / (abs(history[k - 1]) + 1e-6) < TOLERANCE:
            return k + 1
    return None


def seconds(call, *words, **named) -> float:
    start = time.perf_counter()
    call(*words, **named)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    x, y = images(arguments.samples)
    data = [(x[:200], y[:200]), (x[200:], y[200:])]
    before, start = os.getloadavg(), time.perf_counter()
    rows = []
    for name, model in networks().items():
        train(model, x, y)
        model.eval()
        wide = [(a.double(), b) for a, b in data]
        exact = diagnostics.top_eigenvalues(copy.deepcopy(model).double(), loss, wide, tol=1e-6)
        assert exact.converged, exact.residuals
        value, seeds = exact.values[0], range(arguments.seeds)
        top = lambda **o: diagnostics.top_eigenvalues(model, loss, data, **o)  # noqa: B023
        # tol=0 keeps it going to the limit
        lanczos = [top(tol=0, max_iter=LANCZOS_LIMIT, seed=s).history for s in seeds]
        power = [power_iteration(model, data, POWER_LIMIT, s) for s in seeds]
        row = {
            "network": name, "parameters": sum(p.numel() for p in model.parameters()), "eigenvalue": value, "needed": [],
        }  # fmt: skip
        for error in ERRORS:
            counts = {"lanczos": [needed(h, value, error) for h in lanczos], "power": [needed(h, value, error) for h in power]}
            middle = {k: statistics.median_low([POWER_LIMIT if n is None else n for n in c]) for k, c in counts.items()}
            took = {
                "lanczos": seconds(top, tol=0, max_iter=middle["lanczos"]),
                "power": seconds(power_iteration, model, data, middle["power"], 0),
            }
            row["needed"].append({"relative_error": error, "products": counts, "median": middle, "seconds": took})
            print(f"{name:30} error {error:g}: products {counts}, median {middle}, seconds {took}", flush=True)
        by_rule = [top(tol=TOLERANCE, seed=s) for s in seeds]
        ends = [stopped(h) for h in power]
        row["stopped"] = {
            "lanczos": {
                "products": [r.products for r in by_rule], "relative_error": [abs(r.values[0] - value) / value for r in by_rule],
            },
            "power": {
                "products": ends,
                "relative_error": [None if k is None else abs(h[k - 1] - value) / value for h, k in zip(power, ends, strict=True)],
            },
        }  # fmt: skip
        print(f"{name:30} stopped by its own rule: {row['stopped']}", flush=True)
        rows.append(row)
    if arguments.json:
        environment = {
            "cpu": cpu_name(), "threads": arguments.threads, "torch": torch.__version__, "commit": commit(),
            "load_before": before, "samples": arguments.samples, "limits": [LANCZOS_LIMIT, POWER_LIMIT],
            "seconds": time.perf_counter() - start,
        }  # fmt: skip
        arguments.json.write_text(json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
