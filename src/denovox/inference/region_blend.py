"""Parts of a scan that are processed one after the other, and how they are blended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..scan.body_regions import RegionSpan
from .options import RunOptions

BLEND_MM = 20.0
CONTEXT = 8  # extra slices that the network sees, and whose output is discarded: as with tiles


@dataclass(frozen=True)
class Part:
    """Slices [start, stop) of a scan: a region, the transition to its neighbours, and some context.

    weight: of this part's result in each of its slices; the weights of all parts sum to one.
    """

    span: RegionSpan
    start: int
    stop: int
    weight: Float[np.ndarray, " z"]

    @property
    def z(self) -> slice:
        """Ready to index the last axis."""
        return slice(self.start, self.stop)


def blend_parts(spans: Sequence[RegionSpan], z_mm: float) -> list[Part]:
    """A part for each region; spans: in order, without gaps. z_mm: distance between slices.

    Across a border the weight moves from one part to the next along a cosine of 20 mm.
    """
    count = spans[-1].stop
    height_mm = (np.arange(count) + 0.5) * z_mm

    def above(border: int) -> Float[np.ndarray, " z"]:
        """Weight of everything above a border: from 0 to 1."""
        if border in (0, count):
            return np.full(count, border == 0, np.float32)
        ramp = np.clip((height_mm - border * z_mm) / BLEND_MM + 0.5, 0, 1)
        return ((1 - np.cos(np.pi * ramp)) / 2).astype(np.float32)

    parts = []
    for span in spans:
        weight = above(span.start) - above(span.stop)
        used = np.flatnonzero(weight)
        start, stop = max(0, int(used[0]) - CONTEXT), min(count, int(used[-1]) + 1 + CONTEXT)
        parts.append(Part(span, start, stop, weight[start:stop]))
    return parts


def share_of(options: RunOptions, number: int, parts: Sequence[Part]) -> RunOptions:
    """Options for part `number`, whose share of the progress is that of its slices."""
    sizes = [part.stop - part.start for part in parts]
    before, whole = sum(sizes[:number]), sum(sizes)
    return options.between(before / whole, (before + sizes[number]) / whole)
