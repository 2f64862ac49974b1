"""From a model and a plan to a smaller model, its masked self, and files."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import _C
from ..nn import GraphModule
from . import _attributes, _record

# Sums in another order and over fewer entries differ by a few rounding errors of each layer. Half types round at 1e-3 and 8e-3
# of a value: five of those.
TOLERANCE = 1e-5
_HALF_TOLERANCE = {torch.float16: 5e-3, torch.bfloat16: 4e-2}


def _tolerance(model: nn.Module) -> float:
    return max([TOLERANCE, *(_HALF_TOLERANCE.get(p.dtype, 0.0) for p in model.parameters())])


class Plan:
    """Which units of which groups stay, as data.

    Made by :func:`plan`; prints as a table. ``groups`` lists what can be removed (``name``, ``size``, ``kept`` units,
    ``members`` as (tensor, dimension), ``note``). Removing more by hand: :meth:`remove`, :meth:`keep`.

    Attributes:
        groups: in the order of the network's tensors.
        notes: operations without a rule, which hold what they touch in place.
    """

    def __init__(self, core: _C.PrunePlan, record: _record.Record | None = None) -> None:
        self._core = core
        self._record = record
        self.notes: list[str] = list(record.notes) if record else []

    @property
    def groups(self) -> list[_C.GroupPlan]:
        return list(self._core.groups)

    @property
    def kept(self) -> dict[str, list[list[int] | None]]:
        """For each tensor that loses something: kept indices of each dimension, ``None`` where all stay."""
        result: dict[str, list[list[int] | None]] = {}
        for entry in self._core.dims:
            result.setdefault(entry["tensor"], [None] * entry["rank"])[entry["dim"]] = list(entry["kept"])
        return result

    def _alive(self) -> list[list[int]]:
        if self._record is None:
            raise _C.ArgumentError("a plan read from a file has no graph; make one with glyptic.pruning.plan(model, inputs)")
        alive = [[0] * group.size for group in self.groups]
        for flags, group in zip(alive, self.groups):
            for unit in group.kept:
                flags[unit] = 1
        return alive

    def _find(self, group: str) -> int:
        names = [g.name for g in self.groups]
        if group not in names:
            raise _C.ArgumentError(f"no group is called '{group}'; there are {', '.join(names)}")
        return names.index(group)

    def remove(self, group: str, units: Iterable[int]) -> Plan:
        """A new plan that also removes these units (numbers before any pruning) of one group."""
        alive = self._alive()
        flags = alive[self._find(group)]
        for unit in units:
            if not 0 <= unit < len(flags):
                raise _C.ArgumentError(f"group '{group}' has units 0 to {len(flags) - 1}, not {unit}")
            flags[unit] = 0
        assert self._record is not None
        return Plan(_C.plan_from_alive(self._record.graph, alive), self._record)

    def keep(self, group: str, units: Iterable[int]) -> Plan:
        """A new plan in which exactly these units of one group stay."""
        alive = self._alive()
        flags = alive[self._find(group)]
        wanted = set(units)
        if not wanted <= set(range(len(flags))):
            raise _C.ArgumentError(f"group '{group}' has units 0 to {len(flags) - 1}, not {sorted(wanted)[-1]}")
        flags[:] = [int(k in wanted) for k in range(len(flags))]
        assert self._record is not None
        return Plan(_C.plan_from_alive(self._record.graph, alive), self._record)

    def apply(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The entries that stay of a tensor shaped like parameter ``name`` (its gradient, a moment, a mask)."""
        return self._core.apply(name, tensor)

    def to_json(self) -> str:
        return self._core.to_json()

    @staticmethod
    def from_json(text: str) -> Plan:
        return Plan(_C.PrunePlan.from_json(text))

    def __str__(self) -> str:
        return str(self._core)

    def __repr__(self) -> str:
        units = sum(g.size for g in self.groups)
        kept = sum(len(g.kept) for g in self.groups)
        return f"Plan({len(self.groups)} groups, {kept} of {units} units stay)"


