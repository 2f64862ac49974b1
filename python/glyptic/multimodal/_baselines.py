"""Gradient modulators: what balanced multimodal learning is compared with, on one interface.

Every one is made of ``(model, optimizer)`` and makes a step by ``step(forward, inputs, targets, loss_fn)``, as
:class:`ModalityAwareSAM` does. They act in one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from .. import _C
from ._msam import LossFunction
from ._shapley import (
    Forward,
    MaskValue,
    check_batch,
    encoder_parameters,
    eval_mode,
    mono_modal_logits,
    recorded,
    require_features,
    unwrapped,
    wide,
)


@dataclass
class ModulatorStats:
    """What one step saw."""

    loss: torch.Tensor
    """Mean multimodal loss of the batch, detached."""
    scores: dict[str, float] = field(default_factory=dict)
    """Per modality, what the method compares."""
    coefficients: dict[str, float] = field(default_factory=dict)
    """Per modality, what its gradient (PMR: its prototype loss) was multiplied by."""


class Modulator:
    """Joint training, and what its modulated variants share.

    Args:
        model: the network; which weights belong to which modality is taken from ``encoders``, else ``model.encoders``.
        optimizer: any ``torch.optim`` optimizer over its parameters, sharpness-aware ones excepted.
        encoders: modality to module or parameters.
        mask_value: as for :class:`ModalityAwareSAM`, where inputs are masked.

    Attributes:
        enabled: while False, steps are those of joint training (methods with a first and a last epoch of modulation).
    """

    needs_features = False

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        encoders: Mapping[str, Any] | None = None,
        mask_value: MaskValue = 0.0,
    ) -> None:
        from ..sharpness import SharpnessOptimizer

        if isinstance(optimizer, SharpnessOptimizer):
            raise _C.ArgumentError("gradients are modulated once per step; give a plain optimizer, not a sharpness-aware one")
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            raise _C.ArgumentError("modulators act in one process; processes would scale their gradients apart")
        self.model, self.optimizer, self.mask_value = model, optimizer, mask_value
        self.enabled = True
        self._encoders = encoders
        if self.needs_features and not hasattr(unwrapped(model), "encode"):
            raise _C.ArgumentError(f"{type(self).__name__} needs a model that declares encode(name, x)")

    def step(
        self,
        forward: Forward,
        inputs: Mapping[str, torch.Tensor],
        targets: torch.Tensor,
        loss_fn: LossFunction = F.cross_entropy,
    ) -> ModulatorStats:
        """Forward, backward, modulation, optimizer step. ``forward`` maps a dict of inputs to logits [b, C]."""
        check_batch(inputs, targets)
        self.optimizer.zero_grad()
        if self.enabled and len(inputs) > 1:
            stats = self._backward(forward, inputs, targets, loss_fn)
        else:
            loss = _mean(loss_fn(forward(inputs), targets))
            loss.backward()  # type: ignore[no-untyped-call]
            stats = ModulatorStats(loss.detach())
        self.optimizer.step()
        return stats

    def _backward(
        self, forward: Forward, inputs: Mapping[str, torch.Tensor], targets: torch.Tensor, loss_fn: LossFunction
    ) -> ModulatorStats:
        loss = _mean(loss_fn(forward(inputs), targets))
        loss.backward()  # type: ignore[no-untyped-call]
        return ModulatorStats(loss.detach())

    def _with_features(
        self, forward: Forward, inputs: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with recorded(unwrapped(self.model)) as features:
            logits = forward(inputs)
        require_features(features, list(inputs))
        return logits, dict(features)

    def _parts(self, names: Iterable[str]) -> dict[str, list[torch.nn.Parameter]]:
        return encoder_parameters(self.model, self._encoders, list(names))

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs besides the model's and the optimizer's states."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` gave."""


class JointTraining(Modulator):
    """The plain gradient of the multimodal loss: the row that every table begins with."""


