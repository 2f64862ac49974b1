"""The snippets of docs/trainers.md, docs/pruning.md and docs/coming-from.md run as they stand."""

import copy
import importlib.util
import pathlib
import re

import glyptic
import pytest
import torch
import torch.nn.functional as F
from torch import nn

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "trainers.md"


def snippets(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)


SNIPPETS = snippets("trainers.md")
PRUNING_SNIPPETS = [(page, k) for page in ("pruning.md", "coming-from.md") for k in range(len(snippets(page)))]


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


class Residual(nn.Module):
    """What the pages on pruning call `model`: a stem, a block with a residual sum, a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 16, 3, padding=1)
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        return self.head(F.relu(x + self.block(x)).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, heads=4, size=6, width=16):
        super().__init__()
        self.heads, self.size = heads, size
        self.qkv = nn.Linear(width, 3 * heads * size)
        self.out = nn.Linear(heads * size, width)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, self.heads * self.size)
        return self.out(y)


class Literal(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)).view(-1, 12))


def for_pruning(tmp_path):
    model, images = Residual(), torch.randn(4, 3, 8, 8)
    targets = torch.arange(4) % 5
    return {
        "glyptic": glyptic, "torch": torch, "F": F, "make_model": Residual, "model": model, "x": images, "labels": targets,
        "folder": tmp_path / "pruned", "attention": Attention(), "tokens": torch.randn(2, 5, 16), "literal": Literal(),
        "rows": torch.randn(7, 6), "optimizer": torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        "batches": [torch.randn(4, 3, 8, 8) for _ in range(10)],
        "loss_of": lambda net, batch: F.cross_entropy(net(batch), targets),
    }  # fmt: skip


@pytest.mark.parametrize("page, index", PRUNING_SNIPPETS)
def test_pruning_snippet(page, index, tmp_path):
    given = for_pruning(tmp_path)
    model = given["model"]
    shapes = [p.shape for p in model.parameters()]
    exec(compile(snippets(page)[index], f"{page}, snippet {index + 1}", "exec"), given)
    assert [p.shape for p in model.parameters()] == shapes, "the given model is never made narrower itself"
    small = given.get("small")
    if isinstance(small, nn.Module):
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    if "s" in given:
        for name, mask in given["s"].masks().items():
            assert not model.get_parameter(name)[~mask].any()


def test_the_readme_prunes(tmp_path, monkeypatch):
    found = re.findall(r"```python\n(.*?)```", (DOCS.parent / "README.md").read_text(), re.S)
    code = next(c for c in found if "glyptic.pruning.plan" in c)
    monkeypatch.chdir(tmp_path)
    given = {**for_pruning(tmp_path), "images": torch.randn(4, 3, 8, 8)}
    exec(compile(code, "README.md", "exec"), given)
    loaded = glyptic.pruning.load(Residual(), tmp_path / "pruned").eval()
    assert torch.equal(loaded(given["images"]), given["result"].model.eval()(given["images"]))


def test_what_the_pruning_page_refuses():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            y = self.a(x)
            return self.b(y * 2 if y.sum() > 0 else y)

    with pytest.raises(glyptic.ArgumentError, match="depends on the weights"):
        glyptic.pruning.plan(Looks(), torch.randn(2, 4))

    # A name stands for every group that has a tensor of it; one that names nothing is refused.
    model, x = Residual(), torch.randn(4, 3, 8, 8)
    plan = glyptic.pruning.plan(model, x, 0.5, ignore=["block.3"])
    assert [len(g.kept) for g in plan.groups] == [16, 24]
    with pytest.raises(glyptic.ArgumentError, match="nothing"):
        glyptic.pruning.plan(model, x, 0.5, ignore=["nothing"])
    with pytest.raises(glyptic.ArgumentError, match="nothing"):
        glyptic.pruning.plan(model, x, 0.5, ratios={"nothing": 0.5})

    # A graph result takes any batch; an input of another size is computed rightly or refused.
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Linear(12, 3)

        def forward(self, x):
            return self.head(self.conv(x).view(-1, 12, x.shape[2] * x.shape[3]).mean(-1))

    model = Fixed()
    plan = glyptic.pruning.plan(model, x, 0.5)
    result, twin = glyptic.pruning.apply(model, plan, x), glyptic.pruning.masked(model, plan)
    assert result.kind == "graph"
    for shape in ((9, 3, 8, 8), (2, 3, 10, 10)):
        fresh = torch.randn(shape)
        try:
            got = result.model(fresh)
        except Exception:
            assert shape[2:] != x.shape[2:]
        else:
            torch.testing.assert_close(got, twin(fresh))


def test_a_layer_norm_takes_its_statistics_over_what_stays():
    model, x = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2)), torch.randn(4, 6)
    plan = glyptic.pruning.plan(model, x)
    assert "normalises over it" in plan.groups[0].note
    result = glyptic.pruning.apply(model, plan, x)
    assert result.max_difference <= 1e-5
    # By itself the masked copy counts its zeros.
    assert (glyptic.pruning.masked(model, plan)(x) - result.model(x)).abs().max() > 1e-3


def test_the_pages_have_their_snippets():
    assert len(SNIPPETS) >= 9
    assert len(PRUNING_SNIPPETS) >= 14


@pytest.mark.parametrize("page", ["pruning.md", "coming-from.md"])
def test_links_lead_somewhere(page):
    def slug(title):
        return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")

    for target in re.findall(r"\]\(([^)\s]+)\)", (DOCS / page).read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (DOCS / path) if path else DOCS / page
        assert file.exists(), target
        if anchor:
            assert anchor in [slug(t) for t in re.findall(r"^#+ (.*)$", file.read_text(), re.M)], target
