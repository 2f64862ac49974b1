"""Sparse training on your own modules, and the small dense network out of it.

Three lines::

    s = glyptic.sparsity.Chase(model, optimizer, density=0.1, channel_sparsity=0.5, total_steps=T)
    loss.backward()
    s.step()              # in place of optimizer.step()

and at the end ``small = glyptic.sparsity.extract(model, s).model``.
"""

from ._extract import Extraction, extract
from ._sparsifier import GMP, SET, Chase, GraNet, RigL, Sparsifier, Static
from .functional import channel_scores, erk_densities, layer_counts, prune_and_grow, topk_mask

__all__ = [
    "GMP",
    "SET",
    "Chase",
    "Extraction",
    "GraNet",
    "RigL",
    "Sparsifier",
    "Static",
    "channel_scores",
    "erk_densities",
    "extract",
    "layer_counts",
    "prune_and_grow",
    "topk_mask",
]
