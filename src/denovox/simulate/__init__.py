"""Scans as another scanner, dose or disease would have produced them.

quarter = denovox.simulate.low_dose(ct, dose=0.25)
thick = denovox.simulate.thick_slices(ct, thickness_mm=5)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .slabs import simulate_thick_slices as thick_slices

if TYPE_CHECKING:
    from ..core.volume import Volume
    from .projection import Kernel

__all__ = ["low_dose", "thick_slices"]


def low_dose(
    volume: Volume,
    dose: float = 0.25,
    *,
    noise_hu: float | None = None,
    kernel: Kernel = "soft",
    seed: int = 0,
) -> Volume:
    """The scan with the noise that it would have at `dose` times its dose, on the same grid.

    noise_hu: SD of the scan's own noise in soft tissue, HU, which determines its photon count;
    None: as many photons as give 10 HU in 32 cm of water. kernel: reconstruction kernel. Noise
    insertion in the projection domain (Yu et al., J Comput Assist Tomogr 2012; Zabic et al., Med
    Phys 2013). `InputError` for a dose outside (0, 1], non-square pixels or too little soft tissue.
    """
    from ..core.errors import ensure
    from .dose import LowDoseConfig, photons_of, simulate_low_dose

    ensure(0 < dose <= 1, f"a dose of {dose:g} is outside (0, 1]; give a fraction of the scan's")
    config = LowDoseConfig(dose=dose, kernel=kernel, seed=seed)
    if noise_hu is not None:
        # The scan's noise is attributed to photons alone, or the detector's would count twice.
        config = config.model_copy(update={"electronic": 0.0})
        config = config.model_copy(update={"photons": photons_of(volume, noise_hu, config)})
    return simulate_low_dose(volume, config)
