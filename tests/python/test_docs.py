"""The documentation: its snippets run as they stand, its links lead somewhere, its commands exist."""

import copy
import importlib.util
import json
import pathlib
import re
import shlex

import glyptic
import glyptic.report
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


# --- links and commands of every page

ROOT = DOCS.parent
PAGES = sorted(
    p.relative_to(ROOT).as_posix()
    for p in [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "data").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
    if not p.name.startswith(".")
)


def anchors(file):
    """The anchors that a page's headings get."""
    seen, result = {}, set()
    for title in re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", file.read_text(), flags=re.S), re.M):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title).lower()).replace(" ", "-")
        count = seen[name] = seen.get(name, -1) + 1
        result.add(f"{name}-{count}" if count else name)
    return result


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    file = ROOT / page
    text = re.sub(r"```.*?```|`[^`\n]*`", "", file.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        there = (file.parent / path) if path else file
        assert there.exists(), target
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), target


def commands(page):
    """Every command of a page: the lines of its shell blocks, and what begins with `glyptic` or `make` elsewhere."""
    text = (ROOT / page).read_text()
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M):
        for line in block.replace("\\\n", " ").splitlines():
            prompt = line.startswith("$ ")
            if language in ("sh", "bash", "console") and (prompt or language != "console"):
                found.append(line.removeprefix("$ "))
            elif language == "" and (prompt or line.startswith("glyptic ")):
                # A line of usage, and what it does in another column.
                found.append(re.split(r"\s{2,}(?=[a-z0-9])", line.removeprefix("$ "))[0])
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    found += [span for span in re.findall(r"`([^`\n]+)`", prose) if re.match(r"(glyptic|make) [\w-]", span)]
    parts = []
    for line in found:
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        parts += [part.strip() for part in re.split(r"&&|;|(?<!\|)\|(?!\|)(?=\s)", line) if part.strip()]
    return parts


