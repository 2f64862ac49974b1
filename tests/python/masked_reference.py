"""What a pruned network must compute, in float64, out of nothing but the original model and the slices that went.

`reference(model, kept, inputs)` zeroes the removed slices of every parameter and buffer and runs the graph that
`torch.export` gives. Zeroing alone is not the pruned network where something is counted or normalised over channels
(LayerNorm, GroupNorm, RMSNorm, a mean, a softmax, a maximum): the zeros would take part. So each value travels with a
*trace*, which tells for each of its elements whether the small network has it:

- the trace of a parameter is a random number, and zero in the removed slices;
- an operator that moves or mixes elements (view, concat, linear, convolution, attention, recurrence) acts on traces as
  on values, without biases: a row of zero weights gives zeros, and so does a row of removed inputs (a mixer's linear
  layer along the tokens of a removed channel); random numbers do not cancel;
- a function applied element by element leaves the trace as it is, so that neither sigmoid(0) = 1/2 brings a removed
  channel back nor a ReLU that happens to be zero removes one; a sum of two lives where either lives, a product where
  both do;
- where the trace is zero the value is set to zero, and statistics are taken over the rest.

Nothing here knows about channels, groups or layouts, and nothing is taken from the library under test. Scales that the
model computed from its original widths (1/sqrt(head size)) stay what they were.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

Kept = Mapping[str, Sequence[Sequence[int] | None]]

_aten = torch.ops.aten

# Applied element by element to the first argument (or statistics that leave every element in its place).
_ELEMENTWISE = {
    "abs", "neg", "relu", "relu_", "relu6", "sigmoid", "tanh", "gelu", "silu", "silu_", "elu", "celu", "selu", "mish", "softplus",
    "leaky_relu", "leaky_relu_", "hardswish", "hardswish_", "hardsigmoid", "hardtanh", "hardtanh_", "exp", "log", "sqrt", "rsqrt",
    "reciprocal", "square", "pow", "erf", "cos", "sin", "clamp", "clamp_min", "clamp_max", "dropout", "dropout_", "feature_dropout",
    "contiguous", "clone", "to", "_to_copy", "type_as", "detach", "rsub", "softmax", "log_softmax", "_softmax", "prelu", "layer_norm",
    "rms_norm", "group_norm", "instance_norm", "batch_norm", "alias", "lift_fresh_copy", "floor", "round", "expm1", "log1p",
    "masked_fill",
}  # fmt: skip
_SUMS = {"add", "sub", "add_", "sub_"}
_PRODUCTS = {"mul", "div", "mul_", "div_"}
_REDUCTIONS = {"mean", "var", "std", "amax", "amin", "sum", "linalg_vector_norm"}
# Take a size or a dtype from their argument and nothing else: nothing that goes can reach their result.
_FRESH = {"new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like"}
_RECURRENT = {"gru", "lstm", "rnn_tanh", "rnn_relu"}
_AFFINE = {"layer_norm": (2, 3), "rms_norm": (2,), "group_norm": (2, 3), "instance_norm": (1, 2), "batch_norm": (1, 2)}


def alive_masks(model: nn.Module, kept: Kept) -> dict[str, Tensor]:
    """For each tensor that lost something: which elements stay. A tensor with two names loses what either loses."""
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    unknown = set(kept) - set(tensors)
    if unknown:
        raise KeyError(f"the plan names tensors that the model does not have: {sorted(unknown)}")
    by_identity: dict[int, Tensor] = {}
    for name, dims in kept.items():
        tensor = tensors[name]
        if len(dims) > tensor.dim():  # fewer: the rest is untouched
            raise ValueError(f"{name} has {tensor.dim()} dimensions and the plan says {len(dims)}")
        alive = torch.ones(tensor.shape, dtype=torch.bool)
        for dim, indices in enumerate(dims):
            if indices is not None:
                here = torch.zeros(tensor.shape[dim], dtype=torch.bool)
                here[torch.as_tensor(list(indices), dtype=torch.long)] = True
                alive &= here.view([-1 if d == dim else 1 for d in range(tensor.dim())])
        key = id(tensor)
        by_identity[key] = by_identity[key] & alive if key in by_identity else alive
    return {name: by_identity[id(t)] for name, t in tensors.items() if id(t) in by_identity and not by_identity[id(t)].all()}


def masked_copy(model: nn.Module, kept: Kept) -> nn.Module:
    """A float64 copy in eval mode whose removed slices are zero."""
    alive = alive_masks(model, kept)
    masked = copy.deepcopy(model).double().eval()
    tensors = dict(masked.named_parameters(remove_duplicate=False)) | dict(masked.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for name, mask in alive.items():
            tensors[name].mul_(mask)
    return masked


def in_double(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(x.double() if x.is_floating_point() else x for x in inputs)


class Reference:
    """The float64 graph of one model and its inputs, exported once and asked for any number of plans."""

    def __init__(self, model: nn.Module, inputs: Sequence[Tensor]):
        self.model = copy.deepcopy(model).double().eval()
        self.inputs = in_double(inputs)
        with torch.enable_grad():  # without gradients torch takes fused layers that cannot be looked into
            self.exported = torch.export.export(self.model, self.inputs, strict=False)

    def __call__(self, kept: Kept) -> list[Tensor]:
        """The outputs, flattened into a list, that the network without the removed slices must have."""
        masked = masked_copy(self.model, kept)
        with torch.no_grad():
            return _Interpreter(self.exported, masked, alive_masks(self.model, kept)).run(self.inputs)


def reference(model: nn.Module, kept: Kept, inputs: Sequence[Tensor]) -> list[Tensor]:
    return Reference(model, inputs)(kept)


def _map(fn, tree):
    if isinstance(tree, (list, tuple)):
        return type(tree)(_map(fn, item) for item in tree)
    return fn(tree)


def _tensors(tree) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    return [t for item in tree for t in _tensors(item)] if isinstance(tree, (list, tuple)) else []


class _Interpreter:
    def __init__(self, exported, masked: nn.Module, alive: Mapping[str, Tensor]):
        self.exported, self.alive = exported, alive
        self.state = dict(masked.named_parameters(remove_duplicate=False)) | dict(masked.named_buffers(remove_duplicate=False))
        self.generator = torch.Generator().manual_seed(7)
        self.values: dict[Any, Any] = {}
        self.traces: dict[Any, Any] = {}

    def random_where(self, live: Tensor, signed: bool = False) -> Tensor:
        t = torch.rand(live.shape, generator=self.generator, dtype=torch.float64) + 0.5
        if signed:
            t = t * (torch.randint(0, 2, live.shape, generator=self.generator) * 2 - 1)
        return torch.where(live, t, 0.0).contiguous()

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        given = iter(inputs)
        specs = iter(self.exported.graph_signature.input_specs)
        for node in self.exported.graph.nodes:
            if node.op == "placeholder":
                spec = next(specs)
                if spec.kind == InputKind.USER_INPUT:
                    self.values[node] = next(given)
                elif spec.target in self.state:
                    self.values[node] = self.state[spec.target].detach()
                    if spec.target in self.alive:
                        self.traces[node] = self.random_where(self.alive[spec.target], signed=True)
                else:
                    self.values[node] = self.exported.constants[spec.target]
            elif node.op == "get_attr":
                self.values[node] = getattr(self.exported.graph_module, node.target)
            elif node.op == "output":
                return [self.values[n] for n in _flat_nodes(node.args)]
            else:
                self.call(node)
        raise AssertionError("a graph without an output")

    def call(self, node) -> None:
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: self.values[n])
        args, kwargs = list(args), dict(kwargs)
        name = getattr(node.target, "_opname", getattr(node.target, "__name__", str(node.target)))
        if name in _FRESH or not any(n in self.traces for n in node.all_input_nodes):
            self.values[node] = node.target(*args, **kwargs)
            return
        if name.startswith("_assert"):  # of dtypes and sizes; a trace is always float64
            self.values[node] = None
            return
        trace = self.trace(node, name, args, kwargs)
        value = self.value(node, name, args, kwargs)
        if not any(t.is_floating_point() for t in _tensors(value)):
            self.values[node] = value
            return
        values, traces = _tensors(value), _tensors(trace)
        if len(values) != len(traces):
            raise AssertionError(f"{node.target}: {len(values)} values, {len(traces)} traces")
        fresh = {}
        for v, t in zip(values, traces):
            t = torch.nan_to_num(t.to(torch.float64), nan=1.0, posinf=1.0, neginf=1.0)
            fresh[id(v)] = self.random_where((t != 0).expand(v.shape))
        self.traces[node] = _map(lambda v: fresh[id(v)] if isinstance(v, Tensor) else v, value)
        self.values[node] = _map(
            lambda v: torch.where(fresh[id(v)] == 0, 0.0, v).contiguous() if isinstance(v, Tensor) else v, value
        )

    # What the small network has ---------------------------------------------------------------------------------------

    def lookup(self, argument, real: bool = False):
        """An argument as the trace sees it: its trace, or ones where nothing of it can go."""

        def one(n):
            if not isinstance(n, torch.fx.Node):
                return n
            if n in self.traces:
                return self.traces[n]
            value = self.values[n]
            if isinstance(value, Tensor) and value.is_floating_point() and not real:
                return torch.ones_like(value)
            return value

        return torch.fx.map_arg(argument, one)

    def trace(self, node, name: str, args, kwargs):
        if name in _ELEMENTWISE:
            t = self.lookup(node.args[0])
            if name == "masked_fill":  # a whole mask of constants does not depend on any parameter
                return t.expand(torch.broadcast_shapes(t.shape, args[1].shape))
            for place in _AFFINE.get(name, ()):
                scale = node.args[place] if len(node.args) > place else None
                if isinstance(scale, torch.fx.Node) and scale in self.traces and place == _AFFINE[name][0]:
                    t = t * _align(self.traces[scale], t, name)
            return t
        if name in _SUMS:
            one, two = (self.lookup(a) for a in node.args[:2])
            if isinstance(one, Tensor) and isinstance(two, Tensor):
                return one.abs() + two.abs()
            return one if isinstance(one, Tensor) else two
        if name in _PRODUCTS:
            one, two = (self.lookup(a) for a in node.args[:2])
            if isinstance(one, Tensor) and isinstance(two, Tensor):
                return one * two
            return one if isinstance(one, Tensor) else two
        if name in _REDUCTIONS:
            t = self.lookup(node.args[0]).abs()
            dims, keep = _reduced(node, name, args, kwargs)
            return t.sum(dims, keepdim=keep) if dims else t.sum()
        if name == "pad" or name == "constant_pad_nd":
            t, pads = self.lookup(node.args[0]).abs(), args[1]
            inside = _aten.constant_pad_nd(torch.ones_like(t), pads, 0.0)
            dims = [t.dim() - 1 - i // 2 for i in range(0, len(pads), 2) if pads[i] or pads[i + 1]]
            # Padding along rows and columns belongs to its channel; new channels belong to the small network.
            return _aten.constant_pad_nd(t, pads, 0.0) + (1 - inside) * t.amax(dims, keepdim=True)
        real = name in _RECURRENT  # an initial state of zeros is zero
        given = list(self.lookup(tuple(node.args), real))
        if name == "addmm":
            return given[1] @ given[2]
        if (name == "linear" or name.startswith("conv")) and len(given) > 2:
            given[2] = None  # a bias alone brings nothing to life: a row of a removed channel stays removed
        return node.target(*given, **self.lookup(dict(node.kwargs), real))

    # What it computes --------------------------------------------------------------------------------------------------

    def value(self, node, name: str, args, kwargs):
        first = node.args[0] if node.args else None
        trace = self.traces.get(first) if isinstance(first, torch.fx.Node) else None
        if not isinstance(trace, Tensor) or bool((trace != 0).all()):
            return node.target(*args, **kwargs)
        x, live = args[0], trace != 0
        if name in ("layer_norm", "rms_norm"):
            dims = list(range(x.dim() - len(args[1]), x.dim()))
            weight = args[2] if len(args) > 2 else None
            if name == "layer_norm":
                bias, eps = (args[3] if len(args) > 3 else None), (args[4] if len(args) > 4 else 1e-5)
                y = _normalise(x, live, dims, eps, centre=True)
            else:
                bias, eps = None, args[3] if len(args) > 3 else None
                y = _normalise(x, live, dims, torch.finfo(x.dtype).eps if eps is None else eps, centre=False)
            y = y if weight is None else y * weight
            return y if bias is None else y + bias
        if name == "group_norm":
            groups, weight, bias, eps = args[1], *(list(args[2:4]) + [None, None])[:2], args[4] if len(args) > 4 else 1e-5
            shape = (x.shape[0], groups, -1)
            y = _normalise(x.reshape(shape), live.reshape(shape), [2], eps, centre=True).reshape(x.shape)
            channels = (1, -1) + (1,) * (x.dim() - 2)
            y = y if weight is None else y * weight.view(channels)
            return y if bias is None else y + bias.view(channels)
        if name in ("softmax", "log_softmax", "_softmax"):
            some = live.any(args[1], keepdim=True)
            return node.target(torch.where(live | ~some, x, -torch.inf), *args[1:], **kwargs)
        if name in ("mean", "var", "std", "amax", "amin"):
            dims, keep = _reduced(node, name, args, kwargs)
            dims = dims or list(range(x.dim()))
            count = live.sum(dims, keepdim=True)
            some = count > 0
            if name in ("amax", "amin"):
                y = getattr(torch.where(live | ~some, x, -torch.inf if name == "amax" else torch.inf), name)(dims, keepdim=True)
            else:
                mean = (x * live).sum(dims, keepdim=True) / count.clamp_min(1)
                if name == "mean":
                    y = mean
                else:
                    correction = kwargs.get("correction", 1)
                    correction = 1 if correction is None else correction
                    y = ((x - mean).square() * live).sum(dims, keepdim=True) / (count - correction)
                    y = y.sqrt() if name == "std" else y
            return y if keep else y.squeeze(dims)
        return node.target(*args, **kwargs)


def _normalise(x: Tensor, live: Tensor, dims: list[int], eps: float, centre: bool) -> Tensor:
    count = live.sum(dims, keepdim=True).clamp_min(1)
    if centre:
        x = (x - (x * live).sum(dims, keepdim=True) / count) * live
    return x * torch.rsqrt((x.square() * live).sum(dims, keepdim=True) / count + eps)


def _align(scale: Tensor, t: Tensor, name: str) -> Tensor:
    return scale if name in ("layer_norm", "rms_norm") else scale.view((1, -1) + (1,) * (t.dim() - 2))


def _reduced(node, name: str, args, kwargs) -> tuple[list[int], bool]:
    place = 2 if name == "linalg_vector_norm" else 1
    dims = args[place] if len(args) > place else kwargs.get("dim")
    keep = args[place + 1] if len(args) > place + 1 and isinstance(args[place + 1], bool) else kwargs.get("keepdim", False)
    return ([] if dims is None else [dims] if isinstance(dims, int) else list(dims)), keep


def _flat_nodes(tree) -> list:
    if isinstance(tree, (list, tuple)):
        return [n for item in tree for n in _flat_nodes(item)]
    return [] if tree is None else [tree]


def flatten(outputs) -> list[Tensor]:
    return _tensors(outputs)


def difference(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference over the largest expected output; infinite where shapes or finiteness differ."""
    if len(outputs) != len(expected):
        return float("inf")
    scale, worst = 0.0, 0.0
    for got, want in zip(outputs, expected):
        if got.shape != want.shape or not bool(torch.isfinite(got).all()):
            return float("inf")
        scale = max(scale, float(want.abs().max()))
        worst = max(worst, float((got.double() - want.double()).abs().max()))
    return worst / max(scale, 1e-30)
