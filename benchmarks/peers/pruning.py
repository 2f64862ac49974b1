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
import gc
import json
import math
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
    return judge(model, plan.kept, outputs, inputs, variant.narrower)


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
