"""Structured pruning of any ``torch.nn.Module``: what depends on what, which units stay, and the smaller model.

>>> import torch, glyptic
>>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(),
...                             torch.nn.Linear(8 * 36, 10))
>>> x = torch.randn(4, 3, 8, 8)
>>> plan = glyptic.pruning.plan(model, x, ratio=0.5)   # nothing is changed yet
>>> small = glyptic.pruning.apply(model, plan, x)      # checked against the masked model
>>> small.kind, small.model[4].in_features
('class', 144)
"""

from ._apply import Plan, Pruned, apply, load, masked, plan, prune, save

__all__ = ["Plan", "Pruned", "apply", "load", "masked", "plan", "prune", "save"]
