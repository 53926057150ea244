"""The same scan at a lower dose: noise insertion in the projection domain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32
from pydantic import Field

from ..core.config import Settings
from ..core.errors import ensure
from ..core.volume import Volume, within
from ..scan.constant_fill import as_air, outside_fill
from .projection import Kernel, back_project, line_integrals

WATER_PER_MM = 0.0193  # attenuation of water at 70 keV, about the mean energy of 120 kVp (NIST)
PADDING_HU = -1500.0  # scanners mark voxels outside their field of view by values below this
REFERENCE_VIEWS = 1000
LEAST_PIXELS = 200


class LowDoseConfig(Settings):
    """A scan at a fraction of its dose.

    dose: the remaining fraction of the original tube current, above 0 and up to 1.
    photons: quanta that reach the detector through air at the original dose, per mm^2 at the
        rotation axis in each of 1000 views. Slices and pixels receive their share by size, so the
        noise does not depend on `views` or, except for frequencies that it cannot represent, on the
        grid. The default gives about 10 HU in the middle of 32 cm of water (3 mm slices, 0.75 mm
        pixels, soft kernel); `photons_of` derives it from a scan's own noise.
    electronic: SD of the detector's electronic noise, in quanta, for the same mm^2.
    kernel: soft or sharp, as in the original reconstruction. views: over half a rotation.
    """

    dose: float = Field(0.25, gt=0, le=1)
    photons: float = Field(1e6, gt=0, le=1e12)
    electronic: float = Field(10.0, ge=0)
    kernel: Kernel = "soft"
    views: int = Field(720, ge=30)
    seed: int = Field(0, ge=0)


def simulate_low_dose(
    volume: Volume, config: LowDoseConfig, done: Callable[[float], None] = lambda share: None
) -> Volume:
    """The scan with the noise that a lower dose would have added, on the same grid.

    Noise insertion (Yu et al., J Comput Assist Tomogr 2012; Zabic et al., Med Phys 2013):
    filtered back-projection is linear, so the effect of the dose is the back-projected change of
    the sinogram, and neither the sharpness nor the mean HU of the scan suffers from projecting it
    again. The scan's own noise is assumed to be that of dose 1; the added noise brings it to
    `dose`: 1/dose - 1 times its variance, if `photons` and `kernel` match the scan.

    Slices are independent, as with a parallel beam; slice k draws from (seed, k), regardless of the
    slices before it. Voxels below -1500 HU are padding and do not change; nor do fills
    (`constant_fill.outside_fill`), which count as air. Tissue outside the grid does not attenuate:
    a crop becomes less noisy than the whole scan would. done: called with the completed share.
    `InputError` if pixels are not square or HU are not finite.
    """
    hu = volume.hu
    x_mm, y_mm, z_mm = volume.spacing_mm
    square = within(y_mm, x_mm, x_mm)
    ensure(square, f"pixels of {x_mm:g} x {y_mm:g} mm are not square; resample the scan first")
    broken = hu.size - np.count_nonzero(np.isfinite(hu))
    ensure(not broken, f"{broken} voxels are NaN or infinite; set them to an HU, e.g. -1024")
    result, filled = hu.copy(), outside_fill(hu)
    hu = as_air(hu, filled)
    fixed = hu < PADDING_HU if filled is None else filled | (hu < PADDING_HU)
    for k in range(hu.shape[2] if config.dose < 1 else 0):
        noise = dose_noise_hu(hu[:, :, k], x_mm, z_mm, config, k)
        result[:, :, k] += np.where(fixed[:, :, k], 0, noise)
        done((k + 1) / hu.shape[2])
    return volume.with_hu(result)


def dose_noise_hu(
    hu: Float[np.ndarray, "x y"], pixel_mm: float, slice_mm: float, config: LowDoseConfig, k: int
) -> Float32[np.ndarray, "x y"]:
    """The noise that slice k of a scan gains at the lower dose, HU, without that of dose 1."""
    mu = np.clip(1 + hu / 1000, 0, None) * WATER_PER_MM
    integrals = line_integrals(mu, pixel_mm, config.views)
    change = thinned(
        integrals, pixel_mm * slice_mm, config, np.random.default_rng([config.seed, k])
    )
    noise = back_project(change, (hu.shape[0], hu.shape[1]), pixel_mm, config.kernel)
    return noise * np.float32(1000 / WATER_PER_MM)


def photons_of(volume: Volume, noise_hu: float, config: LowDoseConfig) -> float:
    """The `photons` at which a scan's own dose gives noise_hu (SD) in its soft tissue.

    From the soft tissue of its middle slice: half the dose adds the variance that the scan has.
    Ignores the detector's noise. `InputError` if that slice has too little soft tissue.
    """
    ensure(
        noise_hu > 0,
        f"a noise of {noise_hu:g} HU does not determine the dose; give a value above 0",
    )
    k = volume.shape[2] // 2
    hu = volume.hu[:, :, k]
    soft = (hu > -200) & (hu < 300)
    few = f"too little soft tissue in slice {k} to derive the dose from its noise"
    ensure(np.count_nonzero(soft) >= LEAST_PIXELS, f"{few}; give the photons instead")
    quiet = config.model_copy(update={"dose": 0.5, "electronic": 0.0})
    x_mm, _, z_mm = volume.spacing_mm
    sd_hu = float(dose_noise_hu(hu, x_mm, z_mm, quiet, k)[soft].std())
    return config.photons * (sd_hu / noise_hu) ** 2


def thinned(
    integrals: Float[np.ndarray, "detector views"],
    area_mm2: float,
    config: LowDoseConfig,
    rng: np.random.Generator,
) -> Float[np.ndarray, "detector views"]:
    """The change of line integrals when each of N photons is kept with probability `dose`.

    Binomial thinning of a Poisson count gives exactly the Poisson count of the lower dose; given N,
    its logarithm has variance (1 - dose) / (dose N) to first order. The detector's noise, being
    part of N, shrinks with it, so (1 - dose^2) of its variance is missing. The mean shifts as on a
    scanner: by half that variance (0.4 HU in 45 cm of water at dose 0.25), and more for
    photon-starved rays, whose counts are raised to at least one photon.
    """
    size = area_mm2 * REFERENCE_VIEWS / config.views
    full = config.photons * size * np.exp(-integrals)
    left = rng.binomial(np.rint(full).astype(np.int64), config.dose).astype(float)
    missing = config.electronic * np.sqrt(size * (1 - config.dose**2))
    left += missing * rng.standard_normal(left.shape)
    return -np.log(np.maximum(left, 1) / np.maximum(config.dose * full, 1))
