"""`glyptic report`: what a page holds, in a browser where there is one, and what becomes of bad runs."""

import base64
import html.parser
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import glyptic
import pytest
import torch
from glyptic import _C

pytest.importorskip("matplotlib", reason="the report is drawn by matplotlib (pip install 'glyptic[report]')")
from glyptic import report  # noqa: E402
from glyptic.report import _figures, _load, _page  # noqa: E402

CHASE = """
name: small_chase
threads: 1
data: {name: shapes, train_limit: 320, test_limit: 60, size: 12, classes: 3}
model: {name: vgg_small, width: 0.0625}
optimizer: {lr: 0.05}
train: {epochs: 3, batch_size: 16, eval_batch_size: 60, log_every: 2, baseline: true}
throughput: {batches: [4], warmup: 1, repeats: 5, seconds: 0.1}
sparsity: {method: chase, density: 0.15, update_every: 3, channel_sparsity: 0.4}
"""
RIGL = """
threads: 1
data: {name: shapes, train_limit: 160, test_limit: 40, size: 12, classes: 3}
model: {name: mlp, widths: [12]}
train: {epochs: 2, batch_size: 16, eval_batch_size: 40, log_every: 2}
throughput: {enabled: false}
sparsity: {method: rigl, density: 0.2, update_every: 3}
"""


def run(config, folder, *sets):
    file = folder.parent / f"{folder.name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(config)
    arguments = ["run", "-q", str(file), "--out", str(folder)]
    assert _C.cli(arguments + [word for text in sets for word in ("--set", text)]) == 0
    return folder


