"""Noise in soft tissue relative to the noise in its flattest parts, a few slices at a time.

A slice of a `Volume` is scattered over all of its memory, so a few are copied at once, as planes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped
from scipy import ndimage

from ..core.labels import BODY
from .noise_map import (
    NoiseMap,
    block_mean,
    block_of,
    diagonal,
    differences,
    neighbours,
    slabs,
    typical_difference,
)

SMOOTH_MM = 3.0  # what remains after this blur counts as anatomy
SOFT_HU = (-150.0, 250.0)
LOCAL_MM, WORK_MM = 25.0, 6.0  # blur of the local SD, and voxel size of the grid for it
LEAST_SHARE = 0.5  # lower bound of the local SD, relative to the SD in the squares

Corners = Integer[np.ndarray, "n 3"]


@dataclass(frozen=True, eq=False)
class SoftTissue:
    """The soft tissue of a scan, in the part of each slice that contains the body.

    hu: of the scan; mm: its voxel size. start, stop: that part, x y. soft: within that part, slices
    first, where there is soft tissue.
    """

    hu: Shaped[np.ndarray, "x y z"]
    mm: tuple[float, float, float]
    start: tuple[int, int]
    stop: tuple[int, int]
    soft: Bool[np.ndarray, "z u v"]

    @classmethod
    def of(
        cls,
        hu: Shaped[np.ndarray, "x y z"],
        coarse: Integer[np.ndarray, "x y z"],
        mm: tuple[float, float, float],
        watch: Callable[[SoftTissue, slice, Float[np.ndarray, "k u v"]], None],
    ) -> SoftTissue | None:
        """coarse: labels; None without any body.

        watch: called with slices whose soft tissue has been found, and their `blur`, its to keep.
        """
        flat = np.zeros(hu.shape[:2], bool)
        for i, plane in enumerate(coarse):
            flat[i] = (plane == BODY).any(1)
        if not flat.any():
            return None
        ends = [np.flatnonzero(flat.any(1 - axis))[[0, -1]] for axis in (0, 1)]
        (x, u), (y, v) = ((int(first), int(last) + 1) for first, last in ends)
        tissue = cls(hu, mm, (x, y), (u, v), np.empty((hu.shape[2], u - x, v - y), bool))
        for planes in slabs(hu.shape[2]):
            blur = tissue.blur(planes)
            soft = (blur > SOFT_HU[0]) & (blur < SOFT_HU[1])
            tissue.soft[planes] = soft & np.moveaxis(coarse[x:u, y:v, planes] == BODY, 2, 0)
            watch(tissue, planes, blur)
        return tissue

    def planes(self, z: slice, margin: tuple[int, int] = (0, 0)) -> Float[np.ndarray, "z u v"]:
        """A copy of slices in the part with the body and, as far as it reaches, a margin."""
        part = tuple(
            slice(max(0, a - more), b + more)
            for a, b, more in zip(self.start, self.stop, margin, strict=True)
        )
        return np.moveaxis(self.hu[(*part, z)], 2, 0).astype(np.float32, order="C")

    def blur(self, z: slice) -> Float[np.ndarray, "z u v"]:
        """Slices blurred within themselves, in the part with the body."""
        sigma = [SMOOTH_MM / step for step in self.mm[:2]]
        reach = (math.ceil(4 * sigma[0] + 1), math.ceil(4 * sigma[1] + 1))
        wide = self.planes(z, reach)
        x, y = (min(first, more) for first, more in zip(self.start, reach, strict=True))
        _, u, v = self.soft.shape
        wide = ndimage.gaussian_filter1d(wide, sigma[0], 1)[:, x : x + u]
        blur: np.ndarray = ndimage.gaussian_filter1d(wide, sigma[1], 2)[..., y : y + v]
        return blur


def body_share(tissue: SoftTissue, corners: Corners, size: int) -> float:
    """Median SD of the noise in soft tissue relative to its SD in the squares, `LEAST_SHARE` to 1.

    corners: of the squares; size: their edge in voxels.

    Flat squares lie deep in the body, where there is more noise than in most of it. Texture only
    adds to the local SD, so a ratio above 1 is not due to noise.

    The local SD, up to a factor, is the mean absolute diagonal difference in soft tissue, blurred
    over `LOCAL_MM`: the spectrum is the same everywhere, so any fixed filter measures it. With two
    or more slices, differences of slices are used; because of edges, each voxel counts as 4 medians
    at most. Where there is no soft tissue nearby, the local SD is the mean.
    """
    local, soft = _local_sd(tissue)
    squares = [
        local.on((size, size, 1), corner, (size, size, 1))
        for corner in (corners - [*tissue.start, 0]).tolist()
    ]
    rms = float(np.sqrt(np.square(squares).mean()))
    if not rms:
        return 1.0
    order = np.argsort(local.values, axis=None)
    below = soft.ravel()[order].cumsum()
    median = local.values.ravel()[order[np.searchsorted(below, below[-1] / 2)]]
    return min(1.0, max(LEAST_SHARE, float(median) / rms))


def _local_sd(tissue: SoftTissue) -> tuple[NoiseMap, Float[np.ndarray, "a b c"]]:
    """The local SD of the noise, up to a factor, and the share of soft tissue in each block."""
    (x, y), (u, v) = tissue.start, tissue.stop
    hu, soft = tissue.hu[x:u, y:v], np.moveaxis(tissue.soft, 0, 2)

    def both(z: slice) -> Bool[np.ndarray, "x y k"]:
        """Soft tissue in the two slices of a difference."""
        return soft[..., z] & soft[..., neighbours(hu.shape[2], z)]

    most = 4 * typical_difference(hu, both)
    block = block_of(WORK_MM, tissue.mm, hu.shape)
    parts = []
    for planes in slabs(hu.shape[2], block[2]):
        size, inside = diagonal(differences(hu, planes)[1], both(planes))
        size = np.where(inside, np.minimum(size, most), 0)
        parts.append([block_mean(each, block) for each in (inside, size, soft[..., planes])])
    weight, sums, share = (np.concatenate(each, axis=2) for each in zip(*parts, strict=True))
    wide = [LOCAL_MM / (step * edge) for step, edge in zip(tissue.mm, block, strict=True)]
    weight, sums = (ndimage.gaussian_filter(each, wide) for each in (weight, sums))
    mean, little = sums.sum() / max(weight.sum(), 1e-9), 0.02
    return NoiseMap((sums + little * mean) / (weight + little), block), share
