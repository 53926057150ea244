"""Anatomy of a CT that has no mask: a coarse label map from thresholds and morphology.

Everything is measured in mm and mL. Shapes are found on a grid of about 2.5 mm, smoothed a little
so that noise does not decide, and their edges are then drawn again at the scan's own voxels.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Int16, Integer, Shaped, UInt8
from scipy import ndimage

from denovox.core.labels import AIRWAY, BODY, BONE, LUNG, OUTSIDE
from denovox.core.volume import Volume

Mask = Bool[np.ndarray, "x y z"]
Spacing = tuple[float, float, float]

SLAB = 32  # planes worked on at a time, where all would take too much memory
WORK_MM = 3.0  # voxels finer than this are averaged to about this size
BODY_HU, LUNG_HU, GAS_HU, BONE_HU, CORTEX_HU = -300.0, -400.0, -950.0, 200.0, 300.0
OPENING_MM = 5.0  # cuts the table's cover and clothes off the skin
RIM_MM = 9.0  # a round field of view ends before the array does
BODY_RADIUS_MM = 20.0  # a part of the body holds a ball of this radius, a table does not
LUNG_ML, WHOLE_LUNG_ML = 40.0, 500.0
AIRWAY_ML, AIRWAY_MM2 = (2.0, 150.0), (40.0, 900.0)  # between; a section, between
AIRWAY_LENGTH_MM, MIDLINE_MM = 25.0, 35.0
BONE_ML, MARROW_MM = 0.5, 5.0
POOL_HU, POOL_MM, POOL_ML = 700.0, 9.0, 100.0
NECK_CM2 = 350.0  # a section of neck is smaller


def coarse(volume: Volume) -> UInt8[np.ndarray, "x y z"]:
    """OUTSIDE, BODY, LUNG, AIRWAY or BONE (core/labels ids) for every voxel of a CT in HU.

    Gas in the bowel is BODY; large vessels in the lung are BODY. BONE is above 200 HU, marrow
    filled where thin: vessels, bowel and kidneys full of contrast are caught partly. AIRWAY is
    trachea and main bronchi where they are found; where not, they are LUNG or BODY.
    """
    spacing = volume.spacing_mm
    factor = tuple(max(1, round(WORK_MM / mm)) for mm in spacing)
    work_mm = _coarser(spacing, factor)
    hu = volume.hu
    work = _smooth(_block_mean(hu, factor), 1.2, work_mm)

    body = _body(work, work_mm)
    airway = _airway(work, body, _lung(work, body, work_mm), work_mm)
    lung = _lung(work, body & ~airway, work_mm)

    def back(
        found: Bool[np.ndarray, "x2 y2 z2"], inside: Bool[np.ndarray, "x y z"]
    ) -> Bool[np.ndarray, "x y z"]:
        """A working-grid mask at full size; its 1-voxel rim is decided by `inside`."""
        core, reach = ndimage.binary_erosion(found, border_value=1), ndimage.binary_dilation(found)
        inside &= _repeat(reach, factor, hu.shape)
        inside |= _repeat(core, factor, hu.shape)
        return inside

    out = np.where(back(body, hu > BODY_HU), np.uint8(BODY), np.uint8(OUTSIDE))
    out[back(lung, hu < LUNG_HU) & (out == BODY)] = LUNG
    out[_repeat(airway, factor, hu.shape) & (out != OUTSIDE) & (hu < -500)] = AIRWAY
    out[_bone(hu, out == BODY, spacing, factor)] = BONE
    return out


# -- parts, on the working grid


def _body(hu: Float[np.ndarray, "x y z"], mm: Spacing) -> Mask:
    """Thick components above -300 HU, and all air that they enclose within a slice."""
    dense = (hu > BODY_HU) | _cut_lung(hu, mm)
    opened = _dilate(_erode(dense, OPENING_MM, mm), OPENING_MM, mm) & dense
    parts, _ = ndimage.label(opened)
    size = _count(parts)
    thick = _count(parts, _depth(opened, mm) >= BODY_RADIUS_MM) > 0
    keep = (thick & (size >= 0.02 * size.max())) | (size == size.max())
    body = keep[parts] & (parts > 0)
    body |= _dilate(body, OPENING_MM / 2, mm) & dense
    # Background that reaches the slice's edge is outside; the rest of it is inner air.
    background, _ = ndimage.label(~body, structure=_in_slice())
    return body | ~(_at_rim(background)[background] | body)


def _cut_lung(hu: Float[np.ndarray, "x y z"], mm: Spacing) -> Mask:
    """Lung that the field of view cuts, as in a crop: airy and at the rim, but not pure air."""
    airy = ndimage.binary_opening((hu > GAS_HU) & (hu < BODY_HU), _in_slice())
    parts, _ = ndimage.label(airy, structure=_in_slice())
    x, y = (max(1, round(RIM_MM / step)) for step in mm[:2])
    at_rim = _at_rim(parts, x, y)
    # Foam of the table lies at the back, in one with the air of the room.
    air, _ = ndimage.label(hu < BODY_HU)
    room = _count(air, hu < GAS_HU) > 0.1 * _count(air)
    at_rim[np.unique(parts[:, :y][room[air[:, :y]]])] = False
    return (at_rim & (_count(parts) * mm[0] * mm[1] > 2000))[parts]


def _airway(hu: Float[np.ndarray, "x y z"], body: Mask, lung: Mask, mm: Spacing) -> Mask:
    """The tallest stack of small air sections near the midline; empty if none is tall."""
    air, _ = ndimage.label((hu < -700) & body, structure=_in_slice())
    size = _count(air)
    area = size * mm[0] * mm[1]
    good = (area >= AIRWAY_MM2[0]) & (area <= AIRWAY_MM2[1]) & (_count(air, hu < -850) > 0)
    x, _, z = np.indices(air.shape, sparse=True)
    aside = np.abs(x - _centre_x(body)[z]) * mm[0] * np.ones(air.shape)
    good &= np.bincount(air.ravel(), aside.ravel()) < MIDLINE_MM * size
    stack, _ = ndimage.label(good[air] & (air > 0))
    millilitres = _count(stack) * np.prod(mm) / 1000
    lung_z = np.flatnonzero(lung.any((0, 1)))
    narrow = body.sum() / max(1, body.any((0, 1)).sum()) * mm[0] * mm[1] < NECK_CM2 * 100
    lowest = 0.5 * (lung_z[0] + lung_z[-1]) if lung_z.size else 0 if narrow else np.inf
    best, tallest = 0, AIRWAY_LENGTH_MM
    for number, (_, _, along) in enumerate(ndimage.find_objects(stack), 1):
        tall = (along.stop - along.start) * mm[2]
        # Air that ends below the middle of the lungs is gas of stomach or colon.
        if AIRWAY_ML[0] <= millilitres[number] <= AIRWAY_ML[1] and along.stop > lowest:
            best, tallest = (number, tall) if tall > tallest else (best, tallest)
    return stack == best if best else np.zeros_like(body)


def _lung(hu: Float[np.ndarray, "x y z"], body: Mask, mm: Spacing) -> Mask:
    """Large airy components inside the body that are not pure gas; small vessels closed in.

    A lung is either whole, and then it is very large, or it goes on above the volume's top.
    """
    parts, _ = ndimage.label((hu < LUNG_HU) & body)
    size = _count(parts)
    millilitres = size * np.prod(mm) / 1000
    tops = _count(parts[..., -1:], size=size.size) > 0
    lung = (millilitres > WHOLE_LUNG_ML) | (tops & (millilitres > LUNG_ML))
    inner = ndimage.binary_erosion(parts > 0, _in_slice(), border_value=1)
    lung &= _count(parts, inner & (hu < GAS_HU)) < 0.5 * _count(parts, inner)
    found = lung[parts]
    return _erode(_dilate(found, 3.0, mm), 3.0, mm) & body if found.any() else found


def _bone(hu: Float[np.ndarray, "x y z"], body: Mask, mm: Spacing, factor: tuple[int, ...]) -> Mask:
    """Above 200 HU, in one piece with something above 300 HU, without specks; at full size."""
    work_mm = _coarser(mm, factor)
    smooth = _smooth_whole_hu(hu, 0.8, mm)
    bright = smooth > BONE_HU
    bright &= body
    # A pool of contrast (heart, aorta) is as bright as bone, but thick, large and nowhere hard.
    work = _block_mean(smooth, factor)
    core = _erode((work > BONE_HU) & (work < POOL_HU), POOL_MM, work_mm)
    pools, _ = ndimage.label(_dilate(core, POOL_MM, work_mm)) if core.any() else (core * 0, 0)
    pool = (_count(pools) * np.prod(work_mm) / 1000 > POOL_ML)[pools]
    if pool.any():
        bright &= ~(_repeat(_dilate(pool, 4.0, work_mm), factor, hu.shape) & (smooth < POOL_HU))
    parts, _ = ndimage.label(bright)
    del bright  # as large as a scan, or nearly
    millilitres = _count(parts) * np.prod(mm) / 1000
    bone = ((millilitres > BONE_ML) & (_count(parts, smooth > CORTEX_HU) > 0))[parts]
    del parts
    mostly = _block_mean(bone, factor) > 0.4
    closed = _erode(_dilate(mostly, MARROW_MM, work_mm), MARROW_MM, work_mm) & ~pool
    bone |= _repeat(closed, factor, hu.shape) & (smooth > 0)
    bone &= body
    return bone


# -- morphology in mm; beyond the volume's end a shape goes on as it was


def _depth(mask: Mask, mm: Spacing) -> Float[np.ndarray, "x y z"]:
    """Distance in mm of each voxel of the mask to the nearest one outside it."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    nearest = ndimage.distance_transform_edt(mask, mm, return_distances=False, return_indices=True)
    squared = np.zeros(mask.shape)
    for axis, line in enumerate(np.ogrid[tuple(map(slice, mask.shape))]):
        squared += ((nearest[axis] - line) * mm[axis]) ** 2  # scipy's own way takes thrice the room
    return np.sqrt(squared, out=squared)


