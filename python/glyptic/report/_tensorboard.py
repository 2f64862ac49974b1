"""metrics.jsonl as TensorBoard scalars: one event file per run, the same bytes for the same run."""

from __future__ import annotations

import importlib
import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import _C
from ._load import Group, Run

FILE = "events.out.tfevents.glyptic"


def load() -> tuple[Any, Any, Any]:
    """The package's event, its summary and its record writer; ArgumentError where it is not installed."""
    try:
        return (
            importlib.import_module("tensorboard.compat.proto.event_pb2").Event,
            importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary,
            importlib.import_module("tensorboard.summary.writer.record_writer").RecordWriter,
        )
    except ImportError:
        raise _C.ArgumentError("--tensorboard needs tensorboard: pip install 'glyptic[tensorboard]'") from None


def scalars(run: Run) -> Iterator[tuple[int, str, float]]:
    """Step, tag and value of everything that metrics.jsonl holds, in the order of steps."""
    found = []
    for phase in run.phases.values():
        named = {
            "loss": phase.loss, "epoch loss": phase.epoch_loss, f"{phase.judged_on} accuracy": phase.accuracy,
            "density": phase.density, "overlap with the mask before": phase.overlap_previous,
            "overlap with the first mask": phase.overlap_first, "live channels": phase.channels,
        } | {f"density of {layer}": series for layer, series in phase.layers.items()}  # fmt: skip
        for tag, series in named.items():
            found += [(int(x), f"{phase.name}/{tag}", y) for x, y in zip(series.x, series.y) if math.isfinite(y)]
    yield from sorted(found, key=lambda entry: entry[0])


def _events(run: Run) -> bytes:
    event, summary, record_writer = load()
    out = io.BytesIO()
    writer = record_writer(out)
    # metrics.jsonl knows no clock, so neither does this: TensorBoard's axis is the step.
    writer.write(event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
    for step, tag, value in scalars(run):
        content = summary(value=[summary.Value(tag=tag, simple_value=value)])
        writer.write(event(wall_time=0.0, step=step, summary=content).SerializeToString())
    writer.flush()
    return out.getvalue()


def write(groups: Sequence[Group], folder: Path) -> None:
    """`folder`/RUN/events..., RUN the run's folder without what all of them have in front."""
    from . import _write_atomically

    runs = [run for group in groups for run in group.runs]
    shared = os.path.commonpath([run.path.absolute().parent for run in runs])
    for run in runs:
        place = folder / os.path.relpath(run.path.absolute(), shared)
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _C.MissingFileError(f"cannot make '{place}': {error.strerror}; give another --tensorboard") from None
        _write_atomically(place / FILE, _events(run))
