"""Parts of a scan regenerated: lesions added, lesions removed (Method 2 and Method 3).

Only boxes around the hole are processed, and every voxel outside the hole stays identical.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8, UInt16
from scipy import ndimage

from ..core.box import Box, Shape, bounding_box
from ..core.errors import ensure
from ..core.labels import OUTSIDE, with_lesion
from ..core.morphology import dilate_mm
from ..core.operators.base import Identity
from ..core.operators.region_means import RegionMeans
from ..core.regions import region as region_named
from ..core.tensors import tensor
from ..core.volume import Volume
from ..reports.recorder import decided
from ..sampling.corrections import clip, prox
from ..sampling.sampler import Correct, Vol
from ..scan.body_regions import RegionSpan
from ..tasks import inpainting
from .engine import Engine
from .frame import Frame, working_grid
from .options import RunOptions
from .scan_context import ScanContext

CONTEXT = 16  # voxels around a hole that the model sees
AROUND_MM = 4.0  # around a lesion: how far it changes its surroundings
SOLID_PART = 256
BORDER = 0.5  # voxels: SD of the blur of a lesion's border; real nodules' outer layers are as dark
TEXTURE_HU = 50.0  # how far a voxel within a lesion may be from its mean, as an SD
LEAST = 8  # voxels of a layer of a lesion
END = 0.02  # model units: this near to a window's end, a voxel means "beyond", not how far

Mask = Bool[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Levels:
    """How dense lesions are. zones: their numbers on the scan's grid, 0 elsewhere; 256 more in the
    solid part of a part-solid one. hu: of each, (what is around it, itself)."""

    zones: UInt16[np.ndarray, "x y z"]
    hu: dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Edit:
    """What to regenerate.

    hole: the only voxels that change. lesion: where in it to draw a lesion; None: nowhere.
    anatomy: label ids of core/labels on the scan's grid; None: the coarse classes. steps, jumps:
    as in `tasks.inpainting`. levels: of the lesion; None: as dense as the model draws it.
    """

    hole: Mask
    lesion: Mask | None = None
    anatomy: UInt8[np.ndarray, "x y z"] | None = None
    steps: int = 20
    jumps: tuple[int, int] = (2, 2)
    levels: Levels | None = None


def around(lesion: Mask, spacing_mm: tuple[float, float, float]) -> Mask:
    """The hole for a lesion: the lesion, and what lies within 4 mm, or a voxel, of it."""
    if not lesion.any():
        return lesion
    # Only near the lesion: distances over a whole scan take seconds.
    margin = [int(np.ceil(AROUND_MM / mm)) + 2 for mm in spacing_mm]
    box = bounding_box(lesion, margin).slices
    hole = np.zeros_like(lesion)
    hole[box] = dilate_mm(lesion[box], AROUND_MM, spacing_mm) | ndimage.binary_dilation(lesion[box])
    return hole


def edit(
    engine: Engine, context: ScanContext, request: Edit, options: RunOptions | None = None
) -> Volume:
    """The scan with its hole regenerated; every other voxel is unchanged, bit for bit.

    `InputError` where the hole or the lesion is empty, on another grid or mostly outside the body,
    where the lesion extends beyond the hole, or where the model has no control for lesions.
    """
    options = options or RunOptions()
    volume, coarse = context.measured, context.coarse
    known = coarse if request.anatomy is None else request.anatomy
    _check(volume, request, known)
    lesion = np.zeros_like(request.hole) if request.lesion is None else request.lesion
    ids = _without(known, request.hole)
    ids = with_lesion(ids, lesion)
    spans = context.spans
    grid = working_grid(volume, engine.config.spacing_mm)
    decided("working grid", [grid])
    places = boxes(request.hole, grid)
    hu = context.volume.hu.copy()
    for number, box in enumerate(places):
        frame, voxels = _frame(volume, box, grid, spans, request.hole)
        share = options.part(number, len(places))
        new = _regenerate(engine, volume, frame, voxels, request, (ids, lesion), share)
        hu[voxels] = np.where(request.hole[voxels], new, hu[voxels])
    return volume.with_hu(hu)


def boxes(hole: Mask, grid: Shape) -> list[Box]:
    """Boxes of a working grid that contain the pieces of a hole and their context, and do not
    overlap."""
    parts, _ = ndimage.label(hole, np.ones((3, 3, 3)))
    scale = np.array(grid) / hole.shape
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for where in ndimage.find_objects(parts):
        first = np.floor([s.start for s in where] * scale).astype(int) - CONTEXT
        last = np.ceil([s.stop for s in where] * scale).astype(int) + CONTEXT
        box = np.maximum(first, 0), np.minimum(last, grid)
        while touching := [b for b in found if (b[0] < box[1]).all() and (box[0] < b[1]).all()]:
            found = [b for b in found if not any(b is t for t in touching)]
            low, high = zip(box, *touching, strict=True)
            box = np.min(low, 0), np.max(high, 0)
        found.append(box)
    return [_as_box(first, last - first) for first, last in found]


def _as_box(start: np.ndarray, size: np.ndarray) -> Box:
    return Box(tuple(map(int, start)), tuple(map(int, size)))  # type: ignore[arg-type]


def _frame(
    volume: Volume, box: Box, grid: Shape, spans: tuple[RegionSpan, ...], hole: Mask
) -> tuple[Frame, tuple[slice, slice, slice]]:
    """A box in the region that contains most of its hole, and the scan's voxels within it."""
    pace = [n / g for n, g in zip(volume.shape, grid, strict=True)]
    x, y, z = (
        slice(int(np.ceil(a * p - 1e-6)), int(np.floor(b * p + 1e-6)))
        for a, b, p in zip(box.start, box.stop, pace, strict=True)
    )
    of_slice = np.count_nonzero(hole[x, y], axis=(0, 1))
    of_slice[: z.start] = of_slice[z.stop :] = 0
    span = max(spans, key=lambda each: int(of_slice[each.start : each.stop].sum()))
    first = min(box.start[2], int(np.floor(span.start / pace[2])))
    last = min(max(box.stop[2], int(np.ceil(span.stop / pace[2]))), grid[2])
    region = region_named(span.region)
    return Frame(region, volume.shape, volume.spacing_mm, grid, box, (first, last)), (x, y, z)


