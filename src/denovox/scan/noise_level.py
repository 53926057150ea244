"""The noise level of a scan, estimated from the scan itself."""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer

from ..core.errors import InputError
from ..core.labels import BODY
from ..core.volume import Volume

LEAST_VOXELS = 500
ROWS = 8


def estimate_noise_hu(volume: Volume, coarse: Integer[np.ndarray, "x y z"]) -> float:
    """SD of white noise in soft tissue, HU, from the median of diagonal differences in the slices.

    The diagonal Haar coefficient of a 2x2 square responds to noise but not to ramps or to straight
    edges along the axes; the median absolute value over 0.6745 is robust to the remaining structure
    (Donoho and Johnstone 1994). Correlated noise, such as that of CT, is underestimated.

    coarse: label map from `scan/anatomy.coarse`. `InputError` if there is too little soft tissue.
    """
    sizes, count = np.empty(volume.hu.size, volume.hu.dtype), 0  # takes only what is filled
    for i in range(0, volume.shape[0] - 1, ROWS):  # a few rows at a time: no copies of the scan
        hu, labels = volume.hu[i : i + ROWS + 1], coarse[i : i + ROWS + 1]
        soft = (labels == BODY) & (hu > -200) & (hu < 300)
        whole = soft[:-1, :-1] & soft[1:, :-1] & soft[:-1, 1:] & soft[1:, 1:]
        diagonal = (hu[:-1, :-1] - hu[1:, :-1] - hu[:-1, 1:] + hu[1:, 1:])[whole] / 2
        np.abs(diagonal, out=sizes[count : count + len(diagonal)])
        count += len(diagonal)
    if count < LEAST_VOXELS:
        raise InputError("too little soft tissue to estimate the noise; set its SD with --noise-hu")
    return float(np.median(sizes[:count], overwrite_input=True) / 0.6745)
