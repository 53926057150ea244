"""Parts of a scan made anew: lesions put in, lesions taken out (METHOD 2 and 3).

Only boxes around the hole are worked on, and nothing outside the hole changes, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from ..core.box import Box, Shape, bounding_box
from ..core.errors import ensure
from ..core.labels import OUTSIDE, with_lesion
from ..core.regions import region as region_named
from ..core.tensors import tensor
from ..core.volume import Volume
from ..scan.body_regions import RegionSpan
from ..tasks import inpainting
from .engine import Engine
from .frame import Frame, working_grid
from .options import RunOptions
from .scan_context import ScanContext

CONTEXT = 16  # voxels around a hole that the model sees
AROUND_MM = 4.0  # of a lesion: as far as it changes what is around it
END = 0.02  # model units: so near to a window's end a voxel says "beyond", not how far

Mask = Bool[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Edit:
    """What is to be made anew.

    hole: these voxels and no others change. lesion: where in it a lesion is to be; None: nowhere.
    anatomy: label ids of core/labels on the scan's grid; None: the coarse classes. steps, jumps:
    of `tasks.inpainting`.
    """

    hole: Mask
    lesion: Mask | None = None
    anatomy: UInt8[np.ndarray, "x y z"] | None = None
    steps: int = 20
    jumps: tuple[int, int] = (2, 2)


def around(lesion: Mask, spacing_mm: tuple[float, float, float]) -> Mask:
    """The hole for a lesion: it, and what lies within 4 mm, or a voxel."""
    if not lesion.any():
        return lesion
    # Only near the lesion: distances in a whole scan take seconds.
    margin = [int(np.ceil(AROUND_MM / mm)) + 2 for mm in spacing_mm]
    box = bounding_box(lesion, margin).slices
    near = ndimage.distance_transform_edt(~lesion[box], spacing_mm) <= AROUND_MM
    near |= ndimage.binary_dilation(lesion[box])
    hole = np.zeros_like(lesion)
    hole[box] = near
    return hole


def edit(
    engine: Engine, context: ScanContext, what: Edit, options: RunOptions | None = None
) -> Volume:
    """The scan with its hole made anew; every other voxel as it was, bit for bit.

    `InputError` where the hole or the lesion has no voxel, is on another grid or mostly outside the
    body, where a lesion is to be in what must not change, or the model has no control for lesions.
    """
    options = options or RunOptions()
    volume, coarse = context.volume, context.coarse
    _check(volume, what, coarse)
    lesion = np.zeros_like(what.hole) if what.lesion is None else what.lesion
    ids = _without(coarse if what.anatomy is None else what.anatomy, what.hole)
    ids = with_lesion(ids, lesion)
    slabs = context.spans
    grid = working_grid(volume, engine.config.spacing_mm)
    places = boxes(what.hole, grid)
    hu = volume.hu.copy()
    for number, box in enumerate(places):
        frame, voxels = _frame(volume, box, grid, slabs, what.hole)
        share = options.part(number, len(places))
        new = _anew(engine, volume, frame, voxels, what, (ids, lesion), share)
        hu[voxels] = np.where(what.hole[voxels], new, hu[voxels])
    return volume.with_hu(hu)


def boxes(hole: Mask, grid: Shape) -> list[Box]:
    """Boxes of a working grid that hold the pieces of a hole and their context, none touching
    another."""
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
    volume: Volume, box: Box, grid: Shape, slabs: tuple[RegionSpan, ...], hole: Mask
) -> tuple[Frame, tuple[slice, slice, slice]]:
    """A box in the region that most of its hole is in, and the voxels of the scan within it."""
    pace = [n / g for n, g in zip(volume.shape, grid, strict=True)]
    x, y, z = (
        slice(int(np.ceil(a * p - 1e-6)), int(np.floor(b * p + 1e-6)))
        for a, b, p in zip(box.start, box.stop, pace, strict=True)
    )
    of_slice = np.count_nonzero(hole[x, y], axis=(0, 1))
    of_slice[: z.start] = of_slice[z.stop :] = 0
    slab = max(slabs, key=lambda each: int(of_slice[each.start : each.stop].sum()))
    first = min(box.start[2], int(np.floor(slab.start / pace[2])))
    last = min(max(box.stop[2], int(np.ceil(slab.stop / pace[2]))), grid[2])
    region = region_named(slab.region)
    return Frame(region, volume.shape, volume.spacing_mm, grid, box, (first, last)), (x, y, z)


def _anew(
    engine: Engine,
    volume: Volume,
    frame: Frame,
    voxels: tuple[slice, slice, slice],
    what: Edit,
    told: tuple[UInt8[np.ndarray, "x y z"], Mask],
    options: RunOptions,
) -> Float[np.ndarray, "u v w"]:
    """HU of the box's voxels as the model makes them; only those of the hole are of use.

    told: anatomy, and where lesions are to be.
    """
    ids, lesion = told
    window, noise = frame.region.window, frame.noise(options.seed, engine.device)
    unit = window.unit(frame.to_grid(volume.hu.astype(np.float32)))
    # Whatever is partly in the hole is unknown, and a lesion is where most of a voxel is.
    unknown = frame.to_grid(what.hole.astype(np.float32)) > 1e-6
    marked = frame.to_grid(lesion.astype(np.float32)) >= 0.5
    y, known = (tensor(each).to(engine.device) for each in (np.clip(unit, -1, 1), ~unknown))
    task = inpainting(y, known, noise, engine.config.noise_schedule, what.steps, what.jumps)
    where = frame.condition(ids)
    if what.lesion is not None:
        where = engine.with_lesion(where, torch.from_numpy(marked.astype(np.float32)))
    x0 = engine.run(task, where, noise, options)[0, 0].cpu().numpy()
    new, was = frame.from_grid(x0, voxels), window.unit(volume.hu[voxels])
    beyond = ((new > 1 - END) & (was > 1)) | ((new < END - 1) & (was < -1))
    return np.where(beyond, volume.hu[voxels], window.hu(new))


def _without(ids: UInt8[np.ndarray, "x y z"], hole: Mask) -> UInt8[np.ndarray, "x y z"]:
    """Labels that know nothing of what is in the hole: each voxel of it takes the nearest other."""
    ids = ids.copy()
    parts, _ = ndimage.label(hole, np.ones((3, 3, 3)))
    for where in ndimage.find_objects(parts):
        wide = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in where)
        if hole[wide].all():
            continue
        _, index = ndimage.distance_transform_edt(hole[wide], return_indices=True)
        ids[wide] = ids[wide][tuple(index)]
    return ids


def _check(volume: Volume, what: Edit, coarse: UInt8[np.ndarray, "x y z"]) -> None:
    named = {"hole": what.hole, "lesion": what.lesion}
    for name, mask in named.items():
        if mask is None:
            continue
        shown = f"the {name}'s mask is on a grid of {mask.shape}, the scan on {volume.shape}"
        ensure(mask.shape == volume.shape, f"{shown}; bring it to the scan's grid")
        ensure(mask.any(), f"the {name}'s mask has no voxel; nothing is to be done")
        outside = float((coarse[mask] == OUTSIDE).mean())
        ensure(
            outside <= 0.5,
            f"{outside:.0%} of the {name}'s mask lie outside the body; is it of this scan?",
        )
    if what.lesion is not None:
        over = int(np.count_nonzero(what.lesion & ~what.hole))
        ensure(not over, f"{over} voxels of the lesion's mask lie outside the hole; widen the hole")
