"""The toy of the sparse-training family: an MLP 768-256-128-10 on 16 x 16 CIFAR-10, every method, several seeds.

    python benchmarks/experiments/toy.py --glyptic build/release/bin/glyptic --data CIFAR_FOLDER --out runs/toy

Runs configs/sparsity/*_toy_cpu.yaml (finished runs are kept, broken ones resumed), prints means and spreads beside the
reference numbers, and says for each expected ordering whether it holds. Reference: an independent program written for
the specification (float32, one thread), seeds 1 to 3; seeds are not comparable one by one, means are.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
METHODS = ("static", "set", "rigl", "gmp", "chase")
REFERENCE = {
    0.02: {"dense": [51.5], "static": [45.6, 45.2, 45.7], "set": [46.4, 45.5, 45.4], "rigl": [46.8, 47.5, 46.3],
           "gmp": [49.8, 50.1, 50.4], "chase": [47.3, 48.0, 47.2]},
    0.05: {"dense": [51.5], "static": [50.2], "set": [50.9], "rigl": [50.9], "gmp": [51.0], "chase": [51.0]},
}  # fmt: skip


def run(arguments: argparse.Namespace, method: str, density: float, seed: int) -> dict:
    out = pathlib.Path(arguments.out) / f"{method}-d{density:g}-s{seed}"
    if (out / "results.json").exists():
        return json.loads((out / "results.json").read_text())
    if (out / "config.yaml").exists():
        command = [arguments.glyptic, "-q", "resume", str(out)]
    else:
        config = ROOT / "configs/sparsity" / f"{method}_toy_cpu.yaml"
        command = [arguments.glyptic, "-q", "run", str(config), "--out", str(out), "--set", f"seed={seed}"]
        command += ["--set", "throughput.enabled=false"]
        if method != "dense":
            command += ["--set", f"sparsity.density={density}"]
        if method == "chase":  # the overshoot of the soft bound is half of the target
            command += ["--set", f"sparsity.soft_extra={density / 2}"]
        if arguments.data:
            command += ["--set", f"data.folder={arguments.data}"]
        for assignment in arguments.set:
            command += ["--set", assignment]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "results.json").read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glyptic", default=str(ROOT / "build/release/bin/glyptic"))
    parser.add_argument("--data", default="", help="folder of CIFAR-10 binary batches; default: the usual places")
    parser.add_argument("--out", default="runs/toy")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--densities", type=float, nargs="+", default=[0.02])
    parser.add_argument("--set", action="append", default=[], help="passed on to every run")
    parser.add_argument("--json", help="write all numbers here")
    arguments = parser.parse_args()
    table: dict = {}
    for density in arguments.densities:
        for method in ("dense", *METHODS):
            seeds = arguments.seeds[:1] if method == "dense" else arguments.seeds
            for seed in seeds:
                results = run(arguments, method, density, seed)
                wanted = "dense" if method == "dense" else "masked"
                row = next(r for r in results["rows"] if r["network"] == wanted)
                entry = {k: row.get(k) for k in ("accuracy", "density", "live_channels", "training_seconds", "explored")}
                entry |= {"seed": seed, "max_logit_difference": (results["extraction"] or {}).get("max_logit_difference")}
                small = next((r for r in results["rows"] if r["network"] == "extracted"), None)
                entry["extracted_accuracy"] = small["accuracy"] if small else None
                entry["extracted_parameters"] = small["parameters"] if small else None
                table.setdefault(f"{density:g}", {}).setdefault(method, []).append(entry)
                print(f"  density {density:g} {method} seed {seed}: {row['accuracy']:.2f} %", file=sys.stderr, flush=True)
    checks = []
    for density, methods in table.items():
        print(f"\ndensity {density}: last-epoch test accuracy\n\n| method | ours | reference | seeds |\n|---|---|---|---|")
        means = {m: statistics.mean(e["accuracy"] for e in entries) for m, entries in methods.items()}
        for method, entries in methods.items():
            values = [e["accuracy"] for e in entries]
            reference = REFERENCE.get(float(density), {}).get(method, [])
            shown = f"{means[method]:.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")
            beside = f"{statistics.mean(reference):.2f}" if reference else "n/a"
            print(f"| {method} | {shown} | {beside} | {', '.join(f'{v:.2f}' for v in values)} |")
        if float(density) == 0.02:
            for label, value, least in (
                ("GMP - RigL", means["gmp"] - means["rigl"], 1.5),
                ("RigL - static", means["rigl"] - means["static"], 0.5),
                ("Chase - RigL", means["chase"] - means["rigl"], -1.0),
            ):
                checks.append({"check": f"{label} >= {least}", "value": value, "holds": value >= least})
        moved = max((e["max_logit_difference"] or 0) for e in methods["chase"])
        checks.append({"check": "extraction moves no logit by more than 1e-5", "value": moved, "holds": moved <= 1e-5})
        same = all(e["extracted_accuracy"] == e["accuracy"] for e in methods["chase"])
        checks.append({"check": "extracted accuracy is the masked one", "value": same, "holds": same})
    print()
    for check in checks:
        print(f"- {'holds' if check['holds'] else 'FAILS'}: {check['check']} (is {check['value']})")
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps({"runs": table, "checks": checks}, indent=1) + "\n")
    return 0 if all(c["holds"] for c in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
