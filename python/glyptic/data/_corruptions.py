"""The nineteen corruptions of ImageNet-C and CIFAR-C (arXiv 1903.12261)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, TypeVar

import torch

from .. import _C

_Subset = Literal["all", "common", "validation", "noise", "blur", "weather", "digital"]
_Quantize = Literal["floor", "round", "none"]
_Label = TypeVar("_Label", covariant=True)


class _Images(Protocol[_Label]):
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[torch.Tensor, _Label]: ...


def corruption_names(subset: _Subset = "all") -> list[str]:
    """Names in the order of the benchmark.

    ``common`` are the fifteen that are tested on, ``validation`` the four others.

    >>> corruption_names("noise")
    ['gaussian_noise', 'shot_noise', 'impulse_noise']
    """
    return _C.corruption_names(subset)


def corruption_table(height: int, width: int) -> int:
    """Whose parameters images of this size take: 32, 64, 224 or 299, the nearest to the shorter side in ratio.

    >>> corruption_table(32, 48), corruption_table(28, 28), corruption_table(480, 640)
    (32, 32, 299)
    """
    return _C.corruption_table(height, width)


def corruption_parameters(name: str, severity: int, table: int = 32) -> dict[str, float]:
    """Parameters of one severity, 1 to 5, of the authors' script for 32, 64, 224 or 299 pixels. Lengths in pixels.

    >>> corruption_parameters("motion_blur", 5)
    {'radius': 9.0, 'sigma': 2.5}
    """
    return _C.corruption_parameters(name, severity, table)


def corrupt(
    images: torch.Tensor,
    name: str,
    severity: int | None = None,
    seed: int = 0,
    first_index: int = 0,
    *,
    param: float | Sequence[float] | None = None,
    indices: torch.Tensor | Iterable[int] | None = None,
    table: Literal[0, 32, 64, 224, 299] = 0,
    quantize: _Quantize = "floor",
    glass_exchange: Literal["automatic", "copy", "swap"] = "automatic",
    frost_folder: str | os.PathLike[str] | None = None,
    threads: int = 0,
) -> torch.Tensor:
    """Images under one corruption (arXiv 1903.12261, section 3).

    Image ``i`` depends on its pixels and on (seed, name, severity, index) alone, where its index is
    ``first_index + i`` or ``indices[i]``: not on the batch, the order or the number of threads.

    Args:
        images: ``[N, C, H, W]`` with 1 or 3 channels (RGB), sides of 8 to 8192 pixels. ``uint8``, or floating in [0, 1]
            (computed in float32; glass_blur, pixelate and jpeg_compression truncate to 8 bits first).
        name: see :func:`corruption_names`.
        severity: 1 to 5; 0 gives the images back. May be left out when ``param`` is given.
        param: the strength itself in place of a table's: one number, or as many as :func:`corruption_parameters` names.
        table: whose parameters; 0 chooses by the size of the images.
        quantize: how results become 8 bits. The published sets were truncated (``floor``). ``none`` keeps them
            floating; ``uint8`` images then become ``float32`` in [0, 1].
        glass_exchange: ``copy`` is what the authors' script does to colour images, ``swap`` what it does to grey ones.
        frost_folder: the folder with ``frost1.png`` ... ``frost5.jpg``; without it ``$GLYPTIC_DATA/frost``.
        threads: 0 takes torch's number.

    Returns:
        Images of the same shape, dtype and device. The four noises run on CUDA devices, with the bits of the CPU;
        tensors for the others are moved to the CPU and back.

    Raises:
        ArgumentError: an unknown name, a severity, dtype, shape or parameter that cannot be.
        MissingFileError: no textures for frost.

    Cost: 5 to 60 microseconds of one core for a 32 x 32 image; docs/corruptions.md has a table.

    >>> x = torch.full((1, 1, 28, 28), 0.5)
    >>> corrupt(x, "contrast", 1).unique()      # a flat image has no contrast to lose; 8 bits: 127 / 255
    tensor([0.4980])
    >>> corrupt(x, "gaussian_noise", param=0.38, quantize="none").shape
    torch.Size([1, 1, 28, 28])
    """
    if severity is None and param is None:
        raise _C.ArgumentError("corrupt: give a severity from 1 to 5, or param")
    options: dict[str, Any] = {
        "seed": seed,
        "first_index": first_index,
        "table": table,
        "quantize": quantize,
        "glass_exchange": glass_exchange,
        "threads": threads,
    }
    if param is not None:
        options["param"] = [float(param)] if isinstance(param, (int, float)) else [float(p) for p in param]
        if not options["param"]:
            raise _C.ArgumentError("corrupt: param is empty; leave it out to take a table's")
    if indices is not None:
        options["indices"] = [int(i) for i in indices]
    if frost_folder is not None:
        options["frost_folder"] = os.fspath(frost_folder)
    return _C.corrupt(images, name, _whole("severity", severity or 0), options)


def _whole(what: str, value: object) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise _C.ArgumentError(f"{what} is {value!r}, expected a whole number")
    return int(value.__index__())


class CorruptedDataset(torch.utils.data.Dataset[tuple[torch.Tensor, _Label]]):
    """Any map-style set of (image ``[C, H, W]``, label) under one corruption, made when an item is read.

    Item ``i`` has index ``i``; labels are untouched. Other arguments are those of :func:`corrupt`.

    >>> clean = torch.utils.data.TensorDataset(torch.zeros(4, 3, 32, 32), torch.arange(4))
    >>> image, label = CorruptedDataset(clean, "fog", 2, seed=3)[1]
    >>> image.shape, int(label)
    (torch.Size([3, 32, 32]), 1)
    """

    def __init__(self, base: _Images[_Label], name: str, severity: int, seed: int = 0, **options: Any) -> None:
        _C.corruption_parameters(name, max(_whole("severity", severity), 1), 32)  # errors now, not in a worker
        self.base, self.name, self.severity, self.seed, self.options = base, name, severity, seed, options

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, _Label]:
        index = _whole("index", index)
        index = index + len(self) if index < 0 else index
        image, label = self.base[index]
        result = corrupt(image[None], self.name, self.severity, self.seed, index, **{"threads": 1, **self.options})
        return result[0], label


def write_cifar_c(
    folder: str | os.PathLike[str],
    images: torch.Tensor,
    labels: torch.Tensor,
    names: Sequence[str] | None = None,
    *,
    seed: int = 0,
    num_classes: int = 10,
    table: Literal[0, 32, 64, 224, 299] = 0,
    quantize: Literal["floor", "round"] = "floor",
    frost_folder: str | os.PathLike[str] | None = None,
) -> None:
    """Writes a set in the layout of CIFAR-10-C.

    One file ``<name>.npy`` for each corruption, ``uint8 [5 N, H, W, C]`` with severities one after another, and
    ``labels.npy`` with the labels five times. Each file appears whole or not at all.

    Args:
        images: ``uint8 [N, C, H, W]``.
        labels: ``int64 [N]``.
        names: all nineteen without.
    """
    options: dict[str, Any] = {"seed": seed, "table": table, "quantize": quantize}
    if frost_folder is not None:
        options["frost_folder"] = os.fspath(frost_folder)
    os.makedirs(folder, exist_ok=True)
    chosen = list(names) if names is not None else _C.corruption_names()
    _C.write_cifar_c(os.fspath(folder), images, labels, num_classes, chosen, options)


def load_cifar_c(
    folder: str | os.PathLike[str], name: str, severity: int, num_classes: int = 10
) -> tuple[torch.Tensor, torch.Tensor]:
    """One severity of one corruption of CIFAR-10-C or CIFAR-100-C: ``uint8 [N, C, H, W]`` and ``int64 [N]``.

    Raises:
        MissingFileError: there is no such file.
        DataError: it is damaged or of another shape. Nothing is allocated before its header is found to fit it.
    """
    return _C.read_cifar_c(os.fspath(folder), name, _whole("severity", severity), num_classes)


class ImageNetC(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """ImageNet-C or Tiny-ImageNet-C on disk: ``folder/<name>/<severity>/<class>/<image>``.

    Items are ``uint8 [3, size, size]``, the centre of the image without resizing, and the position of the class among
    the sorted folders.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str, severity: int, size: int = 224) -> None:
        self._set = _C.read_imagenet_c(os.fspath(folder), name, _whole("severity", severity), size)

    @property
    def num_classes(self) -> int:
        return self._set.num_classes()

    def __len__(self) -> int:
        return len(self._set)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._set.read(_whole("index", index))
