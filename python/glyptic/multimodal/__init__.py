"""Several modalities in one network: M-SAM, Shapley values over modalities, and the methods it is compared with.

>>> import torch, glyptic
>>> from glyptic.multimodal import LateFusion, ModalityAwareSAM
>>> net = LateFusion({"audio": torch.nn.Linear(4, 8), "image": torch.nn.Linear(6, 8)}, {"audio": 8, "image": 8}, classes=3)
>>> optimizer = ModalityAwareSAM(net.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, momentum=0.9, model=net)
>>> batch = {"audio": torch.randn(12, 4), "image": torch.randn(12, 6)}
>>> stats = optimizer.step(net, batch, torch.arange(12) % 3, torch.nn.functional.cross_entropy)
>>> round(sum(stats.nu.values()), 6)
1.0
"""

from ._baselines import AGM, MSLR, OGMGE, PMR, JointTraining, MMPareto, Modulator, ModulatorStats, ogm_ge_coefficients
from ._models import LateFusion
from ._msam import ModalityAwareSAM, MSAMStats, MultimodalClosure
from ._shapley import ModalityMask, mono_modal_logits, shapley_values

__all__ = [
    "AGM",
    "MSLR",
    "OGMGE",
    "PMR",
    "JointTraining",
    "LateFusion",
    "MMPareto",
    "MSAMStats",
    "ModalityAwareSAM",
    "ModalityMask",
    "Modulator",
    "ModulatorStats",
    "MultimodalClosure",
    "mono_modal_logits",
    "ogm_ge_coefficients",
    "shapley_values",
]
