"""Run the parts of the evidence one after another, and write what there is on one page."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.errors import InputError, shown
from ...io.atomic import write_file
from ...metrics.results import JSON_NAME, finite, write
from .parts import PARTS
from .study import Study

PAGE = "evidence.md"
HEAD = """# Evidence

What the weights achieve on patients that they were not trained on, beside other methods. Written by
`denovox evaluate all`. Every figure is a mean over scans, with its 95 % interval over patients
(bootstrap of patients); N is the number of patients, and of scans where that differs. ↑: higher is
better, ↓: lower is better, → 0: closer to zero is better.
"""
BETTER = {"higher": "↑", "lower": "↓", "zero": "→ 0"}


def run(study: Study, out: Path, names: Iterable[str]) -> Path:
    """Write a folder with figures for each part, and the page; returns the page's path.

    A part that an earlier run with the same settings completed is not run again. A part that the
    data do not allow appears on the page with the reason.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = list(names)
    texts, absent = [_command(study, names)], []
    for name in names:
        chosen = study.settings(name)
        if not _is_done(chosen, out / name):
            study.options.say(f"{name}:")
            started = time.monotonic()
            try:
                results = PARTS[name](study)
            except InputError as error:
                absent.append(f"- {name}: {error}")
                continue
            seconds = {"seconds": round(time.monotonic() - started, 1)}
            settings = {**results.settings, "evidence": chosen, **seconds}
            results = replace(results, data=str(study.store), settings=settings)
            write(results, out / name, force=True)
        texts.append(section(name, json.loads((out / name / JSON_NAME).read_text("utf-8"))))
    if absent:
        texts.append("## Not measured\n\n" + "\n".join(absent) + "\n")
    write_file(out / PAGE, "\n".join([HEAD, *texts]))
    return out / PAGE


def section(name: str, results: dict[str, Any]) -> str:
    """A part, from the JSON of its results: methods as columns, figures as rows by region.

    A gain over another method is in the column of that method.
    """
    rows: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for one in results["figures"]:
        what, _, over = one["name"].partition(" gain over ")
        row = what, f": gain of {one['method']}" if over else ""
        rows.setdefault(row, {})[over or one["method"]] = one
    methods = list(dict.fromkeys(one["method"] for one in results["figures"]))
    names = list(dict.fromkeys(what for what, _ in rows))
    regions = list(dict.fromkeys(what.split()[0] for what in names))

    def place(row: tuple[str, str]) -> tuple[bool, int, int]:
        region = row[0].split()[0]
        return region == "all", regions.index(region), names.index(row[0])

    table = [["figure", "N", *methods], ["---"] * (2 + len(methods))]
    for row in sorted(rows, key=place):
        first = next(iter(rows[row].values()))
        count, scans = first["patients"], first["scans"]
        about = " ".join(filter(None, (first["unit"], BETTER[first["better"]])))
        cells = [_cell(rows[row][one]) if one in rows[row] else "" for one in methods]
        patients = f"{count}" + f" ({scans})" * (scans != count)
        table.append([f"{''.join(row)} ({about})", patients, *cells])
    lines = ["| " + " | ".join(shown(c).replace("|", "\\|") for c in line) + " |" for line in table]
    settings = json.dumps(results["settings"], sort_keys=True)
    notes = [f"- {shown(note)}" for note in results["notes"]]
    weights = f"- weights sha256 {results['weights']}, denovox {results['version']}"
    folded = f"<details><summary>Settings</summary><code>{html.escape(settings)}</code></details>"
    return "\n".join([f"## {name}\n", *lines, "", *notes, weights, "", folded, ""])


def _cell(figure: dict[str, Any]) -> str:
    """The value and its interval; two decimal places where there is a unit, or else three."""
    low, high = figure["interval"]["low"], figure["interval"]["high"]
    value, low, high = (
        "-" if one is None else f"{one:.{2 if figure['unit'] else 3}f}"
        for one in (figure["value"], low, high)
    )
    return value if low == "-" else f"{value} [{low}, {high}]"


def _command(study: Study, names: Sequence[str]) -> str:
    """How to measure it again."""
    chosen = study.config
    words = [f"denovox evaluate all {study.store} --out DIR --seed {study.options.seed}"]
    words += [f"--{key} {value}" for key in ("slices", "most") if (value := getattr(chosen, key))]
    words += [f"--rivals {','.join(chosen.rivals) or 'none'}"]
    words += [f"--only {name}" for name in names if len(names) < len(PARTS)]
    return f"    {' '.join(words)}\n"


def _is_done(chosen: dict[str, Any], folder: Path) -> bool:
    """Whether a part was measured with these settings, weights and control among them."""
    try:
        known = json.loads((folder / JSON_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(known["settings"].get("evidence") == finite(chosen))
