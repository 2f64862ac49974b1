"""FairSAM: sharpness-aware steps that weigh groups. The paper's method section was not available: three readings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch.amp.grad_scaler import GradScaler

from .. import _C
from ..fairness import _cell_weights, _ids
from ._objective import Closure, Objective, modules_in, statistics_of
from ._optimizer import SharpnessOptimizer, _Base

Mode = Literal["reweighted", "per_group", "adaptive"]
Batch = torch.Tensor | Sequence[torch.Tensor] | None


class FairSAM(SharpnessOptimizer):
    r"""SAM on a loss in which groups weigh alike (arXiv 2503.22934; **reconstruction**).

    Of the paper only the abstract and a summary were available: that fairness enters SAM by reweighting samples. How is not
    known, so there are three readings; none of them claims to be the paper's. ``mode``:

    ``"reweighted"`` (default)
        SAM on :math:`L_w(\theta) = \frac1{|B|} \sum_{i\in B} w_i \ell_i(\theta)`, mean of :math:`w` over the training set 1.
        With ``weights="reweighing"`` this *is* reweighing followed by SAM. Costs what SAM costs.
    ``"per_group"``
        An ascent for each group of the batch on its own mean loss :math:`L_g`, and one step with the mixture:
        :math:`d = \sum_g \pi_g \nabla L_g(\theta + \rho \nabla L_g / \lVert\nabla L_g\rVert)`. 1 + G forward passes, 2G
        backward passes, G copies of the gradient.
    ``"adaptive"``
        Reweighted by :math:`w_i = q_{s_i} / P(s_i)`, where :math:`q` grows for groups whose loss rose most in the ascent:
        :math:`q_g \leftarrow q_g \exp(\eta_q h_g)`, normalised, :math:`h_g = L_g(\theta + \epsilon) - L_g(\theta)` clamped to
        [0, ``h_max``], 0 for groups that the batch lacks.

    The radius has to be tuned: a too large one costs more accuracy here than in SAM.

    Args:
        params, base_optimizer, model, rho, ...: as in :class:`SAM`.
        groups, labels: of the *training set*, ids from 0: int64 ``[N]``. Weights are computed from them once, and saved
            with the state; :meth:`fit` does it later, or again for another set. Labels may be left out for
            ``weights="group"``.
        weights: ``"group"``, ``"reweighing"``, ``"group_label"`` (see :func:`glyptic.fairness.fair_sample_weights`), or
            ``"custom"``: then each step is given ``sample_weight``. ``per_group`` and ``adaptive`` do not use it.
        reweigh_in: ``"both"`` passes, or only the ``"ascent"`` or the ``"descent"``; the other takes the plain mean.
        normalize_in_batch: divide by the sum of the batch's weights instead of by its size.
        group_prior: pi of ``per_group``: ``"uniform"``, ``"population"`` (P(s)), or a number per group; over the groups
            that are present.
        joint_bn: in ``per_group``, whether each forward pass sees the whole batch. ``False`` passes each group's samples by
            themselves (the closure takes a keyword ``rows``): BatchNorm then normalises by groups, and its running
            statistics move once for each.
        eta_q, h_max: of ``adaptive``.

    Raises:
        ArgumentError: groups or labels missing, of another length or outside the training set's, floating; bad weights.

    >>> import torch, glyptic
    >>> model = torch.nn.Linear(4, 2)
    >>> s, y = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 0])
    >>> optimizer = glyptic.sharpness.FairSAM(model.parameters(), torch.optim.SGD, groups=s, labels=y, rho=0.05, lr=0.1)
    >>> x = torch.ones(4, 4)
    >>> def closure():
    ...     return torch.nn.functional.cross_entropy(model(x), y, reduction="none")
    >>> loss = optimizer.step(closure, s, y)
    >>> [round(w, 4) for w in optimizer.cell_weights[:, 0].tolist()]
    [0.6667, 2.0]
    """

    method = "sam"
    source = "reconstruction"

    def __init__(
        self,
        params: Any,
        base_optimizer: type[torch.optim.Optimizer] | torch.optim.Optimizer | Callable[..., torch.optim.Optimizer],
        *,
        groups: Any = None,
        labels: Any = None,
        weights: Literal["group", "reweighing", "group_label", "custom"] = "group",
        mode: Mode = "reweighted",
        reweigh_in: Literal["both", "ascent", "descent"] = "both",
        normalize_in_batch: bool = False,
        group_prior: Literal["uniform", "population"] | Sequence[float] = "uniform",
        joint_bn: bool = True,
        eta_q: float = 0.01,
        h_max: float = 1.0,
        model: torch.nn.Module | None = None,
        **keywords: Any,
    ) -> None:
        def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
            if value not in allowed:
                raise _C.ArgumentError(f"FairSAM: {name} is {value!r}, expected {', '.join(allowed[:-1])} or {allowed[-1]}")

        one_of("mode", mode, ("reweighted", "per_group", "adaptive"))
        one_of("weights", weights, ("group", "reweighing", "group_label", "custom"))
        one_of("reweigh_in", reweigh_in, ("both", "ascent", "descent"))
        if isinstance(group_prior, str):
            one_of("group_prior", group_prior, ("uniform", "population"))
        if not (eta_q >= 0 and h_max >= 0):
            raise _C.ArgumentError(f"FairSAM: eta_q is {eta_q}, h_max {h_max}; expected numbers >= 0")
        self._fair: dict[str, Any] = {
            "weights": weights, "mode": mode, "reweigh_in": reweigh_in, "normalize_in_batch": normalize_in_batch,
            "group_prior": group_prior, "joint_bn": joint_bn, "eta_q": eta_q, "h_max": h_max,
        }  # fmt: skip
        self._tables: dict[str, torch.Tensor] = {}
        self._given: list[_Given] = []
        self._statistics: list[torch.Tensor] = []
        super().__init__(params, base_optimizer, model=model, **keywords)
        if mode == "per_group" and self.options["loss_weight_decay"] != 0:
            raise _C.ArgumentError("FairSAM: loss_weight_decay does not go with mode='per_group'; use the base optimizer's")
        if groups is not None:
            self.fit(groups, labels)

    def fit(self, groups: Any, labels: Any = None) -> None:
        """Computes weights and group shares from the training set. ``adaptive`` starts anew at q = 1 / G."""
        s = _ids(groups, "groups")
        kind = "group" if self._fair["weights"] == "custom" else self._fair["weights"]
        if labels is None and kind != "group":
            raise _C.ArgumentError(f"FairSAM: weights={kind!r} needs the labels of the training set")
        _, cells, empty = _cell_weights(s, torch.zeros_like(s) if labels is None else _ids(labels, "labels"), kind, None)
        counts = torch.bincount(s).double()
        if bool((counts == 0).any()):
            raise _C.ArgumentError(f"FairSAM: group {int((counts == 0).nonzero()[0])} has no sample in the training set")
        prior = self._fair["group_prior"]
        if not isinstance(prior, str):
            given = torch.tensor([float(v) for v in prior], dtype=torch.float64)
            if len(given) != len(counts) or not bool((given >= 0).all()) or not float(given.sum()) > 0:
                raise _C.ArgumentError(f"FairSAM: group_prior {list(prior)}, expected {len(counts)} numbers >= 0, not all 0")
        else:
            given = counts if prior == "population" else torch.ones_like(counts)
        self._tables = {
            "cells": cells,
            "shares": counts / counts.sum(),
            "q": torch.full_like(counts, 1 / len(counts)),
            "prior": given / given.sum(),
            "labelled": torch.tensor(labels is not None),
        }

    @property
    def cell_weights(self) -> torch.Tensor:
        """float64 ``[groups, classes]``: the weight of a training sample of group s and class y; 0 where there was none."""
        return self._table("cells").clone()

    @property
    def q(self) -> torch.Tensor:
        """float64 ``[groups]``: the weights of groups in ``mode="adaptive"``, sum 1."""
        return self._table("q").clone()

    def _table(self, name: str) -> torch.Tensor:
        if not self._tables:
            raise _C.ArgumentError("FairSAM does not know the training set: give groups= (and labels=), or call fit()")
        return self._tables[name]

    # ------------------------------------------------------------------------------------------------------------ steps

    def step(  # type: ignore[override]
        self,
        closure: Closure | None = None,
        groups: Batch = None,
        labels: Batch = None,
        *,
        sample_weight: Batch = None,
        scaler: GradScaler | None = None,
        batches: Sequence[Any] | None = None,
    ) -> torch.Tensor:
        """One step on one batch. Returns the plain mean loss of the first pass (weighted where that pass is).

        Args:
            closure: returns one loss per sample, ``[B]`` (``reduction="none"``).
            groups, labels: of the batch, as ids of the training set; with ``batches`` one tensor for each micro-batch.
            sample_weight: in place of the computed weights, >= 0. Their mean over the training set should be 1.
            scaler, batches: as in :meth:`SAM.step`; not in ``mode="per_group"``.
        """
        count = 1 if batches is None else len(batches)
        self._given = [
            self._look_up(g, y, w)
            for g, y, w in zip(
                _split(groups, count, "groups"),
                _split(labels, count, "labels"),
                _split(sample_weight, count, "sample_weight"),
                strict=True,
            )
        ]
        try:
            if self._fair["mode"] == "per_group":
                if scaler is not None and scaler.is_enabled() or batches is not None:
                    raise _C.ArgumentError("FairSAM: mode='per_group' takes neither a loss scaler nor micro-batches")
                return self._per_group_step(closure)
            return self._full_step(closure, scaler, batches)
        finally:
            self._given = []

    def _look_up(self, groups: Any, labels: Any, sample_weight: Any) -> _Given:
        mode, device = self._fair["mode"], self._parameters[0].device
        if sample_weight is not None:
            if mode != "reweighted":
                raise _C.ArgumentError(f"FairSAM: sample_weight does not go with mode={mode!r}")
            w = torch.as_tensor(sample_weight, device=device).double()
            if w.dim() != 1 or not bool((torch.isfinite(w) & (w >= 0)).all()):
                raise _C.ArgumentError("FairSAM: sample_weight must be [B], finite and >= 0")
            return _Given(w, None)
        if self._fair["weights"] == "custom" and mode == "reweighted":
            raise _C.ArgumentError("FairSAM: weights='custom' needs sample_weight in each step")
        if groups is None:
            raise _C.ArgumentError("FairSAM.step needs the groups of the batch: step(closure, groups, labels)")
        self._tables = {k: v.to(device) for k, v in self._tables.items()}
        cells = self._table("cells")
        s = _ids(groups, "groups", cells.shape[0]).to(device)
        if mode == "adaptive":
            return _Given((self._table("q") / self._table("shares"))[s], s)
        if mode == "per_group":
            return _Given(None, s)
        if not bool(self._table("labelled")):
            return _Given(cells[s, 0], s)
        if labels is None:
            raise _C.ArgumentError("FairSAM.step needs the labels of the batch: step(closure, groups, labels)")
        y = _ids(labels, "labels", cells.shape[1]).to(device)
        if len(y) != len(s):
            raise _C.ArgumentError(f"FairSAM: {len(s)} groups and {len(y)} labels in one batch")
        w = cells[s, y]
        if bool((w == 0).any()):
            i = int((w == 0).nonzero()[0])
            raise _C.ArgumentError(f"FairSAM: the training set has no sample of group {int(s[i])} and class {int(y[i])}; fit again")
        return _Given(w, s)

    def _objective(
        self,
        closure: Closure,
        batches: Sequence[Any] | None,
        scaler: GradScaler | None,
        masks: list[torch.Tensor | None] | None,
        gradient_only: bool,
    ) -> Objective:
        if not self._given:
            raise _C.ArgumentError("FairSAM.step needs the groups of the batch: step(closure, groups, labels)")
        start, interval = self.options["start_step"], self.options["interval"]
        done = self._core.steps
        ascends = done >= start and (done - start) % interval == 0
        return _FairObjective(self._parameters, closure, batches, scaler, self._ddp, self._given, self._fair, ascends)

    def _step(self, closure: Closure | None, **keywords: Any) -> _C.SharpnessResult:
        if self._fair["mode"] == "per_group":
            raise _C.ArgumentError("FairSAM: mode='per_group' does not take a sparsifier along; use reweighted or adaptive")
        if self._fair["mode"] != "adaptive" or not self._given:
            return super()._step(closure, **keywords)
        sums: list[torch.Tensor] = [torch.zeros(3, len(self._table("q")), dtype=torch.float64, device=self._table("q").device)]
        for given in self._given:
            given.sums = sums[0]
        result = super()._step(closure, **keywords)
        if result.ascended and not result.skipped:
            self._update_q(sums[0])
        return result

    def _update_q(self, sums: torch.Tensor) -> None:
        if self._ddp is not None:
            torch.distributed.all_reduce(sums, group=self._ddp.process_group)
        before, after, count = sums
        h = torch.where(count > 0, (after - before) / count.clamp_min(1), 0.0).clamp(0, self._fair["h_max"])
        q = self._table("q") * torch.exp(self._fair["eta_q"] * h)
        self._tables["q"] = q / q.sum()

    def _take_modules(self, modules: list[torch.nn.Module]) -> None:
        super()._take_modules(modules)
        self._statistics = statistics_of(modules)

    def _per_group_step(self, closure: Closure | None) -> torch.Tensor:
        if closure is None:
            raise _C.ArgumentError("FairSAM.step needs a closure that returns one loss per sample")
        if self._sparsifier is not None and self._sparsifier() is not None:
            raise _C.ArgumentError("FairSAM: mode='per_group' does not take a sparsifier along; use reweighted or adaptive")
        if not self._know_modules and (modules := modules_in(closure, self._parameters)):
            self._take_modules(modules)
        run = closure if self._know_modules else self._looking_at_modules(closure)
        self._apply_rho()
        s = self._given[0].groups
        assert s is not None
        counts = torch.bincount(s, minlength=len(self._table("q"))).double()
        if self._ddp is not None:  # groups and their means are those of all processes
            torch.distributed.all_reduce(counts, group=self._ddp.process_group)
        present = counts.nonzero().flatten().tolist()
        prior = self._table("prior")[present]
        if not float(prior.sum()) > 0:
            raise _C.ArgumentError(f"FairSAM: group_prior is 0 for all groups of the batch ({present})")
        pi = (prior / prior.sum()).tolist()
        parameters, joint = self._parameters, self._fair["joint_bn"]
        random = _Generators(parameters)

        def forward(rows: torch.Tensor | None) -> torch.Tensor:
            random.reset()
            with torch.enable_grad():
                losses = run() if rows is None else run(rows=rows)
            return _per_sample(losses, len(s) if rows is None else len(rows))

        def mean_of(losses: torch.Tensor, group: int) -> torch.Tensor:
            here = (losses * (s == group)).sum() if joint else losses.sum()
            return here / float(counts[group])

        def gradient(loss: torch.Tensor, again: bool) -> list[torch.Tensor | None]:
            wanted = [p for p in parameters if p.requires_grad]
            found = iter(torch.autograd.grad(loss, wanted, retain_graph=again, allow_unused=True))
            grads = [next(found) if p.requires_grad else None for p in parameters]
            if self._ddp is not None:
                for grad in grads:
                    if grad is not None:
                        torch.distributed.all_reduce(grad, group=self._ddp.process_group)
            return grads

        def rows_of(group: int) -> torch.Tensor | None:
            return None if joint else (s == group).nonzero().flatten()

        base, rates = _Base(self, None, None), self._rates()
        sync = self._ddp.require_backward_grad_sync if self._ddp is not None else True
        saved: list[torch.Tensor] = []
        total: list[torch.Tensor | None] = [None] * len(parameters)
        value: torch.Tensor | None = None
        try:
            if self._ddp is not None:
                self._ddp.require_backward_grad_sync = False  # gradients of groups are summed here
            ascents = []
            if joint:
                losses = forward(None)
                value = losses.detach().mean()
                for g in present:
                    ascents.append(gradient(mean_of(losses, g), again=g != present[-1]))
                del losses
            else:
                value = torch.zeros((), device=s.device)
                for g in present:
                    losses = forward(rows_of(g))
                    value = value + losses.detach().sum() / len(s)
                    ascents.append(gradient(mean_of(losses, g), again=False))
            saved = [b.clone() for b in self._statistics]
            for k, g in enumerate(present):
                for p, grad in zip(parameters, ascents[k], strict=True):
                    p.grad = grad
                ascents[k] = []
                with torch.no_grad():
                    self._core.first_step(base, rates, [])
                for i, grad in enumerate(gradient(mean_of(forward(rows_of(g)), g), again=False)):
                    if grad is not None:
                        total[i] = grad * pi[k] if total[i] is None else total[i].add_(grad, alpha=pi[k])  # type: ignore[union-attr]
                if k + 1 < len(present):
                    self._core.cancel()
            for p, grad in zip(parameters, total, strict=True):
                p.grad = grad
            with torch.no_grad():
                self._core.second_step(base, rates)
        except BaseException:
            self._core.cancel()
            raise
        finally:
            with torch.no_grad():
                for buffer, old in zip(self._statistics, saved, strict=False):
                    buffer.copy_(old)
            if self._ddp is not None:
                self._ddp.require_backward_grad_sync = sync
        return value

    # ------------------------------------------------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """As of :class:`SAM`, and under ``"fair"`` the weights of the training set and q."""
        return {**super().state_dict(), "fair": {k: v.clone() for k, v in self._tables.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` gave. Weights and q of the training set come back with it."""
        state = dict(state_dict)
        fair = state.pop("fair", None)
        if fair and self._tables and fair["cells"].shape != self._tables["cells"].shape:
            raise _C.ArgumentError(
                f"FairSAM: the saved weights are of {tuple(fair['cells'].shape)} groups and classes, the training set here has "
                f"{tuple(self._tables['cells'].shape)}"
            )
        super().load_state_dict(state)
        if fair is not None:
            self._tables = {k: v.clone() for k, v in fair.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "fair": self._fair, "tables": self._tables}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self._fair, self._tables, self._given, self._statistics = saved["fair"], saved["tables"], [], []
        super().__setstate__(saved)


