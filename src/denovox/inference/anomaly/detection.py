"""Anomaly detection: where a scan differs from its surroundings in ways that healthy scans do not.

`maps.py` computes the maps and a calibration turns them into one z-score (Method 3); here they are
combined over the regions of a scan, split into components, and summarised in one score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt16
from scipy import ndimage

from ...core.errors import InputError, ensure
from ...core.labels import NAMES, OUTSIDE
from ...core.volume import Volume
from ...model.weights import describe
from ...scan.body_regions import RegionSpan
from ..engine import Engine
from ..options import RunOptions
from ..region_blend import Part, blend_parts, share_of
from ..scan_context import ScanContext
from .calibration import AnomalyMethod, Calibration, empty
from .maps import anomaly_maps, calibration_of, z_scores

TOP_ML = 0.3  # the scan's score is the mean of |z| over its highest 0.3 mL
THRESHOLD, MIN_ML = 4.0, 0.05  # of a component: |z| and volume

Mask = Bool[np.ndarray, "x y z"]
Labels = UInt8[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Component:
    """A connected piece of the map. centre_mm: RAS+. peak_z and mean_z are signed: below 0 is
    darker than the surroundings. mean_hu: of the scan; contrast_hu: against its surroundings,
    smoothed.
    region: of the slice at its centre. tissue: of most of its voxels in the coarse label map."""

    volume_ml: float
    centre_mm: tuple[float, float, float]
    peak_z: float
    mean_hu: float
    contrast_hu: float
    region: str
    tissue: str
    mean_z: float


@dataclass(frozen=True)
class Detection:
    """z: signed z-scores in place of HU, 0 outside the region of interest and the body.

    components: highest |z| first. score: of the scan. covered: the regions with a calibration;
    left_out: a sentence for each of the others. calibrations: those that were used.
    """

    z: Volume
    components: tuple[Component, ...]
    score: float
    covered: tuple[RegionSpan, ...]
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
    """Where the context's scan differs from healthy ones; see `Model.detect`.

    calibrations: one per region, all for these weights; their method is used. Slices whose region
    has no calibration are left out and reported. roi: usually an organ; only its own voxels then
    count as surroundings. `InputError` where a calibration is for other weights, or no slice can be
    scored.
    """
    options = options or RunOptions()
    check(calibrations, engine)
    volume, coarse = context.measured, context.coarse
    within = _within(volume, roi) & (coarse != OUTSIDE)
    by_region = {each.region: each for each in calibrations}
    spans = context.spans
    covered = tuple(span for span in spans if span.region in by_region)
    left_out = tuple(
        f"slices {span.start} to {span.stop - 1} are left out: no calibration for the {span.region}"
        for span in spans
        if span not in covered
    )
    for sentence in left_out:
        options.say(sentence)
    scored = np.zeros(volume.shape[2], bool)
    for span in covered:
        scored[span.start : span.stop] = True
    within &= scored
    ensure(
        within.any(),
        f"nothing to score: calibrations are for {', '.join(sorted(by_region)) or 'no region'}, and"
        " the region of interest has no body voxels there; give --region or --roi",
    )
    z, contrast_hu = np.zeros(volume.shape, np.float32), np.zeros(volume.shape, np.float32)
    weight = np.zeros(volume.shape[2], np.float32)
    parts = blend_parts(spans, volume.spacing_mm[2])
    for number, part in enumerate(parts):
        calibration = by_region.get(part.span.region)
        inside = _in_part(within, part)
        if calibration is None or not inside.any():
            continue
        share = share_of(options, number, parts)
        labels = np.ascontiguousarray(coarse[..., part.z])
        region, method = calibration.region, calibration.method
        maps = anomaly_maps(engine, volume, coarse, region, inside, method, share, part.z)
        x, y, along = maps.box.slices
        here = (x, y, _shifted(along, part.start))
        share_z = part.weight[along]
        z[here] += share_z * z_scores(maps, labels, calibration)
        contrast_hu[here] += share_z * maps.maps_hu[..., 0]
        weight[part.z] += part.weight
    # Next to a region without a calibration the weights do not sum to one.
    for values in (z, contrast_hu):
        values *= within / np.where(weight > 0, weight, 1)
    result = volume.with_hu(z)
    found = components(result, contrast_hu, threshold, volume.hu, coarse, spans)
    used = tuple(by_region[name] for name in dict.fromkeys(span.region for span in covered))
    score = scan_score(z, volume.spacing_mm)
    return Detection(result, found, score, covered, left_out, used)


def calibrate(
    engine: Engine,
    context: ScanContext,
    method: AnomalyMethod,
    healthy: Mask | None = None,
    options: RunOptions | None = None,
) -> tuple[Calibration, ...]:
    """Calibrations from one healthy scan, one for each region in it.

    healthy: voxels to use; exclude known disease. Merge those of the same region over scans.
    """
    options = options or RunOptions()
    volume, coarse = context.measured, context.coarse
    keep, body = _within(volume, healthy), coarse != OUTSIDE
    weights = describe(engine.path)[2]
    result = []
    parts = blend_parts(context.spans, volume.spacing_mm[2])
    for number, part in enumerate(parts):
        inside = _in_part(body, part)
        counts = (keep & inside)[..., part.z]
        if not counts.any():
            continue
        share = share_of(options, number, parts)
        labels = np.ascontiguousarray(coarse[..., part.z])
        region = part.span.region
        like = empty(region, method, weights)
        maps = anomaly_maps(engine, volume, coarse, region, inside, method, share, part.z)
        result.append(calibration_of(maps, labels, counts, like))
    ensure(result, "nothing to calibrate on: the scan has no healthy voxel within the body")
    return tuple(result)


def check(calibrations: Sequence[Calibration], engine: Engine) -> None:
    """`InputError` where a calibration was made with weights other than the model's, or two are for
    the same region."""
    mine = describe(engine.path)[2]
    for number, each in enumerate(calibrations):
        ensure(
            each.weights == mine,
            f"the calibration for the {each.region} was made with the weights"
            f" {each.weights[:12] or '(unknown)'}, not with {engine.path.name} ({mine[:12]});"
            " create one for these with denovox calibrate and pass it with --calibration",
        )
        ensure(
            each.region not in {other.region for other in calibrations[:number]},
            f"two calibrations are for the {each.region}; give one per region",
        )


def scan_score(
    z: Float[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float], top_ml: float = TOP_ML
) -> float:
    """Mean of |z| over the highest `top_ml`, wherever it is: more robust than the maximum."""
    count = min(z.size, max(1, round(top_ml * 1000 / float(np.prod(spacing_mm)))))
    return float(np.partition(np.abs(z).ravel(), z.size - count)[-count:].mean())


def components(
    z: Volume,
    contrast_hu: Float[np.ndarray, "x y z"],
    threshold: float,
    hu: Float[np.ndarray, "x y z"],
    coarse: Labels,
    spans: Sequence[RegionSpan],
) -> tuple[Component, ...]:
    """Connected pieces of |z| above the threshold, dark and bright separately, highest |z| first.

    Those under `MIN_ML` are dropped. hu, coarse: the scan, its label map. spans: its regions.
    """
    found = []
    for box, inside, peak_z in _pieces(z, threshold):
        index = np.argwhere(inside).mean(0) + [s.start for s in box]
        right, front, up = (z.affine[:3, :3] @ index + z.affine[:3, 3]).tolist()
        found.append(
            Component(
                float(inside.sum()) * _voxel_ml(z),
                (right, front, up),
                peak_z,
                float(hu[box][inside].mean()),
                float(contrast_hu[box][inside].mean()),
                next(s.region for s in spans if index[2] < s.stop - 0.5 or s is spans[-1]),
                NAMES[int(np.bincount(coarse[box][inside]).argmax())],
                float(z.hu[box][inside].mean()),
            )
        )
    return tuple(found)


def numbered(z: Volume, threshold: float) -> UInt16[np.ndarray, "x y z"]:
    """Voxels of the components of a map, numbered from 1 in the order of `components`; 0: none."""
    out = np.zeros(z.shape, np.uint16)
    for number, (box, inside, _) in enumerate(_pieces(z, threshold), 1):
        out[box][inside] = number
    return out


def _pieces(z: Volume, threshold: float) -> list[tuple[tuple[slice, ...], Mask, float]]:
    """Box, mask within the box, and peak z of each component, highest |z| first."""
    found = []
    for sign in (1, -1):
        parts, _ = ndimage.label(sign * z.hu > threshold, np.ones((3, 3, 3)))
        for number, box in enumerate(ndimage.find_objects(parts), 1):
            inside = parts[box] == number
            if float(inside.sum()) * _voxel_ml(z) >= MIN_ML:
                found.append((box, inside, sign * float(np.abs(z.hu[box][inside]).max())))
    return sorted(found, key=lambda each: -abs(each[2]))


def _voxel_ml(z: Volume) -> float:
    return float(np.prod(z.spacing_mm)) / 1000


def _in_part(within: Mask, part: Part) -> Mask:
    """The mask, restricted to the slices of a part that have weight."""
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
