"""DICOM: a folder, a ZIP or a file -> one CT volume, or one sentence that explains why not.

reader: what is read and what is rejected. series: which slices belong together. geometry: slice
positions, tilt, gaps, straightening. pixels: stored values to HU. header: the content of one file.
values: the value of a tag. files: where the files are.
"""

from .reader import DicomSource, read, series_in
from .series import Series

__all__ = ["DicomSource", "Series", "read", "series_in"]
