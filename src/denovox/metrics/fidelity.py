"""How close a volume is to its reference: PSNR, SSIM, MAE, RMSE, each under a named convention.

A PSNR without its convention is meaningless: the range the values are clipped to and the peak shift
it by many decibels (Method 4, Facts 5.6). So no function here has a default convention, and results
carry the name of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy import ndimage

from ..core.errors import InputError
from ..core.regions import REGIONS
from ..core.volume import Volume

# Sizes are not in the types on purpose: volumes that differ give a ValueError in words.
Image = Volume | Num[np.ndarray, "_ _ _"]
Mask = Bool[np.ndarray, "_ _ _"]

Slice = Float[np.ndarray, "x y"]
Rim = Literal["zeros", "reflect"]

SSIM_SIGMA = 1.5  # voxels; truncated at 3.5 sigma this is the 11 x 11 window of Wang et al. 2004
SSIM_RADIUS = 5


@dataclass(frozen=True)
class Convention:
    """How both volumes are prepared for comparison, and what the peak is.

    name: to print beside every figure.
    low_hu, high_hu: both volumes are clipped to these, HU; None does not clip that side.
    data_range_hu: the peak of the PSNR and the range L of the SSIM, HU.
    ssim: "slices" is 2D SSIM of every axial slice (z is the last axis), averaged over slices.

    `ValueError` when the range is not positive or the limits are not in order.
    """

    name: str
    low_hu: float | None
    high_hu: float | None
    data_range_hu: float
    ssim: Literal["slices"] = "slices"

    def __post_init__(self) -> None:
        if not self.data_range_hu > 0:
            raise ValueError(f"data_range_hu must be positive, not {self.data_range_hu}")
        if self.low_hu is not None and self.high_hu is not None and self.low_hu >= self.high_hu:
            raise ValueError(f"low_hu {self.low_hu} is not below high_hu {self.high_hu}")

    def cut(self, hu: Num[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
        """HU of any numeric type -> float64 HU within the limits; NaN stays NaN."""
        values: Float[np.ndarray, "*any"] = np.asarray(hu, np.float64)
        if self.low_hu is None and self.high_hu is None:
            return values
        return np.clip(values, self.low_hu, self.high_hu)


CONVENTIONS = {
    convention.name: convention
    for convention in (
        # Ours: what the model sees of a region is compared; the peak is the width of the window.
        *(
            Convention(f"window:{name}", row.window.low_hu, row.window.high_hu, row.window.width_hu)
            for name, row in REGIONS.items()
        ),
        # Facts 5.6 (A), for a whole volume. The published figures are means over slices, with an
        # SSIM that pads the rim of a slice: `evaluation/published.py` reproduces those exactly.
        Convention("mayo16-redcnn", -160, 240, 400),
    )
}


def named(name: str) -> Convention:
    """The convention of that name in `CONVENTIONS`; `InputError` lists the known ones."""
    if name not in CONVENTIONS:
        known = ", ".join(CONVENTIONS)
        raise InputError(f"convention '{name}' is not known; choose one of {known}")
    return CONVENTIONS[name]


@dataclass(frozen=True)
class Fidelity:
    """The four figures of one pair of volumes, and the name of their convention."""

    convention: str
    psnr_db: float
    ssim: float
    mae_hu: float
    rmse_hu: float


def _pair(
    reference: Image, test: Image, mask: Mask | None
) -> tuple[Num[np.ndarray, "x y z"], Num[np.ndarray, "x y z"]]:
    """The arrays of both; `ValueError` where shapes differ or a mask selects nothing."""
    a, b = (image.hu if isinstance(image, Volume) else image for image in (reference, test))
    if a.shape != b.shape:
        raise ValueError(f"the volumes differ in shape: {a.shape} and {b.shape}")
    if a.size == 0:
        raise ValueError(f"the volumes are empty: {a.shape}")
    if mask is not None and mask.shape != a.shape:
        raise ValueError(f"the mask's shape {mask.shape} is not the volumes' {a.shape}")
    if mask is not None and not mask.any():
        raise ValueError("the mask selects no voxel")
    return a, b


def _error_hu(
    reference: Image, test: Image, convention: Convention, mask: Mask | None
) -> Float[np.ndarray, "*any"]:
    """Test minus reference in HU, both clipped to the convention; voxels of the mask only."""
    a, b = _pair(reference, test, mask)
    error = convention.cut(b) - convention.cut(a)
    return error if mask is None else error[mask]


def mae_hu(
    reference: Image, test: Image, convention: Convention, *, mask: Mask | None = None
) -> float:
    """Mean absolute error, HU. `ValueError` when shapes differ or the mask is empty."""
    return float(np.abs(_error_hu(reference, test, convention, mask)).mean())


def rmse_hu(
    reference: Image, test: Image, convention: Convention, *, mask: Mask | None = None
) -> float:
    """Root of the mean squared error, HU. `ValueError` when shapes differ or the mask is empty."""
    return math.sqrt(float(np.square(_error_hu(reference, test, convention, mask)).mean()))


def psnr(
    reference: Image, test: Image, convention: Convention, *, mask: Mask | None = None
) -> float:
    """20 log10(data range / RMSE), dB, over all voxels at once; identical volumes give inf.

    `ValueError` when shapes differ or the mask is empty.
    """
    return _decibel(rmse_hu(reference, test, convention, mask=mask), convention)


def _decibel(rmse_hu: float, convention: Convention) -> float:
    """RMSE in HU -> PSNR in dB; 0 -> inf."""
    return math.inf if rmse_hu == 0 else 20 * math.log10(convention.data_range_hu / rmse_hu)


def ssim(
    reference: Image, test: Image, convention: Convention, *, mask: Mask | None = None
) -> float:
    """Mean over axial slices (the last axis) of each slice's mean 2D SSIM; 1 when identical.

    Wang et al. 2004, as `skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)`: a Gaussian window truncated at 3.5 sigma, which makes it
    11 x 11; K1 = .01, K2 = .03, L = the convention's data range. Only windows within
    the slice count, so a rim of 5 voxels is left out. With a mask, a slice's mean is over its
    masked voxels within that rim, and slices that have none are left out.

    `ValueError` when shapes differ, a slice is smaller than 11 x 11, or no voxel is left.
    """
    a, b = _pair(reference, test, mask)
    if min(a.shape[:2]) <= 2 * SSIM_RADIUS:
        raise ValueError(f"SSIM's window of 11 x 11 does not fit into a slice of {a.shape[:2]}")
    inner = (slice(SSIM_RADIUS, -SSIM_RADIUS),) * 2
    mean = partial(ndimage.gaussian_filter, sigma=SSIM_SIGMA, truncate=3.5)
    means = []
    for z in range(a.shape[2]):
        if mask is not None and not mask[:, :, z][inner].any():
            continue
        cut = convention.cut(a[:, :, z]), convention.cut(b[:, :, z])
        local = _ssim_map(*cut, convention.data_range_hu, mean)[inner]
        means.append((local if mask is None else local[mask[:, :, z][inner]]).mean())
    if not means:
        raise ValueError(f"the mask lies entirely in the {SSIM_RADIUS}-voxel rim of its slices")
    return float(np.mean(means))


def _ssim_map(a: Slice, b: Slice, data_range: float, mean: Callable[[Slice], Slice]) -> Slice:
    """SSIM around each pixel (Wang et al. 2004, eq. 13). mean: over the window around a pixel."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    return (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))


