"""What texture does not show of a sample: seams, a second body, its label map, copied patches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.labels import OUTSIDE
from ..core.regions import REGIONS
from ..core.volume import Grid, Volume
from ..inference.scan_context import Labels, spans_in
from ..io import label_maps
from ..metrics.bootstrap import Drawn
from ..metrics.coherence import NAMES, Borders, Steps, coherence, followed, seam, steps
from ..metrics.copies import LEAST, Nearness, Patches, nearness, patches
from ..metrics.results import Better, Figure, over_patients
from ..metrics.set_distance import Memorised, limit_of
from ..reports.manifest import ENDING, Decisions
from .inputs import Say, Scan
from .realism_figures import copy_figures

NOTE = (
    "seam: mean difference across borders of tiles over that 2 to 4 voxels away, over the same of"
    " the real scans at the same planes; 1 without a seam"
)


@dataclass(frozen=True)
class Whole:
    """A scan of a set: figures of coherence and Dice coefficients by name, differences between
    planes, the borders of its tiles where they are known, and its patches by region."""

    scan: Scan
    values: dict[str, float]
    steps: tuple[Steps, Steps, Steps]
    borders: Borders | None
    patches: dict[str, Patches]


def whole(scan: Scan, volume: Volume, found: Labels, say: Say) -> Whole:
    """Measure a scan. found: its `anatomy.coarse`. `InputError` where a label map does not fit."""
    values = coherence(volume, found)
    if scan.anatomy is not None:
        ids, affine = label_maps.vocabulary(scan.anatomy, say)
        Grid(ids.shape, affine).require(volume.grid, scan.anatomy, scan.path)
        values |= {f"{name}: Dice": value for name, value in followed(volume.hu, ids).items()}
    inside = found != OUTSIDE
    return Whole(
        scan, values, steps(volume.hu, inside), _borders(scan.path), _patches(scan, volume, found)
    )


def _borders(path: Path) -> Borders | None:
    """Of the tiles, from the manifest beside a generated scan."""
    manifest = path.with_name(path.name + ENDING)
    if not manifest.is_file():
        return None
    try:
        listed = json.loads(manifest.read_text())["decisions"]
        decisions = [Decisions.model_validate_json(json.dumps(one)) for one in listed]
    except (ValueError, LookupError, TypeError):
        return None  # another program's file
    return next((one.tile_borders for one in decisions if one.tile_borders), None)


def _patches(scan: Scan, volume: Volume, found: Labels) -> dict[str, Patches]:
    try:
        spans = spans_in(volume, found, scan.region, lambda line: None)
    except InputError:  # not of a region that the model knows
        return {}
    parts = {}
    for span in spans:
        z, window = slice(span.start, span.stop), REGIONS[span.region].window
        body = found[..., z] != OUTSIDE
        parts[span.region] = patches(volume.hu[..., z], volume.spacing_mm, window, body)
    return parts


# -- figures --------------------------------------------------------------------------------------


def whole_figures(
    sets: Mapping[str, Sequence[Whole]], method: str, seed: int
) -> tuple[tuple[Figure, ...], list[str]]:
    """The figures of the synthetic and of the real scans, and notes. sets: set -> its scans."""
    figures: list[Figure] = []
    notes = [NOTE]
    both = (("synthetic", method), ("real", "real"))
    names = dict.fromkeys(name for kind, _ in both for one in sets[kind] for name in one.values)
    for name in [*NAMES, *(name for name in names if name not in NAMES)]:
        for kind, whose in both:
            rows = [(one, one.values.get(name, np.nan)) for one in sets[kind]]
            label = name if kind == "synthetic" else f"{name}, real scans"
            figures += _mean(label, rows, whose, "higher", seed)
    figures += _mean("seam", list(_seams(sets)), method, "lower", seed)
    for region in dict.fromkeys(name for one in sets.get("training", ()) for name in one.patches):
        more, closest = _copied(region, sets, method, seed)
        figures += more
        notes += closest
    return tuple(figures), notes


def _mean(
    name: str, rows: Iterable[tuple[Whole, float]], method: str, better: Better, seed: int
) -> tuple[Figure, ...]:
    """The mean of the scans for which there is a value, if there are any."""
    known = [(one.scan.patient, value) for one, value in rows if np.isfinite(value)]
    if not known:
        return ()
    values = np.array([value for _, value in known])

    def mean(drawn: Drawn) -> float:
        return float(values[drawn].mean())

    patients = [patient for patient, _ in known]
    return (over_patients(name, patients, mean, method=method, better=better, seed=seed),)


def _seams(sets: Mapping[str, Sequence[Whole]]) -> Iterable[tuple[Whole, float]]:
    for one in sets["synthetic"]:
        if one.borders is not None:
            healthy = np.array([seam(real.steps, one.borders) for real in sets["real"]])
            healthy = healthy[np.isfinite(healthy)]
            if healthy.size:
                yield one, seam(one.steps, one.borders) / float(healthy.mean())


def _copied(
    region: str, sets: Mapping[str, Sequence[Whole]], method: str, seed: int
) -> tuple[tuple[Figure, ...], list[str]]:
    """How much nearer one training scan is than the others, of synthetic and of real scans."""
    training = [one for one in sets["training"] if region in one.patches]
    parts = [one.patches[region] for one in training]

    def near(kind: str) -> list[tuple[Whole, Nearness]]:
        shown = [one for one in sets[kind] if region in one.patches]
        rows = [(one, nearness(one.patches[region], parts)) for one in shown]
        return [(one, found) for one, found in rows if found is not None]

    synthetic, real = near("synthetic"), near("real")
    if not synthetic or not real:
        return (), [f"{region} patches: not compared; {LEAST} training scans are necessary"]
    held_out = np.array([found.ratio for _, found in real])
    found = Memorised(
        np.array([found.ratio for _, found in synthetic]),
        held_out,
        tuple(one.scan.id for one, _ in synthetic),
        tuple(training[found.nearest].scan.id for _, found in synthetic),
        limit_of(held_out),
    )
    patients = [one.scan.patient for one, _ in synthetic]
    pairs = ", ".join(f"{a} and {b} ({d:.3g})" for a, b, d in found.closest())
    notes = [
        f"{region} patches, distance to the nearest training scan over the median (0: copied):"
        f" {pairs}; real scans {held_out.min():.3g} to {held_out.max():.3g}"
    ]
    return copy_figures(found, patients, f"{region} patches", method, seed), notes