@dataclass
class Pruned:
    """The smaller model and how it came about.

    Attributes:
        model: own storage, the original's train or eval mode.
        plan: what was removed.
        kind: ``class``: the original's class, its layers' sizes set; ``graph``: a ``torch.fx.GraphModule`` of its traced
            forward, because the class's own ``forward`` holds sizes that would no longer be right (``why``).
        max_difference: to the masked original on the example inputs, relative to the largest output.
        why: why it is not of the original's class, or "".
        settings: numbers of layers that their weights do not tell (groups, heads), by module; saved with the plan.
    """

    model: nn.Module
    plan: Plan
    kind: str
    max_difference: float
    why: str = ""
    settings: dict[str, dict[str, int]] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)


def as_inputs(example_inputs: Any) -> tuple[Any, ...]:
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if not any(True for _ in _record._tensors(inputs)):
        raise _C.ArgumentError("example_inputs holds no tensor; give what the model is called with, one batch of it")
    return inputs


def _plain_model(model: nn.Module) -> nn.Module:
    """The module itself out of what ``torch.compile`` wraps."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise _C.ArgumentError(f"model is wrapped in {type(model).__name__}; prune model.module, then wrap the result")
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def trace(model: nn.Module, example_inputs: Any) -> _record.Record:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
    model = _plain_model(model)
    inputs = as_inputs(example_inputs)
    try:
        return _record.record(model, inputs)[0]
    except _C.Error:
        raise
    except Exception as error:
        raise _C.ArgumentError(f"{type(model).__name__} does not run on the example inputs: {_record.first_line(error)}") from error


def plan(
    model: nn.Module,
    example_inputs: Any,
    ratio: float = 0.5,
    *,
    importance: str = "l2",
    scope: str = "local",
    round_to: int = 1,
    ratios: dict[str, float] | None = None,
    ignore: Sequence[str] = (),
    max_ratio: float = 1.0,
    factor: str = "inner",
    seed: int = 0,
) -> Plan:
    """What would go; the model is not changed.

    Args:
        model: any module; it is run once, in eval mode, on the example inputs.
        example_inputs: a tensor, or a tuple of the positional arguments of ``model``.
        ratio: share of the units (channels, features, head dimensions) of each group that goes, in [0, 1).
        importance: ``l1``, ``l2``, ``bn_scale``, ``umm``, ``lamp``, ``taylor`` (needs gradients) or ``random``.
        scope: ``local`` (each group loses its ratio), ``global`` or ``isomorphic`` (ranked together).
        round_to: widths that stay are rounded up to a multiple.
        ratios: ratios of their own, by module, tensor, group, or glob.
        ignore: modules, tensors, groups, or globs that are left alone.
        max_ratio: no group loses more.
        factor: where heads and head dimensions (or groups and their channels) divide one dimension: ``inner`` narrows
            each head, ``outer`` removes whole heads.
        seed: of ``random``.

    Raises:
        ArgumentError: what is wrong with an option, or why the model cannot be traced.

    >>> import torch, glyptic
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> plan = glyptic.pruning.plan(model, torch.randn(2, 4), ratio=0.5)
    >>> [(g.name, g.size, len(g.kept)) for g in plan.groups]
    [('0.weight', 8, 4)]
    """
    record = trace(model, example_inputs)
    model = _plain_model(model)
    options = {
        "ratio": ratio, "importance": importance, "scope": scope, "round_to": round_to, "ratios": dict(ratios or {}),
        "ignore": [ignore] if isinstance(ignore, str) else list(ignore), "max_ratio": max_ratio, "factor": factor, "seed": seed,
    }
    tensors = _record.named_tensors(model)
    gradients = [(n, t.grad) for n, t in tensors if isinstance(t, nn.Parameter) and t.grad is not None]
    return Plan(_C.plan_pruning(record.graph, tensors, gradients, options), record)


def _copy_with(model: nn.Module, change: Callable[[str, torch.Tensor], torch.Tensor]) -> nn.Module:
    """A deep copy whose parameters and buffers are ``change(name, tensor)``; ties stay ties."""
    memo: dict[int, Any] = {}
    for name, tensor in _record.named_tensors(model):
        value = change(name, tensor.detach())
        memo[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise _C.ArgumentError(
            f"{type(model).__name__} cannot be copied: {_record.first_line(error)}; a tensor that a forward left in an "
            "attribute is the usual reason: detach or delete it"
        ) from error


def masked(model: nn.Module, plan: Plan) -> nn.Module:
    """A deep copy with zeros in place of what the plan removes: the network that the smaller one must equal."""
    return _copy_with(_plain_model(model), lambda name, tensor: plan._core.mask(name, tensor))


# The model's own class, narrower
# ----------------------------------------------------------------------------------------------------------------------


def _settings(model: nn.Module, plan: Plan) -> dict[str, dict[str, int]]:
    """Groups and heads that are left, of layers that lost some."""
    kept = plan.kept
    result: dict[str, dict[str, int]] = {}
    names = _record.tensor_names(model)
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1:
            rows = kept.get(names.get(id(module.weight), ""), [])
            side = rows[0] if rows else None
            left = _record.blocks_left(side, module.weight.shape[0], module.groups)
            if left != module.groups:
                result[path] = {"groups": left}
        elif isinstance(module, nn.GroupNorm) and module.weight is not None:
            rows = kept.get(names.get(id(module.weight), ""), [])
            left = _record.blocks_left(rows[0] if rows else None, module.num_channels, module.num_groups)
            if left != module.num_groups:
                result[path] = {"num_groups": left}
        elif isinstance(module, nn.MultiheadAttention):
            weight = module.in_proj_weight if module.in_proj_weight is not None else module.q_proj_weight
            rows = kept.get(names.get(id(weight), ""), [])
            inner = [k for k in rows[0] if k < module.embed_dim] if rows and rows[0] is not None else None
            left = _record.blocks_left(inner, module.embed_dim, module.num_heads)
            if left != module.num_heads:
                result[path] = {"num_heads": left}
    return result


def _set_sizes(model: nn.Module, settings: dict[str, dict[str, int]]) -> None:
    """Sizes that torch's layers keep beside their weights."""
    for path, module in model.named_modules():
        own: Any = module
        for key, value in settings.get(path, {}).items():
            setattr(own, key, value)
        if isinstance(module, nn.Linear):
            own.out_features, own.in_features = module.weight.shape
        elif isinstance(module, nn.modules.conv._ConvTransposeNd):
            own.in_channels, own.out_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
        elif isinstance(module, nn.modules.conv._ConvNd):
            own.out_channels, own.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            vector = module.weight if module.weight is not None else module.running_mean
            if vector is not None:
                own.num_features = vector.shape[0]
        elif isinstance(module, nn.GroupNorm) and module.weight is not None:
            own.num_channels = module.weight.shape[0]
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and module.weight is not None:
            own.normalized_shape = tuple(module.weight.shape)
        elif isinstance(module, nn.PReLU):
            own.num_parameters = module.weight.shape[0]
        elif isinstance(module, nn.Embedding):
            own.embedding_dim = module.weight.shape[1]
        elif isinstance(module, nn.RNNBase):
            own.input_size, own.hidden_size = own.weight_ih_l0.shape[1], own.weight_hh_l0.shape[1]
            own._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
        elif isinstance(module, nn.MultiheadAttention):
            own.embed_dim = module.out_proj.weight.shape[0]
            own.head_dim = own.embed_dim // own.num_heads
            if module.in_proj_weight is None:
                own.kdim, own.vdim = module.k_proj_weight.shape[1], module.v_proj_weight.shape[1]
            else:
                own.kdim = own.vdim = own.embed_dim