class _Given:
    """Of one micro-batch: weight and group of each sample, and where adaptive collects (before, after, count)."""

    def __init__(self, weights: torch.Tensor | None, groups: torch.Tensor | None) -> None:
        self.weights, self.groups = weights, groups
        self.sums: torch.Tensor | None = None


class _FairObjective(Objective):
    reduces = True

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        closure: Closure,
        batches: Sequence[Any] | None,
        scaler: GradScaler | None,
        ddp: torch.nn.parallel.DistributedDataParallel | None,
        given: list[_Given],
        fair: dict[str, Any],
        ascends: bool,
    ) -> None:
        super().__init__(parameters, closure, batches, scaler, ddp)
        self._given, self._fair, self._ascends = given, fair, ascends

    def reduce(self, losses: torch.Tensor, batch: int, second: bool) -> torch.Tensor:
        given = self._given[batch]
        assert given.weights is not None
        losses = _per_sample(losses, len(given.weights))
        if given.sums is not None and given.groups is not None:
            with torch.no_grad():
                given.sums[int(second)].index_add_(0, given.groups, losses.detach().double())
                if not second:
                    given.sums[2].index_add_(0, given.groups, torch.ones_like(losses, dtype=torch.float64))
        # The one pass of a step without an ascent is what the base steps with.
        part = "descent" if second or not self._ascends else "ascent"
        if self._fair["reweigh_in"] not in ("both", part):
            return losses.mean()
        w = given.weights.to(losses.dtype)
        if not self._fair["normalize_in_batch"]:
            return (w * losses).mean()
        total = w.sum()
        return (w * losses).sum() / torch.where(total > 0, total, torch.ones_like(total))


def _per_sample(losses: Any, size: int) -> torch.Tensor:
    if not isinstance(losses, torch.Tensor) or losses.shape != (size,):
        shape = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
        raise _C.ArgumentError(
            f"FairSAM needs one loss per sample: the batch has {size}, the closure returned {shape}; use reduction='none'"
        )
    return losses


def _split(given: Any, count: int, what: str) -> list[Any]:
    if given is None:
        return [None] * count
    if isinstance(given, (list, tuple)) and given and isinstance(given[0], torch.Tensor) and given[0].dim() > 0:
        if len(given) != count:
            raise _C.ArgumentError(f"FairSAM: {what} of {len(given)} micro-batches, but there are {count}")
        return list(given)
    if count != 1:
        raise _C.ArgumentError(f"FairSAM: {what} must be a list with one tensor for each of the {count} micro-batches")
    return [given]


class _Generators:
    """Every forward pass of a step draws the same random numbers."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = {d: torch.cuda.get_rng_state(d) for d in {p.device for p in parameters if p.is_cuda}}

    def reset(self) -> None:
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)
