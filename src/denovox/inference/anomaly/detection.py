"""Anomaly maps: where a scan differs from its surroundings as healthy scans do not.

`healthy.py` makes the maps, a calibration turns them into one z-score (METHOD 3), and here they are
put together: over the regions of a scan, into components, and into one score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from ...core.errors import InputError, ensure
from ...core.labels import NAMES, OUTSIDE
from ...core.volume import Volume
from ...model.weights import describe
from ...scan.body_regions import RegionSpan
from ..engine import Engine
from ..options import RunOptions
from ..region_blend import Part, handover, share_of
from ..scan_context import ScanContext
from .calibration import AnomalyMethod, Calibration, empty
from .maps import evidence, scored, shown

TOP_ML = 0.3  # the scan's score is the mean of |z| over its highest 0.3 mL
THRESHOLD, LEAST_ML = 4.0, 0.05  # of a component: |z| and volume

Mask = Bool[np.ndarray, "x y z"]
Labels = UInt8[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Component:
    """A connected piece of the map. centre_mm: RAS+. peak_z keeps its sign: below 0 is darker than
    the surroundings. mean_hu: of the scan; contrast_hu: against its surroundings, as smoothed.
    region, tissue: of the slice at its centre, and what most of it is in the coarse label map."""

    volume_ml: float
    centre_mm: tuple[float, float, float]
    peak_z: float
    mean_hu: float
    contrast_hu: float
    region: str
    tissue: str


@dataclass(frozen=True)
class Detection:
    """z: signed z-scores in place of HU, 0 outside the region of interest and the body.

    components: highest |z| first. score: of the scan. judged: the slabs that a calibration covers;
    left_out: a sentence for each that none does. calibrations: those that were used.
    """

    z: Volume
    components: tuple[Component, ...]
    score: float
    judged: tuple[RegionSpan, ...]
    left_out: tuple[str, ...]
    calibrations: tuple[Calibration, ...]


def detect(
    engine: Engine,
    context: ScanContext,
    calibrations: Sequence[Calibration],
    roi: Mask | None = None,
    threshold: float = THRESHOLD,
    options: RunOptions | None = None,
) -> Detection:
    """Where the context's scan differs from healthy ones, as `Model.detect` has it.

    calibrations: one a region, all of these weights; their method is followed. Slices whose region
    has no calibration are left out and named. roi: an organ as a rule: it is its own surroundings.
    `InputError` where a calibration is of other weights, or no slice can be scored.
    """
    options = options or RunOptions()
    check(calibrations, engine)
    volume, coarse = context.volume, context.coarse
    within = _within(volume, roi) & (coarse != OUTSIDE)
    by_region = {each.region: each for each in calibrations}
    slabs = context.spans
    judged = tuple(slab for slab in slabs if slab.region in by_region)
    left_out = tuple(
        f"slices {slab.start} to {slab.stop - 1} are left out: no calibration for the {slab.region}"
        for slab in slabs
        if slab not in judged
    )
    for sentence in left_out:
        options.say(sentence)
    open_ = np.zeros(volume.shape[2], bool)
    for slab in judged:
        open_[slab.start : slab.stop] = True
    within &= open_
    ensure(
        within.any(),
        f"nothing to judge: calibrations are for {', '.join(sorted(by_region)) or 'no region'}, and"
        " no voxel of the body in the region of interest lies there; give --region or --roi",
    )
    z, contrast_hu = np.zeros(volume.shape, np.float32), np.zeros(volume.shape, np.float32)
    weight = np.zeros(volume.shape[2], np.float32)
    parts = handover(slabs, volume.spacing_mm[2])
    for number, part in enumerate(parts):
        found = by_region.get(part.slab.region)
        inside = _in_part(within, part)
        if found is None or not inside.any():
            continue
        share, own = share_of(options, number, parts), np.ascontiguousarray(coarse[..., part.z])
        seen = evidence(engine, volume, coarse, found.region, inside, found.method, share, part.z)
        here = (seen.box.slices[0], seen.box.slices[1], _shifted(seen.box.slices[2], part.start))
        share_z = part.weight[seen.box.slices[2]]
        z[here] += share_z * scored(seen, own, found)
        contrast_hu[here] += share_z * seen.maps_hu[..., 0]
        weight[part.z] += part.weight
    # Beside a region that has no calibration the weights do not add up to one.
    for each in (z, contrast_hu):
        each *= within / np.where(weight > 0, weight, 1)
    result = volume.with_hu(z)
    found_in = components(result, contrast_hu, threshold, volume.hu, coarse, slabs)
    used = tuple(by_region[name] for name in dict.fromkeys(slab.region for slab in judged))
    score = scan_score(z, volume.spacing_mm)
    return Detection(result, found_in, score, judged, left_out, used)


def calibrate(
    engine: Engine,
    context: ScanContext,
    method: AnomalyMethod,
    healthy: Mask | None = None,
    options: RunOptions | None = None,
) -> tuple[Calibration, ...]:
    """What this healthy scan shows, a calibration for each region in it.

    healthy: voxels that count; leave out known illness. Merge those of one region over scans.
    """
    options = options or RunOptions()
    volume, coarse = context.volume, context.coarse
    keep, body = _within(volume, healthy), coarse != OUTSIDE
    weights = describe(engine.path)[2]
    result = []
    parts = handover(context.spans, volume.spacing_mm[2])
    for number, part in enumerate(parts):
        inside = _in_part(body, part)
        counts = (keep & inside)[..., part.z]
        if not counts.any():
            continue
        share, own = share_of(options, number, parts), np.ascontiguousarray(coarse[..., part.z])
        like = empty(part.slab.region, method, weights)
        seen = evidence(engine, volume, coarse, part.slab.region, inside, method, share, part.z)
        result.append(shown(seen, own, counts, like))
    ensure(result, "nothing to calibrate on: no healthy voxel of a body is left in the scan")
    return tuple(result)


def check(calibrations: Sequence[Calibration], engine: Engine) -> None:
    """`InputError` where a calibration was made with other weights than the model's, or two are for
    one region."""
    mine = describe(engine.path)[2]
    for number, each in enumerate(calibrations):
        ensure(
            each.weights == mine,
            f"the calibration for the {each.region} was made with the weights"
            f" {each.weights[:12] or 'of no name'}, not with {engine.path.name} ({mine[:12]}); make"
            " one for these with denovox calibrate and give it by --calibration",
        )
        ensure(
            each.region not in {other.region for other in calibrations[:number]},
            f"two calibrations are for the {each.region}; give one a region",
        )


def scan_score(
    z: Float[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float], top_ml: float = TOP_ML
) -> float:
    """Mean of |z| over the highest `top_ml`: steadier than the maximum, blind to where it is."""
    count = min(z.size, max(1, round(top_ml * 1000 / float(np.prod(spacing_mm)))))
    return float(np.partition(np.abs(z).ravel(), z.size - count)[-count:].mean())


def components(
    z: Volume,
    contrast_hu: Float[np.ndarray, "x y z"],
    threshold: float,
    hu: Float[np.ndarray, "x y z"],
    coarse: Labels,
    slabs: Sequence[RegionSpan],
) -> tuple[Component, ...]:
    """Pieces of |z| above the threshold, darker and brighter apart, highest |z| first.

    Those under `LEAST_ML` are dropped. hu, coarse: the scan, its label map. slabs: its regions.
    """
    voxel_ml = float(np.prod(z.spacing_mm)) / 1000
    found = []
    for sign in (1, -1):
        parts, _ = ndimage.label(sign * z.hu > threshold, np.ones((3, 3, 3)))
        for number, box in enumerate(ndimage.find_objects(parts), 1):
            inside = parts[box] == number
            volume_ml = float(inside.sum()) * voxel_ml
            if volume_ml < LEAST_ML:
                continue
            index = np.argwhere(inside).mean(0) + [s.start for s in box]
            right, front, up = (z.affine[:3, :3] @ index + z.affine[:3, 3]).tolist()
            found.append(
                Component(
                    volume_ml,
                    (right, front, up),
                    sign * float(np.abs(z.hu[box][inside]).max()),
                    float(hu[box][inside].mean()),
                    float(contrast_hu[box][inside].mean()),
                    next(s.region for s in slabs if index[2] < s.stop - 0.5 or s is slabs[-1]),
                    NAMES[int(np.bincount(coarse[box][inside]).argmax())],
                )
            )
    return tuple(sorted(found, key=lambda each: -abs(each.peak_z)))


def _in_part(within: Mask, part: Part) -> Mask:
    """Of a mask, what lies in the slices of a part that have weight."""
    out = np.zeros_like(within)
    out[..., part.z] = within[..., part.z] & (part.weight > 0)
    return out


def _shifted(along: slice, by: int) -> slice:
    return slice(along.start + by, along.stop + by)


def _within(volume: Volume, roi: Mask | None) -> Mask:
    if roi is None:
        return np.ones(volume.shape, bool)
    if roi.shape != volume.shape:
        raise InputError(f"the mask's grid is {roi.shape}, the scan's {volume.shape}")
    ensure(roi.any(), "the mask of the region of interest is empty; mark where to look")
    return roi