def _keep_attention_scale(model: nn.Module, small: nn.Module) -> None:
    """Narrower heads would be scaled by another 1 / sqrt(head size); the queries' weights take the difference."""
    layers = dict(model.named_modules())
    with torch.no_grad():
        for path, module in small.named_modules():
            before = layers.get(path)
            if not isinstance(module, nn.MultiheadAttention) or not isinstance(before, nn.MultiheadAttention):
                continue
            if module.head_dim == before.head_dim:
                continue
            factor = (module.head_dim / before.head_dim) ** 0.5
            rows = module.in_proj_weight[: module.embed_dim] if module.in_proj_weight is not None else module.q_proj_weight
            rows.mul_(factor)
            if module.in_proj_bias is not None:
                module.in_proj_bias[: module.embed_dim].mul_(factor)


def _scale_queries(small: nn.Module, plan: Plan, record: _record.Record, alive: Any) -> None:
    """The same for attention that is called by hand and leaves its scale to the default."""
    tensors: dict[Any, nn.Parameter] = dict(small.named_parameters(remove_duplicate=False))
    done: set[str] = set()
    with torch.no_grad():
        for query, old, new in _attributes.narrowed_heads(record, alive):
            found = _attributes.query_rows(record, query)
            if found is None or found[0] in done:
                continue
            weight, bias, start, stop = found
            done.add(weight)
            kept = plan.kept.get(weight, [None])[0]
            rows = slice(start, stop) if kept is None else slice(sum(k < start for k in kept), sum(k < stop for k in kept))
            factor = (new / old) ** 0.5
            tensors[weight][rows].mul_(factor)
            if bias in tensors:
                tensors[bias][rows].mul_(factor)


