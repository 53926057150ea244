"""Anatomy of a CT without a mask: a coarse label map from thresholds and morphology.

Everything is measured in mm and mL. Shapes are found on a grid of about 2.5 mm, smoothed slightly
so that noise has no influence, and their edges are then refined on the scan's own voxels.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from scipy import ndimage

from denovox.core.box import Shape
from denovox.core.labels import AIRWAY, BODY, BONE, LUNG, OUTSIDE
from denovox.core.morphology import (
    Links,
    Mask,
    Spacing,
    close_mm,
    component_sizes,
    dilate_mm,
    erode_mm,
    joined,
    labelled,
    within_slice,
)
from denovox.core.volume import Volume
from denovox.scan.blocks import SLAB, Slices, block_mean, boxes, coarser, repeat, smooth, smooth_at
from denovox.scan.constant_fill import without_fill

WORK_MM = 3.0  # finer voxels are averaged to about this size
BODY_HU, LUNG_HU, GAS_HU, BONE_HU, CORTEX_HU = -300.0, -400.0, -950.0, 200.0, 300.0
OPENING_MM = 5.0  # separates the table's cover and clothes from the skin
RIM_MM = 9.0  # a round field of view ends before the array does
BODY_RADIUS_MM = 20.0  # a ball of this radius fits into a part of the body, but not into a table
LUNG_ML, WHOLE_LUNG_ML = 40.0, 500.0
AIRWAY_ML, AIRWAY_MM2 = (2.0, 150.0), (40.0, 900.0)  # ranges of the volume and of a section
AIRWAY_LENGTH_MM, MIDLINE_MM = 25.0, 35.0
BONE_ML, MARROW_MM = 0.5, 5.0
POOL_HU, POOL_MM, POOL_ML = 700.0, 9.0, 100.0
NECK_CM2 = 350.0  # sections of the neck are smaller


def coarse(volume: Volume) -> UInt8[np.ndarray, "x y z"]:
    """OUTSIDE, BODY, LUNG, AIRWAY or BONE (core/labels ids) for every voxel of a CT in HU.

    Gas in the bowel is BODY, and so are large vessels in the lung. BONE is above 200 HU, with
    marrow filled in where it is thin; it includes parts of vessels, bowel and kidneys full of
    contrast. AIRWAY is trachea and main bronchi if they are found; otherwise they are LUNG or BODY.
    A fill (`constant_fill.outside_fill`) is OUTSIDE.
    """
    spacing = volume.spacing_mm
    factor = tuple(max(1, round(WORK_MM / mm)) for mm in spacing)
    work_mm = coarser(spacing, factor)
    hu = without_fill(volume.hu)
    work = smooth(block_mean(hu, factor), 1.2, work_mm)

    body = _body(work, work_mm)
    airway = _airway(work, body, _lung(work, body, work_mm), work_mm)
    lung = _lung(work, body & ~airway, work_mm)

    (in_body, near_body), (in_lung, near_lung) = (
        (ndimage.binary_erosion(found, border_value=1), ndimage.binary_dilation(found))
        for found in (body, lung)
    )
    out = np.full(hu.shape, OUTSIDE, np.uint8)
    for voxels, blocks in boxes(near_body, factor):
        part, labels = hu[voxels], out[voxels]

        def back(
            mask: Mask, blocks: Slices = blocks, shape: Shape = part.shape
        ) -> Bool[np.ndarray, "x2 y2 z2"]:
            return repeat(mask[blocks], factor, shape)

        # HU decide in the 1-voxel rim of what was found on the working grid.
        labels[((part > BODY_HU) & back(near_body)) | back(in_body)] = BODY
        airy = ((part < LUNG_HU) & back(near_lung)) | back(in_lung)
        labels[airy & (labels == BODY)] = LUNG
        labels[back(airway) & (labels != OUTSIDE) & (part < -500)] = AIRWAY
    _mark_bone(out, hu, near_body, spacing, factor)
    return out


# -- parts, on the working grid


def _body(hu: Float[np.ndarray, "x y z"], mm: Spacing) -> Mask:
    """Thick components above -300 HU, with all air that they enclose within a slice."""
    dense = (hu > BODY_HU) | _cut_lung(hu, mm)
    opened = dilate_mm(erode_mm(dense, OPENING_MM, mm), OPENING_MM, mm) & dense
    parts, _ = ndimage.label(opened)
    size = component_sizes(parts)
    thick = component_sizes(parts, erode_mm(opened, math.nextafter(BODY_RADIUS_MM, 0), mm)) > 0
    keep = (thick & (size >= 0.02 * size.max())) | (size == size.max())
    body = keep[parts] & (parts > 0)
    body |= dilate_mm(body, OPENING_MM / 2, mm) & dense
    # Background that reaches the slice's edge is outside; the rest is internal air.
    background, _ = ndimage.label(~body, structure=within_slice())
    return body | ~(_at_rim(background)[background] | body)


def _cut_lung(hu: Float[np.ndarray, "x y z"], mm: Spacing) -> Mask:
    """Lung cut off by the field of view, as in a crop: airy and at the rim, but not pure air."""
    airy = ndimage.binary_opening((hu > GAS_HU) & (hu < BODY_HU), within_slice())
    parts, _ = ndimage.label(airy, structure=within_slice())
    x, y = (max(1, round(RIM_MM / step)) for step in mm[:2])
    at_rim = _at_rim(parts, x, y)
    # The table's foam lies at the back, connected to the air of the room.
    air, _ = ndimage.label(hu < BODY_HU)
    room = component_sizes(air, hu < GAS_HU) > 0.1 * component_sizes(air)
    at_rim[np.unique(parts[:, :y][room[air[:, :y]]])] = False
    return (at_rim & (component_sizes(parts) * mm[0] * mm[1] > 2000))[parts]


def _airway(hu: Float[np.ndarray, "x y z"], body: Mask, lung: Mask, mm: Spacing) -> Mask:
    """The tallest stack of small air sections near the midline; empty if none is tall enough."""
    air, _ = ndimage.label((hu < -700) & body, structure=within_slice())
    size = component_sizes(air)
    area = size * mm[0] * mm[1]
    good = (area >= AIRWAY_MM2[0]) & (area <= AIRWAY_MM2[1]) & (component_sizes(air, hu < -850) > 0)
    x, _, z = np.indices(air.shape, sparse=True)
    aside = np.abs(x - _centre_x(body)[z]) * mm[0] * np.ones(air.shape)
    good &= np.bincount(air.ravel(), aside.ravel()) < MIDLINE_MM * size
    stack, _ = ndimage.label(good[air] & (air > 0))
    millilitres = component_sizes(stack) * np.prod(mm) / 1000
    lung_z = np.flatnonzero(lung.any((0, 1)))
    narrow = body.sum() / max(1, body.any((0, 1)).sum()) * mm[0] * mm[1] < NECK_CM2 * 100
    lowest = 0.5 * (lung_z[0] + lung_z[-1]) if lung_z.size else 0 if narrow else np.inf
    best, tallest = 0, AIRWAY_LENGTH_MM
    for number, (_, _, along) in enumerate(ndimage.find_objects(stack), 1):
        tall = (along.stop - along.start) * mm[2]
        # Air that ends below the middle of the lungs is gas in the stomach or colon.
        if AIRWAY_ML[0] <= millilitres[number] <= AIRWAY_ML[1] and along.stop > lowest:
            best, tallest = (number, tall) if tall > tallest else (best, tallest)
    return stack == best if best else np.zeros_like(body)


def _lung(hu: Float[np.ndarray, "x y z"], body: Mask, mm: Spacing) -> Mask:
    """Large airy components inside the body that are not pure gas, with small vessels closed.

    A lung is either complete, and then very large, or continues above the top of the volume.
    """
    parts, _ = ndimage.label((hu < LUNG_HU) & body)
    size = component_sizes(parts)
    millilitres = size * np.prod(mm) / 1000
    tops = component_sizes(parts[..., -1:], count=size.size) > 0
    lung = (millilitres > WHOLE_LUNG_ML) | (tops & (millilitres > LUNG_ML))
    inner = ndimage.binary_erosion(parts > 0, within_slice(), border_value=1)
    lung &= component_sizes(parts, inner & (hu < GAS_HU)) < 0.5 * component_sizes(parts, inner)
    found = lung[parts]
    return close_mm(found, 3.0, mm) & body if found.any() else found


def _mark_bone(
    labels: UInt8[np.ndarray, "x y z"],
    hu: Float[np.ndarray, "x y z"],
    near_body: Bool[np.ndarray, "u v w"],
    mm: Spacing,
    factor: tuple[int, ...],
) -> None:
    """BONE where BODY is above 200 HU and connected to something above 300 HU, without specks.

    near_body: the blocks that contain BODY.
    """
    work_mm = coarser(mm, factor)
    level, work = _levels(hu, labels, near_body, mm, factor)
    # A pool of contrast (heart, aorta) is as bright as bone, but thick, large and nowhere dense.
    core = erode_mm((work > BONE_HU) & (work < POOL_HU), POOL_MM, work_mm)
    pools, _ = ndimage.label(dilate_mm(core, POOL_MM, work_mm)) if core.any() else (core * 0, 0)
    pool = (component_sizes(pools) * np.prod(work_mm) / 1000 > POOL_ML)[pools]
    if pool.any():
        wide = dilate_mm(pool, 4.0, work_mm)
        for voxels, blocks in boxes(wide, factor):
            part = level[voxels]
            part[repeat(wide[blocks], factor, part.shape) & (part > 1) & (part < 4)] = 1
    links: list[Links] = []
    found = labelled(level, links, SLAB, above=1)
    parts = [own[own > 0] + np.int32(before - 1) for _, before, own in found]
    piece = joined(links, max(int(own.max(initial=-1)) + 1 for own in parts))
    planes = [slice(first, first + SLAB) for first in range(0, len(level), SLAB)]
    size, cortex = np.zeros(piece.size, np.int64), np.zeros(piece.size, bool)
    for some, own in zip(planes, parts, strict=True):
        own[:] = piece[own]
        size += np.bincount(own, None, len(size))
        cortex[own[level[some][level[some] > 1] > 2]] = True
    bone = (size * np.prod(mm) / 1000 > BONE_ML) & cortex
    for some, own in zip(planes, parts, strict=True):
        inside = level[some] > 1
        inside[inside] = bone[own]
        labels[some][inside] = BONE
    del parts
    share = block_mean(labels, factor, lambda part: (part == BONE).astype(np.float32))
    closed = close_mm(share > 0.4, MARROW_MM, work_mm) & ~pool
    for voxels, blocks in boxes(closed, factor):
        part = level[voxels]
        labels[voxels][repeat(closed[blocks], factor, part.shape) & (part > 0)] = BONE


def _levels(
    hu: Float[np.ndarray, "x y z"],
    labels: UInt8[np.ndarray, "x y z"],
    near_body: Bool[np.ndarray, "u v w"],
    mm: Spacing,
    factor: tuple[int, ...],
) -> tuple[UInt8[np.ndarray, "x y z"], Float[np.ndarray, "u v w"]]:
    """HU in BODY, smoothed over 0.8 mm: how many of 0, 200 and 300 HU are exceeded, 4 from 700 HU,
    0 elsewhere; and the smoothed HU's means over blocks, in boxes around the body."""
    level = np.zeros(hu.shape, np.uint8)
    work = np.full(near_body.shape, -np.inf, np.float32)
    for voxels, blocks in boxes(near_body, factor):
        smooth = smooth_at(hu, voxels, 0.8, mm)
        np.ceil(smooth, out=smooth)
        work[blocks] = block_mean(smooth, factor)
        part = level[voxels]
        part[:] = smooth > 0
        for above in (smooth > BONE_HU, smooth > CORTEX_HU, smooth >= POOL_HU):
            part += above
        part *= labels[voxels] == BODY
    return level, work


def _at_rim(parts: Integer[np.ndarray, "x y z"], x: int = 1, y: int = 1) -> Bool[np.ndarray, " n"]:
    """Whether each component, from number 0, reaches a slice's rim of x, y voxels; 0 never does."""
    edges = (parts[:x], parts[-x:], parts[:, :y], parts[:, -y:])
    rim = np.zeros(int(parts.max()) + 1, bool)
    rim[np.concatenate([edge.ravel() for edge in edges])] = True
    rim[0] = False
    return rim


def _centre_x(body: Mask) -> Float[np.ndarray, " z"]:
    """Index of the body's centre along x in each slice."""
    columns = body.any(1)
    count = np.maximum(columns.sum(0), 1)
    return (columns * np.arange(body.shape[0])[:, None]).sum(0) / count
