"""From a user's module to the graph on which channels, groups and extraction are decided in C++.

The tracer is ``torch.fx``; each traced operation is mapped to one of the graph's, by what it does to channels. What
cannot be mapped is refused with the module's name, the operation, and what to do: never guessed.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn as tnn

from . import _C

_UNARY_MODULES: dict[type, str] = {
    tnn.ReLU: "relu",
    tnn.GELU: "gelu",
    tnn.SiLU: "silu",
    tnn.Sigmoid: "sigmoid",
    tnn.Tanh: "tanh",
    tnn.Identity: "identity",
}
_UNARY_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    F.gelu: "gelu",
    F.silu: "silu",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    torch.tanh: "tanh",
    F.tanh: "tanh",
}
_UNARY_METHODS = {"relu": "relu", "relu_": "relu", "sigmoid": "sigmoid", "tanh": "tanh", "contiguous": "identity"}
# Sides to try when the caller gives no example: the first at which every layer fits is taken. Only where a flattened
# map meets a linear layer does the side matter, and there it is what decides.
_USUAL = (32, 28, 64, 224, 96, 128, 16, 256, 299, 48, 84, 112, 192, 384, 512)
_SIDES = (*_USUAL, *(side for side in range(1, 129) if side not in _USUAL))


def _refuse(where: str, what: str, mend: str) -> _C.ArgumentError:
    return _C.ArgumentError(f"cannot trace '{where}': {what}; {mend}")


def _pair(value: Any) -> list[int]:
    return [int(value), int(value)] if isinstance(value, int) else [int(v) for v in value]


class _Builder:
    """Collects nodes and tensors of one traced module."""

    def __init__(self, model: tnn.Module) -> None:
        self.model = model
        self.nodes: list[dict[str, Any]] = []
        self.names: set[str] = set()
        self.tensors: dict[str, dict[str, Any]] = {}
        self.values: dict[torch.fx.Node, Any] = {}
        # A tied parameter has one name, so that the graph sees that two nodes share it.
        self.tensor_names: dict[int, str] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self.tensor_names.setdefault(id(tensor), name)

    def add(
        self,
        name: str,
        op: str,
        inputs: Sequence[int],
        tensors: dict[str, torch.Tensor | None] | None = None,
        **attributes: Any,
    ) -> int:
        unique, n = name, 1
        while unique in self.names:
            n += 1
            unique = f"{name}#{n}"
        self.names.add(unique)
        node: dict[str, Any] = {"name": unique, "op": op, "inputs": list(inputs)}
        roles = {}
        for role, tensor in (tensors or {}).items():
            if tensor is None:
                continue
            full = self.tensor_names[id(tensor)]
            roles[role] = full
            spec: dict[str, Any] = {
                "name": full,
                "shape": list(tensor.shape),
                "trainable": isinstance(tensor, tnn.Parameter),
                "init": "zeros",
            }
            if tensor.dtype == torch.int64:
                spec["dtype"] = "int64"
            self.tensors[full] = spec
        if roles:
            node["tensors"] = roles
        if attributes:
            node["attributes"] = attributes
        self.nodes.append(node)
        return len(self.nodes) - 1

    def json(self, input_shape: Sequence[int]) -> str:
        self.nodes[0]["attributes"] = {"shape": list(input_shape) if len(input_shape) > 1 else input_shape[0]}
        return json.dumps(
            {
                "format": "glyptic graph",
                "version": 1,
                "model": "",
                "nodes": self.nodes,
                "tensors": list(self.tensors.values()),
            }
        )


def _module_node(b: _Builder, name: str, module: tnn.Module, x: int) -> int:
    for kind, op in _UNARY_MODULES.items():
        if type(module) is kind:
            return b.add(name, op, [x])
    if isinstance(module, tnn.Conv2d) and not isinstance(module, tnn.modules.conv._ConvTransposeNd):
        if isinstance(module.padding, str):
            raise _refuse(name, f"padding='{module.padding}'", "give the padding as numbers")
        return b.add(
            name,
            "conv2d",
            [x],
            {"weight": module.weight, "bias": module.bias},
            stride=list(module.stride),
            padding=list(module.padding),
            dilation=list(module.dilation),
            groups=module.groups,
            padding_mode=module.padding_mode,
        )
    if isinstance(module, tnn.Linear):
        return b.add(name, "linear", [x], {"weight": module.weight, "bias": module.bias})
    if isinstance(module, (tnn.BatchNorm1d, tnn.BatchNorm2d)):
        if module.running_mean is None:
            raise _refuse(name, "BatchNorm without running statistics", "use track_running_stats=True")
        return b.add(
            name,
            "batch_norm",
            [x],
            {
                "weight": module.weight,
                "bias": module.bias,
                "running_mean": module.running_mean,
                "running_var": module.running_var,
                "num_batches_tracked": module.num_batches_tracked,
            },
            eps=float(module.eps),
            momentum=float(0.1 if module.momentum is None else module.momentum),
        )
    if isinstance(module, tnn.LayerNorm):
        return b.add(name, "layer_norm", [x], {"weight": module.weight, "bias": module.bias}, eps=float(module.eps))
    if isinstance(module, tnn.GroupNorm):
        return b.add(
            name,
            "group_norm",
            [x],
            {"weight": module.weight, "bias": module.bias},
            num_groups=module.num_groups,
            eps=float(module.eps),
        )
    if isinstance(module, (tnn.Dropout, tnn.Dropout2d)):
        return b.add(name, "dropout", [x], p=float(module.p))
    if isinstance(module, tnn.MaxPool2d):
        return _max_pool(b, name, x, module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
    if isinstance(module, tnn.AvgPool2d):
        return _avg_pool(b, name, x, module.kernel_size, module.stride, module.padding, module.ceil_mode)
    if isinstance(module, tnn.AdaptiveAvgPool2d):
        return _adaptive_pool(b, name, x, module.output_size)
    if isinstance(module, tnn.Flatten):
        if module.start_dim != 1 or module.end_dim != -1:
            raise _refuse(name, "Flatten of some dimensions only", "flatten all but the batch dimension")
        return b.add(name, "flatten", [x])
    raise _refuse(name, f"no rule for {type(module).__name__}", "write it in terms of layers that have one, or prune only the parts around it")


def _max_pool(b: _Builder, name: str, x: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> int:
    if ceil or _pair(dilation) != [1, 1]:
        raise _refuse(name, "max pooling with ceil_mode or dilation", "use the plain form")
    stride = kernel if stride is None else stride
    return b.add(name, "max_pool2d", [x], kernel=_pair(kernel), stride=_pair(stride), padding=_pair(padding))


def _avg_pool(b: _Builder, name: str, x: int, kernel: Any, stride: Any, padding: Any, ceil: bool) -> int:
    if ceil:
        raise _refuse(name, "average pooling with ceil_mode", "use the plain form")
    stride = kernel if stride is None else stride
    return b.add(name, "avg_pool2d", [x], kernel=_pair(kernel), stride=_pair(stride), padding=_pair(padding))


def _adaptive_pool(b: _Builder, name: str, x: int, size: Any) -> int:
    if _pair(size) != [1, 1]:
        raise _refuse(name, f"adaptive pooling to {size}", "pool to 1, or use AvgPool2d")
    return b.add(name, "global_avg_pool", [x])


def _is_batch_size(value: Any) -> bool:
    """Whether a traced value is ``x.size(0)`` or ``x.shape[0]``."""
    if not isinstance(value, torch.fx.Node):
        return False
    if value.op == "call_method" and value.target == "size":
        return len(value.args) == 2 and bool(value.args[1] == 0)
    if value.op == "call_function" and value.target is operator.getitem:
        source = value.args[0]
        if bool(value.args[1] != 0) or not isinstance(source, torch.fx.Node):
            return False
        by_method = source.op == "call_method" and source.target == "size"
        return by_method or (source.op == "call_function" and source.target is getattr)
    return False


def _is_shape(node: torch.fx.Node) -> bool:
    if node.op == "call_method" and node.target == "size":
        return True
    if node.op == "call_function" and node.target is getattr and bool(node.args[1] == "shape"):
        return True
    return node.op == "call_function" and node.target is operator.getitem and _is_shape_source(node.args[0])


def _is_shape_source(value: Any) -> bool:
    return isinstance(value, torch.fx.Node) and _is_shape(value)


def _argument(node: torch.fx.Node, position: int, name: str, otherwise: Any = None) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, otherwise)


def _call_node(b: _Builder, node: torch.fx.Node) -> int:
    """A function or method call."""
    target: Any = node.target
    name = node.name
    value: Callable[[Any], int] = lambda n: b.values[n]  # noqa: E731
    is_method = node.op == "call_method"
    if (unary := (_UNARY_METHODS if is_method else _UNARY_FUNCTIONS).get(target)) is not None:
        return b.add(name, unary, [value(node.args[0])])
    label = target if is_method else getattr(target, "__name__", str(target))
    tensors = [a for a in node.args if isinstance(a, torch.fx.Node)]
    if target in (operator.add, operator.iadd, torch.add, "add", "add_"):
        if len(tensors) != 2 or _argument(node, 2, "alpha", 1) != 1:
            raise _refuse(name, "a sum with a number or a factor", "add two branches of the network")
        return b.add(name, "add", [value(a) for a in tensors])
    if target in (operator.mul, torch.mul, "mul"):
        if len(tensors) != 2:
            raise _refuse(name, "a product with a number", "multiply two branches of the network")
        return b.add(name, "mul", [value(a) for a in tensors])
    if target in (torch.cat, torch.concat):
        if _argument(node, 1, "dim", 0) != 1:
            raise _refuse(name, "concatenation along another dimension than 1", "concatenate channels")
        parts: Any = node.args[0]
        return b.add(name, "concat", [value(a) for a in parts])
    if target in (torch.flatten, "flatten"):
        if _argument(node, 1, "start_dim", 0) != 1 or _argument(node, 2, "end_dim", -1) != -1:
            raise _refuse(name, "flatten of some dimensions only", "flatten all but the batch dimension")
        return b.add(name, "flatten", [value(node.args[0])])
    if target in ("view", "reshape", torch.reshape):
        shape = node.args[1:]
        if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
            shape = tuple(shape[0])
        if len(shape) == 2 and shape[1] == -1 and _is_batch_size(shape[0]):
            return b.add(name, "flatten", [value(node.args[0])])
        raise _refuse(name, f"{label} to {shape}", "flatten with x.flatten(1), or view(x.size(0), -1)")
    if target in (torch.mean, "mean"):
        dims = _argument(node, 1, "dim")
        if isinstance(dims, (tuple, list)) and sorted(d % 4 for d in dims) == [2, 3]:
            pooled = b.add(name, "global_avg_pool", [value(node.args[0])])
            return pooled if _argument(node, 2, "keepdim", False) else b.add(f"{name}.flatten", "flatten", [pooled])
        raise _refuse(name, f"mean over {dims}", "average over height and width: x.mean((2, 3))")
    if target in (F.max_pool2d, torch.max_pool2d):
        return _max_pool(
            b,
            name,
            value(node.args[0]),
            _argument(node, 1, "kernel_size"),
            _argument(node, 2, "stride"),
            _argument(node, 3, "padding", 0),
            _argument(node, 4, "dilation", 1),
            bool(_argument(node, 5, "ceil_mode", False)),
        )
    if target is F.avg_pool2d:
        return _avg_pool(
            b,
            name,
            value(node.args[0]),
            _argument(node, 1, "kernel_size"),
            _argument(node, 2, "stride"),
            _argument(node, 3, "padding", 0),
            bool(_argument(node, 4, "ceil_mode", False)),
        )
    if target is F.adaptive_avg_pool2d:
        return _adaptive_pool(b, name, value(node.args[0]), _argument(node, 1, "output_size"))
    if target in (F.dropout, F.dropout2d):
        return b.add(name, "dropout", [value(node.args[0])], p=float(_argument(node, 1, "p", 0.5)))
    if target in (F.log_softmax, torch.log_softmax, "log_softmax"):
        if _argument(node, 1, "dim") not in (1, -1):
            raise _refuse(name, "log_softmax over another dimension than 1", "use dim=1")
        return b.add(name, "log_softmax", [value(node.args[0])])
    raise _refuse(name, f"no rule for the operation '{label}'", "write it in terms of layers that have one")


def _first_width(model: tnn.Module, traced: torch.fx.GraphModule) -> tuple[str, int]:
    for node in traced.graph.nodes:
        if node.op != "call_module":
            continue
        module = traced.get_submodule(str(node.target))
        if isinstance(module, tnn.Conv2d):
            return "conv", module.in_channels
        if isinstance(module, tnn.Linear):
            return "linear", module.in_features
    raise _C.ArgumentError("the model has no Conv2d or Linear layer that is called as a module")


class _Tracer(torch.fx.Tracer):
    """Leaves are torch's own layers; everything else is looked into."""

    def is_leaf_module(self, m: tnn.Module, module_qualified_name: str) -> bool:
        return m.__module__.startswith("torch.nn") and not isinstance(m, tnn.Sequential)