def _narrow_own(small: GraphModule, plan: Plan) -> _C.Graph:
    """The graph of one of our own networks with the sizes of its narrower tensors."""
    document, kept = json.loads(small.graph.to_json()), plan.kept
    shapes = {name: list(tensor.shape) for name, tensor in small.state_dict().items()}
    before = {spec["name"]: list(spec["shape"]) for spec in document["tensors"]}
    for spec in document["tensors"]:
        spec["shape"] = shapes[spec["name"]]
    for node in document["nodes"]:
        weight = node.get("tensors", {}).get("weight", "")
        rows = kept.get(weight, [None])[0]
        for key in ("groups", "num_groups"):
            parts = node.get("attributes", {}).get(key, 1)
            if parts > 1 and rows is not None:
                node["attributes"][key] = _record.blocks_left(rows, before[weight][0], parts)
    graph = _C.Graph.from_json(json.dumps(document))
    graph.validate()
    return graph


def _rebuild(model: nn.Module, plan: Plan, settings: dict[str, dict[str, int]]) -> nn.Module:
    small = _copy_with(model, lambda name, tensor: plan._core.apply(name, tensor))
    if isinstance(small, GraphModule):
        small.graph = _narrow_own(small, plan)
        return small
    # Looking at a parametrized weight computes it, and in train mode spectral_norm then moves its own vectors.
    with _record.plain_operations(small, restore=False):
        _set_sizes(small, settings)
        _keep_attention_scale(model, small)
    return small


def _reference(model: nn.Module, plan: Plan, record: _record.Record, alive: Any, inputs: tuple[Any, ...]) -> Any:
    twin = masked(model, plan)
    with _record.plain_operations(twin), _record.MaskedRun(record, alive):
        return twin(*inputs)