class OGMGE(Modulator):
    r"""OGM-GE (arXiv 2203.15332; from its released code): the encoder of the stronger modality learns less.

    .. math:: s_m = \sum_i \mathrm{softmax}(z_m(x_i))_{y_i}, \quad \rho_m = s_m / \overline{s_{\ne m}}, \quad
        k_m = 1 - \tanh(\alpha \rho_m) \text{ if } \rho_m > 1 \text{ else } 1

    With two modalities this is the paper's rule; the mean of the others for more is our extension. Gradients of the encoder
    become :math:`k_m g + \mathcal N(0, \mathrm{std}(g)^2)` (``mode="ge"``; std of before the scaling; also for k = 1), or
    :math:`k_m g` (``mode="ogm"``).

    Args:
        alpha: strength; the code requires one.
        scope: ``"conv"``: parameters with four dimensions, as the code has it, or ``"all"`` of the encoder.
        generator: of the noise; otherwise torch's own.

    The :math:`z_m` are ``model.mono_logits(features)`` where the model declares it, else Shapley logits (2^M - 2 more passes).

    >>> round(ogm_ge_coefficients({"a": 6.0, "v": 3.0, "t": 3.0}, 0.5)["a"], 7)
    0.2384058
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        alpha: float,
        mode: str = "ge",
        scope: str = "conv",
        generator: torch.Generator | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(model, optimizer, **keywords)
        if not (alpha >= 0 and math.isfinite(alpha)):
            raise _C.ConfigError(f"alpha is {alpha}, expected a number >= 0")
        if mode not in ("ge", "ogm") or scope not in ("conv", "all"):
            raise _C.ConfigError(f"mode {mode!r} and scope {scope!r}; expected ge or ogm, and conv or all")
        self.alpha, self.mode, self.scope, self.generator = alpha, mode, scope, generator

    def _backward(
        self, forward: Forward, inputs: Mapping[str, torch.Tensor], targets: torch.Tensor, loss_fn: LossFunction
    ) -> ModulatorStats:
        parts = {
            n: [p for p in ps if self.scope == "all" or p.dim() == 4] for n, ps in self._parts(inputs).items()
        }
        if not any(parts.values()):
            raise _C.ArgumentError("no encoder has a parameter with four dimensions, so nothing is modulated; use scope='all'")
        model = unwrapped(self.model)
        if hasattr(model, "mono_logits") and hasattr(model, "encode"):
            logits, features = self._with_features(forward, inputs)
            with torch.no_grad():
                responses = model.mono_logits(features)
        else:
            logits = forward(inputs)
            with torch.no_grad(), eval_mode([self.model]):
                responses = mono_modal_logits(forward, inputs, self.mask_value, full=logits.detach())
        scores = {
            n: float(wide(z).softmax(-1).gather(-1, targets.unsqueeze(-1)).double().sum()) for n, z in responses.items()
        }
        scores = {n: scores[n] for n in inputs}
        coefficients = ogm_ge_coefficients(scores, self.alpha)
        loss = _mean(loss_fn(logits, targets))
        loss.backward()  # type: ignore[no-untyped-call]
        for n, parameters in parts.items():
            for g in (p.grad for p in parameters if p.grad is not None):
                noise = None
                if self.mode == "ge" and g.numel() > 1:
                    noise = torch.empty_like(g).normal_(generator=self.generator).mul_(g.std() + 1e-8)
                g.mul_(coefficients[n])
                if noise is not None:
                    g.add_(noise)
        return ModulatorStats(loss.detach(), scores, coefficients)


def ogm_ge_coefficients(scores: Mapping[str, float], alpha: float) -> dict[str, float]:
    """k of OGM-GE from the scores s: ``1 - tanh(alpha rho)`` where rho, a score over the mean of the others, is above 1."""
    result = {}
    for n, s in scores.items():
        others = sum(v for o, v in scores.items() if o != n) / (len(scores) - 1)
        ratio = s / others if others > 0 else (math.inf if s > 0 else 1.0)
        result[n] = 1 - math.tanh(alpha * ratio) if ratio > 1 else 1.0
    return result


class AGM(Modulator):
    r"""Adaptive gradient modulation (arXiv 2308.07686; from its released code): gradients of mono-modal responses scaled.

    The logits are the sum of the Shapley logits :math:`\Phi_m`; the gradient that flows into :math:`\Phi_m` is multiplied by

    .. math:: c_m = \exp\big(\alpha \min(\tau_m - r_m, \text{cap})\big), \quad r_m = e^{(\bar s - s_m) M/(M-1)}, \quad
        \tau_m = e^{(\bar S - S_m) M/(M-1)}

    with :math:`s_m` the batch mean of :math:`-\log \mathrm{softmax}(\Phi_m)_y` and :math:`S_m` its mean over all iterations
    before. At the first iteration :math:`S = 0`. The masked passes run in eval mode and keep their gradients, so a step
    costs 2^M - 1 forward and backward passes.

    Args:
        alpha: strength (2.5 in the code's AV-MNIST command).
        cap: largest difference in the exponent (10 for CREMA-D, 7 for UR-Funny); None: no bound.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        alpha: float,
        cap: float | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(model, optimizer, **keywords)
        if not (alpha >= 0 and math.isfinite(alpha)):
            raise _C.ConfigError(f"alpha is {alpha}, expected a number >= 0")
        self.alpha, self.cap = alpha, cap
        self._means: dict[str, float] = {}
        self._iterations = 0

    def _backward(
        self, forward: Forward, inputs: Mapping[str, torch.Tensor], targets: torch.Tensor, loss_fn: LossFunction
    ) -> ModulatorStats:
        full = forward(inputs)

        def masked(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
            with eval_mode([self.model]):
                return forward(batch)

        responses = mono_modal_logits(masked, inputs, self.mask_value, full=full)
        scores = {}
        for n, z in responses.items():
            probability = wide(z.detach()).softmax(-1).gather(-1, targets.unsqueeze(-1))
            scores[n] = float(-probability.clamp(min=1e-8).log().double().mean())
        coefficients = self._coefficients(scores)
        for n, z in responses.items():
            if z.requires_grad:
                z.register_hook(_times(coefficients[n]))  # type: ignore[no-untyped-call]
        logits = sum(list(responses.values())[1:], next(iter(responses.values())))
        loss = _mean(loss_fn(logits, targets))
        loss.backward()  # type: ignore[no-untyped-call]
        return ModulatorStats(loss.detach(), scores, coefficients)

    def _coefficients(self, scores: Mapping[str, float]) -> dict[str, float]:
        previous = {n: self._means.get(n, 0.0) for n in scores}
        ratio, target = _softened(scores), _softened(previous)
        self._iterations += 1
        i = self._iterations
        self._means = {n: previous[n] * (i - 1) / i + s / i for n, s in scores.items()}
        bound = math.inf if self.cap is None else self.cap
        return {n: math.exp(min(self.alpha * min(target[n] - ratio[n], bound), 700.0)) for n in scores}

    def state_dict(self) -> dict[str, Any]:
        return {"means": dict(self._means), "iterations": self._iterations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._means, self._iterations = dict(state["means"]), int(state["iterations"])


def _times(c: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda g: g * c


def _softened(scores: Mapping[str, float]) -> dict[str, float]:
    m = len(scores)
    mean = sum(scores.values()) / m
    return {n: math.exp(min((mean - s) * m / (m - 1), 700.0)) for n, s in scores.items()}


class MMPareto(Modulator):
    r"""MMPareto (arXiv 2405.17730; from its released code): unimodal losses whose gradients do not fight the multimodal one.

    For each encoder, with G the gradient of the multimodal loss and g that of its own head's loss over all its weights:
    :math:`2 k_1 G + 2 k_2 g`, :math:`k_1 = k_2 = 1/2` where they agree (:math:`\langle G, g\rangle > 0`), else the weights
    of the shortest convex combination. A tensor whose plain sum of gradients is longer is scaled up to that length. Times
    ``gamma``. Everything outside the encoders keeps the plain sum.

    The model must declare ``unimodal_logits(features)``. Cost: one backward pass more per modality.
    """

    needs_features = True

    def __init__(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, *, gamma: float = 1.5, **keywords: Any
    ) -> None:
        super().__init__(model, optimizer, **keywords)
        if not (gamma > 0 and math.isfinite(gamma)):
            raise _C.ConfigError(f"gamma is {gamma}, expected a number > 0")
        if not hasattr(unwrapped(model), "unimodal_logits"):
            raise _C.ArgumentError("MMPareto needs a model that declares unimodal_logits(features): one head per modality")
        self.gamma = gamma

    def _backward(
        self, forward: Forward, inputs: Mapping[str, torch.Tensor], targets: torch.Tensor, loss_fn: LossFunction
    ) -> ModulatorStats:
        parts = self._parts(inputs)
        logits, features = self._with_features(forward, inputs)
        own = unwrapped(self.model).unimodal_logits(features)
        losses = {n: _mean(loss_fn(own[n], targets)) for n in inputs}
        loss = _mean(loss_fn(logits, targets))
        groups = {
            n: (_grads(loss, ps), _grads(losses[n], ps)) for n, ps in parts.items()
        }
        sum(losses.values(), start=loss).backward()  # type: ignore[no-untyped-call]
        coefficients = {}
        for n, (multi, single) in groups.items():
            a, b, c = (
                float(sum((x.double() * y.double()).sum() for x, y in zip(u, v, strict=True)))
                for u, v in ((multi, multi), (multi, single), (single, single))
            )
            k1 = coefficients[n] = _pareto(a, b, c)
            for p, big, small in zip(parts[n], multi, single, strict=True):
                if p.grad is None:
                    continue
                total = p.grad.norm()
                new = 2 * k1 * big + 2 * (1 - k1) * small
                length = new.norm()
                scale = torch.where((total > length) & (length > 0), total / length, torch.ones_like(length))
                p.grad.copy_(new * scale * self.gamma)
        return ModulatorStats(loss.detach(), {n: float(x.detach()) for n, x in losses.items()}, coefficients)


def _pareto(a: float, b: float, c: float) -> float:
    """k1 from a = <G,G>, b = <G,g>, c = <g,g>."""
    if b > 0:
        return 0.5
    if b >= a:
        return 0.999
    if b >= c:
        return 0.001
    return (c - b) / (a + c - 2 * b)


def _grads(loss: torch.Tensor, parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


class PMR(Modulator):
    r"""Prototypical modal rebalance (arXiv 2211.07089; from its released code): the weaker modality learns by prototypes.

    :math:`\text{sim}_m(x, c) = -\lVert f_m(x) - p_{m,c} \rVert_2`, :math:`s_m = \sum_i \mathrm{softmax}(\text{sim}_m)_{y_i}`,
    :math:`\rho_m = s_m / \overline{s_{\ne m}}`; :math:`\alpha\, CE(\text{sim}_m, y)` is added to the loss for every modality
    with :math:`\rho_m < 1`. Two modalities are the paper's case, more our extension.

    Prototypes are the class means of features. :meth:`update_prototypes` makes them, say before each epoch; until then steps
    are joint training's.

    Args:
        alpha: weight of the prototype loss.
        momentum: share of the old prototypes that stays in an update.
    """

    needs_features = True

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        alpha: float,
        momentum: float = 0.5,
        **keywords: Any,
    ) -> None:
        super().__init__(model, optimizer, **keywords)
        if not (alpha >= 0 and math.isfinite(alpha)):
            raise _C.ConfigError(f"alpha is {alpha}, expected a number >= 0")
        if not 0 <= momentum < 1:
            raise _C.ConfigError(f"momentum is {momentum}, expected [0, 1)")
        self.alpha, self.momentum = alpha, momentum
        self.prototypes: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def update_prototypes(
        self, batches: Iterable[tuple[Mapping[str, torch.Tensor], torch.Tensor]], classes: int
    ) -> None:
        """Class means of the features of ``batches``, in eval mode. A class that is not met keeps its old prototype."""
        model = unwrapped(self.model)
        sums: dict[str, torch.Tensor] = {}
        counts: torch.Tensor | None = None
        with eval_mode([self.model]):
            for inputs, targets in batches:
                one_hot = F.one_hot(targets, classes).double()
                counts = one_hot.sum(0) if counts is None else counts + one_hot.sum(0)
                for n, x in inputs.items():
                    part = one_hot.T @ model.encode(n, x).double().flatten(1)
                    sums[n] = sums[n] + part if n in sums else part
        if counts is None:
            raise _C.ArgumentError("update_prototypes got no batch")
        met = (counts > 0).unsqueeze(1)
        for n, total in sums.items():
            new = total / counts.clamp(min=1).unsqueeze(1)
            old = self.prototypes.get(n)
            if old is not None:
                new = torch.where(met, self.momentum * old + (1 - self.momentum) * new, old)
            self.prototypes[n] = new

    def _backward(
        self, forward: Forward, inputs: Mapping[str, torch.Tensor], targets: torch.Tensor, loss_fn: LossFunction
    ) -> ModulatorStats:
        if not self.prototypes:
            return super()._backward(forward, inputs, targets, loss_fn)
        logits, features = self._with_features(forward, inputs)
        near = {n: -torch.cdist(features[n].flatten(1), self.prototypes[n].to(features[n])) for n in inputs}
        scores = {n: float(z.detach().softmax(-1).gather(-1, targets.unsqueeze(-1)).double().sum()) for n, z in near.items()}
        loss = _mean(loss_fn(logits, targets))
        total, coefficients = loss, {}
        for n, s in scores.items():
            others = sum(v for o, v in scores.items() if o != n) / (len(scores) - 1)
            coefficients[n] = self.alpha if s < others else 0.0
            if coefficients[n] > 0:
                total = total + self.alpha * F.cross_entropy(near[n], targets)
        total.backward()  # type: ignore[no-untyped-call]
        return ModulatorStats(loss.detach(), scores, coefficients)

    def state_dict(self) -> dict[str, Any]:
        return {"prototypes": {n: p.clone() for n, p in self.prototypes.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.prototypes = {n: p.clone() for n, p in state["prototypes"].items()}


class MSLR(Modulator):
    """Modality-specific learning rates (from AGM's released code): gradients times a base factor and a validation trend.

    The gradients of a modality (its encoder's; with ``model.own_gradients(name)`` also its part of the head's) are
    multiplied by ``base[name] * accuracy / mean of the last five``, in the first five epochs by 1.

    Call :meth:`end_epoch` with each modality's validation accuracy.

    Args:
        base: modality to factor, e.g. audio 0.9 and visual 1.1 for CREMA-D.
    """

    epochs_of_history = 5

    def __init__(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, *, base: Mapping[str, float], **keywords: Any
    ) -> None:
        super().__init__(model, optimizer, **keywords)
        for n, b in base.items():
            if not (b > 0 and math.isfinite(b)):
                raise _C.ConfigError(f"base[{n!r}] is {b}, expected a number > 0")
        self.base = dict(base)
        self._history: dict[str, list[float]] = {n: [] for n in base}

    def end_epoch(self, accuracy: Mapping[str, float]) -> None:
        """Notes each modality's validation accuracy."""
        for n in self.base:
            if n not in accuracy:
                raise _C.ArgumentError(f"end_epoch needs an accuracy for {n!r}")
            self._history[n] = [*self._history[n], float(accuracy[n])][-self.epochs_of_history :]

    def coefficient(self, name: str) -> float:
        """What the gradients of a modality are multiplied by now."""
        if name not in self.base:
            raise _C.ArgumentError(f"base has no {name!r}; it has {', '.join(self.base)}")
        history = self._history[name]
        if len(history) < self.epochs_of_history:
            return 1.0
        mean = sum(history) / len(history)
        return self.base[name] * (history[-1] / mean if mean > 0 else 1.0)

    def _backward(
        self, forward: Forward, inputs: Mapping[str, torch.Tensor], targets: torch.Tensor, loss_fn: LossFunction
    ) -> ModulatorStats:
        coefficients = {n: self.coefficient(n) for n in inputs}
        stats = super()._backward(forward, inputs, targets, loss_fn)
        own = getattr(unwrapped(self.model), "own_gradients", None)
        if own is None or self._encoders is not None:
            parts = self._parts(inputs)
            grads = {n: [p.grad for p in ps if p.grad is not None] for n, ps in parts.items()}
        else:
            grads = {n: own(n) for n in inputs}
        for n, c in coefficients.items():
            for g in grads[n]:
                g.mul_(c)
        return ModulatorStats(stats.loss, {n: (h[-1] if h else math.nan) for n, h in self._history.items()}, coefficients)

    def state_dict(self) -> dict[str, Any]:
        return {"history": {n: list(h) for n, h in self._history.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._history = {n: list(h) for n, h in state["history"].items()}


def _mean(loss: torch.Tensor) -> torch.Tensor:
    return loss.mean() if loss.dim() > 0 else loss
