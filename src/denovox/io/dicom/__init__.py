"""DICOM: a folder, a ZIP or a file -> one CT volume, or one sentence that says why not.

reader: what is read, and refused. series: which slices belong together. geometry: how they lie;
tilt, gaps, straightening. pixels: stored values to HU. header: what one file says. values: what a
tag says. parts: where the files are.
"""

from .reader import DicomSource, read, series_in
from .series import Series

__all__ = ["DicomSource", "Series", "read", "series_in"]
