"""DICOM out: a processed or synthesised CT as a series of single-frame CT Images.

series: what is written, and what is refused. attributes: what is new in each image. inherited: what
it keeps of the header of its source. origin: the source series, and which slices a new one is made
of. slices: a volume as slices, and its values as int16.
"""

from .attributes import Processing
from .origin import like_series
from .series import check_writable, write_series

__all__ = ["Processing", "check_writable", "like_series", "write_series"]
