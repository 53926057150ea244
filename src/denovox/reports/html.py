"""The faithfulness report as one self-contained page: the viewer, and the figures below it."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from jaxtyping import Float

from ..core.volume import Volume
from ..metrics.residual import Residual
from ..metrics.results import finite
from .types import Check, Given, Report
from .viewer.page import Overlay, View, page

SEEN = 0.2  # of the largest changes; smaller ones are transparent


def as_html(result: Report, before: Volume, after: Volume, given: Given, title: str) -> str:
    """The page. Change, reference and SD are overlays, which start out transparent."""
    names = ("interpolated", "result") if given.adds_detail else ("before", "after")
    view = View(before, after, _overlays(before, after, given), (), given.window, names)
    return page(view, f"Faithfulness report: {title}", _sections(result), given.labels)


def _overlays(before: Volume, after: Volume, given: Given) -> tuple[Overlay, ...]:
    """What differs, and what it is compared with."""
    change = after.hu.astype(np.float32) - before.hu
    found = [_signed("change", change)]
    if given.reference is not None:
        window = given.window
        ends = window.low_hu, window.high_hu
        found.append(Overlay("reference", given.reference.hu, "gray", *ends, "HU", 0.0))
        found.append(_signed("error", after.hu.astype(np.float32) - given.reference.hu))
    if given.sd_hu is not None:
        top = max(float(np.percentile(given.sd_hu, 99.5)), 1.0)
        found.append(Overlay("SD of the samples", given.sd_hu, "viridis", 0, top, "HU", 0.0))
    return tuple(found)


def _signed(name: str, values: Float[np.ndarray, "x y z"]) -> Overlay:
    top = max(float(np.percentile(np.abs(values), 99.5)), 1.0)
    return Overlay(name, values, "warm", SEEN * top, top, "HU", 0.0, "winter")


def _sections(result: Report) -> list[str]:
    """The figures as HTML."""
    return [
        f'<p class="summary">{html.escape(result.summary)}</p>',
        "<h2>Checks</h2>",
        _checks(result.checks),
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
