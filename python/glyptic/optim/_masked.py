"""Optimizers over ``torch.ops.glyptic.masked_sgd_`` and ``masked_adamw_``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from .. import _C

__all__ = ["SGD", "Adam", "AdamW", "MaskedOptimizer"]


class MaskedOptimizer(torch.optim.Optimizer):
    """An optimizer that keeps weights and its state zero where a mask says so, as part of its step."""

    _masks: dict[torch.Tensor, torch.Tensor] | None = None
    # Where the next step starts in place of the weight, by parameter: set by what perturbed the weights.
    _origins: dict[torch.Tensor, torch.Tensor] | None = None

    def set_masks(self, masks: Mapping[torch.Tensor, torch.Tensor] | None) -> None:
        """Bool masks by parameter, ``True`` keeps; ``None`` for none. A sparsifier calls this by itself.

        The tensors are used as they are: whoever changes them in place changes what the next step keeps.

        >>> import torch, glyptic
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 0.0, 2.0]))
        >>> optimizer = glyptic.optim.SGD([w], lr=0.5)
        >>> optimizer.set_masks({w: torch.tensor([True, False, True])})
        >>> w.grad = torch.ones(3)
        >>> optimizer.step()
        >>> w.tolist()
        [0.5, 0.0, 1.5]
        """
        for p, mask in (masks or {}).items():
            if mask.dtype != torch.bool or mask.shape != p.shape or mask.device != p.device:
                raise _C.ArgumentError(
                    f"a mask is {mask.dtype} {list(mask.shape)} on {mask.device}, but its parameter has {list(p.shape)} on "
                    f"{p.device}; give a bool tensor of that shape there"
                )
        self._masks = dict(masks) if masks else None

    def _mask_of(self, p: torch.Tensor) -> torch.Tensor | None:
        return None if self._masks is None else self._masks.get(p)

    def _with_gradient(self, group: dict[str, Any]) -> Iterator[torch.nn.Parameter]:
        for p in group["params"]:
            if p.grad is None:
                continue
            if p.grad.is_sparse:
                raise _C.ArgumentError(f"{type(self).__name__} takes dense gradients only; build the embedding with sparse=False")
            yield p

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            # Those that can go in one call: one device, one age, all with a mask or all without.
            buckets: dict[Any, list[torch.nn.Parameter]] = {}
            for p in self._with_gradient(group):
                moved = self._origins is not None and p in self._origins
                key = (p.device, self._age(p, group), self._mask_of(p) is not None, moved)
                buckets.setdefault(key, []).append(p)
            for (_, age, masked, moved), params in buckets.items():
                origins = [self._origins[p] for p in params] if moved and self._origins is not None else []
                masks = [m for p in params if (m := self._mask_of(p)) is not None] if masked else []
                self._fused(group, params, masks, origins, age)
        return loss

    def _age(self, p: torch.nn.Parameter, group: dict[str, Any]) -> int:
        raise NotImplementedError("use SGD, Adam or AdamW")

    def _fused(
        self,
        group: dict[str, Any],
        params: list[torch.nn.Parameter],
        masks: list[torch.Tensor],
        origins: list[torch.Tensor],
        age: int,
    ) -> None:
        raise NotImplementedError("use SGD, Adam or AdamW")


class SGD(MaskedOptimizer, torch.optim.SGD):
    r"""``torch.optim.SGD`` with the mask :math:`m` inside the step.

    .. math:: g' = g + \lambda w, \quad v = \mu v + (1 - \tau) g', \quad w = (w - \gamma d)\, m, \quad v = v\, m

    with :math:`d = v`, or :math:`g' + \mu v` with ``nesterov``; :math:`v = g'` on a parameter's first step. Results are
    torch's up to rounding: each product and sum is rounded by itself here.

    Args:
        params: parameters, or groups of them, as everywhere in torch.
        lr: :math:`\gamma`. momentum: :math:`\mu`. dampening: :math:`\tau`. weight_decay: :math:`\lambda`.
        nesterov: look one step ahead. maximize: climb instead.

    >>> import torch, glyptic
    >>> model = torch.nn.Linear(8, 4)
    >>> optimizer = glyptic.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> s = glyptic.sparsity.Static(model, optimizer, density=0.25, total_steps=10)
    >>> model(torch.ones(1, 8)).sum().backward()
    >>> s.step()
    >>> int(optimizer.state[model.weight]["momentum_buffer"].count_nonzero())
    8
    """

    def __init__(
        self,
        params: Any,
        lr: float | torch.Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        torch.optim.SGD.__init__(self, params, lr, momentum, dampening, weight_decay, nesterov, maximize=maximize)

    def _age(self, p: torch.nn.Parameter, group: dict[str, Any]) -> int:
        return int(group["momentum"] == 0 or self.state[p].get("momentum_buffer") is not None)

    def _fused(
        self,
        group: dict[str, Any],
        params: list[torch.nn.Parameter],
        masks: list[torch.Tensor],
        origins: list[torch.Tensor],
        age: int,
    ) -> None:
        momentum = float(group["momentum"])
        if momentum != 0 and age == 0:
            for p in params:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        call = torch.ops.glyptic.restore_sgd_ if origins else torch.ops.glyptic.masked_sgd_
        call(
            params,
            *([origins] if origins else []),
            [p.grad for p in params],
            [self.state[p]["momentum_buffer"] for p in params] if momentum != 0 else [],
            masks,
            lr=float(group["lr"]),
            momentum=momentum,
            dampening=float(group["dampening"]),
            weight_decay=float(group["weight_decay"]),
            nesterov=bool(group["nesterov"]),
            maximize=bool(group["maximize"]),
            first_step=momentum != 0 and age == 0,
        )


class Adam(MaskedOptimizer, torch.optim.Adam):
    r"""``torch.optim.Adam`` with the mask :math:`m` inside the step.

    .. math::
        u = \beta_1 u + (1 - \beta_1) g, \quad v = \beta_2 v + (1 - \beta_2) g^2, \quad
        w = \Big(w - \gamma \frac{u / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}\Big) m

    and :math:`u` and :math:`v` are masked too; weight decay is added to the gradient. Results are torch's up to rounding.

    Args:
        params, lr, betas, eps, weight_decay, maximize: as in torch. ``amsgrad`` has no fused step.
        per_weight_step: :math:`t` is each weight's own age, counted from when it was last grown, in place of the
            tensor's. Otherwise a weight that grows late starts with moves of about
            :math:`(1 - \beta_1) / \sqrt{1 - \beta_2}` = 3.2 learning rates. 4 bytes per weight.
    """

    _decoupled = False

    def __init__(
        self,
        params: Any,
        lr: float | torch.Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        per_weight_step: bool = False,
    ) -> None:
        torch.optim.Adam.__init__(
            self, params, lr, betas, eps, weight_decay, maximize=maximize, decoupled_weight_decay=self._decoupled
        )
        self.defaults["per_weight_step"] = per_weight_step
        for group in self.param_groups:
            group.setdefault("per_weight_step", per_weight_step)

    def load_state_dict(self, state_dict: Any) -> None:
        """Load what ``state_dict()`` gave, of this optimizer or of torch's."""
        super().load_state_dict(state_dict)
        # torch casts state to the parameter's type, but ages are whole numbers.
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        here = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(saved, here, strict=True):
            ages = state_dict["state"].get(index, {}).get("weight_step")
            if ages is not None:
                self.state[p]["weight_step"] = ages.detach().to(p.device, torch.int32, copy=True)

    def _age(self, p: torch.nn.Parameter, group: dict[str, Any]) -> int:
        state = self.state[p]
        if "step" not in state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        if group.get("per_weight_step") and "weight_step" not in state:  # or switched on in the middle: all of one age
            state["weight_step"] = torch.full_like(p, int(state["step"]), dtype=torch.int32)
        return int(state["step"])

    def _fused(
        self,
        group: dict[str, Any],
        params: list[torch.nn.Parameter],
        masks: list[torch.Tensor],
        origins: list[torch.Tensor],
        age: int,
    ) -> None:
        if group["amsgrad"]:
            raise _C.ArgumentError(f"amsgrad=True has no fused masked step; use torch.optim.{type(self).__name__}")
        states = [self.state[p] for p in params]
        torch._foreach_add_([state["step"] for state in states], 1)
        call = torch.ops.glyptic.restore_adamw_ if origins else torch.ops.glyptic.masked_adamw_
        call(
            params,
            *([origins] if origins else []),
            [p.grad for p in params],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            masks,
            [state["weight_step"] for state in states] if group.get("per_weight_step") else [],
            lr=float(group["lr"]),
            beta1=float(group["betas"][0]),
            beta2=float(group["betas"][1]),
            eps=float(group["eps"]),
            weight_decay=float(group["weight_decay"]),
            decoupled=bool(group["decoupled_weight_decay"]),
            maximize=bool(group["maximize"]),
            step=age + 1,
        )


class AdamW(Adam):
    """:class:`Adam` with decoupled weight decay: ``w`` shrinks by ``1 - lr * weight_decay`` first.

    Arguments as there; ``weight_decay`` is 0.01 by default, as in torch.

    >>> import torch, glyptic
    >>> model = torch.nn.Linear(8, 4)
    >>> optimizer = glyptic.optim.AdamW(model.parameters(), lr=1e-3, per_weight_step=True)
    >>> model(torch.ones(1, 8)).sum().backward()
    >>> optimizer.step()
    >>> sorted(optimizer.state[model.weight])
    ['exp_avg', 'exp_avg_sq', 'step', 'weight_step']
    """

    _decoupled = True

    def __init__(
        self,
        params: Any,
        lr: float | torch.Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
        per_weight_step: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, maximize=maximize, per_weight_step=per_weight_step)
