"""What of a user's model and optimizer a sparsifier works on: wrappers off, weights by name, refusals by name."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from .. import _C

__all__ = ["prunable_names"]

_PRUNABLE = (
    torch.nn.Conv1d,
    torch.nn.Conv2d,
    torch.nn.Conv3d,
    torch.nn.ConvTranspose1d,
    torch.nn.ConvTranspose2d,
    torch.nn.ConvTranspose3d,
    torch.nn.Linear,
)
# Weights of linear layers under other names. Packed, they are three linear layers above each other.
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_LOOKUP = (torch.nn.Embedding, torch.nn.EmbeddingBag)
# A step of these is not a function of each element by itself, so that masking after it is not masking its gradient.
_NOT_ELEMENTWISE = {"Muon", "Adafactor", "LBFGS", "SparseAdam", "LAMB", "Lamb", "LARS", "Lars", "Shampoo", "SOAP"}


def unwrap_model(model: Any) -> tuple[torch.nn.Module, str]:
    """The module that holds the parameters under their own names, and what wrappers put before the names."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
    prefix = ""
    while True:
        kind = type(model).__name__
        if isinstance(model, torch.nn.DataParallel):
            raise _C.ArgumentError("model is a DataParallel wrapper, which copies its module at each step; pass model.module")
        if kind == "FullyShardedDataParallel":
            raise _C.ArgumentError(
                "model is a FullyShardedDataParallel wrapper: a shard has no masks of its own; use DistributedDataParallel"
            )
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            prefix += "module."
            model = model.module
        elif kind == "OptimizedModule" and "_orig_mod" in model._modules:  # by name: importing dynamo takes a second
            prefix += "_orig_mod."
            model = model._modules["_orig_mod"]
        else:
            return model, prefix


def unwrap_optimizer(optimizer: Any) -> torch.optim.Optimizer | None:
    """The torch optimizer inside trainers' wrappers; refused by name when masks cannot follow its steps."""
    kind = type(optimizer).__name__
    if kind in ("AcceleratedOptimizer", "LightningOptimizer"):
        optimizer = optimizer.optimizer
    if optimizer is None:
        return None
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer is a {kind}, expected a torch.optim.Optimizer over the model's parameters")
    # What updates weights inside a sharpness-aware optimizer is its base.
    names = {c.__name__ for o in (optimizer, getattr(optimizer, "base_optimizer", optimizer)) for c in type(o).__mro__}
    if refused := sorted(names & _NOT_ELEMENTWISE):
        raise _C.ArgumentError(
            f"{refused[0]} does not update each weight by itself, so masks cannot follow its steps; use SGD, Adam, AdamW, "
            "or another elementwise optimizer"
        )
    if "ZeroRedundancyOptimizer" in names:
        raise _C.ArgumentError(
            "ZeroRedundancyOptimizer keeps each weight's state on one rank, where masks of the others cannot reach it; "
            "use the optimizer that it wraps"
        )
    if any(group.get("differentiable") for group in optimizer.param_groups):
        raise _C.ArgumentError("the optimizer is differentiable=True, but masks are applied outside autograd; leave it off")
    return optimizer


def _first_names(model: torch.nn.Module) -> dict[int, str]:
    return {id(p): name for name, p in reversed(list(model.named_parameters()))}


def _trainable(value: Any) -> bool:
    return isinstance(value, torch.nn.Parameter) and value.requires_grad


def prunable_names(model: torch.nn.Module) -> list[str]:
    """Names of the weights of all convolutions and linear layers, each tensor once, in the order of the model.

    The projections of ``nn.MultiheadAttention`` are linear layers too, packed (``in_proj_weight``) or not.
    """
    from ..nn import GraphModule

    if isinstance(model, GraphModule):
        # Normalisation has weights too, but does no multiplications.
        return list(dict.fromkeys(row["weight"] for row in model.graph.cost()["rows"] if row["macs"] > 0))
    first_name = _first_names(model)
    names: dict[str, None] = {}
    for module in model.modules():
        attributes: tuple[str, ...] = ()
        if isinstance(module, _PRUNABLE):
            attributes = ("weight",)
        elif isinstance(module, torch.nn.MultiheadAttention):
            attributes = _ATTENTION
        for attribute in attributes:
            weight = module._parameters.get(attribute)
            if weight is not None and _trainable(weight):
                names.setdefault(first_name[id(weight)])
    return list(names)


