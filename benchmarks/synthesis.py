"""Synthesis with and without guidance, by one level and by several, in 5 to 50 steps.

    python benchmarks/synthesis.py guidance --store .denovox/store [--guide WEAKER.safetensors]
    python benchmarks/synthesis.py steps [--steps 4 10 50] [--weights STUDENT.safetensors]
    python benchmarks/synthesis.py levels --store .denovox/store [--free]
    python benchmarks/synthesis.py regions
    python benchmarks/synthesis.py memorised --store .denovox/store --phantoms 12 [--region abdomen]
    python benchmarks/synthesis.py dry --edge 512
    python benchmarks/synthesis.py sheet docs/samples.png

Anatomies: chest phantoms (seeds 0, 1, ...) and, with --store, training cases of it, on about
--edge voxels per axis; the sample of anatomy n has the seed n. --free: their grids alone, without
an anatomy. Each row has means over them, with 95 % intervals (bootstrap over anatomies):

- MAE and biases, HU, to the CT that the anatomy belongs to: of the body, lung, bone, other soft
  tissue and the air outside it;
- lung, bone, Dice: of thresholds with the anatomy (metrics/coherence.py `followed`);
- texture: distance of the mean of the 37 features of metrics/texture.py from the CTs' mean, in SDs
  of the CTs, averaged over features (three chests or more);
- body, spine, lungs, sides: metrics/coherence.py `coherence`; seam: `seam` at the borders of the
  tiles of the last evaluation, over the mean of the CTs' at the same planes.

regions: a body from neck to abdomen, drawn region by region; the seam at their hand-overs, and the
HU of the lung near them and elsewhere.

memorised: metrics/copies.py of samples of phantoms of a region and of its scans held out, against
those of training; then of samples from the label maps of patients, seen (at most 16) and unseen,
against their own CT and the training scans of others. dry: a cube of --edge voxels with a network
that costs nothing: evaluations of tiles, and the time and memory of all else.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from denovox.core import process
from denovox.core.labels import NAMES, OUTSIDE, UNKNOWN, path
from denovox.core.regions import region
from denovox.core.resample import nearest
from denovox.core.volume import Volume
from denovox.inference.model import Model, load
from denovox.inference.options import RunOptions
from denovox.inference.region_blend import BLEND_MM
from denovox.metrics import coherence, copies, texture
from denovox.metrics.bootstrap import bootstrap
from denovox.metrics.set_distance import standardised
from denovox.reports.recorder import Recorder, recording
from denovox.sampling.guidance import Guidance
from denovox.scan import anatomy
from denovox.simulate.phantom import chest, draw

HU = ("mae", "body mae", "lung", "bone", "soft", "air")
COLUMNS = (*HU, "lung Dice", "bone Dice", "body", "spine", "lungs", "sides", "seam")
INTERVALS = ((2, 0.2, 2), (2, 0.2, 20), (1.5, 0.2, 20))
WHAT = ("guidance", "steps", "levels", "regions", "memorised", "dry", "sheet")
MOST_SEEN = 16  # label maps of training patients, evenly among them
CASES = ["chest_LIDC-0001/chest", "chest_CPTAC-LSCC-00247/chest", "abdomen_ACRIN-001/abdomen"]


@dataclass(frozen=True)
class Case:
    region: str
    hu: np.ndarray
    ids: np.ndarray
    mm: tuple[float, float, float]


def phantoms(
    count: int, shape: tuple[int, int, int] | None, mm: float, region: str = "chest"
) -> Iterator[Case]:
    """shape None: a region of varied persons, as wide as it is."""
    for seed in range(count):
        body = draw(region, spacing_mm=mm, seed=seed) if shape is None else chest(shape, mm, seed)
        yield Case(region, body.ct.hu, body.labels, (mm, mm, mm))


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


def held_together(hu: np.ndarray, mm: Any, borders: Any) -> tuple[list[float], float]:
    volume = Volume(hu.astype(np.float32), np.diag([*mm, 1.0]))
    found = anatomy.coarse(volume)
    steps = coherence.steps(volume.hu, found != OUTSIDE)
    return list(coherence.coherence(volume, found).values()), coherence.seam(steps, borders)


def measured(case: Case, hu: np.ndarray, borders: Any, free: bool) -> dict[str, float]:
    window = region(case.region).window
    truth = np.clip(case.hu, window.low_hu, window.high_hu)
    values, seam = held_together(hu, case.mm, borders)
    _, healthy = held_together(case.hu, case.mm, borders)
    found = dict(zip(COLUMNS[-5:], [*values, seam / healthy], strict=True))
    if free:
        return found
    hu = np.clip(hu, window.low_hu, window.high_hu)
    off, outside = hu - truth, case.ids == OUTSIDE
    lung, bone = of_class(case.ids, "lung"), of_class(case.ids, "bone")
    soft = ~outside & ~lung & ~bone & ~of_class(case.ids, "airway") & (case.ids != UNKNOWN)
    found |= {"mae": np.abs(off).mean(), "body mae": np.abs(off)[~outside].mean()}
    for name, mask in (("lung", lung), ("bone", bone), ("soft", soft), ("air", outside)):
        found[name] = off[mask].mean() if mask.sum() > 50 else np.nan
    for name, value in coherence.followed(hu, case.ids).items():
        found[f"{name} Dice"] = value if window.low_hu < -400 or name != "lung" else np.nan
    return {name: float(value) for name, value in found.items()}


def row(
    model: Model, cases: list[Case], name: str, tile: int, free: bool = False, **how: Any
) -> None:
    rows, textures, began = [], [], time.process_time()
    for seed, case in enumerate(cases):
        options, notes = RunOptions(seed=seed, tile=tile), Recorder()
        ids = None if free else case.ids
        with recording(notes):
            drawn = model.synthesize(
                case.region, case.ids.shape, case.mm, ids, options=options, **how
            )
        rows.append(measured(case, drawn.hu, notes.decisions[-1][1]["tile borders"][0], free))
        textures.append((case, drawn.hu))
    seconds = (time.process_time() - began) / len(cases)
    cells = [shown(column, [one.get(column, np.nan) for one in rows]) for column in COLUMNS]
    print(
        f"| {name} | {seconds:.0f} | {' | '.join(cells)} | {distance(textures):.2f} |", flush=True
    )


def shown(column: str, values: list[float]) -> str:
    """Mean and interval of the anatomies that have a value."""
    known = np.array([value for value in values if np.isfinite(value)])
    if not len(known):
        return ""
    digits = 0 if column in HU else 2
    between = bootstrap([str(i) for i in range(len(known))], lambda drawn: known[drawn].mean())
    text = f"{known.mean():.{digits}f}"
    if between.low is None or between.high is None:
        return text
    return f"{text} [{between.low:.{digits}f}, {between.high:.{digits}f}]"


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
    synthetic = np.stack([features(case, hu) for case, hu in chests])
    return float(np.abs(standardised(synthetic.mean(0)[None], real)).clip(0, 20).mean())


def regions(model: Model, folder: str, name: str, mm: float, tile: int) -> None:
    """A training patient who shows several regions: the seam at each hand-over, and the CT's."""
    from denovox.datasets import store

    parts = [one for one in store.cases(folder) if one.facts.id.startswith(f"{name}/")]
    parts.sort(key=lambda one: one.facts.affine[11])
    hu, ids = [], []
    for one in parts:
        size = np.array(one.facts.shape) * one.facts.spacing_mm
        grid = tuple(max(8, round(each / mm)) for each in size)
        values, labels = one.read([0, 0, 0], list(map(float, one.facts.shape)), grid)
        hu.append(values)
        ids.append(labels)
    truth, labels, notes = np.concatenate(hu, 2), np.concatenate(ids, 2), Recorder()
    with recording(notes):
        drawn = model.synthesize(
            "auto",
            labels.shape,
            (mm, mm, mm),
            labels,
            options=RunOptions(0, tile=tile, say=lambda line: print(line, flush=True)),
        )
    found = notes.decisions[-1][1]
    inside = labels != OUTSIDE
    window = region("chest").window
    ends = [span.stop - 1 for span in found["regions"][:-1]]
    reach = round(BLEND_MM / 2 / mm)
    for at in [*ends, *(end + side * reach for end in ends for side in (-1, 1))]:
        values = [
            coherence.seam(
                coherence.steps(np.clip(one, window.low_hu, window.high_hu), inside),
                ((), (), (at,)),
            )
            for one in (drawn.hu, truth)
        ]
        print(f"border {at}: {values[0]:.2f}, CT {values[1]:.2f}", flush=True)
    lung = ndimage.binary_erosion(of_class(labels, "lung"))  # its border is partly tissue
    near = np.zeros(labels.shape[2], bool)
    for end in ends:
        near[max(0, end - 2 * reach) : end + 2 * reach + 1] = True
    for name, slices in (("within 20 mm of a border", near), ("elsewhere", ~near)):
        mask = lung & slices
        print(f"lung {name}: {drawn.hu[mask].mean():.0f} HU, CT {truth[mask].mean():.0f}")


