"""Parts of a scan that are processed one after the other, and how they are blended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..core.regions import REGIONS
from ..scan.body_regions import RegionSpan
from .options import RunOptions

BLEND_MM = 20.0
ENDS = 0.05  # share of a window at each end where a value may be cut off
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


def handed_over(
    parts: Sequence[Part], drawn: Sequence[Float[np.ndarray, "x y _"]]
) -> Float[np.ndarray, "x y z"]:
    """Results that were generated each in the window of its region, as one volume of HU.

    A value at an end of a window says only that HU are at most, or at least, this. Where the
    neighbour's value is beyond it, that counts alone: otherwise lung would be mixed with the lower
    end of the abdomen's window.
    """
    hu = np.zeros((*drawn[0].shape[:2], parts[-1].stop), np.float32)
    for number, (part, values) in enumerate(zip(parts, drawn, strict=True)):
        window, own = REGIONS[part.span.region].window, values.copy()
        margin = ENDS * window.width_hu
        for other in (number - 1, number + 1):
            if not 0 <= other < len(parts):
                continue
            start = max(part.start, parts[other].start)
            stop = max(start, min(part.stop, parts[other].stop))
            shared = own[..., start - part.start : stop - part.start]
            theirs = drawn[other][..., start - parts[other].start : stop - parts[other].start]
            low, high = shared < window.low_hu + margin, shared > window.high_hu - margin
            shared[low] = np.minimum(shared, theirs)[low]
            shared[high] = np.maximum(shared, theirs)[high]
        hu[..., part.z] += part.weight * own
    return hu


def share_of(options: RunOptions, number: int, parts: Sequence[Part]) -> RunOptions:
    """Options for part `number`, whose share of the progress is that of its slices."""
    sizes = [part.stop - part.start for part in parts]
    before, whole = sum(sizes[:number]), sum(sizes)
    return options.between(before / whole, (before + sizes[number]) / whole)