def without_mask(model: torch.nn.Module, masked: Iterable[str]) -> tuple[list[str], list[str]]:
    """Weights of matrix products that get no mask by default: those that ``params`` can name, and computed ones."""
    from ..nn import GraphModule

    if isinstance(model, GraphModule):
        return [], []
    first_name = _first_names(model)
    chosen = set(masked)
    nameable: dict[str, None] = {}
    computed: dict[str, None] = {}
    for path, module in model.named_modules():
        if isinstance(module, _PRUNABLE) and module._parameters.get("weight") is None:
            computed.setdefault(f"{path}.weight" if path else "weight")
        if isinstance(module, _LOOKUP):
            continue
        for leaf, p in module._parameters.items():
            looks = leaf.startswith("weight") or leaf.endswith("weight")
            if looks and _trainable(p) and p is not None and p.dim() >= 2 and (name := first_name[id(p)]) not in chosen:
                nameable.setdefault(name)
    return list(nameable), list(computed)


def _listed(names: Sequence[str], most: int = 4) -> str:
    text = ", ".join(f"'{n}'" for n in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def notice_unmasked(model: torch.nn.Module, masked: Sequence[str]) -> None:
    """One warning that names the weights left dense."""
    nameable, computed = without_mask(model, masked)
    parts = []
    if nameable:
        parts.append(f"no mask on {_listed(nameable)}, which belong to no convolution or linear layer; params=[...] masks them")
    if computed:
        parts.append(
            f"no mask on {_listed(computed)}: not a parameter but computed from others (a parametrization, weight norm or "
            "torch.nn.utils.prune); remove that first"
        )
    if parts:
        warnings.warn("; ".join(parts), UserWarning, stacklevel=4)


def chosen_names(model: torch.nn.Module, prefix: str, params: Any) -> list[str]:
    """``params`` checked: each names a trainable parameter, by its first name where several layers share it."""
    if isinstance(params, (str, bytes)) or not isinstance(params, Iterable):
        raise TypeError(f"params is a {type(params).__name__}, expected a list of parameter names")
    every = dict(model.named_parameters(remove_duplicate=False))
    first_name = _first_names(model)
    names: dict[str, None] = {}
    for name in params:
        if not isinstance(name, str):
            raise TypeError(f"params holds a {type(name).__name__}, expected names of parameters")
        name = name.removeprefix(prefix)
        if name not in every:
            near = difflib.get_close_matches(name, every, 1)
            raise _C.ArgumentError(
                f"params names '{name}', which the model does not have" + (f"; did you mean '{near[0]}'?" if near else "")
            )
        if not every[name].requires_grad:
            raise _C.ArgumentError(f"params names '{name}', which is frozen (requires_grad=False); leave it out or let it train")
        names.setdefault(first_name[id(every[name])])
    return list(names)


def check_tensors(parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Refuses parameters whose values are not here."""
    for name, p in parameters:
        if hasattr(p, "placements") and hasattr(p, "to_local"):
            raise _C.ArgumentError(
                f"'{name}' is sharded (a DTensor, as fully_shard and tensor parallelism make): masks of sharded weights are "
                "not supported; use DistributedDataParallel"
            )
        if isinstance(p, torch.nn.parameter.UninitializedParameter):
            raise _C.ArgumentError(f"'{name}' has no shape yet (a lazy module); run one forward pass first")
        if p.is_meta:
            raise _C.ArgumentError(f"'{name}' is on the meta device, without values; load the model first")


def fresh_values(optimizer: torch.optim.Optimizer) -> Callable[[dict[str, Any]], dict[str, float]] | None:
    """What a new weight's state starts from where that is not 0: by key, out of the weight's parameter group.

    Zero is what torch starts from in all others. In these two it is not, and means something else: a step size of 0
    in Rprop is raised by a fifth per step from 1e-6 on, which is next to never, and a sum of 0 in Adagrad makes the
    first step as long as the learning rate whatever the gradient.
    """
    if isinstance(optimizer, torch.optim.Rprop):
        return lambda group: {"step_size": float(group["lr"])}
    if isinstance(optimizer, torch.optim.Adagrad):
        return lambda group: {"sum": float(group["initial_accumulator_value"])}
    return None