def trace(model: tnn.Module, example_input: torch.Tensor | None = None) -> _C.Graph:
    """The graph of ``model``.

    Args:
        model: any module that ``torch.fx`` can trace, out of layers that have a rule (see the module's docstring).
        example_input: ``[N, C, H, W]`` or ``[N, F]``; only its shape is used. Without it, a side is searched at which
            all layers fit.

    Raises:
        ArgumentError: names the module, the operation and what to do.
    """
    from .nn import GraphModule

    if isinstance(model, GraphModule):
        return model.graph
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # fx raises whatever the module's own code makes of a symbolic value
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise _refuse(type(model).__name__, reason[0], "remove control flow that depends on data") from None
    traced = torch.fx.GraphModule(model, graph)
    b = _Builder(model)
    inputs = 0
    for node in graph.nodes:
        if node.op == "placeholder":
            inputs += 1
            if inputs > 1:
                if node.args or not node.users:
                    continue  # an optional argument that keeps its default
                raise _refuse(type(model).__name__, "more than one input", "trace a module of one tensor")
            b.values[node] = b.add("input", "input", [])
        elif node.op == "call_module":
            module = model.get_submodule(str(node.target))
            b.values[node] = _module_node(b, str(node.target), module, b.values[node.args[0]])
        elif node.op in ("call_function", "call_method"):
            if _is_shape(node):
                continue
            b.values[node] = _call_node(b, node)
        elif node.op == "get_attr":
            raise _refuse(str(node.target), "a parameter used outside of a layer", "put it into a layer")
        else:
            result = node.args[0]
            if not isinstance(result, torch.fx.Node):
                raise _refuse(type(model).__name__, "the output is not one tensor", "trace a module that returns one tensor")
            b.add("output", "output", [b.values[result]])
    kind, width = _first_width(model, traced)
    if example_input is not None:
        shapes = [list(example_input.shape[1:])]
    elif kind == "linear" and not any(n["op"] in ("conv2d", "flatten") for n in b.nodes):
        shapes = [[width]]
    elif kind == "linear":  # flatten first: any shape of that many numbers will do
        shapes = [[width]] if b.nodes[1]["op"] != "flatten" else [[1, 1, width]]
    else:
        shapes = [[width, side, side] for side in _SIDES]
    failure: Exception | None = None
    for shape in shapes:
        try:
            result = _C.Graph.from_json(b.json(shape))
            result.validate()
            return result
        except _C.Error as error:
            failure = failure or error
    hint = "" if example_input is not None else "; give example_input=, a tensor of the shape the model takes"
    raise _C.ArgumentError(f"the traced network does not fit together: {failure}{hint}")


