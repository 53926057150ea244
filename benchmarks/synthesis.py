"""Synthesis with and without guidance, by one level and by several, in 5 to 50 steps.

    python benchmarks/synthesis.py guidance --store .denovox/store
    python benchmarks/synthesis.py steps
    python benchmarks/synthesis.py levels
    python benchmarks/synthesis.py sheet docs/samples.png

Anatomies: chest phantoms (seeds 0, 1, ...) and, with --store, training cases of it, on about
--edge voxels per axis; the sample of anatomy n has the seed n. Each row is a mean over them:

- MAE and biases, HU, to the CT that the anatomy belongs to: of the body, lung, bone, other soft
  tissue and the air outside it;
- Dice of thresholds (lung below -400 HU, bone above 200, soft tissue between -200 and 200) within
  the body, with the classes of the anatomy; where the region's window has them;
- texture: distance of the mean of the 37 features of metrics/texture.py from the CTs' mean, in SDs
  of the CTs, averaged over features;
- bodies: share of voxels above -300 HU that are in the largest component; sides: volume of the left
  lung over that of both, minus the same of the CT; seam: mean absolute difference across the tile
  borders of the last evaluation, over that between planes 2 to 4 away, minus the same of the CT.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from denovox.core.labels import NAMES, OUTSIDE, path
from denovox.core.regions import region
from denovox.inference.model import Model, load
from denovox.inference.options import RunOptions
from denovox.metrics import texture
from denovox.metrics.set_distance import standardised
from denovox.sampling.guidance import Guidance
from denovox.sampling.windowed import layout
from denovox.simulate.phantom import chest

COLUMNS = (
    "mae body lung bone soft air dice_lung dice_bone dice_soft texture bodies sides seam"
).split()

INTERVALS = ((2, 0.2, 2), (2, 0.2, 20), (1.5, 0.2, 20))
CASES = ["chest_LIDC-0001/chest", "abdomen_ACRIN-001/abdomen"]


@dataclass(frozen=True)
class Case:
    region: str
    hu: np.ndarray
    ids: np.ndarray
    mm: tuple[float, float, float]


def phantoms(count: int, shape: tuple[int, int, int], mm: float) -> Iterator[Case]:
    for seed in range(count):
        body = chest(shape, mm, seed)
        yield Case("chest", body.ct.hu, body.labels, (mm, mm, mm))


def patients(folder: str, ids: list[str], edge: int) -> Iterator[Case]:
    from denovox.datasets import store

    for one in store.cases(folder):
        if one.facts.id not in ids:
            continue
        size = np.array(one.facts.shape) * one.facts.spacing_mm
        mm = float(np.clip(size.max() / edge, 4.0, 5.9))
        grid = tuple(max(8, round(each / mm)) for each in size)
        hu, labels = one.read([0, 0, 0], list(map(float, one.facts.shape)), grid)
        x, y, z = size / grid
        yield Case(one.facts.region, hu, labels, (float(x), float(y), float(z)))


def of_class(ids: np.ndarray, *names: str) -> np.ndarray:
    return np.array([not set(names).isdisjoint(path(name)) for name in NAMES])[ids]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def seam(hu: np.ndarray, axes: list[Any], body: np.ndarray) -> float:
    """Differences across borders of tiles, relative to those near them; 1 for a single tile."""
    at, near = [], []
    for axis, tiles in enumerate(axes):
        steps = np.abs(np.diff(hu, axis=axis))
        both = np.minimum(
            body.take(range(1, hu.shape[axis]), axis), body.take(range(hu.shape[axis] - 1), axis)
        )
        for one, other in itertools.pairwise(tiles):
            border = (other.start + one.stop) // 2 - 1
            for offset, into in ((0, at), *((d, near) for d in (-4, -3, -2, 2, 3, 4))):
                if 0 <= border + offset < steps.shape[axis]:
                    mask = both.take(border + offset, axis)
                    into.append(steps.take(border + offset, axis)[mask])
    return float(np.concatenate(at).mean() / np.concatenate(near).mean()) if at else 1.0


def measured(case: Case, hu: np.ndarray, axes: list[Any]) -> dict[str, float]:
    window = region(case.region).window
    truth = np.clip(case.hu, window.low_hu, window.high_hu)
    hu = np.clip(hu, window.low_hu, window.high_hu)
    off, outside = hu - truth, case.ids == OUTSIDE
    lung, bone = of_class(case.ids, "lung"), of_class(case.ids, "bone")
    body = ~outside
    soft = body & ~lung & ~bone & ~of_class(case.ids, "airway") & (case.ids != 0)
    found = {"mae": np.abs(off).mean(), "body": np.abs(off)[body].mean()}
    for name, mask in (("lung", lung), ("bone", bone), ("soft", soft), ("air", outside)):
        found[name] = off[mask].mean() if mask.sum() > 50 else np.nan
    wide = case.region == "chest"
    found["dice_lung"] = (
        dice((hu < -400) & body, lung | of_class(case.ids, "airway")) if wide else np.nan
    )
    found["dice_bone"] = dice((hu > 200) & body, bone)
    found["dice_soft"] = dice((abs(hu) < 200) & body, soft) if wide else np.nan

    def largest(values: np.ndarray) -> float:
        parts, _ = ndimage.label(values > -300)
        sizes = np.bincount(parts.ravel())[1:]
        return float(sizes.max() / sizes.sum())

    def left(values: np.ndarray) -> float:
        air = (values < -400) & body
        middle = air.shape[0] // 2
        return float(air[:middle].sum() / max(1, air.sum()))

    found["bodies"] = largest(hu) if wide else np.nan
    found["sides"] = left(hu) - left(truth) if wide else np.nan
    found["seam"] = seam(hu, axes, body) - seam(truth, axes, body)
    return {name: float(value) for name, value in found.items()}


def row(model: Model, cases: list[Case], name: str, tile: int, **how: Any) -> None:
    rows, textures, began = [], [], time.process_time()
    for seed, case in enumerate(cases):
        options = RunOptions(seed=seed, tile=tile)
        made = model.synthesize(
            case.region, case.ids.shape, case.mm, case.ids, options=options, **how
        )
        last = how.get("steps", 10) - 1
        blend = how.get("levels", 1) == 1
        axes = layout(case.ids.shape, model.tilings(case.ids.shape, tile, blend), seed, last)
        rows.append(measured(case, made.hu, axes))
        textures.append((case, made.hu))
    seconds = (time.process_time() - began) / len(cases)
    figures = {key: np.nanmean([one[key] for one in rows]) for key in rows[0]}
    figures["texture"] = distance(textures)
    shown = " | ".join(
        f"{figures[key]:.2f}"
        if "dice" in key or key in ("texture", "bodies", "sides", "seam")
        else f"{figures[key]:.0f}"
        for key in COLUMNS
    )
    print(f"| {name} | {seconds:.0f} | {shown} |", flush=True)


def distance(drawn: list[tuple[Case, np.ndarray]]) -> float:
    """Of the textures of chests; the CTs' SDs are those of these few."""

    def features(case: Case, hu: np.ndarray) -> np.ndarray:
        return texture.texture(
            hu.astype(np.float32), region(case.region).window, case.ids != OUTSIDE
        )

    chests = [(case, hu) for case, hu in drawn if case.region == "chest"]
    if len(chests) < 3:
        return float("nan")
    real = np.stack([features(case, case.hu) for case, _ in chests])
    made = np.stack([features(case, hu) for case, hu in chests])
    return float(np.abs(standardised(made.mean(0)[None], real)).clip(0, 20).mean())


