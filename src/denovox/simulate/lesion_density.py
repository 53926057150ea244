"""How dense lesions are, in HU: ranges that are drawn from where nobody has chosen.

Each row is (least, most likely, most) of a triangular distribution. "Measured" rows are the range
and median over lesion cores in the masks of the training patients in ../shared/ct.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..core.errors import ensure, one_of
from ..core.labels import path
from ..core.regions import region
from .lesion_placement import DENSE_HU

Density = Literal["solid", "part-solid", "ground-glass"]
Row = tuple[float, float, float]

SOLID: Row = (-20, 0, 50)  # measured: 5 nodules of 3 patients
# Of the ground glass in 230 adenocarcinomas, mean (SD) -681 (97), -594 (104) and -478 (126) HU from
# in situ to invasive (Wang et al., Iran J Radiol 2018, 15(1):e61846).
GROUND_GLASS: Row = (-750, -600, -450)
# Above -160 HU, the higher of the usual thresholds of a solid part (Lee et al., PLoS One 2018,
# 13(10):e0205490), up to a solid lesion.
SOLID_PART: Row = (-160, -60, 50)
SOLID_SHARE = 0.5  # of the diameter of a part-solid lesion: chosen
# Smaller ones cannot be identified as part-solid (Fleischner Society: MacMahon et al., Radiology
# 2017, 284:228).
PART_SOLID_MM = 6.0
SOFT_TISSUE: Row = (7, 27, 63)  # measured: 13 tumours and 3 lymph nodes of 12 patients
LIVER_CONTRAST: Row = (-80, -50, -20)  # chosen: metastases that enhance less than the liver


@dataclass(frozen=True)
class DensityRequest:
    """What was asked for. density: of lesions of the lung, whose HU are drawn from its range.
    contrast_hu: difference from the organ. Neither: HU drawn from the range of real lesions.

    `InputError` where both are given, or either is not valid.
    """

    density: Density | None = None
    contrast_hu: float | None = None

    def __post_init__(self) -> None:
        one = self.density is None or self.contrast_hu is None
        ensure(one, "give a density or a contrast, but not both")
        one_of(self.density or "solid", get_args(Density), "density")
        finite = math.isfinite(self.contrast_hu or 0)
        ensure(finite, f"a contrast of {self.contrast_hu} HU is not a number; give one, e.g. -40")


@dataclass(frozen=True)
class Site:
    """Where a lesion is. organ: a class of core/labels; None: unknown. organ_hu: HU of the organ,
    or of what is around the lesion. region: as in core/regions."""

    name: str
    organ: str | None
    organ_hu: float
    diameter_mm: float
    region: str

    @property
    def in_lung(self) -> bool:
        """Whether the organ is the lung or, if that is unknown, whether there is air around."""
        return "lung" in path(self.organ) if self.organ else self.organ_hu < DENSE_HU


def target_hu(request: DensityRequest, site: Site, rng: np.random.Generator) -> tuple[float, ...]:
    """HU of a lesion; of a part-solid one, of its ground glass and of its solid part.

    `InputError` for a density outside the lung, for a part-solid lesion below 6 mm, and where the
    region's window does not include the HU that were asked for. Others are clipped to it.
    """
    contrast, density, name = request.contrast_hu, request.density, site.name
    if contrast is not None:
        values: tuple[float, ...] = (site.organ_hu + contrast,)
    elif site.in_lung:
        rows = {"part-solid": (GROUND_GLASS, SOLID_PART), "ground-glass": (GROUND_GLASS,)}
        values = tuple(rng.triangular(*row) for row in rows.get(density or "", (SOLID,)))
    else:
        where = f"is in the {site.organ}" if site.organ else f"has {site.organ_hu:.0f} HU around it"
        lung = f"a density applies to lesions of the lung, but {name} {where}"
        ensure(density is None, f"{lung}; give a contrast instead")
        liver = site.organ is not None and "liver" in path(site.organ)
        row = LIVER_CONTRAST if liver else SOFT_TISSUE
        values = (liver * site.organ_hu + rng.triangular(*row),)
    small = f"{name} measures {site.diameter_mm:.3g} mm, a part-solid one {PART_SOLID_MM:g} mm"
    enough = density != "part-solid" or site.diameter_mm >= PART_SOLID_MM
    ensure(enough, f"{small} or more; choose another density")
    window = region(site.region).window
    clipped = tuple(float(np.clip(each, window.low_hu, window.high_hu)) for each in values)
    asked = f"a contrast of {contrast:g} HU" if contrast is not None else f"the density {density}"
    limits = f"{window.low_hu:g} to {window.high_hu:g} HU, the window of the {site.region}"
    ensure(
        clipped == values or (contrast is None and density is None),
        f"{asked} means {values[0]:.0f} HU for {name}, outside {limits}; choose another one",
    )
    return clipped
