"""Run folders, read for drawing. Nothing in them is trusted to be what it should be, and nothing of them is executed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import _C

NAN = math.nan


def clean(text: object) -> str:
    """Text of foreign origin without what HTML and UTF-8 cannot hold: control characters, lone surrogates."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\N{REPLACEMENT CHARACTER}", str(text))


def number(value: object) -> float:
    """A float; NaN for null and for what is no number (JSON written elsewhere may hold NaN itself)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NAN
    try:
        return float(value)
    except OverflowError:
        return NAN


@dataclass
class Series:
    """Numbers over steps. Of several seeds: mean and sample standard deviation at each step, and of how many."""

    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    sd: list[float] | None = None
    n: list[int] | None = None

    def add(self, x: float, y: float) -> None:
        self.x.append(x)
        self.y.append(y)

    def __bool__(self) -> bool:
        return any(math.isfinite(v) for v in self.y)


def moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (over n - 1; 0 of one value)."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def pooled(parts: Sequence[Series]) -> Series:
    """Mean and deviation over runs at every step that any of them has; what is not finite does not count."""
    if len(parts) == 1:
        return parts[0]
    at: dict[float, list[float]] = {}
    for part in parts:
        for x, y in zip(part.x, part.y):
            at.setdefault(x, [])
            if math.isfinite(y):
                at[x].append(y)
    result = Series(sd=[], n=[])
    assert result.sd is not None and result.n is not None
    for x in sorted(at):
        mean, deviation = moments(at[x]) if at[x] else (NAN, NAN)
        result.add(x, mean)
        result.sd.append(deviation)
        result.n.append(len(at[x]))
    return result


@dataclass
class Phase:
    """What metrics.jsonl says of one phase ("dense", "chase", ...)."""

    name: str
    loss: Series = field(default_factory=Series)
    epoch_loss: Series = field(default_factory=Series)
    accuracy: Series = field(default_factory=Series)
    judged_on: str = ""  # "test" or "validation"
    epochs: int = 0
    density: Series = field(default_factory=Series)  # of all masked layers together, %
    layers: dict[str, Series] = field(default_factory=dict)  # % of each
    overlap_previous: Series = field(default_factory=Series)
    overlap_first: Series = field(default_factory=Series)
    channels: Series = field(default_factory=Series)  # live, % of all
    widths: dict[str, tuple[int, int]] = field(default_factory=dict)  # live and all
    last_step: int = 0
    not_finite: int = 0


@dataclass
class Layer:
    """Kept weights of one layer at the end."""

    name: str
    kept: int
    size: int
    edges: list[float]
    counts: list[int]


@dataclass
class Run:
    """One run folder."""

    path: Path
    label: str
    config_text: str
    config: dict[str, str]
    environment: dict[str, Any]
    results: dict[str, Any] | None
    phases: dict[str, Phase]
    ended: str  # the last error in log.txt of a run that is not finished
    warnings: list[str]

    @property
    def finished(self) -> bool:
        return self.results is not None

    @property
    def name(self) -> str:
        return self.option("name") or self.label

    @property
    def seed(self) -> str:
        return self.option("seed")

    def option(self, name: str) -> str:
        text = self.config.get(name, "")
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text

    @property
    def sparse_phase(self) -> Phase | None:
        found = [p for p in self.phases.values() if p.name != "dense"]
        return found[-1] if found else None

    @property
    def last(self) -> Phase | None:
        return list(self.phases.values())[-1] if self.phases else None

    def rows(self) -> list[dict[str, Any]]:
        rows = self.results.get("rows", []) if self.results else []
        return [row for row in rows if isinstance(row, dict)]

    def row(self, network: str) -> dict[str, Any] | None:
        return next((row for row in self.rows() if row.get("network") == network), None)


@dataclass
class Group:
    """Runs that differ in nothing but the seed."""

    label: str
    runs: list[Run]
    seeds: list[int]

    def phase_names(self) -> list[str]:
        return list(dict.fromkeys(name for run in self.runs for name in run.phases))

    def pooled(self, phase: str, what: str) -> Series:
        parts = [getattr(run.phases[phase], what) for run in self.runs if phase in run.phases]
        return pooled([part for part in parts if part] or [Series()])

    @property
    def sparse(self) -> str:
        return next((name for name in reversed(self.phase_names()) if name != "dense"), "")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise _C.DataError(f"'{path}' is not JSON: {error}; put the file of the run back") from None
    if not isinstance(value, dict):
        raise _C.DataError(f"'{path}' is not a JSON object; put the file of the run back")
    return value


def _lines(path: Path, warnings: list[str]) -> Iterator[dict[str, Any]]:
    """The objects of metrics.jsonl. A damaged line is left out and named."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for count, text in enumerate(file, 1):
            torn = not text.endswith(b"\n")
            try:
                value = json.loads(text)
                if not isinstance(value, dict) or not isinstance(value.get("phase"), str):
                    raise ValueError("no object with a phase")
                if type(value.get("step")) is not int or not 0 <= value["step"] < 2**53:
                    raise ValueError("no step")
            except (ValueError, RecursionError):
                why = "is cut short: the run was stopped while it wrote it" if torn else "is damaged"
                warnings.append(f"{path.name}, line {count} {why}; it is left out")
                continue
            yield value


