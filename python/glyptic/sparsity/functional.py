"""The rules as pure functions, so that each can be checked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import _C

__all__ = ["channel_scores", "erk_densities", "layer_counts", "prune_and_grow", "topk_mask"]


def erk_densities(shapes: Sequence[Sequence[int]], density: float, power: float = 1.0) -> list[float]:
    """Densities of the Erdos-Renyi-kernel distribution (arXiv 1911.11134, section 3).

    ``p_l = (sum of the shape) / (product of the shape)``; layers that would exceed 1 are dense and the rest is solved
    again, so that the densities times the sizes add up to ``density`` times all weights exactly.

    >>> [round(d, 6) for d in erk_densities([(16, 3, 3, 3), (32, 16, 3, 3), (64, 32, 3, 3), (10, 64)], 0.2)]
    [1.0, 0.281731, 0.13304, 1.0]
    """
    return _C.erk_densities([list(s) for s in shapes], density, power)


def layer_counts(densities: Sequence[float], sizes: Sequence[int], total: int | None = None, minimum: int = 1) -> list[int]:
    """Whole numbers near ``densities * sizes`` by largest remainder, adding up to ``total``.

    >>> layer_counts([1.0, 0.281731, 0.133040, 1.0], [432, 4608, 18432, 640], total=4822)
    [432, 1298, 2452, 640]
    """
    return _C.layer_counts(list(densities), list(sizes), -1 if total is None else total, minimum)


def topk_mask(scores: torch.Tensor, k: int, candidates: torch.Tensor | None = None) -> torch.Tensor:
    """Bool mask of the ``k`` largest of ``scores``; at a tie the lower index wins.

    Args:
        scores: float tensor of any shape.
        k: how many.
        candidates: bool, only these may be chosen (default: all).

    >>> topk_mask(torch.tensor([0.1, 3.0, 2.0, 2.0]), 2)
    tensor([False,  True,  True, False])
    """
    masks: list[torch.Tensor] = torch.ops.glyptic.topk_masks(
        [scores], [], [] if candidates is None else [candidates], [], [k], score="raw"
    )
    return masks[0]


def prune_and_grow(
    weight: torch.Tensor,
    mask: torch.Tensor,
    grad: torch.Tensor,
    count: int,
    states: Sequence[torch.Tensor] = (),
) -> tuple[int, int]:
    """One RigL event, in place: drops the ``count`` smallest active weights, grows by the largest ``|grad|``.

    Whatever is not kept is a candidate for growth, what was dropped a moment ago too: regrown, it keeps its weight and
    state. Returns how many were dropped and grown in effect.

    >>> w = torch.tensor([[0.9, -0.05, 0.4, 0.3, -0.2, 0, 0, 0, 0, 0]])
    >>> g = torch.tensor([[0.1, 0.8, 0.2, 0, 0.05, -0.7, 0.9, 0.1, 0, -0.3]])
    >>> m = w != 0
    >>> prune_and_grow(w, m, g, 2)
    (1, 1)
    >>> m.nonzero()[:, 1].tolist()
    [0, 1, 2, 3, 6]
    """
    active = int(mask.sum())
    if not 0 <= count <= active:
        raise _C.ArgumentError(f"count is {count}, expected 0 to {active}, the number of active weights")
    with torch.no_grad():
        ops = torch.ops.glyptic
        kept = ops.topk_masks([weight], [], [mask], [], [active - count], score="magnitude")
        grown = ops.topk_masks([grad], [], [], kept, [count], score="magnitude")
        new = kept[0] | grown[0]
        row = ops.mask_update_([weight], [mask], list(states), [len(states)], [new])[0].tolist()
    return int(row[0]), int(row[1])


def channel_scores(weight: torch.Tensor, mask: torch.Tensor | None = None, score: str = "umm") -> torch.Tensor:
    """One number per output channel (row) of ``weight``; float32 ``[C]``.

    ``umm``: mean of ``|w|`` over all positions, masked zeros included (Chase, arXiv 2305.19454); ``masked_mean``: over
    the kept ones; ``density``: share of nonzero weights; ``kernel_density``: share of kernels with a nonzero weight.

    >>> channel_scores(torch.tensor([[1.0, 0.0], [2.0, -4.0]])).tolist()
    [0.5, 3.0]
    """
    masks = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask
    scores: list[torch.Tensor] = torch.ops.glyptic.channel_scores([weight], [masks], score=score)
    return scores[0]
