"""A sparsifier inside somebody else's training loop: Lightning's and Hugging Face's.

Both packages are imported only when their class is used. Each callback makes the sparsifier when training begins, lets
its masks follow the trainer's ``optimizer.step()``, saves its state with the trainer's checkpoints, and goes on from
there when the trainer resumes.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from . import _C

if TYPE_CHECKING:
    from .sparsity import Sparsifier

    HuggingFaceSparsifier: type[Any]
    LightningSparsifier: type[Any]

__all__ = ["HuggingFaceSparsifier", "LightningSparsifier"]


class _Callback:
    """What both callbacks do.

    Attributes:
        sparsifier: the sparsifier, from the beginning of training on.
    """

    def __init__(self, method: type[Sparsifier], *, module: str = "", **options: Any) -> None:
        from .sparsity import Sparsifier

        super().__init__()
        if not (isinstance(method, type) and issubclass(method, Sparsifier)):
            raise TypeError(f"method is {method!r}, expected a class such as glyptic.sparsity.RigL")
        self.method = method
        self.module = module
        self.options = options
        self.sparsifier: Sparsifier | None = None
        self._saved: Mapping[str, torch.Tensor] | None = None

    def _begin(self, model: torch.nn.Module, optimizer: Any, total_steps: int) -> None:
        if self.sparsifier is not None:  # trained on: from where it stood
            self._saved = self._saved or self.sparsifier.state_dict()
            self.sparsifier.remove()
        if self.module:
            try:
                model = model.get_submodule(self.module)
            except AttributeError:
                raise _C.ArgumentError(f"module='{self.module}' is not a part of {type(model).__name__}") from None
        options = {"total_steps": total_steps, **self.options}
        self.sparsifier = self.method(model, optimizer, state=self._saved, **options).attach()
        self._saved = None

    def _state(self) -> dict[str, torch.Tensor]:
        return {} if self.sparsifier is None else self.sparsifier.state_dict()


def _imported(name: str, mend: str, *packages: str) -> Any:
    for package in packages:
        try:
            return getattr(importlib.import_module(package), name)
        except ImportError:
            continue
    raise ImportError(mend)


def _lightning() -> type[Any]:
    mend = "LightningSparsifier needs Lightning: pip install lightning"
    Callback = _imported("Callback", mend, "lightning.pytorch", "pytorch_lightning")

    class LightningSparsifier(_Callback, Callback):  # type: ignore[misc, valid-type]
        """Sparse training in a Lightning ``Trainer``.

        Args:
            method: a class of :mod:`glyptic.sparsity`, e.g. ``RigL``.
            module: path of the part to make sparse, when it is not the whole ``LightningModule``.
            optimizer: which of the module's optimizers, when there are several.
            options: of the method; ``total_steps`` is the trainer's own count unless given.

        ``Trainer(callbacks=[LightningSparsifier(RigL, density=0.1, update_every=100)])``
        """

        def __init__(self, method: type[Sparsifier], *, module: str = "", optimizer: int | None = None, **options: Any) -> None:
            super().__init__(method, module=module, **options)
            self.optimizer = optimizer

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            optimizers = trainer.optimizers
            if self.optimizer is None and len(optimizers) != 1:
                raise _C.ArgumentError(f"the module has {len(optimizers)} optimizers; say which one: optimizer=0, 1, ...")
            self._begin(pl_module, optimizers[self.optimizer or 0], int(trainer.estimated_stepping_batches))

        def state_dict(self) -> dict[str, Any]:
            return self._state()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self._saved = state_dict or None

    return LightningSparsifier


def _hugging_face() -> type[Any]:
    mend = "HuggingFaceSparsifier needs transformers: pip install 'transformers[torch]'"
    TrainerCallback = _imported("TrainerCallback", mend, "transformers")

    class HuggingFaceSparsifier(_Callback, TrainerCallback):  # type: ignore[misc, valid-type]
        """Sparse training in a Hugging Face ``Trainer``.

        Args:
            method: a class of :mod:`glyptic.sparsity`, e.g. ``RigL``.
            module: path of the part to make sparse, when it is not the whole model.
            options: of the method; ``total_steps`` is the trainer's ``max_steps`` unless given.

        ``Trainer(..., callbacks=[HuggingFaceSparsifier(RigL, density=0.1, update_every=100)])``

        The state is written as ``sparsifier.safetensors`` into each checkpoint folder.
        """

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step > 0:
                path = self._path(args, state)
                resume = args.resume_from_checkpoint
                if isinstance(resume, str) and os.path.isdir(resume):
                    path = os.path.join(resume, "sparsifier.safetensors")
                self._saved = dict(_C.load_safetensors(path)[0])
            self._begin(kwargs["model"], kwargs["optimizer"], int(state.max_steps))

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                _C.save_safetensors(self._path(args, state), list(self._state().items()))

        @staticmethod
        def _path(args: Any, state: Any) -> str:
            return os.path.join(args.output_dir, f"checkpoint-{state.global_step}", "sparsifier.safetensors")

    return HuggingFaceSparsifier


_MAKERS = {"LightningSparsifier": _lightning, "HuggingFaceSparsifier": _hugging_face}


def __getattr__(name: str) -> Any:
    if name not in _MAKERS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    made = _MAKERS[name]()
    made.__qualname__ = name  # of this module, so that it pickles
    globals()[name] = made
    return made
