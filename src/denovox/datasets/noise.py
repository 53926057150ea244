"""How noisy a case is, as `data.sample.noise_floor` needs to know."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from ..core.errors import InputError
from ..core.volume import Volume
from ..scan import anatomy, noise

SLICES = 32  # in the middle: enough for an SD, and quick


def noise_hu(ct: Num[np.ndarray, "x y z"], affine: Float[np.ndarray, "4 4"]) -> float:
    """SD of the noise in soft tissue, in HU, of a case on its own grid; 0 if none is found.

    affine: voxel -> mm.
    """
    first = max(0, (ct.shape[2] - SLICES) // 2)
    middle = Volume(ct[..., first : first + SLICES].astype(np.float32), affine)
    try:
        return noise.estimate(middle, anatomy.coarse(middle)).sd_hu
    except InputError:  # too little soft tissue, or no noise in it
        return 0.0
