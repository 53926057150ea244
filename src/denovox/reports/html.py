"""The faithfulness report as one self-contained HTML file: no links, scripts or fonts."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import matplotlib
import numpy as np
from jaxtyping import Float, Num
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..core.volume import Volume
from ..metrics.residual import Residual
from ..metrics.results import finite
from .types import Check, Given, Report

WIDTH_IN, DPI = 11.0, 100
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 1120px; margin: 2em auto;
       padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse } td, th { padding: .25em .8em; border-bottom: 1px solid #d5dae1;
       text-align: left; vertical-align: top } td.n { text-align: right }
img { max-width: 100% } .summary { background: #f1f4f8; padding: 1em; border-radius: 6px }
.fine { color: #14713b } .look { color: #a8321a; font-weight: bold } .not { color: #5b6675 }
pre { white-space: pre-wrap; background: #f1f4f8; padding: 1em }
"""


@dataclass(frozen=True)
class Panel:
    """A volume to display: its name, its colour map, and the HU at either end of it."""

    name: str
    values: Num[np.ndarray, "x y z"]
    colour_map: str
    low: float
    high: float


def as_html(result: Report, before: Volume, after: Volume, given: Given, title: str) -> str:
    """The page. The images show, for each plane, the slice that changed most."""
    panels = _panels(before, after, given)
    change = panels[2].values
    parts = [
        f"<h1>Faithfulness report: {html.escape(title)}</h1>",
        f'<p class="summary">{html.escape(result.summary)}</p>',
        "<h2>Checks</h2>",
        _checks(result.checks),
        "<h2>Images</h2>",
        _image(_figure(panels, 2, _most_changed(change, 2), before.spacing_mm), "axial"),
        _image(_figure(panels, 1, _most_changed(change, 1), before.spacing_mm), "coronal"),
        "<p>The patient's right is on the left. Each image shows the slice that changed most.</p>",
        "<h2>Mean HU by tissue</h2>",
        _table(
            ("tissue", "voxels", "before (HU)", "after (HU)", "bias (HU)", "error (HU)"),
            [
                (
                    t.name,
                    f"{t.voxels}",
                    f"{t.before_hu:.1f}",
                    f"{t.after_hu:.1f}",
                    f"{t.bias_hu:+.2f}",
                    f"{t.error_hu:.2f}",
                )
                for t in result.tissues
            ],
        ),
        "<h2>What was removed</h2>",
        _residual(result.residual),
        "<h2>Other values and settings</h2>",
        f"<pre>{html.escape(_rest(result))}</pre>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _rest(result: Report) -> str:
    """Everything the tables above leave out, as JSON."""
    keys = ("change", "errors", "spread", "noise_hu", "noise", "data_consistency_hu", "thresholds")
    values = asdict(result)
    kept = {key: values[key] for key in (*keys, "weights", "settings", "version")}
    return json.dumps(finite(kept), indent=1, sort_keys=True)


def _checks(checks: Sequence[Check]) -> str:
    rows = []
    for check in checks:
        kind = check.verdict.split()[0]
        value = "" if check.value is None else f"{check.value:.3g}"
        limit = "" if check.threshold is None else f"{check.threshold:g}"
        rows.append(
            f'<tr><td class="{kind}">{check.verdict}</td><td>{html.escape(check.sentence)}</td>'
            f'<td class="n">{value}</td><td class="n">{limit}</td></tr>'
        )
    head = "<tr><th>verdict</th><th>finding</th><th>value</th><th>threshold</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "<p>Nothing was large enough to report.</p>"
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = [
        f"<tr><td>{html.escape(row[0])}</td>"
        + "".join(f'<td class="n">{html.escape(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    ]
    return f"<table><tr>{top}</tr>{''.join(body)}</table>"


def _residual(found: Residual) -> str:
    if found.autocorrelation is None:
        return f"<p>Only {found.voxels} voxels changed, which is too few to analyse.</p>"
    rows = []
    for axis, values in found.autocorrelation.items():
        expected = [] if found.expected is None else found.expected[axis]
        for lag, value in enumerate(values, 1):
            noise = f"{expected[lag - 1]:.3f}" if lag <= len(expected) else "not given"
            rows.append((f"{axis}, {lag} voxel" + "s" * (lag > 1), f"{value:.3f}", noise))
    return "<p>Autocorrelation of what was removed:</p>" + _table(
        ("axis and lag", "removed", "given noise"), rows
    )


def _panels(before: Volume, after: Volume, given: Given) -> list[Panel]:
    low, high = given.window.low_hu, given.window.high_hu
    change = after.hu.astype(np.float32) - before.hu
    limit = max(float(np.percentile(np.abs(change), 99.5)), 1.0)
    panels = [
        Panel("before", before.hu, "gray", low, high),
        Panel("after", after.hu, "gray", low, high),
        Panel("after - before", change, "RdBu_r", -limit, limit),
    ]
    if given.reference is not None:
        error = after.hu.astype(np.float32) - given.reference.hu
        panels.append(Panel("reference", given.reference.hu, "gray", low, high))
        panels.append(Panel("after - reference", error, "RdBu_r", -limit, limit))
    if given.sd_hu is not None:
        top = max(float(np.percentile(given.sd_hu, 99.5)), 1.0)
        panels.append(Panel("SD of the samples", given.sd_hu, "viridis", 0, top))
    return panels


def _most_changed(change: Num[np.ndarray, "x y z"], axis: int) -> int:
    others = tuple(a for a in range(3) if a != axis)
    return int(np.argmax(np.mean(np.square(change, dtype=np.float64), axis=others)))


def _figure(
    panels: Sequence[Panel], axis: int, index: int, spacing_mm: tuple[float, float, float]
) -> bytes:
    """A PNG of one slice of every panel, three per row, each with its colour bar."""
    columns = 3
    rows = -(-len(panels) // columns)
    across, up = [spacing_mm[a] for a in range(3) if a != axis]
    shape = [n for a, n in enumerate(panels[0].values.shape) if a != axis]
    height = WIDTH_IN / columns * min(shape[1] * up / (shape[0] * across), 1.6)
    # rc_context, so that the user's own matplotlib style cannot break or alter the figure.
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        figure = Figure(figsize=(WIDTH_IN, rows * (height + 0.5)), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        for number, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, number + 1)
            shown = panel.values.take(index, axis=axis).T[::-1, ::-1]
            image = axes.imshow(
                _float(shown),
                cmap=panel.colour_map,
                vmin=panel.low,
                vmax=panel.high,
                aspect=up / across,
            )
            axes.set(xticks=[], yticks=[])
            axes.set_title(panel.name, fontsize=10)
            figure.colorbar(image, ax=axes, fraction=0.046, label="HU")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": "denovox"})
    return buffer.getvalue()


def _float(values: Num[np.ndarray, "r c"]) -> Float[np.ndarray, "r c"]:
    return np.asarray(values, np.float32)


def _image(png: bytes, name: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<p><img alt="{name} plane" src="data:image/png;base64,{data}"></p>'
