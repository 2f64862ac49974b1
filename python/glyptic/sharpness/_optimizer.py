"""The family as ``torch.optim.Optimizer`` classes over the C++ engine."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler, OptState

from .. import _C
from ..optim import MaskedOptimizer
from ._objective import Closure, Objective, discovered, modules_in, statistics_of

# Methods whose first evaluation must not move running statistics.
_PROBING = ("zosam", "zosgd")


class SharpnessOptimizer(torch.optim.Optimizer):
    """An optimizer that steps with gradients taken at the worst point near the weights.

    Use one of the subclasses; they differ in ``method`` and its presets only. Every option of the reference page's
    ``sharpness`` group is a keyword argument here; the others go to the base optimizer's class.

    The closure runs the forward pass and returns the loss, a scalar or one per sample; ``backward`` is called for you, as
    often as the method needs, on the same batch and with the same dropout masks. Running statistics of normalisation
    layers move once per step. The weights come back bit for bit, in the same storage, whatever is raised in between.

    Args:
        params: parameters or groups of them, as everywhere in torch; a group may have its own ``rho``.
        base_optimizer: a ``torch.optim`` class, which gets the keywords that are not options here, or an instance over the
            same parameters. LBFGS, which calls its closure itself, is refused.
        model: holds the running statistics and the ``DistributedDataParallel`` wrapper. Without it they are taken from the
            modules that the closure refers to, or calls.
        rho: radius of the ball. Other options: ``adaptive``, ``interval``, ``max_grad_norm``, ...

    Raises:
        ConfigError: an unknown option or a value out of range.
        ArgumentError: parameters and base optimizer that do not belong together, or a closure that cannot be repeated.

    Cost: one more forward and backward pass per ascent (see each class), and a copy of the weights. The passes over memory
    besides take 40 bytes per parameter with ``glyptic.optim.SGD`` as base, 48 with others.
    """

    method = ""
    base_optimizer: torch.optim.Optimizer

    def __init__(
        self,
        params: Any,
        base_optimizer: type[torch.optim.Optimizer] | torch.optim.Optimizer | Callable[..., torch.optim.Optimizer],
        *,
        model: torch.nn.Module | None = None,
        **keywords: Any,
    ) -> None:
        if not self.method:
            raise TypeError("use a subclass: SAM, ASAM, GSAM, ...")
        names = _C.sharpness_options({"method": self.method})
        if keywords.get("adaptive") in (True, False):
            keywords["adaptive"] = "all" if keywords["adaptive"] else "none"
        options = {k: keywords.pop(k) for k in list(keywords) if k in names}
        self._keywords = {"method": self.method, **options}
        if isinstance(base_optimizer, SharpnessOptimizer):
            raise _C.ArgumentError("the base optimizer is sharpness-aware itself; give it its own base")
        if isinstance(base_optimizer, torch.optim.Optimizer):
            if keywords:
                _C.sharpness_options({"method": self.method, **keywords})  # names the nearest option
            base = base_optimizer
            given = {id(p) for p in _flatten(params)}
            held = {id(p) for group in base.param_groups for p in group["params"]}
            if given and given != held:
                raise _C.ArgumentError(
                    f"params and the base optimizer hold different parameters ({len(given)} and {len(held)}, "
                    f"{len(given & held)} in both); give the same to both"
                )
        else:
            base = base_optimizer(params, **keywords)
        if isinstance(base, torch.optim.LBFGS):
            raise _C.ArgumentError("LBFGS calls its closure by itself, which clashes with two passes; take SGD, AdamW, ...")
        self.base_optimizer = base
        self.defaults = base.defaults
        super().__setstate__({})  # hooks and the patched step, without a second list of parameters
        self._build()
        self._model = model
        self._know_modules = False
        self._sparsifier: weakref.ref[Any] | None = None  # set by the sparsifier that takes the masks along
        if model is not None:
            self._take_modules([model])

    def _build(self) -> None:
        self._parameters = [p for group in self.base_optimizer.param_groups for p in group["params"]]
        for i, p in enumerate(self._parameters):
            if hasattr(p, "placements") and hasattr(p, "to_local"):
                raise _C.ArgumentError(
                    f"parameter {i} is sharded (a DTensor, as fully_shard makes): its norm would be that of a shard; use "
                    "DistributedDataParallel"
                )
        self._core = _C.Sharpness([(f"{i}", p) for i, p in enumerate(self._parameters)], self._keywords)
        self.options = _C.sharpness_options(self._keywords)

    def _take_modules(self, modules: list[torch.nn.Module]) -> None:
        self._core.set_statistics(statistics_of(modules))
        self._ddp = next((m for m in modules if isinstance(m, torch.nn.parallel.DistributedDataParallel)), None)
        if self._ddp is None:
            inner = (getattr(m, "_orig_mod", None) for m in modules)
            self._ddp = next((m for m in inner if isinstance(m, torch.nn.parallel.DistributedDataParallel)), None)
        self._know_modules = True

    _ddp: torch.nn.parallel.DistributedDataParallel | None = None

    # The base optimizer's own, so that schedulers, checkpoints and sparsifiers may hold either object.

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.base_optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base_optimizer.param_groups = groups

    @property
    def state(self) -> Any:
        return self.base_optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base_optimizer.state = state

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The base optimizer's."""
        self.base_optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """The base optimizer's. Buffers of methods that keep some start anew."""
        self.base_optimizer.add_param_group(param_group)
        self._build()
        self._know_modules = False

    # ------------------------------------------------------------------------------------------------------------ steps

    def step(  # type: ignore[override]
        self,
        closure: Closure | None = None,
        *,
        scaler: GradScaler | None = None,
        batches: Sequence[Any] | None = None,
    ) -> torch.Tensor:
        """One step on one batch. Returns the loss of the first pass, detached.

        Args:
            closure: runs the forward pass on the current weights and returns the loss. It may return a list of losses, or
                call ``backward()`` itself (then the library does not).
            scaler: scales the loss; gradients are unscaled here, and a step in which either pass meets inf or NaN leaves
                the weights untouched. ``scaler.update()`` stays yours to call, once.
            batches: micro-batches of the step: the closure is called with one of them at a time, and gradients are averaged
                (``accumulation="full"``: one ascent for all; ``"micro"``: one each).
        """
        return self._full_step(closure, scaler, batches)

    def _full_step(self, closure: Closure | None, scaler: GradScaler | None, batches: Sequence[Any] | None) -> torch.Tensor:
        """With the sparsifier that follows this optimizer, if one does."""
        sparsifier = self._sparsifier() if self._sparsifier is not None else None
        if sparsifier is not None and sparsifier._follows_optimizer():
            followed: torch.Tensor = sparsifier._sharp_step(closure, scaler, batches)
            return followed
        loss: torch.Tensor = self._step(closure, scaler=scaler, batches=batches).loss
        return loss

    def _step(
        self,
        closure: Closure | None,
        *,
        scaler: GradScaler | None = None,
        batches: Sequence[Any] | None = None,
        masks: list[torch.Tensor | None] | None = None,
        gradient_only: bool = False,
        keep_growth: bool = False,
    ) -> _C.SharpnessResult:
        if closure is None:
            raise _C.ArgumentError(
                f"{type(self).__name__}.step needs a closure that runs the forward pass and returns the loss, because the loss "
                "is evaluated more than once; loops with first_step() and second_step() need none"
            )
        if batches is not None and len(batches) == 0:
            raise _C.ArgumentError("batches is empty; give at least one micro-batch")
        if scaler is not None and not scaler.is_enabled():
            scaler = None
        if not self._know_modules and (modules := modules_in(closure, self._parameters)):
            self._take_modules(modules)
        if not self._know_modules:
            if self.method in _PROBING or torch.distributed.is_initialized():
                self._look_at_modules(closure, batches)
            else:
                closure = self._looking_at_modules(closure)
        self._apply_rho()
        objective = self._objective(closure, batches, scaler, masks, gradient_only)
        base = _Base(self, objective, scaler)
        sync = self._ddp.require_backward_grad_sync if self._ddp is not None else True
        try:
            result = self._core.step(objective, base, self._rates(), masks or [], gradient_only, keep_growth)
        finally:
            if self._ddp is not None:
                self._ddp.require_backward_grad_sync = sync
        if scaler is not None and (result.skipped or gradient_only):
            base.record()
        return result

    def _objective(
        self,
        closure: Closure,
        batches: Sequence[Any] | None,
        scaler: GradScaler | None,
        masks: list[torch.Tensor | None] | None,
        gradient_only: bool,
    ) -> Objective:
        return Objective(self._parameters, closure, batches, scaler, self._ddp)

    def _looking_at_modules(self, closure: Closure) -> Closure:
        """The closure, whose first call also shows which modules it calls: in time for the second pass."""

        def first(*args: Any, **keywords: Any) -> Any:
            if self._know_modules:
                return closure(*args, **keywords)
            found: list[torch.nn.Module] = []
            with discovered(found, keep_statistics=False):
                loss = closure(*args, **keywords)
            self._take_modules(found)
            return loss

        return first

    def _look_at_modules(self, closure: Closure, batches: Sequence[Any] | None) -> None:
        """Runs the closure once to see what it calls. Nothing moves: no gradient, statistics and generators put back."""
        found: list[torch.nn.Module] = []
        with torch.random.fork_rng(), torch.no_grad(), discovered(found, keep_statistics=True):
            try:
                closure() if batches is None else closure(batches[0])
            except RuntimeError as error:
                if "does not require grad" not in str(error):
                    raise
                raise _C.ArgumentError(
                    "the closure calls backward(), and the modules that it calls are not known yet; pass model=... to "
                    f"{type(self).__name__}"
                ) from error
        self._take_modules(found)

    def _apply_rho(self) -> None:
        if any("rho" in group for group in self.param_groups):
            default = self.options["rho"]
            self._core.set_rho([float(g.get("rho", default)) for g in self.param_groups for _ in g["params"]])

    def _rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.param_groups for _ in group["params"]]

    # ------------------------------------------------------------------------------------------- the two halves by hand

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """After the first ``backward()``: moves the weights uphill (the interface of davda54/sam)."""
        self._apply_rho()
        self._core.first_step(_Base(self, None, None), self._rates(), [])
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        """After the second ``backward()``: puts the weights back and steps the base optimizer."""
        self._core.second_step(_Base(self, None, None), self._rates())
        if zero_grad:
            self.zero_grad()

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """The weights at w + eps inside, for a look at the loss there. Gradients of w must be at hand in ``.grad``."""
        grads = [None if p.grad is None else p.grad.clone() for p in self._parameters]
        saved = {k: v.clone() for k, v in self._core.state()}
        self.first_step()
        try:
            yield
        finally:
            self._core.cancel()
            self._core.load_state(list(saved.items()))
            for p, grad in zip(self._parameters, grads, strict=True):
                p.grad = grad

    # ------------------------------------------------------------------------------------------------------------ state

    @property
    def skipped_steps(self) -> int:
        """Steps left out because a gradient was not finite."""
        return int(self._core.skipped_steps)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's, and under ``"sharpness"`` counters and buffers. Refused between the two passes."""
        return {**self.base_optimizer.state_dict(), "sharpness": dict(self._core.state())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` gave, or the base optimizer's alone."""
        state = dict(state_dict)
        mine = state.pop("sharpness", None)
        self.base_optimizer.load_state_dict(state)
        if mine is not None:
            self._core.load_state(list(mine.items()))

    def __getstate__(self) -> dict[str, Any]:
        return {
            "base_optimizer": self.base_optimizer,
            "keywords": self._keywords,
            "model": self._model,
            "state": dict(self._core.state()),
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.base_optimizer = saved["base_optimizer"]
        self.defaults = self.base_optimizer.defaults
        super().__setstate__({})
        self._keywords = saved["keywords"]
        self._build()
        self._core.load_state(list(saved["state"].items()))
        self._model, self._know_modules, self._sparsifier = saved["model"], False, None
        if self._model is not None:
            self._take_modules([self._model])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rho={self.options['rho']}, {self.base_optimizer!r})"


class _Base:
    """The base optimizer as the engine steps it."""

    def __init__(self, owner: SharpnessOptimizer, objective: Objective | None, scaler: GradScaler | None) -> None:
        self._owner, self._objective, self._scaler = owner, objective, scaler

    def step(self) -> None:
        base = self._owner.base_optimizer
        if self._scaler is None:
            base.step()
            return
        self.record()
        self._scaler.step(base)

    def step_from(self, origins: list[torch.Tensor | None]) -> bool:
        base = self._owner.base_optimizer
        if self._scaler is not None or not isinstance(base, MaskedOptimizer):
            return False
        base._origins = {p: o for p, o in zip(self._owner._parameters, origins, strict=True) if o is not None}
        try:
            base.step()
        finally:
            base._origins = None
        return True

    def momentum(self, index: int) -> torch.Tensor | None:
        state = self._owner.base_optimizer.state.get(self._owner._parameters[index], {})
        for key in ("momentum_buffer", "exp_avg"):
            if state.get(key) is not None:
                found: torch.Tensor = state[key]
                return found
        return None

    def record(self) -> None:
        """Tells the scaler that gradients are unscaled, and whether they held inf: both passes count as one step."""
        if self._scaler is None or self._objective is None or self._objective.found_inf is None:
            return
        found = self._objective.found_inf
        entry = self._scaler._per_optimizer_states[id(self._owner.base_optimizer)]
        entry["stage"] = OptState.UNSCALED
        entry["found_inf_per_device"] = {found.device: found}


def _flatten(params: Any) -> Iterator[Any]:
    for item in list(params) if params is not None else []:
        if isinstance(item, dict):
            yield from _flatten(item["params"])
        else:
            yield item[1] if isinstance(item, tuple) else item


class SAM(SharpnessOptimizer):
    r"""Sharpness-aware minimization (arXiv 2010.01412; implemented from released code).

    .. math:: \epsilon = \rho\, g / \lVert g \rVert_2, \qquad d = \nabla L(w + \epsilon)

    with the norm over all tensors together; the base optimizer gets :math:`d` at :math:`w`. ``adaptive=True`` scales the
    ascent by :math:`|w|` in every tensor, as davda54/sam does. Two forward and backward passes per step.

    >>> import torch, glyptic
    >>> w = torch.nn.Parameter(torch.tensor([0.5, -0.25]))
    >>> x = torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, -1.0], [1.0, 1.0]])
    >>> y = torch.tensor([1.0, 0.0, 2.0, -1.0])
    >>> optimizer = glyptic.sharpness.SAM([w], torch.optim.SGD, rho=0.1, lr=1.0)
    >>> loss = optimizer.step(lambda: (x @ w - y).square() / 2)
    >>> [round(v, 4) for v in (torch.tensor([0.5, -0.25]) - w).tolist()]
    [-0.2775, -0.3331]
    """

    method = "sam"


class ASAM(SharpnessOptimizer):
    r"""Adaptive SAM (arXiv 2102.11600; implemented from released code), rho 0.5, eta 0.01.

    .. math:: \epsilon = \rho\, T^2 g / \lVert T g \rVert_2, \qquad T = |w| + \eta

    for tensors of two or more dimensions; others keep :math:`T = 1`. Two passes.
    """

    method = "asam"


class GSAM(SharpnessOptimizer):
    r"""Surrogate-gap guided SAM (arXiv 2203.08065; implemented from released code), alpha 0.4.

    .. math:: d = g_s - \alpha \big(g - \tfrac{\langle g, g_s\rangle}{\lVert g_s\rVert^2} g_s\big)

    ``rho_schedule="lr"`` with ``rho_min``, ``lr_min`` and ``lr_max`` ties the radius to the learning rate. Two passes.
    """

    method = "gsam"


class LookSAM(SharpnessOptimizer):
    r"""SAM every ``every`` steps, its direction reused between (arXiv 2203.02714; from secondary sources), rho 0.1.

    .. math:: g_v = g_s - \tfrac{\langle g, g_s\rangle}{\lVert g\rVert^2} g, \qquad
        d = g + \alpha \tfrac{\lVert g\rVert}{\lVert g_v\rVert} g_v

    1 + 1/every passes, one buffer. ``per_tensor=True`` projects tensor by tensor, as a popular implementation does.
    """

    method = "looksam"


class ESAM(SharpnessOptimizer):
    """Efficient SAM (arXiv 2110.03141; implemented from released code): part of the weights, part of the samples.

    A share ``beta`` of the tensors is perturbed, and the second gradient is that of the share ``gamma`` of the samples whose
    loss rose most. The closure returns one loss per sample; if it takes a keyword ``rows``, the second pass runs on those
    samples only, which is what saves time.
    """

    method = "esam"


class FriendlySAM(SharpnessOptimizer):
    r"""F-SAM (arXiv 2403.12350; implemented from released code), rho 0.2, sigma 1, lmbda 0.9.

    .. math:: \epsilon = \rho\, h / \lVert h\rVert_2, \quad h = g - \sigma m_{t-1}, \quad
        m_t = \lambda m_{t-1} + (1-\lambda) g

    Two passes, one buffer.
    """

    method = "fsam"


class WSAM(SharpnessOptimizer):
    r"""Sharpness as a weighted term (arXiv 2305.15817; from secondary sources), gamma 0.9.

    .. math:: d = g + c\,(g_s - g), \qquad c = \gamma / (1 - \gamma)

    ``decoupled=True`` (default): the base steps with :math:`g`, then :math:`w \leftarrow w - \eta c (g_s - g)`. Two passes.
    """

    method = "wsam"


class S2SAM(SharpnessOptimizer):
    r"""Single-step SAM (NeurIPS 2024; implemented from released code): the ascent is the last step's gradient.

    .. math:: \epsilon_t = \rho\, g'_{t-1} / \lVert g'_{t-1}\rVert_2, \qquad d = g'_t = \nabla L(w_t + \epsilon_t)

    One pass, one buffer. Off-mask weights are not perturbed (in the released code they are).
    """

    method = "s2sam"


class StableSAM(SharpnessOptimizer):
    r"""SAM with the length of the gradient at :math:`w`: :math:`d = (\lVert g\rVert/\lVert g_s\rVert)\, g_s` (2401.07250)."""

    method = "stable_sam"


class AESAM(SharpnessOptimizer):
    """SAM only on steps whose squared gradient norm is above a running threshold (arXiv 2304.14647)."""

    method = "aesam"


class MomentumSAM(SharpnessOptimizer):
    r"""One pass at :math:`w - \rho\, v/\lVert v\rVert`, :math:`v` the base optimizer's momentum (arXiv 2401.12033)."""

    method = "momentum_sam"


class SSAM(SharpnessOptimizer):
    """SAM on the coordinates of a mask, random or by squared gradient (arXiv 2210.05177)."""

    method = "ssam"


class GCSAM(SharpnessOptimizer):
    """SAM along the gradient minus its mean over all dimensions but the first (arXiv 2501.11584)."""

    method = "gcsam"


class LESAM(SharpnessOptimizer):
    r"""SAM with :math:`\rho_t = \min(\sigma/\lVert g\rVert, \rho)` (arXiv 2605.10183)."""

    method = "lesam"


class ZSharp(SharpnessOptimizer):
    """SAM along the entries of each layer's gradient whose z-score stands out (arXiv 2505.02369)."""

    method = "zsharp"


class ZOSAM(SharpnessOptimizer):
    r"""Zero-order SAM (arXiv 2603.13115; from its abstract and secondary sources): the ascent costs forward passes only.

    .. math:: c_i = \frac{L(w + \delta u_i) - L(w - \delta u_i)}{2\delta}, \quad \hat g = \tfrac1m \sum_i c_i u_i, \quad
        \epsilon = \rho\, \hat g/\lVert \hat g\rVert_2, \quad d = \nabla L(w + \epsilon)

    2m + 1 forward passes and one backward pass; no :math:`u_i` is stored. With one direction (the default) the ascent is a
    random direction with the sign that raises the loss: compare with :class:`RandomSAM`.
    """

    method = "zosam"


class RandomSAM(SharpnessOptimizer):
    """The control of :class:`ZOSAM`: a random direction, random sign."""

    method = "rand"


class ZOSGD(SharpnessOptimizer):
    """The control of :class:`ZOSAM`: the base optimizer gets the estimate itself. No backward pass."""

    method = "zosgd"


def disable_running_stats(model: torch.nn.Module) -> None:
    """Stops running statistics in train mode, for loops with ``first_step`` and ``second_step``.

    Batch statistics are still used. Calling it twice does no harm, ``num_batches_tracked`` stays too, and evaluation is as
    ever. Modules of other classes with such buffers are known by their names.
    """
    for module in model.modules():
        if "_glyptic_statistics" in module.__dict__ or not any(module._buffers.get(n) is not None for n in _RUNNING):
            continue
        tracks = module.__dict__.get("track_running_stats")
        undo: list[Callable[[], None]] = []
        if tracks is not None:  # torch's own: they then neither read nor write the buffers in train mode
            module.__dict__["track_running_stats"] = False
            undo.append(lambda m=module, t=tracks: m.__dict__.__setitem__("track_running_stats", t))  # type: ignore[misc]
        else:
            undo += _held_back(module)
        module.__dict__["_glyptic_statistics"] = undo


def enable_running_stats(model: torch.nn.Module) -> None:
    """Lets running statistics move again."""
    for module in model.modules():
        for call in module.__dict__.pop("_glyptic_statistics", []):
            call()


_RUNNING = ("running_mean", "running_var")


def _held_back(module: torch.nn.Module) -> list[Callable[[], None]]:
    saved: list[tuple[torch.Tensor, torch.Tensor]] = []

    def before(_: torch.nn.Module, __: Any) -> None:
        saved[:] = [(b, b.clone()) for b in statistics_of([module])] if module.training else []

    def after(_: torch.nn.Module, __: Any, ___: Any) -> None:
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)

    return [module.register_forward_pre_hook(before).remove, module.register_forward_hook(after).remove]
