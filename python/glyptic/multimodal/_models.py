"""A late-fusion network that declares everything the methods here may ask a model for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from .. import _C


class LateFusion(torch.nn.Module):
    """One encoder per modality, features concatenated, one linear head.

    Your own model needs none of this class; it may declare the same methods: ``encode(name, x)`` and ``fuse(features)``
    (cached Shapley values), ``encoders`` (who owns which weights), ``mono_logits(features)`` (OGM-GE, MSLR scores),
    ``unimodal_logits(features)`` (MMPareto), ``own_gradients(name)`` (MSLR).

    Args:
        encoders: modality to module, each mapping its input to features [b, width].
        widths: modality to the width of its features.
        classes: number of logits C.
        unimodal_heads: adds a linear head per modality, which only MMPareto trains.

    >>> import torch
    >>> net = LateFusion({"a": torch.nn.Linear(3, 4), "b": torch.nn.Linear(2, 5)}, {"a": 4, "b": 5}, classes=3)
    >>> net({"a": torch.ones(6, 3), "b": torch.ones(6, 2)}).shape
    torch.Size([6, 3])
    """

    def __init__(
        self,
        encoders: Mapping[str, torch.nn.Module],
        widths: Mapping[str, int],
        classes: int,
        unimodal_heads: bool = False,
    ) -> None:
        super().__init__()
        if not encoders or set(encoders) != set(widths):
            raise _C.ArgumentError("encoders and widths must name the same modalities, at least one")
        self.encoders = torch.nn.ModuleDict(dict(encoders))
        self.widths = {n: int(widths[n]) for n in encoders}
        self.head = torch.nn.Linear(sum(self.widths.values()), classes)
        self.unimodal_heads = (
            torch.nn.ModuleDict({n: torch.nn.Linear(w, classes) for n, w in self.widths.items()})
            if unimodal_heads
            else None
        )

    def encode(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Features of one modality, [b, width]."""
        features: torch.Tensor = self.encoders[name](x)
        return features

    def fuse(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits [b, C] from the features of all."""
        logits: torch.Tensor = self.head(torch.cat([features[n] for n in self.widths], 1))
        return logits

    def forward(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self.fuse({n: self.encode(n, inputs[n]) for n in self.widths})

    def mono_logits(self, features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Each modality's columns of the head on its features, with an equal part of the bias; their sum is the logits."""
        parts = torch.split(self.head.weight, list(self.widths.values()), 1)
        bias = self.head.bias / len(self.widths)
        return {n: F.linear(features[n], w, bias) for n, w in zip(self.widths, parts, strict=True)}

    def unimodal_logits(self, features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the modalities' own heads say."""
        if self.unimodal_heads is None:
            raise _C.ArgumentError("this network has no unimodal heads; build it with unimodal_heads=True")
        return {n: self.unimodal_heads[n](features[n]) for n in self.widths}

    def own_gradients(self, name: str) -> list[torch.Tensor]:
        """Gradients that belong to one modality: its encoder's, and its columns of the head's (a view)."""
        grads = [p.grad for p in self.encoders[name].parameters() if p.grad is not None]
        if self.head.weight.grad is not None:
            parts = torch.split(self.head.weight.grad, list(self.widths.values()), 1)
            grads.append(parts[list(self.widths).index(name)])
        if self.unimodal_heads is not None:
            grads += [p.grad for p in self.unimodal_heads[name].parameters() if p.grad is not None]
        return grads
