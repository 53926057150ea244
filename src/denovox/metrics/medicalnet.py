"""Preprocessing of a CT for a 3D MedicalNet, for `fid3d-medicalnet`.

Facts 5.4 names the features (resnet_50_23dataset) and nothing else: papers that report such a FID
do not state their preprocessing. This one is ours: 2 mm, area-weighted, so that noise is averaged
and not aliased; the middle 192 voxels along each axis (384 mm), padded with -1000 HU; clipped to
[-1000, 1000] HU; minus the mean of the volume, over its SD + 1e-5.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from ..core.resample import resize
from ..core.volume import Volume

SIZE, STEP_MM = 192, 2.0
LOW_HU, HIGH_HU = -1000.0, 1000.0


def prepare(volume: Volume, size: int = SIZE) -> Float32[np.ndarray, "1 s s s"]:
    """The scan as the network expects it, with one channel; see the module docstring."""
    mm = volume.spacing_mm
    shape = [max(1, round(n * d / STEP_MM)) for n, d in zip(volume.shape, mm, strict=True)]
    hu = np.clip(resize(volume.hu.astype(np.float32), shape), LOW_HU, HIGH_HU)
    box = np.full((size,) * 3, LOW_HU, np.float32)
    into, of = zip(*(_middle(n, size) for n in hu.shape), strict=True)
    box[into] = hu[of]
    values = box.astype(np.float64)
    normal = (values - values.mean()) / (values.std() + 1e-5)
    return normal.astype(np.float32)[None]


def _middle(old: int, new: int) -> tuple[slice, slice]:
    """Where the middle of a side goes, and where it comes from."""
    kept = min(old, new)
    to, start = (new - kept) // 2, (old - kept) // 2
    return slice(to, to + kept), slice(start, start + kept)
