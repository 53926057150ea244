"""Blocks of a scan's voxels: their averages, boxes around some of them, and smoothing within these.

What is found on the blocks restricts what is looked at voxel by voxel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import ndimage

from ..core.box import bounding_box
from ..core.morphology import Mask, Spacing

Slices = tuple[slice, slice, slice]

SLAB = 16  # planes processed at a time, where all of them would take too much memory


def smooth(
    hu: Float[np.ndarray, "x y z"], sigma_mm: float, mm: Spacing
) -> Float[np.ndarray, "x y z"]:
    """HU blurred by a Gaussian of this SD."""
    return ndimage.gaussian_filter(hu, [sigma_mm / step for step in mm], mode="nearest")


def smooth_at(
    hu: Float[np.ndarray, "x y z"], voxels: Slices, sigma_mm: float, mm: Spacing
) -> Float[np.ndarray, "x2 y2 z2"]:
    """A box of what `smooth` makes of all `clipped` HU, from no more of them than it needs."""
    sigmas = [sigma_mm / step for step in mm]
    reach = [int(4 * sigma + 0.5) for sigma in sigmas]  # where scipy truncates the filter
    first = [max(0, box.start - more) for box, more in zip(voxels, reach, strict=True)]
    wide = zip(first, voxels, reach, strict=True)
    part = clipped(hu[tuple(slice(start, box.stop + more) for start, box, more in wide)])
    for axis, (sigma, start, box) in enumerate(zip(sigmas, first, voxels, strict=True)):
        part = ndimage.gaussian_filter1d(part, sigma, axis, mode="nearest")
        inside = slice(box.start - start, box.stop - start)
        part = part[(slice(None),) * axis + (inside,)]
    return part


def boxes(
    mask: Bool[np.ndarray, "u v w"], factor: tuple[int, ...]
) -> Iterator[tuple[Slices, Slices]]:
    """The voxels and the blocks of a box around a mask of blocks, a few planes at a time."""
    some = max(1, SLAB // factor[0])
    for first in range(0, len(mask), some):
        part = mask[first : first + some]
        if part.any():
            x, y, z = bounding_box(part).slices
            blocks = (slice(x.start + first, x.stop + first), y, z)
            at = zip(blocks, factor, strict=True)
            x, y, z = (slice(box.start * f, box.stop * f) for box, f in at)
            yield (x, y, z), blocks


def clipped(hu: Shaped[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
    """HU within the range of 12 bits, as float32."""
    return np.clip(hu, -1024, 3071).astype(np.float32, copy=False)


def coarser(mm: Spacing, factor: tuple[int, ...]) -> Spacing:
    """Voxel size of the blocks."""
    return mm[0] * factor[0], mm[1] * factor[1], mm[2] * factor[2]


def block_mean(
    hu: Shaped[np.ndarray, "x y z"],
    factor: tuple[int, ...],
    values: Callable[[Shaped[np.ndarray, "k y z"]], Float[np.ndarray, "k y z"]] | None = None,
) -> Float[np.ndarray, "u v w"]:
    """Means of `values` (default: HU, clipped to their range) over blocks; the last block repeats
    the edge."""
    values = values or clipped
    u, v, w = (math.ceil(n / f) for n, f in zip(hu.shape, factor, strict=True))
    out = np.empty((u, v, w), np.float32)
    for i in range(u):
        sums = values(hu[i * factor[0] : (i + 1) * factor[0]])
        for axis in range(3):
            sums = _sums(sums, axis, factor[axis])
        out[i] = sums[0]
    out /= math.prod(factor)
    return out


def _sums(
    values: Float[np.ndarray, "x y z"], axis: int, count: int
) -> Float[np.ndarray, "x2 y2 z2"]:
    """Sums over every `count` values along an axis; the last one repeats the end."""
    along = np.moveaxis(values, axis, 0)
    sums = along[::count].copy()
    for k in range(1, count):
        more = along[k::count]
        sums[: len(more)] += more
        if len(more) < len(sums):
            sums[-1] += along[-1]
    return np.moveaxis(sums, 0, axis)


def repeat(
    mask: Mask, factor: tuple[int, ...], shape: tuple[int, ...]
) -> Bool[np.ndarray, "x2 y2 z2"]:
    """The inverse of `block_mean` by nearest neighbour."""
    for axis in (2, 1, 0):  # the slowest while there is least
        mask = mask.repeat(factor[axis], axis)
    return mask[: shape[0], : shape[1], : shape[2]]
