"""Anomaly maps: the scan against a healthy estimate of it, in units of what healthy scans show.

Noise of sigma* hides what the model has no reason to expect; from there it comes back to what it
thinks healthy (METHOD 2). The residual, scan - estimate in HU, keeps its sign and is smoothed
*before* its size is taken: noise averages out, lesions do not. A calibration then divides it by
what healthy scans show at that place and tissue (METHOD 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from ..core.box import Box, Shape
from ..core.condition import condition
from ..core.errors import InputError, ensure
from ..core.labels import OUTSIDE
from ..core.noise import normal
from ..core.regions import region as region_named
from ..core.resample import nearest, resize
from ..core.volume import Volume
from ..data import anatomy as anatomy_of
from ..data.calibration import Calibration, Method, classes_of, empty, measured, places_of
from ..data.regions_along import Slab
from ..sampling.sample import Vol
from ..tasks import anomaly
from .api import Model, Running, slabs_of, working_grid

CONTEXT_MM = 18.0  # around the region of interest, which the network sees and nobody keeps
TOP_ML = 0.3  # the scan's score is the mean of |z| over its highest 0.3 mL
THRESHOLD, LEAST_ML = 4.0, 0.05  # of a component: |z| and volume

Mask = Bool[np.ndarray, "x y z"]
Labels = UInt8[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Component:
    """A connected piece of the map. centre_mm: RAS+; peak_z and mean_hu keep their sign: below 0
    the scan is darker than the healthy estimate."""

    volume_ml: float
    centre_mm: tuple[float, float, float]
    peak_z: float
    mean_hu: float


@dataclass(frozen=True)
class Detection:
    """z: signed z-scores in place of HU, 0 outside the region of interest and the body.
    residual_hu: smoothed, on the same grid. components: highest |z| first. score: of the scan."""

    z: Volume
    residual_hu: Volume
    components: tuple[Component, ...]
    score: float


@dataclass(frozen=True)
class Residual:
    """Scan - healthy estimate in a box of the scan: smoothed, HU; and the estimate itself."""

    hu: Float[np.ndarray, "x y z"]
    estimate: Volume
    box: Box


def detect(
    model: Model,
    volume: Volume,
    calibrations: Sequence[Calibration],
    region: str | None = None,
    roi: Mask | None = None,
    threshold: float = THRESHOLD,
    running: Running | None = None,
) -> Detection:
    """Where a scan is not what healthy ones are.

    calibrations: one a region, all of this model's; their method is followed. region: as in
    `Model.denoise`; slices whose region has no calibration are left out and named. roi: where to
    look; outside it the scan is taken as it is. `InputError` where no slice can be judged.
    """
    running = running or Running()
    coarse = anatomy_of.coarse(volume)
    within = _within(volume, roi)
    by_region = {each.region: each for each in calibrations}
    z, residual_hu = np.zeros(volume.shape, np.float32), np.zeros(volume.shape, np.float32)
    judged = 0
    for slab in slabs_of(volume, coarse, region, running.say):
        part = _slices(within, slab)
        found = by_region.get(slab.region)
        if found is None:
            slices = f"slices {slab.start} to {slab.stop - 1}"
            running.say(f"{slices} are left out: no calibration for the {slab.region}")
        elif part.any():
            ensure(
                found.weights == model.path.name,
                f"the calibration was made with the weights {found.weights}, not with"
                f" {model.path.name}; make one for them (app.detection.calibrate)",
            )
            seen = residual(model, volume, coarse, slab.region, part, found.method, running)
            score = scored(seen, coarse, found)
            inside = part[seen.box.slices] & (coarse[seen.box.slices] != OUTSIDE)
            z[seen.box.slices] += np.where(inside, score, 0)
            residual_hu[seen.box.slices] += np.where(inside, seen.hu, 0)
            judged += int(inside.sum())
    ensure(
        judged,
        f"nothing to judge: calibrations are for {', '.join(sorted(by_region)) or 'no region'}, and"
        " no voxel of the body in the region of interest lies there; give --region or --roi",
    )
    return Detection(
        volume.with_hu(z),
        volume.with_hu(residual_hu),
        components(z, residual_hu, volume, threshold),
        scan_score(z, volume.spacing_mm),
    )


def calibrate(
    model: Model,
    volume: Volume,
    method: Method,
    region: str | None = None,
    healthy: Mask | None = None,
    running: Running | None = None,
) -> tuple[Calibration, ...]:
    """What this healthy scan shows, a calibration for each region in it.

    healthy: voxels that count; leave out known illness. Merge those of one region over scans.
    """
    running = running or Running()
    coarse = anatomy_of.coarse(volume)
    within = _within(volume, healthy)
    made = []
    for slab in slabs_of(volume, coarse, region, running.say):
        part = _slices(within, slab)
        if part.any():
            seen = residual(model, volume, coarse, slab.region, part, method, running)
            like = empty(slab.region, method, model.path.name)
            made.append(shown(seen, coarse, part, like))
    return tuple(made)


def residual(
    model: Model,
    volume: Volume,
    coarse: Labels,
    region: str,
    roi: Mask,
    method: Method,
    running: Running,
) -> Residual:
    """What is left of the scan when a healthy estimate of it is taken away, around a ROI.

    Both are cut to the region's window. The model works on the ROI's bounding box and
    `CONTEXT_MM` around it, and is told where in the scan that lies.
    """
    grid = working_grid(volume, model.config.spacing_mm)
    box = _around(roi, volume.spacing_mm)
    own = _on(box, volume.shape, grid)
    row = region_named(region)
    unit = np.clip(row.window.unit(volume.hu.astype(np.float32)), -1, 1)
    if grid != volume.shape:
        unit = resize(unit, grid)
    anatomy = nearest(coarse, grid) if method.anatomy else np.zeros(grid, np.uint8)
    mm = tuple(s * n / m for s, n, m in zip(volume.spacing_mm, volume.shape, grid, strict=True))
    told = condition(grid, (mm[0], mm[1], mm[2]), row.id, torch.from_numpy(anatomy)).crop(own)
    known = torch.from_numpy(~nearest(roi, grid)[own.slices])[None, None].to(model.device)
    y = torch.from_numpy(np.ascontiguousarray(unit[own.slices]))[None, None].to(model.device)
    total = torch.zeros_like(y)
    for number in range(method.seeds):
        share = _nth(running, number, method.seeds)

        def noise(stream: int, number: int = number) -> Vol:
            # In pairs of opposite sign: what the noise does to an estimate in first order cancels.
            drawn = normal(running.seed + number // 2, stream, grid, own, model.device)
            return -drawn if number % 2 else drawn

        task = anomaly(y, method.sigma_star, method.steps, known, noise)
        total += model.run(task, told, noise, share)
    estimate = (total / method.seeds)[0, 0].cpu().numpy()
    left = y[0, 0].cpu().numpy() - estimate
    if grid != volume.shape:
        ratio = np.array(grid) / volume.shape
        start = (np.array(box.start) * ratio - own.start).tolist()
        size = (np.array(box.size) * ratio).tolist()
        estimate, left = (resize(each, box.size, start, size) for each in (estimate, left))
    steps = [method.smooth_mm / s for s in volume.spacing_mm]
    smooth = ndimage.gaussian_filter(left * (row.window.width_hu / 2), steps, mode="nearest")
    hu = row.window.hu(estimate).astype(np.float32)
    return Residual(smooth.astype(np.float32), Volume(hu, volume.affine), box)


def scored(seen: Residual, coarse: Labels, calibration: Calibration) -> Float[np.ndarray, "u v w"]:
    """The z-scores of a residual, in its box."""
    classes = classes_of(seen.estimate, np.ascontiguousarray(coarse[seen.box.slices]))
    places = places_of(coarse, calibration.bins)[seen.box.slices]
    return calibration.z(seen.hu, classes, places)


def shown(seen: Residual, coarse: Labels, keep: Mask, like: Calibration) -> Calibration:
    """The calibration of one scan's residual, over the voxels to keep."""
    classes = classes_of(seen.estimate, np.ascontiguousarray(coarse[seen.box.slices]))
    places = places_of(coarse, like.bins)[seen.box.slices]
    voxel_ml = float(np.prod(seen.estimate.spacing_mm)) / 1000
    return measured(seen.hu, classes, places, keep[seen.box.slices], voxel_ml, like)


