"""Parts of a scan made anew: lesions put in, lesions taken out (METHOD 2 and 3).

Only boxes around the hole are worked on, and nothing outside the hole changes, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from ..core.box import Box, Shape
from ..core.condition import Condition, condition
from ..core.errors import ensure
from ..core.labels import OUTSIDE, with_lesion
from ..core.noise import normal
from ..core.regions import Region
from ..core.regions import region as region_named
from ..core.resample import nearest, resize
from ..core.volume import Volume
from ..data import anatomy as anatomy_of
from ..data.regions_along import Slab
from ..tasks import inpainting
from .api import Model, Running, slabs_of
from .grid import spacing_on, working_grid

CONTEXT = 16  # voxels around a hole that the model sees
AROUND_MM = 4.0  # of a lesion: as far as it changes what is around it
END = 0.02  # model units: so near to a window's end a voxel says "beyond", not how far

Mask = Bool[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Edit:
    """What is to be made anew.

    hole: these voxels and no others change. lesion: where in it a lesion is to be; None: nowhere.
    anatomy: label ids of core/labels on the scan's grid; None: the coarse classes. region: as in
    `Model.denoise`. steps, jumps: of `tasks.inpainting`.
    """

    hole: Mask
    lesion: Mask | None = None
    anatomy: UInt8[np.ndarray, "x y z"] | None = None
    region: str | None = None
    steps: int = 20
    jumps: tuple[int, int] = (2, 2)


def around(lesion: Mask, spacing_mm: tuple[float, float, float]) -> Mask:
    """The hole for a lesion: it, and what lies within 4 mm, or a voxel."""
    if not lesion.any():
        return lesion
    # Only near the lesion: distances in a whole scan take seconds.
    reach = [int(np.ceil(AROUND_MM / mm)) + 2 for mm in spacing_mm]
    ends = [(np.flatnonzero(lesion.any(axes))[[0, -1]]) for axes in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(max(0, a - r), b + r + 1) for (a, b), r in zip(ends, reach, strict=True))
    near = ndimage.distance_transform_edt(~lesion[box], spacing_mm) <= AROUND_MM
    near |= ndimage.binary_dilation(lesion[box])
    hole = np.zeros_like(lesion)
    hole[box] = near
    return hole


def edit(model: Model, volume: Volume, what: Edit, running: Running | None = None) -> Volume:
    """The scan with its hole made anew; every other voxel as it was, bit for bit.

    `InputError` where the hole or the lesion has no voxel, is on another grid or mostly outside the
    body, where a lesion is to be in what must not change, or the model has no control for lesions.
    """
    running = running or Running()
    coarse = anatomy_of.coarse(volume)
    _check(volume, what, coarse)
    lesion = np.zeros_like(what.hole) if what.lesion is None else what.lesion
    ids = _without(coarse if what.anatomy is None else what.anatomy, what.hole)
    ids = with_lesion(ids, lesion)
    slabs = slabs_of(volume, coarse, what.region, running.say)
    grid = working_grid(volume, model.config.spacing_mm)
    places = boxes(what.hole, grid)
    hu = volume.hu.copy()
    for number, box in enumerate(places):
        site = _site(volume, box, grid, slabs, what.hole)
        new = _anew(model, volume, site, what, (ids, lesion), running.nth(number, len(places)))
        hu[site.voxels] = np.where(what.hole[site.voxels], new, hu[site.voxels])
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


@dataclass(frozen=True)
class Site:
    """Where a part of a scan is made anew.

    grid: the scan's working grid; box: of it. voxels: the scan's that lie in the box. slab: first
    and last of the working grid's slices that the model takes for the whole region.
    """

    region: Region
    grid: Shape
    box: Box
    voxels: tuple[slice, slice, slice]
    slab: tuple[int, int]


def _site(volume: Volume, box: Box, grid: Shape, slabs: tuple[Slab, ...], hole: Mask) -> Site:
    pace = [n / g for n, g in zip(volume.shape, grid, strict=True)]
    x, y, z = (
        slice(int(np.ceil(a * p - 1e-6)), int(np.floor(b * p + 1e-6)))
        for a, b, p in zip(box.start, box.stop, pace, strict=True)
    )
    of_slice = np.count_nonzero(hole[x, y], axis=(0, 1))
    of_slice[: z.start] = of_slice[z.stop :] = 0
    slab = max(slabs, key=lambda each: int(of_slice[each.start : each.stop].sum()))
    first = min(box.start[2], int(np.floor(slab.start / pace[2])))
    last = max(box.stop[2], int(np.ceil(slab.stop / pace[2])))
    return Site(region_named(slab.region), grid, box, (x, y, z), (first, min(last, grid[2])))


def _anew(
    model: Model,
    volume: Volume,
    site: Site,
    what: Edit,
    told: tuple[UInt8[np.ndarray, "x y z"], Mask],
    running: Running,
) -> Float[np.ndarray, "u v w"]:
    """HU of the site's voxels as the model makes them; only those of the hole are of use.

    told: anatomy, and where lesions are to be.
    """
    ids, lesion = told
    window = site.region.window
    unit = _to(site, window.unit(volume.hu.astype(np.float32)))
    # Whatever is partly in the hole is unknown, and a lesion is where most of a voxel is.
    unknown = _to(site, what.hole.astype(np.float32)) > 1e-6
    marked = _to(site, lesion.astype(np.float32)) >= 0.5
    y = _tensor(np.clip(unit, -1, 1)).to(model.device)
    known = torch.from_numpy(~unknown)[None, None].to(model.device)

    def noise(stream: int) -> Float[torch.Tensor, "1 1 u v w"]:
        return normal(running.seed, stream, site.grid, site.box, model.device)

    task = inpainting(y, known, noise, model.config.noise_schedule, what.steps, what.jumps)
    where = _condition(volume, site, ids)
    if what.lesion is not None:
        where = model.steered(where, torch.from_numpy(marked.astype(np.float32)))
    x0 = model.run(task, where, noise, running)[0, 0].cpu().numpy()
    new = _from(site, x0, volume.shape)
    was = window.unit(volume.hu[site.voxels])
    beyond = ((new > 1 - END) & (was > 1)) | ((new < END - 1) & (was < -1))
    return np.where(beyond, volume.hu[site.voxels], window.hu(new))


def _condition(volume: Volume, site: Site, ids: UInt8[np.ndarray, "x y z"]) -> Condition:
    """Of the site's box in the slab of its region, which is a volume of its own (METHOD 1)."""
    first, last = site.slab
    x, y, z = site.box.start
    spacing = spacing_on(site.grid, volume)
    whole = condition((*site.grid[:2], last - first), spacing, site.region.id)
    part = whole.crop(Box((x, y, z - first), site.box.size))
    start, size = _reach(site, ids.shape)
    return replace(part, anatomy=torch.from_numpy(nearest(ids, site.box.size, start, size))[None])