def _counts(record: dict[str, Any], key: str) -> dict[str, int]:
    value = record.get(key)
    if not isinstance(value, dict):
        return {}
    return {str(name): count for name, count in value.items() if type(count) is int and count >= 0}


def _read_metrics(path: Path, warnings: list[str]) -> dict[str, Phase]:
    phases: dict[str, Phase] = {}
    sizes: dict[str, dict[str, int]] = {}
    channels: dict[str, dict[str, int]] = {}
    for line in _lines(path, warnings):
        name, step = line["phase"], line["step"]
        phase = phases.setdefault(name, Phase(name))
        phase.last_step = max(phase.last_step, step)
        for key, value in line.items():
            if key in ("loss", "train_loss") or key.endswith(("_accuracy", "_loss")):
                phase.not_finite += not math.isfinite(number(value))
        if "loss" in line:
            phase.loss.add(step, number(line["loss"]))
        if "train_loss" in line:
            phase.epochs += 1
            phase.epoch_loss.add(step, number(line["train_loss"]))
        for judge in ("validation", "test"):
            if f"{judge}_accuracy" in line:
                phase.judged_on = judge
                phase.accuracy.add(step, number(line[f"{judge}_accuracy"]))
        masks = line.get("masks")
        if not isinstance(masks, dict):
            continue
        size = sizes.setdefault(name, _counts(masks, "size"))
        active = {layer: count for layer, count in _counts(masks, "active").items() if size.get(layer)}
        for layer, count in active.items():
            phase.layers.setdefault(layer, Series()).add(step, 100 * count / size[layer])
        if active:
            phase.density.add(step, 100 * sum(active.values()) / sum(size[layer] for layer in active))
        live = _counts(masks, "live_channels")
        whole = channels.setdefault(name, live)
        if live and sum(whole.values()):
            phase.channels.add(step, 100 * sum(live.values()) / sum(whole.values()))
            phase.widths = {layer: (live[layer], whole[layer]) for layer in live if layer in whole}
        for key, series in (("overlap_previous", phase.overlap_previous), ("overlap_first", phase.overlap_first)):
            if key in masks:
                series.add(step, 100 * number(masks[key]))
    return phases


