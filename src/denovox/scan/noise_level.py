"""The noise level of a scan, estimated from the scan itself."""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer

from ..core.errors import InputError
from ..core.labels import BODY
from ..core.volume import Volume

LEAST_VOXELS = 500


def estimate_noise_hu(volume: Volume, coarse: Integer[np.ndarray, "x y z"]) -> float:
    """SD of white noise in soft tissue, HU, from the median of diagonal differences in the slices.

    The diagonal Haar coefficient of a 2x2 square responds to noise but not to ramps or to straight
    edges along the axes; the median absolute value over 0.6745 is robust to the remaining structure
    (Donoho and Johnstone 1994). Correlated noise, such as that of CT, is underestimated.

    coarse: label map from `scan/anatomy.coarse`. `InputError` if there is too little soft tissue.
    """
    hu = volume.hu
    soft = (coarse == BODY) & (hu > -200) & (hu < 300)
    whole = soft[:-1, :-1] & soft[1:, :-1] & soft[:-1, 1:] & soft[1:, 1:]
    if np.count_nonzero(whole) < LEAST_VOXELS:
        raise InputError("too little soft tissue to estimate the noise; give it with --noise-hu")
    diagonal = (hu[:-1, :-1] - hu[1:, :-1] - hu[:-1, 1:] + hu[1:, 1:])[whole] / 2
    return float(np.median(np.abs(diagonal)) / 0.6745)