class Checker:
    """Says of one command whether it would be understood. What cannot be run here is checked for its names."""

    def __init__(self, capfd, tmp_path):
        self.capfd, self.tmp_path = capfd, tmp_path
        self.targets = set(re.findall(r"^([\w-]+)[\w\s-]*:(?!=)", (ROOT / "Makefile").read_text(), re.M))
        for line in re.findall(r"^([\w\s-]+):(?!=)", (ROOT / "Makefile").read_text(), re.M):
            self.targets |= set(line.split())
        presets = json.loads((ROOT / "CMakePresets.json").read_text())
        self.presets = {p["name"] for kind in ("configurePresets", "buildPresets") for p in presets.get(kind, [])}

    def glyptic(self, *arguments):
        self.capfd.readouterr()
        if arguments[0] == "report":  # drawn by the package, whichever program is asked
            with pytest.raises(SystemExit) as ended:
                glyptic.report.main([str(a) for a in arguments[1:]])
            code = ended.value.code
        else:
            code = glyptic._C.cli([str(a) for a in arguments])
        out, err = self.capfd.readouterr()
        return code, out, err

    def check(self, command):
        words = shlex.split(re.sub(r"\[([^][]*)\]", r"\1", command) if command.startswith("glyptic") else command)
        while words and re.match(r"\w+=", words[0]):
            words = words[1:]
        if not words:
            return
        name = pathlib.PurePath(words[0]).name
        rule = getattr(self, "check_" + re.sub(r"\W", "_", name), None)
        if rule is None and name.startswith("test_"):
            rule = self.check_test_program
        assert rule, f"no rule for '{name}': add one, so that the command stays right"
        rule(words)

    def check_make(self, words):
        for word in words[1:]:
            assert "=" in word or word in self.targets, f"no target '{word}' in the Makefile"

    def check_glyptic(self, words):
        words = [w for w in words[1:] if w not in ("...", "|")]
        if words[0] == "--version":
            return
        code, usage, _ = self.glyptic(words[0], "--help")
        assert code == 0, words
        nested = words[0] == "data" and len(words) > 1
        if nested:
            for command in words[1].split("|"):
                assert re.search(rf"^  {re.escape(command)}\s", usage, re.M), f"no command data {command}"
                code, more, _ = self.glyptic(words[0], command, "--help")
                assert code == 0, words
                usage += more
        for word in words:
            if word.startswith("-"):
                assert re.search(rf"(^|[\s,]){re.escape(word.partition('=')[0])}\b", usage), f"no option {word}"
        if words[0] in ("run", "validate") and len(words) > 1 and words[1].endswith(".yaml"):
            sets = [f"--set={s}" for s in re.findall(r"--set (\S+)", shlex.join(words))]
            sweeps = re.search(r"--sweep ((?:(?!--)\S+\s?)+)", shlex.join(words))
            for axis in sweeps[1].split() if sweeps else []:
                sets += [f"--set={axis.split(',')[0]}"] if "=" in axis else []
            code, _, error = self.glyptic("validate", ROOT / words[1] if (ROOT / words[1]).exists() else words[1], *sets)
            # A page may show what an error looks like.
            assert code == 0 or "densty" in error, error
        if words[0] in ("list", "doctor") or words[:2] == ["data", "list"]:
            assert self.glyptic(*words)[0] == 0
        if words[0] == "describe" and len(words) > 1 and words[1] not in ("NAME", "--markdown"):
            assert self.glyptic(*words)[0] == 0, words

    def check_cmake(self, words):
        for i, word in enumerate(words):
            if word == "--preset":
                assert words[i + 1] in self.presets
            if word == "--target":
                self.check_test_program([words[i + 1]])

    def check_ctest(self, words):
        folder = pathlib.PurePath(words[words.index("--test-dir") + 1])
        assert folder.parts[0] == "build" and folder.name in self.presets

    def check_test_program(self, words):
        module = pathlib.PurePath(words[0]).name.removeprefix("test_")
        assert (ROOT / "tests" / module).is_dir(), words

    def check_python(self, words):
        rest = words[1:]
        if rest[:1] == ["-m"]:
            assert rest[1] in ("glyptic", "pytest", "pip", "ruff", "mypy", "venv", "ipykernel", "http.server"), rest
            rest = rest[2:]
        for word in rest:
            if word.endswith(".py") or word.startswith(("tests/", "benchmarks/", "docs/")):
                assert (ROOT / word).exists(), word

    check_python3 = check_torchrun = check_python

    def check_sbatch(self, words):
        self.check_glyptic(shlex.split(" ".join(words).partition("--wrap=")[2].strip("'\"")))

    def check_others(self, words):
        """Programs that are not ours."""

    check_pip = check_git = check_cd = check_export = check_apt_get = check_sha256sum = check_rsync = check_others

    def check_sh(self, words):
        assert (ROOT / words[-1]).exists()

    def check_bootstrap_sh(self, words):
        assert (ROOT / "cmake/bootstrap.sh").exists()


@pytest.mark.parametrize("page", PAGES)
def test_commands_would_be_understood(page, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    checker = Checker(capfd, tmp_path)
    for command in commands(page):
        try:
            checker.check(command)
        except AssertionError as error:
            raise AssertionError(f"{page}: {command}: {error}") from error


def test_the_checker_itself(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    checker = Checker(capfd, tmp_path)
    for good in "make test", "glyptic run configs/sparsity/chase_mnist.yaml --set seed=2", "glyptic describe chase":
        checker.check(good)
    for bad in (
        "make tset", "glyptic rnu x", "glyptic run x.yaml --sett a=1", "glyptic describe chaes", "cmake --preset fast",
        "glyptic run configs/sparsity/chase_mnist.yaml --set sede=2", "glyptic run configs/none.yaml", "frobnicate",
        "glyptic data gte mnist", "glyptic data get mnist --form x", ".venv/bin/python tools/none.py",
    ):  # fmt: skip
        with pytest.raises(AssertionError):
            checker.check(bad)
            print(bad)  # shown when it was not refused
    assert sum(len(commands(page)) for page in PAGES) > 40
