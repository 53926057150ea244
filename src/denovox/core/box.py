"""A box of voxels: training crop, position map and sampling window in one type (METHOD 1).

The whole volume is the box that covers everything, a patch any smaller one. A network sees where
a box lies through the coordinates of its voxels in the whole, from -1 to 1 along each axis.
"""

from __future__ import annotations

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
        """Ready to index an array whose last three axes are x, y, z."""
        x, y, z = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z


def whole(shape: Shape) -> Box:
    """The box that covers everything."""
    return Box((0, 0, 0), shape)


def bounding_box(mask: Bool[np.ndarray, "x y z"], margin: Sequence[int] = (0, 0, 0)) -> Box:
    """The smallest box around a mask, wider by `margin` voxels on each side, within the array.

    Of an empty mask: all of the array.
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
    """Centres of `points` equal cells of [start, start + size), in the whole's [-1, 1] (METHOD 1).

    All numbers are voxels of one axis of the whole volume, whose ends lie at -1 and 1.
    """
    centres = start + (np.arange(points) + 0.5) * size / points
    return (2 * centres / whole_size - 1).astype(np.float32)


@dataclass(frozen=True)
class Tile:
    """A window along one axis: voxels [start, stop), and its share of each of them."""

    start: int
    stop: int
    weight: Float[np.ndarray, " voxels"]


@dataclass(frozen=True)
class Tiling:
    """How an axis is cut into windows.

    size: the largest window, in voxels. overlap: voxels that two neighbours share, blended
    smoothly. multiple: window sizes are multiples of it (the network's own need), and so the last
    window may reach past the end of the volume by less than it.
    """

    size: int = 64
    overlap: int = 16
    multiple: int = 8

    def __post_init__(self) -> None:
        if self.size % self.multiple or self.overlap % (2 * self.multiple):
            raise ValueError("size and half the overlap must be multiples of `multiple`")
        if self.size <= self.overlap:
            raise ValueError("windows must be larger than their overlap")

    def tiles(self, length: int, shift: float = 0.0) -> list[Tile]:
        """Windows over `length` voxels; their weights sum to one at every voxel.

        shift in [-1, 1] moves the seams to and fro within the room that `size` leaves. Moved at
        every step of a sampler, they average out, so little overlap does the work of much, and
        moving costs nothing: what one window loses its neighbour gains.
        """
        end = math.ceil(length / self.multiple) * self.multiple
        stride = self.size - self.overlap
        count = max(1, math.ceil((end - self.overlap) / stride))
        # Where windows start: all but the last overlap in nearly equal pieces, none over a stride.
        even = (end - self.overlap) / count / self.multiple
        starts = [round(i * even) * self.multiple for i in range(count + 1)]
        pieces = [b - a for a, b in pairwise(starts)]
        room = min(stride - max(pieces), min(pieces) // 2) if count > 1 else 0
        moved = round(shift * room / self.multiple) * self.multiple
        starts = [0, *(start + moved for start in starts[1:-1])]
        stops = [*(start + self.overlap for start in starts[1:]), end]

        ramp = (1 - np.cos(np.pi * (np.arange(self.overlap) + 0.5) / max(self.overlap, 1))) / 2
        weights, total = [], np.zeros(end)
        for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            weight = np.ones(stop - start)
            if self.overlap and i > 0:
                weight[: self.overlap] *= ramp
            if self.overlap and i < count - 1:
                weight[-self.overlap :] *= ramp[::-1]
            weights.append(weight)
            total[start:stop] += weight
        # Two windows' ramps sum to one as they are; where windows are so small that three meet,
        # they are made to.
        return [
            Tile(start, stop, (weight / total[start:stop]).astype(np.float32))
            for start, stop, weight in zip(starts, stops, weights, strict=True)
        ]
