"""The page: one HTML file with everything in it. It loads nothing, runs nothing, and says so to the browser."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from .. import _C, __version__
from ._figures import Drawer, Figure, Line
from ._load import Group, Run, Series, channel_widths, clean, kept_weights, moments, number, pooled

GENERATOR = "glyptic report"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_LIGHT = """--page:#fff;--panel:#f6f7f9;--ink:#1c2127;--muted:#59626d;--grid:#e3e6ea;--faint:#8b949e;--line:#d5dae0;
--s0:#0a6e8f;--s1:#c2410c;--s2:#6d4aa8;--s3:#1f7a4d;--s4:#a3306f;--s5:#8a6100;--s6:#3b5bdb;--s7:#59626d;
--good:#1a7f4b;--warn:#8f5c00;--bad:#b42318;color-scheme:light;"""
_DARK = """--page:#14171b;--panel:#1d2126;--ink:#e8ebee;--muted:#a3adb8;--grid:#2c3239;--faint:#6e7883;--line:#363d46;
--s0:#4db8dc;--s1:#ff8a5c;--s2:#b79af0;--s3:#5ccf95;--s4:#f07fbd;--s5:#e0b040;--s6:#8ea4ff;--s7:#a3adb8;
--good:#5ccf95;--warn:#e0b040;--bad:#ff8a7a;color-scheme:dark;"""

_STYLE = (
    ":root{" + _LIGHT + "}@media screen and (prefers-color-scheme:dark){:root{" + _DARK + "}}"
    """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",
"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
main{max-width:1040px;margin:0 auto;padding:28px 20px 56px}
h1{font-size:27px;line-height:1.2;margin:0;letter-spacing:-.01em}
h2{font-size:19px;margin:44px 0 4px;padding-top:16px;border-top:1px solid var(--line)}
h3{font-size:15px;margin:0 0 2px}
p{margin:6px 0}
.eyebrow,.note,figcaption,.tile small,.key{color:var(--muted);font-size:13px}
.title{display:flex;flex-wrap:wrap;align-items:center;gap:8px 14px;margin:2px 0 8px}
.status{font-size:13px;font-weight:600;padding:2px 10px;border-radius:99px;border:1px solid currentColor;white-space:nowrap}
.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}
.lead{font-size:17px;max-width:46em}
.box{border-left:3px solid var(--warn);background:var(--panel);padding:8px 14px;margin:14px 0}
.box ul{margin:0;padding-left:18px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(152px,1fr));gap:10px;margin:18px 0 6px}
.tile{background:var(--panel);border-radius:8px;padding:10px 14px}

.tile b{display:block;font-size:23px;line-height:1.25;font-weight:650;white-space:nowrap;font-variant-numeric:tabular-nums}
.tile span{font-size:13px;font-weight:600}.tile small{display:block}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:26px 36px;margin-top:16px}
.small{grid-template-columns:repeat(auto-fill,minmax(min(47%,175px),1fr));gap:18px 16px}
figure{margin:0;min-width:0;break-inside:avoid}
figure svg{display:block;width:100%;height:auto;max-width:500px;overflow:visible}
figure svg text{font-family:inherit}
figure svg *{stroke-linejoin:round}
.key{list-style:none;display:flex;flex-wrap:wrap;gap:2px 14px;margin:2px 0 4px;padding:0}
.key li{display:flex;align-items:center;gap:6px}
.key svg{width:26px;height:8px;flex:none}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
.results{margin-top:10px}
th,td{padding:5px 12px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap;font-weight:400}
th:first-child,td:first-child{text-align:left;padding-left:0}
th[scope=row]{color:var(--muted)}
thead th{font-weight:600;border-bottom:1.5px solid var(--faint)}
.across th[scope=row]{white-space:normal;overflow-wrap:normal}
ul.note{padding-left:18px}
details{margin-top:4px}
summary{cursor:pointer;color:var(--muted);font-size:13px;width:fit-content}
details table{font-size:12.5px;margin-top:6px}
details .scroll{max-height:320px;overflow:auto}
details.plain .scroll{max-height:none}
details.plain summary{font-size:15px;color:var(--ink);font-weight:600;padding:6px 0}
pre{font:12.5px/1.45 ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace;background:var(--panel);
padding:12px 14px;border-radius:8px;margin:6px 0;white-space:pre-wrap;columns:auto 300px;column-gap:28px}
footer{margin-top:48px;color:var(--muted);font-size:13px;border-top:1px solid var(--line);padding-top:10px}
:focus-visible{outline:2px solid var(--s0);outline-offset:2px}
@media (max-width:500px){main{padding:18px 16px 40px}h1{font-size:23px}.lead{font-size:16px}.tile b{font-size:17px;letter-spacing:-.02em}
.tiles{grid-template-columns:1fr 1fr}.tile{padding:9px 12px}th,td{padding:5px 7px}.across{width:100%;font-size:13.5px}}
@media print{@page{margin:14mm}body{font-size:10.5pt}main{max-width:none;padding:0}h2{margin-top:22px;break-after:avoid}
details:not(.plain){display:none}details.plain::details-content{content-visibility:visible;display:block}
.figures{grid-template-columns:1fr 1fr;gap:14px 22px}.small{grid-template-columns:repeat(4,1fr)}
.tile,.box,pre{border:1px solid var(--line)}.scroll{overflow:visible;max-height:none}th,td{padding:3px 7px}
tr{break-inside:avoid}}
"""
)


