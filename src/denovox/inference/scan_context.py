"""The noise of a scan, region by region, told to the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from ..core.errors import InputError
from ..core.operators.coloured_noise import WHITE, Spectrum
from ..core.volume import Volume
from ..scan.body_regions import RegionSpan
from ..scan.noise import SlabNoise, estimate
from ..scan.noise_level import estimate_noise_hu
from ..tasks import COLOUR

Labels = UInt8[np.ndarray, "x y z"]


@dataclass(frozen=True)
class ScanNoise:
    """What a denoiser takes a scan to be, found once for all who ask.

    coarse: label map of `scan/anatomy.coarse`. slabs: the regions along z. found: in each of them,
    SD in HU and spectrum.
    """

    coarse: Labels
    slabs: tuple[RegionSpan, ...]
    found: tuple[tuple[float, Spectrum], ...]

    @property
    def noise(self) -> tuple[SlabNoise, ...]:
        """For a faithfulness report."""
        return tuple(
            SlabNoise(slab.region, slab.start, slab.stop, *found)
            for slab, found in zip(self.slabs, self.found, strict=True)
        )


def noise_in(
    volume: Volume,
    coarse: Labels,
    slab: RegionSpan,
    given: float | None,
    say: Callable[[str], None],
) -> tuple[float, Spectrum]:
    """SD in HU, the given one if there is one, and spectrum: of the slab, else (too little soft
    tissue) of the scan. `InputError` where neither tells, or the SD is none to be removed."""
    own = slice(slab.start, slab.stop)
    try:
        found = _estimated(replace(volume, hu=volume.hu[..., own]), coarse[..., own])
    except InputError:
        try:
            found = _estimated(volume, coarse)
        except InputError:
            if given is None:
                raise
            found = (given, WHITE)
    noise_hu = found[0] if given is None else given
    if given is None:
        place = f" in the {slab.region}" if own != slice(0, volume.shape[2]) else ""
        grain = "" if found[1] is WHITE else ", coloured"
        say(f"noise: {noise_hu:.1f} HU{place}{grain} (estimated; --noise-hu overrides)")
    if not 0 < noise_hu < np.inf:
        raise InputError(f"a noise of {noise_hu:g} HU cannot be removed; give one above 0")
    return noise_hu, found[1]


def _estimated(volume: Volume, coarse: Labels) -> tuple[float, Spectrum]:
    """SD and spectrum; noise that is nearly white is taken for white, whose own estimator is the
    better one there (it has no low frequencies to doubt)."""
    found = estimate(volume, coarse)
    psd = found.spectrum.on(volume.shape, volume.spacing_mm)
    if float(psd.square().mean()) < COLOUR:
        return estimate_noise_hu(volume, coarse), WHITE
    return found.sd_hu, found.spectrum
