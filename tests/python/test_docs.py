"""The snippets of docs/trainers.md run as they stand."""

import copy
import importlib.util
import pathlib
import re

import glyptic
import pytest
import torch
from torch import nn

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "trainers.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


def loss_of(model, batch):
    return nn.functional.cross_entropy(model(batch), torch.arange(len(batch)) % 3)


def names(tmp_path):
    model = make_model()
    return {
        "copy": copy,
        "glyptic": glyptic,
        "torch": torch,
        "make_model": make_model,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "batches": [torch.randn(6, 8) for _ in range(6)],
        "loss_of": loss_of,
        "path": tmp_path / "checkpoint.pt",
    }


def for_lightning(tmp_path):
    import lightning

    class Net(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = make_model()

        def training_step(self, batch, index):
            return loss_of(self.net, batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return {
        "lightning": lightning,
        "quiet": {
            "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
            "enable_checkpointing": False, "default_root_dir": tmp_path,
        },
        "lightning_module": Net(),
        "lightning_loader": torch.utils.data.DataLoader([torch.randn(6, 8) for _ in range(6)], batch_size=None),
    }  # fmt: skip


def for_transformers(tmp_path):
    import transformers

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_model()

        def forward(self, x, labels):
            return {"loss": nn.functional.cross_entropy(self.net(x), labels)}

    return {
        "transformers": transformers,
        "hugging_face_model": Net(),
        "arguments": transformers.TrainingArguments(
            str(tmp_path), max_steps=4, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no"
        ),
        "dataset": [{"x": torch.randn(8), "labels": torch.tensor(i % 3)} for i in range(32)],
    }


@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_snippet(index, tmp_path):
    code, given = SNIPPETS[index], names(tmp_path)
    for package, more in (("lightning", for_lightning), ("transformers", for_transformers)):
        if f"# needs {package}" in code:
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed")
            given.update(more(tmp_path))
    exec(compile(code, f"{PAGE.name}, snippet {index + 1}", "exec"), given)
    s = given["callback"].sparsifier if "callback" in given else given.get("twin", given["s"])
    for name, mask in s.masks().items():
        assert not s.model.get_parameter(name)[~mask].any()
    assert s.optimizer is None or s.stats()["step"] > 0


def test_the_page_has_its_snippets():
    assert len(SNIPPETS) >= 9
