"""What the engine may do with a user's closure, model, loss scaler and processes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler

from .. import _C

Closure = Callable[..., Any]
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def statistics_of(modules: Sequence[torch.nn.Module]) -> list[torch.Tensor]:
    """The buffers that a forward pass in train mode moves, of BatchNorm and whatever names its buffers alike."""
    found: dict[int, torch.Tensor] = {}
    for root in modules:
        for module in root.modules():
            for name in _STATISTICS:
                buffer = module._buffers.get(name)
                if buffer is not None:
                    found[id(buffer)] = buffer
    return list(found.values())


def modules_in(closure: Closure, parameters: Sequence[torch.nn.Parameter]) -> list[torch.nn.Module]:
    """Modules that a closure refers to and that hold some of the parameters: all of them, or none are returned."""
    values: list[Any] = []
    seen: set[int] = set()
    pending: list[Any] = [closure]
    while pending and len(seen) < 50:
        call = pending.pop()
        if id(call) in seen:
            continue
        seen.add(id(call))
        if isinstance(call, functools.partial):
            values += [*call.args, *call.keywords.values()]
            pending.append(call.func)
            continue
        owner = getattr(call, "__self__", None)
        if owner is not None:
            values += [owner, *getattr(owner, "__dict__", {}).values()]
            call = call.__func__ if hasattr(call, "__func__") else call
        code = getattr(call, "__code__", None)
        if code is None:
            values += [call, *getattr(call, "__dict__", {}).values()]
            continue
        for cell in call.__closure__ or ():
            try:
                values.append(cell.cell_contents)
            except ValueError:  # not assigned yet
                continue
        values += call.__defaults__ or ()
        values += (call.__kwdefaults__ or {}).values()
        values += [call.__globals__[n] for n in code.co_names if n in call.__globals__]
        pending += [v for v in values if inspect.isfunction(v) and id(v) not in seen]
    modules = [v for v in values if isinstance(v, torch.nn.Module)]
    modules += [v for o in values if not isinstance(o, torch.nn.Module) for v in getattr(o, "__dict__", {}).values()
                if isinstance(v, torch.nn.Module)]  # self.model of a trainer in a cell
    held = {id(p) for m in modules for p in m.parameters()}
    return modules if held and all(id(p) in held for p in parameters) else []


@contextmanager
def discovered(modules: list[torch.nn.Module], keep_statistics: bool) -> Iterator[None]:
    """Collects the modules that are called inside, by one hook on all of them.

    With ``keep_statistics`` their buffers are put back afterwards.
    """
    saved: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def before(module: torch.nn.Module, _: Any) -> None:
        modules.append(module)
        if keep_statistics:
            for buffer in statistics_of([module]):
                saved.setdefault(id(buffer), (buffer, buffer.clone()))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()
        with torch.no_grad():
            for buffer, value in saved.values():
                buffer.copy_(value)


class Objective:
    """One step's batch: evaluates the closure as often as the method asks."""

    reduces = False  # a subclass that sets it has reduce(losses, batch, second) -> scalar; otherwise it is the mean

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        closure: Closure,
        batches: Sequence[Any] | None,
        scaler: GradScaler | None,
        ddp: torch.nn.parallel.DistributedDataParallel | None,
    ) -> None:
        self._parameters, self._closure, self._inputs = parameters, closure, batches
        self._scaler, self._ddp = scaler, ddp
        self.batches = 1 if batches is None else len(batches)
        self.distributed = ddp is not None
        self.selects_samples = _takes_rows(closure)
        self._own_backward = False
        self._loss: torch.Tensor | None = None
        self.found_inf: torch.Tensor | None = None

    def _call(self, batch: int, **keywords: Any) -> torch.Tensor:
        loss = self._closure(**keywords) if self._inputs is None else self._closure(self._inputs[batch], **keywords)
        if isinstance(loss, (list, tuple)):  # several losses: their sum, as autograd sums them
            if not loss:
                raise _C.ArgumentError("the closure returned an empty list; it must return the loss")
            loss = sum(loss[1:], loss[0])
        if loss is None and self._has_gradients():
            raise _C.ArgumentError("the closure called backward() but returned nothing; let it return the loss as well")
        if not isinstance(loss, torch.Tensor):
            raise _C.ArgumentError(f"the closure returned a {type(loss).__name__}; it must return the loss, a tensor")
        return loss

    def _has_gradients(self) -> bool:
        return any(p.grad is not None for p in self._parameters)

    def loss(self, batch: int) -> torch.Tensor:
        fresh = not self._has_gradients()
        loss = self._call(batch)
        self._own_backward = torch.is_grad_enabled() and fresh and self._has_gradients()
        if not self._own_backward:
            return loss
        if self.batches > 1 or self._scaler is not None:
            what = "several micro-batches" if self.batches > 1 else "a loss scaler"
            raise _C.ArgumentError(f"the closure calls backward() itself, which does not go with {what}; return the loss only")
        return loss.detach().requires_grad_()  # the graph has been used

    def loss_of(self, batch: int, rows: torch.Tensor) -> torch.Tensor:
        return self._call(batch, rows=rows)

    def backward(self, loss: torch.Tensor) -> None:
        if self._own_backward:
            self._own_backward = False
            return
        try:
            (loss if self._scaler is None else self._scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            text = str(error)
            if "modified by an inplace operation" in text or "second time" in text:
                raise _C.ArgumentError(
                    "the closure reuses a graph of an earlier pass, but the weights have moved since; it must run the whole "
                    "forward pass each time it is called"
                ) from error
            raise

    def finish_pass(self) -> bool:
        """Unscales what the loss scaler scaled; False where that found inf or NaN."""
        if self._scaler is None:
            return True
        groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
        for p in self._parameters:
            if p.grad is not None:
                groups.setdefault((p.grad.device, p.grad.dtype), []).append(p.grad)
        bad: torch.Tensor | None = None
        for (device, _), grads in groups.items():
            found = torch.zeros((), dtype=torch.float32, device=device)
            scale = self._scaler._scale
            assert scale is not None  # scale() made it
            inverse = scale.double().reciprocal().float().to(device)
            torch._amp_foreach_non_finite_check_and_unscale_(grads, found, inverse)
            bad = found if bad is None else torch.maximum(bad, found.to(bad.device))
        assert bad is not None
        if self._ddp is not None:  # all processes leave a step out together
            torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX, group=self._ddp.process_group)
        self.found_inf = bad if self.found_inf is None else torch.maximum(self.found_inf, bad)
        return not bool(bad.item())

    # --- several processes

    def synchronize(self, on: bool) -> None:
        assert self._ddp is not None
        self._ddp.require_backward_grad_sync = on

    def all_reduce_mean(self, tensors: list[torch.Tensor]) -> None:
        import torch.distributed as dist

        assert self._ddp is not None
        group = self._ddp.process_group
        flat: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
        for tensor in tensors:
            flat.setdefault((tensor.device, tensor.dtype), []).append(tensor)
        for same in flat.values():  # one message each
            joined = torch.cat([t.reshape(-1) for t in same])
            dist.all_reduce(joined, group=group)
            joined /= dist.get_world_size(group)
            for tensor, part in zip(same, torch.split(joined, [t.numel() for t in same]), strict=True):
                tensor.copy_(part.view_as(tensor))


def _takes_rows(closure: Closure) -> bool:
    try:
        return "rows" in inspect.signature(closure).parameters
    except (TypeError, ValueError):
        return False
