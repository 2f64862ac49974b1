"""The narrower model as a traced graph, for classes whose own ``forward`` holds sizes.

``view(b, n, self.heads, 64)``, ``split([16, 48], 1)`` or ``x[:, :16]`` are numbers in somebody's code that pruning makes
wrong. ``torch.export`` gives that forward as a graph in which they are arguments; those that name a narrowed dimension
are rewritten, nothing else is touched. The result is a ``torch.fx.GraphModule`` that needs torch alone.
"""

from __future__ import annotations

import contextlib
import math
import operator
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from .. import _C
from . import _record

aten = torch.ops.aten
# Arguments that list the sizes of the result.
_SHAPE_AT = {
    "view": 1, "reshape": 1, "_unsafe_view": 1, "expand": 1, "broadcast_to": 1, "zeros": 0, "ones": 0, "full": 0, "empty": 0, "rand": 0,
    "randn": 0, "new_zeros": 1, "new_ones": 1, "new_full": 1, "new_empty": 1, "expand_copy": 1,
}


@contextlib.contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    model.train(training)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes:
            module.training = mode


def _export(model: nn.Module, inputs: tuple[Any, ...], training: bool) -> fx.GraphModule:
    """The forward as a graph, with input sizes left open."""
    # Every size is left open where it can be; the guards that export adds refuse inputs of other sizes where it cannot.
    dynamic = tuple(
        {d: torch.export.Dim.AUTO for d in range(v.dim())} if isinstance(v, torch.Tensor) else None for v in inputs
    )
    with _mode(model, training):
        try:
            program = torch.export.export(model, inputs, dynamic_shapes=dynamic, strict=False)
        except Exception as error:
            raise _C.ArgumentError(
                f"{type(model).__name__} holds sizes in its forward that pruning changes, and torch.export cannot take it apart to "
                f"rewrite them: {_record.first_line(error)}; take sizes from x.shape or from the layers"
            ) from error
        module: Any = program.module()
        return module  # type: ignore[no-any-return]