def scan_score(
    z: Float[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float], top_ml: float = TOP_ML
) -> float:
    """Mean of |z| over the highest `top_ml`: steadier than the maximum, blind to where it is."""
    count = min(z.size, max(1, round(top_ml * 1000 / float(np.prod(spacing_mm)))))
    return float(np.partition(np.abs(z).ravel(), z.size - count)[-count:].mean())


def components(
    z: Float[np.ndarray, "x y z"],
    residual_hu: Float[np.ndarray, "x y z"],
    volume: Volume,
    threshold: float = THRESHOLD,
    least_ml: float = LEAST_ML,
) -> tuple[Component, ...]:
    """Pieces of |z| above the threshold, darker and brighter apart, highest |z| first."""
    voxel_ml = float(np.prod(volume.spacing_mm)) / 1000
    found = []
    for sign in (1, -1):
        parts, _ = ndimage.label(sign * z > threshold, np.ones((3, 3, 3)))
        for number, box in enumerate(ndimage.find_objects(parts), 1):
            inside = parts[box] == number
            volume_ml = float(inside.sum()) * voxel_ml
            if volume_ml < least_ml:
                continue
            index = np.argwhere(inside).mean(0) + [s.start for s in box]
            x, y, at_z = volume.affine[:3, :3] @ index + volume.affine[:3, 3]
            peak = sign * float(np.abs(z[box][inside]).max())
            mean_hu = float(residual_hu[box][inside].mean())
            found.append(Component(volume_ml, (float(x), float(y), float(at_z)), peak, mean_hu))
    return tuple(sorted(found, key=lambda each: -abs(each.peak_z)))


