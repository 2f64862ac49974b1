"""From a masked module to a smaller one of the same class."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from .. import _C
from .._trace import trace
from ..nn import GraphModule
from ..pruning import Plan
from ..pruning import apply as apply_plan
from ..pruning._apply import as_inputs
from ..pruning._apply import trace as run_once
from ..pruning._record import named_tensors, plain_operations, relative_difference
from ._sparsifier import Sparsifier

__all__ = ["Extraction", "extract"]


@dataclass
class Extraction:
    """The small network and how it came about.

    Attributes:
        model: the smaller module: same class, new widths, own storage.
        plan: which channels stay; prints as a table, ``to_json`` and ``from_json``, ``apply(name, tensor)`` slices
            anything of a parameter's shape, ``expand(name, tensor)`` is its inverse.
        optimizer: as given, over the small parameters, with its state sliced too; ``None`` when none was given.
        max_difference: largest move of an output on the check batch, relative to the largest output.
    """

    model: torch.nn.Module
    plan: _C.ExtractionPlan | Plan
    optimizer: torch.optim.Optimizer | None
    max_difference: float


def extract(
    model: torch.nn.Module,
    sparsifier: Sparsifier | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    example_input: torch.Tensor | tuple[Any, ...] | None = None,
    residual: str = "exempt",
    round_to: int = 1,
    absorb: bool = True,
    allow_inexact: bool = False,
    check: bool = True,
) -> Extraction:
    """The smaller network without its dead channels; outputs in eval mode are the same (checked).

    Args:
        model: any module; it is not changed. What is built of layers with rules of their own is traced; any other (attention,
            recurrent layers, functional calls, several inputs) is run once on ``example_input``, and loses the units that
            nothing reads or that are zero throughout.
        sparsifier: whose removed channels go; without one, channels whose filters are all zero.
        optimizer: carried over with its state, so that training can go on.
        example_input: one batch (a tensor, or a tuple of arguments), for tracing and for the check.
        residual: ``exempt`` leaves channels that a sum couples alone, ``all_dead`` removes those dead in every term.
        round_to: keep the best dead channels until each width is a multiple of this.
        absorb: move a dead channel's constant into the next bias where that is exact.
        allow_inexact: drop dead channels even where the outputs move.
        check: compare outputs; an error instead of a silently wrong network.

    Raises:
        ArgumentError: the operation that cannot be traced, or the layer and channel that cannot go exactly.

    >>> import torch, glyptic
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> with torch.no_grad():
    ...     _ = model[2].weight[:, 3:].zero_()
    >>> glyptic.sparsity.extract(model).model
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
      (1): ReLU()
      (2): Linear(in_features=3, out_features=2, bias=True)
    )
    """
    if residual == "index_add" and not isinstance(model, GraphModule):
        raise _C.ArgumentError(
            "residual='index_add' adds gather and scatter steps, which a module of your own class cannot take up; use "
            "exempt or all_dead, or a glyptic.nn network"
        )
    try:
        graph = trace(model, example_input[0] if isinstance(example_input, tuple) else example_input)
    except _C.ArgumentError as refusal:
        if example_input is None or residual == "index_add":
            raise _C.ArgumentError(
                f"{refusal}; or give example_input=, one batch of what the model is called with, so that it can be run instead"
            ) from None
        return _extract_recorded(model, sparsifier, optimizer, example_input, round_to)
    known = {name for name, _ in graph.tensor_shapes()}
    tensors = [(n, t.detach()) for n, t in [*model.named_parameters(), *model.named_buffers()] if n in known]
    liveness = list(sparsifier.liveness().items()) if sparsifier is not None else []
    plan = _C.plan_extraction(graph, tensors, liveness, residual, round_to, absorb, allow_inexact)
    small_tensors = plan.apply_all(tensors)
    small: torch.nn.Module
    if isinstance(model, GraphModule):
        small = GraphModule(plan.graph, small_tensors)
        small.train(model.training)
    else:
        small = _resized(model, dict(small_tensors), plan)
    difference = _difference(model, small, graph, example_input)
    if check and not allow_inexact and not difference <= 1e-5:
        raise _C.Error(
            f"the extracted network's outputs differ by {difference:.3g} of the largest output; the model does something "
            "that tracing did not see, so it is not handed out"
        )
    carried = _carry_optimizer(model, small, optimizer, plan) if optimizer is not None else None
    return Extraction(small, plan, carried, difference)


def _extract_recorded(
    model: torch.nn.Module,
    sparsifier: Sparsifier | None,
    optimizer: torch.optim.Optimizer | None,
    example_input: Any,
    round_to: int,
) -> Extraction:
    """Extraction of a module that was run instead of traced: units that nothing reads, or that are zero throughout."""
    inputs = as_inputs(example_input)
    record = run_once(model, inputs)
    graph = record.graph
    tensors = {name: tensor.detach() for name, tensor in named_tensors(model)}
    declared = dict(sparsifier.liveness()) if sparsifier is not None else {}
    alive = graph.all()
    groups = graph.groups()

    def zero_units(number: int, tensor: str, dim: int) -> torch.Tensor:
        value = tensors[tensor]
        entries = value.ne(0).movedim(dim, 0).reshape(value.shape[dim], -1).any(1).tolist()
        used = torch.zeros(groups[number].size, dtype=torch.bool)
        for k, needs in enumerate(graph.units(tensor, dim)):
            for group, unit in needs:
                if group == number and entries[k]:
                    used[unit] = True
        return ~used

    for number, group in enumerate(groups):
        members = [m for m in group.members if tensors[m.tensor].is_floating_point()]
        readers = [m for m in members if tensors[m.tensor].dim() > 1 and m.dim > 0]
        holders = [m for m in members if not m.tensor.endswith(("running_mean", "running_var"))]
        dead = torch.zeros(group.size, dtype=torch.bool)
        for sufficient in (readers, holders):
            if sufficient:
                zero = torch.ones(group.size, dtype=torch.bool)
                for member in sufficient:
                    zero &= zero_units(number, member.tensor, member.dim)
                dead |= zero
        if group.inexact_because:
            dead[:] = False
        if declared:  # only what the sparsifier removed
            known = declared.get(group.name)
            dead &= ~known if known is not None and known.numel() == group.size else False
        keep = (~dead).nonzero().flatten().tolist() or [0]
        while len(keep) % round_to and len(keep) < group.size:
            keep.append(next(k for k in range(group.size) if k not in keep))
        alive[number] = [int(k in set(keep)) for k in range(group.size)]
    plan = Plan(_C.plan_from_alive(graph, alive), record)
    small = apply_plan(model, plan, inputs).model
    with plain_operations(model), plain_operations(small):
        difference = relative_difference(model(*inputs), small(*inputs))
    if not difference <= 1e-5:
        raise _C.Error(
            f"the extracted network's outputs differ by {difference:.3g} of the largest output; a unit that is zero in its "
            "weights still speaks through something else, so the network is not handed out"
        )
    carried = _carry_optimizer(model, small, optimizer, plan) if optimizer is not None else None
    return Extraction(small, plan, carried, difference)


def _resized(model: torch.nn.Module, tensors: dict[str, torch.Tensor], plan: _C.ExtractionPlan) -> torch.nn.Module:
    """A copy of the module with the sliced tensors in place and its layers' sizes set to match."""
    small = copy.deepcopy(model)
    groups = plan.graph.groups()
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        owner = small.get_submodule(path)
        if leaf in owner._buffers:
            owner._buffers[leaf] = tensor
            continue
        old = owner._parameters.get(leaf)
        trains = True if old is None else old.requires_grad
        owner._parameters[leaf] = torch.nn.Parameter(tensor, requires_grad=trains)
        if leaf == "weight":
            _set_sizes(owner, tensor, groups.get(name, 1))
    return small