def memorised(model: Model, folder: str, name: str, cases: list[Case]) -> None:
    """How much nearer one training scan is than the others, of samples and of held-out scans."""
    from denovox.datasets import store

    def of(hu: np.ndarray, ids: np.ndarray, mm: Any) -> copies.Patches:
        return copies.patches(hu, mm, region(name).window, ids != OUTSIDE)

    def of_case(one: store.Case) -> copies.Patches:
        size = np.array(one.facts.shape) * one.facts.spacing_mm
        grid = tuple(max(8, round(each / copies.MM)) for each in size)
        hu, ids = one.read([0, 0, 0], list(map(float, one.facts.shape)), grid)
        return of(hu, ids, size / grid)

    training, held = (
        [one for one in part if one.facts.region == name]
        for part in store.split(store.cases(folder), ())
    )
    among = [of_case(one) for one in training]
    rows = [(one.facts.id, of_case(one)) for one in held]
    scans = len(rows)
    for seed, case in enumerate(cases):
        drawn = model.synthesize(name, case.ids.shape, case.mm, case.ids, options=RunOptions(seed))
        rows.append((f"sample {seed}", of(drawn.hu, case.ids, case.mm)))
    found = [(label, copies.nearness(own, among)) for label, own in rows]
    print(f"{len(training)} training scans\n\n| | ratio | nearest training scan |\n|---|---|---|")
    for label, near in found:
        if near is not None:
            print(f"| {label} | {near.ratio:.3f} | {training[near.nearest].facts.id} |")
    ratios = [np.nan if near is None else near.ratio for _, near in found]
    real, drawn = np.array(ratios[:scans]), np.array(ratios[scans:])
    print(f"\nAUROC {(drawn[:, None] < real).mean():.2f}; below all held out: ", end="")
    print(f"{(drawn < np.nanmin(real)).sum()} of {len(drawn)}")

    # From their own label maps: is the own CT nearer where the model has seen it?
    print(
        "\n| sample from the labels of | seen | ratio, own CT among them | nearest |\n|"
        + "---|" * 4
    )
    groups: dict[bool, list[float]] = {True: [], False: []}
    seen_first = {one.facts.patient: one for one in training[::-1]}
    some = [*seen_first.values()][:: -(-len(seen_first) // MOST_SEEN)]
    for one in (*{one.facts.patient: one for one in held[::-1]}.values(), *some):
        (case,) = patients(folder, [one.facts.id], 72)
        drawn_hu = model.synthesize(
            name, case.ids.shape, case.mm, case.ids, options=RunOptions()
        ).hu
        mine = one.facts.patient
        pairs = zip(training, among, strict=True)
        others = [each for other, each in pairs if other.facts.patient != mine]
        near = copies.nearness(of(drawn_hu, case.ids, case.mm), [of_case(one), *others])
        if near is not None:
            seen = one in training
            groups[seen].append(near.ratio)
            whose = "other" if near.nearest else "own"
            print(f"| {one.facts.id} | {seen} | {near.ratio:.3f} | {whose} |", flush=True)
    seen_ratios, unseen = np.array(groups[True]), np.array(groups[False])
    print(f"\nAUROC (seen nearer than unseen) {(seen_ratios[:, None] < unseen).mean():.2f}")


def dry(given: Model, edge: int) -> None:
    """A volume of 358 mm, drawn by the mean of N(0, .3^2), which is counted and timed apart."""
    count, seconds = 0, 0.0

    def mean(x: Any, sigma: float, told: Any) -> Any:
        nonlocal count, seconds
        began = time.process_time()
        x0 = x * (0.09 / (0.09 + sigma**2))
        count, seconds = count + x.numel(), seconds + time.process_time() - began
        return x0

    shape, mm = (edge,) * 3, 358.4 / edge
    ids = nearest(chest((64, 64, 64), 5.6, 0).labels, shape)
    before = process.resident_mb()
    process.reset_peak()
    began = time.process_time()
    options = RunOptions(say=lambda line: print(line, flush=True))
    replace(given, denoiser=mean).synthesize("chest", shape, (mm,) * 3, ids, options=options)
    took, most = time.process_time() - began - seconds, process.peak_mb() - before
    print(
        f"{count / 64**3:.0f} evaluations of 64^3 voxels; all but the network: {took:.0f} s, ",
        end="",
    )
    print(f"{most:.0f} MB, {most * 1e6 / edge**3:.0f} bytes for each voxel")


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
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--weights", default="base")
    parser.add_argument("--guide", help="weaker weights; rows of autoguidance are added")
    parser.add_argument("--store")
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--edge", type=int, default=72)
    parser.add_argument("--phantoms", type=int, default=2)
    parser.add_argument("--region", default="chest", help="of memorised")
    parser.add_argument("--steps", nargs="+", type=int, default=[5, 10, 20, 50])
    parser.add_argument("--free", action="store_true", help="of levels: without an anatomy")
    parser.add_argument("--precision", default="bfloat16")
    given = parser.parse_args()
    model = load(given.weights, "cpu", given.precision)
    if given.what == "sheet":
        sheet(model, given.out)
        return
    if given.what == "dry":
        dry(model, given.edge)
        return
    if given.what == "regions":
        regions(model, given.store, given.cases[0], 5.9, 64)
        return
    if given.what == "memorised":
        whole = (60, 48, 48) if given.region == "chest" else None  # as in earlier results
        bodies = list(phantoms(given.phantoms, whole, 5.9, given.region))
        memorised(model, given.store, given.region, bodies)
        return
    large = given.what == "levels" and not given.store
    cases = list(
        phantoms(given.phantoms, (104, 80, 80) if large else (60, 48, 48), 3.5 if large else 5.9)
    )
    if given.store:
        cases += patients(given.store, given.cases, given.edge)
    columns = ["", "s", *COLUMNS, "texture"]
    print(f"N = {len(cases)}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    if given.what == "guidance":
        row(model, cases, "none", 64, guidance=1.0)
        for weight, low, high in INTERVALS:
            how = Guidance(weight, low, high)
            row(model, cases, f"w = {weight:g}, {low:g} to {high:g}", 64, guidance=how)
        if given.guide:
            guide = load(given.guide, "cpu", given.precision)
            for weight in (1.5, 2.0):
                name = f"weaker weights, w = {weight:g}"
                row(model, cases, name, 64, guidance=weight, guide=guide)
    elif given.what == "steps":
        few = model.config.distilled_steps
        for steps in (few,) if few else given.steps:
            row(model, cases, f"{steps} steps", 64, steps=steps)
    else:
        for levels in (1, 2, 3) if large else (1, 2):
            row(model, cases, f"{levels} levels", 32, given.free, levels=levels)


if __name__ == "__main__":
    main()