def _ended(path: Path) -> str:
    """Why the run stopped: the error that log.txt closes with, "" where it does not say."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 65536))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    found = re.match(r"\S+ \S+ D ended: (.*)", lines[-1]) if lines else None
    return found[1] if found else ""


def _check_results(results: dict[str, Any], path: Path) -> None:
    if results.get("format") != "glyptic results 1":
        raise _C.DataError(f"'{path}' is not a results file of this version")
    if not isinstance(results.get("rows"), list):
        raise _C.DataError(f"'{path}' is not a results file: it has no rows")


def _unreadable(error: OSError) -> Exception:
    return _C.MissingFileError(f"cannot read '{error.filename}': {error.strerror}; make it a file that can be read")


def read_run(path: str, label: str) -> Run:
    """One run folder. MissingFileError where there is none, DataError for a file that cannot be read at all."""
    folder = Path(path)
    warnings: list[str] = []
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        raise _C.MissingFileError(
            f"'{path}' holds no run: it has no config.yaml; name the folder that `glyptic run` wrote"
        ) from None
    except OSError as error:
        raise _unreadable(error) from None
    try:
        config = _C.read_config(str(folder / "config.yaml"))
    except (_C.Error, RuntimeError) as error:
        config = {}
        warnings.append(f"config.yaml is not one of this version and is shown as it is ({error})")
    try:
        environment = _read_json(folder / "environment.json") or {}
        results = _read_json(folder / "results.json")
        if results is not None:
            _check_results(results, folder / "results.json")
        run = Run(
            folder, label, text, config, environment, results, _read_metrics(folder / "metrics.jsonl", warnings),
            _ended(folder / "log.txt"), warnings,
        )  # fmt: skip
    except OSError as error:
        raise _unreadable(error) from None
    for phase in run.phases.values():
        if phase.not_finite:
            warnings.append(f"{phase.not_finite} values of '{phase.name}' are not finite; curves have a gap there")
    return run


def read_groups(paths: Sequence[str]) -> list[Group]:
    """The runs of these folders (of a folder of runs: all of them), those that differ by seed together."""
    folders = list(dict.fromkeys(run for path in paths for run in _C.runs_in(path)))
    groups = []
    for label, members, seeds in _C.seed_groups(folders):
        groups.append(Group(clean(label), [read_run(folders[i], clean(folders[i])) for i in members], seeds))
    return groups


def _unpacked(packed: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    bits = (packed.view(-1, 1) >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.view(-1)[: like.numel()].view(like.shape).bool()


def kept_weights(run: Run, phase: str, bins: int = 41) -> list[Layer]:
    """Histograms of each layer's kept weights, out of the checkpoint of the phase or the run's last one.

    DataError when a checkpoint is damaged. Bins are of equal width over [-a, a], a the largest magnitude.
    """
    for name in (f"{phase}.safetensors", "last.safetensors"):
        path = run.path / "checkpoints" / name
        if not path.exists():
            continue
        listed, metadata = _C.load_safetensors(str(path))
        if metadata.get("trained") != phase:
            continue
        tensors = dict(listed)
        layers = []
        for key, packed in listed:
            layer = key.removeprefix("sparsity.mask.")
            weight = tensors.get("model." + layer)
            if layer == key or weight is None:
                continue
            if packed.dtype != torch.uint8 or packed.numel() != (weight.numel() + 7) // 8:
                raise _C.DataError(f"'{path}': the mask of '{layer}' does not fit its weight")
            kept = weight[_unpacked(packed, weight)].double()
            top = float(kept.abs().max()) if kept.numel() else 0.0
            top = top if math.isfinite(top) and top > 0 else 1.0
            counts = torch.histc(kept, bins, -top, top).long().tolist() if kept.numel() else [0] * bins
            edges = [top * (2 * i / bins - 1) for i in range(bins + 1)]
            layers.append(Layer(layer, kept.numel(), weight.numel(), edges, counts))
        return layers
    return []


def channel_widths(run: Run) -> dict[str, tuple[int, int]]:
    """Output channels of each layer that could lose some, what is left and what there was: what is alive, and where the
    network was extracted, what that has."""
    extraction = run.results.get("extraction") if run.results else None
    phase = run.sparse_phase
    widths = dict(phase.widths) if phase else {}
    if isinstance(extraction, dict) and isinstance(extraction.get("widths"), dict):
        for name, pair in extraction["widths"].items():
            masked = phase is None or not phase.layers or name in phase.layers  # not those of normalisations
            if masked and isinstance(pair, list) and len(pair) == 2 and all(type(v) is int and v >= 0 for v in pair):
                widths[name] = (pair[0], pair[1])
    order = list(phase.layers) if phase else []
    return dict(sorted(widths.items(), key=lambda entry: order.index(entry[0]) if entry[0] in order else len(order)))
