"""Do synthetic lesions help to train a segmenter? Every patient with real lesions is held out once.

    python benchmarks/lesion_data.py                 (writes .denovox/lesions)
    python benchmarks/lesion_gain.py half 0 DIR      (a core: about an hour)
    python benchmarks/lesion_gain.py half 1 DIR
    python benchmarks/lesion_gain.py table DIR

The bundled control has seen the lesions that most patients have, so each half of the patients is
judged with a control of `recipes/lesion.toml` that was trained on the other half (and on planted
lesions in patients without any). Both protocols of `denovox evaluate lesions` run on a half; a
segmenter is trained on the real lesions of all patients but the one held out, with and without
synthetic ones. The table is of both halves together.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from denovox.evaluation.lesions import study
from denovox.evaluation.lesions.hosts import LesionStudyConfig, StudyContext, cases_of
from denovox.evaluation.lesions.results import StudyRows, results
from denovox.evaluation.protocols import protocol
from denovox.inference import lesions
from denovox.inference.model import load
from denovox.inference.options import RunOptions
from denovox.metrics.results import as_markdown
from denovox.train.config import read_recipe
from denovox.train.run import run

SOURCE, RECIPE = Path(".denovox/lesions"), Path("recipes/lesion.toml")
# Those of abdomens are sarcomas: in muscle, not in the liver.
CONFIG = LesionStudyConfig(folds=99, steps=600, organs={"chest": "lung", "abdomen": "muscle"})
PARTS = "lesion-generation", "lesion-inpainting"


def split(half: int, folder: Path) -> Path:
    """A copy of the source in which one half of the patients with real lesions validates."""
    rows = json.loads((SOURCE / "index.json").read_text())
    real = sorted({row["patient"] for row in rows if not row["id"].endswith(CONFIG.planted)})
    out = folder / "source"
    out.mkdir(parents=True, exist_ok=True)
    for file in SOURCE.iterdir():
        if file.name != "index.json" and not (link := out / file.name).is_symlink():
            link.symlink_to(os.path.relpath(file.resolve(), out.resolve()))
    for row in rows:
        row["use"] = "validate" if row["patient"] in real[half::2] else "train"
    (out / "index.json").write_text(json.dumps(rows, indent=1))
    return out


def control(source: Path, folder: Path) -> tuple[Path, Path]:
    """The store of a half, and the control trained on the other half's lesions."""
    recipe, kept = read_recipe(RECIPE), folder / "store"
    data = recipe.data.model_copy(update={"source": source, "store": str(kept)})
    for _ in run(recipe.model_copy(update={"data": data}), folder / "run"):
        pass
    return kept, folder / "run" / f"{recipe.name}.safetensors"


def judge_once() -> None:
    """Segmenters that both protocols train alike are trained once."""
    train, kept = study.trained_segmenter, {}

    @functools.wraps(train)
    def once(cases, number, context, name):
        key = number, *(case.facts.id for case in cases)
        if key not in kept:
            kept[key] = train(cases, number, context, name)
        return kept[key]

    study.trained_segmenter = once


def measure(half: int, folder: Path) -> dict[str, StudyRows]:
    """What each protocol gathers on one half of the patients."""
    kept, weights = control(split(half, folder), folder)
    model, options = load(weights), RunOptions(say=lambda text: print(text, flush=True))
    add, remove = (of(model, options) for of in (lesions.maker, lesions.remover))
    judge_once()
    rows = {}
    for name in PARTS:
        cases, free = cases_of(kept, CONFIG)
        with tempfile.TemporaryDirectory() as scratch:
            context = StudyContext(CONFIG, options, Path(scratch), lambda: None)
            rows[name] = protocol(name, "lesions").run(cases, free, add, remove, context)
    return rows


def pooled(halves: list[StudyRows]) -> StudyRows:
    """What both halves gathered on the patients that they hold out."""
    every = StudyRows()
    for half in halves:
        held = {row.patient for row in half.measured}
        every.measured += half.measured
        every.facts += half.facts
        for mine, more in ((every.real, half.real), (every.synthetic, half.synthetic)):
            for region, values in more.items():
                mine.setdefault(region, []).extend(one for one in values if one.patient in held)
        for seed, values in half.gains.items():
            every.gains.setdefault(seed, []).extend(values)
    return every


def main(what: str, *rest: str) -> None:
    folder = Path(rest[-1])
    if what == "half":
        here = folder / f"half-{rest[0]}"
        rows = measure(int(rest[0]), here)
        (here / "rows.pickle").write_bytes(pickle.dumps(rows))
        return
    halves = [pickle.loads((folder / f"half-{n}" / "rows.pickle").read_bytes()) for n in (0, 1)]
    context = StudyContext(CONFIG, RunOptions(), folder, lambda: None)
    for name in PARTS:
        every = pooled([half[name] for half in halves])
        table = results(protocol(name, "lesions"), folder, every, context, None)
        print(as_markdown(replace(table, settings={})))


if __name__ == "__main__":
    main(*sys.argv[1:])
