"""M-SAM on two views of handwritten digits: joint training, SAM, M-SAM, five paired seeds, and what a step costs.

    python benchmarks/experiments/uci_multifeature.py --data FOLDER_OF_UCI_MULTIFEATURE --json FILE

Late fusion of two of the six feature sets: encoders Linear(d,48)-ReLU-Linear(48,48)-ReLU, concatenated, Linear(96,10); 200
training and 1,800 test samples, standardised with the training samples' statistics; SGD momentum 0.9, lr 0.05 (cosine),
weight decay 1e-4, batch 50, 40 epochs. A seed fixes split, weights and batches for every method. Reference: an independent
program written for the specification; means are comparable, single seeds are not. Unimodal accuracies are those of the
Shapley logits, masked inputs being zero.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import os
import pathlib
import platform
import statistics
import sys
import time

import torch
from glyptic.multimodal import LateFusion, ModalityAwareSAM, mono_modal_logits
from glyptic.sharpness import SAM
from torch import nn
from torch.nn.functional import cross_entropy

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAIRS = (("pix", "zer"), ("kar", "fou"))
METHODS = (("joint", 0.0), ("sam", 0.1), ("sam", 0.5), ("msam", 0.1), ("msam", 0.5), ("msam true_prob", 0.5))
# accuracy, its spread, accuracy of view 1 and 2, mean nu of the dominant view, share of batches that view 1 dominates
REFERENCE = {
    ("pix", "zer", "joint", 0.0): (93.3, 0.7, 85.3, 31.2, None, None),
    ("pix", "zer", "sam", 0.1): (93.9, 0.6, 85.2, 33.1, None, None),
    ("pix", "zer", "sam", 0.5): (94.2, 0.6, 81.2, 55.7, None, None),
    ("pix", "zer", "msam", 0.1): (93.7, 0.6, 85.4, 32.1, 0.77, 0.98),
    ("pix", "zer", "msam", 0.5): (94.5, 0.8, 81.9, 43.7, 0.69, 0.97),
    ("kar", "fou", "joint", 0.0): (92.2, 2.1, 62.7, 52.5, None, None),
    ("kar", "fou", "sam", 0.5): (93.0, 1.8, 70.4, 55.6, None, None),
    ("kar", "fou", "msam", 0.5): (93.0, 1.7, 67.5, 54.8, 0.57, 0.77),
    ("kar", "fou", "msam true_prob", 0.5): (93.0, 1.8, 66.7, 54.8, 0.54, 0.59),
}
TRAIN, BATCH, EPOCHS = 200, 50, 40


@functools.cache
def load(folder: pathlib.Path, view: str) -> tuple[torch.Tensor, torch.Tensor]:
    with open(folder / f"mfeat-{view}.csv", newline="") as file:
        rows = [[float(v) for v in row] for row in list(csv.reader(file))[1:]]
    table = torch.tensor(rows, dtype=torch.float64)
    return table[:, :-1], table[:, -1].long()


def split(folder: pathlib.Path, pair: tuple[str, str], seed: int) -> tuple:
    """Training and test batches as dicts of standardised views."""
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(seed))
    train, test = order[:TRAIN], order[TRAIN:]
    views, labels = {}, None
    for name in pair:
        x, y = load(folder, name)
        if labels is not None and not torch.equal(labels, y):
            raise ValueError("the views' labels differ")
        labels = y
        mean, std = x[train].mean(0), x[train].std(0)
        views[name] = ((x - mean) / torch.where(std > 0, std, 1.0)).float()
    assert labels is not None
    part = lambda rows: ({n: x[rows] for n, x in views.items()}, labels[rows])
    return part(train), part(test)


def network(widths: dict[str, int]) -> LateFusion:
    encoder = lambda d: nn.Sequential(nn.Linear(d, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
    return LateFusion({n: encoder(d) for n, d in widths.items()}, dict.fromkeys(widths, 48), 10)


def optimizer_of(model: nn.Module, method: str, rho: float, mode: str = "eval"):
    rates = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
    if method == "joint":
        return torch.optim.SGD(model.parameters(), **rates)
    if method == "sam":
        return SAM(model.parameters(), torch.optim.SGD, rho=rho, model=model, **rates)
    value = "true_prob" if method.endswith("true_prob") else "accuracy"
    return ModalityAwareSAM(
        model.parameters(), torch.optim.SGD, rho=rho, model=model, value=value, shapley_mode=mode, **rates
    )


def take_step(optimizer, model: nn.Module, x: dict[str, torch.Tensor], y: torch.Tensor):
    if isinstance(optimizer, ModalityAwareSAM):
        return optimizer.step(model, x, y, cross_entropy)
    if isinstance(optimizer, SAM):
        optimizer.step(lambda: cross_entropy(model(x), y))
    else:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    return None


def run(folder: pathlib.Path, pair: tuple[str, str], method: str, rho: float, seed: int) -> dict:
    (x, y), (x_test, y_test) = split(folder, pair, seed)
    torch.manual_seed(seed)
    model = network({n: v.shape[1] for n, v in x.items()})
    optimizer = optimizer_of(model, method, rho)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * (TRAIN // BATCH))
    shuffle = torch.Generator().manual_seed(seed)
    nu, first = [], []
    began = time.perf_counter()
    for _ in range(EPOCHS):
        for rows in torch.randperm(TRAIN, generator=shuffle).split(BATCH):
            stats = take_step(optimizer, model, {n: v[rows] for n, v in x.items()}, y[rows])
            scheduler.step()
            if stats is not None:
                nu.append(stats.nu[stats.dominant])
                first.append(stats.dominant == pair[0])
    seconds = time.perf_counter() - began
    model.eval()
    percent = lambda logits: 100 * (logits.argmax(1) == y_test).double().mean().item()
    with torch.no_grad():
        parts = mono_modal_logits(model, x_test)
        result = {"seed": seed, "accuracy": percent(model(x_test)), "seconds": seconds}
        result |= {"view_1": percent(parts[pair[0]]), "view_2": percent(parts[pair[1]])}
    if nu:
        result |= {"nu": statistics.mean(nu), "nu_min": min(nu), "nu_max": max(nu), "first": statistics.mean(first)}
    return result


class Convolutional(nn.Sequential):
    """An image encoder of the size that late fusion is used with: 3 convolutions, 32 x 32 images."""

    def __init__(self, channels: int) -> None:
        layers: list[nn.Module] = []
        for a, b in ((channels, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(64 * 16, 64))


def time_steps(which: str, rounds: int) -> dict:
    """Processor time of a step in milliseconds, the methods taking turns step by step; the median over rounds."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 10, (64,), generator=g)
    if which == "conv":
        x = {"audio": torch.randn(64, 1, 32, 32, generator=g), "image": torch.randn(64, 3, 32, 32, generator=g)}
        make = lambda: LateFusion({"audio": Convolutional(1), "image": Convolutional(3)}, {"audio": 64, "image": 64}, 10)
    else:
        x, y = {"pix": torch.randn(50, 240, generator=g), "zer": torch.randn(50, 47, generator=g)}, y[:50]
        make = lambda: network({"pix": 240, "zer": 47})
    rows = {"joint": ("joint", ""), "sam": ("sam", "")} | {f"msam {m}": ("msam", m) for m in ("eval", "agm", "cached")}
    ready = {}
    for label, (method, mode) in rows.items():
        torch.manual_seed(0)
        model = make()
        ready[label] = (optimizer_of(model, method, 0.1, mode), model)
    times: dict[str, list[float]] = {label: [] for label in rows}
    order = list(ready)
    for k in range(rounds + 3):
        order.append(order.pop(0))  # nobody always follows the same one
        for label in order:
            optimizer, model = ready[label]
            began = time.process_time()
            take_step(optimizer, model, x, y)
            if k >= 3:
                times[label].append(1000 * (time.process_time() - began))
    sam = times["sam"]
    return {
        label: {
            "median_ms": statistics.median(t),
            "over_sam": statistics.median(a / b for a, b in zip(t, sam, strict=True)),
        }
        for label, t in times.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = pathlib.Path(os.environ.get("GLYPTIC_DATA", ROOT / "../shared/data")) / "uci-multifeature"
    parser.add_argument("--data", type=pathlib.Path, default=default, help="folder of mfeat-*.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--rounds", type=int, default=60, help="steps per method that are timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="write all numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    table = []
    for pair in PAIRS:
        for method, rho in METHODS:
            runs = [run(arguments.data, pair, method, rho, seed) for seed in arguments.seeds]
            table.append({"views": list(pair), "method": method, "rho": rho, "runs": runs})
            print(f"  {'+'.join(pair)} {method} {rho:g}: {[round(r['accuracy'], 1) for r in runs]}", file=sys.stderr, flush=True)

    mean = lambda t, key: statistics.mean(r[key] for r in t["runs"])
    print("| views | method | rho | accuracy % (sd) | reference | view 1 | reference | view 2 | reference | nu | reference | "
          "view 1 dominates | reference |\n|" + "---|" * 13)  # fmt: skip
    found = {}
    for t in table:
        key = (*t["views"], t["method"], t["rho"])
        found[key] = t
        r = REFERENCE.get(key, (None,) * 6)
        show = lambda v, f="{:.1f}": "n/a" if v is None else f.format(v)
        spread = statistics.stdev(x["accuracy"] for x in t["runs"]) if len(t["runs"]) > 1 else 0.0
        has = "nu" in t["runs"][0]
        cells = ["+".join(t["views"]), t["method"], f"{t['rho']:g}", f"{mean(t, 'accuracy'):.1f} ({spread:.1f})"]
        cells += [f"{show(r[0])} ({show(r[1])})", show(mean(t, "view_1")), show(r[2]), show(mean(t, "view_2")), show(r[3])]
        cells += [show(mean(t, "nu") if has else None, "{:.2f}"), show(r[4], "{:.2f}")]
        cells += [show(mean(t, "first") if has else None, "{:.0%}"), show(r[5], "{:.0%}")]
        print("| " + " | ".join(cells) + " |")

    checks = []
    for pair in PAIRS:
        joint, best = found[(*pair, "joint", 0.0)], found[(*pair, "msam", 0.5)]
        gains = [b["accuracy"] - a["accuracy"] for a, b in zip(joint["runs"], best["runs"], strict=True)]
        gain = statistics.mean(gains)
        checks.append((f"{'+'.join(pair)}: M-SAM(0.5) >= joint by 0.4 in the paired mean", gain, gain >= 0.4))
        views = [mean(found[(*pair, m, r)], "view_2") for m, r in (("joint", 0.0), ("msam", 0.5), ("sam", 0.5))]
        between = min(views[0], views[2]) <= views[1] <= max(views[0], views[2])
        checks.append((f"{'+'.join(pair)}: view 2 of M-SAM(0.5) lies between joint and SAM(0.5)", views, between))
    small = mean(found[("pix", "zer", "msam", 0.1)], "nu")
    checks.append(("pix+zer: mean nu is .77 +- .05 at rho .1", small, abs(small - 0.77) <= 0.05))
    shares = [mean(found[("pix", "zer", "msam", r)], "first") for r in (0.1, 0.5)]
    checks.append(("pix+zer: view 1 dominates more than 90 % of batches", shares, min(shares) > 0.9))
    span = [f(r[k] for t in table for r in t["runs"] if "nu" in r) for f, k in ((min, "nu_min"), (max, "nu_max"))]
    checks.append(("nu lies in [1/2, 1]", span, span[0] >= 0.5 and span[1] <= 1))

    times = {which: time_steps(which, arguments.rounds * (10 if which == "uci" else 1)) for which in ("uci", "conv")}
    print("\n| network | method | ms of processor time per step (median) | over SAM |\n|---|---|---|---|")
    for which, rows in times.items():
        for label, t in rows.items():
            print(f"| {which} | {label} | {t['median_ms']:.2f} | {t['over_sam']:.3f} |")
    ratio = times["conv"]["msam cached"]["over_sam"]
    checks.append(("convolutional encoders: M-SAM cached within 5 % of SAM", ratio, ratio <= 1.05))

    print()
    for label, value, holds in checks:
        print(f"- {'holds' if holds else 'FAILS'}: {label} (is {value})")
    if arguments.json:
        record = {
            "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                        "threads": arguments.threads, "torch": torch.__version__},
            "runs": table, "times": times,
            "checks": [{"check": c, "value": v, "holds": h} for c, v, h in checks],
        }  # fmt: skip
        pathlib.Path(arguments.json).write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(h for _, _, h in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
