"""Sparsifiers for any ``torch.nn.Module`` and any elementwise ``torch.optim`` optimizer."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import _C
from .._trace import channel_groups

__all__ = ["GMP", "SET", "Chase", "GraNet", "RigL", "Sparsifier", "Static"]

_PRUNABLE = (
    torch.nn.Conv1d,
    torch.nn.Conv2d,
    torch.nn.Conv3d,
    torch.nn.ConvTranspose1d,
    torch.nn.ConvTranspose2d,
    torch.nn.ConvTranspose3d,
    torch.nn.Linear,
)
# A step of these is not a function of each element by itself, so that masking after it is not masking its gradient.
_NOT_ELEMENTWISE = ("Muon", "Adafactor", "LBFGS", "SparseAdam")


def prunable_names(model: torch.nn.Module) -> list[str]:
    """Names of the weights of all convolutions and linear layers, each tensor once, in the order of the model."""
    from ..nn import GraphModule

    if isinstance(model, GraphModule):
        # Normalisation has weights too, but does no multiplications.
        return list(dict.fromkeys(row["weight"] for row in model.graph.cost()["rows"] if row["macs"] > 0))
    first_name = {id(p): name for name, p in reversed(list(model.named_parameters()))}
    names: dict[str, None] = {}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, _PRUNABLE) and isinstance(weight, torch.nn.Parameter) and weight.requires_grad:
            names.setdefault(first_name[id(weight)])
    return list(names)


class Sparsifier:
    """Masks over a model's weights, and the rule by which they change.

    Use one of the subclasses; they differ in ``method`` and its presets only. Every option of the reference page's
    ``sparsity`` group is a keyword argument here.

    Args:
        model: any module. Weights of convolutions and linear layers get masks; biases, normalisation and embeddings
            do not. They are masked at once.
        optimizer: an elementwise ``torch.optim`` optimizer over the model's parameters. Its state of a weight's own
            shape (momentum, moments) is kept zero where the mask is.
        density: share of the prunable weights that stay, in (0, 1].
        total_steps: optimizer steps of the whole run; schedules are fractions of it.
        params: names of the weights to mask, in order, in place of the default.
        example_input: for methods that remove channels: what the model is called with (a tensor or a tuple), where its
            input size cannot be told from its layers or where it does more than layer rules cover; it is run once.
        options: everything else (``update_every``, ``drop_fraction``, ``exclude``, ``seed``, ...).

    Raises:
        ArgumentError: what is wrong with the model; the message names the tensor.
        ConfigError: an unknown option or a value out of range.
    """

    method = ""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        density: float = 0.1,
        total_steps: int = 0,
        params: Sequence[str] | None = None,
        example_input: torch.Tensor | None = None,
        **options: Any,
    ) -> None:
        if not self.method:
            raise TypeError("use a subclass: Static, GMP, SET, RigL, GraNet or Chase")
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
        name = type(optimizer).__name__
        if name in _NOT_ELEMENTWISE:
            raise _C.ArgumentError(
                f"{name} does not update each weight by itself, so masks cannot follow its steps; use SGD, Adam, AdamW, "
                "or another elementwise optimizer"
            )
        self._model = weakref.ref(model)
        self._optimizer = optimizer
        parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        if optimizer is not None:
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            missing = [n for n, p in parameters if id(p) not in held and n in set(prunable_names(model))]
            if missing:
                raise _C.ArgumentError(
                    f"the optimizer does not hold '{missing[0]}'; build it from this model's parameters, after moving "
                    "the model to its device"
                )
        self._parameters = parameters
        prunable = list(params) if params is not None else prunable_names(model)
        keywords: dict[str, Any] = {"density": density, "total_steps": total_steps, **options, "method": self.method}
        groups: list[_C.ChannelGroup] = []
        needs = {m["name"]: m["needs_groups"] for m in _C.sparsity_methods()}
        if needs[self.method] and options.get("channel_sparsity", 1) != 0:
            groups = channel_groups(model, example_input, bool(options.get("channel_conv_to_linear", False)))
        self._core = _C.Sparsifier(parameters, prunable, keywords, groups)

    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """One training step, in place of ``optimizer.step()``.

        Without ``closure`` the gradients of a ``backward()`` just called are used. With it, gradients are zeroed, the
        closure runs the forward pass and returns the loss (a scalar, or one per sample), and ``backward`` is called
        here. On some steps masks change, by the dense gradient of this very step.
        """
        if self._optimizer is None:
            raise _C.ArgumentError(f"step() needs the optimizer: {type(self).__name__}(model, optimizer, ...)")
        loss: torch.Tensor | None = None
        if closure is not None:
            self._optimizer.zero_grad()
            with torch.enable_grad():
                loss = closure()
                mean = loss.mean() if loss.dim() > 0 else loss
                mean.backward()  # type: ignore[no-untyped-call]
        _, _, run_optimizer = self._core.begin_step()
        if run_optimizer:
            self._optimizer.step()
        self._core.end_step([p.grad for _, p in self._parameters], self._states())
        return loss

    def _states(self) -> list[list[torch.Tensor]]:
        """The optimizer's tensors of each parameter's own shape; a 0-dim ``step`` of a 0-dim parameter does not count."""
        if self._optimizer is None:
            return [[] for _ in self._parameters]
        result = []
        for _, p in self._parameters:
            state = self._optimizer.state.get(p, {})
            result.append(
                [v for k, v in state.items() if isinstance(v, torch.Tensor) and v.shape == p.shape and k != "step"]
            )
        return result

    def masks(self) -> dict[str, torch.Tensor]:
        """Bool masks by parameter name; ``True`` keeps. They are the live ones: do not write to them."""
        return dict(self._core.masks())

    def liveness(self) -> dict[str, torch.Tensor]:
        """Alive channels (bool ``[C]``) by weight name; empty for methods without channels."""
        return dict(self._core.liveness())

    def stats(self) -> dict[str, Any]:
        """Counts: ``step, active, size, density, explored, live_channels, channels, layers, ...``."""
        return self._core.stats()

    def events(self) -> list[dict[str, int]]:
        """What each mask update did: ``step, dropped, grown, active, live_channels``."""
        return self._core.events()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All that resuming needs (bit-packed masks, step, schedule state) as tensors: fits ``torch.save`` and safetensors."""
        return dict(self._core.state())

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load what :meth:`state_dict` gave; load model and optimizer first. Checked before anything changes."""
        self._core.load_state(list(state.items()))

    def apply_masks(self) -> None:
        """Zero weights off-mask now, after they were changed by hand."""
        self._core.apply_masks()

    def remove(self) -> None:
        """Let go of the model: zeros stay in its weights, nothing enforces them any more."""
        self._core.remove()

    def __repr__(self) -> str:
        stats = self.stats()
        text = f"{type(self).__name__}(step {stats['step']}, density {stats['density']:.4f}"
        if stats["channels"]:
            text += f", channels {stats['live_channels']}/{stats['channels']}"
        return text + ")"


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
