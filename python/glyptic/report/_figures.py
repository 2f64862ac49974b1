"""Figures: what is drawn, by matplotlib into SVG that takes its colours from the page, and the numbers behind it.

Every SVG is as wide as a phone, so that its text is never scaled down; the page sets several side by side where there
is room. Keys (legends) are the page's, so that none can cover data.
"""

from __future__ import annotations

import importlib
import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import _C
from ._load import Layer, Series, clean

# Colours that the page knows by another name: see `_themed`.
SERIES = [f"#0101{i:02x}" for i in range(8)]
INK, MUTED, GRID, FAINT = "#020201", "#020202", "#020203", "#020204"
_VARIABLES = {c: f"var(--s{i})" for i, c in enumerate(SERIES)} | {
    INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", FAINT: "var(--faint)",
}  # fmt: skip
DASHES: list[Any] = ["-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.6, 1.2, 1.6))]
MOST_POINTS = 1500  # of one curve, in the drawing


def load_matplotlib() -> Any:
    """matplotlib, drawing SVG; ArgumentError where it is not installed."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        importlib.import_module("matplotlib.figure")
    except ImportError:
        raise _C.ArgumentError("report draws with matplotlib: pip install 'glyptic[report]'") from None
    return matplotlib


@dataclass
class Line:
    """One curve of a figure."""

    name: str
    series: Series
    color: int = 0
    dash: int = 0
    faint: bool = False
    step: bool = False  # holds its value until the next one
    until: float = 0  # a line that holds its value is drawn until this step


@dataclass
class Figure:
    """A drawing, its key, and its numbers."""

    title: str
    svg: str
    summary: str  # what a reader who sees nothing is told
    numbers: dict[str, Any]
    header: list[str]
    table: list[list[Any]]
    caption: str = ""
    key: list[tuple[str, int, int, bool]] = field(default_factory=list)  # name, colour, dash, faint
    thinned: int = 1  # the table has every so manyth row
    small: bool = False


_RC = {
    "svg.fonttype": "none", "svg.hashsalt": "glyptic", "text.parse_math": False, "font.size": 9.5,
    "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": FAINT, "xtick.color": FAINT, "ytick.color": FAINT,
    "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED, "axes.linewidth": 0.8, "axes.grid": True,
    "axes.grid.axis": "y", "grid.color": GRID, "grid.linewidth": 0.7, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "ytick.major.size": 0,
    "xtick.major.size": 3, "xtick.major.width": 0.8, "lines.solid_capstyle": "round", "axes.unicode_minus": True,
}  # fmt: skip


def _themed(svg: str, prefix: str) -> str:
    """The inner SVG of a document: its own names, the page's colours, as wide as its place."""
    svg = re.sub(r"^.*?(?=<svg)", "", svg, flags=re.S)
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\1{prefix}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    # A name of the page is as good as a colour in a style; letters are the page's own.
    svg = re.sub(r"#0[12]0[12]0[0-9a-f]", lambda m: _VARIABLES.get(m[0], m[0]), svg)
    svg = re.sub(r"font: ([^;\"]*?)(\d[\d.]*px) [^;\"]*", r"font-size: \2", svg)
    svg = re.sub(r" ?font-family: [^;\"]*;?", "", svg)
    return re.sub(r"\s*\n\s*", " ", svg).strip()


class Drawer:
    """Draws the figures of one page, each under a name of its own."""

    def __init__(self) -> None:
        self.matplotlib = load_matplotlib()
        self.count = 0

    # --- parts

    def _axes(self, width: float = 4.6, height: float = 2.75, **layout: float) -> tuple[Any, Any]:
        figure = self.matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
        return figure, figure.add_subplot()

    def _svg(self, figure: Any) -> str:
        self.count += 1
        out = io.StringIO()
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a character that the measuring font lacks; the reader's has it
            figure.savefig(out, format="svg", transparent=True, metadata=empty)
        return _themed(out.getvalue(), f"f{self.count}")

    def _counts(self, axis: Any, most: int = 5) -> None:
        ticker = importlib.import_module("matplotlib.ticker")
        axis.set_major_locator(ticker.MaxNLocator(most, integer=True))
        axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:,.0f}"))

    def _log(self, axis: Any, low: float, high: float) -> None:
        """A logarithmic axis with plain numbers at 1, 2 and 5 of each power, or at the powers of a long one."""
        ticker = importlib.import_module("matplotlib.ticker")
        axis.axes.set_yscale("log")
        decades = math.log10(high / low)
        axis.set_major_locator(ticker.LogLocator(10, (1, 2, 5) if decades < 1.6 else (1, 3) if decades < 3 else (1,)))
        axis.set_minor_locator(ticker.NullLocator())
        axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))

    # --- figures

    def curves(
        self, title: str, lines: Sequence[Line], *, y: str, percent: bool = False, zero: bool = False, log: bool = False,
        top: float | None = None, caption: str = "", table: bool = True,
    ) -> Figure | None:  # fmt: skip
        """Numbers over optimizer steps. ``log``: where the values span more than a factor of twenty."""
        lines = [line for line in lines if line.series]
        if not lines:
            return None
        with self.matplotlib.rc_context(_RC):
            figure, axes = self._axes()
            values = [v for line in lines for v in line.series.y if math.isfinite(v)]
            positive = [v for v in values if v > 0]
            as_log = log and bool(positive) and max(positive) / min(positive) > 20
            if as_log:
                self._log(axes.yaxis, min(positive), max(positive))
            axes.margins(y=0.08)
            for line in lines:
                self._draw(axes, line, as_log)
            right = max(max(line.until, *line.series.x) for line in lines)
            axes.set_xlim(0, 1.02 * right if right > 0 else 1)
            if zero and not as_log:
                axes.set_ylim(bottom=0)
            if top is not None and not as_log:
                axes.set_ylim(top=top)
            self._counts(axes.xaxis)
            axes.set_xlabel("optimizer step")
            axes.set_ylabel(y + (" (log)" if as_log else ""))
            svg = self._svg(figure)
        ends = "; ".join(
            f"{line.name}: from {line.series.y[0]:.4g} to {line.series.y[-1]:.4g}" for line in lines if not line.faint
        )
        numbers = {
            "kind": "curves", "x": "optimizer step", "y": y,
            "series": [
                {"name": line.name, "x": line.series.x, "y": line.series.y}
                | ({"sd": line.series.sd, "n": line.series.n} if line.series.n else {})
                for line in lines
            ],
        }  # fmt: skip
        header, rows, thinned = _curve_table(lines)
        key = [(line.name, line.color, line.dash, line.faint) for line in lines]
        return Figure(
            title, svg, f"{title}, {y} over optimizer steps. {ends}.", numbers, header, rows if table else [], caption,
            key if len(key) > 1 else [], thinned,
        )  # fmt: skip

    def _draw(self, axes: Any, line: Line, as_log: bool) -> None:
        s, color = line.series, SERIES[line.color % len(SERIES)]
        stride = max(1, math.ceil(len(s.x) / MOST_POINTS))
        keep = [i for i in range(len(s.x)) if i % stride == 0 or i == len(s.x) - 1]
        if line.step and line.until > s.x[-1]:
            keep.append(keep[-1])
        x, y = [s.x[i] for i in keep], [s.y[i] for i in keep]
        if line.step:
            x[-1] = max(x[-1], line.until)
        style: dict[str, Any] = {"color": color, "lw": 1.9, "ls": DASHES[line.dash % len(DASHES)]}
        if line.faint:
            style = {"color": color, "lw": 0.9, "alpha": 0.45}
        if line.step:
            style["drawstyle"] = "steps-post"
        elif len(x) <= 12 and not line.faint:
            style |= {"marker": "o", "ms": 4}
        if s.sd is not None:
            sd = [s.sd[i] for i in keep]
            low = [a - b for a, b in zip(y, sd)]
            if as_log:
                low = [max(v, 1e-3 * a) if a > 0 else math.nan for v, a in zip(low, y)]
            axes.fill_between(
                x, low, [a + b for a, b in zip(y, sd)], color=color, alpha=0.18, lw=0, step="post" if line.step else None
            )
        axes.plot(x, y, **style)

    def heatmap(self, title: str, layers: dict[str, Series], until: float = 0, caption: str = "") -> Figure:
        """Per cent of weights of many layers over steps."""
        names = list(layers)
        steps = sorted({x for series in layers.values() for x in series.x})
        grid = [_held(layers[name], steps) for name in names]
        colors = importlib.import_module("matplotlib.colors")
        values = [v for row in grid for v in row if math.isfinite(v) and v > 0] or [1.0]
        with self.matplotlib.rc_context(_RC | {"axes.grid": False}):
            figure, axes = self._axes(height=min(8.0, 1.3 + 0.17 * len(names)))
            edges = [*steps, max(until, steps[-1] + 1)]
            low = min(values)
            norm = colors.LogNorm(low, max(values)) if max(values) / low > 5 else colors.Normalize(0, max(values))
            mesh = axes.pcolormesh(edges, range(len(names) + 1), grid, norm=norm, cmap="viridis", rasterized=True)
            stride = max(1, math.ceil(len(names) / 36))
            shown = range(0, len(names), stride)
            axes.set_yticks([i + 0.5 for i in shown], [_short(names[i].removesuffix(".weight"), 20) for i in shown], fontsize=7.5)
            axes.invert_yaxis()
            axes.set_xlabel("optimizer step")
            self._counts(axes.xaxis)
            ticker = importlib.import_module("matplotlib.ticker")
            plain = ticker.FuncFormatter(lambda v, _: f"{v:g}")
            bar = figure.colorbar(mesh, ax=axes, location="top", aspect=40, pad=0.02)
            bar.set_label("active weights, %")
            bar.outline.set_visible(False)
            axis = bar.ax.xaxis
            if isinstance(norm, colors.LogNorm):
                many = max(values) / low > 100
                axis.set_major_locator(ticker.LogLocator(10, (1, 3) if many else (1, 2, 5)))
            axis.set_minor_locator(ticker.NullLocator())
            axis.set_major_formatter(plain)
            svg = self._svg(figure)
        numbers = {
            "kind": "curves", "x": "optimizer step", "y": "active weights, %",
            "series": [{"name": name, "x": layers[name].x, "y": layers[name].y} for name in names],
        }  # fmt: skip
        header, rows, thinned = _curve_table([Line(name, layers[name]) for name in names])
        ends = "; ".join(f"{name} {layers[name].y[-1]:.3g} %" for name in names[:12])
        return Figure(title, svg, f"{title}. At the end: {ends}.", numbers, header, rows, caption, [], thinned)

    def widths(self, title: str, groups: Sequence[tuple[str, dict[str, tuple[float, float, int]]]]) -> Figure | None:
        """Channels of each layer before and after. ``groups``: name, and of each layer after, deviation, before."""
        layers = list(dict.fromkeys(layer for _, widths in groups for layer in widths))
        if not layers:
            return None
        several = len(groups) > 1
        with self.matplotlib.rc_context(_RC | {"axes.grid.axis": "x"}):
            figure, axes = self._axes(height=min(11.0, 0.75 + 0.30 * len(layers) * (1 + 0.35 * (len(groups) - 1))))
            most = max(before for _, widths in groups for _, _, before in widths.values())
            for row, layer in enumerate(layers):
                for g, (_, widths) in enumerate(groups):
                    if layer not in widths:
                        continue
                    after, deviation, before = widths[layer]
                    at = row + (g - (len(groups) - 1) / 2) * 0.8 / max(2, len(groups))
                    axes.plot([after, before], [at, at], color=GRID, lw=3, solid_capstyle="butt", zorder=1)
                    axes.plot([before], [at], "|", color=FAINT, ms=9, mew=2, zorder=2)
                    if deviation > 0:
                        axes.plot([after - deviation, after + deviation], [at, at], color=SERIES[g % 8], lw=1.2, zorder=3)
                    axes.plot([after], [at], "o", color=SERIES[g % 8], ms=6, zorder=4)
                    if not several:
                        text = f"{after:.4g} of {before:,}"
                        axes.annotate(text, (before, at), (7, 0), textcoords="offset points", va="center", fontsize=8.5)
            axes.set_yticks(range(len(layers)), [_short(layer.removesuffix(".weight"), 22) for layer in layers])
            axes.set_ylim(len(layers) - 0.4, -0.6)
            axes.set_xlim(0, most * (1.04 if several else 1.3))
            self._counts(axes.xaxis, 4)
            axes.set_xlabel("output channels")
            svg = self._svg(figure)
        table: list[list[Any]] = [
            [name, layer, before, after, deviation]
            for name, widths in groups for layer, (after, deviation, before) in widths.items()
        ]  # fmt: skip
        summary = "; ".join(f"{name} {layer}: {after:.4g} of {before}" for name, layer, before, after, _ in table[:24])
        numbers = {
            "kind": "widths",
            "groups": [
                {"name": name, "layers": [
                    {"layer": layer, "before": before, "after": after, "sd": deviation}
                    for layer, (after, deviation, before) in widths.items()]}
                for name, widths in groups
            ],
        }  # fmt: skip
        header = ["network", "layer", "before", "after", "sd"]
        key = [(name, g, 0, False) for g, (name, _) in enumerate(groups)] if several else []
        caption = "Dot: channels that are left. Bar: channels before."
        return Figure(title, svg, f"{title}. {summary}.", numbers, header, table, caption, key)

    def histogram(self, layer: Layer, color: int) -> Figure:
        """Kept weights of one layer, a small figure."""
        with self.matplotlib.rc_context(_RC | {"axes.grid": False, "font.size": 9}):
            figure, axes = self._axes(2.3, 1.25)
            top = layer.edges[-1]
            axes.stairs(layer.counts, layer.edges, fill=True, color=SERIES[color % 8], lw=0)
            axes.axvline(0, color=FAINT, lw=0.7)
            axes.set_xlim(-top, top)
            axes.set_yticks([])
            ticks = _nice(top)
            axes.set_xticks([-ticks, 0, ticks], [f"\N{MINUS SIGN}{ticks:g}", "0", f"{ticks:g}"])
            svg = self._svg(figure)
        kept = f"{layer.kept:,} of {layer.size:,} kept"
        name = layer.name.removesuffix(".weight")
        numbers = {"kind": "histogram", "layer": layer.name, "kept": layer.kept, "size": layer.size,
                   "edges": layer.edges, "counts": layer.counts}  # fmt: skip
        rows: list[list[Any]] = [[a, b, c] for a, b, c in zip(layer.edges, layer.edges[1:], layer.counts)]
        summary = f"Histogram of the kept weights of {name}, {kept}, between {-top:.3g} and {top:.3g}."
        return Figure(name, svg, summary, numbers, ["from", "to", "weights"], rows, kept, small=True)


