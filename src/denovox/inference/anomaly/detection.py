"""Anomaly detection: where a scan differs from its surroundings in ways that healthy scans do not.

`maps.py` computes the maps and a calibration turns them into one z-score (Method 3); here they are
combined over the regions of a scan, split into components, and summarised in one score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from ...core.box import Shape
from ...core.errors import InputError, ensure
from ...core.labels import OUTSIDE
from ...core.volume import Volume
from ...model.weights import describe
from ...scan.body_regions import RegionSpan
from ..engine import Engine
from ..frame import working_grid
from ..memory import Room, slabs, work_mb
from ..options import RunOptions
from ..region_blend import Part, blend_parts, share_of
from ..scan_context import ScanContext, stored_bytes
from .calibration import AnomalyMethod, Calibration, empty
from .components import LIMITS, Component, ComponentLimits, components, scan_score
from .estimate import Wanted
from .maps import PartMaps, anomaly_maps, calibration_of, reach_of, z_scores

LEAST_SLICES, SLICE_BYTES = 8, 48  # of maps that are computed at a time; per voxel of them
Mask = Bool[np.ndarray, "x y z"]
Labels = UInt8[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Detection:
    """z: signed z-scores in place of HU, 0 outside the region of interest and the body.

    components: highest |z| first, within these limits. score: their highest mean |z|. covered:
    the regions with a calibration; left_out: a sentence for each of the others. calibrations: those
    that were used.
    """

    z: Volume
    components: tuple[Component, ...]
    score: float
    covered: tuple[RegionSpan, ...]
    left_out: tuple[str, ...]
    calibrations: tuple[Calibration, ...]
    limits: ComponentLimits


def detect(
    engine: Engine,
    context: ScanContext,
    calibrations: Sequence[Calibration],
    roi: Mask | None = None,
    limits: ComponentLimits = LIMITS,
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
    within = within_spans(coarse, covered, roi)
    ensure(
        within.any(),
        f"nothing to score: calibrations are for {', '.join(sorted(by_region)) or 'no region'}, and"
        " the region of interest has no body voxels there; give --region or --roi",
    )
    weight = np.zeros(volume.shape[2], np.float32)
    parts = blend_parts(spans, volume.spacing_mm[2])
    room = _room(engine, context, calibrations, options)
    z, contrast_hu = room.zeros(volume.shape), room.zeros(volume.shape)
    for number, wanted in wanted_in(volume, coarse, parts, within, by_region):
        part, share, own = parts[number], share_of(options, number, parts), room.part()
        prepared = PartMaps.of(engine, wanted, share, own)
        for some in slabs(prepared.box.size[2], slices_at_once(own.left_mb, volume.shape)):
            maps = prepared.at(some)
            x, y, along = maps.box.slices
            here = (x, y, _shifted(along, part.start))
            share_z = part.weight[along]
            z[here] += share_z * z_scores(maps, by_region[wanted.region])
            contrast_hu[here] += share_z * maps.maps_hu[..., 0]
            room.release()
        weight[part.z] += part.weight
    # Next to a region without a calibration the weights do not sum to one.
    for some in slabs(volume.shape[2]):
        of_voxel = within[..., some] / np.where(weight > 0, weight, 1)[some]
        z[..., some] *= of_voxel
        contrast_hu[..., some] *= of_voxel
        room.release()
    result = volume.with_hu(z)
    found = components(result, contrast_hu, limits, volume.hu, coarse, spans)
    room.release()
    used = tuple(by_region[name] for name in dict.fromkeys(span.region for span in covered))
    return Detection(result, found, scan_score(found), covered, left_out, used, limits)


def within_spans(
    coarse: Labels, spans: Sequence[RegionSpan], roi: Bool[np.ndarray, "u v w"] | None = None
) -> Mask:
    """The body in the slices of some regions, within a region of interest."""
    scored = np.zeros(coarse.shape[2], bool)
    for span in spans:
        scored[span.start : span.stop] = True
    within = _within(coarse, roi)
    within &= scored
    return within


def wanted_in(
    volume: Volume,
    coarse: Labels,
    parts: Sequence[Part],
    within: Mask,
    calibrations: Mapping[str, Calibration],
) -> Iterator[tuple[int, Wanted]]:
    """What maps are computed of, part by part, with the number of the part.

    within: the voxels to score. calibrations: by region; their method is used.
    """
    for number, part in enumerate(parts):
        calibration = calibrations.get(part.span.region)
        inside = _in_part(within, part)
        if calibration is not None and inside[..., part.z].any():
            region = part.span.region
            yield number, Wanted(volume, coarse, region, inside, part.z, calibration.method)


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
    keep, body = _within(coarse, healthy), coarse != OUTSIDE
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


def _in_part(within: Mask, part: Part) -> Mask:
    """The mask, restricted to the slices of a part that have weight."""
    if len(part.weight) == within.shape[2] and (part.weight > 0).all():
        return within
    out = np.zeros_like(within)
    out[..., part.z] = within[..., part.z] & (part.weight > 0)
    return out


def _shifted(along: slice, by: int) -> slice:
    return slice(along.start + by, along.stop + by)


def _within(coarse: Labels, roi: Bool[np.ndarray, "u v w"] | None) -> Mask:
    """The body, within a region of interest."""
    within: Mask = coarse != OUTSIDE
    if roi is not None:
        if roi.shape != coarse.shape:
            raise InputError(f"the mask's grid is {roi.shape}, the scan's {coarse.shape}")
        ensure(roi.any(), "the mask of the region of interest is empty; mark where to look")
        within &= roi
    return within


def _room(
    engine: Engine, context: ScanContext, calibrations: Sequence[Calibration], options: RunOptions
) -> Room:
    """Where the maps are kept. Besides the scan, its labels and the ROI are in memory."""
    volume = context.measured
    held = volume.hu.nbytes + 2 * context.coarse.nbytes + stored_bytes(context.volume)
    own_grid = working_grid(volume, engine.config.spacing_mm) == volume.shape
    several = any(each.method.steps > 1 for each in calibrations)
    kind = "sample" if several else "stream" if own_grid else "resampled"
    network = work_mb(engine, kind, volume.shape, options, blend=True)
    reach = max((reach_of(each.method, volume.spacing_mm[2]) for each in calibrations), default=0)
    smoothing = maps_mb(volume.shape, LEAST_SLICES, reach)
    return Room.beside(volume.shape, held / 1e6, max(network, smoothing), options)


def maps_mb(shape: Shape, slices: int, reach: int) -> float:
    """What it takes to compute maps for so many slices of a box at a time; reach: `reach_of`."""
    x, y, z = shape
    return x * y * min(z, slices + 2 * reach) * SLICE_BYTES / 1e6


def slices_at_once(left_mb: float, shape: Shape) -> int:
    """How many slices to compute maps for at a time, which changes nothing about them.

    left_mb: memory beside `LEAST_SLICES` of them. shape: of the scan.
    """
    x, y, z = shape
    more = left_mb * 1e6 / (x * y * SLICE_BYTES)
    return min(z, LEAST_SLICES + max(0, int(more)))
