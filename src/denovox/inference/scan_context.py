"""What tasks need besides the voxels of a scan: anatomy, regions, noise, working grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import UInt8

from ..core.box import Shape
from ..core.errors import InputError, ensure
from ..core.morphology import Mask
from ..core.operators.coloured_noise import WHITE, Spectrum
from ..core.regions import region as region_named
from ..core.volume import Volume
from ..io.nifti_bytes import NiftiSource
from ..reports.recorder import decided
from ..scan import anatomy, gate
from ..scan.body_regions import RegionSpan, region_spans
from ..scan.constant_fill import as_air, outside_fill
from ..scan.noise import NoiseModel, RegionNoise, estimate
from ..tasks import COLOUR
from .frame import working_grid
from .options import RunOptions, Say

Labels = UInt8[np.ndarray, "x y z"]


@dataclass(frozen=True, eq=False)
class ScanContext:
    """A scan and what is derived from it, each part computed once, when it is first needed.

    region: headneck, chest or abdomen; None or "auto": recognised along z. noise_hu: SD of the
    noise, HU; None: estimated in each region. say: called with each decision.
    """

    volume: Volume
    region: str | None = None
    noise_hu: float | None = None
    say: Say = lambda line: None

    @cached_property
    def filled(self) -> Mask | None:
        """Where the scan was filled with a constant (`constant_fill.outside_fill`)."""
        return outside_fill(self.volume.hu)

    @cached_property
    def measured(self) -> Volume:
        """The scan with air in place of what was filled: what everything is derived from."""
        return self.volume.with_hu(as_air(self.volume.hu, self.filled))

    @cached_property
    def coarse(self) -> Labels:
        """Label ids of the coarse anatomy: body, lung, airway, bone, outside."""
        return anatomy.coarse(self.measured)

    @cached_property
    def spans(self) -> tuple[RegionSpan, ...]:
        """The regions along z, without gaps; a named region covers the whole scan."""
        return spans_in(self.measured, self.coarse, self.region, self.say)

    @cached_property
    def noise(self) -> tuple[RegionNoise, ...]:
        """SD and spectrum of the noise in each region; `InputError` where they are unknown."""
        return tuple(
            RegionNoise(
                span.region,
                span.start,
                span.stop,
                *noise_in(self.measured, self.coarse, span, self.noise_hu, self.say),
            )
            for span in self.spans
        )

    @cached_property
    def grid(self) -> Callable[[tuple[float, float]], Shape]:
        """Voxel sizes that a model supports (min, max; mm) -> the grid it works on."""
        return cache(self._grid)

    def _grid(self, limits_mm: tuple[float, float]) -> Shape:
        grid = working_grid(self.volume, limits_mm)
        decided("working grid", [grid])
        if grid != self.volume.shape:
            voxels = " x ".join(map(str, grid))
            self.say(f"grid: resampled to {voxels} voxels, to a spacing the model supports")
        return grid


def stored_bytes(volume: Volume) -> int:
    """Of the file's stored values, which a volume keeps for writing."""
    return volume.source.raw.nbytes if isinstance(volume.source, NiftiSource) else 0


def check_volume(volume: object) -> None:
    """Raise `InputError` unless it is a `Volume` with a 3D array of floats."""
    ensure(
        isinstance(volume, Volume),
        f"the scan is of type {type(volume).__name__}, not a Volume; denovox.read reads a file, and"
        " Volume.from_numpy, from_nibabel, from_sitk or from_metatensor convert an image",
    )
    hu = getattr(volume, "hu", None)
    array = isinstance(hu, np.ndarray) and hu.ndim == 3 and hu.size and hu.dtype.kind == "f"
    kind = f"{getattr(hu, 'dtype', '')} {type(hu).__name__} of shape {getattr(hu, 'shape', '()')}"
    advice = "Volume.from_numpy makes a Volume of any real 3D array"
    ensure(array, f"the scan's HU are a {kind.strip()}, not a 3D array of floats; {advice}")


def context_of(
    volume: Volume,
    region: str | None,
    noise_hu: float | None,
    options: RunOptions,
    given: ScanContext | None,
) -> ScanContext:
    """The context given for this scan, or a new one; `InputError` if it is not a CT in HU."""
    check_volume(volume)
    gate.require_ct(volume, accept_hu=options.accept_hu)
    if given is None:
        return ScanContext(volume, region, noise_hu, options.say)
    if given.volume is not volume:
        raise ValueError("the context belongs to another scan; create one for this volume")
    return given


def spans_in(
    volume: Volume, coarse: Labels, region: str | None, say: Say
) -> tuple[RegionSpan, ...]:
    """The regions along z; a named one covers the whole scan. `InputError` for an unknown name."""
    if region not in (None, "auto"):
        named = (RegionSpan(region_named(region).name, 0, volume.shape[2], "named"),)
        decided("regions", named)
        return named
    spans = region_spans(volume, coarse)
    decided("regions", spans)
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
    """SD in HU (given_hu unless it is None) and spectrum of the noise in a region's slices.

    Where these show too little soft tissue, those of the whole scan. `InputError` where that has
    too little as well, or the SD is not above 0.
    """
    z = slice(span.start, span.stop)
    try:
        noise = estimate(volume.slices(z), coarse[..., z], COLOUR)
    except InputError:
        try:
            noise = estimate(volume, coarse, COLOUR)
        except InputError:
            if given_hu is None:
                raise
            noise = NoiseModel(given_hu, WHITE, (0, 0))
    noise_hu = noise.sd_hu if given_hu is None else given_hu
    if given_hu is None:
        place = f" in the {span.region}" if z != slice(0, volume.shape[2]) else ""
        kind = "" if noise.spectrum is WHITE else ", coloured"
        say(f"noise: {noise_hu:.1f} HU{place}{kind} (estimated; --noise-hu overrides)")
    if not 0 < noise_hu < np.inf:
        raise InputError(f"noise of {noise_hu:g} HU cannot be removed; give a value above 0")
    decided_noise = {
        "region": span.region,
        "first_slice": span.start,
        "last_slice": span.stop - 1,
        "sd_hu": float(noise_hu),
        "coloured": noise.spectrum is not WHITE,
        "estimated": given_hu is None,
    }
    decided("noise", [decided_noise])
    return noise_hu, noise.spectrum
