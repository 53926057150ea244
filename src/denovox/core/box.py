"""A box of voxels: one type for training crops, position maps and sampling tiles (Method 1).

The whole volume is the box that covers everything; a patch is any smaller box. A network knows
where a box lies from its voxels' coordinates in the whole volume, from -1 to 1 along each axis.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """Voxels [start, start + size) along x, y, z of a whole volume."""

    start: Shape
    size: Shape

    @property
    def stop(self) -> Shape:
        """One past the last voxel along each axis."""
        x, y, z = (a + n for a, n in zip(self.start, self.size, strict=True))
        return x, y, z

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Slices that index an array whose last three axes are x, y, z."""
        x, y, z = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z


def bounding_box(mask: Bool[np.ndarray, "x y z"], margin: Sequence[int] = (0, 0, 0)) -> Box:
    """The smallest box around a mask, padded by `margin` voxels on each side, within the array.

    For an empty mask, the whole array.
    """
    ends = []
    for axis, (count, more) in enumerate(zip(mask.shape, margin, strict=True)):
        inside = np.flatnonzero(mask.any(tuple(other for other in range(3) if other != axis)))
        first, last = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, count)
        ends.append((max(0, first - more), min(count, last + more)))
    (x, u), (y, v), (z, w) = ends
    return Box((x, y, z), (u - x, v - y, w - z))


def coordinates(
    start: float, size: float, whole_size: int, points: int
) -> Float[np.ndarray, " points"]:
    """Centres of `points` equal cells of [start, start + size), scaled to [-1, 1] (Method 1).

    All lengths are in voxels along one axis of the whole volume, whose ends are at -1 and 1.
    """
    centres = start + (np.arange(points) + 0.5) * size / points
    return (2 * centres / whole_size - 1).astype(np.float32)


@dataclass(frozen=True)
class Tile:
    """A tile along one axis: voxels [start, stop) and its weight in each of them."""

    start: int
    stop: int
    weight: Float[np.ndarray, " voxels"]


@dataclass(frozen=True)
class Tiling:
    """How an axis is divided into tiles.

    size: the largest tile, in voxels. overlap: voxels that two neighbours share, blended
    smoothly. multiple: tile sizes are multiples of it (the network requires this), so the last
    tile may extend past the end of the volume by less than that.
    """

    size: int = 64
    overlap: int = 4
    multiple: int = 8

    def __post_init__(self) -> None:
        if self.size % self.multiple:
            raise ValueError("size must be a multiple of `multiple`")
        if self.size <= self.overlap:
            raise ValueError("tiles must be larger than their overlap")

    def count(self, length: int) -> int:
        """How many tiles cover `length` voxels."""
        return max(1, math.ceil((length - self.overlap) / (self.size - self.overlap)))

    def total(self, length: int) -> int:
        """Voxels of all tiles over `length` voxels."""
        shared = (self.count(length) - 1) * self.overlap
        return math.ceil((length + shared) / self.multiple) * self.multiple

    def tiles(self, length: int, shift: float = 0.0) -> list[Tile]:
        """Tiles over `length` voxels; their weights sum to one at every voxel.

        shift in [-1, 1] moves the seams back and forth as far as `size` allows. If they move at
        every step of a sampler, they average out, so a small overlap does the work of a large one,
        at no cost: what one tile loses, its neighbour gains.
        """
        count, total = self.count(length), self.total(length)
        ends = [round(i * total / count / self.multiple) * self.multiple for i in range(count + 1)]
        sizes = [b - a for a, b in pairwise(ends)]
        least = min(sizes) - self.overlap
        slack = min(self.size - max(sizes), least // 2) if count > 1 else 0
        offset = round(shift * slack / self.multiple) * self.multiple
        sizes[0], sizes[-1] = sizes[0] + offset, sizes[-1] - offset
        starts = [sum(sizes[:i]) - i * self.overlap for i in range(count)]
        stops = [start + size for start, size in zip(starts, sizes, strict=True)]

        ramp = (1 - np.cos(np.pi * (np.arange(self.overlap) + 0.5) / max(self.overlap, 1))) / 2
        weights, sums = [], np.zeros(stops[-1])
        for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            weight = np.ones(stop - start)
            if self.overlap and i > 0:
                weight[: self.overlap] *= ramp
            if self.overlap and i < count - 1:
                weight[-self.overlap :] *= ramp[::-1]
            weights.append(weight)
            sums[start:stop] += weight
        # The ramps of two tiles sum to one already; where tiles are so small that three overlap,
        # the weights are normalised.
        return [
            Tile(start, stop, (weight / sums[start:stop]).astype(np.float32))
            for start, stop, weight in zip(starts, stops, weights, strict=True)
        ]


@functools.lru_cache(64)
def tilings(shape: Shape, edge: int, overlap: int, multiple: int) -> tuple[Tiling, Tiling, Tiling]:
    """A tiling for each axis of a volume: the fewest voxels in all tiles together.

    No tile has more voxels than a cube of `edge`, nor more than twice `edge` along an axis: where
    a volume is thin, tiles are wider in exchange. Among equals, the fewest tiles.
    """
    axes = []
    for n in shape:
        fewest: dict[int, tuple[int, int, int]] = {}  # number of tiles -> the smallest such size
        for size in range((overlap // multiple + 1) * multiple, 2 * edge + 1, multiple):
            each = Tiling(size, overlap, multiple)
            fewest.setdefault(each.count(n), (size, each.total(n), each.count(n)))
        axes.append(fewest.values())

    def cost(sizes: tuple[tuple[int, int, int], ...]) -> tuple[int, int, int]:
        (a, i, k), (b, j, m), (c, h, n) = sizes
        return i * j * h, k * m * n, max(a, b, c)

    fitting = (t for t in itertools.product(*axes) if t[0][0] * t[1][0] * t[2][0] <= edge**3)
    x, y, z = (Tiling(size, overlap, multiple) for size, _, _ in min(fitting, key=cost))
    return x, y, z
