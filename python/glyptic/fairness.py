r"""Training that treats groups alike: sample weights, losses, samplers. Metrics are in :mod:`glyptic.metrics`.

Groups and labels are ids from 0, int64 ``[N]``.

>>> import torch, glyptic
>>> s, y = torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 0, 0])
>>> glyptic.fairness.fair_sample_weights(s, y, "group")
tensor([0.6667, 0.6667, 0.6667, 2.0000], dtype=torch.float64)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch

from . import _C

__all__ = [
    "AccuracyGap",
    "FairnessGap",
    "GroupBalancedSampler",
    "GroupDRO",
    "fair_mixup_penalty",
    "fair_sample_weights",
    "undersample",
]

Kind = Literal["group", "reweighing", "group_label", "custom"]


def _ids(values: Any, what: str, limit: int | None = None) -> torch.Tensor:
    ids = torch.as_tensor(values)
    if ids.is_floating_point():
        raise _C.ArgumentError(f"{what} are of {ids.dtype}; give integer ids from 0")
    if ids.dim() != 1 or len(ids) == 0:
        raise _C.ArgumentError(f"{what} have shape {tuple(ids.shape)}, expected [N] with N >= 1")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (limit is not None and high >= limit):
        known = "0 or more" if limit is None else f"0 to {limit - 1}, those of the training set"
        raise _C.ArgumentError(f"{what} hold the id {low if low < 0 else high}, expected {known}")
    return ids.long()


def _cell_weights(
    groups: torch.Tensor, labels: torch.Tensor, kind: str, sample_weight: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, int]]]:
    weights, cells, empty = _C.fair_sample_weights(groups, labels, kind, sample_weight, 0, 0)
    if empty:
        names = ", ".join(f"group {s}" if y < 0 else f"(group {s}, class {y})" for s, y in empty)
        warnings.warn(f"fair weights: there is no sample of {names}; the others share the weight", stacklevel=3)
    return weights, cells, empty


def fair_sample_weights(
    groups: Any, labels: Any = None, kind: Kind = "group", sample_weight: Any = None
) -> torch.Tensor:
    r"""Weights of training samples that take group sizes out of the loss. float64 ``[N]``, mean 1.

    ``"group"``
        :math:`1 / (G\,P(s))`: groups have equal totals.
    ``"reweighing"``
        :math:`P(s) P(y) / P(s, y)`: group and class are independent (Kamiran & Calders 2012, as AIF360 computes it).
    ``"group_label"``
        :math:`1 / (\text{non-empty cells} \cdot P(s, y))`: (group, class) cells have equal totals.
    ``"custom"``
        ``sample_weight``, scaled to mean 1.

    A cell or group without a sample is named in a warning; where ``reweighing`` meets one, weights are scaled back to
    mean 1 (AIF360 leaves them below). With ``sample_weight`` probabilities are weighted, and the result is multiplied.

    >>> y = torch.tensor([1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0])
    >>> s = torch.tensor([0] * 6 + [1] * 6)
    >>> w = fair_sample_weights(s, y, "reweighing")
    >>> [round(float(w[i]), 4) for i in (3, 0, 8, 6)], round(float(w.sum()), 9)
    ([1.1667, 0.8333, 0.875, 1.25], 12.0)
    """
    s = _ids(groups, "groups")
    given = None if sample_weight is None else torch.as_tensor(sample_weight).double()
    if kind == "custom":
        if given is None:
            raise _C.ArgumentError("fair_sample_weights: kind='custom' needs sample_weight")
        if given.shape != s.shape or not bool((torch.isfinite(given) & (given >= 0)).all()) or not float(given.sum()) > 0:
            raise _C.ArgumentError(f"sample_weight must be {len(s)} finite numbers >= 0, not all 0")
        return given / given.mean()
    if labels is None and kind != "group":
        raise _C.ArgumentError(f"fair_sample_weights: kind={kind!r} needs labels")
    weights = _cell_weights(s, torch.zeros_like(s) if labels is None else _ids(labels, "labels"), kind, given)[0]
    return weights


def _losses(losses: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    ids = torch.as_tensor(groups, device=losses.device)
    if ids.is_floating_point():
        raise _C.ArgumentError(f"groups are of {ids.dtype}; give integer ids from 0")
    if losses.dim() != 1 or ids.shape != losses.shape:
        raise _C.ArgumentError(
            f"losses have shape {tuple(losses.shape)}, groups {tuple(ids.shape)}; expected [B] both (reduction='none')"
        )
    return ids.long()


def _group_means(values: torch.Tensor, groups: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of each group (0 where there is none), and whether there is one. Half precision is summed in float32."""
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    sums = torch.zeros(count, dtype=wide.dtype, device=wide.device).index_add(0, groups, wide)
    sizes = torch.zeros_like(sums).index_add(0, groups, torch.ones_like(wide).detach())
    return sums / sizes.clamp_min(1), sizes > 0