def sheet(model: Model, out: Path, count: int = 12) -> None:
    """Samples of phantoms, seeds 0 to 11: a coronal and an axial slice each."""
    from PIL import Image

    panels = []
    window = region("chest").window
    for seed in range(count):
        body = chest((104, 80, 80), 3.5, seed)
        made = model.synthesize(
            "chest", body.labels.shape, body.ct.spacing_mm, body.labels, options=RunOptions(seed)
        )
        grey = (np.clip((made.hu - window.low_hu) / window.width_hu, 0, 1) * 255).astype(np.uint8)
        views = [grey[::-1, 40, ::-1].T, grey[::-1, ::-1, 40].T]
        panels.append(np.concatenate(views))
    rows = [np.concatenate(panels[i : i + 6], 1) for i in range(0, count, 6)]
    Image.fromarray(np.concatenate(rows)).resize((1560, 800), Image.Resampling.BICUBIC).save(
        out, optimize=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["guidance", "steps", "levels", "sheet"])
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--weights", default="base")
    parser.add_argument("--guide", help="weaker weights; a row of autoguidance is added")
    parser.add_argument("--store")
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--edge", type=int, default=72)
    parser.add_argument("--phantoms", type=int, default=2)
    parser.add_argument("--precision", default="bfloat16")
    given = parser.parse_args()
    model = load(given.weights, "cpu", given.precision)
    if given.what == "sheet":
        sheet(model, given.out)
        return
    large = given.what == "levels"
    cases = list(
        phantoms(given.phantoms, (104, 80, 80) if large else (60, 48, 48), 3.5 if large else 5.9)
    )
    if given.store:
        cases += patients(given.store, given.cases, given.edge)
    print("| | s | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 2), flush=True)
    if given.what == "guidance":
        row(model, cases, "none", 64, guidance=1.0)
        for weight, low, high in INTERVALS:
            how = Guidance(weight, low, high)
            row(model, cases, f"w = {weight:g}, {low:g} to {high:g}", 64, guidance=how)
        if given.guide:
            guide = load(given.guide, "cpu", given.precision)
            for weight in (1.5, 2.0):
                row(
                    model,
                    cases,
                    f"weaker weights, w = {weight:g}",
                    64,
                    guidance=weight,
                    guide=guide,
                )
    elif given.what == "steps":
        for steps in (5, 10, 20, 50):
            row(model, cases, f"{steps} steps", 64, steps=steps)
    else:
        for levels in (1, 2, 3):
            row(model, cases, f"{levels} levels", 32, levels=levels)


if __name__ == "__main__":
    main()
