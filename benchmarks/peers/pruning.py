"""Structured pruning of a zoo of small networks by Torch-Pruning and by Glyptic, and the time both take on large ones.

Both get the same model and ratio, and nothing else that would have to be known about the model: no number of heads, no
list of loose parameters, no custom pruners. Torch-Pruning's README asks that the layers which make the output be
ignored; they are found in the exported graph and handed to it. What comes out is judged in float64 against the
original network whose removed slices are zero (tests/python/masked_reference.py):

    right       the outputs agree to 1e-5 of the largest one
    partly      right, but of the tensors that could have been narrowed some are as wide as before
    unpruned    right, and nothing was removed
    wrong       the network runs and computes something else
    broken      an exception, and the model is left with some tensors pruned
    refused     an exception, and the model is as it was

Which slices Torch-Pruning removed is read off its result: every number in a tensor of the zoo is made unique before, so
a pruned tensor tells by its contents which rows and columns it kept.

    pip install --no-deps -r benchmarks/peers/pruning-requirements.txt
    python benchmarks/peers/pruning.py --write         # docs/pruning-zoo.md and benchmarks/results/cpu-2core/pruning.json
"""

from __future__ import annotations

import argparse
import copy
import functools
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import time
import warnings

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))

import masked_reference  # noqa: E402
import torch  # noqa: E402
import zoo  # noqa: E402
from torch import nn  # noqa: E402

TOLERANCE = 1e-5
OUTCOMES = ("right", "partly", "unpruned", "wrong", "broken", "refused")


def unique(model: nn.Module) -> nn.Module:
    """The model in float64 with no number twice in a tensor; the values move by a billionth."""
    model = copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for t in list(model.parameters()) + [b for b in model.buffers() if b.is_floating_point()]:
            t.add_(1e-9 * torch.rand(t.shape, generator=generator, dtype=torch.float64))
    return model