def _outputs(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    with _record.plain_operations(model):
        return model(*inputs)


def _describe_inputs(inputs: tuple[Any, ...]) -> list[dict[str, Any]]:
    described: list[dict[str, Any]] = []
    for value in inputs:
        if isinstance(value, torch.Tensor):
            entry: dict[str, Any] = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
            if not (value.is_floating_point() or value.is_complex()) and value.numel():
                entry["largest"] = int(value.max())
            described.append(entry)
        else:
            described.append({"value": value if isinstance(value, (int, float, bool, str, type(None))) else repr(value)})
    return described


def _example_inputs(described: list[dict[str, Any]]) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    inputs: list[Any] = []
    for entry in described:
        if "value" in entry:
            inputs.append(entry["value"])
            continue
        dtype = getattr(torch, entry["dtype"])
        if dtype.is_floating_point or dtype.is_complex:
            inputs.append(torch.randn(entry["shape"], generator=generator).to(dtype))
        else:
            inputs.append(torch.randint(0, entry.get("largest", 0) + 1, entry["shape"], generator=generator).to(dtype))
    return tuple(inputs)


def apply(model: nn.Module, plan: Plan, example_inputs: Any, *, check: bool = True) -> Pruned:
    """The smaller model. The original is only read; a refusal leaves nothing half done.

    Args:
        model: what the plan was made for.
        plan: from :func:`plan` or a file.
        example_inputs: as for :func:`plan`.
        check: compare with the masked original on the example inputs, and raise instead of handing out a wrong model.

    Raises:
        ArgumentError: the plan is of another model.
        Error: neither the class nor its traced graph gives the masked model's outputs.
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"plan is a {type(plan).__name__}, expected what glyptic.pruning.plan gave")
    model = _plain_model(model)
    inputs = as_inputs(example_inputs)
    record, tolerance = plan._record, _tolerance(model)
    if record is None or record.input_shapes != [list(t.shape) for t in _record._tensors(inputs)]:
        record = trace(model, inputs)
    shapes = {name: list(tensor.shape) for name, tensor in _record.named_tensors(model)}
    for name, shape in record.graph.tensors():
        if shapes.get(name) != shape:
            found = f"has shape {shapes[name]} there" if name in shapes else "is not there"
            raise _C.ArgumentError(f"the plan was made for another model: '{name}' of shape {shape} {found}")
    alive = _C.alive_of(record.graph, plan._core)
    trials = _trials(model, plan, record, alive, inputs) if check else []
    with _record.plain_operations(model):
        settings = _settings(model, plan)
    for path, values in _attributes.settings(record, alive).items():
        settings.setdefault(path, {}).update(values)

    def narrow_class(original: nn.Module) -> nn.Module:
        made = _rebuild(original, plan, settings)
        _scale_queries(made, plan, record, alive)
        return made

    why, difference = "", 0.0
    small: nn.Module | None = None
    try:
        small = narrow_class(model)
        if not check:
            _outputs(small, inputs)
        for original, values_in, wanted in trials:
            net = small if original is model else narrow_class(original)
            difference = max(difference, _record.relative_difference(wanted, _outputs(net, values_in)))
        if difference > tolerance:
            why = f"with its layers narrower, its outputs differ by {difference:.3g} from the masked model's"
    except Exception as error:
        why = f"with its layers narrower, its forward fails: {_record.first_line(error)}"
    kind = "class"
    if why:
        from ._graph import narrow_graph

        kind, settings, difference = "graph", {}, 0.0
        small, note = narrow_graph(model, plan._core, inputs)
        try:
            for original, values_in, wanted in trials:
                net = small if original is model else _with_values(small, original, plan)
                difference = max(difference, _record.relative_difference(wanted, _outputs(net, values_in)))
        except Exception as error:
            raise _C.ArgumentError(
                f"{type(model).__name__} can be narrowed neither as its class ({why}) nor as a graph: "
                f"{_record.first_line(error)}; leave the layers around that out with ignore=[...]"
            ) from error
        if difference > tolerance:
            raise _C.Error(
                f"the narrowed graph's outputs differ by {difference:.3g} from the masked model's, so it is not handed "
                f"out ({why}); the model does something that one run on the example inputs does not show"
            )
        why = f"{why}; {note}" if note else why
    assert small is not None
    small.train(model.training)
    return Pruned(small, plan, kind, difference, why, settings, _describe_inputs(inputs))


def _trials(
    model: nn.Module, plan: Plan, record: _record.Record, alive: Any, inputs: tuple[Any, ...]
) -> list[tuple[nn.Module, tuple[Any, ...], Any]]:
    """What the same cut must get right: a model, inputs, and the masked model's outputs.

    Weights of zero (a branch that starts closed) and inputs of zero hide mistakes, so a shaken copy is tried too, on random
    inputs; unless it cannot be run there or is not finite, which says nothing about the cut.
    """
    trials = [(model, inputs, _reference(model, plan, record, alive, inputs))]
    twin, random = _shaken(model), _random_like(inputs)
    with contextlib.suppress(Exception):
        expected = _reference(twin, plan, record, alive, random)
        if all(bool(t.isfinite().all()) for t in _record._plain(expected) if t.is_floating_point()):
            trials.append((twin, random, expected))
    return trials


def _shaken(model: nn.Module) -> nn.Module:
    """A copy with noise on every parameter, as large as what is there, and not less than 0.05."""
    generator = torch.Generator().manual_seed(0)

    own = {name for name, _ in model.named_parameters()}

    def shake(name: str, value: torch.Tensor) -> torch.Tensor:
        if name not in own or not value.is_floating_point() or value.numel() == 0:
            return value.clone()
        spread = float(value.double().std(unbiased=False))
        noise = torch.randn(value.shape, generator=generator).to(value)
        return value + noise * max(0.05, 0.3 * spread)

    return _copy_with(model, shake)


def _random_like(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(v.shape, generator=generator).to(v) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for v in inputs
    )


def _with_values(small: nn.Module, original: nn.Module, plan: Plan) -> nn.Module:
    """A copy of the narrowed graph with another model's weights."""
    values, canonical = dict(_record.every_name(original)), _record.tensor_names(original)
    net = copy.deepcopy(small)
    with torch.no_grad():
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if name in values:
                tensor.copy_(plan._core.apply(canonical[id(values[name])], values[name].detach()))
    return net


def prune(model: nn.Module, example_inputs: Any, ratio: float = 0.5, *, check: bool = True, **options: Any) -> Pruned:
    """:func:`plan` and :func:`apply` in one.

    >>> import torch, glyptic
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> glyptic.pruning.prune(model, torch.randn(2, 4), ratio=0.5).model
    Sequential(
      (0): Linear(in_features=4, out_features=4, bias=True)
      (1): ReLU()
      (2): Linear(in_features=4, out_features=2, bias=True)
    )
    """
    return apply(model, plan(model, example_inputs, ratio, **options), example_inputs, check=check)


# Files
# ----------------------------------------------------------------------------------------------------------------------


def save(pruned: Pruned, folder: str | Path) -> None:
    """Writes ``plan.json``, ``pruned.json`` and ``model.safetensors``: no pickled code."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    tensors = [(n, t.detach()) for n, t in _record.named_tensors(pruned.model)]
    _C.save_safetensors(str(path / "model.safetensors"), tensors, {})
    (path / "plan.json").write_text(pruned.plan.to_json())
    (path / "pruned.json").write_text(
        json.dumps({"format": "glyptic pruned model", "version": 1, "kind": pruned.kind, "settings": pruned.settings, "inputs": pruned.inputs}, indent=1)
    )


def load(model: nn.Module, folder: str | Path) -> nn.Module:
    """The smaller model out of a fresh instance of the original class (its weights do not matter) and saved files."""
    path = Path(folder)
    for name in ("plan.json", "pruned.json", "model.safetensors"):
        if not (path / name).is_file():
            raise _C.MissingFileError(f"'{path / name}' is not there; expected a folder written by glyptic.pruning.save")
    plan = Plan.from_json((path / "plan.json").read_text())
    try:
        document = json.loads((path / "pruned.json").read_text())
        kind, settings, inputs = document["kind"], document["settings"], document["inputs"]
    except (ValueError, KeyError, TypeError) as error:
        raise _C.DataError(f"'{path / 'pruned.json'}' is damaged: {error}") from None
    if kind == "graph":
        from ._graph import narrow_graph

        small: nn.Module = narrow_graph(model, plan._core, _example_inputs(inputs))[0]
        small.train(model.training)
    else:
        small = _rebuild(model, plan, settings)
    held = dict(_C.load_safetensors(str(path / "model.safetensors"))[0])
    with torch.no_grad():
        for name, tensor in _record.named_tensors(small):
            if name not in held:
                raise _C.DataError(f"'{path / 'model.safetensors'}' has no tensor '{name}'")
            if held[name].shape != tensor.shape:
                raise _C.DataError(
                    f"'{path / 'model.safetensors'}': '{name}' has shape {list(held[name].shape)}, the plan gives {list(tensor.shape)}"
                )
            tensor.copy_(held[name])
    return small
