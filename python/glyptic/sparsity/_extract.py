"""From a masked module to a smaller one of the same class."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from .. import _C
from .._trace import trace
from ..nn import GraphModule
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
        max_difference: largest move of an output on the check batch, relative to the largest output or to 1, whichever is larger.
    """

    model: torch.nn.Module
    plan: _C.ExtractionPlan
    optimizer: torch.optim.Optimizer | None
    max_difference: float


def extract(
    model: torch.nn.Module,
    sparsifier: Sparsifier | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    example_input: torch.Tensor | None = None,
    residual: str = "exempt",
    round_to: int = 1,
    absorb: bool = True,
    allow_inexact: bool = False,
    check: bool = True,
) -> Extraction:
    """The smaller network without its dead channels; outputs in eval mode are the same (checked).

    Args:
        model: traced by ``torch.fx``; it is not changed.
        sparsifier: whose removed channels go; without one, channels whose filters are all zero.
        optimizer: carried over with its state, so that training can go on.
        example_input: one batch, for tracing and for the check.
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
    graph = trace(model, example_input)
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


def _difference(large: torch.nn.Module, small: torch.nn.Module, graph: _C.Graph, example: torch.Tensor | None) -> float:
    first = next(large.parameters())
    if example is None:
        generator = torch.Generator().manual_seed(0)
        shape = [4, *graph.node_shapes()[0]]
        example = torch.randn(shape, generator=generator).to(first)
    # Module by module: somebody may hold a BatchNorm in eval mode inside a network in train mode.
    modes = [(module, module.training) for model in (large, small) for module in model.modules()]
    large.eval()
    small.eval()
    try:
        with torch.no_grad():
            expected, got = large(example), small(example)
    finally:
        for module, mode in modes:
            module.training = mode
    return float((expected - got).abs().max() / expected.abs().max().clamp(min=1))


def _carry_optimizer(
    model: torch.nn.Module, small: torch.nn.Module, optimizer: torch.optim.Optimizer, plan: _C.ExtractionPlan
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