def text(value: object) -> str:
    """Anything as HTML text."""
    return escape(clean(value))


def _grouped(value: float) -> str:
    return f"{value:,.0f}"


def _number(value: object) -> str:
    """A number for a table of numbers: short, never rounded where it is whole."""
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return "n/a"
    if isinstance(value, float):
        return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.5g}"
    return f"{value:,}" if isinstance(value, int) else text(value)


def _finite(value: object) -> Any:
    """The same as JSON has it: no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {clean(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return clean(value) if isinstance(value, str) else value


def data_block(name: str, numbers: object) -> str:
    """JSON that a program reads back, and that cannot end its element."""
    encoded = json.dumps(_finite(numbers), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        encoded = encoded.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{escape(name)}">{encoded}</script>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], label: str, css: str = "") -> str:
    head = "".join(f'<th scope="col">{text(title)}</th>' for title in header)
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>' + "".join(f"<td>{text(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0"><table class="{css}"><thead><tr>{head}'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


class Page:
    """Collects sections; figures and data blocks are numbered in order."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups
        self.runs = [run for group in groups for run in group.runs]
        self.draw = Drawer()
        self.parts: list[str] = []
        self.figures = 0

    # --- pieces

    def _figure(self, figure: Figure) -> str:
        self.figures += 1
        name = f"figure-{self.figures}"
        svg = figure.svg.replace("<svg", f'<svg role="img" aria-labelledby="{name}-title {name}-text"', 1)
        at = svg.index(">") + 1
        svg = f'{svg[:at]}<desc id="{name}-text">{text(figure.summary)}</desc>{svg[at:]}'
        parts = [f'<figure id="{name}"><h3 id="{name}-title">{text(figure.title)}</h3>']
        if figure.key:
            parts.append('<ul class="key">')
            for label, color, dash, faint in figure.key:
                pattern = ("", "7 3", "2 3", "8 3 2 3")[dash % 4]
                parts.append(
                    f'<li><svg viewBox="0 0 26 8" aria-hidden="true"><path d="M0 4H26" fill="none" '
                    f'style="stroke:var(--s{color % 8});stroke-width:{1 if faint else 2.5};opacity:{0.6 if faint else 1}" '
                    f'stroke-dasharray="{pattern}"/></svg>{text(label)}</li>'
                )
            parts.append("</ul>")
        if figure.small:
            parts.append(f"<figcaption>{text(figure.caption)}</figcaption>")
        parts.append(svg)
        if figure.caption and not figure.small:
            parts.append(f"<figcaption>{text(figure.caption)}</figcaption>")
        if figure.table and not figure.small:
            note = f" (every {figure.thinned}th of the steps; all are in the page's data)" if figure.thinned > 1 else ""
            rows = [[_number(cell) for cell in row] for row in figure.table]
            parts.append(
                f"<details><summary>Numbers{note}</summary>"
                + _table(figure.header, rows, f"Numbers of: {clean(figure.title)}")
                + "</details>"
            )
        parts.append(data_block(name + "-data", {"title": figure.title, **figure.numbers}))
        return "".join(parts) + "</figure>"

    def _section(self, title: str, figures: Sequence[Figure | None], note: str = "", small: bool = False) -> None:
        drawn = [figure for figure in figures if figure is not None]
        if not drawn:
            return
        inner = "".join(self._figure(figure) for figure in drawn)
        about = f'<p class="note">{text(note)}</p>' if note else ""
        css = "figures small" if small else "figures"
        self.parts.append(f'<section><h2>{text(title)}</h2>{about}<div class="{css}">{inner}</div></section>')

    # --- the first screen

    def head(self) -> None:
        run, group = self.runs[0], self.groups[0]
        if len(self.runs) == 1:
            title = run.name
        elif len(self.groups) == 1:
            title = f"{run.name}, {len(self.runs)} seeds"
        else:
            seeds = f" of {len(self.groups)} settings" if len(self.groups) < len(self.runs) else ""
            title = f"{len(self.runs)} runs{seeds}"
        status, css = self._status()
        kind = run.option("experiment") or "run"
        self.parts.append(
            f'<header><div class="eyebrow">Glyptic &middot; {text(kind)}</div><div class="title"><h1>{text(title)}</h1>'
            f'<span class="status {css}">{text(status)}</span></div><p class="lead">{self._lead()}</p>'
        )
        self.parts.append(self._tiles(group) if len(self.groups) == 1 else self._tiles_of_groups())
        notes = [
            (f"{run.label}: " if len(self.runs) > 1 else "") + line for run in self.runs for line in self._remarks(run)
        ]
        if notes:
            items = "".join(f"<li>{text(line)}</li>" for line in notes)
            self.parts.append(f'<div class="box" role="note"><ul>{items}</ul></div>')
        self.parts.append("</header>")

    def _remarks(self, run: Run) -> list[str]:
        remarks = []
        if not run.finished:
            last = run.last
            where = f"after step {last.last_step:,} of '{last.name}'" if last else "before its first step"
            why = f"It ended with: {run.ended}" if run.ended else "It is still running, or was killed."
            hint = f" Continue it with: glyptic resume {run.path}" if "glyptic resume" not in run.ended else ""
            remarks.append(f"This run is not finished; its record ends {where}. {why}{hint}")
        return remarks + run.warnings

    def _status(self) -> tuple[str, str]:
        if any("is nan" in r.ended or "is inf" in r.ended or "NaN or Inf" in r.ended for r in self.runs if not r.finished):
            return "diverged", "bad"
        open_runs = sum(not run.finished for run in self.runs)
        if not open_runs:
            return ("finished", "good") if len(self.runs) == 1 else ("all finished", "good")
        return ("not finished", "warn") if len(self.runs) == 1 else (f"{open_runs} not finished", "warn")

    def _lead(self) -> str:
        """What it was and how it ended, in a sentence or two."""
        run, group = self.runs[0], self.groups[0]
        if len(self.groups) > 1:
            options = _differing(self.groups)
            said = f" They differ in {text(_listed(list(options), 3))}." if options else ""
            seeds = (
                " Curves of several seeds are the mean, in a band of one standard deviation."
                if len(self.groups) < len(self.runs)
                else ""
            )
            return f"{text(_listed([g.label for g in self.groups], 6))}, side by side.{said}{seeds}"
        method = group.sparse or run.option("sparsity.method") or "a network"
        method = "dense" if method == "none" else method
        data = str(run.results.get("data", "")).split(" (")[0] if run.results else run.option("data.name")
        said = f"<b>{text(run.option('model.name') or 'network')}</b> trained with <b>{text(method)}</b> on {text(data)}."
        if len(self.runs) > 1:
            seeds = _listed([str(seed) for seed in group.seeds])
            said += f" Seeds {text(seeds)}: mean &plusmn; one standard deviation."
        elif run.seed:
            said += f" Seed {text(run.seed)}."
        density = number(_float(run.option("sparsity.density")))
        if not run.finished and math.isfinite(density) and group.sparse:
            said += f" Aim: {text(f'{100 * density:.3g}')} % of the weights."
        return said

    def _tiles(self, group: Group) -> str:
        """The few numbers that matter."""
        tiles: list[tuple[str, str, str]] = []

        def values(network: str, key: str) -> list[float]:
            found = [number((run.row(network) or {}).get(key)) for run in group.runs]
            return [value for value in found if math.isfinite(value)]

        def mean(network: str, key: str) -> float:
            found = values(network, key)
            return moments(found)[0] if found else math.nan

        def spread(network: str, key: str, shown: str) -> str:
            found = values(network, key)
            deviation = moments(found)[1] if found else 0.0
            return f" \N{PLUS-MINUS SIGN} {format(deviation, shown)}" if deviation > 0 else ""

        best = next((n for n in ("extracted", "masked", "dense") if math.isfinite(mean(n, "accuracy"))), "")
        if not best:
            return self._tiles_of_unfinished(group)
        accuracy, dense = mean(best, "accuracy"), mean("dense", "accuracy")
        beside = f"of the {best} network"
        if best != "dense" and math.isfinite(dense):
            change = f"{accuracy - dense:+.2f}".replace("-", "\N{MINUS SIGN}")
            beside = f"dense {dense:.2f} %: {change} points"
        tiles.append(("Test accuracy", f"{accuracy:.2f}{spread(best, 'accuracy', '.2f')} %", beside))
        density = mean("masked", "density")
        if math.isfinite(density):
            kept, whole = mean("masked", "parameters"), mean("dense", "parameters")
            of = f"{_grouped(kept)} of {_grouped(whole)} parameters" if math.isfinite(whole) else f"{_grouped(kept)} parameters"
            tiles.append(("Active weights", f"{100 * density:.3g}{spread('masked', 'density', '.1g')} %", of))
        small, large = mean("extracted", "parameters"), mean("dense", "parameters")
        if math.isfinite(small):
            times = f", {large / small:.1f}\N{MULTIPLICATION SIGN} fewer than dense" if large > 0 else ""
            tiles.append(("Extracted", _grouped(small), f"parameters{times}"))
        flops, dense_flops = mean(best, "flops"), mean("dense", "flops")
        if best != "dense" and flops > 0 and dense_flops > 0:
            share = f"{dense_flops / flops:.1f}\N{MULTIPLICATION SIGN}"
            tiles.append(("Fewer FLOPs", share, f"{_si(flops)}, dense {_si(dense_flops)} per image"))
        row = group.runs[0].row(best) or {}
        batches = sorted((int(k[18:]) for k in row if k.startswith("images_per_second_") and k[18:].isdigit()), reverse=True)
        if batches and best != "dense":
            fast, slow = (mean(n, f"images_per_second_{batches[0]}") for n in (best, "dense"))
            if fast > 0 and slow > 0:
                about = f"of dense: {_grouped(fast)} images/s at batch {batches[0]}"
                tiles.append(("Inference speed", f"{fast / slow:.2f}\N{MULTIPLICATION SIGN}", about))
        cost = mean("masked", "training_flops_ratio")
        if math.isfinite(cost):
            about = f"of dense training, {mean('masked', 'steps'):,.0f} steps"
            tiles.append(("Training FLOPs", f"{cost:.2f}\N{MULTIPLICATION SIGN}", about))
        return self._tile_html(tiles)

    def _tiles_of_groups(self, most: int = 8) -> str:
        """How each setting ended, the best first."""
        tiles: list[tuple[float, tuple[str, str, str]]] = []
        for group in self.groups:
            rows = [(run.row("masked") or run.row("dense"), run.row("extracted")) for run in group.runs if run.finished]
            found = [number((small or row or {}).get("accuracy")) for row, small in rows]
            found = [value for value in found if math.isfinite(value)]
            if not found:
                tiles.append((-1, (group.label, "n/a", "not finished")))
                continue
            mean, deviation = moments(found)
            spread = f" \N{PLUS-MINUS SIGN} {deviation:.2f}" if deviation > 0 else ""
            density = number((rows[0][0] or {}).get("density"))
            about = f"test accuracy, {100 * density:.3g} % of the weights" if density < 1 else "test accuracy"
            tiles.append((mean, (group.label, f"{mean:.2f}{spread} %", about)))
        tiles.sort(key=lambda entry: -entry[0])
        return self._tile_html([tile for _, tile in tiles[:most]])

    def _tiles_of_unfinished(self, group: Group) -> str:
        last = group.runs[0].last
        if last is None:
            return ""
        tiles = [("Last step", f"{last.last_step:,}", f"of phase {last.name}, {last.epochs} epochs done")]
        for title, series, unit in (
            (f"{last.judged_on} accuracy".capitalize(), last.accuracy, " %"),
            ("Training loss", last.loss, ""),
            ("Active weights", last.density, " %"),
        ):
            if series:
                x, y = [(a, b) for a, b in zip(series.x, series.y) if math.isfinite(b)][-1]
                tiles.append((title, f"{y:.4g}{unit}", f"at step {x:,.0f}"))
        return self._tile_html(tiles)

    @staticmethod
    def _tile_html(tiles: Sequence[tuple[str, str, str]]) -> str:
        inner = "".join(
            f'<div class="tile"><span>{text(title)}</span><b>{text(value)}</b><small>{text(about)}</small></div>'
            for title, value, about in tiles
        )
        return f'<div class="tiles">{inner}</div>'

    # --- sections

    def results(self) -> None:
        finished = [run for run in self.runs if run.finished]
        if not finished:
            self.parts.append(
                '<section><h2>Results</h2><p class="note">None yet: results.json is written when a run is done.</p></section>'
            )
            return
        titles, rows, notes = _C.tabulate_results([str(run.path / "results.json") for run in finished])
        if len(self.groups) == 1 and len(rows) <= 4:  # networks side by side: fits a phone
            columns = {title: [row[c] for row in rows] for c, title in enumerate(titles)}
            networks = columns.pop("network", [""] * len(rows))
            columns.pop("run", None)  # all of them are one setting, whose seeds are named above
            columns.pop("seeds", None)
            table = _table(["", *networks], [[t, *c] for t, c in columns.items()], "Results", "results across")
        else:
            table = _table(titles, rows, "Results", "results")
        remarks = _texts((finished[0].results or {}).get("notes")) if len(self.runs) == 1 else []
        items = "".join(f"<li>{text(note)}</li>" for note in dict.fromkeys([*notes, *remarks]))
        raw = [{"run": run.label, "seed": run.seed, "rows": run.rows()} for run in finished]
        self.parts.append(
            f'<section><h2>Results</h2>{table}<ul class="note">{items}</ul>{data_block("results-data", raw)}</section>'
        )

    def differences(self) -> None:
        options = _differing(self.groups)
        if len(self.groups) < 2 or not options:
            return
        names = [group.label for group in self.groups]
        rows = [[option, *values] for option, values in options.items()]
        wide = len(names) <= len(rows)
        table = (
            _table(["option", *names], rows, "Options that differ")
            if wide
            else _table(["run", *options], [list(r) for r in zip(names, *options.values())], "Options that differ")
        )
        self.parts.append(f"<section><h2>What differs</h2>{table}</section>")

    def _lines(self, what: str, sparse_only: bool = False, step: bool = False) -> list[Line]:
        lines = []
        for g, group in enumerate(self.groups):
            for name in group.phase_names():
                if sparse_only and name == "dense":
                    continue
                dense = name == "dense" and group.sparse != ""
                if len(self.groups) == 1:
                    label, color = name, 7 if dense else 0
                else:
                    label, color = group.label + (" (dense)" if dense else ""), g
                dash = 1 if dense else g // 8
                until = max(run.phases[name].last_step for run in group.runs if name in run.phases)
                lines.append(Line(label, group.pooled(name, what), color, dash, step=step, until=until))
        return lines

    def learning(self) -> None:
        raw = self._lines("loss")
        means = [line for line in self._lines("epoch_loss") if len(line.series.x) > 1]
        seeds = len(self.groups) < len(self.runs)
        if means and not seeds and len(self.groups) == 1:
            loss = [Line(f"{line.name}, one batch", line.series, line.color, line.dash, faint=True) for line in raw]
            loss += [Line(f"{line.name}, mean of an epoch", line.series, line.color, line.dash) for line in means]
        else:
            loss = means or raw
        several = any(line.faint for line in loss)
        what = "" if several else ", mean of an epoch" if loss and loss[-1] in means else ", one batch"
        judged = {phase.judged_on for run in self.runs for phase in run.phases.values() if phase.judged_on}
        judge = judged.pop() if len(judged) == 1 else "held-out"
        dense = any(line.name.endswith("dense)") or line.name == "dense" for line in raw)
        phases = "The dense network and the sparse one are trained one after the other." if dense else ""
        self._section(
            "Learning curves",
            [
                self.draw.curves("Training loss", loss, y="cross-entropy" + what, log=True),
                self.draw.curves(f"Accuracy on the {judge} set", self._lines("accuracy"), y="accuracy, %"),
            ],
            phases,
        )

    def sparsity(self) -> None:
        figures: list[Figure | None] = [
            self.draw.curves("Active weights", self._lines("density", True, True), y="of all maskable weights, %", zero=True),
        ]
        for group in self.groups:
            title = "Density of each layer" + (f": {group.label}" if len(self.groups) > 1 else "")
            layers = _layers(group)
            until = max([run.phases[group.sparse].last_step for run in group.runs if group.sparse in run.phases], default=0)
            caption = f"Mean over {len(group.runs)} seeds." if len(group.runs) > 1 else ""
            if len(layers) > 8:
                figures.append(self.draw.heatmap(title, layers, until, caption))
            elif layers:
                lines = [  # bands of many layers would hide each other
                    Line(name.removesuffix(".weight"), Series(s.x, s.y), i, i // 8, step=True, until=until)
                    for i, (name, s) in enumerate(layers.items())
                ]
                figures.append(
                    self.draw.curves(title, lines, y="active weights, %", log=True, zero=True, caption=caption)
                )
        overlap = "|A \N{INTERSECTION} B| / |A \N{UNION} B| of the positions that are kept (Jaccard)."
        previous, first = self._lines("overlap_previous", True), self._lines("overlap_first", True)
        if len(self.groups) == 1:
            both = [Line("with the mask before", line.series, 0) for line in previous]
            both += [Line("with the first mask", line.series, 1, 1) for line in first]
            figures.append(self.draw.curves("Mask overlap at each event", both, y="overlap, %", zero=True, top=103, caption=overlap))
        else:
            figures.append(self.draw.curves("Overlap with the mask before", previous, y="overlap, %", top=103, caption=overlap))
            figures.append(self.draw.curves("Overlap with the first mask", first, y="overlap, %", zero=True, top=103, caption=overlap))
        figures.append(
            self.draw.curves("Live channels", self._lines("channels", True, True), y="of all removable channels, %", zero=True)
        )
        self._section("Sparsity while it trains", figures, "Steps at which masks change are mask events.")

    def widths(self) -> None:
        shown = []
        for group in self.groups:
            per_run = [widths for run in group.runs if (widths := channel_widths(run))]
            if not per_run:
                continue
            layers = {}
            for layer, (_, before) in per_run[0].items():
                mean, deviation = moments([float(widths[layer][0]) for widths in per_run if layer in widths])
                layers[layer] = (mean, deviation, before)
            shown.append((group.label if len(self.groups) > 1 else "", layers))
        finished = all(run.finished for run in self.runs)
        title = "Width of each layer" if finished else "Width of each layer so far"
        figure = self.draw.widths(title, shown)
        if figure and len(self.runs) > len(self.groups):
            figure.caption += " Mean over seeds, with one standard deviation."
        self._section("Channels before and after", [figure])

    def histograms(self) -> None:
        for g, group in enumerate(self.groups):
            run = next((run for run in group.runs if run.finished), group.runs[0])
            if not group.sparse or group.sparse not in run.phases:
                continue
            try:
                layers = kept_weights(run, group.sparse)
            except (_C.Error, OSError) as error:
                self.parts.append(f'<p class="box">No histograms: {text(error)}</p>')
                continue
            note = "Weights that are active at the end, in 41 bins; heights are of each layer's own scale."
            if len(self.runs) > 1:
                note = f"{note} Of {run.label}."
            most = 12 if len(self.groups) > 1 else 24
            if len(layers) > most:
                note += f" {most} of {len(layers)} layers, evenly chosen."
                layers = [layers[round(i * (len(layers) - 1) / (most - 1))] for i in range(most)]
            title = "Kept weights" + (f": {group.label}" if len(self.groups) > 1 else "")
            self._section(title, [self.draw.histogram(layer, g) for layer in layers], note, small=True)

    def settings(self) -> None:
        self.parts.append("<section><h2>Settings</h2>")
        for group in self.groups:
            run = group.runs[0]
            about = f"Resolved config{f': {group.label}' if len(self.groups) > 1 else ''}"
            if len(group.runs) > 1:
                about += f" (seed {run.seed}; the others differ by seed only)"
            self.parts.append(
                f'<details class="plain"><summary>{text(about)}</summary><pre>{text(run.config_text)}</pre></details>'
            )
        seen: dict[str, list[str]] = {}
        for run in self.runs:
            shown = "\n".join(f"{key}: {value}" for key, value in run.environment.items())
            seen.setdefault(shown, []).append(run.label)
        for shown, labels in seen.items():
            about = "Environment" + (f": {_listed(labels, 4)}" if len(seen) > 1 else "")
            body = shown or "environment.json is missing"
            self.parts.append(f'<details class="plain"><summary>{text(about)}</summary><pre>{text(body)}</pre></details>')
        data = [
            {"run": run.label, "finished": run.finished, "config": run.config, "environment": run.environment}
            for run in self.runs
        ]
        self.parts.append(data_block("runs-data", data) + "</section>")

    def html(self) -> str:
        self.head()
        self.results()
        self.differences()
        self.learning()
        self.sparsity()
        self.widths()
        self.histograms()
        self.settings()
        folders = _listed([run.label for run in self.runs], 12)
        title = text(self.runs[0].name if len(self.runs) == 1 else f"{len(self.runs)} runs")
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="{GENERATOR}">'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title} - Glyptic report</title><style>{_STYLE}</style></head>\n<body><main>"
            + "\n".join(self.parts)
            + f"<footer>From {text(folders)}, by Glyptic {text(__version__)}. The numbers of every figure are in the page, as JSON: "
            "<code>script[type=&quot;application/json&quot;]</code>.</footer></main></body></html>\n"
        )


def _float(value: str) -> object:
    try:
        return float(value)
    except ValueError:
        return None


def _texts(value: object) -> list[str]:
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def _si(value: float) -> str:
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f}"


def _listed(names: Sequence[str], most: int = 8) -> str:
    if len(names) > most:
        return ", ".join(names[:most]) + f" and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1] if names else ""]))


def _differing(groups: Sequence[Group]) -> dict[str, list[str]]:
    """The options in which settings differ, each with its value in every one."""
    configs = [group.runs[0].config for group in groups]
    names = list(dict.fromkeys(name for config in configs for name in config))
    result = {}
    for name in names:
        values = [config.get(name, "n/a") for config in configs]
        if len(set(values)) > 1 and name not in ("name", "seed"):
            result[name] = values
    return result


def _layers(group: Group) -> dict[str, Series]:
    phases = [run.phases[group.sparse] for run in group.runs if group.sparse in run.phases]
    names = list(dict.fromkeys(name for phase in phases for name in phase.layers))
    return {name: pooled([phase.layers.get(name, Series()) for phase in phases]) for name in names}
