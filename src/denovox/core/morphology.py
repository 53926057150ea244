"""Morphology of masks in millimetres: erosion, dilation, closing, connected components.

All distances are Euclidean, between voxel centres. Unless stated otherwise, a mask is assumed to
continue beyond the array's ends, so that nothing is eroded from outside.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage

from .box import bounding_box

Mask = Bool[np.ndarray, "x y z"]
Spacing = tuple[float, float, float]  # voxel size along x, y, z, mm


def within_slice() -> Bool[np.ndarray, "3 3 3"]:
    """Connectivity, for scipy: the four neighbours in the same axial slice."""
    cross = np.zeros((3, 3, 3), bool)
    cross[:, 1, 1] = cross[1, :, 1] = True
    return cross


def depth_mm(mask: Mask, spacing_mm: Spacing, ends: bool = False) -> Float[np.ndarray, "x y z"]:
    """Distance in mm from each voxel of a mask to the nearest one outside it; 0 outside.

    ends: count everything beyond the array's ends as outside. Infinite if nothing is outside.
    """
    if ends:
        return depth_mm(np.pad(mask, 1), spacing_mm)[1:-1, 1:-1, 1:-1]
    if mask.all():
        return np.full(mask.shape, np.inf)
    nearest = ndimage.distance_transform_edt(
        mask, spacing_mm, return_distances=False, return_indices=True
    )
    squared = np.zeros(mask.shape)
    for axis, line in enumerate(np.ogrid[tuple(map(slice, mask.shape))]):
        # scipy's own distances are the same but take three times the memory.
        squared += ((nearest[axis] - line) * spacing_mm[axis]) ** 2
    return np.sqrt(squared, out=squared)


def erode_mm(mask: Mask, radius_mm: float, spacing_mm: Spacing) -> Mask:
    """Voxels farther than a radius from every voxel outside the mask."""
    out, box = np.zeros_like(mask), bounding_box(mask, (1, 1, 1)).slices
    out[box] = depth_mm(mask[box], spacing_mm) > radius_mm
    return out


def dilate_mm(mask: Mask, radius_mm: float, spacing_mm: Spacing) -> Mask:
    """Voxels within a radius of the mask; none for an empty mask."""
    margin = [math.ceil(radius_mm / mm) for mm in spacing_mm]
    out, box = np.zeros_like(mask), bounding_box(mask, margin).slices
    out[box] = depth_mm(~mask[box], spacing_mm) <= radius_mm
    return out


def close_mm(mask: Mask, radius_mm: float, spacing_mm: Spacing) -> Mask:
    """The mask with holes and gaps up to twice a radius wide filled."""
    return erode_mm(dilate_mm(mask, radius_mm, spacing_mm), radius_mm, spacing_mm)


def component_sizes(
    parts: Integer[np.ndarray, "x y z"], among: Mask | None = None, count: int = 0
) -> Integer[np.ndarray, " n"]:
    """Number of voxels in each numbered component; 0 for number 0, the background.

    among: count only voxels in this mask. count: minimum length of the result.
    """
    sizes = np.zeros(max(count, int(parts.max()) + 1), np.int64)
    for i, part in enumerate(parts):  # plane by plane: `bincount` would copy it all to 64 bits
        some = part if among is None else part[among[i]]
        sizes += np.bincount(some.ravel(), None, len(sizes))
    sizes[0] = 0
    return sizes


def largest(mask: Mask) -> Mask:
    """The largest face-connected component; the first of several of equal size."""
    parts, count = ndimage.label(mask)
    return parts == component_sizes(parts).argmax() if count > 1 else mask
