"""M-SAM: the SAM step weighted by how much of a batch's performance its strongest modality makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional as F

from .. import _C
from ..sharpness import SharpnessOptimizer
from ..sharpness._objective import Closure, Objective, modules_in, statistics_of
from ._shapley import (
    Forward,
    MaskValue,
    ModalityMask,
    Subset,
    _subsets,
    _weighted,
    check_batch,
    encoder_parameters,
    eval_mode,
    mono_modal_logits,
    recorded,
    require_features,
    unwrapped,
    wide,
)

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
ValueFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _accuracy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.argmax(-1) == targets


def _true_prob(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return wide(logits).softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def _true_logit(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def _neg_loss_gain(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return math.log(logits.shape[-1]) - F.cross_entropy(wide(logits), targets, reduction="none")


VALUES: dict[str, ValueFunction] = {
    "accuracy": _accuracy,
    "true_prob": _true_prob,
    "true_logit": _true_logit,
    "neg_loss_gain": _neg_loss_gain,
}
_MODES = ("eval", "agm", "cached")


@dataclass
class MSAMStats:
    """What one step of :class:`ModalityAwareSAM` saw."""

    loss: torch.Tensor
    """Mean loss of pass 1 over the batch, detached."""
    phi: dict[str, float]
    """Shapley value of each modality, as it was last computed; empty before the first ascent."""
    nu: dict[str, float]
    """Its share; sums to 1."""
    dominant: str
    """The modality with the largest share; the first of equals."""
    gradient_norm: torch.Tensor | None
    """float64 [1], norm of the gradient at w that the ascent went along."""
    combined_norm: torch.Tensor | None
    """float64 [1], norm of d before clipping."""
    skipped: bool
    """A gradient was not finite: nothing has moved."""
    ascended: bool


class MultimodalClosure:
    """One batch of a step: what :meth:`ModalityAwareSAM.closure` returns. Calling it gives the loss."""

    def __init__(
        self, forward: Forward, inputs: Mapping[str, torch.Tensor], targets: torch.Tensor, loss_fn: LossFunction
    ) -> None:
        check_batch(inputs, targets)
        self.forward, self.inputs, self.targets, self.loss_fn = forward, inputs, targets, loss_fn
        self.logits: torch.Tensor | None = None
        self.first_loss: torch.Tensor | None = None  # where the gradient is not that of the loss

    def __call__(self) -> torch.Tensor:
        self.logits = self.forward(self.inputs)
        if not isinstance(self.logits, torch.Tensor):
            raise _C.ArgumentError(f"forward returned a {type(self.logits).__name__}; it must return logits [b, C]")
        return self.loss_fn(self.logits, self.targets)


class ModalityAwareSAM(SharpnessOptimizer):
    r"""M-SAM (arXiv 2510.24919; full paper, there is no released code).

    Per batch: :math:`\Phi_m`, the Shapley value of modality m for the performance of the model whose other inputs are
    masked; :math:`\nu_m = \Phi_m / \sum_i \Phi_i`; with :math:`\nu = \max_m \nu_m`

    .. math:: \epsilon = \rho\, g/\lVert g\rVert_2, \qquad d = \nu\, \nabla L(w + \epsilon) + (1 - \nu)\, \nabla L(w)

    for the base optimizer: between it (:math:`\nu \to 0`) and SAM (:math:`\nu = 1`, as with one modality, bit for bit).

    Pass 1 at w; masked forward passes in eval mode, without gradients, without moving statistics or random generators;
    ascent; pass 2 on the same batch with the same dropout masks and frozen statistics; exact restore; base step. What
    :class:`glyptic.sharpness.SAM` takes (``max_grad_norm``, ``interval``, ``adaptive``, ...), this takes too.

    Args:
        params, base_optimizer, model: as for every sharpness-aware optimizer.
        rho: radius; the paper gives none. [0.01, 0.5] is a sensible grid.
        value: performance of a subset of modalities, the mean over the batch of ``"accuracy"`` (argmax is right),
            ``"true_prob"`` (softmax probability of the true class), ``"true_logit"``, ``"neg_loss_gain"`` (log C - cross
            entropy), or of what your own function ``(logits, targets) -> [b]`` returns.
        allow_negative: keep negative contributions, so that nu may leave [1/M, 1]; otherwise they count as 0.
        shapley_mode: ``"eval"``: all 2^M - 1 subsets in eval mode; ``"agm"``: the full batch's logits are pass 1's, one
            pass fewer; ``"cached"``: the model's ``encode(name, x)`` is not called again for the batch, its features of
            pass 1 go through ``fuse(features)`` with those of one masked sample in place of the others.
        shapley_interval: recompute nu on every k-th ascent.
        shapley_samples: permutations with more than six modalities.
        decomposition: ``"scalar"`` (Algorithm 1): every modality has the same loss, scaled. ``"mono_response"``: modality
            m has the loss of its Shapley logits, so that the ascent goes along the dominant one's gradient.
        perturb_scope: ``"all"``, or ``"dominant"``: only the dominant modality's encoder and what belongs to no encoder.
        mask_value: stands for a masked input: a number, or per modality a number or tensor. It is an input of the model:
            after a normalising loader 0 is the mean, not black.
        encoders: modality to module or parameters, for ``"dominant"``; by default ``model.encoders``.
        batch_subsets: masked batches as one forward pass of (2^M - 1) b samples; wants memory, saves launches on a GPU.
        local_shapley: several processes: each its own nu, instead of one from the summed counts.

    Raises:
        ConfigError: an option out of range.
        ArgumentError: modalities of different batch sizes or other than before, labels outside [0, C), ``cached`` without
            ``encode`` and ``fuse``.
        DivergenceError: a value that is not finite while the loss is.

    Cost: SAM's, 12 bytes per parameter for d, and the masked forward passes. One number per subset is read by the host.

    >>> import torch
    >>> from glyptic.multimodal import LateFusion
    >>> net = LateFusion({"a": torch.nn.Linear(3, 4), "b": torch.nn.Linear(2, 4)}, {"a": 4, "b": 4}, classes=3)
    >>> optimizer = ModalityAwareSAM(net.parameters(), torch.optim.SGD, rho=0.1, shapley_mode="cached", model=net, lr=0.1)
    >>> batch, y = {"a": torch.randn(8, 3), "b": torch.randn(8, 2)}, torch.arange(8) % 3
    >>> stats = optimizer.step(net, batch, y, torch.nn.functional.cross_entropy)
    >>> 0.5 <= stats.nu[stats.dominant] <= 1
    True
    """

    method = "sam"

    def __init__(
        self,
        params: Any,
        base_optimizer: type[torch.optim.Optimizer] | torch.optim.Optimizer | Callable[..., torch.optim.Optimizer],
        *,
        model: torch.nn.Module | None = None,
        value: str | ValueFunction = "accuracy",
        allow_negative: bool = False,
        shapley_mode: str = "eval",
        shapley_interval: int = 1,
        shapley_samples: int = 64,
        decomposition: str = "scalar",
        perturb_scope: str = "all",
        mask_value: MaskValue = 0.0,
        encoders: Mapping[str, Any] | None = None,
        batch_subsets: bool = False,
        local_shapley: bool = False,
        seed: int = 0,
        **keywords: Any,
    ) -> None:
        if not callable(value):
            _one_of("value", value, tuple(VALUES))
        _one_of("shapley_mode", shapley_mode, _MODES)
        _one_of("decomposition", decomposition, ("scalar", "mono_response"))
        _one_of("perturb_scope", perturb_scope, ("all", "dominant"))
        if shapley_interval < 1:
            raise _C.ConfigError(f"shapley_interval is {shapley_interval}, expected at least 1")
        if shapley_samples < 2:
            raise _C.ConfigError(f"shapley_samples is {shapley_samples}, expected at least 2")
        if keywords.get("loss_weight_decay", 0) != 0:
            raise _C.ConfigError("loss_weight_decay does not go with M-SAM; use the base optimizer's weight decay")
        if decomposition == "mono_response" and shapley_mode == "cached":
            raise _C.ConfigError("decomposition 'mono_response' needs gradients of the masked passes, which are not cached")
        self._own: dict[str, Any] = {
            "value": value,
            "allow_negative": allow_negative,
            "shapley_mode": shapley_mode,
            "shapley_interval": shapley_interval,
            "shapley_samples": shapley_samples,
            "decomposition": decomposition,
            "perturb_scope": perturb_scope,
            "mask_value": mask_value,
            "encoders": encoders,
            "batch_subsets": batch_subsets,
            "local_shapley": local_shapley,
            "seed": seed,
        }
        self._reset()
        super().__init__(params, base_optimizer, model=model, **keywords)

    def _reset(self) -> None:
        self._names: tuple[str, ...] = ()
        self._phi: list[float] = []
        self._ascents = 0
        self._closure: MultimodalClosure | None = None
        self._stats: MSAMStats | None = None
        self._modules: list[torch.nn.Module] = []
        self._scoped = False
        self._plan: tuple[int, list[list[tuple[Subset, float]]], list[Subset]] | None = None

    # ------------------------------------------------------------------------------------------------------------ steps

    def step(  # type: ignore[override]
        self,
        forward: Forward | None = None,
        inputs: Mapping[str, torch.Tensor] | None = None,
        targets: torch.Tensor | None = None,
        loss_fn: LossFunction = F.cross_entropy,
        *,
        scaler: GradScaler | None = None,
    ) -> MSAMStats:
        """One step on one batch.

        Args:
            forward: from a dict of inputs to logits [b, C]; usually the model. It is also called with
                :class:`ModalityMask` batches.
            inputs: modality to tensor, always the same modalities.
            targets: labels [b].
            loss_fn: ``(logits, targets)`` to a scalar or one loss per sample.
            scaler: as for SAM.
        """
        if forward is None or inputs is None or targets is None:
            raise _C.ArgumentError(
                "ModalityAwareSAM.step needs (forward, inputs, targets): it runs the forward pass on masked inputs as well"
            )
        closure = self.closure(forward, inputs, targets, loss_fn)
        sparsifier = self._sparsifier() if self._sparsifier is not None else None
        if sparsifier is not None and sparsifier._follows_optimizer():
            sparsifier._sharp_step(closure, scaler, None)
        else:
            self._step(closure, scaler=scaler)
        assert self._stats is not None
        return self._stats

    def closure(
        self,
        forward: Forward,
        inputs: Mapping[str, torch.Tensor],
        targets: torch.Tensor,
        loss_fn: LossFunction = F.cross_entropy,
    ) -> MultimodalClosure:
        """The batch as one object, for a sparsifier's ``step(closure)``."""
        return MultimodalClosure(forward, inputs, targets, loss_fn)

    @property
    def stats(self) -> MSAMStats | None:
        """Of the last step."""
        return self._stats

    def _step(self, closure: Closure | None, **keywords: Any) -> _C.SharpnessResult:
        if not isinstance(closure, MultimodalClosure):
            raise _C.ArgumentError(
                "M-SAM masks the inputs, so a plain closure does not do: pass optimizer.closure(forward, inputs, targets)"
            )
        if keywords.get("batches") is not None:
            raise _C.ArgumentError("M-SAM takes one batch per step; micro-batches would each have a nu of their own")
        if keywords.get("scaler") is not None and self._own["decomposition"] == "mono_response":
            raise _C.ArgumentError("decomposition 'mono_response' does not go with a loss scaler; use bfloat16 autocast")
        names = tuple(closure.inputs)
        if self._names and set(names) != set(self._names):
            raise _C.ArgumentError(f"the batch has {', '.join(names)}, but training began with {', '.join(self._names)}")
        if names != self._names:  # the same ones in another order: shares follow their names
            self._phi = [self._phi[self._names.index(n)] for n in names] if self._phi else []
            self._names = names
        if not self._know_modules and (found := modules_in(closure.forward, self._parameters)):
            self._take_modules(found)
        self._closure = closure
        try:
            result = super()._step(closure, **keywords)
            self._stats = self._stats_of(closure, result)
            return result
        finally:
            self._closure = None
            closure.logits = closure.first_loss = None
            if self._scoped:
                self._core.set_rho([])
                self._scoped = False

    def _stats_of(self, closure: MultimodalClosure, result: _C.SharpnessResult) -> MSAMStats:
        nu = self._nu()
        return MSAMStats(
            loss=result.loss if closure.first_loss is None else closure.first_loss,
            phi=dict(zip(self._names, self._phi, strict=True)) if self._phi else {},
            nu=dict(zip(self._names, nu, strict=True)),
            dominant=self._names[_largest(nu)],
            gradient_norm=result.gradient_norm,
            combined_norm=result.perturbed_norm,
            skipped=bool(result.skipped),
            ascended=bool(result.ascended),
        )

    def _take_modules(self, modules: list[torch.nn.Module]) -> None:
        super()._take_modules(modules)
        self._modules = list(modules)

    def _objective(
        self,
        closure: Closure,
        batches: Sequence[Any] | None,
        scaler: GradScaler | None,
        masks: list[torch.Tensor | None] | None,
        gradient_only: bool,
    ) -> Objective:
        assert self._closure is not None
        past = self._core.steps - int(self.options["start_step"])
        ascends = not gradient_only and past >= 0 and past % int(self.options["interval"]) == 0
        return _TwoGradients(self, closure, self._closure, scaler, masks, ascends)

    def second_step(self, zero_grad: bool = False) -> None:
        """Refused: the step needs masked forward passes between its halves."""
        self._core.cancel()
        raise _C.ArgumentError("M-SAM has no two halves; call step(forward, inputs, targets)")

    # ---------------------------------------------------------------------------------------------------- contributions

    def _nu(self) -> list[float]:
        return _shares(self._phi, self._own["allow_negative"]) if self._phi else [1 / len(self._names)] * len(self._names)

    def _subsets(self) -> tuple[list[list[tuple[Subset, float]]], list[Subset]]:
        m = len(self._names)
        if self._plan is None or self._plan[0] != m:
            self._plan = (m, *_subsets(m, self._own["shapley_samples"], self._own["seed"]))
        return self._plan[1], self._plan[2]

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Forward passes inside leave no trace: eval mode, generators put back."""
        devices = {p.device for p in self._parameters if p.is_cuda}
        generators = [(torch.default_generator, torch.get_rng_state())]
        generators += [(torch.cuda.default_generators[d.index], torch.cuda.get_rng_state(d)) for d in devices]
        # DistributedDataParallel broadcasts buffers before every pass, which is more than a look
        statistics = [(b, b.clone()) for b in statistics_of(self._modules)] if self._ddp is not None else []
        try:
            with eval_mode(self._modules):
                yield
        finally:
            for generator, state in generators:
                generator.set_state(state)
            with torch.no_grad():
                for buffer, saved in statistics:
                    buffer.copy_(saved)

    def _cacheable(self, forward: Any) -> Any:
        candidates = [forward] if isinstance(forward, torch.nn.Module) else []
        candidates = [unwrapped(m) for m in (*candidates, *self._modules)]
        for module in candidates:
            if hasattr(module, "encode") and hasattr(module, "fuse"):
                return module
        half = next((n for m in candidates for n in ("encode", "fuse") if hasattr(m, n)), None)
        has = f"declares {half}() alone" if half else "declares neither"
        raise _C.ArgumentError(
            f"shapley_mode 'cached' needs a model with encode(name, x) and fuse(features), this one {has}; pass model=..., "
            "or use shapley_mode='eval'"
        )

    def _recorded(self, closure: MultimodalClosure, run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
        with recorded(self._cacheable(closure.forward)) as features:
            loss = run()
        require_features(features, self._names)
        return loss, {n: f.detach() for n, f in features.items()}

    def _logits(self, closure: MultimodalClosure, features: Mapping[str, torch.Tensor] | None) -> list[torch.Tensor]:
        """Of every subset that is met, the full one last."""
        subsets, names, inputs = self._subsets()[1], self._names, closure.inputs
        mask_value = self._own["mask_value"]
        if features is not None:
            model = self._cacheable(closure.forward)
            masked: dict[str, torch.Tensor] = {}
            stacked: dict[str, torch.Tensor] = {}
            for i, n in enumerate(names):
                # in eval mode the masked input's features are one vector for the whole batch
                one = ModalityMask({n: inputs[n][:1]}, (), mask_value)[n]
                masked[n] = model.encode(n, one)
                real = features[n].to(masked[n].dtype)
                stacked[n] = torch.cat([real if i in s else masked[n].expand_as(real) for s in subsets])
            return list(model.fuse(stacked).chunk(len(subsets)))
        full = len(names)
        if self._own["shapley_mode"] == "agm":
            assert closure.logits is not None
            known = [closure.logits.detach()]
            subsets = [s for s in subsets if len(s) < full]
        else:
            known = []
        batches = [
            inputs if len(s) == full else ModalityMask(inputs, [names[i] for i in s], mask_value) for s in subsets
        ]
        if self._own["batch_subsets"] and batches:
            joined = {n: torch.cat([b[n] for b in batches]) for n in names}
            return [*closure.forward(joined).chunk(len(batches)), *known]
        return [*(closure.forward(b) for b in batches), *known]

    def _measure(self, closure: MultimodalClosure, logits: list[torch.Tensor], loss: torch.Tensor) -> None:
        """Sets phi from the logits of all subsets."""
        value, targets, k = self._own["value"], closure.targets, len(logits)
        if callable(value):
            parts = [value(z, targets) for z in logits]
            if any(p.shape != targets.shape[:1] for p in parts):
                raise _C.ArgumentError(f"value() must return one number per sample, shape [{len(targets)}]")
            sums = torch.stack(parts).double().sum(1)
        else:
            for z in logits:
                if z.dim() != 2 or targets.dim() != 1:
                    raise _C.ArgumentError(
                        f"value {value!r} needs logits [b, C] and labels [b], got {list(z.shape)} and {list(targets.shape)}; "
                        "give value a function of yours"
                    )
            classes = logits[0].shape[1]
            low, high = (int(t) for t in torch.stack(targets.aminmax()).tolist())
            if low < 0 or high >= classes:
                raise _C.ArgumentError(f"a label is {low if low < 0 else high}, expected 0 to {classes - 1}")
            sums = VALUES[value](torch.cat(logits), targets.repeat(k)).view(k, -1).sum(1).double()
        extra = torch.stack([(~torch.isfinite(loss.detach()).all()).double(), sums.new_tensor(float(len(targets)))])
        numbers = torch.cat([sums, extra.to(sums.device)])
        if self._ddp is not None and not self._own["local_shapley"]:
            torch.distributed.all_reduce(numbers, group=self._ddp.process_group)
        *found, broken, count = numbers.tolist()
        values: dict[Subset, float] = {(): 0.0}
        for subset, total in zip(self._subsets()[1], found, strict=True):
            values[subset] = total / count
        phi = [float(_weighted(t, values)) for t in self._subsets()[0]]
        if all(math.isfinite(v) for v in phi):
            self._phi = phi
        elif not broken:  # with a broken loss the engine leaves the step out
            what = value if isinstance(value, str) else "your function"
            raise _C.DivergenceError(f"the value of a subset of modalities is not finite ({what}), though the loss is")

    def _due(self) -> bool:
        """Whether this ascent computes nu anew. Counts it."""
        due = self._ascents % self._own["shapley_interval"] == 0 or not self._phi
        self._ascents += 1
        return due and len(self._names) > 1

    def _scope(self, masks: list[torch.Tensor | None] | None) -> None:
        """Radii for an ascent of the dominant modality and of what is shared: zero for the other encoders."""
        if self._own["perturb_scope"] == "all":
            return
        schedule, least = self.options["rho_schedule"], self.options["rho_min"]
        if schedule != "constant" and least != 0:
            raise _C.ConfigError("perturb_scope 'dominant' needs a constant rho, or a schedule with rho_min 0")
        model = self._model if self._model is not None else next(iter(self._modules), None)
        parts = encoder_parameters(model, self._own["encoders"], self._names)
        winner = self._names[_largest(self._nu())]
        still = {id(p) for n, ps in parts.items() if n != winner for p in ps}
        squares = [0.0, 0.0]
        for i, p in enumerate(self._parameters):
            if p.grad is None:
                continue
            g = p.grad.double()
            if masks and masks[i] is not None:
                g = g * masks[i]
            if self.options["adaptive"] == "all" or (self.options["adaptive"] == "weights" and p.dim() > 1):
                g = g * (p.double().abs() + self.options["eta"])
            squares[id(p) in still] += float(g.square().sum())
        # the engine divides by the norm of everything
        stretch = math.sqrt(sum(squares) / squares[0]) if squares[0] > 0 and self.options["norm"] == "l2" else 1.0
        radii = [float(g.get("rho", self.options["rho"])) for g in self.param_groups for _ in g["params"]]
        if not math.isfinite(stretch):
            return  # left out by the engine
        self._core.set_rho([0.0 if id(p) in still else r * stretch for p, r in zip(self._parameters, radii, strict=True)])
        self._scoped = True

    # ------------------------------------------------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's, ``"sharpness"``, and ``"multimodal"`` (contributions, for ``shapley_interval``)."""
        mine = {"names": list(self._names), "phi": list(self._phi), "ascents": self._ascents}
        return {**super().state_dict(), "multimodal": mine}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` gave, or the base optimizer's alone."""
        state = dict(state_dict)
        mine = state.pop("multimodal", None)
        super().load_state_dict(state)
        if mine is not None:
            self._names, self._phi, self._ascents = tuple(mine["names"]), list(mine["phi"]), int(mine["ascents"])

    def __getstate__(self) -> dict[str, Any]:
        mine = {"names": list(self._names), "phi": list(self._phi), "ascents": self._ascents}
        return {**super().__getstate__(), "own": self._own, "multimodal": mine}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self._own = saved["own"]
        self._reset()
        super().__setstate__(saved)
        mine = saved["multimodal"]
        self._names, self._phi, self._ascents = tuple(mine["names"]), list(mine["phi"]), int(mine["ascents"])


class _TwoGradients(Objective):
    """One step's batch: after pass 1 the contributions are measured, after pass 2 both gradients become d."""

    def __init__(
        self,
        owner: ModalityAwareSAM,
        call: Closure,
        batch: MultimodalClosure,
        scaler: GradScaler | None,
        masks: list[torch.Tensor | None] | None,
        ascends: bool,
    ) -> None:
        super().__init__(owner._parameters, call, None, scaler, owner._ddp)
        self._owner, self._batch, self._masks, self._ascends = owner, batch, masks, ascends
        self._mono = owner._own["decomposition"] == "mono_response" and len(batch.inputs) > 1
        self._passes = 0
        self._reduce = False
        self._measured = False
        self._rest: list[torch.Tensor | None] | None = None
        self._features: dict[str, torch.Tensor] | None = None
        self._first: torch.Tensor | None = None

    def synchronize(self, on: bool) -> None:
        # d is averaged as a whole, in one message; so is what several backward passes make
        self._reduce = on and (self._mono or self._passes > 0)
        super().synchronize(on and not self._reduce)

    def loss(self, batch: int) -> torch.Tensor:
        owner, first = self._owner, self._passes == 0
        if self._mono:
            return self._mono_loss(first)
        if first and self._ascends and owner._own["shapley_mode"] == "cached" and len(owner._names) > 1:
            loss, self._features = owner._recorded(self._batch, lambda: super(_TwoGradients, self).loss(batch))
        else:
            loss = super().loss(batch)
        if first:
            self._first = loss.detach()
        return loss

    def finish_pass(self) -> bool:
        finite = super().finish_pass()
        owner = self._owner
        self._passes += 1
        if self._passes == 1:
            if self._reduce:
                self._all_reduce()
            if not (finite and self._ascends):
                return finite
            if not self._mono:
                if owner._due():
                    assert self._first is not None
                    with owner._quietly():
                        logits = owner._logits(self._batch, self._features)
                    owner._measure(self._batch, logits, self._first)
                if max(owner._nu()) != 1:
                    self._rest = [None if p.grad is None else p.grad for p in self._parameters]
                    if self._ddp is not None and self._ddp.gradient_as_bucket_view:
                        self._rest = [None if g is None else g.clone() for g in self._rest]
            owner._scope(self._masks)
            return finite
        nu = max(owner._nu())
        if self._rest is not None:
            self._combine((1.0, 1.0) if self._mono else (nu, 1 - nu))
        if self._reduce:
            self._all_reduce()
        return finite

    def _all_reduce(self) -> None:
        for p in self._parameters:
            if p.requires_grad and p.grad is None:  # ranks must send the same list
                p.grad = torch.zeros_like(p)
        self.all_reduce_mean([p.grad for p in self._parameters if p.grad is not None])

    def _combine(self, weights: tuple[float, float]) -> None:
        """.grad = weights[0] .grad + weights[1] rest."""
        assert self._rest is not None
        both: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        for p, g in zip(self._parameters, self._rest, strict=True):
            if p.grad is not None and g is not None:
                both[0].append(p.grad)
                both[1].append(g)
            elif p.grad is not None:
                p.grad.mul_(weights[0])
            elif g is not None:
                p.grad = g.mul_(weights[1])
        if both[0]:
            coefficients = torch.tensor(weights, dtype=torch.float64, device=both[0][0].device)
            torch.ops.glyptic.combine_(both[0], both[1], coefficients)
        self._rest = None

    # --- losses of mono-modal responses

    def _mono_loss(self, first: bool) -> torch.Tensor:
        owner, batch = self._owner, self._batch
        plain = super().loss(0)  # the full batch, in the model's own mode
        full = batch.logits
        assert full is not None
        known: dict[tuple[str, ...], torch.Tensor] = {}

        def masked(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
            with owner._quietly():
                logits = batch.forward(inputs)
            known[inputs.keep] = logits.detach()  # type: ignore[attr-defined]
            return logits

        own = owner._own
        responses = mono_modal_logits(
            masked, batch.inputs, own["mask_value"], full=full, shapley_samples=own["shapley_samples"], seed=own["seed"]
        )
        if first:
            batch.first_loss = (plain.mean() if plain.dim() > 0 else plain).detach()
        if first and owner._due():
            with torch.no_grad():
                if own["shapley_mode"] == "agm":
                    whole = full.detach()
                else:
                    with owner._quietly():
                        whole = batch.forward(batch.inputs)
                logits = [known[tuple(owner._names[i] for i in s)] for s in owner._subsets()[1][:-1]]
                owner._measure(batch, [*logits, whole], plain)
        nu = owner._nu()
        winner = _largest(nu)
        losses = []
        for n in owner._names:
            loss = batch.loss_fn(responses[n], batch.targets)
            losses.append(loss.mean() if loss.dim() > 0 else loss)
        total = sum((v * x for v, x in zip(nu, losses, strict=True)), start=losses[0].new_zeros(()))
        if not self._ascends:
            return total
        dominant = nu[winner] * losses[winner]
        if first:
            rest = sum(
                (v * x for i, (v, x) in enumerate(zip(nu, losses, strict=True)) if i != winner),
                start=losses[0].new_zeros(()),
            )
            moving = [p for p in self._parameters if p.requires_grad]
            grads = dict(
                zip(
                    map(id, moving),
                    torch.autograd.grad(rest, moving, retain_graph=True, allow_unused=True),
                    strict=True,
                )
            )
            self._rest = [grads.get(id(p)) for p in self._parameters]
        return dominant


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise _C.ConfigError(f"{name} is {value!r}, expected one of {', '.join(allowed)}")


def _shares(phi: Sequence[float], allow_negative: bool) -> list[float]:
    kept = list(phi) if allow_negative else [max(0.0, v) for v in phi]
    total = sum(kept)
    if not total > 1e-12:
        return [1 / len(kept)] * len(kept)
    return [v / total for v in kept]


def _largest(shares: Sequence[float]) -> int:
    return max(range(len(shares)), key=lambda i: shares[i])  # the first of equals
