"""Voxels that are NaN or infinite: padding where they reach the sides of slices, else refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from ..core.errors import ensure, line


def fill_missing(
    hu: Float[np.ndarray, "x y z"], path: Path, padding: float | None
) -> tuple[str, ...]:
    """Put `padding` in place of NaN that reaches the first or last voxel along x or y; a note.

    `InputError`, with the first position, on any other value that is not finite, in the axes
    closest to RAS; padding None: on all of them. Slices that are NaN as a whole reach the sides.
    """
    bad = ~np.isfinite(hu)
    outside = np.zeros_like(bad)
    if padding is not None:
        missing = np.isnan(hu)
        outside[[0, -1]], outside[:, [0, -1]] = missing[[0, -1]], missing[:, [0, -1]]
        outside = ndimage.binary_propagation(outside, np.ones((3, 3, 3)), missing)
    count, all_of_it = np.count_nonzero(bad & ~outside), outside.all()
    first = np.unravel_index(int(np.argmax(bad & ~outside)), hu.shape)
    where = f"the first at voxel ({', '.join(map(str, map(int, first)))})"
    ensure(not count, f"{path} has {count} voxels that are NaN or infinite, {where}; replace them")
    ensure(not all_of_it, f"{path} has no values: all voxels are NaN; export it again")
    if padding is None or not bad.any():
        return ()
    hu[outside] = padding
    share = np.count_nonzero(outside) / hu.size
    shown = f"{share:.0%}" if share >= 0.01 else f"{np.count_nonzero(outside)}"
    return (line(f"{shown} of the voxels are NaN and reach the border: taken as {padding:g}"),)
