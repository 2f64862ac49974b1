"""Shapley values over modalities, and what a model says when some of its inputs are masked."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from .. import _C

Subset = tuple[int, ...]
Forward = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
MaskValue = float | torch.Tensor | Mapping[str, float | torch.Tensor]
Value = TypeVar("Value", float, torch.Tensor)

EXACT_UP_TO = 6


class ModalityMask(dict[str, torch.Tensor]):
    """A batch in which only some modalities are left; the others hold ``mask_value`` in the input's shape.

    The value stands in the *raw input of the model*: where a loader normalises images, 0 is the mean image, not black.

    Args:
        inputs: modality to tensor, the first dimension the batch.
        keep: names of the modalities that stay; they are not copied.
        mask_value: one number, or per modality a number or a tensor that broadcasts to the input.

    >>> import torch
    >>> batch = ModalityMask({"audio": torch.ones(2, 3), "image": torch.ones(2, 1)}, keep=["audio"])
    >>> batch["image"].tolist(), batch.keep
    ([[0.0], [0.0]], ('audio',))
    """

    def __init__(
        self, inputs: Mapping[str, torch.Tensor], keep: Sequence[str] | set[str], mask_value: MaskValue = 0.0
    ) -> None:
        if unknown := [n for n in keep if n not in inputs]:
            raise _C.ArgumentError(f"keep names {unknown[0]!r}, but the batch has {', '.join(inputs)}")
        super().__init__({n: x if n in keep else _masked(x, mask_value, n) for n, x in inputs.items()})
        self.keep = tuple(n for n in inputs if n in keep)


def _masked(x: torch.Tensor, mask_value: MaskValue, name: str) -> torch.Tensor:
    value = mask_value.get(name, 0.0) if isinstance(mask_value, Mapping) else mask_value
    return value.to(x).expand_as(x) if isinstance(value, torch.Tensor) else torch.full_like(x, value)


def _subsets(m: int, shapley_samples: int, seed: int) -> tuple[list[list[tuple[Subset, float]]], list[Subset]]:
    """For each modality its value as a weighted sum over subsets, and the subsets that are met, the full one last."""
    terms: list[dict[Subset, float]] = [{} for _ in range(m)]

    def add(i: int, subset: Subset, weight: float) -> None:
        terms[i][subset] = terms[i].get(subset, 0.0) + weight

    if m <= EXACT_UP_TO:
        for i in range(m):
            others = [j for j in range(m) if j != i]
            for size in range(m):
                weight = 1 / (m * math.comb(m - 1, size))
                for rest in itertools.combinations(others, size):
                    add(i, tuple(sorted((*rest, i))), weight)
                    add(i, rest, -weight)
    else:
        draw = random.Random(seed)
        pairs = max(1, shapley_samples // 2)
        for _ in range(pairs):
            order = list(range(m))
            draw.shuffle(order)
            for permutation in (order, order[::-1]):  # antithetic: who came early comes late
                for k, i in enumerate(permutation):
                    add(i, tuple(sorted(permutation[: k + 1])), 0.5 / pairs)
                    add(i, tuple(sorted(permutation[:k])), -0.5 / pairs)
    met = {s for t in terms for s in t if s}
    return [list(t.items()) for t in terms], sorted(met, key=lambda s: (len(s), s))


def shapley_values(
    value_of_subset: Callable[[Subset], Value],
    M: int,
    empty_value: float = 0.0,
    *,
    shapley_samples: int = 64,
    seed: int = 0,
) -> list[Value]:
    r"""What each of M players contributes to the value of all.

    .. math:: \Phi_m = \sum_{S \subseteq \{1..M\} \setminus m} \frac{|S|!\,(M-|S|-1)!}{M!} \big[V(S \cup m) - V(S)\big]

    Exact up to six players (:math:`2^M - 1` values). Above, the mean over ``shapley_samples`` permutations drawn as pairs of
    an order and its reverse, from a generator of their own. Either way :math:`\sum_m \Phi_m = V(\text{all}) - V(\emptyset)`
    up to rounding.

    Args:
        value_of_subset: gets the sorted indices of a subset, called once for each; returns a number or a tensor.
        empty_value: V of nobody, which is not asked for.

    >>> [round(v, 6) for v in shapley_values(lambda s: {(0,): 0.6, (1,): 0.2, (0, 1): 0.9}[s], 2)]
    [0.65, 0.25]
    """
    if M < 1:
        raise _C.ArgumentError(f"M is {M}, expected at least one modality")
    if shapley_samples < 2:
        raise _C.ArgumentError(f"shapley_samples is {shapley_samples}, expected at least 2 (an order and its reverse)")
    terms, subsets = _subsets(M, shapley_samples, seed)
    values: dict[Subset, Any] = {s: value_of_subset(s) for s in subsets}
    values[()] = empty_value
    return [_weighted(t, values) for t in terms]


def _weighted(terms: list[tuple[Subset, float]], values: Mapping[Subset, Any]) -> Any:
    total: Any = None
    for subset, weight in terms:
        part = values[subset] if weight == 1.0 else values[subset] * weight
        total = part if total is None else total + part
    return total


def mono_modal_logits(
    forward: Forward,
    inputs: Mapping[str, torch.Tensor],
    mask_value: MaskValue = 0.0,
    *,
    full: torch.Tensor | None = None,
    shapley_samples: int = 64,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Each modality's share of the logits: Shapley values of the masked forward passes' outputs, summing to the logits.

    What a model without one head per modality is asked for a modality's accuracy by (arXiv 2308.07686). Gradients flow
    unless they are switched off; the mode of the model is the caller's.

    Args:
        forward: from a batch of named inputs to logits [b, C].
        full: logits of the unmasked batch where they are at hand, which saves a pass.

    Cost: 2^M - 1 forward passes, one fewer with ``full``.
    """
    names = list(inputs)
    everybody = tuple(range(len(names)))

    def logits_of(subset: Subset) -> torch.Tensor:
        if subset == everybody:
            return forward(inputs) if full is None else full
        return forward(ModalityMask(inputs, [names[i] for i in subset], mask_value))

    found = shapley_values(logits_of, len(names), shapley_samples=shapley_samples, seed=seed)
    return dict(zip(names, found, strict=True))


