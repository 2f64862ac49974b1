"""Reference networks, and any network that is a graph, as ``torch.nn.Module``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from . import _C
from ._C import Graph

__all__ = ["Graph", "GraphModule", "build", "load", "model_names"]


def model_names() -> list[str]:
    """Names that :func:`build` knows.

    >>> "resnet20" in model_names()
    True
    """
    return _C.model_names()


class GraphModule(torch.nn.Module):
    """A network out of a graph and its tensors, with the parameter names of the graph.

    The forward pass is the C++ interpreter's, differentiable as any other. ``state_dict`` names are those of
    torchvision where torchvision has the network.

    Args:
        graph: the network.
        tensors: name and value of each parameter and buffer; they are taken, not copied.
    """

    def __init__(self, graph: Graph, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        super().__init__()
        self.graph = graph
        trainable = set(graph.trainable())
        for name, tensor in tensors:
            owner: torch.nn.Module = self
            *path, leaf = name.split(".")
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, torch.nn.Module())
                child = owner._modules[part]
                assert child is not None
                owner = child
            if name in trainable:
                owner.register_parameter(leaf, torch.nn.Parameter(tensor))
            else:
                owner.register_buffer(leaf, tensor)
        self._bound: tuple[tuple[int, ...], _C.Model] | None = None

    def _model(self) -> _C.Model:
        # Bound once; again when a tensor was replaced (``.to``, ``load_state_dict(assign=True)``, ``deepcopy``).
        tensors = [*self.named_parameters(), *self.named_buffers()]
        key = tuple(id(t) for _, t in tensors) + tuple(t.data_ptr() for _, t in tensors)
        if self._bound is None or self._bound[0] != key:
            self._bound = (key, _C.Model(self.graph, tensors))
        return self._bound[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[N, classes]`` of ``x`` ``[N, C, H, W]`` (or ``[N, F]``)."""
        model = self._model()
        model.train(self.training)
        return model.forward(x)

    def __getstate__(self) -> dict[str, object]:
        state = dict(self.__dict__)
        state["_bound"] = None
        state["graph"] = self.graph.to_json()
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.graph = Graph.from_json(str(state["graph"]))

    def save(self, folder: str | Path) -> None:
        """Write ``graph.json`` and ``model.safetensors``: no code in them, readable from C++ too."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / "graph.json").write_text(self.graph.to_json())
        tensors = [(name, t.detach()) for name, t in self.state_dict().items()]
        _C.save_safetensors(str(path / "model.safetensors"), tensors)


def build(
    name: str,
    *,
    num_classes: int = 0,
    input_shape: Sequence[int] = (),
    widths: Sequence[int] = (),
    width: float = 1.0,
    dropout: float = 0.0,
    seed: int = 0,
) -> GraphModule:
    """A registered network, initialised from ``seed``.

    >>> model = build("resnet20")
    >>> sum(p.numel() for p in model.parameters())
    272474
    """
    graph = _C.build_graph(name, num_classes, list(input_shape), list(widths), width, dropout)
    return GraphModule(graph, graph.initial_tensors(seed))


def load(folder: str | Path) -> GraphModule:
    """A network that :meth:`GraphModule.save` or a run's extraction wrote. Runs no code of the files."""
    path = Path(folder)
    try:
        text = (path / "graph.json").read_text()
    except FileNotFoundError:
        raise _C.MissingFileError(f"'{path}' holds no network: it has no graph.json") from None
    graph = Graph.from_json(text)
    tensors, _ = _C.load_safetensors(str(path / "model.safetensors"))
    held = dict(tensors)
    missing = [name for name, _ in graph.tensor_shapes() if name not in held]
    if missing:
        raise _C.DataError(f"'{path / 'model.safetensors'}' has no tensor '{missing[0]}', which graph.json names")
    return GraphModule(graph, [(name, held[name]) for name, _ in graph.tensor_shapes()])