def _nice(top: float) -> float:
    """The largest of 1, 2, 5 times a power of ten up to 0.85 of the edge: room for its label."""
    power: float = 10.0 ** math.floor(math.log10(0.85 * top))
    return next(m * power for m in (5, 2, 1) if m * power <= 0.85 * top or m == 1)


def _short(text: str, most: int) -> str:
    text = clean(text)
    return text if len(text) <= most else text[: most // 2 - 1] + "\N{HORIZONTAL ELLIPSIS}" + text[-(most // 2) :]


def _held(series: Series, steps: Sequence[float]) -> list[float]:
    """The values at `steps`, each held until the next; NaN before the first."""
    held, i, value = [], 0, math.nan
    for step in steps:
        while i < len(series.x) and series.x[i] <= step:
            value = series.y[i]
            i += 1
        held.append(value)
    return held


def _curve_table(lines: Sequence[Line], most: int = 120) -> tuple[list[str], list[list[Any]], int]:
    steps = sorted({x for line in lines for x in line.series.x})
    thinned = max(1, math.ceil(len(steps) / most))
    kept = {x for i, x in enumerate(steps) if i % thinned == 0 or i == len(steps) - 1}
    header, at = ["step"], []
    for line in lines:
        header.append(line.name)
        at.append(dict(zip(line.series.x, line.series.y)))
        if line.series.sd is not None:
            header.append("sd")
            at.append(dict(zip(line.series.x, line.series.sd)))
    return header, [[x, *(values.get(x) for values in at)] for x in steps if x in kept], thinned
