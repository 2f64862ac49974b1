"""The callbacks in the real trainers, when these are installed; what they do without them."""

import importlib.util
import logging
import pickle
import subprocess
import sys
import warnings

import glyptic
import pytest
import torch
from torch import nn

RigL = glyptic.sparsity.RigL
OPTIONS = {"density": 0.3, "update_every": 3}


def installed(*names):
    return all(importlib.util.find_spec(name) is not None for name in names)


needs_lightning = pytest.mark.skipif(not installed("lightning"), reason="lightning is not installed")
needs_transformers = pytest.mark.skipif(not installed("transformers", "accelerate"), reason="transformers[torch] is not installed")


def data(t):
    generator = torch.Generator().manual_seed(t)
    return torch.randn(6, 8, generator=generator), torch.arange(6) % 3


BATCHES = [data(t) for t in range(6)]


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


def by_hand(steps, total, clip=None):
    model = network()
    opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    s = RigL(model, opt, total_steps=total, **OPTIONS)
    for t in range(steps):
        x, y = BATCHES[t % 6]
        opt.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        s.step()
    return model, s


def assert_same(a, b):
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_nothing_is_imported_before_use():
    code = "import sys, glyptic, glyptic.callbacks; assert not {'lightning', 'pytorch_lightning', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'KerasSparsifier'"):
        _ = glyptic.callbacks.KerasSparsifier


def hide(monkeypatch, name, *packages):
    """As if the packages were not installed, and the class never made."""
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(vars(glyptic.callbacks), name, raising=False)


def test_without_lightning(monkeypatch):
    hide(monkeypatch, "LightningSparsifier", "lightning.pytorch", "pytorch_lightning")
    with pytest.raises(ImportError, match="pip install lightning"):
        _ = glyptic.callbacks.LightningSparsifier


def test_without_transformers(monkeypatch):
    hide(monkeypatch, "HuggingFaceSparsifier", "transformers")
    with pytest.raises(ImportError, match="pip install 'transformers"):
        _ = glyptic.callbacks.HuggingFaceSparsifier


# ------------------------------------------------------------------------------------------------------------ Lightning


def lightning_run(folder, epochs, callbacks, ckpt=None, **trainer_options):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    import lightning

    class Net(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch, index):
            x, y = batch
            return nn.functional.cross_entropy(self.net(x), y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=callbacks, **trainer_options,
    )  # fmt: skip
    module = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about workers
        trainer.fit(module, torch.utils.data.DataLoader(BATCHES, batch_size=None), ckpt_path=ckpt)
    return module, trainer


@needs_lightning
def test_lightning_equals_the_loop_by_hand(tmp_path):
    callback = glyptic.callbacks.LightningSparsifier(RigL, module="net", **OPTIONS)
    module, _ = lightning_run(tmp_path, 4, [callback], enable_checkpointing=False)
    model, s = by_hand(24, total=24)
    assert_same(module.net, model)
    assert callback.sparsifier.events() == s.events() and callback.sparsifier.stats()["step"] == 24


@needs_lightning
def test_lightning_clips_before_masks_see_gradients(tmp_path):
    callback = glyptic.callbacks.LightningSparsifier(RigL, module="net", **OPTIONS)
    module, _ = lightning_run(tmp_path, 2, [callback], enable_checkpointing=False, gradient_clip_val=0.1)
    model, _ = by_hand(12, total=12, clip=0.1)
    for p, q in zip(module.net.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)  # it sums the norms in its own order