def _regenerate(
    engine: Engine,
    volume: Volume,
    frame: Frame,
    voxels: tuple[slice, slice, slice],
    request: Edit,
    generated: tuple[UInt8[np.ndarray, "x y z"], Mask],
    options: RunOptions,
) -> Float[np.ndarray, "u v w"]:
    """HU of the box's voxels as generated by the model; only those in the hole are used.

    generated: the anatomy, and the mask of the lesions to draw.
    """
    ids, lesion = generated
    window, noise = frame.region.window, frame.noise(options.seed, engine.device)
    unit = window.unit(frame.to_grid(volume.hu.astype(np.float32)))
    # A voxel is unknown if any part of it is in the hole, and lesion if most of it is.
    unknown = frame.to_grid(request.hole.astype(np.float32)) > 1e-6
    marked = frame.to_grid(lesion.astype(np.float32)) >= 0.5
    y, known = (tensor(each, engine.device) for each in (np.clip(unit, -1, 1), ~unknown))
    steps, jumps, schedule = request.steps, request.jumps, engine.config.noise_schedule
    level = clip if request.levels is None else _held(frame, request.levels, voxels, y.device)
    task = inpainting(y, known, noise, schedule, steps, jumps, level)
    condition = frame.condition(ids)
    if request.lesion is not None:
        condition = engine.with_lesion(condition, torch.from_numpy(marked.astype(np.float32)))
    x0 = engine.run(task, condition, noise, options)[0, 0].cpu().numpy()
    new, old = frame.from_grid(x0, voxels), window.unit(volume.hu[voxels])
    beyond = ((new > 1 - END) & (old > 1)) | ((new < END - 1) & (old < -1))
    return np.where(beyond, volume.hu[voxels], window.hu(new))


