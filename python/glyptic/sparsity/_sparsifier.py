"""Sparsifiers for any ``torch.nn.Module`` and any elementwise ``torch.optim`` optimizer."""

from __future__ import annotations

import copy
import json
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.amp.grad_scaler import GradScaler

from .. import _C
from .._trace import channel_groups
from ..optim import MaskedOptimizer
from ..sharpness import SharpnessOptimizer
from ._targets import (
    check_tensors,
    chosen_names,
    fresh_values,
    notice_unmasked,
    prunable_names,
    unwrap_model,
    unwrap_optimizer,
)

# Active weight, channels, and the slices that read them and go with them: a group that can be copied and pickled.
_Group = tuple[str, int, list[tuple[str, int, int, int]], list[tuple[str, int, int, int]]]

__all__ = ["GMP", "SET", "Chase", "GraNet", "RigL", "Sparsifier", "Static"]

_Self = TypeVar("_Self", bound="Sparsifier")
_Gradients = list[torch.Tensor | None]
# What a run of `grow_criterion="momentum"` ranks by, where an optimizer holds it.
_MOMENTUM = ("momentum_buffer", "exp_avg")


# The sparsifier of each optimizer, for as long as both are there.
_serving: weakref.WeakKeyDictionary[torch.optim.Optimizer, weakref.ref[Sparsifier]] = weakref.WeakKeyDictionary()