@needs_lightning
def test_lightning_resumes_from_its_checkpoint(tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    make = lambda: glyptic.callbacks.LightningSparsifier(RigL, module="net", total_steps=24, **OPTIONS)
    save = ModelCheckpoint(tmp_path, filename="two")
    lightning_run(tmp_path, 2, [make(), save])
    callback = make()
    module, _ = lightning_run(tmp_path, 4, [callback], ckpt=str(tmp_path / "two.ckpt"), enable_checkpointing=False)
    model, s = by_hand(24, total=24)
    assert_same(module.net, model)
    assert callback.sparsifier.events() == s.events()
    other = glyptic.callbacks.LightningSparsifier(RigL, module="net", total_steps=24, **{**OPTIONS, "density": 0.5})
    with pytest.raises(glyptic.ArgumentError, match=r"density = 0.3 \(here 0.5\)"):
        lightning_run(tmp_path, 4, [other], ckpt=str(tmp_path / "two.ckpt"), enable_checkpointing=False)


@needs_lightning
def test_lightning_arguments(tmp_path):
    cls = glyptic.callbacks.LightningSparsifier
    with pytest.raises(TypeError, match="method is 'rigl', expected a class"):
        cls("rigl")
    with pytest.raises(glyptic.ArgumentError, match="module='body' is not a part of Net"):
        lightning_run(tmp_path, 1, [cls(RigL, module="body", **OPTIONS)], enable_checkpointing=False)
    again = pickle.loads(pickle.dumps(cls(RigL, **OPTIONS)))
    assert type(again) is cls and again.options == OPTIONS


# --------------------------------------------------------------------------------------------------------- Hugging Face


class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x, labels):
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 36

    def __getitem__(self, i):
        x, y = BATCHES[i // 6]
        return {"x": x[i % 6], "labels": y[i % 6]}


def hugging_face_run(folder, callback, resume=None, steps=24, **options):
    import transformers

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(Rows())

        def create_optimizer(self, *args):
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
            return self.optimizer

    arguments = transformers.TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=6, use_cpu=True, report_to=[], disable_tqdm=True,
        lr_scheduler_type="constant", max_grad_norm=0, save_strategy="steps", save_steps=10, logging_strategy="no", **options,
    )  # fmt: skip
    trainer = InOrder(Loss(), arguments, train_dataset=Rows(), callbacks=[callback])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@needs_transformers
def test_hugging_face_equals_the_loop_by_hand_and_resumes(tmp_path):
    make = lambda: glyptic.callbacks.HuggingFaceSparsifier(RigL, module="net", **OPTIONS)
    callback = make()
    trainer = hugging_face_run(tmp_path, callback)
    model, s = by_hand(24, total=24)
    assert_same(trainer.model.net, model)
    assert callback.sparsifier.events() == s.events()
    assert (tmp_path / "checkpoint-10" / "sparsifier.safetensors").exists()
    callback = make()
    trainer = hugging_face_run(tmp_path, callback, resume=str(tmp_path / "checkpoint-10"))
    assert_same(trainer.model.net, model)
    assert callback.sparsifier.events() == s.events()


@needs_transformers
def test_hugging_face_accumulates(tmp_path):
    callback = glyptic.callbacks.HuggingFaceSparsifier(RigL, module="net", **OPTIONS)
    hugging_face_run(tmp_path, callback, steps=5, gradient_accumulation_steps=2)
    assert callback.sparsifier.stats()["step"] == 5


@pytest.mark.skipif(not installed("accelerate"), reason="accelerate is not installed")
def test_accelerate_by_hand():
    """Its optimizer does nothing between accumulated batches, and neither do the masks."""
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = network()
    model, opt = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    s = RigL(model, opt, total_steps=12, **OPTIONS).attach()
    for t in range(24):
        with accelerator.accumulate(model):
            x, y = BATCHES[t % 6]
            accelerator.backward(nn.functional.cross_entropy(model(x), y))
            opt.step()
            opt.zero_grad()
    assert s.stats()["step"] == 12 and type(s.optimizer) is torch.optim.SGD
    twin = network()
    twin_opt = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
    twin_s = RigL(twin, twin_opt, total_steps=12, **OPTIONS)
    for t in range(24):
        x, y = BATCHES[t % 6]
        (nn.functional.cross_entropy(twin(x), y) / 2).backward()
        if t % 2:
            twin_s.step()
            twin_opt.zero_grad()
    assert_same(model, twin)
