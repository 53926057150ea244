"""Voxels that no scanner measured: a background, frame or face that was set to one value.

Measured air and tissue are noisy, so a region of exactly one value that reaches the border is
artificial: from software that blanks everything outside a body contour, defacing, registration,
rotation or padding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Shaped
from scipy import ndimage

from ..core.morphology import Mask, reaching

PADDING_HU = -1024  # the scanner's value outside its field of view, which counts as air
AIR_TOP_HU = -900.0  # at or below this, a constant is outside the body whatever it is called
LEAST = 0.04  # share of a scan; clipped air comes in smaller patches
LEAST_TISSUE = 0.001  # tissue is never clipped: hardly any of it is enough
CANDIDATE = 0.005  # share of the border's voxels
MOST_VALUES = 8
_SIDES, _ALL = (0, 1), (0, 1, 2)  # axes whose first and last planes are the border

Hu = Shaped[np.ndarray, "x y z"]


def constant_fill(hu: Hu) -> Mask:
    """Where a scan has exactly one value, above `PADDING_HU`, in regions that reach its border.

    Regions count if they are at least three voxels thick and, per value, `LEAST` of the scan.
    """
    found = np.zeros(hu.shape, bool)
    border = np.concatenate([plane.ravel() for plane, _ in _planes(hu, _ALL)])
    for value in _values(hu, _ALL):
        if np.count_nonzero(border == value) >= CANDIDATE * border.size:
            filled = reaching(hu == value, _ALL)
            if filled.mean() >= LEAST:
                found |= filled
    return found


def outside_fill(hu: Hu) -> Mask | None:
    """Where a scan was filled with a constant that could be taken for a measurement; None: nowhere.

    The regions of `constant_fill` that reach the sides of slices, except for the scan's lowest
    value (air that was clipped or windowed; padding does not count as lower). Where the value is
    not that of air, they count from `LEAST_TISSUE` of the scan, unless it is the highest (metal).
    Nothing in a scan without noise, such as a phantom: there, anything may be constant.
    """
    found = None
    values = _values(hu, _SIDES)
    some = hu[tuple(slice(None, None, max(1, n // 64)) for n in hu.shape)]
    for value in values if values and _noisy(hu, values) else ():
        if not ((some > PADDING_HU) & (some < value)).mean() >= LEAST_TISSUE:
            continue
        filled = reaching(hu == value, _SIDES)
        common = value <= AIR_TOP_HU or value == hu.max()
        if filled.mean() >= (LEAST if common else LEAST_TISSUE):
            found = filled if found is None else found | filled
    return found


def without_fill(hu: Hu) -> Hu:
    """The scan with air in place of `outside_fill`; the same array where there is none."""
    return as_air(hu, outside_fill(hu))


def as_air(hu: Hu, filled: Mask | None) -> Hu:
    """The scan with air in place of what is filled with more; the same array for None."""
    if filled is None:
        return hu
    return np.where(filled & (hu > AIR_TOP_HU), hu.dtype.type(PADDING_HU), hu)


def fill_sentence(hu: Hu, filled: Mask) -> str:
    """What was filled, for a message."""
    parts = []
    for value, count in zip(*np.unique(hu[filled], return_counts=True), strict=True):
        share = count / hu.size
        parts.append(f"{share:.0%}" if share >= 0.01 else f"{share:.1%}")
        parts[-1] += f" of the voxels are exactly {value:g} HU"
    return f"{' and '.join(parts)} and reach the border: treated as outside the scan"


def _noisy(hu: Hu, values: list[float]) -> bool:
    """Whether most neighbours differ where there is neither air nor one of `values`."""
    few = hu[..., :: max(1, hu.shape[2] // 16)]
    measured = (few > AIR_TOP_HU) & ~np.isin(few, values)
    pairs = measured[1:] & measured[:-1]
    return bool(2 * np.count_nonzero(pairs & (few[1:] != few[:-1])) > np.count_nonzero(pairs))


def _planes(hu: Hu, axes: tuple[int, ...]) -> Iterator[tuple[Hu, Hu]]:
    """The first and last planes along each axis, each with its neighbour inside."""
    for axis in axes:
        along = np.moveaxis(hu, axis, 0)
        for first, second in ((0, 1), (-1, -2)):
            yield along[first], along[second if len(along) > 1 else first]


def _values(hu: Hu, axes: tuple[int, ...]) -> list[float]:
    """Values above `PADDING_HU` that fill 3 x 3 x 2 voxels at the border, the commonest first.

    Looks at two planes on each side, so that a scan without a fill costs next to nothing.
    """
    found = []
    for plane, inner in _planes(hu, axes):
        flat = (plane == inner) & (plane > PADDING_HU)
        for each in (plane, inner):
            if flat.any():
                low = ndimage.minimum_filter(each, 3, mode="nearest")
                flat &= (low == each) & (ndimage.maximum_filter(each, 3, mode="nearest") == each)
        found.append(plane[flat])
    values, counts = np.unique(np.concatenate(found), return_counts=True)
    return [float(value) for value in values[np.argsort(-counts, kind="stable")][:MOST_VALUES]]