def _reach(site: Site, shape: tuple[int, ...]) -> tuple[list[float], list[float]]:
    """(start, size) of the site's box in voxels of the scan."""
    pace = [n / g for n, g in zip(shape, site.grid, strict=True)]
    return (
        [a * p for a, p in zip(site.box.start, pace, strict=True)],
        [n * p for n, p in zip(site.box.size, pace, strict=True)],
    )


def _to(site: Site, values: Float[np.ndarray, "x y z"]) -> Float[np.ndarray, "u v w"]:
    """Values of a scan in the site's box, on the working grid."""
    start, size = _reach(site, values.shape)
    near = [
        slice(max(0, int(a) - 2), int(np.ceil(a + n)) + 2) for a, n in zip(start, size, strict=True)
    ]
    inside = [a - s.start for a, s in zip(start, near, strict=True)]
    return resize(values[tuple(near)], site.box.size, inside, size)


def _from(
    site: Site, values: Float[np.ndarray, "u v w"], shape: Shape
) -> Float[np.ndarray, "u2 v2 w2"]:
    """The way back: values of the box at the scan's voxels in it."""
    start, size, target = [], [], []
    for s, a, n, g in zip(site.voxels, site.box.start, shape, site.grid, strict=True):
        start.append(s.start * g / n - a)
        size.append((s.stop - s.start) * g / n)
        target.append(s.stop - s.start)
    return resize(values, target, start, size)


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


def _tensor(array: np.ndarray) -> torch.Tensor:
    """x y z -> 1 1 x y z."""
    return torch.from_numpy(np.ascontiguousarray(array))[None, None]
