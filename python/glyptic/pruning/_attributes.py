"""Sizes that a class keeps as plain numbers, found by watching where they go.

``x.view(b, n, self.heads, self.head_dim)`` reads two integers that narrowing makes wrong. During the recorded run every
integer attribute of the user's own modules is a subclass of ``int`` that knows its name; where one arrives as a size of
a tensor, the axis graph says what that size becomes. Attributes whose uses agree are set in the smaller model, which is
then of the same class, and like everything else compared with the masked one. The same watch sees attention whose scale
is left to its default, 1 / sqrt(head size): narrower heads would change it, so the queries' weights take the difference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from . import _record


class Tagged(int):
    """An integer that remembers which attribute it was."""

    origin: tuple[str, str]

    def __new__(cls, value: int, origin: tuple[str, str]) -> Tagged:
        made = super().__new__(cls, value)
        made.origin = origin
        return made

    def __deepcopy__(self, memo: Any) -> int:
        return int(self)

    def __reduce__(self) -> Any:
        return int, (int(self),)


@dataclass
class Use:
    """The attribute ``origin`` was the number of entries of a dimension of a node, in a stretch of it or of one over another."""

    origin: tuple[str, str]
    node: int
    dim: int
    start: int = 0
    stop: int | None = None
    over: tuple[int, int] | None = None  # divided by the size of this node's dimension
    groups: int = 0  # blocks of the dimension that are left, of so many


@dataclass
class Watch:
    uses: list[Use] = field(default_factory=list)
    attention: list[tuple[int, int]] = field(default_factory=list)  # node of the queries, of the keys


class _Mode(TorchFunctionMode):
    def __init__(self, recorder: _record.Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.watch = Watch()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        handler = getattr(self, f"_{name}", None)
        if name == "scaled_dot_product_attention":
            if kwargs.get("scale") is None and len(args) >= 2:
                self.watch.attention.append((self.recorder.node(args[0]), self.recorder.node(args[1])))
        elif handler is not None and (_tagged(args) or _tagged(kwargs)):
            handler(args, kwargs, result)
        return result

    def _use(self, value: Any, tensor: Any, dim: int, **rest: Any) -> None:
        if isinstance(value, Tagged) and isinstance(tensor, torch.Tensor):
            self.watch.uses.append(Use(value.origin, self.recorder.node(tensor), dim % max(1, tensor.dim()), **rest))

    def _sizes(self, sizes: Any, tensor: torch.Tensor, first: int = 0) -> None:
        for k, value in enumerate(_flat(sizes)):
            self._use(value, tensor, first + k)

    def _view(self, args: Any, kwargs: Any, result: Any) -> None:
        self._sizes(args[1:] or kwargs.get("size", kwargs.get("shape", ())), result)

    _reshape = _expand = _broadcast_to = _view

    def _zeros(self, args: Any, kwargs: Any, result: Any) -> None:
        self._sizes(args or kwargs.get("size", ()), result)

    _ones = _empty = _full = _zeros

    def _new_zeros(self, args: Any, kwargs: Any, result: Any) -> None:
        self._sizes(args[1:], result)

    _new_ones = _new_empty = _new_full = _new_zeros

    def _unflatten(self, args: Any, kwargs: Any, result: Any) -> None:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        self._sizes(kwargs.get("sizes", args[2] if len(args) > 2 else ()), result, int(dim) % args[0].dim())

    def _split(self, args: Any, kwargs: Any, result: Any) -> None:
        how = args[1] if len(args) > 1 else kwargs.get("split_size", kwargs.get("split_size_or_sections"))
        dim = int(kwargs.get("dim", args[2] if len(args) > 2 else 0))
        for value, part in zip(_flat(how), result):
            self._use(value, part, dim)

    _split_with_sizes = _split

    def _narrow(self, args: Any, kwargs: Any, result: Any) -> None:
        dim, start, length = [*args[1:], *kwargs.values()][:3]
        self._use(length, result, int(dim))
        self._use(start, args[0], int(dim), stop=int(start))

    def _repeat_interleave(self, args: Any, kwargs: Any, result: Any) -> None:
        dim = kwargs.get("dim", args[2] if len(args) > 2 else None)
        if dim is not None:
            dim = int(dim) % args[0].dim()
            self._use(args[1] if len(args) > 1 else kwargs.get("repeats"), result, dim, over=(self.recorder.node(args[0]), dim))

    def _layer_norm(self, args: Any, kwargs: Any, result: Any) -> None:
        shape = _flat(args[1] if len(args) > 1 else kwargs.get("normalized_shape", ()))
        self._sizes(shape, result, result.dim() - len(shape))

    _rms_norm = _layer_norm

    def _group_norm(self, args: Any, kwargs: Any, result: Any) -> None:
        groups = args[1] if len(args) > 1 else kwargs.get("num_groups")
        self._use(groups, result, 1, groups=int(groups))

    def _conv2d(self, args: Any, kwargs: Any, result: Any) -> None:
        groups = args[6] if len(args) > 6 else kwargs.get("groups")
        if isinstance(groups, Tagged):
            self._use(groups, result, 1, groups=int(groups))

    _conv1d = _conv3d = _conv2d

    def ___getitem__(self, args: Any, kwargs: Any, result: Any) -> None:
        tensor, index = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
        dim = 0
        for k, item in enumerate(index):
            if item is Ellipsis:
                dim = tensor.dim() - sum(i is not None for i in index[k + 1 :])
                continue
            if isinstance(item, slice) and item.step in (None, 1):
                for bound in (item.start, item.stop):
                    if isinstance(bound, Tagged):
                        self._use(bound, tensor, dim, stop=int(bound))
            dim += item is not None


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [item for part in value for item in _flat(part)]
    return [value]


def _tagged(value: Any) -> bool:
    if isinstance(value, Tagged):
        return True
    if isinstance(value, slice):
        return _tagged((value.start, value.stop))
    if isinstance(value, (tuple, list)):
        return any(_tagged(v) for v in value)
    if isinstance(value, dict):
        return any(_tagged(v) for v in value.values())
    return False


def _tag(value: Any, origin: tuple[str, str]) -> Any:
    if type(value) is int and value > 1:
        return Tagged(value, origin)
    return value


@contextlib.contextmanager
def watching(model: nn.Module, recorder: _record.Recorder) -> Iterator[Watch]:
    """Tags the integer attributes of modules that are not torch's own, and watches where they go."""
    held: list[tuple[dict[str, Any], str, Any]] = []
    mode = _Mode(recorder)
    try:
        for path, module in model.named_modules():
            if type(module).__module__.startswith("torch.nn."):
                continue
            for key, value in list(vars(module).items()):
                if key.startswith("_"):
                    continue
                tagged = _tag(value, (path, key))
                if tagged is not value:
                    held.append((vars(module), key, value))
                    vars(module)[key] = tagged
        with mode:
            yield mode.watch
    finally:
        for namespace, key, value in held:
            if type(namespace.get(key)) is Tagged:  # unless the forward itself set it
                namespace[key] = value