def fidelity(
    reference: Image, test: Image, convention: Convention, *, mask: Mask | None = None
) -> Fidelity:
    """All four figures at once, over the mask's voxels where there is one.

    reference, test: a `Volume` or an x y z array in HU, of the same shape.
    mask: boolean, of the same shape; see `ssim` for its effect there.
    `ValueError` as in `ssim`.
    """
    error = _error_hu(reference, test, convention, mask)
    rmse = math.sqrt(float(np.square(error).mean()))
    return Fidelity(
        convention=convention.name,
        psnr_db=_decibel(rmse, convention),
        ssim=ssim(reference, test, convention, mask=mask),
        mae_hu=float(np.abs(error).mean()),
        rmse_hu=rmse,
    )


def slice_ssim(a: Slice, b: Slice, data_range: float, rim: Rim) -> float:
    """Mean SSIM of a slice, its rim included (Wang et al. 2004: 11 x 11, sigma 1.5, .01, .03).

    rim: "zeros" pads the slice with zeros; "reflect" mirrors it without repeating its edge, and
    clips each voxel's SSIM to [0, 1], as kornia-based code does.
    """
    kernel = np.exp(-(np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1) ** 2) / (2 * SSIM_SIGMA**2))
    kernel /= kernel.sum()
    mode = "constant" if rim == "zeros" else "mirror"

    def mean(values: Slice) -> Slice:
        once = ndimage.correlate1d(values, kernel, axis=0, mode=mode)
        return ndimage.correlate1d(once, kernel, axis=1, mode=mode)

    local = _ssim_map(a, b, data_range, mean)
    return float((np.clip(local, 0, 1) if rim == "reflect" else local).mean())
