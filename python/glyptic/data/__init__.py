"""Data for testing a model: images under corruption.

>>> import torch, glyptic
>>> images = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
>>> noisy = glyptic.data.corrupt(images, "gaussian_noise", 3, seed=1)
>>> noisy.shape, noisy.dtype
(torch.Size([2, 3, 32, 32]), torch.uint8)
>>> second = glyptic.data.corrupt(images[1:], "gaussian_noise", 3, seed=1, first_index=1)
>>> bool((second == noisy[1:]).all())   # nothing but seed, corruption, severity and index decides
True
"""

from ._corruptions import (
    CorruptedDataset,
    ImageNetC,
    corrupt,
    corruption_names,
    corruption_parameters,
    corruption_table,
    load_cifar_c,
    write_cifar_c,
)

__all__ = [
    "CorruptedDataset",
    "ImageNetC",
    "corrupt",
    "corruption_names",
    "corruption_parameters",
    "corruption_table",
    "load_cifar_c",
    "write_cifar_c",
]
