"""Glyptic: networks that are sparse, on your own modules.

>>> import torch, glyptic
>>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
>>> s = glyptic.sparsity.RigL(model, optimizer, density=0.25, total_steps=100, update_every=10)
>>> for _ in range(3):
...     optimizer.zero_grad()
...     model(torch.randn(4, 8)).square().mean().backward()
...     s.step()
>>> round(s.stats()["density"], 2)
0.25

Operators are under ``torch.ops.glyptic``; the command line is ``glyptic`` or ``python -m glyptic``.
"""

from __future__ import annotations

import torch as _torch

from ._build import TORCH_VERSION as _TORCH_VERSION
from ._build import VERSION as __version__


def _check_torch() -> None:
    built, running = _TORCH_VERSION.split("+")[0], _torch.__version__.split("+")[0]
    if built.split(".")[:2] != running.split(".")[:2]:
        raise ImportError(
            f"this glyptic was built for torch {built}, but torch {running} is installed; install torch=={built}, or "
            "build glyptic again: pip install --no-build-isolation --force-reinstall ."
        )


_check_torch()

from . import callbacks, data, fairness, metrics, multimodal, nn, optim, pruning, sharpness, sparsity  # noqa: E402
from ._C import (  # noqa: E402
    ArgumentError,
    ConfigError,
    DataError,
    DivergenceError,
    Error,
    MissingFileError,
    load_safetensors,
    save_safetensors,
)

__all__ = [
    "ArgumentError",
    "ConfigError",
    "DataError",
    "DivergenceError",
    "Error",
    "MissingFileError",
    "__version__",
    "callbacks",
    "data",
    "fairness",
    "load_safetensors",
    "metrics",
    "multimodal",
    "nn",
    "optim",
    "pruning",
    "save_safetensors",
    "sharpness",
    "sparsity",
]
