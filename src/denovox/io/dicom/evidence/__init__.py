"""DICOM objects about a CT series: lesions and findings in it, and maps of it.

seg: masks (Segmentation). maps: z-scores and SDs (Parametric Map). report: the findings of a
detection (TID 1500 in a Comprehensive 3D SR). findings: all three of a detection. frames: what
objects of many frames have in common. source: the series that they are about.
"""

from .findings import Findings, write_findings
from .maps import SD, Z_SCORE, Quantity
from .report import Finding

__all__ = ["SD", "Z_SCORE", "Finding", "Findings", "Quantity", "write_findings"]
