"""Sharpness-aware optimizers around any ``torch.optim`` optimizer: SAM and its family, ZO-SAM.

>>> import torch, glyptic
>>> model = torch.nn.Linear(4, 2)
>>> optimizer = glyptic.sharpness.SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)
>>> x, y = torch.ones(8, 4), torch.zeros(8, dtype=torch.long)
>>> loss = optimizer.step(lambda: torch.nn.functional.cross_entropy(model(x), y))
>>> bool(loss > 0)
True
"""

from . import diagnostics
from ._fair import FairSAM
from ._optimizer import (
    AESAM,
    ASAM,
    ESAM,
    GCSAM,
    GSAM,
    LESAM,
    S2SAM,
    SAM,
    SSAM,
    WSAM,
    ZOSAM,
    ZOSGD,
    FriendlySAM,
    LookSAM,
    MomentumSAM,
    RandomSAM,
    SharpnessOptimizer,
    StableSAM,
    ZSharp,
    disable_running_stats,
    enable_running_stats,
)

__all__ = [
    "AESAM",
    "ASAM",
    "ESAM",
    "GCSAM",
    "GSAM",
    "LESAM",
    "S2SAM",
    "SAM",
    "SSAM",
    "WSAM",
    "ZOSAM",
    "ZOSGD",
    "FairSAM",
    "FriendlySAM",
    "LookSAM",
    "MomentumSAM",
    "RandomSAM",
    "SharpnessOptimizer",
    "StableSAM",
    "ZSharp",
    "diagnostics",
    "disable_running_stats",
    "enable_running_stats",
]
