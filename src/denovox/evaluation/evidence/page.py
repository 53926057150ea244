"""Run the parts of the evidence one after another, and write what there is on one page."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ...core.errors import InputError
from ...io.atomic import write_file
from ...metrics.results import JSON_NAME, MARKDOWN_NAME, finite, write
from .parts import PARTS
from .study import Study

PAGE = "evidence.md"
HEAD = """# Evidence

What the weights achieve on patients that they were not trained on, beside methods that need no
training. Written by `denovox evaluate all`. Every figure is a mean over scans, with its 95 %
interval over patients (bootstrap of patients).
"""


def run(study: Study, out: Path, names: Iterable[str]) -> Path:
    """Write a folder with figures for each part, and the page; returns the page's path.

    A part that an earlier run with the same settings completed is not run again. A part that the
    data do not allow appears on the page with the reason.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = list(names)
    texts, absent = [_command(study, names)], []
    for name in names:
        if not _is_done(study, out / name):
            study.options.say(f"{name}:")
            started = time.monotonic()
            try:
                results = PARTS[name](study)
            except InputError as error:
                absent.append(f"- {name}: {error}")
                continue
            seconds = {"seconds": round(time.monotonic() - started, 1)}
            settings = {**results.settings, "evidence": study.settings, **seconds}
            results = replace(results, data=str(study.store), settings=settings)
            write(results, out / name, force=True)
        texts.append("#" + (out / name / MARKDOWN_NAME).read_text("utf-8"))
    if absent:
        texts.append("## Not measured\n\n" + "\n".join(absent) + "\n")
    write_file(out / PAGE, "\n".join([HEAD, *texts]))
    return out / PAGE


def _command(study: Study, names: Sequence[str]) -> str:
    """How to measure it again."""
    chosen = study.config
    words = [f"denovox evaluate all {study.store} --out DIR --seed {study.options.seed}"]
    words += [f"--{key} {value}" for key in ("slices", "most") if (value := getattr(chosen, key))]
    words += [f"--rivals {','.join(chosen.rivals) or 'none'}"]
    words += [f"--only {name}" for name in names if len(names) < len(PARTS)]
    return f"    {' '.join(words)}\n"


def _is_done(study: Study, folder: Path) -> bool:
    """Whether a part was measured with these settings, weights among them."""
    try:
        known = json.loads((folder / JSON_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(known["settings"].get("evidence") == finite(study.settings))