class _Numbered(fx.Interpreter):
    """Runs the graph under a recorder and remembers which axis node each value is."""

    def __init__(self, module: fx.GraphModule, recorder: _record.Recorder) -> None:
        super().__init__(module)
        self.recorder = recorder
        self.axis_node: dict[fx.Node, int] = {}
        self.shape: dict[fx.Node, list[int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor) and n.op != "output":
            self.axis_node[n] = self.recorder.node(value)
            self.shape[n] = list(value.shape)
        return value


class _Narrower:
    """Rewrites the literals of one graph."""

    def __init__(self, run: _Numbered, graph: _C.AxisGraph, alive: Any) -> None:
        self.run = run
        self.graph = graph
        self.alive = alive

    def kept(self, node: Any, dim: int) -> list[int] | None:
        """Kept entries of a value's dimension; ``None`` when all stay."""
        if node not in self.run.axis_node:
            return None
        size = self.run.shape[node][dim]
        kept = self.graph.kept_of_node(self.run.axis_node[node], dim, self.alive)
        return None if len(kept) == size else list(kept)

    def size(self, node: Any, dim: int) -> int:
        kept = self.kept(node, dim)
        return self.run.shape[node][dim] if kept is None else len(kept)

    def rewrite(self, node: Any) -> None:
        name = node.target._schema.name.split("::")[-1] if isinstance(node.target, torch._ops.OpOverload) else ""
        base = name.rstrip("_")
        if base in _SHAPE_AT:
            self._shape(node, _SHAPE_AT[base])
        elif base == "unflatten":
            x: Any = node.args[0]
            dim = int(node.args[1]) % len(self.run.shape[x])
            self._shape(node, 2, dim)
        elif base == "slice":
            self._slice(node)
        elif base == "narrow":
            x, dim = node.args[0], int(node.args[1]) % len(self.run.shape[node.args[0]])
            if (kept := self.kept(x, dim)) is not None:
                start, length = (int(v) for v in node.args[2:4])
                start %= max(1, self.run.shape[x][dim])
                node.args = (x, dim, sum(k < start for k in kept), sum(start <= k < start + length for k in kept))
        elif base in ("split", "split_with_sizes", "chunk", "unsafe_chunk", "unsafe_split"):
            self._split(node)
        elif base.startswith("conv"):
            self._groups(node)
        elif base == "group_norm":
            x = node.args[0]
            self._set(node, 1, _record.blocks_left(self.kept(x, 1), self.run.shape[x][1], int(node.args[1])))
        elif base in ("layer_norm", "rms_norm"):
            x = node.args[0]
            rank, k = len(self.run.shape[x]), len(node.args[1])
            self._set(node, 1, [self.size(x, d) for d in range(rank - k, rank)])
        elif base == "scaled_dot_product_attention":
            query: Any = node.args[0]
            head = len(self.run.shape[query]) - 1
            if self.kept(query, head) is not None and node.kwargs.get("scale") is None:
                # The default scale would follow the narrower heads; the masked network keeps its own.
                node.kwargs = {**node.kwargs, "scale": 1 / math.sqrt(self.run.shape[query][head])}
        elif base == "repeat":
            x = node.args[0]
            repeats = list(node.args[1])
            shift = len(repeats) - len(self.run.shape[x])
            for d in range(shift, len(repeats)):
                if isinstance(repeats[d], int) and self.kept(node, d) is not None:
                    repeats[d] = self.size(node, d) // self.size(x, d - shift)
            self._set(node, 1, repeats)
        elif base == "repeat_interleave":
            x = node.args[0]
            dim = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else None)
            if isinstance(node.args[1], int) and isinstance(dim, int):
                dim %= len(self.run.shape[x])
                self._set(node, 1, self.size(node, dim) // self.size(x, dim))

    def _set(self, node: Any, position: int, value: Any) -> None:
        args = list(node.args)
        if len(args) > position:
            args[position] = value
            node.args = tuple(args)

    def _shape(self, node: Any, position: int, first: int = 0) -> None:
        sizes = list(node.args[position])
        for k, size in enumerate(sizes):
            # -1 and sizes taken from a tensor follow by themselves.
            if isinstance(size, int) and size >= 0 and self.kept(node, first + k) is not None:
                sizes[k] = self.size(node, first + k)
            elif isinstance(size, fx.Node) and -1 not in sizes and self.kept(node, first + k) is not None:
                sizes[k] = -1  # a product of an open size and one that is narrower now
        self._set(node, position, sizes)

    def _slice(self, node: Any) -> None:
        x: Any = node.args[0]
        args = [*node.args, *[None] * (5 - len(node.args))]
        dim = int(args[1] or 0) % len(self.run.shape[x])
        kept = self.kept(x, dim)
        if kept is None:
            return
        size, step = self.run.shape[x][dim], args[4] or 1
        if step != 1:
            raise _C.ArgumentError(f"'{node}' takes every {step}th channel, which narrowing cannot express; ignore that layer")
        bounds = []
        for position, otherwise in ((2, 0), (3, size)):
            value: Any = args[position]
            value = otherwise if value is None else value
            if not isinstance(value, int):
                raise _C.ArgumentError(f"'{node}' slices a narrowed dimension at a computed place; ignore that layer")
            value = max(0, value + size) if value < 0 else min(value, size)
            bounds.append(sum(k < value for k in kept))
        node.args = (x, dim, bounds[0], bounds[1])

    def _split(self, node: Any) -> None:
        x: Any = node.args[0]
        parts = sorted((u for u in node.users if u.target is operator.getitem), key=lambda u: int(u.args[1]))
        dim = int(node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0)) % len(self.run.shape[x])
        kept = self.kept(x, dim)
        if kept is None or not parts:
            return
        sizes = self._part_sizes(node, x, dim)
        new, start = [], 0
        for size in sizes:
            new.append(sum(start <= k < start + size for k in kept))
            start += size
        node.target = aten.split_with_sizes.default
        node.args = (x, new, dim)
        node.kwargs = {}

    def _part_sizes(self, node: Any, x: Any, dim: int) -> list[int]:
        size, how = self.run.shape[x][dim], node.args[1]
        if isinstance(how, (list, tuple)):
            return [int(s) for s in how]
        name = node.target._schema.name
        step = -(-size // int(how)) if "chunk" in name else int(how)
        return [min(step, size - start) for start in range(0, size, step)]

    def _groups(self, node: Any) -> None:
        schema = node.target._schema
        position = next(k for k, a in enumerate(schema.arguments) if a.name == "groups")
        groups = int(node.args[position]) if len(node.args) > position else 1
        if groups > 1:
            x = node.args[0]
            self._set(node, position, _record.blocks_left(self.kept(x, 1), self.run.shape[x][1], groups))


def _follow_mode(graph: fx.Graph, other: fx.Graph) -> bool:
    """Makes what differs between the graphs of eval mode (``graph``) and train mode depend on ``self.training``.

    Returns whether all of it could be.
    """

    def calls(g: fx.Graph) -> list[fx.Node]:
        # Counting batches is a side effect of train mode alone, without a user.
        return [n for n in g.nodes if n.op == "call_function" and not (n.target is aten.add_.Tensor and not n.users)]

    def kind(node: fx.Node) -> Any:
        return aten.reshape.default if node.target is aten.view.default else node.target

    ours, theirs = calls(graph), calls(other)
    if len(ours) != len(theirs) or any(kind(a) is not kind(b) for a, b in zip(ours, theirs)):
        _follow_known(graph)
        return False
    with graph.inserting_before(next(iter(graph.nodes))):
        training = graph.create_node("get_attr", "training")
    for a, b in zip(ours, theirs):
        for where in ("args", "kwargs"):
            mine, other_value = getattr(a, where), getattr(b, where)
            pairs: Any = enumerate(mine) if where == "args" else mine.items()
            changed: Any = list(mine) if where == "args" else dict(mine)
            for key, value in pairs:
                twin = (other_value[key] if key < len(other_value) else None) if where == "args" else other_value.get(key)
                if value == twin or isinstance(value, (fx.Node, list, tuple)):
                    continue
                if value is False and twin is True:
                    changed[key] = training
                elif isinstance(twin, float) and value == 0.0:
                    with graph.inserting_before(a):
                        changed[key] = graph.call_function(operator.mul, (twin, training))
            setattr(a, where, tuple(changed) if where == "args" else changed)
            if where == "args" and len(b.args) > len(a.args) and isinstance(b.args[-1], float):
                # Left out at its default in eval mode: attention's dropout of 0.
                extra = list(a.args)
                for value in b.args[len(a.args) :]:
                    if isinstance(value, float):
                        with graph.inserting_before(a):
                            extra.append(graph.call_function(operator.mul, (value, training)))
                    else:
                        extra.append(value)
                a.args = tuple(extra)
    if not training.users:
        graph.erase_node(training)
    return True


def _follow_known(graph: fx.Graph) -> None:
    """Where the two graphs differ in more than arguments: normalisation and dropout follow the mode."""
    with graph.inserting_before(next(iter(graph.nodes))):
        training = graph.create_node("get_attr", "training")
    for node in graph.nodes:
        position = {aten.batch_norm.default: 5, aten.dropout.default: 2, aten.feature_dropout.default: 2, aten.alpha_dropout.default: 2}.get(
            node.target
        )
        if position is not None and len(node.args) > position and node.args[position] is False:
            args = list(node.args)
            args[position] = training
            node.args = tuple(args)
    if not training.users:
        graph.erase_node(training)


def _container(model: nn.Module, source: fx.GraphModule, plan: _C.PrunePlan) -> nn.Module:
    """Modules that hold nothing but the narrowed parameters and buffers, under their own names."""
    root = nn.Module()
    canonical = _record.tensor_names(model)
    made: dict[int, torch.Tensor] = {}
    for name, tensor in _record.every_name(model):
        if id(tensor) not in made:
            value = plan.apply(canonical[id(tensor)], tensor.detach())
            made[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
        _assign(root, name, made[id(tensor)])
    # Constants that export lifted out of the code, and its guards.
    for node in source.graph.nodes:
        if node.op == "call_module" and not hasattr(root, str(node.target)):
            root.add_module(str(node.target), _guards(source.get_submodule(str(node.target))))
        if node.op == "get_attr" and node.target != "training":
            holder: Any = root
            *path, leaf = str(node.target).split(".")
            for part in path:
                holder = getattr(holder, part, None)
            if holder is None or not hasattr(holder, leaf):
                found: Any = source
                for part in str(node.target).split("."):
                    found = getattr(found, part)
                _assign(root, str(node.target), found.clone() if isinstance(found, torch.Tensor) else found)
    return root


def _guards(module: nn.Module) -> nn.Module:
    """The checks of input sizes that export adds, as a graph too: its own hold a local function, which cannot be pickled."""
    inside: Any = [cell.cell_contents for cell in getattr(module.forward, "__closure__", None) or ()]
    try:
        function = next((f for f in inside if getattr(f, "__name__", "") == "_"), module.forward)
        made = fx.GraphModule(nn.Module(), fx.Tracer().trace(function), "Guards")
    except Exception:  # a guard that fx cannot follow
        return module
    made._is_impure = True  # type: ignore[assignment]
    return made


def _assign(root: nn.Module, name: str, value: Any) -> None:
    *path, leaf = name.split(".")
    holder: Any = root
    for part in path:
        if part not in holder._modules:
            holder.add_module(part, nn.Module())
        holder = holder._modules[part]
    if isinstance(value, nn.Parameter):
        holder.register_parameter(leaf, value)
    elif isinstance(value, torch.Tensor):
        holder.register_buffer(leaf, value)
    else:
        setattr(holder, leaf, value)


def _two_of(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A batch of one twice over, where the model takes it: a size of 1 would be taken for a constant."""
    tensors = [v for v in inputs if isinstance(v, torch.Tensor)]
    if not tensors or any(t.dim() == 0 or t.shape[0] != 1 for t in tensors):
        return inputs
    doubled = tuple(torch.cat([v, v]) if isinstance(v, torch.Tensor) else v for v in inputs)
    try:
        with _record.plain_operations(model):
            model(*doubled)
    except Exception:
        return inputs
    return doubled


def narrow_graph(model: nn.Module, plan: _C.PrunePlan, inputs: tuple[Any, ...]) -> tuple[fx.GraphModule, str]:
    """The model's forward as a graph over narrowed parameters, and what of it could not be kept."""
    inputs = _two_of(model, inputs)
    source = _export(model, inputs, training=False)
    for node in list(source.graph.nodes):
        if node.target is aten.view.default:
            # Strides depend on which attention kernel runs; a view that fits one may not fit another.
            node.target = aten.reshape.default
    interpreter: list[_Numbered] = []

    def run(recorder: _record.Recorder) -> Any:
        # The graph's tensors are the model's own, under the same names.
        own = {id(t): n for n, t in [*source.named_parameters(), *source.named_buffers()]}
        originals = _record.tensor_names(model)
        shared = {n: originals[id(t)] for n, t in _record.every_name(model)}
        recorder.names = {**recorder.names, **{key: shared.get(name, name) for key, name in own.items() if name in shared}}
        interpreter.append(_Numbered(source, recorder))
        flat = torch.utils._pytree.tree_flatten((inputs, {}))[0]
        return interpreter[0].run(*flat, enable_io_processing=False)

    record, _ = _record.record(model, inputs, run)
    alive = _C.alive_of(record.graph, plan)
    narrower = _Narrower(interpreter[0], record.graph, alive)
    for node in list(source.graph.nodes):
        if node.op == "call_function":
            narrower.rewrite(node)
    note = "what the class does in train mode alone is left out, but for dropout and the statistics of normalisation"
    try:
        if _follow_mode(source.graph, _export(model, inputs, training=True).graph):
            note = ""
    except _C.ArgumentError:
        _follow_known(source.graph)
    root = _container(model, source, plan)
    root.training = model.training
    source.graph.eliminate_dead_code()
    source.graph._tracer_cls = fx.Tracer  # export's own cannot be made again, and pickling and copying do
    small = fx.GraphModule(root, source.graph, type(model).__name__)
    small.training = model.training
    # What the graph does not read (a count of batches) still belongs to the state dict.
    held = set(small.state_dict())
    for name, tensor in root.state_dict(keep_vars=True).items():
        if name not in held:
            _assign(small, name, tensor)
    return small, note