def _set_sizes(module: Any, weight: torch.Tensor, groups: int) -> None:
    if isinstance(module, torch.nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, torch.nn.modules.conv._ConvNd):
        module.groups = groups
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * groups
    elif isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
        module.num_features = weight.shape[0]
    elif isinstance(module, torch.nn.GroupNorm):
        module.num_channels = weight.shape[0]
        module.num_groups = min(module.num_groups, weight.shape[0]) if weight.shape[0] % module.num_groups else module.num_groups


def _difference(large: torch.nn.Module, small: torch.nn.Module, graph: _C.Graph, example: Any) -> float:
    if example is None:
        generator = torch.Generator().manual_seed(0)
        shape = [4, *graph.node_shapes()[0]]
        example = torch.randn(shape, generator=generator).to(next(large.parameters()))
    inputs = as_inputs(example)
    with plain_operations(large), plain_operations(small):
        return relative_difference(large(*inputs), small(*inputs))


def _carry_optimizer(
    model: torch.nn.Module, small: torch.nn.Module, optimizer: torch.optim.Optimizer, plan: _C.ExtractionPlan | Plan
) -> torch.optim.Optimizer:
    """An optimizer of the same class over the small parameters; state of a parameter's shape is sliced like it."""
    new_parameters = dict(small.named_parameters())
    names = {id(p): n for n, p in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        kept = {k: v for k, v in group.items() if k != "params"}
        groups.append({**kept, "params": [new_parameters[names[id(p)]] for p in group["params"]]})
    # A bias that absorbed constants is new: it trains with the first group's settings.
    held = {id(p) for group in groups for p in group["params"]}
    groups[0]["params"] += [p for p in new_parameters.values() if p.requires_grad and id(p) not in held]
    carried = copy.copy(optimizer)
    carried.state = type(optimizer.state)(dict)
    carried.param_groups = groups
    for p, state in optimizer.state.items():
        name = names[id(p)]
        carried.state[new_parameters[name]] = {
            key: plan.apply(name, value).clone() if isinstance(value, torch.Tensor) and value.shape == p.shape else copy.deepcopy(value)
            for key, value in state.items()
        }
    return carried