class Sparsifier:
    """Masks over a model's weights, and the rule by which they change.

    Use one of the subclasses; they differ in ``method`` and its presets only. Every option of the reference page's
    ``sparsity`` group is a keyword argument here.

    Args:
        model: any module, also inside ``torch.compile`` or ``DistributedDataParallel``. Weights of convolutions and
            linear layers get masks, the packed projections of ``nn.MultiheadAttention`` among them; biases,
            normalisation and embeddings do not. They are masked at once.
        optimizer: an elementwise ``torch.optim`` optimizer over the model's parameters. Its state of a weight's own
            shape (momentum, moments) is kept zero where the mask is.
        density: share of the prunable weights that stay, in (0, 1].
        total_steps: optimizer steps of the whole run; schedules are fractions of it.
        params: names of the weights to mask, in order, in place of the default.
        example_input: for methods that remove channels: what the model is called with (a tensor or a tuple), where its
            input size cannot be told from its layers or where it does more than layer rules cover; it is run once.
        state: what :meth:`state_dict` gave, to go on from there over weights that are loaded already.
        options: everything else (``update_every``, ``drop_fraction``, ``exclude``, ``seed``, ...).

    Raises:
        ArgumentError: what is wrong with the model; the message names the tensor.
        ConfigError: an unknown option or a value out of range.

    >>> import torch, glyptic
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    >>> s = glyptic.sparsity.RigL(model, optimizer, density=0.25, total_steps=100)
    >>> loss = s.step(lambda: model(torch.ones(4, 8)).square())
    >>> s
    RigL(step 1, density 0.2500)
    """

    method = ""
    _removed: bool = False

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        density: float = 0.1,
        total_steps: int = 0,
        params: Sequence[str] | None = None,
        example_input: torch.Tensor | tuple[Any, ...] | None = None,
        state: Mapping[str, torch.Tensor] | None = None,
        **options: Any,
    ) -> None:
        if not self.method:
            raise TypeError("use a subclass: Static, GMP, SET, RigL, GraNet or Chase")
        inner, prefix = unwrap_model(model)
        check_tensors(inner.named_parameters())
        keywords: dict[str, Any] = {"density": density, "total_steps": total_steps, **options, "method": self.method}
        for key in ("exclude", "custom_density"):  # names may carry the wrapper's prefix
            value = keywords.get(key)
            if prefix and isinstance(value, Mapping):
                keywords[key] = {str(n).removeprefix(prefix): d for n, d in value.items()}
            elif prefix and isinstance(value, (list, tuple)):
                keywords[key] = [str(n).removeprefix(prefix) for n in value]
        prunable = chosen_names(inner, prefix, params) if params is not None else prunable_names(inner)
        if params is None:
            notice_unmasked(inner, prunable)
        groups: list[_Group] = []
        needs = {m["name"]: m["needs_groups"] for m in _C.sparsity_methods()}
        if needs[self.method] and options.get("channel_sparsity", 1) != 0:
            found = channel_groups(inner, example_input, bool(options.get("channel_conv_to_linear", False)))
            groups = [(g.active, g.channels, g.passive_slices, g.companion_slices) for g in found]
        self._build(inner, unwrap_optimizer(optimizer), keywords, prunable, groups, dict(state or {}))
        if self._options["grow_criterion"] == "momentum":
            warnings.warn(
                "grow_criterion='momentum': momentum is kept zero off-mask, so only what was dropped in the same update has "
                "a score and the rest grows in the order of its index; 'gradient' is what ranks all of them",
                UserWarning,
                stacklevel=2,
            )
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            self._compare_ranks(model.process_group)

    def _build(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None,
        keywords: dict[str, Any],
        prunable: list[str],
        groups: list[_Group],
        state: dict[str, torch.Tensor],
    ) -> None:
        """Everything that a new sparsifier and a copied or unpickled one have in common."""
        self._model = model
        self._optimizer = optimizer
        self._keywords, self._prunable, self._groups = keywords, prunable, groups
        self._options = _C.sparsity_options(keywords)
        self._parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        masked = set(prunable)
        self._group_of: dict[int, dict[str, Any]] = {}
        if optimizer is not None:
            self._group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
            missing = [n for n, p in self._parameters if id(p) not in self._group_of and n in masked]
            if missing:
                raise _C.ArgumentError(
                    f"the optimizer does not hold '{missing[0]}'; build it from this model's parameters, after moving "
                    "the model to its device"
                )
            other = _serving.get(optimizer)
            if other is not None and (live := other()) is not None and not live._removed:
                raise _C.ArgumentError(
                    "the optimizer is already controlled by another sparsifier, and steps once for both; call remove() on that "
                    "one first, or give parts of a model their own density with custom_density"
                )
        self._core = _C.Sparsifier(
            self._parameters, prunable, keywords, [_C.ChannelGroup(*group) for group in groups], list(state.items())
        )
        self._masks = dict(self._core.masks())  # live: they change in place
        self._versions = {n: p._version for n, p in self._parameters if n in self._masks}
        self._resumed = bool(state)
        self._fresh = fresh_values(optimizer) if optimizer is not None else None
        self._checked = self._attached = self._inside = self._ran = self._warned = False
        self._removed = False
        self._found_inf: torch.Tensor | None = None
        self._pending: _Gradients | None = None
        self._gave_up: list[tuple[torch.nn.Parameter, torch.Tensor | None]] = []
        self._hooks: list[Any] = []
        self._base = optimizer.base_optimizer if isinstance(optimizer, SharpnessOptimizer) else optimizer
        if isinstance(self._base, MaskedOptimizer):
            self._base.set_masks({p: self._masks[n] for n, p in self._parameters if n in self._masks})
        if isinstance(optimizer, SharpnessOptimizer):
            optimizer._sparsifier = weakref.ref(self)
        elif optimizer is not None:
            self._hooks = _watch(self, optimizer)
        if optimizer is not None:
            _serving[optimizer] = weakref.ref(self)
        self._mask_states()

    # ------------------------------------------------------------------------------------------------------------ steps

    def step(
        self,
        closure: Callable[[], torch.Tensor] | None = None,
        *,
        scaler: GradScaler | None = None,
    ) -> torch.Tensor | None:
        """One training step, in place of ``optimizer.step()`` and of ``scaler.step(optimizer)``.

        Without ``closure`` the gradients of a ``backward()`` just called are used. With it, gradients are zeroed, the
        closure runs the forward pass and returns the loss (a scalar, or one per sample), and ``backward`` is called
        here. On some steps masks change, by the dense gradient of this very step.

        With ``scaler`` gradients are unscaled first if they are not yet. A step that the scaler skips because they hold
        inf or NaN is not counted and changes no mask. ``scaler.update()`` stays yours to call.
        """
        optimizer = self._optimizer
        if optimizer is None:
            raise _C.ArgumentError(f"step() needs the optimizer: {type(self).__name__}(model, optimizer, ...)")
        if self._attached:
            raise _C.ArgumentError("after attach() the masks follow optimizer.step(); call that, or detach() first")
        if isinstance(optimizer, SharpnessOptimizer):
            return self._sharp_step(closure, scaler, None)
        loss: torch.Tensor | None = None
        if closure is not None:
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = closure()
                mean = loss.mean() if loss.dim() > 0 else loss
                (mean if scaler is None else scaler.scale(mean)).backward()  # type: ignore[no-untyped-call]
        if scaler is not None and not scaler.is_enabled():
            scaler = None
        if scaler is not None:
            try:
                scaler.unscale_(optimizer)
            except RuntimeError as error:
                if "already been called" not in str(error):
                    raise
        _, change, run = self._core.begin_step()
        grads = self._gradients()
        self._check_gradients(grads)
        skipped = False
        if run:
            self._inside, self._ran, self._found_inf = True, False, None
            try:
                if scaler is None:
                    optimizer.step()
                else:
                    scaler.step(optimizer)
            finally:
                self._inside = False
            if scaler is not None:  # the fused ones are called and skip by themselves
                skipped = not self._ran or (self._found_inf is not None and bool(self._found_inf.item()))
        elif scaler is not None:
            skipped = not self._all_finite()
        self._finish(grads, change, skipped)
        return loss

    def _follows_optimizer(self) -> bool:
        """Whether a sharpness-aware optimizer whose ``step`` was called takes the masks along; warns if not."""
        if not self._attached and not self._removed:
            self._warn_beside(stacklevel=4)
        return self._attached and not self._removed

    def _sharp_step(
        self, closure: Callable[..., Any] | None, scaler: GradScaler | None, batches: Sequence[Any] | None
    ) -> torch.Tensor:
        """One step of a sharpness-aware optimizer: nothing is perturbed off-mask, and growth ranks by the gradient at w.

        Where a mask update takes the place of the weight update, one gradient at w is all that is computed.
        """
        optimizer = self._optimizer
        assert isinstance(optimizer, SharpnessOptimizer)
        _, change, run = self._core.begin_step()
        name_of = {id(p): n for n, p in self._parameters}
        keep = change or self._options["score_steps"] > 1
        result = optimizer._step(
            closure,
            scaler=scaler,
            batches=batches,
            masks=[self._masks.get(name_of.get(id(p), "")) for p in optimizer._parameters],
            gradient_only=not run,
            keep_growth=keep,
        )
        grads = self._gradients()
        if keep and not result.skipped:
            growth = {id(p): g for p, g in zip(optimizer._parameters, result.growth, strict=True)}
            grads = [growth.get(id(p)) for _, p in self._parameters]
        self._check_gradients(grads)
        self._finish(grads, change, bool(result.skipped))
        loss: torch.Tensor = result.loss
        return loss

    def attach(self: _Self) -> _Self:
        """Let masks follow ``optimizer.step()`` by itself, for loops that somebody else wrote.

        From now on ``optimizer.step()``, with or without a closure, by a trainer, by ``scaler.step(optimizer)`` or by
        hand, does what :meth:`step` does. On a step whose mask update replaces the weight update (RigL's) the optimizer
        is called without gradients, which makes it do nothing.

        >>> import torch, glyptic
        >>> model = torch.nn.Linear(8, 4)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> s = glyptic.sparsity.SET(model, optimizer, density=0.25, total_steps=100).attach()
        >>> model(torch.ones(1, 8)).sum().backward()
        >>> optimizer.step()
        >>> s.stats()["step"], int(model.weight.count_nonzero())
        (1, 8)
        """
        if self._optimizer is None:
            raise _C.ArgumentError(f"attach() needs the optimizer: {type(self).__name__}(model, optimizer, ...)")
        self._attached = True
        return self

    def detach(self) -> None:
        """Undo :meth:`attach`: call :meth:`step` again."""
        self._attached = False

    def _before_optimizer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        """The optimizer is about to step (its pre-hook)."""
        if self._inside or not self._attached:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._withhold()
            return None

        def then_withhold() -> Any:
            loss = closure()
            self._withhold()
            return loss

        if len(args) > 1:
            return (args[0], then_withhold, *args[2:]), kwargs
        return args, {**kwargs, "closure": then_withhold}

    def _withhold(self) -> None:
        """Takes the gradients of this step, away from the optimizer too when masks change in place of weights."""
        assert self._optimizer is not None
        self._pending = self._gradients()
        if all(g is None for g in self._pending):
            return  # a trainer that had nothing to learn from: the step does not count
        _, change, run = self._core.begin_step()
        self._check_gradients(self._pending)
        if not run:
            self._gave_up = [(p, p.grad) for group in self._optimizer.param_groups for p in group["params"]]
            for p, _ in self._gave_up:
                p.grad = None

    def _after_optimizer(self) -> None:
        """The optimizer has stepped (its post-hook)."""
        if self._inside:
            self._ran, self._found_inf = True, getattr(self._optimizer, "found_inf", None)
            return
        if not self._attached:
            self._warn_beside(stacklevel=5)
            return
        grads, self._pending = self._pending or [], None
        withheld = bool(self._gave_up)
        for p, grad in self._gave_up:
            p.grad = grad
        self._gave_up = []
        found_inf = getattr(self._optimizer, "found_inf", None)
        skipped = all(g is None for g in grads) or (found_inf is not None and bool(found_inf.item()))
        scale = getattr(self._optimizer, "grad_scale", None)
        if withheld and scale is not None and not skipped:  # a fused optimizer that steps leaves them unscaled
            torch._foreach_div_([g for g in grads if g is not None], scale)
        _, change, _ = self._core.begin_step()
        self._finish(grads or [None] * len(self._parameters), change, skipped)

    def _warn_beside(self, stacklevel: int) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"optimizer.step() was called beside a {type(self).__name__} sparsifier: weights off-mask moved and no "
                "mask changed; call s.step() in its place, or s.attach() once",
                UserWarning,
                stacklevel=stacklevel,
            )

    def _finish(self, grads: _Gradients, change: bool, skipped: bool) -> None:
        if skipped:
            return
        states = self._states()
        fresh = self._fresh if change and self._options["grow_state"] == "zero" else None
        before = {n: m.clone() for n, m in self._masks.items()} if fresh is not None else {}
        self._core.end_step(grads, states, isinstance(self._base, MaskedOptimizer))
        if fresh is None or self._optimizer is None:
            return
        for name, p in self._parameters:
            if name not in before:
                continue
            grown = self._masks[name] & ~before[name]
            state = self._optimizer.state.get(p, {})
            for key, value in fresh(self._group_of[id(p)]).items():
                if key in state:
                    state[key].masked_fill_(grown, value)

    def _gradients(self) -> _Gradients:
        return [p.grad for _, p in self._parameters]

    def _all_finite(self) -> bool:
        return all(bool(g.isfinite().all()) for g in self._gradients() if g is not None)

    def _needs_gradients(self) -> bool:
        o = self._options
        if self.method == "static" or o["density"] == 1:
            return False
        grows = self.method != "gmp" and (o["grow_criterion"] == "gradient" or o["grow_init"] == "gradient")
        return grows or o["drop_criterion"] in ("mest", "taylor")

    def _check_gradients(self, grads: _Gradients) -> None:
        """A weight without a gradient is found at the first step, not at the first update of the masks."""
        if all(g is None for g in grads):
            raise _C.ArgumentError("no parameter has a gradient: call backward() before s.step(), or give it a closure")
        if self._checked:
            return
        now = dict(self._model.named_parameters())
        for name, p in self._parameters:
            if name not in self._masks:
                continue
            if now.get(name) is not p:
                raise _C.ArgumentError(
                    f"'{name}' is another tensor than when the sparsifier was made (assigned, or loaded with assign=True); "
                    "make optimizer and sparsifier after that"
                )
            if self._masks[name].device != p.device:
                raise _C.ArgumentError(
                    f"'{name}' was moved to {p.device} after the sparsifier was made; make optimizer and sparsifier after .to()"
                )
        absent = [n for (n, _), g in zip(self._parameters, grads, strict=True) if g is None and n in self._masks]
        if absent:
            text = f"'{absent[0]}' got no gradient at the first step"
            if len(absent) > 1:
                text = f"'{absent[0]}' and {len(absent) - 1} more weights got no gradient at the first step"
            if self._needs_gradients():
                raise _C.ArgumentError(
                    f"{text}, which {type(self).__name__} ranks by: let the loss depend on it, or leave it out with "
                    f"exclude=['{absent[0]}']"
                )
            warnings.warn(f"{text}: the loss does not depend on it", UserWarning, stacklevel=3)
        self._checked = True

    def _states(self) -> list[list[torch.Tensor]]:
        """The optimizer's tensors of each parameter's own shape; a 0-dim ``step`` of a 0-dim parameter does not count."""
        by_momentum = self._options["grow_criterion"] == "momentum"
        result = []
        for name, p in self._parameters:
            state = self._optimizer.state.get(p, {}) if self._optimizer is not None else {}
            keys = [k for k, v in state.items() if isinstance(v, torch.Tensor) and v.shape == p.shape and k != "step"]
            if by_momentum:
                keys.sort(key=lambda k: k not in _MOMENTUM)  # what is ranked by comes first
                if name in self._masks and keys and keys[0] not in _MOMENTUM:
                    raise _C.ArgumentError(
                        f"grow_criterion='momentum', but {type(self._optimizer).__name__} keeps none for '{name}'; use "
                        "momentum, or grow_criterion='gradient'"
                    )
            result.append([state[k] for k in keys])
        return result

    def _mask_states(self) -> None:
        """Optimizer state off-mask becomes zero now: some optimizers fill it before their first step."""
        tensors, masks = [], []
        for (name, _), state in zip(self._parameters, self._states(), strict=True):
            if name in self._masks:
                tensors += state
                masks += [self._masks[name]] * len(state)
        torch.ops.glyptic.mask_apply_(tensors, masks)

    # ------------------------------------------------------------------------------------------------------- inspection

    @property
    def model(self) -> torch.nn.Module:
        """The module that is masked, without its wrappers."""
        return self._model

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer, without its wrappers."""
        return self._optimizer

    def options(self) -> dict[str, Any]:
        """Every option with the value in force: presets of the method and keywords."""
        return dict(self._options)

    def masks(self) -> dict[str, torch.Tensor]:
        """Bool masks by parameter name; ``True`` keeps. They are the live ones: do not write to them."""
        return dict(self._masks)

    def liveness(self) -> dict[str, torch.Tensor]:
        """Alive channels (bool ``[C]``) by weight name; empty for methods without channels."""
        return dict(self._core.liveness())

    def stats(self) -> dict[str, Any]:
        """Counts: ``step, active, size, density, explored, live_channels, channels, layers, ...``."""
        return self._core.stats()

    def events(self) -> list[dict[str, int]]:
        """What each mask update did: ``step, dropped, grown, active, live_channels``."""
        return self._core.events()

    def __repr__(self) -> str:
        stats = self.stats()
        text = f"{type(self).__name__}(step {stats['step']}, density {stats['density']:.4f}"
        if stats["channels"]:
            text += f", channels {stats['live_channels']}/{stats['channels']}"
        return text + ")"

    # -------------------------------------------------------------------------------------------------- masks by request

    def apply_masks(self) -> None:
        """Zero weights off-mask now, after they were changed by hand."""
        self._core.apply_masks()

    def apply_to(self, other: torch.nn.Module | Mapping[str, torch.Tensor]) -> None:
        """Zero the same weights of a copy: an average of the weights (EMA), a snapshot, a ``state_dict``.

        The average of weights over time is nonzero where one of them ever was; call this before the average is used or
        saved.

        >>> import torch, glyptic
        >>> model = torch.nn.Linear(8, 4)
        >>> s = glyptic.sparsity.SET(model, None, density=0.25, total_steps=100)
        >>> average = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(8, 4))
        >>> s.apply_to(average)
        >>> int(average.module.weight.count_nonzero())
        8
        """
        tensors: dict[str, torch.Tensor]
        if isinstance(other, Mapping):
            tensors = dict(other)
        else:
            if isinstance(other, torch.optim.swa_utils.AveragedModel):
                other = other.module
            inner, _ = unwrap_model(other)
            tensors = dict(inner.named_parameters(remove_duplicate=False))
        chosen, masks = [], []
        for name, mask in self._masks.items():
            tensor = tensors.get(name)
            if tensor is None or tensor.shape != mask.shape:
                found = "has no such tensor" if tensor is None else f"has it in shape {list(tensor.shape)}"
                raise _C.ArgumentError(f"apply_to: '{name}' has a mask of shape {list(mask.shape)}, but the other {found}")
            chosen.append(tensor)
            masks.append(mask.to(tensor.device))
        torch.ops.glyptic.mask_apply_(chosen, masks)

    def clip_grad_norm_(self, max_norm: float) -> torch.Tensor:
        """As ``torch.nn.utils.clip_grad_norm_`` over the model, but measuring the masked gradient; returns that norm.

        All gradients, dense ones of absent weights included, are scaled alike, so what grows next stays the same. The
        norm of the dense gradient lies mostly on weights that are not there and would shrink every step.
        """
        grads = [p.grad for _, p in self._parameters if p.grad is not None]
        if not grads:
            raise _C.ArgumentError("no parameter has a gradient: call backward() before clip_grad_norm_()")
        kept = [
            torch.where(self._masks[n], p.grad, 0.0) if n in self._masks else p.grad
            for n, p in self._parameters
            if p.grad is not None
        ]
        norm: torch.Tensor = torch.nn.utils.get_total_norm(kept)
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, factor)
        return norm

    def remove(self) -> None:
        """Let go of the model: zeros stay in its weights, nothing enforces them any more."""
        self._core.remove()
        self._removed = True
        self._attached = False
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if isinstance(self._optimizer, MaskedOptimizer):
            self._optimizer.set_masks(None)

    # -------------------------------------------------------------------------------------------------- saving and copies

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All that resuming needs as tensors: bit-packed masks, step, schedule state, and the options as text.

        Fits ``torch.save`` with ``weights_only`` and safetensors.
        """
        return dict(self._core.state())

    def load_state_dict(self, state: Mapping[str, torch.Tensor], strict: bool = True) -> None:
        """Load what :meth:`state_dict` gave; load model and optimizer first. Checked before anything changes.

        ``strict=False`` lets the options differ that say when and how masks change (``total_steps``, ``update_every``,
        ``drop_fraction``, ...), and goes on by those given here. The method, the density, and where masks lie must agree.
        """
        if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
            raise TypeError("state is not a dictionary of tensors, as Sparsifier.state_dict() gives it")
        if not self._resumed:
            self._refuse_lost_weights(state)
        self._core.load_state(list(state.items()), strict)
        self._mask_states()

    def _refuse_lost_weights(self, state: Mapping[str, torch.Tensor]) -> None:
        """Loading the model before making the sparsifier loses what its first, random masks did not keep."""
        shift = torch.arange(8)
        for name, p in self._parameters:
            packed = state.get(f"sparsity.mask.{name}")
            if name not in self._masks or p._version != self._versions[name] or packed is None:
                continue
            mask = self._masks[name].flatten().cpu()
            saved = ((packed.cpu()[:, None].int() >> shift) & 1).flatten()[: len(mask)].bool()
            lost = saved & ~mask if len(saved) == len(mask) else torch.zeros_like(mask)
            if bool(lost.any()) and not bool(p.detach().cpu().flatten()[lost].any()):
                raise _C.ArgumentError(
                    f"'{name}' was masked when this sparsifier was made and not loaded since, so its weights are lost; load "
                    f"the model after making the sparsifier, or make it with {type(self).__name__}(..., state=state)"
                )

    def __getstate__(self) -> dict[str, Any]:
        return {
            "model": self._model,
            "optimizer": self._optimizer,
            "keywords": self._keywords,
            "prunable": self._prunable,
            "groups": self._groups,
            "state": self.state_dict(),
            "attached": self._attached,
            "removed": self._removed,
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        model = saved["model"]
        weights = [p.detach().clone() for p in model.parameters()] if saved["removed"] else []
        self._build(*(saved[k] for k in ("model", "optimizer", "keywords", "prunable", "groups", "state")))
        self._attached = saved["attached"]
        if saved["removed"]:
            self.remove()
            with torch.no_grad():  # whatever they were trained to since then
                for p, weight in zip(model.parameters(), weights, strict=True):
                    p.copy_(weight)

    def __deepcopy__(self: _Self, memo: dict[int, Any]) -> _Self:
        """A copy of model, optimizer and masks; in one ``deepcopy`` of several of them each is copied once."""
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        saved = self.__getstate__()
        saved["model"] = copy.deepcopy(self._model, memo)
        saved["optimizer"] = copy.deepcopy(self._optimizer, memo)
        new.__setstate__(saved)
        return new

    # ------------------------------------------------------------------------------------------------- several processes

    def _compare_ranks(self, group: Any) -> None:
        """Every rank of a data-parallel model must have made the same sparsifier."""
        import hashlib

        import torch.distributed as dist

        digest = hashlib.sha256()
        for name, packed in sorted(self.state_dict().items()):
            if ".mask." in name:
                digest.update(name.encode() + packed.cpu().numpy().tobytes())
        mine = {**self._options, "process_group": ""}
        everyone: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(everyone, (json.dumps(mine, sort_keys=True), digest.hexdigest()), group=group)
        for rank, (options, masks) in enumerate(everyone):
            if (options, masks) == everyone[0]:
                continue
            first, other = json.loads(everyone[0][0]), json.loads(options)
            differs = [f"{k} is {other[k]!r} there, {first[k]!r} on rank 0" for k in first if other[k] != first[k]]
            raise _C.ArgumentError(
                f"rank {rank} made another sparsifier than rank 0: {', '.join(differs) or 'its masks differ'}; give every "
                "rank the same options and the same model"
            )


def _watch(sparsifier: Sparsifier, optimizer: torch.optim.Optimizer) -> list[Any]:
    """Hooks around ``optimizer.step()``. They do not keep the sparsifier alive, and go when it does."""
    reference = weakref.ref(sparsifier)

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        s = reference()
        return None if s is None else s._before_optimizer(args, kwargs)

    def after(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        s = reference()
        if s is not None:
            s._after_optimizer()

    hooks = [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]
    weakref.finalize(sparsifier, _unhook, hooks)
    return hooks


def _unhook(hooks: list[Any]) -> None:
    for hook in hooks:
        hook.remove()


class Static(Sparsifier):
    """A random mask that never changes: the baseline of everything."""

    method = "static"


class GMP(Sparsifier):
    """Gradual magnitude pruning to a cubic schedule (arXiv 1710.01878, equation 1)."""

    method = "gmp"


class SET(Sparsifier):
    """Sparse evolutionary training: drop the smallest, grow at random (arXiv 1707.04780)."""

    method = "set"


class RigL(Sparsifier):
    """Drop the smallest, grow where the dense gradient is largest (arXiv 1911.11134, Algorithm 1)."""

    method = "rigl"


class GraNet(Sparsifier):
    """Gradual pruning with regeneration (arXiv 2106.10404; implemented from the released code).

    Each event prunes all layers together to a cubic sparsity, then drops a share of each layer's weights and grows as
    many by gradient. Starts at ``initial_sparsity`` 0.5.
    """

    method = "granet"


class Chase(Sparsifier):
    """Channel-aware dynamic sparse training (arXiv 2305.19454; implemented from the released code).

    Besides masks, channels are removed for good until ``channel_sparsity`` of the grouped ones are gone;
    :func:`glyptic.sparsity.extract` then gives the smaller dense network.
    """

    method = "chase"