def kept_slices(before: torch.Tensor, after: torch.Tensor) -> list[list[int] | None]:
    """Which rows, columns, ... of `before` are in `after`, by value. ValueError where it is not a selection of slices."""
    if before.shape == after.shape and torch.equal(before, after):
        return [None] * before.dim()
    if before.dim() != after.dim():
        raise ValueError("another number of dimensions")
    ordered, order = before.detach().flatten().sort()
    found = torch.searchsorted(ordered, after.detach().flatten().contiguous()).clamp_max(len(ordered) - 1)
    if not torch.equal(ordered[found], after.detach().flatten()):
        raise ValueError("numbers that were not there before")
    index = order[found].reshape(after.shape)
    kept: list[list[int] | None] = []
    stride = before.numel()
    for dim in range(before.dim()):
        stride //= before.shape[dim]
        place = (index // stride) % before.shape[dim]
        line = place.movedim(dim, 0).reshape(place.shape[dim], -1)
        if not (line == line[:, :1]).all():
            raise ValueError("not a selection of whole slices")
        rows = line[:, 0].tolist()
        kept.append(None if rows == list(range(before.shape[dim])) else rows)
    return kept


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def output_layers(model: nn.Module, inputs) -> list:
    """Modules and loose parameters that meet the output with no other weighted layer between."""
    exported = torch.export.export(model, inputs, strict=False)
    owner = {}
    placeholders = [n for n in exported.graph.nodes if n.op == "placeholder"]
    for node, spec in zip(placeholders, exported.graph_signature.input_specs):
        if spec.target is not None:
            owner[node] = spec.target
    weighted = ("linear", "conv", "matmul", "bmm", "mm", "addmm", "embedding", "gru", "lstm", "rnn")
    found, seen = [], set()
    todo = [n for n in exported.graph.nodes if n.op == "output"]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        name = getattr(node.target, "_opname", "")
        owners = [owner[n] for n in node.all_input_nodes if n in owner]
        if owners and name.startswith(weighted):
            for target in owners:
                path = target.split(".parametrizations.")[0] if ".parametrizations." in target else target.rpartition(".")[0]
                found.append(model.get_submodule(path) if path else model.get_parameter(target))
                parent = model.get_submodule(path.rpartition(".")[0]) if path else None
                if isinstance(parent, nn.MultiheadAttention):
                    found.append(parent)
        else:
            todo += node.all_input_nodes
    return list({id(f): f for f in found}.values())


def judge(original: nn.Module, kept: dict, outputs, inputs, narrower) -> tuple[str, str]:
    if not any(any(d is not None for d in dims) for dims in kept.values()):
        return "unpruned", ""
    expected = masked_reference.reference(original, kept, inputs)
    worst = masked_reference.difference(masked_reference.flatten(outputs), expected)
    if not worst <= TOLERANCE:
        return "wrong", f"differs by {worst:.1e}"
    alive = masked_reference.alive_masks(original, kept)
    wide = [n for n in narrower if n not in alive]
    return ("partly", f"still wide: {', '.join(wide)}") if wide else ("right", "")


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"


def torch_pruning_pruner(model, inputs, ratio, ignored):
    import torch_pruning as tp

    # The dictionaries are defaults in its signature, shared between pruners; each gets its own here.
    return tp.pruner.MagnitudePruner(
        model, inputs, tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=ratio, ignored_layers=ignored,
        in_channel_groups={}, out_channel_groups={}, num_heads={},
    )  # fmt: skip


def try_torch_pruning(variant, ratio: float) -> tuple[str, str]:
    original = unique(variant.build()).eval()
    inputs = masked_reference.in_double(variant.inputs())
    model = copy.deepcopy(original)
    before = state(original)
    ignored = output_layers(model, inputs)
    try:
        with limit(60):
            torch_pruning_pruner(model, inputs, ratio, ignored).step()
        model.eval()
        with torch.no_grad():
            outputs = model(*inputs)
    except Exception as error:
        after = state(model)
        same = after.keys() == before.keys() and all(torch.equal(after[n], before[n]) for n in before)
        return ("refused" if same else "broken"), one_line(error)
    kept = {}
    after = state(model)
    for name, tensor in before.items():
        try:
            if tensor.is_floating_point():
                kept[name] = kept_slices(tensor, after[name])
        except (KeyError, ValueError) as error:
            return "wrong", f"{name}: {error}"
    return judge(original, kept, outputs, inputs, variant.narrower)


def try_glyptic(variant, ratio: float) -> tuple[str, str]:
    import glyptic

    model = variant.build().eval()
    inputs = variant.inputs()
    before = {n: t.clone() for n, t in state(model).items()}
    error = None
    try:
        with limit(60):
            plan = glyptic.pruning.plan(model, inputs, ratio=ratio)
            result = glyptic.pruning.apply(model, plan, inputs)
        with torch.no_grad():
            outputs = result.model.eval()(*inputs)
    except Exception as caught:
        error = caught
    after = state(model)
    same = after.keys() == before.keys() and all(torch.equal(after[n], before[n]) for n in before)
    if not same:
        return "broken", "the model was changed" + (f"; {one_line(error)}" if error else "")
    if error is not None:
        return "refused", one_line(error)
    outcome, why = judge(model, plan.kept, outputs, inputs, variant.narrower)
    return outcome, why or ("" if outcome == "unpruned" else f"{result.kind}")


class limit:
    """TimeoutError in a block that does not end."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __enter__(self):
        def stop(*_):
            raise TimeoutError(f"did not end in {self.seconds:g} s")

        self.before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)


PEERS = {"Torch-Pruning": try_torch_pruning, "Glyptic": try_glyptic}


def run_zoo(variants, ratio: float, peers) -> list[dict]:
    rows = []
    for variant in variants:
        row = {"network": variant.name, "note": variant.note, "may_refuse": variant.may_refuse}
        for peer in peers:
            start = time.perf_counter()
            try:
                outcome, why = PEERS[peer](variant, ratio)
            except Exception as error:  # the judge itself failed: say so, count it nowhere
                outcome, why = "unjudged", one_line(error)
            row[peer] = {"outcome": outcome, "why": why, "seconds": round(time.perf_counter() - start, 2)}
        print(f"{variant.name:30s} " + "  ".join(f"{p}: {row[p]['outcome']} {row[p]['why'][:100]}" for p in peers), flush=True)
        rows.append(row)
    return rows


# --- time -------------------------------------------------------------------------------------------------------------


def large() -> dict:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 224, 224, generator=generator)
    ids = torch.randint(0, 8000, (1, 64), generator=generator)
    return {
        "ResNet-50": (zoo.resnet50, (image,), (1, 32)),
        "ViT-B/16": (zoo.vit_base, (image,), (1,)),
        "GQA decoder": (zoo.decoder_base, (ids,), (1,)),
    }


def seconds(call) -> tuple[float, object]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def prune_timed(peer: str, build, inputs) -> tuple[dict[str, float], nn.Module]:
    """Seconds of each stage, on a model made outside the clock, and the small network."""
    torch.manual_seed(0)
    model = build().eval()
    gc.collect()
    if peer == "Torch-Pruning":
        ignored = output_layers(model, inputs)
        with limit(240):
            trace, pruner = seconds(lambda: torch_pruning_pruner(model, inputs, 0.5, ignored))
            step, _ = seconds(pruner.step)
        return {"trace": trace, "plan and apply": step, "total": trace + step}, model
    import glyptic

    plan_time, plan = seconds(lambda: glyptic.pruning.plan(model, inputs, ratio=0.5))
    apply_time, result = seconds(lambda: glyptic.pruning.apply(model, plan, inputs, check=False))
    checked, _ = seconds(lambda: glyptic.pruning.apply(model, plan, inputs))
    total = plan_time + apply_time
    return {"trace and plan": plan_time, "apply": apply_time, "total": total, "apply and check": checked}, result.model


def time_large(peers, rounds: int) -> list[dict]:
    rows = []
    for name, (build, inputs, batches) in large().items():
        row: dict = {"network": name, "prune_s": {}, "parameters_M": {}, "forward_ms": {}, "errors": {}}
        models: dict[str, nn.Module] = {}
        torch.manual_seed(0)
        models["dense"] = build().eval()
        stages: dict[str, list[dict]] = {p: [] for p in peers}
        for _ in range(3):  # the contenders in turn; the median of three
            for peer in peers:
                if peer in row["errors"]:
                    continue
                try:
                    times, models[peer] = prune_timed(peer, build, inputs)
                    stages[peer].append(times)
                except Exception as error:
                    row["errors"][peer] = one_line(error)
        for peer in peers:
            if stages[peer] and peer not in row["errors"]:
                row["prune_s"][peer] = {k: round(statistics.median(s[k] for s in stages[peer]), 3) for k in stages[peer][0]}
        row["parameters_M"] = {n: round(sum(p.numel() for p in m.parameters()) / 1e6, 2) for n, m in models.items()}
        for batch in batches:
            given = tuple(x.expand(batch, *x.shape[1:]).contiguous() for x in inputs)
            alive = {}
            with torch.no_grad():
                for label, model in models.items():
                    try:
                        model.eval()(*given)
                        alive[label] = []
                    except Exception as error:
                        row["errors"].setdefault(f"{label}, forward", one_line(error))
                for _ in range(rounds if batch == 1 else max(3, rounds // 5)):
                    for label in alive:
                        alive[label].append(seconds(functools.partial(models[label], *given))[0])
            row["forward_ms"][str(batch)] = {label: round(1e3 * statistics.median(t), 2) for label, t in alive.items()}
        print(json.dumps(row), flush=True)
        rows.append(row)
        models.clear()
    return rows


# --- what is written --------------------------------------------------------------------------------------------------


def environment(threads: int) -> dict:
    run = lambda *words: subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    name = platform.processor() or platform.machine()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    changed = "+changes" if run("git", "status", "--porcelain", "-uno") else ""
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
        "torch_pruning": importlib.metadata.version("torch-pruning"),  # its __version__ lags behind
        "commit": run("git", "rev-parse", "--short", "HEAD") + changed,
    }


MEANING = {
    "right": "the same outputs as the masked original to 1e-5, everything narrowed that could be",
    "partly": "right, but some of what could be narrowed is as wide as before",
    "unpruned": "right, and nothing was removed",
    "wrong": "runs and computes something else",
    "broken": "an exception, and the model is left half-pruned",
    "refused": "an exception, and the model is as it was",
}


def counts(rows, peer) -> dict[str, int]:
    return {o: sum(row[peer]["outcome"] == o for row in rows) for o in (*OUTCOMES, "unjudged")}


def table(rows, peers) -> list[str]:
    lines = ["| network | " + " | ".join(peers) + " |", "| --- |" + " --- |" * len(peers)]
    for row in rows:
        cells = []
        for peer in peers:
            why = row[peer]["why"].replace("|", "\\|").replace("<", "&lt;")
            bold = row[peer]["outcome"] in ("wrong", "broken", "unjudged")
            outcome = f"**{row[peer]['outcome']}**" if bold else row[peer]["outcome"]
            cells.append(f"{outcome}: {why}" if why else outcome)
        note = f" ({row['note']})" if row["note"] else ""
        lines.append(f"| {row['network']}{note} | " + " | ".join(cells) + " |")
    return lines


def totals(rows, peers) -> list[str]:
    lines = ["| outcome | meaning | " + " | ".join(peers) + " |", "| --- | --- |" + " ---: |" * len(peers)]
    numbers = {p: counts(rows, p) for p in peers}
    for outcome in (*OUTCOMES, "unjudged"):
        if any(numbers[p][outcome] for p in peers) or outcome != "unjudged":
            cells = " | ".join(str(numbers[p][outcome]) for p in peers)
            lines.append(f"| {outcome} | {MEANING.get(outcome, 'the judge itself failed')} | {cells} |")
    return lines


def timing(rows, peers) -> list[str]:
    lines = []
    for row in rows:
        lines += [f"**{row['network']}** (parameters in millions: "
                  + ", ".join(f"{n} {v}" for n, v in row["parameters_M"].items()) + ")", ""]  # fmt: skip
        lines += ["| | " + " | ".join(("dense", *peers)) + " |", "| --- |" + " ---: |" * (1 + len(peers))]
        stages = ["– |" if p not in row["prune_s"] else f"{row['prune_s'][p]['total']:.2f} |" for p in peers]
        lines.append("| trace, plan and apply, s | | " + " ".join(stages))
        detail = "; ".join(
            f"{p}: " + ", ".join(f"{k} {v:.2f}" for k, v in row["prune_s"][p].items() if k != "total") for p in row["prune_s"]
        )
        for batch, times in row["forward_ms"].items():
            cells = [f"{times[n]:.1f} |" if n in times else "– |" for n in ("dense", *peers)]
            lines.append(f"| forward, batch {batch}, ms | " + " ".join(cells))
        lines += ["", f"Stages in seconds: {detail}."]
        lines += [f"{who}: {why}." for who, why in row["errors"].items()]
        lines.append("")
    return lines


def page(report: dict, peers) -> str:
    env, ratio = report["environment"], report["ratio"]
    lines = [
        "# Structured pruning of a zoo of networks",
        "",
        f"Made by `python benchmarks/peers/pruning.py --write` (commit {env['commit']}, torch {env['torch']}, "
        f"Torch-Pruning {env['torch_pruning']}, {env['cpu']}, {env['cores']} cores, {env['threads']} threads).",
        "",
        f"Every network of `tests/python/zoo.py` is pruned at ratio {ratio}, L2 importance, each group by itself. Neither "
        "library is told anything about the model, except that Torch-Pruning is handed the output layers to ignore, as its "
        "README asks. The judge is the original network in float64 with the removed slices zero, statistics taken over what "
        "is left (`tests/python/masked_reference.py`); it knows nothing of either library.",
        "",
        *totals(report["zoo"], peers),
        "",
        "Where a narrower layer would change a scale that the model takes from its width (1/sqrt of the head size), the "
        "original scale is the right one. `class`: Glyptic's result is a module of the original class with narrower "
        "tensors; `graph`: a `torch.fx.GraphModule`, since the class's `forward` says the old sizes.",
        "",
        *table(report["zoo"], peers),
        "",
    ]
    if report["installed"]:
        lines += ["## Networks of torchvision and transformers", "", *totals(report["installed"], peers), ""]
        lines += [*table(report["installed"], peers), ""]
    if report["time"]:
        lines += [
            "## Time",
            "",
            "Medians, the contenders in turn in one process. Torch-Pruning does not check what it made; Glyptic's check "
            "against the masked network (on by default) is listed apart.",
            "",
            *timing(report["time"], peers),
        ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--only", nargs="*", help="names of networks; all without")
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS), default=list(PEERS))
    parser.add_argument("--threads", type=int, default=2, help="for the timed part; the zoo runs on one")
    parser.add_argument("--rounds", type=int, default=20, help="timed forward passes")
    parser.add_argument("--skip", nargs="*", choices=("zoo", "installed", "time"), default=[])
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--write", action="store_true", help="docs/pruning-zoo.md and the JSON beside the other results")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")

    wanted = lambda variants: [v for v in variants if not args.only or v.name in args.only]
    torch.set_num_threads(1)
    report: dict = {"ratio": args.ratio, "environment": environment(args.threads)}
    report["zoo"] = [] if "zoo" in args.skip else run_zoo(wanted(zoo.ZOO), args.ratio, args.peers)
    extra = [] if "installed" in args.skip else wanted(zoo.installed())
    report["installed"] = run_zoo(extra, args.ratio, args.peers)
    torch.set_num_threads(args.threads)
    report["time"] = [] if "time" in args.skip or args.only else time_large(args.peers, args.rounds)

    text = page(report, args.peers)
    print(text)
    data = json.dumps(report, indent=1) + "\n"
    if args.json:
        args.json.write_text(data)
    if args.write:
        (ROOT / "docs" / "pruning-zoo.md").write_text(text)
        (ROOT / "benchmarks" / "results" / "cpu-2core" / "pruning.json").write_text(data)
    judged = report["zoo"] + report["installed"]
    bad = sum(row["Glyptic"]["outcome"] in ("wrong", "broken") for row in judged if "Glyptic" in row)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
