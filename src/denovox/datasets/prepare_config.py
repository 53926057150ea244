"""Settings for adding scans to a store; separate, so that recipes do not load the readers."""

from __future__ import annotations

from pydantic import Field

from ..core.config import Settings


class PrepareConfig(Settings):
    """How a scan is processed when it is added to a store.

    spacing_mm: voxel size to resample to; None keeps that of the scan, which the model can use, as
    spacing is one of its inputs. straighten: resample tilted or uneven DICOM series, which are set
    aside otherwise. accept_hu: take scans whose values do not look like HU, which are set aside
    otherwise. segment: run TotalSegmentator on scans without a mask.
    """

    spacing_mm: float | None = Field(None, gt=0)
    straighten: bool = False
    accept_hu: bool = False
    segment: bool = False