def _held(
    frame: Frame, levels: Levels, voxels: tuple[slice, slice, slice], device: torch.device
) -> Correct:
    """Holds lesions at their HU: the mean of each layer, from the border inwards, exactly, and each
    voxel inside within its texture. At the border there is partial volume."""
    regions = np.zeros(frame.box.size, np.int64)
    target, interior = np.zeros(frame.box.size, np.float32), np.zeros(frame.box.size, bool)
    for zone in (int(each) for each in np.unique(levels.zones[voxels]) if each):
        there = levels.zones == zone if zone > SOLID_PART else levels.zones % SOLID_PART == zone
        mask = frame.to_grid(there.astype(np.float32)) >= 0.5
        if not mask.any():
            continue
        padded = ndimage.distance_transform_cdt(np.pad(mask, 1), "taxicab")  # it may fill the box
        layer = padded[1:-1, 1:-1, 1:-1]
        share = np.where(layer > 1, 1, ndimage.gaussian_filter(mask.astype(np.float32), BORDER))
        outer, inner = levels.hu[zone]
        target[mask] = (outer + share / share[mask].max() * (inner - outer))[mask]
        # Layers 1, 2, 3 and 4, 5 to 8, ... of enough voxels to have a texture of their own.
        depth = np.ceil(np.log2(layer[mask])).astype(int)
        deeper = np.bincount(depth)[::-1].cumsum()[::-1]
        most = max(1, int((deeper >= LEAST).sum()) - 1)
        interior |= layer > 1
        regions[mask] = regions.max() + 1 + np.minimum(depth, most)
    if not regions.any():
        return clip
    labels = np.unique(regions, return_inverse=True)[1].reshape(regions.shape)
    means = RegionMeans(torch.from_numpy(labels + (regions.min() > 0)))
    window = frame.region.window
    y = tensor(np.clip(window.unit(target), -1, 1), device)
    inside = torch.from_numpy(interior).to(device)
    near = prox(Identity(), y, window.sigma(TEXTURE_HU))
    exact = means.A(y)

    def correct(x0: Vol, sigma: float) -> Vol:
        return means.prox(torch.where(inside, near(x0, sigma), x0), exact, 0.0)

    return correct


def _without(ids: UInt8[np.ndarray, "x y z"], hole: Mask) -> UInt8[np.ndarray, "x y z"]:
    """Labels without what is in the hole: each of its voxels takes the nearest label outside."""
    ids = ids.copy()
    parts, _ = ndimage.label(hole, np.ones((3, 3, 3)))
    for where in ndimage.find_objects(parts):
        wide = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in where)
        if hole[wide].all():
            continue
        _, index = ndimage.distance_transform_edt(hole[wide], return_indices=True)
        ids[wide] = ids[wide][tuple(index)]
    return ids


def _check(volume: Volume, request: Edit, known: UInt8[np.ndarray, "x y z"]) -> None:
    masks = {"hole": request.hole, "lesion": request.lesion}
    for name, mask in masks.items():
        if mask is None:
            continue
        shapes = f"the {name} mask has the shape {mask.shape}, the scan {volume.shape}"
        ensure(mask.shape == volume.shape, f"{shapes}; resample the mask to the scan's grid")
        ensure(mask.any(), f"the {name} mask is empty; there is nothing to do")
        outside = float((known[mask] == OUTSIDE).mean())
        ensure(
            outside <= 0.5,
            f"{outside:.0%} of the {name} mask lies outside the body; does it belong to this scan?",
        )
    if request.lesion is not None:
        over = int(np.count_nonzero(request.lesion & ~request.hole))
        ensure(not over, f"{over} voxels of the lesion mask lie outside the hole; widen the hole")