class GroupDRO(torch.nn.Module):
    r"""Group distributionally robust loss (arXiv 1911.08731; implemented from released code).

    .. math:: q_g \leftarrow q_g \exp(\eta\,(L_g + C/\sqrt{n_g})), \text{ normalised}, \qquad
        L = \sum_g q_g\,(L_g + C/\sqrt{n_g})

    with :math:`L_g` the mean loss of group g in the batch, 0 where there is none, and q held constant in the gradient. As in
    the released code the adjustment :math:`C/\sqrt{n_g}` is part of the loss value, and is added only if all are positive.
    ``groups`` are what shall be equal: groups, or (group, class) cells. The paper pairs it with strong weight decay and
    group-balanced sampling (:class:`GroupBalancedSampler`). In train mode with gradients on, each call moves q (a buffer, so
    ``state_dict`` has it): with an optimizer that evaluates twice a step, twice.

    Args:
        counts: training samples of each group ``[G]``.
        eta: step size of q.
        adjustment: C, one number or one for each group.

    >>> dro = GroupDRO(counts=[90, 10], eta=1.0)
    >>> loss = dro(torch.tensor([0.0, 2.0]), torch.tensor([0, 1]))
    >>> [round(v, 4) for v in dro.q.tolist()], round(float(loss), 4)
    ([0.1192, 0.8808], 1.7616)
    """

    q: torch.Tensor
    adjustment: torch.Tensor

    def __init__(self, counts: Any, eta: float = 0.01, adjustment: Any = 0.0) -> None:
        super().__init__()
        sizes = torch.as_tensor(counts, dtype=torch.float64)
        if sizes.dim() != 1 or not bool((sizes > 0).all()):
            raise _C.ArgumentError(f"GroupDRO: counts are {sizes.tolist()}, expected a positive number for each group")
        if not eta >= 0:
            raise _C.ArgumentError(f"GroupDRO: eta is {eta}, expected a number >= 0")
        self.eta = eta
        self.register_buffer("q", torch.full_like(sizes, 1 / len(sizes)).float())
        c = torch.as_tensor(adjustment, dtype=torch.float64).expand(len(sizes))
        self.register_buffer("adjustment", (c / sizes.sqrt()).float() if bool((c > 0).all()) else torch.zeros_like(self.q))

    def forward(self, losses: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        """From losses ``[B]`` and groups ``[B]`` to the scalar to minimize."""
        ids = _losses(losses, groups)
        if int(ids.max()) >= len(self.q) or int(ids.min()) < 0:
            raise _C.ArgumentError(f"GroupDRO: groups hold {int(ids.max())}, but there are {len(self.q)} groups")
        means, _ = _group_means(losses, ids, len(self.q))
        means = means + self.adjustment
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                q = self.q * torch.exp(self.eta * means)
                self.q.copy_(q / q.sum())
        return (self.q.to(means.dtype).clone() * means).sum()


def _gap(values: torch.Tensor, groups: torch.Tensor, keep: torch.Tensor | None, count: int) -> torch.Tensor:
    if keep is not None:
        values, groups = values[keep], groups[keep]
    means, present = _group_means(values, groups, count)
    here = means[present]
    return here.max() - here.min() if len(here) > 1 else values.sum() * 0


class FairnessGap(torch.nn.Module):
    r"""Mean loss plus ``lmbda`` times a differentiable gap between groups (the usual surrogate; from secondary sources).

    ``notion``: ``demographic_parity`` takes :math:`|\overline{p}_{s=1} - \overline{p}_{s=0}|` of scores :math:`p`,
    ``equal_opportunity`` the same of samples with ``y = 1``, ``equalized_odds`` the mean of that and of ``y = 0``. More
    groups: largest minus smallest. ``form="covariance"`` takes :math:`|\overline{(s - \overline{s}) p}|` of two groups
    instead. A group that the batch lacks makes the term 0; ``missing`` counts such batches.

    >>> losses, scores = torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25])
    >>> FairnessGap(lmbda=2.0)(losses, scores, torch.tensor([0, 1])).item()
    1.5
    """

    def __init__(
        self,
        lmbda: float = 1.0,
        notion: Literal["demographic_parity", "equal_opportunity", "equalized_odds"] = "demographic_parity",
        form: Literal["gap", "covariance"] = "gap",
    ) -> None:
        super().__init__()
        if not lmbda >= 0:
            raise _C.ArgumentError(f"FairnessGap: lmbda is {lmbda}, expected a number >= 0")
        if notion not in ("demographic_parity", "equal_opportunity", "equalized_odds"):
            raise _C.ArgumentError(
                f"FairnessGap: notion is {notion!r}, expected demographic_parity, equal_opportunity or equalized_odds"
            )
        if form not in ("gap", "covariance"):
            raise _C.ArgumentError(f"FairnessGap: form is {form!r}, expected gap or covariance")
        self.lmbda, self.notion, self.form, self.missing = lmbda, notion, form, 0

    def penalty(self, scores: torch.Tensor, groups: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """The gap alone. ``scores`` ``[B]``: probabilities of the positive class, or logits."""
        ids = _losses(scores, groups)
        if self.notion != "demographic_parity" and labels is None:
            raise _C.ArgumentError(f"FairnessGap: notion={self.notion!r} needs labels")
        count = max(2, int(ids.max()) + 1)
        if self.form == "covariance" and count > 2:
            raise _C.ArgumentError("FairnessGap: form='covariance' is of two groups")

        def term(keep: torch.Tensor | None) -> torch.Tensor:
            s, p = (ids, scores) if keep is None else (ids[keep], scores[keep])
            if int(s.min() if len(s) else 0) == int(s.max() if len(s) else 0):
                self.missing += 1
                return scores.sum() * 0
            if self.form == "covariance":
                return ((s - s.double().mean()).to(p.dtype) * p).mean().abs()
            return _gap(p, s, None, count)

        if self.notion == "demographic_parity":
            return term(None)
        assert labels is not None
        positive = torch.as_tensor(labels, device=scores.device) == 1
        return term(positive) if self.notion == "equal_opportunity" else (term(positive) + term(~positive)) / 2

    def forward(
        self, losses: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """From losses, scores and groups, ``[B]`` each, to the scalar to minimize."""
        return losses.mean() + self.lmbda * self.penalty(scores, groups, labels)


class AccuracyGap(torch.nn.Module):
    r"""Mean loss plus ``lmbda`` times the gap of the groups' mean losses, :math:`L + \lambda |L_1 - L_0|`.

    More groups: largest minus smallest. A batch of one group has no gap.

    >>> AccuracyGap(lmbda=0.5)(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 1])).item()
    2.75
    """

    def __init__(self, lmbda: float = 1.0) -> None:
        super().__init__()
        if not lmbda >= 0:
            raise _C.ArgumentError(f"AccuracyGap: lmbda is {lmbda}, expected a number >= 0")
        self.lmbda = lmbda

    def forward(self, losses: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        """From losses and groups, ``[B]`` both, to the scalar to minimize."""
        ids = _losses(losses, groups)
        return losses.mean() + self.lmbda * _gap(losses, ids, None, int(ids.max()) + 1)


def fair_mixup_penalty(
    score: Callable[[torch.Tensor], torch.Tensor], x0: torch.Tensor, x1: torch.Tensor, t: float
) -> torch.Tensor:
    r"""Fair Mixup's path penalty (arXiv 2103.06503; from secondary sources).

    .. math:: \Big|\tfrac1n \sum_i \langle \nabla_x f(x_t^i),\, x_0^i - x_1^i\rangle\Big|, \qquad x_t = t x_0 + (1 - t) x_1

    Args:
        score: from inputs to ``[n]``.
        x0, x1: as many samples of each of two groups.
        t: drawn uniformly from [0, 1] by the caller.

    Add it to the loss times 1 to 50. Costs a double backward pass.

    >>> x0, x1 = torch.ones(3, 2), torch.zeros(3, 2)
    >>> fair_mixup_penalty(lambda x: x @ torch.tensor([2.0, -5.0]), x0, x1, 0.3).item()
    3.0
    """
    if x0.shape != x1.shape:
        raise _C.ArgumentError(f"fair_mixup_penalty: shapes {tuple(x0.shape)} and {tuple(x1.shape)} differ")
    if not 0 <= t <= 1:
        raise _C.ArgumentError(f"fair_mixup_penalty: t is {t}, expected a number from 0 to 1")
    x = (t * x0 + (1 - t) * x1).detach().requires_grad_()
    (slope,) = torch.autograd.grad(score(x).sum(), x, create_graph=True)
    return (slope * (x0 - x1)).flatten(1).sum(1).mean().abs()


class GroupBalancedSampler(torch.utils.data.Sampler[int]):
    """Indices with replacement, every group equally often in expectation. An epoch has as many as there are samples.

    Seed and epoch (:meth:`set_epoch`) decide the order.

    >>> sampler = GroupBalancedSampler(torch.tensor([0] * 90 + [1] * 10), seed=1)
    >>> drawn = torch.tensor(list(sampler))
    >>> len(drawn), 30 < int((drawn >= 90).sum()) < 70
    (100, True)
    """

    def __init__(self, groups: Any, *, seed: int = 0, num_samples: int | None = None) -> None:
        ids = _ids(groups, "groups")
        self.weights = 1 / torch.bincount(ids).double()[ids]
        self.num_samples, self.seed, self.epoch = len(ids) if num_samples is None else num_samples, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Another order for another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed << 32) + self.epoch)
        yield from torch.multinomial(self.weights, self.num_samples, True, generator=generator).tolist()


def undersample(groups: Any, seed: int = 0) -> torch.Tensor:
    """Indices, ascending, of a random subset in which every group has as many samples as the smallest.

    >>> undersample(torch.tensor([0, 0, 0, 0, 1, 1]), seed=3).shape
    torch.Size([4])
    """
    ids = _ids(groups, "groups")
    counts = torch.bincount(ids)
    least = int(counts[counts > 0].min())
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for g in counts.nonzero().flatten().tolist():
        rows = (ids == g).nonzero().flatten()
        parts.append(rows[torch.randperm(len(rows), generator=generator)[:least]])
    return torch.cat(parts).sort().values