def _erode(mask: Mask, radius_mm: float, mm: Spacing) -> Mask:
    out, box = np.zeros_like(mask), _around(mask, (1, 1, 1))
    out[box] = _depth(mask[box], mm) > radius_mm
    return out


def _dilate(mask: Mask, radius_mm: float, mm: Spacing) -> Mask:
    x, y, z = (math.ceil(radius_mm / step) for step in mm)
    out, box = np.zeros_like(mask), _around(mask, (x, y, z))
    out[box] = _depth(~mask[box], mm) <= radius_mm
    return out


def _around(mask: Mask, margin: tuple[int, int, int]) -> tuple[slice, ...]:
    """The box that holds a mask, and so many voxels more on every side; all of it if it is empty.

    Distances cost in proportion to voxels, and nothing happens farther out.
    """
    box = []
    for axis, more in enumerate(margin):
        others = tuple(other for other in range(3) if other != axis)
        where = np.flatnonzero(mask.any(others))
        first, last = (where[0], where[-1]) if where.size else (0, mask.shape[axis])
        box.append(slice(max(0, first - more), last + more + 1))
    return tuple(box)


def _smooth(
    hu: Float[np.ndarray, "x y z"], sigma_mm: float, mm: Spacing
) -> Float[np.ndarray, "x y z"]:
    return ndimage.gaussian_filter(hu, [sigma_mm / step for step in mm], mode="nearest")