@pytest.fixture(scope="module")
def chase(tmp_path_factory):
    return run(CHASE, tmp_path_factory.mktemp("report") / "chase")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two settings, the first of three seeds."""
    folder = tmp_path_factory.mktemp("report") / "sweep"
    for seed in 1, 2, 30:
        run(RIGL, folder / f"sparsity.density=0.2,seed={seed}", f"seed={seed}")
    run(RIGL, folder / "sparsity.density=0.1,seed=1", "seed=1", "sparsity.density=0.1")
    return folder


@pytest.fixture
def rigl(sweep, tmp_path):
    """A run that a test may damage."""
    return pathlib.Path(shutil.copytree(sweep / "sparsity.density=0.2,seed=1", tmp_path / "rigl"))


class Parsed(html.parser.HTMLParser):
    """A page as data: its JSON blocks, its text, its elements."""

    VOID = {"meta", "br", "link", "img", "input", "hr"}

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.tags, self.ids, self.references, self.data, self.open = [], [], [], {}, []
        self.words, self.block = [], None
        self.source = pathlib.Path(path).read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append((tag, given))
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        self.references += given.get("aria-labelledby", "").split()
        self.references += re.findall(r"url\(#([^)]+)\)", " ".join(filter(None, given.values())))
        self.references += [v[1:] for k, v in attributes if k.endswith("href") and v.startswith("#")]
        if tag == "script":
            assert given["type"] == "application/json"
            self.block = given["id"]
            self.data[self.block] = ""

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        assert self.open.pop() == tag
        if tag == "script":
            self.data[self.block] = json.loads(self.data[self.block])
            self.block = None

    def handle_data(self, data):
        if self.block is not None:
            self.data[self.block] += data
        else:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def figure(self, title):
        found = [entry for entry in self.data.values() if isinstance(entry, dict) and entry.get("title") == title]
        assert len(found) == 1, (title, [e.get("title") for e in self.data.values() if isinstance(e, dict)])
        return found[0]

    def series(self, title):
        return {s["name"]: s for s in self.figure(title)["series"]}


def page_of(runs, out, **options):
    given = [runs] if isinstance(runs, str | os.PathLike) else runs
    return Parsed(report.write(given, out, **options))


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def chase_page(chase, tmp_path_factory):
    return page_of(chase, tmp_path_factory.mktemp("page") / "chase.html")


# --- the numbers


def test_the_curves_are_those_of_the_run(chase, chase_page):
    lines = metrics(chase)
    losses = {(m["step"], m["loss"]) for m in lines if m["phase"] == "chase" and "loss" in m}
    found = chase_page.series("Training loss")
    assert set(zip(found["chase, one batch"]["x"], found["chase, one batch"]["y"])) == losses and len(losses) == 30
    epochs = [m["train_loss"] for m in lines if m["phase"] == "dense" and "train_loss" in m]
    assert found["dense, mean of an epoch"]["y"] == epochs and len(epochs) == 3
    accuracy = [m["test_accuracy"] for m in lines if m["phase"] == "chase" and "test_accuracy" in m]
    assert chase_page.series("Accuracy on the test set")["chase"]["y"] == accuracy


def test_the_masks_are_those_of_the_run(chase, chase_page):
    events = [m for m in metrics(chase) if "masks" in m]
    first, last = events[0]["masks"], events[-1]["masks"]
    layers = chase_page.series("Density of each layer")
    assert [f"{name}.weight" for name in layers] == list(first["size"])
    for name, series in layers.items():
        layer = f"{name}.weight"
        assert series["x"] == [m["step"] for m in events] and series["x"][0] == 0
        assert series["y"] == [100 * m["masks"]["active"][layer] / first["size"][layer] for m in events]
    whole = chase_page.series("Active weights")["chase"]["y"]
    assert whole[-1] == pytest.approx(100 * sum(last["active"].values()) / sum(first["size"].values()))
    overlap = chase_page.series("Mask overlap at each event")
    assert overlap["with the mask before"]["y"] == [100 * m["masks"]["overlap_previous"] for m in events[1:]]
    assert overlap["with the first mask"]["y"] == [100 * m["masks"]["overlap_first"] for m in events[1:]]
    live = chase_page.series("Live channels")["chase"]["y"]
    assert live[0] == 100 and live[-1] == 100 * sum(last["live_channels"].values()) / sum(first["live_channels"].values())


def test_widths_are_those_of_the_extracted_network(chase, chase_page):
    graph = json.loads((chase / "extracted" / "graph.json").read_text())
    small = {t["name"]: t["shape"][0] for t in graph["tensors"] if t["shape"]}
    tensors = dict(_C.load_safetensors(str(chase / "checkpoints" / "chase.safetensors"))[0])
    (group,) = chase_page.figure("Width of each layer")["groups"]
    assert len(group["layers"]) >= 3
    for entry in group["layers"]:
        assert entry["after"] == small[entry["layer"]]
        assert entry["before"] == tensors["model." + entry["layer"]].shape[0]
    assert any(entry["after"] < entry["before"] for entry in group["layers"])


def test_histograms_are_of_the_kept_weights(chase, chase_page):
    tensors = dict(_C.load_safetensors(str(chase / "checkpoints" / "chase.safetensors"))[0])
    masks = [name for name in tensors if name.startswith("sparsity.mask.")]
    for name in masks:
        layer = name.removeprefix("sparsity.mask.")
        figure = chase_page.figure(layer.removesuffix(".weight"))
        weight = tensors["model." + layer]
        # Masks are packed, the first position in the lowest bit.
        bits = [int(byte) >> i & 1 for byte in tensors[name] for i in range(8)][: weight.numel()]
        kept = weight.reshape(-1)[torch.tensor(bits).bool()].double()
        assert (figure["kept"], figure["size"]) == (kept.numel(), weight.numel())
        assert sum(figure["counts"]) == kept.numel()
        edges = figure["edges"]
        assert edges[-1] == pytest.approx(kept.abs().max()) and edges[0] == -edges[-1]
        # A weight that lies on an edge to the last bits may be counted on either side of it.
        for low, high, count in zip(edges, edges[1:], figure["counts"]):
            inside = int(((kept > low + 1e-9) & (kept < high - 1e-9)).sum())
            assert inside <= count <= int(((kept >= low - 1e-9) & (kept <= high + 1e-9)).sum())
    assert len(masks) == 7


def test_the_page_says_what_the_run_was(chase, chase_page):
    results = json.loads((chase / "results.json").read_text())
    assert chase_page.data["results-data"][0]["rows"] == results["rows"]
    extracted = next(r for r in results["rows"] if r["network"] == "extracted")
    text = chase_page.text
    assert "small_chase" in text and "finished" in text and "vgg_small trained with chase on" in text
    assert f"{extracted['accuracy']:.2f} %" in text and f"{extracted['parameters']:,}" in text
    assert "chase: implemented from released code" in text
    (about,) = chase_page.data["runs-data"]
    assert about["config"]["sparsity.channel_sparsity"] == "0.4" and about["config"]["train.baseline"] == "true"
    assert about["environment"] == json.loads((chase / "environment.json").read_text())
    assert "channel_sparsity: 0.4" in text and f"torch: {about['environment']['torch']}" in text


def test_runs_of_several_seeds_are_mean_and_deviation(sweep, tmp_path):
    page = page_of(sweep, tmp_path / "sweep.html")
    assert "4 runs of 2 settings" in page.text and "all finished" in page.text
    seeds = [sweep / f"sparsity.density=0.2,seed={seed}" for seed in (1, 2, 30)]
    runs = [{m["step"]: m["test_accuracy"] for m in metrics(s) if "test_accuracy" in m} for s in seeds]
    pooled = page.series("Accuracy on the test set")["sparsity.density=0.2"]
    assert pooled["n"] == [3, 3]
    for i, step in enumerate(pooled["x"]):
        values = [r[step] for r in runs]
        mean = sum(values) / 3
        assert pooled["y"][i] == pytest.approx(mean)
        assert pooled["sd"][i] == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / 2))
    assert any(pooled["sd"])
    assert "sd" not in page.series("Accuracy on the test set")["sparsity.density=0.1,seed=1"]
    assert set(page.series("Overlap with the first mask")) == {"sparsity.density=0.2", "sparsity.density=0.1,seed=1"}
    assert "sparsity.density" in page.text and "Options that differ" in page.source
    # The seeds alone: one page of one setting.
    alone = page_of(seeds, tmp_path / "seeds.html")
    assert "Seeds 1, 2 and 30" in alone.text
    values = [json.loads((s / "results.json").read_text())["rows"][0]["accuracy"] for s in seeds]
    mean, deviation = _load.moments(values)
    assert f"{mean:.2f} \N{PLUS-MINUS SIGN} {deviation:.2f} %" in alone.text


def test_moments_and_pooling():
    assert _load.moments([2.0, 4.0, 9.0]) == (5.0, pytest.approx(math.sqrt(13)))
    assert _load.moments([3.0]) == (3.0, 0.0)
    parts = [_load.Series([1, 2], [1.0, math.nan]), _load.Series([1, 3], [3.0, 5.0])]
    pooled = _load.pooled(parts)
    assert pooled.x == [1, 2, 3] and pooled.n == [2, 0, 1]
    assert pooled.y[0] == 2 and math.isnan(pooled.y[1]) and pooled.sd[0] == pytest.approx(math.sqrt(2))


def test_many_layers_are_a_heat_map(rigl, tmp_path):
    layers = [f"layer{i}.weight" for i in range(30)]
    records = [
        {"phase": "rigl", "step": step, "masks": {"size": dict.fromkeys(layers, 100), "active": {n: i + step for i, n in enumerate(layers)}}}
        for step in range(0, 9, 3)
    ]  # fmt: skip
    (rigl / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    page = page_of(rigl, tmp_path / "many.html")
    found = page.series("Density of each layer")
    assert len(found) == 30 and found["layer7.weight"]["y"] == [7, 10, 13]
    assert "data:image/png;base64," in page.source


def test_the_example_of_the_documentation(chase_page, tmp_path, monkeypatch, capsys):
    page = pathlib.Path(__file__).resolve().parents[2] / "docs" / "report.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    (tmp_path / "report.html").write_text(chase_page.source)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page.name, "exec"), {})
    assert json.loads(capsys.readouterr().out) == chase_page.series("Accuracy on the test set")["dense"]["y"]


# --- the page as such


def check_self_contained(page):
    assert page.source.startswith("<!doctype html>")
    assert len(page.ids) == len(set(page.ids)), "no id twice"
    assert set(page.references) <= set(page.ids)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "img"), tag
        assert tag != "script" or attributes["type"] == "application/json"
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("#", "data:image/png;base64,")), value
    assert not re.search(r"@import|url\((?!#)", page.source)
    figures = [a for tag, a in page.tags if tag == "svg" and a.get("role") == "img"]
    assert figures and all(len(a["aria-labelledby"].split()) == 2 for a in figures)
    assert page.source.count("-data\"") >= len(figures), "numbers behind every figure"


def test_it_needs_nothing_else(chase_page, sweep, tmp_path):
    check_self_contained(chase_page)
    check_self_contained(page_of(sweep, tmp_path / "sweep.html"))
    # Colours are the page's, so that they follow the reader's scheme; none of matplotlib's is left.
    svg = "".join(re.findall(r"<svg.*?</svg>", chase_page.source, re.S))
    assert not re.search(r"#[0-9a-f]{6}\b", svg) and "DejaVu" not in svg
    assert len(chase_page.source) < 400_000


def test_the_same_run_is_the_same_page(chase, chase_page, tmp_path):
    assert page_of(chase, tmp_path / "again.html").source == chase_page.source


def test_text_out_of_files_is_text(rigl, tmp_path):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'$\\frac{1}{2}$\x00\ud800|"
    results = json.loads((rigl / "results.json").read_text())
    whole = evil.replace("\ud800", "")  # half a pair is not JSON to the library
    results["data"] = results["paper"] = whole
    results["notes"] = [whole]
    results["rows"].append({"network": whole, "method": whole, "accuracy": whole})
    (rigl / "results.json").write_text(json.dumps(results))
    (rigl / "environment.json").write_text(json.dumps({evil: evil}))
    text = (rigl / "config.yaml").read_text()
    (rigl / "config.yaml").write_text(text + f"# {evil[:60]}\n")
    lines = (rigl / "metrics.jsonl").read_text().replace('"rigl"', json.dumps(evil)).replace("fc1.weight", json.dumps(evil)[1:-1])
    (rigl / "metrics.jsonl").write_text(lines)
    folder = rigl.rename(tmp_path / "<script>alert(3)</script>".replace("/", "_"))
    page = page_of(folder, tmp_path / "evil.html")
    check_self_contained(page)
    assert not any(tag == "img" for tag, _ in page.tags)
    assert "alert(1)" in page.text and "\x00" not in page.source
    assert page.data["runs-data"][0]["environment"], "and it is still there as data"


# --- runs that are not as they should be


def test_a_run_that_is_not_finished(rigl, tmp_path):
    (rigl / "results.json").unlink()
    with (rigl / "metrics.jsonl").open("a") as file:
        file.write('{"phase":"rigl","st')
    with (rigl / "log.txt").open("a") as file:
        file.write("2026-01-01 00:00:00.000 D ended: stopped after step 20 of 'rigl'; continue with: glyptic resume x\n")
    page = page_of(rigl, tmp_path / "page.html")
    text = page.text
    assert "not finished" in text and "its record ends after step 20 of 'rigl'" in text
    assert "It ended with: stopped after step 20 of 'rigl'" in text
    assert "is cut short" in text and "None yet" in text
    assert len(page.series("Training loss")["rigl, one batch"]["x"]) == 10
    assert "fc1" in page.series("Density of each layer")


def test_a_run_that_diverged(rigl, tmp_path):
    (rigl / "results.json").unlink()
    with (rigl / "log.txt").open("a") as file:
        file.write("2026-01-01 00:00:00.000 D ended: the loss is nan at step 21 of 'rigl'; lower optimizer.lr\n")
    with (rigl / "metrics.jsonl").open("a") as file:
        file.write('{"phase":"rigl","step":21,"epoch":2,"loss":NaN}\n{"phase":"rigl","step":22,"epoch":2,"loss":null}\n')
    page = page_of(rigl, tmp_path / "page.html")
    assert "diverged" in page.text and "the loss is nan at step 21" in page.text
    assert "2 values of 'rigl' are not finite" in page.text
    assert page.series("Training loss")["rigl, one batch"]["y"][-2:] == [None, None]


@pytest.mark.parametrize("line", ["{", "[]", '{"phase":1,"step":1}', '{"phase":"rigl","step":"x"}', "\xff\xfe", "[" * 100000])
def test_a_damaged_line_is_named_and_left_out(rigl, tmp_path, line):
    lines = (rigl / "metrics.jsonl").read_text().splitlines()
    (rigl / "metrics.jsonl").write_text("\n".join([*lines[:3], line, *lines[3:]]) + "\n", encoding="latin-1")
    read = _load.read_run(str(rigl), "rigl")
    assert read.warnings == ["metrics.jsonl, line 4 is damaged; it is left out"]
    assert len(read.phases["rigl"].loss.x) == 10
    if line == "{":
        assert read.warnings[0] in page_of(rigl, tmp_path / "page.html").text


def test_nothing_but_a_config(rigl, tmp_path):
    for entry in rigl.iterdir():
        if entry.name != "config.yaml":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    text = page_of(rigl, tmp_path / "page.html").text
    assert "its record ends before its first step" in text and "environment.json is missing" in text


def test_a_config_of_another_version_is_shown_as_it_is(rigl, tmp_path):
    with (rigl / "config.yaml").open("a") as file:
        file.write("future: 1\n")
    text = page_of(rigl, tmp_path / "page.html").text
    assert "config.yaml is not one of this version" in text and "unknown option 'future'" in text
    assert "future: 1" in text


def test_old_runs_have_no_mask_events(rigl, tmp_path):
    kept = [m for m in metrics(rigl) if "masks" not in m]
    (rigl / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in kept))
    page = page_of(rigl, tmp_path / "page.html")
    assert "Training loss" in page.text and "Density of each layer" not in page.text
    assert page.figure("fc1")["kept"] > 0


def test_what_cannot_be_read_is_one_line(rigl, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("mine")
    with pytest.raises(glyptic.ArgumentError, match="is there already and is no report"):
        report.write([rigl], out)
    assert out.read_text() == "mine"
    with pytest.raises(glyptic.ArgumentError, match="is a folder; name a file"):
        report.write([rigl], tmp_path)
    with pytest.raises(glyptic.MissingFileError, match="the folder of .* is not there"):
        report.write([rigl], tmp_path / "no" / "page.html")
    with pytest.raises(glyptic.ArgumentError, match="no run was given"):
        report.write([], out)
    out = tmp_path / "other.html"
    (tmp_path / "empty").mkdir()
    for folder in "empty", "gone", "page.html":
        with pytest.raises(glyptic.MissingFileError, match="holds no run: it has no config.yaml"):
            report.write([tmp_path / folder], out)
    for name in "results.json", "environment.json":
        whole = (rigl / name).read_text()
        for text in "{", "[]", '{"format": "other"}':
            (rigl / name).write_text(text)
            if name == "results.json" or "format" not in text:
                with pytest.raises(glyptic.DataError, match=f"{name}' is not"):
                    report.write([rigl], out)
        (rigl / name).write_text(whole)
    for name in "metrics.jsonl", "environment.json", "config.yaml":
        (rigl / name).rename(rigl / "aside")
        (rigl / name).mkdir()
        with pytest.raises(glyptic.MissingFileError, match=f"cannot read '.*{name}': Is a directory"):
            report.write([rigl], out)
        (rigl / name).rmdir()
        (rigl / "aside").rename(rigl / name)
    assert not out.exists()
    checkpoint = rigl / "checkpoints" / "rigl.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:200])
    assert "No histograms: " in page_of(rigl, out).text
    assert [p.name for p in tmp_path.glob(".*")] == [], "no temporary is left"


def test_a_failed_write_leaves_the_old_page(rigl, tmp_path, monkeypatch):
    out = tmp_path / "page.html"
    report.write([rigl], out)
    before = out.read_bytes()
    os.link(out, tmp_path / "reader.html")  # who has the old page open keeps it: a new file takes the name
    with (rigl / "environment.json").open("w") as file:
        file.write('{"torch": "another"}')
    report.write([rigl], out)
    assert (tmp_path / "reader.html").read_bytes() == before != out.read_bytes()
    before = out.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(glyptic.DataError, match="No space left on device; what was there is unchanged"):
        report.write([rigl], out)
    assert out.read_bytes() == before and list(tmp_path.glob(".*")) == []


# --- the command


def command(*arguments, program=None, **options):
    words = program or [sys.executable, "-m", "glyptic"]
    return subprocess.run([*words, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, **options)


def test_the_command_of_the_package(rigl, tmp_path, capsys):
    result = command("report", rigl, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "report in report.html\n", "")
    assert Parsed(tmp_path / "report.html").figure("fc1")
    assert report.main([str(tmp_path / "gone")]) == 3
    assert re.fullmatch(r"glyptic: '.*gone' holds no run.*\n", capsys.readouterr().err)
    assert report.main([str(rigl), "--out", str(rigl / "config.yaml")]) == 2
    assert "is no report; give another --out" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        report.main([])
    assert report.main([str(rigl), "-q", "--out", str(tmp_path / "report.html")]) == 0
    assert capsys.readouterr().out == ""


def native():
    program = pathlib.Path(os.environ.get("GLYPTIC_BUILD", "")) / "bin" / "glyptic"
    if not os.environ.get("GLYPTIC_BUILD") or not program.exists():
        pytest.skip("GLYPTIC_BUILD does not name a build with the program")
    return [str(program)]


def test_the_native_command_hands_over_to_python(rigl, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = command("report", rigl, "--out", tmp_path / "a b.html", program=native(), env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"report in {tmp_path}/a b.html\n"


def test_the_native_command_without_a_python_that_can_draw(rigl, tmp_path):
    for python, said in (
        ("/gone/python", "there is no Python that can be run (tried /gone/python)"),
        (sys._base_executable, "cannot import the package glyptic (No module named 'torch')"),
    ):
        if python == sys._base_executable and sys.prefix == sys.base_prefix:
            continue  # the only interpreter there is has torch
        environment = {**os.environ, "GLYPTIC_PYTHON": python, "PATH": "/gone"}
        result = command("report", rigl, "--out", tmp_path / "a.html", program=native(), env=environment)
        assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
        assert result.stderr.startswith("glyptic: report: ") and said in result.stderr


def test_a_missing_matplotlib_is_named(rigl, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report.main([str(rigl), "--out", str(tmp_path / "a.html")]) == 2
    assert capsys.readouterr().err == "glyptic: report draws with matplotlib: pip install 'glyptic[report]'\n"


def test_a_missing_tensorboard_is_named(rigl, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [n for n in sys.modules if n.startswith("tensorboard.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(glyptic.ArgumentError, match=r"pip install 'glyptic\[tensorboard\]'"):
        report.write([rigl], tmp_path / "a.html", tensorboard=str(tmp_path / "events"))
    assert list(tmp_path.glob("a.html")) == [], "found before anything is written"


def test_tensorboard_reads_the_scalars_back(sweep, tmp_path):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = tmp_path / "events"
    report.write([sweep], tmp_path / "a.html", tensorboard=str(events))
    files = sorted(p.relative_to(events) for p in events.rglob("*") if p.is_file())
    assert len(files) == 4 and len({f.name for f in files}) == 1
    for folder in sweep.iterdir():
        if not folder.is_dir():
            continue
        accumulator = EventAccumulator(str(events / folder.name)).Reload()
        lines = metrics(folder)

        def scalars(tag, read=accumulator):
            return [(e.step, e.value) for e in read.Scalars(tag)]

        # Event files hold float32.
        expected = [(m["step"], pytest.approx(m["loss"], rel=1e-6)) for m in lines if "loss" in m]
        assert scalars("rigl/loss") == expected and len(expected) == 10
        overlap = [(m["step"], pytest.approx(100 * m["masks"]["overlap_first"], rel=1e-6)) for m in lines if "masks" in m and m["step"]]
        assert scalars("rigl/overlap with the first mask") == overlap and overlap
        assert len(scalars("rigl/test accuracy")) == 2
    before = {f: (events / f).read_bytes() for f in files}
    report.write([sweep], tmp_path / "a.html", tensorboard=str(events))
    assert {p.relative_to(events): p.read_bytes() for p in events.rglob("*") if p.is_file()} == before


# --- in a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """Headless Chromium, driven by its debugging protocol over two pipes: no port, no further package."""

    def __init__(self, profile):
        to_browser, self.out = os.pipe()
        self.into, from_browser = os.pipe()

        def descriptors():  # it reads requests from 3 and answers on 4
            first, second = os.dup(to_browser), os.dup(from_browser)
            os.dup2(first, 3)
            os.dup2(second, 4)

        flags = ["--headless=new", "--disable-gpu", "--no-first-run", "--hide-scrollbars", f"--user-data-dir={profile}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # which Chromium demands of root; the page is our own
        self.process = subprocess.Popen(
            [CHROMIUM, *flags, "--remote-debugging-pipe"], preexec_fn=descriptors, close_fds=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self.count, self.rest, self.session, self.events = 0, b"", None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in "Page", "Network", "Runtime", "Log":
            self.call(f"{domain}.enable")

    def _next(self):
        while b"\0" not in self.rest:
            more = os.read(self.into, 1 << 16)
            assert more, "Chromium ended"
            self.rest += more
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def call(self, method, **parameters):
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, path, width, scheme="light"):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 800)
        self.call("Emulation.setEmulatedMedia", media="screen", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=pathlib.Path(path).as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._next())

    def value(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path):
        image = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(image))

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=20)
        os.close(self.out)
        os.close(self.into)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip("no Chromium (Debian: apt-get install chromium); the pages are read by html.parser all the same")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


# What sticks out of the window, unless a box that scrolls by itself holds it.
OVERFLOWING = """[...document.querySelectorAll('main *')].filter(e => {
  if (e.closest('details:not([open])') && !e.closest('summary')) return false;
  const box = e.getBoundingClientRect();
  return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1) && !e.parentElement.closest('.scroll');
}).map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"""
# Letters of the drawings in pixels of the screen, and those that another one covers.
LETTERS = """[...document.querySelectorAll('figure svg[role=img] text')].map(e => e.getBoundingClientRect().height)"""
COVERED = """[...document.querySelectorAll('figure svg[role=img]')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(e => [e.textContent, e.getBoundingClientRect()]);
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
    Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1 && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 1)
    .map(([b]) => a + ' / ' + b));
})"""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", ["one", "several"])
def test_in_a_browser(browser, chase, sweep, tmp_path, width, kind):
    runs = chase if kind == "one" else sweep
    path = report.write([runs], tmp_path / "page.html")
    page = Parsed(path)
    browser.open(path, width)
    requested = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert [u for u in requested if not u.startswith("data:")] == [pathlib.Path(path).as_uri()]
    assert not [e for e in browser.events if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(OVERFLOWING) == []
    assert browser.value(COVERED) == []
    assert min(browser.value(LETTERS)) >= 9, "letters that can be read"
    # The numbers, as a reader's script would take them.
    blocks = browser.value("[...document.querySelectorAll('script[type=\"application/json\"]')].map(s => [s.id, s.textContent])")
    assert {name: json.loads(text) for name, text in blocks} == page.data
    title = "Accuracy on the test set"
    rows = browser.value(
        f"[...[...document.querySelectorAll('figure')].find(f => f.querySelector('h3').textContent == '{title}')"
        ".querySelectorAll('tbody tr')].map(r => [...r.children].map(c => c.textContent))"
    )
    first = page.figure(title)["series"][0]
    assert [float(row[0].replace(",", "")) for row in rows] == first["x"]
    assert [float(row[1]) for row in rows] == pytest.approx(first["y"], rel=1e-4)
    # What the run was and how it ended is on the first screen.
    for selector in "h1", ".status", ".lead":
        assert browser.value(f"document.querySelector('{selector}').getBoundingClientRect().bottom") < 844
    if kind == "one":
        assert browser.value("document.querySelector('.tile b').getBoundingClientRect().bottom") < 844
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


# Relative luminances as WCAG 2.1 defines them; text needs a contrast of 4.5, lines 3.
CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const luminance = color => {
    canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = getComputedStyle(document.documentElement);
  const page = luminance(style.getPropertyValue('--page'));
  return Object.fromEntries(['ink', 'muted', 'good', 'warn', 'bad', ...Array(8).keys().map(i => 's' + i)].map(name => {
    const other = luminance(style.getPropertyValue('--' + name));
    return [name, (Math.max(page, other) + 0.05) / (Math.min(page, other) + 0.05)];
  }));
})()"""