def _nth(running: Running, number: int, of: int) -> Running:
    """Running, whose `done` counts a run as one of several."""

    def done(share: float) -> None:
        running.done((number + share) / of)

    return replace(running, done=done)


def _within(volume: Volume, roi: Mask | None) -> Mask:
    if roi is None:
        return np.ones(volume.shape, bool)
    if roi.shape != volume.shape:
        raise InputError(f"the mask's grid is {roi.shape}, the scan's {volume.shape}")
    ensure(roi.any(), "the mask of the region of interest is empty; mark where to look")
    return roi


def _slices(roi: Mask, slab: Slab) -> Mask:
    part = np.zeros_like(roi)
    part[..., slab.start : slab.stop] = roi[..., slab.start : slab.stop]
    return part


def _around(roi: Mask, spacing_mm: tuple[float, float, float]) -> Box:
    """The bounding box of a mask and `CONTEXT_MM` around it, within the scan."""
    start, size = [], []
    for axis, (mm, count) in enumerate(zip(spacing_mm, roi.shape, strict=True)):
        others = tuple(a for a in range(3) if a != axis)
        inside = np.flatnonzero(roi.any(others))
        margin = round(CONTEXT_MM / mm)
        first, last = max(0, inside[0] - margin), min(count, inside[-1] + 1 + margin)
        start.append(int(first))
        size.append(int(last - first))
    return Box((start[0], start[1], start[2]), (size[0], size[1], size[2]))


def _on(box: Box, shape: Shape, grid: Shape) -> Box:
    """The least box of a working grid that holds a box of the scan."""
    first = [a * m // n for a, n, m in zip(box.start, shape, grid, strict=True)]
    last = [-(-b * m // n) for b, n, m in zip(box.stop, shape, grid, strict=True)]
    x, y, z = (b - a for a, b in zip(first, last, strict=True))
    return Box((first[0], first[1], first[2]), (x, y, z))
