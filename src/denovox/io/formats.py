"""Read a CT in any supported format; the format is recognised from the content."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from ..core.errors import InputError, silent
from ..core.volume import Volume
from . import dicom, itk, nifti
from .dicom.files import is_dicom
from .itk_header import is_nrrd
from .meta_header import is_meta

FORMATS = "a DICOM folder or ZIP, Enhanced CT DICOM, NIfTI (.nii, .nii.gz), NRRD or MetaImage"


def read(
    path: str | Path,
    *,
    series: str | None = None,
    straighten: bool = False,
    padding: float | None = None,
    say: Callable[[str], None] = silent,
) -> Volume:
    """Read a volume of any format, its values unchecked -> axes closest to RAS, with its source.

    series: which series of a DICOM folder to read (a SeriesInstanceUID, or the end of one).
    straighten: resample DICOM that is tilted or unevenly spaced; other formats are regular grids
    already. padding: in place of NaN that reaches the sides of slices (DICOM has none); None: NaN
    is refused. say: called with a note on anything left out. `hu` of the Volume is float32, or
    float64 if the file stores that. Raises `InputError` if there is not exactly one CT volume. A CT
    that must be in HU is read by `scan/gate.read`.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "dicom":
        return dicom.read(path, series=series, straighten=straighten, say=say)
    if series is not None:
        raise InputError(f"{path} is not DICOM, so there is no series to choose; omit --series")
    volume = (nifti.read if kind == "nifti" else itk.read)(path, padding=padding)
    for note in volume.source.notes:
        say(f"{path}: {note}")
    return volume


def kind_of(path: Path) -> str:
    """dicom, nifti or itk, from the content of a file or folder; `InputError` if none of them."""
    if os.path.isdir(path):
        return "dicom"
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # before opening, which blocks on a pipe
            raise InputError(f"{path} is a device or a pipe; copy it to a file")
        with open(path, "rb") as file:
            start = file.read(4096)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check it") from error
    sizes = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    if is_nrrd(start) or is_meta(start):
        return "itk"
    if is_dicom(start) or start.startswith(b"PK"):
        return "dicom"
    if start.startswith(b"\x1f\x8b") or sizes & {348, 540} or str(path).endswith((".nii", ".gz")):
        return "nifti"
    what = "is empty (0 bytes)" if not start else "is not a CT in a supported format"
    raise InputError(f"{path} {what}; give {FORMATS}")
