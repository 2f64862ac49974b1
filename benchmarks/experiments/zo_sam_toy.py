"""ZO-SAM and its controls on the toy of the sparse-training methods: RigL at 98 %, rho 0.1.

    python benchmarks/experiments/zo_sam_toy.py --data CIFAR_FOLDER --out runs/zo_sam_toy --json FILE

Runs configs/sharpness/zo_sam_toy_cpu.yaml with each step (finished runs are kept, broken ones resumed). With one direction
ZO-SAM is expected to be within the noise of plain SGD and of a random direction; nothing more is claimed at this scale. The
reference is an independent program written for the specification, seeds 1 and 2.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS: dict[str, tuple[list[str], list[float]]] = {
    "SGD": (["sharpness.method=none"], [46.8, 47.5]),
    "SAM": (["sharpness.method=sam"], [45.9, 46.5]),
    "S2-SAM": (["sharpness.method=s2sam"], [45.8, 46.7]),
    "rand": (["sharpness.method=rand"], [47.2, 46.9]),
    "ZO-SAM m=1, delta 1e-3": ([], [47.2, 47.3]),
    "ZO-SAM m=1, delta 1e-4": (["sharpness.delta=1e-4"], [46.6]),
    "ZO-SAM m=8, delta 1e-3": (["sharpness.directions=8"], [46.2]),
}


def run(arguments: argparse.Namespace, step: str, seed: int) -> dict:
    name = step.lower().replace(" ", "_").replace(",", "").replace("=", "")
    out = pathlib.Path(arguments.out) / f"{name}-s{seed}"
    if not (out / "results.json").exists():
        if (out / "config.yaml").exists():
            command = [arguments.glyptic, "-q", "resume", str(out)]
        else:
            command = [arguments.glyptic, "-q", "run", str(ROOT / "configs/sharpness/zo_sam_toy_cpu.yaml"), "--out", str(out)]
            sets = [f"seed={seed}", "extract.enabled=false", *STEPS[step][0]]
            if arguments.data:
                sets.append(f"data.folder={arguments.data}")
            for assignment in sets:
                command += ["--set", assignment]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "results.json").read_text())["rows"][-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glyptic", default=str(ROOT / "build/release/bin/glyptic"))
    parser.add_argument("--data", default="", help="folder of CIFAR-10 binary batches; default: the usual places")
    parser.add_argument("--out", default="runs/zo_sam_toy")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", help="write all numbers here")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
    from kernels import commit, cpu_name

    table: dict[str, list[dict]] = {}
    for step in STEPS:
        for seed in arguments.seeds:
            row = run(arguments, step, seed)
            table.setdefault(step, []).append({
                "seed": seed, "accuracy": row["accuracy"], "seconds": row["training_seconds"],
                "training_flops_ratio": row["training_flops_ratio"], "source": row.get("sharpness_source"),
            })  # fmt: skip
            print(f"  {step} seed {seed}: {row['accuracy']:.2f} %", file=sys.stderr, flush=True)
    mean = {step: statistics.mean(e["accuracy"] for e in entries) for step, entries in table.items()}
    print("| step | last-epoch test accuracy % | seeds | reference | training FLOPs of dense SGD | seconds |\n|---|---|---|---|---|---|")
    for step, entries in table.items():
        seconds = statistics.mean(e["seconds"] for e in entries)
        shown = ", ".join(f"{e['accuracy']:.2f}" for e in entries)
        print(f"| {step} | {mean[step]:.2f} | {shown} | "
              f"{statistics.mean(STEPS[step][1]):.2f} | {entries[0]['training_flops_ratio']:.3f} | {seconds:.0f} |")  # fmt: skip
    one = "ZO-SAM m=1, delta 1e-3"
    checks = [
        ("|ZO-SAM(m=1) - rand| <= 1.0", mean[one] - mean["rand"], abs(mean[one] - mean["rand"]) <= 1),
        ("|ZO-SAM(m=1) - SGD| <= 1.0", mean[one] - mean["SGD"], abs(mean[one] - mean["SGD"]) <= 1),
        ("SAM - SGD in [-2, 0.5]", mean["SAM"] - mean["SGD"], -2 <= mean["SAM"] - mean["SGD"] <= 0.5),
    ]
    print()
    for label, value, holds in checks:
        print(f"- {'holds' if holds else 'FAILS'}: {label} (is {value:.2f})")
    if arguments.json:
        record = {"processor": cpu_name(), "commit": commit(), "runs": table,
                  "checks": [{"check": c, "value": v, "holds": h} for c, v, h in checks]}  # fmt: skip
        pathlib.Path(arguments.json).write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(h for _, _, h in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
