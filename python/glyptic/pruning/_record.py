"""What a model does to dimensions, found by running it once.

The model runs in eval mode on example inputs under a ``TorchDispatchMode``; every ATen operation is written down as one
rule of the C++ axis graph. Running covers more than symbolic tracing (control flow on Python values, functional calls,
modules called twice, parametrizations, attention and recurrent layers all end up as ATen operations) and takes
milliseconds where ``torch.export`` takes seconds. What has no rule pins the dimensions that it touches, with its name:
never guessed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .. import _C

aten = torch.ops.aten


@dataclass
class Call:
    """One ATen operation: which node each tensor argument and result is."""

    function: Any
    inputs: list[int]
    outputs: list[int]
    # Dimensions of its first argument over which it takes statistics, for the masked run.
    statistics: tuple[int, ...] = ()


@dataclass
class Record:
    """The axis graph of one run, and the run itself."""

    graph: _C.AxisGraph
    calls: list[Call] = field(default_factory=list)
    watch: Any = None
    input_shapes: list[list[int]] = field(default_factory=list)
    _nodes: Any = None
    notes: list[str] = field(default_factory=list)

    def nodes(self) -> list[dict[str, Any]]:
        if self._nodes is None:
            self._nodes = self.graph.nodes()
        return self._nodes  # type: ignore[no-any-return]


Rule = Callable[["Recorder", str, tuple[Any, ...], dict[str, Any], list[torch.Tensor]], "list[int] | None"]
_RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        for name in names:
            _RULES[name] = function
        return function

    return register


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing compiles in here; torch's default would import all of torch._dynamo (seconds) to say so.
        return False


def first_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class Recorder(_Mode):  # type: ignore[no-untyped-call]
    """Writes down what runs under it."""

    def __init__(self, names: dict[int, str], inputs: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record = Record(_C.AxisGraph())
        self.names = names
        self.nodes: dict[int, int] = {}
        self.weighted: set[int] = set()  # nodes whose values depend on a parameter
        self.alive: list[torch.Tensor] = []  # ids stay unique as long as the tensors do
        self.module = ""
        self.statistics: tuple[int, ...] = ()
        self.record.input_shapes = [list(t.shape) for t in inputs]
        for k, tensor in enumerate(inputs):
            self.nodes[id(tensor)] = self.add(f"input {k}", "input", [], list(tensor.shape))
            self.alive.append(tensor)

    def add(self, name: str, rule: str, inputs: list[int], shape: Sequence[int], ints: Sequence[int] = (), word: str = "") -> int:
        return self.record.graph.add(name, rule, inputs, list(shape), list(ints), word)

    def node(self, tensor: torch.Tensor) -> int:
        found = self.nodes.get(id(tensor))
        if found is not None:
            return found
        name = self.names.get(id(tensor))
        shape = list(tensor.shape)
        made = self.add(name, "parameter", [], shape, (), name) if name else self.add("constant", "constant", [], shape)
        self.nodes[id(tensor)] = made
        if name and isinstance(tensor, nn.Parameter):
            self.weighted.add(made)
        self.alive.append(tensor)
        return made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Arguments first: an operation in place changes what they are.
        inputs = [self.node(t) for t in _tensors([args, kwargs])]
        if func is aten._local_scalar_dense.default and self.weighted.intersection(inputs):
            raise _C.ArgumentError(
                f"'{self.module or 'the model'}' looks at a number that depends on the weights (bool(), int(), float() or .item() "
                "of a tensor); one run does not show what it would do with another one; take that part out of the forward"
            )
        result = func(*args, **kwargs)
        outputs = list(_tensors(result))
        name = func._schema.name.split("::")[-1]
        base = name[:-1] if name.endswith("_") and not name.endswith("__") else name
        label = f"{self.module}: {base}" if self.module else base
        self.statistics = ()
        self.alive += outputs
        made: list[int] | None = None
        rule = _RULES.get(base)
        if rule is not None:
            made = rule(self, label, args, kwargs, outputs)
        elif torch.Tag.pointwise in func.tags and len(outputs) == 1:
            made = [self.add(label, "elementwise", inputs, outputs[0].shape)]
        if made is None:
            made = self.opaque(label, inputs, outputs, "has no rule for what it does to dimensions")
        for k, tensor in enumerate(outputs):
            node = made[k] if k < len(made) else self.add(label, "constant", [], tensor.shape)
            in_place = any(tensor is a for a in _tensors(args))
            if in_place and tensor._is_view() and tensor._base is not None and base not in ("detach", "alias"):
                # Writing into a view changes its base and every other view of it.
                self.opaque(label, [node, self.node(tensor._base)], [], "writes into a view in place")
            self.nodes[id(tensor)] = node
            if k >= len(made):
                made.append(node)
        if self.weighted.intersection(inputs):
            self.weighted.update(made)
        self.record.calls.append(Call(func, inputs, made[: len(outputs)], self.statistics))
        return result

    def opaque(self, label: str, inputs: list[int], outputs: list[torch.Tensor], why: str, note: bool = True) -> list[int]:
        if note:
            self.record.notes.append(f"'{label}' {why}")
        if not outputs:
            self.add(label, "opaque", inputs, [], (), why)
            return []
        first = self.add(label, "opaque", inputs, outputs[0].shape, (), why)
        return [first, *(self.add(label, "constant", [], t.shape) for t in outputs[1:])]

    # Building blocks of the rules

    def reshape(self, label: str, node: int, shape: Sequence[int]) -> int:
        return self.add(label, "reshape", [node], shape)

    def slice(self, label: str, node: int, shape: list[int], dim: int, start: int, step: int = 1) -> int:
        return self.add(label, "slice", [node], shape, [dim, start, step])

    def reduce(self, label: str, tensor: torch.Tensor, dims: Any, out: torch.Tensor, word: str) -> int:
        rank = tensor.dim()
        if dims is None or (isinstance(dims, (list, tuple)) and not dims):
            dims = list(range(rank))
        dims = sorted({d % rank for d in ([dims] if isinstance(dims, int) else dims)}) if rank else []
        keep = int(out.dim() == rank and bool(dims))
        self.statistics = tuple(dims)
        return self.add(label, "reduce", [self.node(tensor)], out.shape, [keep, *dims], word)

    def along(self, label: str, tensor: torch.Tensor, dims: Any, out: torch.Tensor, why: str) -> int:
        rank = tensor.dim()
        dims = [d % rank for d in ([dims] if isinstance(dims, int) else dims)] if rank else []
        return self.add(label, "along", [self.node(tensor)], out.shape, dims, why)


# Rules, by the operation's name
# ----------------------------------------------------------------------------------------------------------------------


@_rule("clone", "detach", "alias", "_to_copy", "lift_fresh", "lift_fresh_copy", "contiguous", "dropout", "native_dropout",
       "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "bernoulli", "fill", "zero", "_conj",
       "masked_fill", "where", "_prelu_kernel", "lerp", "isin", "nan_to_num", "_weight_norm_interface", "threshold",
       "uniform", "normal", "resolve_conj", "resolve_neg", "hardswish", "leaky_relu", "rrelu_with_noise", "rrelu", "log_sigmoid_forward",
       "prelu", "polar", "complex", "floor_divide", "real", "imag")
def _elementwise(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    inputs = [r.node(t) for t in _tensors([args, kwargs])]
    return [r.add(label, "elementwise", inputs, out[0].shape)]


@_rule("as_strided")
def _as_strided(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int] | None:
    x, y = args[0], out[0]
    same = x.shape == y.shape and all(a == b for a, b, n in zip(x.stride(), y.stride(), x.shape) if n > 1)
    if not same or x.storage_offset() != y.storage_offset():
        return None
    return [r.add(label, "elementwise", [r.node(x)], y.shape)]  # other strides for dimensions of one entry


@_rule("copy")
def _copy(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    return [r.add(label, "elementwise", [r.node(args[0]), r.node(args[1])], out[0].shape)]


@_rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "empty_strided")
def _fill(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    return [r.add(label, "fill", [], out[0].shape)]


@_rule("arange", "eye", "linspace", "rand", "randn", "randint", "randperm", "scalar_tensor", "tril_indices", "triu_indices")
def _constant(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    return [r.add(label, "constant", [], out[0].shape)]


_EQUATIONS = {"mm": "ab,bc->ac", "bmm": "nab,nbc->nac", "mv": "ab,b->a", "dot": "a,a->", "vdot": "a,a->", "outer": "a,b->ab", "ger": "a,b->ab"}
_WITH_BIAS = {"addmm": "ab,bc->ac", "baddbmm": "nab,nbc->nac", "addmv": "ab,b->a", "addr": "a,b->ab", "_addmm_activation": "ab,bc->ac"}


@_rule(*_EQUATIONS)
def _matmul(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    inputs = [r.node(args[0]), r.node(args[1])]
    return [r.add(label, "contract", inputs, out[0].shape, (), _EQUATIONS[label.rsplit(": ", 1)[-1]])]


@_rule(*_WITH_BIAS)
def _matmul_with_bias(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    inputs = [r.node(args[1]), r.node(args[2])]
    product = r.add(label, "contract", inputs, out[0].shape, (), _WITH_BIAS[label.rsplit(": ", 1)[-1]])
    return [r.add(label, "elementwise", [r.node(args[0]), product], out[0].shape)]


@_rule("convolution", "_convolution", "convolution_overrideable")
def _convolution(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    x, weight, bias, _, _, _, transposed, _, groups = args[:9]
    inputs = [r.node(t) for t in (x, weight, bias) if t is not None]
    return [r.add(label, "conv", inputs, out[0].shape, [groups, int(transposed)])]


@_rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
       "miopen_batch_norm", "_batch_norm_with_update", "_batch_norm_no_update", "batch_norm_with_update")
def _batch_norm(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    vectors = [r.node(t) for t in args[1:5] if isinstance(t, torch.Tensor)]
    return [r.add(label, "channelwise", [r.node(args[0]), *vectors], out[0].shape, [1])]


@_rule("native_group_norm")
def _group_norm(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    x, weight, bias, groups = args[0], args[1], args[2], args[6]
    r.statistics = (1,)
    inputs = [r.node(t) for t in (x, weight, bias) if t is not None]
    return [r.add(label, "group_norm", inputs, out[0].shape, [groups])]


@_rule("native_layer_norm", "_fused_rms_norm", "rms_norm")
def _layer_norm(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    x, shape = args[0], args[1]
    r.statistics = tuple(range(x.dim() - len(shape), x.dim()))
    inputs = [r.node(x), *(r.node(t) for t in args[2:4] if isinstance(t, torch.Tensor))]
    return [r.add(label, "layer_norm", inputs, out[0].shape, [len(shape)])]


@_rule("sum", "mean", "amax", "amin", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm", "prod", "any", "all",
       "logsumexp", "max", "min", "nansum", "aminmax")
def _reduce(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int] | None:
    name = label.rsplit(": ", 1)[-1]
    x = args[0]
    if name in ("max", "min") and len(args) > 1 and isinstance(args[1], torch.Tensor):
        return _elementwise(r, label, args, kwargs, out)
    if name in ("any", "all", "logsumexp", "prod"):
        return None
    if name in ("max", "min") and len(out) > 1:
        # It also says which entry it was, by number.
        dim = kwargs.get("dim", args[1]) % max(1, x.dim())
        fixed = r.along(label, x, dim, x, "numbers its entries")
        keep = int(out[0].dim() == x.dim())
        return [r.add(label, "reduce", [fixed], t.shape, [keep, dim] if x.dim() else [0], name) for t in out]
    position = 2 if name in ("linalg_vector_norm", "norm") else 1
    dims = kwargs.get("dim", args[position] if len(args) > position else None)
    if name in ("linalg_vector_norm", "norm"):
        norm = r.reduce(label, x, dims, out[0], name)
        r.statistics = ()  # it does not see zeros, so that it is the same over what stays
        return [norm]
    made = [r.reduce(label, x, dims, out[0], name)]
    if name in ("var_mean", "std_mean"):
        made.append(r.reduce(label, x, dims, out[1], "mean"))
    return made


@_rule("view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "flatten", "unflatten", "_reshape_copy")
def _view(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int] | None:
    if len(args) > 1 and isinstance(args[1], torch.dtype):
        return None
    return [r.reshape(label, r.node(args[0]), out[0].shape)]


@_rule("t", "transpose", "permute", "numpy_T", "swapaxes", "movedim", "adjoint", "mT")
def _permute(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    rank = args[0].dim()
    dims = list(range(rank))
    name = label.rsplit(": ", 1)[-1]
    if name == "permute":
        dims = [d % rank for d in args[1]]
    elif name == "transpose":
        i, j = args[1] % rank, args[2] % rank
        dims[i], dims[j] = dims[j], dims[i]
    else:
        dims.reverse()
    return [r.add(label, "permute", [r.node(args[0])], out[0].shape, dims)]


@_rule("slice")
def _slice(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    x = args[0]
    dim = (args[1] if len(args) > 1 else 0) % x.dim()
    start = (args[2] if len(args) > 2 else 0) or 0
    step = args[4] if len(args) > 4 else 1
    size = x.shape[dim]
    start = max(0, start + size if start < 0 else min(start, size))
    return [r.slice(label, r.node(x), list(out[0].shape), dim, start, step)]


@_rule("narrow")
def _narrow(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    x, dim, start = args[0], args[1] % args[0].dim(), int(args[2])
    return [r.slice(label, r.node(x), list(out[0].shape), dim, start % max(1, x.shape[dim]))]


@_rule("select")
def _select(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    return [r.add(label, "select", [r.node(args[0])], out[0].shape, [args[1] % args[0].dim()])]


@_rule("unbind")
def _unbind(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    dim = (args[1] if len(args) > 1 else 0) % args[0].dim()
    return [r.add(label, "select", [r.node(args[0])], t.shape, [dim]) for t in out]


@_rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unsafe_chunk", "split_copy")
def _split(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    dim = kwargs.get("dim", args[2] if len(args) > 2 else 0) % args[0].dim()
    made, start = [], 0
    for part in out:
        made.append(r.slice(label, r.node(args[0]), list(part.shape), dim, start))
        start += part.shape[dim]
    return made


@_rule("cat", "concat")
def _cat(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % out[0].dim()
    parts = [t for t in args[0] if t.dim() == out[0].dim()]  # torch.cat skips the empty [0]
    return [r.add(label, "concat", [r.node(t) for t in parts], out[0].shape, [dim])]


@_rule("stack")
def _stack(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % out[0].dim()
    parts = []
    for t in args[0]:
        shape = list(t.shape)
        shape.insert(dim, 1)
        parts.append(r.reshape(label, r.node(t), shape))
    return [r.add(label, "concat", parts, out[0].shape, [dim])]


@_rule("expand", "expand_copy", "broadcast_to")
def _expand(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    return [r.add(label, "expand", [r.node(args[0])], out[0].shape)]


@_rule("repeat")
def _repeat(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    return [r.add(label, "tile", [r.node(args[0])], out[0].shape, args[1])]


@_rule("constant_pad_nd")
def _pad(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    x, pads = args[0], list(args[1])
    node, shape = r.node(x), list(x.shape)
    for k in range(len(pads) // 2):
        dim = x.dim() - 1 - k
        before, after = pads[2 * k], pads[2 * k + 1]
        if before == 0 and after == 0:
            continue
        shape[dim] += before + after
        node = r.add(label, "pad", [node], shape, [dim, before, after])
    return [node]


@_rule("flip")
def _flip(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    return [r.along(label, args[0], args[1], out[0], "turns it round")]


@_rule("roll")
def _roll(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    dims = args[2] if len(args) > 2 and args[2] else list(range(args[0].dim()))
    return [r.along(label, args[0], dims, out[0], "rolls it")]


@_rule("_softmax", "softmax", "_log_softmax", "log_softmax", "_safe_softmax", "cumsum", "cumprod", "logcumsumexp", "sort", "topk",
       "argsort", "cummax", "cummin", "kthvalue", "unfold_copy")
def _along(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    name = label.rsplit(": ", 1)[-1]
    position = 2 if name in ("topk", "kthvalue") else 1
    dim = kwargs.get("dim", args[position] if len(args) > position else -1)
    return [r.along(label, args[0], dim, t, "works along it") for t in out]


@_rule("index_select")
def _index_select(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    x, dim, index = args
    dim %= x.dim()
    repeats = out[0].shape[dim] // max(1, x.shape[dim])
    wanted = torch.arange(x.shape[dim], device=index.device).repeat_interleave(repeats)
    if repeats > 1 and index.shape == wanted.shape and bool((index == wanted).all()):
        # What repeat_interleave(n) does inside (key and value heads shared by n query heads): a dimension more.
        with_copy = list(x.shape)
        with_copy.insert(dim + 1, 1)
        copied = list(x.shape)
        copied.insert(dim + 1, repeats)
        node = r.reshape(label, r.node(x), with_copy)
        node = r.add(label, "expand", [node], copied)
        return [r.reshape(label, node, out[0].shape)]
    r.opaque(label, [r.node(index)], [], "is given it as a list of numbers", note=False)
    return [r.along(label, x, dim, out[0], "picks entries of it by number")]


@_rule("tril", "triu")
def _triangle(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    return [r.along(label, args[0], [-1, -2], out[0], "cuts a triangle out of it")]


@_rule("index")
def _index(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int] | None:
    used = [k for k, i in enumerate(args[1]) if i is not None]
    if len(used) != 1 or args[1][used[0]].dim() != 1 or args[1][used[0]].dtype == torch.bool:
        return None
    r.opaque(label, [r.node(args[1][used[0]])], [], "is given it as a list of numbers", note=False)
    return [r.along(label, args[0], used[0], out[0], "picks entries of it by number")]


@_rule("embedding")
def _embedding(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    return [r.add(label, "embedding", [r.node(args[1]), r.node(args[0])], out[0].shape)]


@_rule("glu")
def _glu(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    x = args[0]
    dim = (args[1] if len(args) > 1 else -1) % x.dim()
    halves = [r.slice(label, r.node(x), list(out[0].shape), dim, start) for start in (0, x.shape[dim] // 2)]
    return [r.add(label, "elementwise", halves, out[0].shape)]


def _regroup(r: Recorder, label: str, x: torch.Tensor, split: list[int], order: list[int], out: torch.Tensor) -> list[int]:
    """A shuffle: seen with more dimensions, these in another order, seen with fewer again."""
    node = r.reshape(label, r.node(x), split)
    node = r.add(label, "permute", [node], [split[d] for d in order], order)
    return [r.reshape(label, node, out.shape)]


@_rule("pixel_shuffle")
def _pixel_shuffle(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int] | None:
    x, f = args
    if x.dim() != 4:
        return None
    n, c, h, w = x.shape
    return _regroup(r, label, x, [n, c // (f * f), f, f, h, w], [0, 1, 4, 2, 5, 3], out[0])


@_rule("pixel_unshuffle")
def _pixel_unshuffle(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int] | None:
    x, f = args
    if x.dim() != 4:
        return None
    n, c, h, w = x.shape
    return _regroup(r, label, x, [n, c, h // f, f, w // f, f], [0, 1, 3, 5, 2, 4], out[0])


@_rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    x, groups = args
    n, c, *space = x.shape
    return _regroup(r, label, x, [n, groups, c // groups, *space], [0, 2, 1, *range(3, 3 + len(space))], out[0])


_SPATIAL = ("pool", "upsample", "reflection_pad", "replication_pad")


def _spatial(r: Recorder, label: str, args: Any, kwargs: Any, out: list[torch.Tensor]) -> list[int]:
    name = label.rsplit(": ", 1)[-1]
    space = next((k for k in (1, 2, 3) if f"{k}d" in name), args[0].dim() - 2)
    dims = list(range(args[0].dim() - space, args[0].dim()))
    return [r.along(label, args[0], dims, t, "slides over it") for t in out]


for _name in dir(aten):
    if any(part in _name for part in _SPATIAL) and "backward" not in _name:
        _RULES[_name] = _spatial


# Running
# ----------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def plain_operations(model: nn.Module, restore: bool = True) -> Iterator[None]:
    """Attention and recurrent layers as the operations they are made of, in eval mode, without gradients.

    ``restore``: what a forward leaves in its modules is taken back at the end.
    """
    modes = [(module, module.training) for module in model.modules()]
    kept = _State(model) if restore else None
    fast = torch.backends.mha.get_fastpath_enabled()
    onednn = torch._C._get_mkldnn_enabled()
    recurrent = any(isinstance(m, nn.RNNBase) for m in model.modules())
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
            if recurrent:
                torch._C._set_mkldnn_enabled(False)
            yield
    finally:
        torch._C._set_mkldnn_enabled(onednn)
        torch.backends.mha.set_fastpath_enabled(fast)
        if kept is not None:
            kept.restore()
        for module, mode in modes:
            module.training = mode


class _State:
    """What a forward may leave behind in its modules: attributes, and tensors written in place (caches, counters)."""

    def __init__(self, model: nn.Module) -> None:
        self.attributes = [(vars(m), {k: v for k, v in vars(m).items() if not k.startswith("_")}) for m in model.modules()]
        tensors = {id(t): t for t in model.buffers()}
        tensors.update({id(v): v for _, own in self.attributes for v in own.values() if isinstance(v, torch.Tensor)})
        self.tensors = [(t, t._version, t.detach().clone()) for t in tensors.values() if not t.is_inference()]

    def restore(self) -> None:
        for namespace, own in self.attributes:
            for key in [k for k in namespace if not k.startswith("_") and k not in own]:
                del namespace[key]
            # The old weight_norm keeps a computed weight there, and one that autograd computed cannot be copied.
            namespace.update({k: v for k, v in own.items() if not (isinstance(v, torch.Tensor) and v.grad_fn is not None)})
        for tensor, version, value in self.tensors:
            if tensor._version != version:
                tensor.detach().copy_(value)


@contextlib.contextmanager
def _module_names(model: nn.Module, recorder: Any) -> Iterator[None]:
    stack: list[str] = []
    handles = []

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            stack.append(recorder.module)
            recorder.module = name

        return hook

    def leave(*_: Any) -> None:
        recorder.module = stack.pop() if stack else ""

    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        handles.append(module.register_forward_pre_hook(enter(name), prepend=True))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def named_tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters and buffers, each tensor once under its first name."""
    first: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        first.setdefault(id(tensor), (name, tensor))
    return list(first.values())


