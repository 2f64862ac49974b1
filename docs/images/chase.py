"""Draws a Chase run from its folder, into the file that is named last. The README's picture is drawn by

    glyptic run configs/sparsity/chase_mnist.yaml --out runs/picture --set train.baseline=false \
        --set model.width=0.25 --set throughput.enabled=false --set threads=1
    python docs/images/chase.py runs/picture docs/images/chase.svg
"""

import argparse
import json
from pathlib import Path

import glyptic
import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

INK, MUTED, CHANNELS, WEIGHTS = "#24292f", "#c8ced6", "#0b7285", "#c2410c"


def main(run: Path, out: Path) -> None:
    tensors, _ = glyptic.load_safetensors(str(run / "checkpoints" / "chase.safetensors"))
    events = dict(tensors)["sparsity.events"]
    results = json.loads((run / "results.json").read_text())
    plan = json.loads((run / "extracted" / "graph.json").read_text())
    small = {t["name"]: t["shape"] for t in plan["tensors"]}
    large = {name.removeprefix("model."): t.shape for name, t in tensors if name.startswith("model.")}
    names = [n for n in small if n.endswith("weight") and len(small[n]) == 4]
    masked = next(row for row in results["rows"] if row["network"] == "masked")
    size = sum(t.numel() for n, t in tensors if n.startswith("model.") and n.endswith("weight") and t.dim() >= 2)
    total = int(masked["live_channels"].split("/")[1])

    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "glyptic", "svg.fonttype": "path", "text.color": INK,
                         "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": INK})
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 2.7), width_ratios=(1.5, 1), layout="constrained")

    steps = [0, *events[:, 0].tolist()]
    active = [None, *(100 * events[:, 3] / size).tolist()]
    live = [100, *(100 * events[:, 4] / total).tolist()]
    active[0] = 10.0
    left.step(steps, live, where="post", color=CHANNELS, lw=1.8)
    left.set(xlabel="optimizer step", ylim=(0, 105), xlim=(0, steps[-1]))
    left.set_ylabel("live channels, %", color=CHANNELS)
    other = left.twinx()
    other.step(steps, active, where="post", color=WEIGHTS, lw=1.8)
    other.axhline(10, color=WEIGHTS, lw=0.8, ls=":")
    other.set_ylabel("active weights, %", color=WEIGHTS)
    other.set_ylim(0, 21)
    left.set_title("while it trains", loc="left")

    for i, name in enumerate(names):
        right.barh(i, large[name][0], color=MUTED, height=0.66, label="dense" if i == 0 else None)
        right.barh(i, small[name][0], color=CHANNELS, height=0.66, label="extracted" if i == 0 else None)
        right.text(large[name][0] + 1, i, f"{small[name][0]} of {large[name][0]}", va="center")
    right.set_yticks(range(len(names)), [n.removesuffix(".weight") for n in names])
    right.invert_yaxis()
    right.set(xlabel="channels", xlim=(0, 1.28 * max(large[n][0] for n in names)))
    right.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2)
    for axes in (left, other, right):
        axes.spines["top"].set_visible(False)
    right.spines["right"].set_visible(False)
    figure.savefig(out, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draws a Chase run from its folder.")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("picture", type=Path, help="file to write; its ending picks the format")
    arguments = parser.parse_args()
    main(arguments.run, arguments.picture)