def channel_groups(model: tnn.Module, example_input: Any = None, conv_to_linear: bool = False) -> list[_C.ChannelGroup]:
    """Groups of channels with one producer and one reader, of any module.

    Modules that the layer rules above cover need no input. Every other one (attention, recurrent layers, functional calls,
    several inputs) is run once on ``example_input``, as for :mod:`glyptic.pruning`.

    Raises:
        ArgumentError: the module has no layer rule for something, and no ``example_input`` to run it on was given.
    """
    try:
        first = example_input[0] if isinstance(example_input, tuple) else example_input
        return trace(model, first).prunable_groups(conv_to_linear)
    except _C.ArgumentError as refusal:
        if example_input is None:
            raise _C.ArgumentError(
                f"{refusal}; or give example_input=, one batch of what the model is called with, so that it can be run instead "
                "of traced (RigL, SET, GMP and static, and Chase with channel_sparsity=0, need neither)"
            ) from None
    from .pruning._apply import trace as run_once

    return recorded_groups(model, run_once(model, example_input).graph, conv_to_linear)


def recorded_groups(model: tnn.Module, graph: _C.AxisGraph, conv_to_linear: bool) -> list[_C.ChannelGroup]:
    """The groups of a recorded run that are plain rows of one weight and plain slices of its one reader."""
    shapes = dict(graph.tensors())
    convolutions = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, tnn.modules.conv._ConvNd)}
    transposed = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, tnn.modules.conv._ConvTransposeNd)}
    result = []
    for number, group in enumerate(graph.groups()):
        if group.inexact_because:
            continue
        rows, columns, others = [], [], []
        for member in group.members:
            shape = shapes[member.tensor]
            if member.tensor in transposed or len(shape) < 2 or (member.dim == 0 and shape[1] == 1):
                others.append(member)
            elif member.dim == 0:
                rows.append(member)
            else:
                columns.append(member)
        if len(rows) != 1 or len(columns) != 1 or any(m.tensor in transposed for m in others):
            continue
        if rows[0].tensor in convolutions and columns[0].tensor not in convolutions and not conv_to_linear:
            continue
        members = (rows[0], columns[0], *others)
        found = [_slice_of(graph, number, group.size, member.tensor, member.dim) for member in members]
        slices = [s for s in found if s is not None]
        if len(slices) < len(members) or slices[0] != (rows[0].tensor, 0, 0, 1):
            continue
        result.append(_C.ChannelGroup(rows[0].tensor, group.size, [slices[1]], slices[2:]))
    return result


def _slice_of(graph: _C.AxisGraph, group: int, size: int, tensor: str, dim: int) -> tuple[str, int, int, int] | None:
    """Offset and width of a group's stretch of a dimension; ``None`` when its units do not lie side by side."""
    units = graph.units(tensor, dim)
    entries = [k for k, needs in enumerate(units) if any(g == group for g, _ in needs)]
    repeat, rest = divmod(len(entries), size)
    if rest or any(units[k] != [(group, j // repeat)] for j, k in enumerate(entries)) or entries[-1] - entries[0] + 1 != len(entries):
        return None
    return tensor, dim, entries[0], repeat