def every_name(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters and buffers under all of their names."""
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def tensor_names(model: nn.Module) -> dict[int, str]:
    """The first name of each parameter and buffer, by identity: tied ones have one."""
    return {id(tensor): name for name, tensor in named_tensors(model)}


def blocks_left(kept: Sequence[int] | None, size: int, parts: int) -> int:
    """How many of ``parts`` equal stretches of ``size`` entries still hold one; ``None`` is all entries."""
    return parts if kept is None else len({k // (size // parts) for k in kept})


def record(model: nn.Module, inputs: tuple[Any, ...], run: Callable[[Recorder], Any] | None = None) -> tuple[Record, Recorder]:
    """Runs ``model(*inputs)`` (or ``run``) once and returns what it does to dimensions."""
    from . import _attributes

    recorder = Recorder(tensor_names(model), list(_tensors(inputs)))
    with plain_operations(model), _module_names(model, recorder):
        if run is not None:
            with recorder:
                result = run(recorder)
        else:
            with recorder, _attributes.watching(model, recorder) as recorder.record.watch:
                result = model(*inputs)
        outputs = [recorder.node(t) for t in _plain(result)]
    if not outputs:
        raise _C.ArgumentError(f"{type(model).__name__} returned no tensor, so that nothing says what must be kept")
    recorder.add("output", "output", outputs, [])
    return recorder.record, recorder


def _plain(value: Any, depth: int = 0) -> list[torch.Tensor]:
    """Tensors out of whatever a model returns: tuples, dictionaries, objects that hold some (transformers' outputs)."""
    found: list[torch.Tensor] = []
    for leaf in torch.utils._pytree.tree_flatten(value)[0]:
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, (nn.Module, type)) and depth < 4:
            found += _plain(dict(vars(leaf)), depth + 1)
    return found


class MaskedRun(_Mode):  # type: ignore[no-untyped-call]
    """Runs the same program over a masked copy, statistics taken over the entries that stay.

    Where a normalisation spans entries that go, zeros are not enough to compare with: the mean over fewer entries is
    another. There, and only there, the operation sees the entries that stay and its result is put back in place.
    """

    def __init__(self, record: Record, alive: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = record.graph
        self.alive = alive
        # Calls in their order, of the operations that take statistics anywhere: nothing else needs to be told apart.
        special = {call.function for call in record.calls if call.statistics or call.function is aten._weight_norm_interface.default}
        self.calls = {f: iter([c for c in record.calls if c.function is f]) for f in special}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self.calls:
            return func(*args, **kwargs)
        call = next(self.calls[func], None)
        if call is None:
            raise _C.ArgumentError("the model took another path on its second run; its control flow must not depend on weights")
        if func is aten._weight_norm_interface.default:
            # Rows that go are 0 / 0 in a masked copy; they are zero.
            return tuple(torch.nan_to_num(t, nan=0.0) for t in func(*args, **kwargs))
        if not call.statistics:
            return func(*args, **kwargs)
        x = args[0]
        kept = {d: self.graph.kept_of_node(call.inputs[0], d, self.alive) for d in call.statistics}
        lost = {d: torch.tensor(k, device=x.device) for d, k in kept.items() if len(k) < x.shape[d]}
        if not lost:
            return func(*args, **kwargs)
        small = x
        for d, index in lost.items():
            small = small.index_select(d, index)
        name = func._schema.name.split("::")[-1]
        if name not in ("native_layer_norm", "native_group_norm", "_fused_rms_norm"):
            return func(small, *args[1:], **kwargs)
        rest = list(args[1:])
        if name == "native_group_norm":
            rest[0], rest[1] = (None if t is None else t.index_select(0, lost[1]) for t in rest[:2])
            rest[3], rest[5] = small.shape[1], blocks_left(kept[1], x.shape[1], args[6])
        else:
            rest[0] = [small.shape[d] for d in call.statistics]
            offset = x.dim() - len(call.statistics)
            for k in (1, 2):
                if k < len(rest) and isinstance(rest[k], torch.Tensor):
                    for d, index in lost.items():
                        rest[k] = rest[k].index_select(d - offset, index)
        result = func(small, *rest, **kwargs)
        full = torch.zeros_like(x)
        if len(lost) == 1:
            (d, index), = lost.items()
            full.index_copy_(d, index, result[0])
        else:
            keep = [lost.get(d, torch.arange(x.shape[d], device=x.device)) for d in range(x.dim())]
            full[torch.meshgrid(*keep, indexing="ij")] = result[0]
        return (full, *result[1:])


def relative_difference(a: Any, b: Any) -> float:
    """Largest difference over all outputs, relative to the values of each; ``inf`` where whole numbers differ.

    The scale is the largest value, unless that is far beyond the bulk (scores masked with -1e9): then it is a hundred times the
    lower quartile, so that a few giants do not hide what happens to the rest.
    """
    worst = 0.0
    left, right = _plain(a), _plain(b)
    if len(left) != len(right):
        return math.inf
    for x, y in zip(left, right):
        if x.shape != y.shape or x.dtype != y.dtype:
            return math.inf
        if x.numel() == 0:
            continue
        if not (x.is_floating_point() or x.is_complex()):
            if not torch.equal(x, y):
                return math.inf
            continue
        x, y = (torch.view_as_real(t.to(torch.complex128)) if t.is_complex() else t.double() for t in (x.detach(), y.detach()))
        error = torch.where(x == y, 0.0, (x - y).abs())  # equal infinities differ by nothing
        size = x.abs()
        nonzero = size[(size > 0) & size.isfinite()].flatten()
        if nonzero.numel() > 0:
            quartile = float(nonzero.kthvalue(max(1, nonzero.numel() // 4)).values)
            scale = min(float(nonzero.max()), 100 * quartile)
            error = error / torch.clamp(torch.where(size.isfinite(), size, scale), min=scale)
        difference = float(error.max())
        if math.isnan(difference):
            return math.inf
        worst = max(worst, difference)
    return worst
