"""How noisy a scan is, from the scan itself."""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer

from ..core.errors import InputError
from ..core.labels import BODY
from ..core.volume import Volume

LEAST_VOXELS = 500


def estimate_noise_hu(volume: Volume, coarse: Integer[np.ndarray, "x y z"]) -> float:
    """SD of white noise in soft tissue, HU, by the median of diagonal differences in the slices.

    The diagonal Haar coefficient of a 2x2 square sees noise but neither ramps nor straight edges
    along the axes; the median absolute value over 0.6745 is robust to the structure that is left
    (Donoho and Johnstone 1994). Correlated noise, which a CT's is, is underestimated.

    coarse: label map of `scan/anatomy.coarse`. `InputError` where there is too little soft tissue.
    """
    hu = volume.hu
    soft = (coarse == BODY) & (hu > -200) & (hu < 300)
    whole = soft[:-1, :-1] & soft[1:, :-1] & soft[:-1, 1:] & soft[1:, 1:]
    if np.count_nonzero(whole) < LEAST_VOXELS:
        raise InputError("too little soft tissue to estimate the noise from; give it: --noise-hu")
    diagonal = (hu[:-1, :-1] - hu[1:, :-1] - hu[:-1, 1:] + hu[1:, 1:])[whole] / 2
    return float(np.median(np.abs(diagonal)) / 0.6745)