def settings(record: _record.Record, alive: Any) -> dict[str, dict[str, int]]:
    """What the watched attributes become, where all of their uses agree."""
    watch, graph = record.watch, record.graph
    wanted: dict[tuple[str, str], set[int]] = {}
    shapes = record.nodes() if watch.uses else []
    for use in watch.uses:
        kept = graph.kept_of_node(use.node, use.dim, alive)
        stretch = [k for k in kept if use.start <= k and (use.stop is None or k < use.stop)]
        if use.groups:
            value = _record.blocks_left(kept, shapes[use.node]["shape"][use.dim], use.groups)
        elif use.over is not None:
            value = len(kept) // max(1, len(graph.kept_of_node(use.over[0], use.over[1], alive)))
        else:
            value = len(stretch)
        wanted.setdefault(use.origin, set()).add(value)
    result: dict[str, dict[str, int]] = {}
    for (path, key), values in wanted.items():
        if len(values) == 1:
            result.setdefault(path, {})[key] = values.pop()
    return result


def narrowed_heads(record: _record.Record, alive: Any) -> list[tuple[int, int, int]]:
    """Attention with the default scale whose heads are narrower: query node, old and new head size."""
    watch, graph = record.watch, record.graph
    result: list[tuple[int, int, int]] = []
    shapes = record.nodes() if watch.attention else []
    for query, _ in watch.attention:
        shape = shapes[query]["shape"]
        new = len(graph.kept_of_node(query, len(shape) - 1, alive))
        if new != shape[-1]:
            result.append((query, shape[-1], new))
    return result


def query_rows(record: _record.Record, query: int) -> tuple[str, str | None, int, int] | None:
    """The weight (and bias) whose rows ``start`` to ``stop`` make the queries, found by walking back over what is linear in them."""
    nodes = record.nodes()
    start, stop, parts = 0, 0, 0
    bias: str | None = None
    node = nodes[query]
    while True:
        rule, inputs = node["rule"], node["inputs"]
        if rule == "contract":
            for k in inputs:
                source = nodes[k]
                while source["rule"] in ("permute", "reshape", "elementwise") and len(source["inputs"]) == 1:
                    source = nodes[source["inputs"][0]]
                if source["rule"] == "parameter" and len(source["shape"]) == 2:
                    rows = source["shape"][0]
                    return (source["word"], bias, start * rows // parts, stop * rows // parts) if parts else (source["word"], bias, 0, rows)
            return None
        if rule in ("reshape", "permute", "expand") or (rule == "elementwise" and len(inputs) == 1):
            node = nodes[inputs[0]]
        elif rule == "select" and not parts:
            # q = qkv[0]: the first of three; which of them the query is does not show, and the first is checked.
            parent = nodes[inputs[0]]
            parts = parent["shape"][node["ints"][0]]
            start, stop = 0, 1
            node = parent
        elif rule == "slice" and not parts:
            parent, (dim, first, step) = nodes[inputs[0]], node["ints"]
            if step != 1:
                return None
            if len(parent["shape"]) > 3:  # half of each head, to rotate it
                node = parent
                continue
            parts, start, stop = parent["shape"][dim], first, first + node["shape"][dim]
            if parts == stop - start:
                parts = 0
            node = parent
        elif rule in ("elementwise", "concat"):
            # A bias, or a rotation that adds two copies of the same queries: any of them leads to the weight.
            named = [nodes[k] for k in inputs if nodes[k]["rule"] == "parameter" and len(nodes[k]["shape"]) == 1]
            others = [nodes[k] for k in inputs if nodes[k]["rule"] not in ("parameter", "constant", "fill")]
            if not others:
                return None
            if len(named) == 1 and bias is None:
                bias = named[0]["word"]
            node = others[0]
        else:
            return None
