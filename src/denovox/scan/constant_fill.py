"""Voxels that no scanner measured: a background or a face that was set to one value.

Measured air is noisy, so a region of exactly one value that reaches the border is artificial: from
software that blanks everything outside a body contour, defacing, registration or rotation.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Shaped
from scipy import ndimage

PADDING_HU = -1024  # the scanner's value outside its field of view, which counts as air
LEAST = 0.04  # share of a scan; clipped air comes in smaller patches
CANDIDATE = 0.005  # share of the border's voxels
_CUBE = np.ones((3, 3, 3), bool)
_INNER = (slice(1, -1),) * 3


def constant_fill(hu: Shaped[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """Where a scan has exactly one value, above `PADDING_HU`, in regions that reach its border.

    Regions count if they are at least three voxels thick and, per value, `LEAST` of the scan.
    """
    found = np.zeros(hu.shape, bool)
    border = np.ones(hu.shape, bool)
    border[1:-1, 1:-1, 1:-1] = False
    values, counts = np.unique(hu[border], return_counts=True)
    for value in values[(counts >= CANDIDATE * counts.sum()) & (values > PADDING_HU)]:
        # It continues beyond the border: wedges there are as thick as in a larger scan.
        same = np.pad(hu == value, 1, constant_values=True)
        core = ndimage.binary_erosion(same, _CUBE, border_value=1)
        parts, _ = ndimage.label(core[_INNER])
        reaching = np.unique(parts[border])
        kept = np.pad(np.isin(parts, reaching[reaching > 0]), 1)
        kept = ndimage.binary_propagation(kept, _CUBE, mask=core)
        filled = (ndimage.binary_dilation(kept, _CUBE) & same)[_INNER]
        if filled.mean() >= LEAST:
            found |= filled
    return found