def check_batch(inputs: Mapping[str, torch.Tensor], targets: torch.Tensor) -> None:
    """One tensor per modality, all with as many samples as there are labels."""
    if not isinstance(inputs, Mapping) or not inputs:
        raise _C.ArgumentError("inputs must be a dict from modality to tensor, with at least one entry")
    for name, x in inputs.items():
        if not isinstance(x, torch.Tensor) or x.dim() == 0:
            raise _C.ArgumentError(f"input {name!r} is not a batch; give a tensor whose first dimension is the sample")
        if len(x) != len(targets):
            raise _C.ArgumentError(f"input {name!r} has {len(x)} samples, but there are {len(targets)} targets")


@contextmanager
def eval_mode(modules: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Everything in eval mode inside, and each module back in the mode it had."""
    training = [m for root in modules for m in root.modules() if m.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def unwrapped(model: torch.nn.Module) -> Any:
    """The module inside ``DistributedDataParallel`` and ``torch.compile``."""
    while True:
        inner: Any = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, torch.nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


@contextmanager
def recorded(model: torch.nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """What ``model.encode(name, x)`` returns inside, by name."""
    features: dict[str, torch.Tensor] = {}
    declares: Any = model
    encode: Callable[..., torch.Tensor] = declares.encode

    def recording(name: str, x: torch.Tensor) -> torch.Tensor:
        features[name] = encode(name, x)
        return features[name]

    own = model.__dict__.get("encode")
    model.__dict__["encode"] = recording
    try:
        yield features
    finally:
        if own is None:
            del model.__dict__["encode"]
        else:
            model.__dict__["encode"] = own


def wide(logits: torch.Tensor) -> torch.Tensor:
    """At least float32."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def require_features(features: Mapping[str, torch.Tensor], names: Sequence[str]) -> None:
    for name in names:
        if name not in features:
            raise _C.ArgumentError(
                f"the forward pass did not call encode({name!r}, x); a model with encode() and fuse() must go through them"
            )


def encoder_parameters(
    model: torch.nn.Module | None, encoders: Mapping[str, Any] | None, names: Sequence[str]
) -> dict[str, list[torch.nn.Parameter]]:
    """The parameters of each modality's encoder: what was given, or ``model.encoders``."""
    if encoders is None:
        found = getattr(unwrapped(model), "encoders", None) if model is not None else None
        if not isinstance(found, (torch.nn.ModuleDict, Mapping)):
            raise _C.ArgumentError(
                "which parameters belong to which modality is not known; give encoders={name: module or parameters}, or "
                "let the model have a ModuleDict 'encoders'"
            )
        encoders = dict(found.items())
    result: dict[str, list[torch.nn.Parameter]] = {}
    for name in names:
        if name not in encoders:
            raise _C.ArgumentError(f"encoders has no {name!r}; it has {', '.join(encoders)}")
        part = encoders[name]
        result[name] = [p for p in (part.parameters() if isinstance(part, torch.nn.Module) else part) if p.requires_grad]
        if not result[name]:
            raise _C.ArgumentError(f"the encoder of {name!r} has no trainable parameter")
    return result
