"""What a scan shows against its surroundings, and against a healthy estimate of it.

Noise of sigma* hides what the model has no reason to expect; from there it comes back to what it
thinks healthy (METHOD 2), and what the scan has beside that is its residual. A model as small as
ours gives much of a large lesion back, and its estimate may be off by as much over a whole organ.
So there is a second map, without a model: the scan less its local mean in the same organ. What each
is worth, at that tissue and place, a calibration says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from ...core.box import Box, bounding_box
from ...core.labels import AIRWAY, BONE, LUNG, OUTSIDE
from ...core.regions import region as region_named
from ...core.resample import resize
from ...core.tensors import tensor
from ...core.volume import Volume
from ...sampling.sampler import Noise, Vol
from ...tasks import anomaly
from ..engine import Engine
from ..frame import Frame, working_grid
from ..options import RunOptions
from .calibration import AnomalyMethod, Calibration, classes_of, measured, places_of

CONTEXT_MM = 18.0  # around the region of interest, which the network sees and nobody keeps
LUNG_MM = 12.0  # what the lung encloses, up to twice as wide, has the lung for surroundings
WORK_MM = 5.0  # of the grid on which local means are taken
LEAST_SHARE = 1e-3

Mask = Bool[np.ndarray, "x y z"]
Labels = UInt8[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Evidence:
    """The maps of a box of the scan, HU: its contrast and its residual, both smoothed."""

    maps_hu: Float[np.ndarray, "x y z k"]
    estimate: Volume
    box: Box


def evidence(
    engine: Engine,
    volume: Volume,
    coarse: Labels,
    region: str,
    roi: Mask,
    method: AnomalyMethod,
    options: RunOptions,
    z: slice | None = None,
) -> Evidence:
    """The maps of a region of interest, cut to the window of its region.

    z: the slices that are the region, all if None; the result's box is counted in them. The
    network works on the ROI's bounding box and `CONTEXT_MM` around it, at its position in the
    region; outside the ROI it sees the scan.
    """
    own = slice(0, volume.shape[2]) if z is None else z
    window, box = region_named(region).window, around(roi[..., own], volume.spacing_mm)
    scan, left = _split(engine, volume, coarse, region, roi, box, own, method, options)
    anatomy = np.ascontiguousarray(coarse[..., own])
    inside = roi[..., own] & (anatomy != OUTSIDE)
    groups = np.where(inside, surroundings(anatomy, volume.spacing_mm), np.uint8(0))[box.slices]
    half = np.float32(window.width_hu / 2)
    off = contrast(scan * half, groups, volume.spacing_mm, method)
    # Smoothed before its size is taken: noise averages out, lesions do not.
    steps = [method.smooth_mm / mm for mm in volume.spacing_mm]
    both = (off, np.where(groups > 0, left * half, np.float32(0)))
    maps = [ndimage.gaussian_filter(each, steps, mode="nearest") for each in both]
    estimate = Volume(window.hu(scan - left).astype(np.float32), volume.affine)
    return Evidence(np.stack(maps, -1), estimate, box)


def _split(
    engine: Engine,
    volume: Volume,
    coarse: Labels,
    region: str,
    roi: Mask,
    box: Box,
    z: slice,
    method: AnomalyMethod,
    options: RunOptions,
) -> tuple[Float[np.ndarray, "u v w"], Float[np.ndarray, "u v w"]]:
    """The scan in a box of slices z, and what of it the healthy estimate leaves; model units."""
    grid = working_grid(volume, engine.config.spacing_mm)
    whole = Box((*box.start[:2], box.start[2] + z.start), box.size)
    frame = Frame.of_box(volume, grid, region_named(region), whole, z)
    scan = np.clip(frame.region.window.unit(volume.hu.astype(np.float32)), -1, 1)
    condition = frame.condition(coarse if method.anatomy else np.zeros_like(coarse))
    known = tensor(~frame.labels(roi)).to(engine.device)
    work = frame.to_grid(scan)
    y = tensor(work).to(engine.device)
    total = torch.zeros_like(y)
    for number in range(method.seeds):
        drawn = frame.noise(options.seed + number // 2, engine.device)

        def noise(stream: int, number: int = number, drawn: Noise = drawn) -> Vol:
            # In pairs of opposite sign: what the noise does to an estimate in first order cancels.
            return -drawn(stream) if number % 2 else drawn(stream)

        task = anomaly(y, method.sigma_star, method.steps, known, noise)
        total += engine.run(task, condition, noise, options.part(number, method.seeds))
    left = work - (total / method.seeds)[0, 0].cpu().numpy()
    if not frame.own_grid:
        # What is left is brought back, not the estimate: what a coarser grid lost is no finding.
        left = frame.from_grid(left, whole.slices)
    return scan[whole.slices], left


def surroundings(coarse: Labels, spacing_mm: tuple[float, float, float]) -> Labels:
    """1 lung with what it encloses, 2 bone, 3 the rest of the body, 0 outside it."""
    step = tuple(max(1, round(3.0 / mm)) for mm in spacing_mm)
    small = coarse[:: step[0], :: step[1], :: step[2]]
    airy = (small == LUNG) | (small == AIRWAY)
    if airy.any():
        mm = [s * n for s, n in zip(spacing_mm, step, strict=True)]
        near = ndimage.distance_transform_edt(~airy, mm) <= LUNG_MM
        if not near.all():
            airy |= ndimage.distance_transform_edt(near, mm) > LUNG_MM
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
    """HU less the local mean of the same group, clipped; 0 in group 0.

    Clipped, because a vessel in the lung, small but of a thousand HU, would outweigh any lesion.
    """
    off = np.zeros(hu.shape, np.float32)
    for group in np.unique(groups[groups > 0]):
        inside = groups == group
        mean = _local_mean(hu, inside, spacing_mm, method.reach_mm)
        off[inside] = np.clip(hu - mean, -method.clip_hu, method.clip_hu)[inside]
    return off


def _local_mean(
    hu: Float[np.ndarray, "x y z"], inside: Mask, spacing_mm: tuple[float, ...], reach_mm: float
) -> Float[np.ndarray, "x y z"]:
    """Normalised convolution with a Gaussian: so wide that a coarse grid will do."""
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


# -- against the healthy


def scored(seen: Evidence, coarse: Labels, calibration: Calibration) -> Float[np.ndarray, "u v w"]:
    """The z-scores of the maps, in their box."""
    classes = classes_of(seen.estimate, np.ascontiguousarray(coarse[seen.box.slices]))
    places = places_of(coarse, calibration.bins)[seen.box.slices]
    return calibration.z(seen.maps_hu, classes, places)


def shown(seen: Evidence, coarse: Labels, keep: Mask, like: Calibration) -> Calibration:
    """The calibration of one scan's maps, over the voxels of the body to keep."""
    own = np.ascontiguousarray(coarse[seen.box.slices])
    classes = classes_of(seen.estimate, own)
    places = places_of(coarse, like.bins)[seen.box.slices]
    voxel_ml = float(np.prod(seen.estimate.spacing_mm)) / 1000
    counts = keep[seen.box.slices] & (own != OUTSIDE)
    return measured(seen.maps_hu, classes, places, counts, voxel_ml, like)


# -- boxes


def around(roi: Mask, spacing_mm: tuple[float, float, float]) -> Box:
    """The bounding box of a mask and `CONTEXT_MM` around it, within the scan."""
    return bounding_box(roi, [round(CONTEXT_MM / mm) for mm in spacing_mm])
