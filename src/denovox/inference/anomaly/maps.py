"""A scan compared with its surroundings, and with a healthy estimate of it.

Noise of sigma* hides what the model has no reason to expect; from there, the model returns to what
it considers healthy (Method 2), and the rest of the scan is its residual. A model as small as ours
reproduces much of a large lesion, and its estimate may be off by as much over a whole organ. So
there is a second map, without a model: the scan minus its local mean in the same organ. A
calibration weights the two by tissue and place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from ...core.box import Box, bounding_box
from ...core.condition import Condition
from ...core.labels import AIRWAY, BONE, LUNG, OUTSIDE
from ...core.morphology import dilate_mm, erode_mm
from ...core.regions import region as region_named
from ...core.resample import resize
from ...core.tensors import tensor
from ...core.volume import Volume
from ...reports.recorder import decided
from ...sampling.sampler import Noise, Vol
from ...tasks import anomaly
from ..engine import Engine
from ..frame import Frame, working_grid
from ..options import RunOptions
from .calibration import AnomalyMethod, Calibration, classes_of, measured, places_of

CONTEXT_MM = 18.0  # around the region of interest: the network sees it, its output is discarded
LUNG_MM = 12.0  # the surroundings of what the lung encloses, up to twice as wide, are the lung
WORK_MM = 5.0  # of the grid on which local means are computed
LEAST_SHARE = 1e-3

Mask = Bool[np.ndarray, "x y z"]
Labels = UInt8[np.ndarray, "x y z"]


@dataclass(frozen=True)
class AnomalyMaps:
    """The maps of a box of the scan, HU: its contrast and its residual, both smoothed."""

    maps_hu: Float[np.ndarray, "x y z k"]
    estimate: Volume
    box: Box


def anomaly_maps(
    engine: Engine,
    volume: Volume,
    coarse: Labels,
    region: str,
    roi: Mask,
    method: AnomalyMethod,
    options: RunOptions,
    z: slice | None = None,
) -> AnomalyMaps:
    """The maps of a region of interest, clipped to the window of its region.

    z: the slices that form the region, all if None; the result's box is relative to them. The
    network processes the ROI's bounding box and `CONTEXT_MM` around it, at its position in the
    region; outside the ROI it sees the scan.
    """
    z = slice(0, volume.shape[2]) if z is None else z
    window, box = region_named(region).window, around(roi[..., z], volume.spacing_mm)
    whole = Box((*box.start[:2], box.start[2] + z.start), box.size)
    grid = working_grid(volume, engine.config.spacing_mm)
    decided("working grid", [grid])
    frame = Frame.of_box(volume, grid, region_named(region), whole, z)
    scan = np.clip(window.unit(volume.hu.astype(np.float32)), -1, 1)
    condition = frame.condition(coarse if method.anatomy else np.zeros_like(coarse))
    residual = _residual(
        engine, frame, frame.to_grid(scan), frame.labels(roi), condition, method, options
    )
    if not frame.own_grid:
        # Resample the residual, not the estimate: detail lost on a coarser grid is not an anomaly.
        residual = frame.from_grid(residual, whole.slices)
    scan = scan[whole.slices]
    anatomy = np.ascontiguousarray(coarse[..., z])
    inside = roi[..., z] & (anatomy != OUTSIDE)
    groups = np.where(inside, surroundings(anatomy, volume.spacing_mm), np.uint8(0))[box.slices]
    half = np.float32(window.width_hu / 2)
    difference = contrast(scan * half, groups, volume.spacing_mm, method)
    # Smoothed before taking magnitudes: noise averages out, lesions do not.
    steps = [method.smooth_mm / mm for mm in volume.spacing_mm]
    both = (difference, np.where(groups > 0, residual * half, np.float32(0)))
    maps = [ndimage.gaussian_filter(each, steps, mode="nearest") for each in both]
    estimate = Volume(window.hu(scan - residual).astype(np.float32), volume.affine)
    return AnomalyMaps(np.stack(maps, -1), estimate, box)


def _residual(
    engine: Engine,
    frame: Frame,
    scan: Float[np.ndarray, "u v w"],
    roi: Mask,
    condition: Condition,
    method: AnomalyMethod,
    options: RunOptions,
) -> Float[np.ndarray, "u v w"]:
    """The scan in a frame, minus its healthy estimate within the ROI; model units."""
    known = tensor(~roi).to(engine.device)
    y = tensor(scan).to(engine.device)
    total = torch.zeros_like(y)
    for number in range(method.seeds):
        drawn = frame.noise(options.seed + number // 2, engine.device)

        def noise(stream: int, number: int = number, drawn: Noise = drawn) -> Vol:
            # In pairs of opposite sign: first-order effects of the noise on the estimate cancel.
            return -drawn(stream) if number % 2 else drawn(stream)

        task = anomaly(y, method.sigma_star, method.steps, known, noise)
        needed = ~known[0, 0] if task.evaluations == 1 else None
        total += engine.run(task, condition, noise, options.part(number, method.seeds), needed)
    return scan - (total / method.seeds)[0, 0].cpu().numpy()


def surroundings(coarse: Labels, spacing_mm: tuple[float, float, float]) -> Labels:
    """1 lung and what it encloses, 2 bone, 3 the rest of the body, 0 outside it."""
    step = tuple(max(1, round(3.0 / mm)) for mm in spacing_mm)
    small = coarse[:: step[0], :: step[1], :: step[2]]
    airy = (small == LUNG) | (small == AIRWAY)
    if airy.any():
        x, y, z = (s * n for s, n in zip(spacing_mm, step, strict=True))
        near = dilate_mm(airy, LUNG_MM, (x, y, z))
        if not near.all():
            airy |= erode_mm(near, LUNG_MM, (x, y, z))
    group = np.where(coarse == OUTSIDE, 0, 3).astype(np.uint8)
    for axis, times in enumerate(step):
        airy = airy.repeat(times, axis)
    airy = airy[tuple(slice(0, n) for n in coarse.shape)]
    group[airy & (group > 0)] = 1
    group[(coarse == LUNG) | (coarse == AIRWAY)] = 1
    group[coarse == BONE] = 2
    return group


def contrast(
    hu: Float[np.ndarray, "x y z"],
    groups: Labels,
    spacing_mm: tuple[float, float, float],
    method: AnomalyMethod,
) -> Float[np.ndarray, "x y z"]:
    """HU minus the local mean of the same group, clipped; 0 in group 0.

    Clipped because a vessel in the lung, small but of a thousand HU, would outweigh any lesion.
    """
    difference = np.zeros(hu.shape, np.float32)
    for group in np.unique(groups[groups > 0]):
        inside = groups == group
        mean = _local_mean(hu, inside, spacing_mm, method.reach_mm)
        difference[inside] = np.clip(hu - mean, -method.clip_hu, method.clip_hu)[inside]
    return difference


def _local_mean(
    hu: Float[np.ndarray, "x y z"], inside: Mask, spacing_mm: tuple[float, ...], reach_mm: float
) -> Float[np.ndarray, "x y z"]:
    """Normalised convolution with a Gaussian, wide enough for a coarse grid to suffice."""
    work_mm = min(WORK_MM, reach_mm / 3)
    grid = [max(1, round(n * mm / work_mm)) for n, mm in zip(hu.shape, spacing_mm, strict=True)]
    grid = [min(n, m) for n, m in zip(grid, hu.shape, strict=True)]
    share = inside.astype(np.float32)
    steps = [reach_mm * m / (n * mm) for n, m, mm in zip(hu.shape, grid, spacing_mm, strict=True)]
    total, weight = (
        ndimage.gaussian_filter(resize(each, grid), steps, mode="nearest")
        for each in (hu * share, share)
    )
    return resize(total / np.maximum(weight, LEAST_SHARE), hu.shape)


# -- compared with healthy scans


def z_scores(
    maps: AnomalyMaps, coarse: Labels, calibration: Calibration
) -> Float[np.ndarray, "u v w"]:
    """The z-scores of the maps, in their box."""
    classes = classes_of(maps.estimate, np.ascontiguousarray(coarse[maps.box.slices]))
    places = places_of(coarse, calibration.bins)[maps.box.slices]
    return calibration.z(maps.maps_hu, classes, places)


def calibration_of(maps: AnomalyMaps, coarse: Labels, keep: Mask, like: Calibration) -> Calibration:
    """The calibration from one scan's maps, over the body voxels in `keep`."""
    labels = np.ascontiguousarray(coarse[maps.box.slices])
    classes = classes_of(maps.estimate, labels)
    places = places_of(coarse, like.bins)[maps.box.slices]
    voxel_ml = float(np.prod(maps.estimate.spacing_mm)) / 1000
    counts = keep[maps.box.slices] & (labels != OUTSIDE)
    return measured(maps.maps_hu, classes, places, counts, voxel_ml, like)


# -- boxes


def around(roi: Mask, spacing_mm: tuple[float, float, float]) -> Box:
    """The bounding box of a mask plus `CONTEXT_MM` around it, within the scan."""
    return bounding_box(roi, [round(CONTEXT_MM / mm) for mm in spacing_mm])
