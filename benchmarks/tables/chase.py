"""Chase beside its paper: *paper | ours*, from run folders.

    python benchmarks/tables/chase.py [RUN ...]

Each RUN is a folder that `glyptic run` finished. A run fills the row of its method, density and channel sparsity when
its network and data are those of the table (ResNet-50 on ImageNet); every other run is listed below with its own
setting, beside `n/a`: the paper's CIFAR tables were not available. Unknown numbers are never guessed.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys

HERE = pathlib.Path(__file__).resolve().parent


def option(config: str, group: str, name: str) -> str:
    """One value out of a resolved config, which is plain two-level YAML."""
    inside = False
    for line in config.splitlines():
        if not line.startswith(" "):
            inside = line.rstrip() == f"{group}:"
        elif inside and line.strip().startswith(f"{name}:"):
            return line.split(":", 1)[1].strip()
    return ""


def read_run(folder: str) -> dict:
    path = pathlib.Path(folder)
    try:
        results = json.loads((path / "results.json").read_text())
        config = (path / "config.yaml").read_text()
    except OSError as error:
        sys.exit(f"chase table: {error.filename} is missing; is '{folder}' a finished run?")
    method = option(config, "sparsity", "method")
    if method == "chase":
        method += f"-{float(option(config, 'sparsity', 'channel_sparsity')):g}"
    dense_flops = max(row["flops"] for row in results["rows"])
    masked = next((r for r in results["rows"] if r["network"] == "masked"), results["rows"][0])
    extracted = next((r for r in results["rows"] if r["network"] == "extracted"), None)
    return {
        "name": results["name"],
        "method": method,
        "density": float(option(config, "sparsity", "density")),
        "setting": f"{results['model']}, {results['data']}",
        "imagenet": results["model"] == "resnet50" and "image folder" in results["data"].lower(),
        "accuracy": masked["accuracy"],
        "train": masked["training_flops_ratio"],
        "test": masked["flops"] / dense_flops,
        "gpu": extracted["flops"] / dense_flops if extracted else None,
    }


def text(value: float | None, digits: int = 2) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def spread(values: list[float]) -> str:
    if not values:
        return "n/a"
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def cells(runs: list[dict]) -> list[str]:
    """Accuracy with its spread over runs; FLOPs of the first (they depend on the seed in the third digit only)."""
    if not runs:
        return ["n/a"] * 4
    return [spread([r["accuracy"] for r in runs]), *(text(runs[0][key]) for key in ("train", "test", "gpu"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help="finished run folders")
    runs = [read_run(folder) for folder in parser.parse_args().runs]
    paper = json.loads((HERE / "chase.json").read_text())
    print(f"Chase, arXiv 2305.19454. Paper: {paper['source']}.\nSetting: {paper['setting']}.")
    print(f"Dense: {paper['dense']['accuracy']} ± {paper['dense']['spread']}. FLOPs are relative to dense.\n")
    head = ["method", *(f"{c} {w}" for c in ("acc", "train", "test", "GPU") for w in ("paper", "ours"))]
    for density, rows in paper["rows"].items():
        print(f"density {density}\n\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        for label, method, *values in rows:
            mine = [r for r in runs if r["imagenet"] and r["method"] == method and abs(r["density"] - float(density)) < 1e-9]
            pairs = [c for pair in zip(map(text, values), cells(mine), strict=True) for c in pair]
            print("| " + " | ".join([label, *pairs]) + " |")
        print()
    others = [r for r in runs if not r["imagenet"]]
    if others:
        print("Other settings (paper: n/a)\n\n| setting | method | density | runs | acc ours | train | test | GPU |")
        print("|---|---|---|---|---|---|---|---|")
        for key in dict.fromkeys((r["setting"], r["method"], r["density"]) for r in others):
            mine = [r for r in others if (r["setting"], r["method"], r["density"]) == key]
            print("| " + " | ".join([key[0], key[1], f"{key[2]:g}", str(len(mine)), *cells(mine)]) + " |")
        print()
    print(f"- {paper['not_available']}\n- GPU-supported FLOPs: of the dense network after extraction; theoretical, not speed")


if __name__ == "__main__":
    main()