def _smooth_whole_hu(
    hu: Float[np.ndarray, "x y z"], sigma_mm: float, mm: Spacing
) -> Int16[np.ndarray, "x y z"]:
    """`_smooth` at full size, in whole HU (rounded up: a value above 200 stays above).

    Plane by plane: a few of them at a time in floating point, not all.
    """
    out = np.empty(hu.shape, np.int16)
    halo = math.ceil(4 * sigma_mm / mm[0]) + 1  # more than the filter's reach
    for first in range(0, len(hu), SLAB):
        low = max(0, first - halo)
        part = _smooth(_clipped(hu[low : first + SLAB + halo]), sigma_mm, mm)
        out[first : first + SLAB] = np.ceil(part[first - low :][:SLAB])
    return out


def _clipped(hu: Shaped[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
    return np.clip(hu, -1024, 3071).astype(np.float32, copy=False)


def _in_slice() -> Bool[np.ndarray, "3 3 3"]:
    """Neighbours within an axial slice only."""
    cross = np.zeros((3, 3, 3), bool)
    cross[:, 1, 1] = cross[1, :, 1] = True
    return cross


def _at_rim(parts: Integer[np.ndarray, "x y z"], x: int = 1, y: int = 1) -> Bool[np.ndarray, " n"]:
    """Per component, number 0 first: does it reach a slice's rim of x, y voxels? 0 never does."""
    edges = (parts[:x], parts[-x:], parts[:, :y], parts[:, -y:])
    rim = np.zeros(int(parts.max()) + 1, bool)
    rim[np.concatenate([edge.ravel() for edge in edges])] = True
    rim[0] = False
    return rim


def _count(
    parts: Integer[np.ndarray, "x y z"], among: Mask | None = None, size: int = 0
) -> Integer[np.ndarray, " n"]:
    """Voxels of each component, number 0 first and always 0; only those `among`, if given."""
    found = np.zeros(max(size, int(parts.max()) + 1), np.int64)
    for i, part in enumerate(parts):  # plane by plane: `bincount` would copy all into 64 bits
        found += np.bincount((part if among is None else part[among[i]]).ravel(), None, len(found))
    found[0] = 0
    return found


def _centre_x(body: Mask) -> Float[np.ndarray, " z"]:
    """Index of the body's centre along x, per slice."""
    columns = body.any(1)
    count = np.maximum(columns.sum(0), 1)
    return (columns * np.arange(body.shape[0])[:, None]).sum(0) / count


def _coarser(mm: Spacing, factor: tuple[int, ...]) -> Spacing:
    """Spacing of the blocks."""
    return mm[0] * factor[0], mm[1] * factor[1], mm[2] * factor[2]


def _block_mean(
    hu: Shaped[np.ndarray, "x y z"], factor: tuple[int, ...]
) -> Float[np.ndarray, "u v w"]:
    """Means over blocks, clipped to what HU can be; the last block repeats the edge."""
    u, v, w = (math.ceil(n / f) for n, f in zip(hu.shape, factor, strict=True))
    out = np.empty((u, v, w), np.float32)
    for i in range(u):
        part = hu[i * factor[0] : (i + 1) * factor[0]]
        padding = [(0, k * f - n) for n, f, k in zip(part.shape, factor, (1, v, w), strict=True)]
        padded = np.pad(_clipped(part), padding, mode="edge")
        out[i] = padded.reshape(factor[0], v, factor[1], w, factor[2]).mean((0, 2, 4))
    return out


def _repeat(
    mask: Mask, factor: tuple[int, ...], shape: tuple[int, ...]
) -> Bool[np.ndarray, "x2 y2 z2"]:
    """The inverse of `_block_mean` by nearest neighbour."""
    for axis, times in enumerate(factor):
        mask = mask.repeat(times, axis)
    return mask[: shape[0], : shape[1], : shape[2]]
