"""How scans are brought into a store. Recipes hold this, and a run need not load readers for it."""

from __future__ import annotations

from pydantic import Field

from ..core.config import Settings


class PrepareConfig(Settings):
    """What becomes of a scan on its way into a store.

    spacing_mm: voxel size to resample to; None keeps the scan's own, as the model that is told the
    spacing can use it. straighten: resample tilted or uneven DICOM series, which are put aside
    otherwise. segment: let TotalSegmentator find the anatomy of scans that have no mask.
    """

    spacing_mm: float | None = Field(None, gt=0)
    straighten: bool = False
    segment: bool = False
