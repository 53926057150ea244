"""Parts of a scan that are worked on one after the other, and how one hands over to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..scan.body_regions import RegionSpan
from .options import RunOptions

HANDOVER_MM = 20.0
CONTEXT = 8  # slices beyond, which the network sees and nobody keeps: as windows do


@dataclass(frozen=True)
class Part:
    """Slices [start, stop) of a scan: a slab, the hand-over to its neighbours, and some context.

    weight: this part's share of what is added to each of its slices; all parts' sum to one.
    """

    slab: RegionSpan
    start: int
    stop: int
    weight: Float[np.ndarray, " z"]

    @property
    def z(self) -> slice:
        """Ready to index the last axis."""
        return slice(self.start, self.stop)


def handover(slabs: Sequence[RegionSpan], z_mm: float) -> list[Part]:
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


def share_of(options: RunOptions, number: int, parts: Sequence[Part]) -> RunOptions:
    """The options for part `number`, whose share of the work goes by its slices."""
    sizes = [part.stop - part.start for part in parts]
    before, whole = sum(sizes[:number]), sum(sizes)
    return options.between(before / whole, (before + sizes[number]) / whole)