def test_light_dark_and_print(browser, chase_page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(chase_page.source)
    backgrounds = []
    for scheme in "light", "dark":
        browser.open(path, 1280, scheme)
        backgrounds.append(browser.value("getComputedStyle(document.body).backgroundColor"))
        assert min(browser.value(CONTRAST).values()) >= 4.5
        # A drawing's letters have the page's colour.
        ink = "getComputedStyle(document.querySelector('figure svg[role=img] text')).fill"
        assert browser.value(ink) == browser.value("getComputedStyle(document.querySelector('figcaption')).color")
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]
    # On paper it is light, whatever the screen is.
    browser.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert browser.value("getComputedStyle(document.body).backgroundColor") == backgrounds[0]
    paper = base64.b64decode(browser.call("Page.printToPDF", printBackground=True)["data"])
    pages = len(re.findall(rb"/Type\s*/Page\b", paper))
    assert paper.startswith(b"%PDF") and 2 <= pages <= 12


def test_a_page_is_drawn_in_seconds(chase, tmp_path):
    begin = time.monotonic()
    report.write([chase], tmp_path / "page.html")
    assert time.monotonic() - begin < 30  # 2 s on an idle machine


def test_axes_have_round_numbers():
    assert [_figures._nice(top) for top in (1.0, 0.3, 0.0072, 6.0)] == [0.5, 0.2, 0.005, 5.0]
    assert _page._si(58.3e6) == "58.3 M" and _page._si(999.0) == "999"
    assert _page._number(1234567) == "1,234,567" and _page._number(0.123456) == "0.12346"


def test_the_binding_leaves_this_process_alone(capfd):
    """Only the program itself gives way to Python: a process that calls the library goes on."""
    assert _C.cli(["report", "--help"]) == 2
    assert "glyptic.report.main()" in capfd.readouterr().err
