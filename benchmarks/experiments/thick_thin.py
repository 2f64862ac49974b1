"""Thick and thin digits: six methods on a training set of 2,000 MNIST images, nine in ten of them thick.

    python benchmarks/experiments/thick_thin.py [--data FOLDER] [--seeds 5] [--json FILE]
    python benchmarks/experiments/thick_thin.py --table FILE        the table of an earlier run

A digit is thick if its mean intensity is at least the median over the 60,000 training images of its class (`--median all`:
of all classes together, which mixes group and class), test images by the same thresholds. MLP 784-64-64-10, SGD with momentum 0.9, learning rate 0.1 to 0 by a cosine, weight decay 5e-4, batch
100, 30 epochs, pixels in [0, 1]; 10,000 test images, clean and under five corruptions. Seeds share subset, initial weights and order of
batches over methods, so that differences are paired. Nothing of the paper's (arXiv 2503.22934) was readable: `paper` is n/a,
and FairSAM is a reconstruction. `reference` is an independent program written for the specification, 2 seeds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import pathlib
import statistics
import time

import glyptic
import torch
import torch.nn.functional as F
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[2]
RHO = 0.1
EPOCHS, BATCH, SIZE, THICK = 30, 100, 2000, 0.9
CORRUPTIONS = [("gaussian_noise", 0.18), ("gaussian_noise", 0.38), ("gaussian_noise", 0.60), ("impulse_noise", 0.17),
               ("contrast", 0.3)]  # fmt: skip
# clean thin, clean thick, corrupted accuracy (mean of the groups), worst group corrupted, mean CDD, CDD at .38 and at .60
REFERENCE = {
    "ERM": (0.889, 0.932, 0.796, 0.755, 0.0391, 0.058, 0.086),
    "SAM": (0.896, 0.936, 0.793, 0.757, 0.0375, 0.052, 0.081),
    "Reweigh (group)": (0.884, 0.930, 0.791, 0.754, 0.0285, 0.040, 0.069),
    "FairSAM R1": (0.889, 0.929, 0.790, 0.755, 0.0305, 0.038, 0.073),
    "FairSAM R2": (0.886, 0.930, 0.794, 0.756, 0.0312, 0.041, 0.068),
    "GroupDRO": (0.885, 0.929, 0.789, 0.752, 0.0311, 0.045, 0.069),
}
COLUMNS = ["clean thin", "clean thick", "corrupted", "worst group", "CDD", "CDD .38", "CDD .60"]


def read_mnist(folder: pathlib.Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    def idx(name: str, header: int) -> torch.Tensor:
        with gzip.open(folder / f"{name}.gz") as file:
            return torch.frombuffer(bytearray(file.read()[header:]), dtype=torch.uint8)

    images = idx(f"{part}-images-idx3-ubyte", 16).view(-1, 1, 28, 28)
    return images, idx(f"{part}-labels-idx1-ubyte", 8).long()


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )  # fmt: skip


def train(method: str, seed: int, x: torch.Tensor, y: torch.Tensor, s: torch.Tensor) -> nn.Sequential:
    model = network(seed)
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(base, EPOCHS * SIZE // BATCH)
    weights = glyptic.fairness.fair_sample_weights(s, y, "group").float()
    dro = glyptic.fairness.GroupDRO(torch.bincount(s))
    optimizer = None
    if method == "SAM":
        optimizer = glyptic.sharpness.SAM(model.parameters(), base, rho=RHO)
    elif method.startswith("FairSAM"):
        mode = {"R1": "reweighted", "R2": "per_group", "R3": "adaptive"}[method[-2:]]
        optimizer = glyptic.sharpness.FairSAM(model.parameters(), base, groups=s, labels=y, mode=mode, rho=RHO, model=model)
    order = torch.Generator().manual_seed(1000 + seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=order).split(BATCH):

            def losses(rows: torch.Tensor = rows) -> torch.Tensor:
                return F.cross_entropy(model(x[rows]), y[rows], reduction="none")

            if optimizer is None:
                base.zero_grad()
                if method == "GroupDRO":
                    loss = dro(losses(), s[rows])
                else:
                    loss = (losses() * weights[rows]).mean() if method.startswith("Reweigh") else losses().mean()
                loss.backward()
                base.step()
            elif method == "SAM":
                optimizer.step(losses)
            else:
                optimizer.step(losses, s[rows], y[rows])
            schedule.step()
    return model.eval()


def run(method: str, seed: int, data: dict) -> dict:
    generator = torch.Generator().manual_seed(seed)
    thick = data["thick"].long()
    parts = [
        (thick == g).nonzero().flatten()[torch.randperm(int((thick == g).sum()), generator=generator)[:n]]
        for g, n in ((0, round(SIZE * (1 - THICK))), (1, round(SIZE * THICK)))
    ]
    rows = torch.cat(parts)
    x = data["x"][rows].float() / 255
    start = time.perf_counter()
    model = train(method, seed, x, data["y"][rows], thick[rows])
    seconds = time.perf_counter() - start
    names = ["thick" if t else "thin" for t in data["test_thick"].tolist()]
    table = glyptic.metrics.evaluate_under_corruption(
        model, data["test_x"].float() / 255, data["test_y"], names, CORRUPTIONS, seed=seed,
    )  # fmt: skip
    corrupted = table["corrupted"]
    group_mean = statistics.mean(statistics.mean(row["groups"].values()) for row in corrupted.values())
    worst = min(statistics.mean(row["groups"][g] for row in corrupted.values()) for g in ("thin", "thick"))
    values = [table["clean"]["thin"], table["clean"]["thick"], group_mean, worst, table["mean_cdd"],
              corrupted["gaussian_noise 0.38"]["cdd"], corrupted["gaussian_noise 0.6"]["cdd"]]  # fmt: skip
    degradation = {name: row["degradation"] for name, row in corrupted.items()}
    return {"method": method, "seed": seed, "seconds": seconds, "degradation": degradation,
            **dict(zip(COLUMNS, values, strict=True))}  # fmt: skip


def mean(runs: list[dict], method: str, column: str) -> float:
    return statistics.mean(r[column] for r in runs if r["method"] == method)


def checks(runs: list[dict]) -> list[tuple[str, float, float, bool]]:
    """What has to hold: (claim, left, right, whether left <= right). Seeds are paired, so means compare."""
    worst_clean = {m: statistics.mean(min(r["clean thin"], r["clean thick"]) for r in runs if r["method"] == m)
                   for m in REFERENCE}  # fmt: skip
    rows = [
        ("mean CDD of FairSAM R1 <= 0.9 x SAM's", mean(runs, "FairSAM R1", "CDD"), 0.9 * mean(runs, "SAM", "CDD")),
        ("ERM's corrupted accuracy - .02 <= R1's", mean(runs, "ERM", "corrupted") - 0.02, mean(runs, "FairSAM R1", "corrupted")),
        ("Reweigh's clean worst group - .01 <= R1's", worst_clean["Reweigh (group)"] - 0.01, worst_clean["FairSAM R1"]),
        ("ERM's worst corrupted group - .01 <= R1's", mean(runs, "ERM", "worst group") - 0.01,
         mean(runs, "FairSAM R1", "worst group")),
    ]  # fmt: skip
    return [(claim, left, right, left <= right) for claim, left, right in rows]


def show(runs: list[dict]) -> None:
    seeds = len({r["seed"] for r in runs})
    print(f"Thick/thin MNIST, rho {RHO}, {seeds} seeds. ours ± standard deviation (reference: 2 seeds). paper: n/a\n")
    print("| method | source | paper | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 3))
    for method in dict.fromkeys(r["method"] for r in runs):
        cells = []
        for k, column in enumerate(COLUMNS):
            values = [r[column] for r in runs if r["method"] == method]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            reference = f" ({REFERENCE[method][k]:.3f})" if method in REFERENCE else " (n/a)"
            cells.append(f"{statistics.mean(values):.3f}{spread}{reference}")
        source = "reconstruction" if method.startswith("FairSAM") else "baseline"
        print(f"| {method} | {source} | n/a | " + " | ".join(cells) + " |")
    print("\nBatches are drawn uniformly by all methods. Mean degradation of accuracy, thin / thick:")
    for method in dict.fromkeys(r["method"] for r in runs):
        lost = [statistics.mean(d[g] for r in runs if r["method"] == method for d in r["degradation"].values())
                for g in ("thin", "thick")]  # fmt: skip
        print(f"  {method}: {lost[0]:.3f} / {lost[1]:.3f}")
    print()
    for claim, left, right, holds in checks(runs):
        print(f"{'holds' if holds else 'FAILS'}: {claim} ({left:.4f}, {right:.4f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("GLYPTIC_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", default=default, help="folder that holds mnist/")
    parser.add_argument("--median", choices=["class", "all"], default="class")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", help="results are written here after each run, and finished ones are not run again")
    parser.add_argument("--table", help="print the table of this file")
    arguments = parser.parse_args()
    if arguments.table:
        show(json.loads(pathlib.Path(arguments.table).read_text())["runs"])
        return
    torch.set_num_threads(1)  # small layers: a second thread gains nothing
    folder = pathlib.Path(arguments.data) / "mnist"
    x, y = read_mnist(folder, "train")
    test_x, test_y = read_mnist(folder, "t10k")
    strength = x.double().mean((1, 2, 3))
    apart = arguments.median == "class"
    median = torch.stack([(strength[y == c] if apart else strength).median() for c in range(10)])
    data = {"x": x, "y": y, "thick": strength >= median[y], "test_x": test_x, "test_y": test_y,
            "test_thick": test_x.double().mean((1, 2, 3)) >= median[test_y]}  # fmt: skip
    out = pathlib.Path(arguments.json) if arguments.json else None
    runs = json.loads(out.read_text())["runs"] if out and out.exists() else []
    for seed in range(1, arguments.seeds + 1):
        for method in [*REFERENCE, "FairSAM R3"]:
            if any(r["method"] == method and r["seed"] == seed for r in runs):
                continue
            runs.append(run(method, seed, data))
            print(f"{method} seed {seed}: " + " ".join(f"{c} {runs[-1][c]:.4f}" for c in COLUMNS), flush=True)
            if out:
                out.parent.mkdir(parents=True, exist_ok=True)
                results = {
                    "experiment": "thick/thin MNIST", "paper": "n/a", "source": {"FairSAM": "reconstruction"}, "rho": RHO,
                    "median": arguments.median, "torch": torch.__version__, "corruptions": CORRUPTIONS, "runs": runs,
                    "checks": [{"claim": c, "left": a, "right": b, "holds": h} for c, a, b, h in checks(runs)]
                    if set(REFERENCE) <= {r["method"] for r in runs} else [],
                }  # fmt: skip
                out.write_text(json.dumps(results, indent=1) + "\n")
    show(runs)


if __name__ == "__main__":
    main()
