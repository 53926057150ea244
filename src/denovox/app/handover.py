"""Parts of a scan that are worked on one after the other, and how one hands over to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..core.box import Box, Shape
from ..core.resample import resize
from ..data.regions_along import Slab

HANDOVER_MM = 20.0
CONTEXT = 8  # slices beyond, which the network sees and nobody keeps: as windows do


@dataclass(frozen=True)
class Part:
    """Slices [start, stop) of a scan: a slab, the hand-over to its neighbours, and some context.

    weight: this part's share of what is added to each of its slices; all parts' sum to one.
    """

    slab: Slab
    start: int
    stop: int
    weight: Float[np.ndarray, " z"]

    @property
    def z(self) -> slice:
        """Ready to index the last axis."""
        return slice(self.start, self.stop)

    def box(self, shape: Shape, grid: Shape) -> Box:
        """The least box of a working grid over the scan's `shape` that holds these slices."""
        first = math.floor(self.start * grid[2] / shape[2])
        last = math.ceil(self.stop * grid[2] / shape[2])
        return Box((0, 0, first), (grid[0], grid[1], last - first))

    def to_grid(
        self, values: Float[np.ndarray, "x y z"], shape: Shape, grid: Shape
    ) -> Float[np.ndarray, "x2 y2 z2"]:
        """Values of these slices of a scan of `shape`, on their box of the working grid."""
        if grid == shape:
            return values
        box = self.box(shape, grid)
        first, count = (n * shape[2] / grid[2] for n in (box.start[2], box.size[2]))
        return resize(values, box.size, (0, 0, first - self.start), (*shape[:2], count))

    def from_grid(
        self, values: Float[np.ndarray, "x y z"], shape: Shape, grid: Shape
    ) -> Float[np.ndarray, "x2 y2 z2"]:
        """The way back."""
        if grid == shape:
            return values
        slices, below = self.stop - self.start, self.box(shape, grid).start[2]
        first, count = (n * grid[2] / shape[2] for n in (self.start, slices))
        return resize(values, (*shape[:2], slices), (0, 0, first - below), (*grid[:2], count))


def handover(slabs: Sequence[Slab], z_mm: float) -> list[Part]:
    """A part for each slab; slabs: in order, without gaps. z_mm: distance between slices.

    Across a border the weight goes from one part to the next along a cosine of 20 mm.
    """
    count = slabs[-1].stop
    height_mm = (np.arange(count) + 0.5) * z_mm

    def above(border: int) -> Float[np.ndarray, " z"]:
        """Share of all that lies above a border: from 0 to 1."""
        if border in (0, count):
            return np.full(count, border == 0, np.float32)
        way = np.clip((height_mm - border * z_mm) / HANDOVER_MM + 0.5, 0, 1)
        return ((1 - np.cos(np.pi * way)) / 2).astype(np.float32)

    parts = []
    for slab in slabs:
        weight = above(slab.start) - above(slab.stop)
        own = np.flatnonzero(weight)
        start, stop = max(0, int(own[0]) - CONTEXT), min(count, int(own[-1]) + 1 + CONTEXT)
        parts.append(Part(slab, start, stop, weight[start:stop]))
    return parts
