"""What tasks need to know of a scan besides its voxels: anatomy, regions, noise, working grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import UInt8

from ..core.box import Shape
from ..core.errors import InputError
from ..core.operators.coloured_noise import WHITE, Spectrum
from ..core.regions import region as region_named
from ..core.volume import Volume
from ..scan import anatomy
from ..scan.body_regions import RegionSpan, region_spans
from ..scan.noise import SlabNoise, estimate
from ..scan.noise_level import estimate_noise_hu
from ..tasks import COLOUR
from .frame import working_grid
from .options import Say

Labels = UInt8[np.ndarray, "x y z"]


@dataclass(frozen=True, eq=False)
class ScanContext:
    """A scan and what is derived from it, each part computed when it is first asked for, and once.

    region: headneck, chest or abdomen; None or "auto": recognised along z. noise_hu: SD of the
    noise, HU; None: estimated in each region. say: called with what was decided.
    """

    volume: Volume
    region: str | None = None
    noise_hu: float | None = None
    say: Say = lambda line: None

    @cached_property
    def coarse(self) -> Labels:
        """Label ids of the coarse anatomy: body, lung, airway, bone, outside."""
        return anatomy.coarse(self.volume)

    @cached_property
    def spans(self) -> tuple[RegionSpan, ...]:
        """The regions along z, without gaps; one that was named is the whole scan's."""
        return spans_in(self.volume, self.coarse, self.region, self.say)

    @cached_property
    def noise(self) -> tuple[SlabNoise, ...]:
        """SD and spectrum of the noise in each region; `InputError` where they are not known."""
        return tuple(
            SlabNoise(
                span.region,
                span.start,
                span.stop,
                *noise_in(self.volume, self.coarse, span, self.noise_hu, self.say),
            )
            for span in self.spans
        )

    @cached_property
    def grid(self) -> Callable[[tuple[float, float]], Shape]:
        """Voxel sizes that a model knows (least, most; mm) -> the grid it works on."""
        return cache(self._grid)

    def _grid(self, limits_mm: tuple[float, float]) -> Shape:
        grid = working_grid(self.volume, limits_mm)
        if grid != self.volume.shape:
            shown = " x ".join(map(str, grid))
            self.say(f"grid: resampled to {shown} voxels, within the spacings the model knows")
        return grid


def context_of(
    volume: Volume, region: str | None, noise_hu: float | None, say: Say, given: ScanContext | None
) -> ScanContext:
    """The context that was given for this scan, or a new one."""
    if given is None:
        return ScanContext(volume, region, noise_hu, say)
    if given.volume is not volume:
        raise ValueError("the context is another scan's; make one for this volume")
    return given


def spans_in(
    volume: Volume, coarse: Labels, region: str | None, say: Say
) -> tuple[RegionSpan, ...]:
    """The regions along z; a named one is the whole scan's. `InputError` for an unknown name."""
    if region not in (None, "auto"):
        return (RegionSpan(region_named(region).name, 0, volume.shape[2], "named"),)
    spans = region_spans(volume, coarse)
    for span in spans:
        where = f"slices {span.start} to {span.stop - 1}"
        say(f"region: {span.region}, {where} ({span.reason}; --region overrides)")
    return spans


def noise_in(
    volume: Volume,
    coarse: Labels,
    span: RegionSpan,
    given_hu: float | None,
    say: Callable[[str], None],
) -> tuple[float, Spectrum]:
    """SD in HU (given_hu where it is not None) and spectrum of the noise in a region's slices.

    Where these hold too little soft tissue, those of the whole scan. `InputError` where that has
    too little as well, or the SD is not above 0.
    """
    own = slice(span.start, span.stop)
    try:
        sd_hu, spectrum = _estimated(Volume(volume.hu[..., own], volume.affine), coarse[..., own])
    except InputError:
        try:
            sd_hu, spectrum = _estimated(volume, coarse)
        except InputError:
            if given_hu is None:
                raise
            sd_hu, spectrum = given_hu, WHITE
    noise_hu = sd_hu if given_hu is None else given_hu
    if given_hu is None:
        place = f" in the {span.region}" if own != slice(0, volume.shape[2]) else ""
        grain = "" if spectrum is WHITE else ", coloured"
        say(f"noise: {noise_hu:.1f} HU{place}{grain} (estimated; --noise-hu overrides)")
    if not 0 < noise_hu < np.inf:
        raise InputError(f"a noise of {noise_hu:g} HU cannot be removed; give one above 0")
    return noise_hu, spectrum


def _estimated(volume: Volume, coarse: Labels) -> tuple[float, Spectrum]:
    """SD and spectrum; nearly white noise counts as white, whose own estimator is the better one
    (it has no low frequencies to doubt)."""
    noise = estimate(volume, coarse)
    psd = noise.spectrum.on(volume.shape, volume.spacing_mm)
    if float(psd.square().mean()) < COLOUR:
        return estimate_noise_hu(volume, coarse), WHITE
    return noise.sd_hu, noise.spectrum
