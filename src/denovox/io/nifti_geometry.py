"""Where a NIfTI file says its voxels are: sform, qform, voxel sizes, codes and units.

As the standard (nifti1.h) and nibabel have it, the sform is used where its code is not 0, else the
qform; what the others say is compared with it (`statements`).
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Float
from nibabel.spatialimages import HeaderDataError

from ..core.errors import ensure
from .statements import ONE, Statement, compare

AGAIN = "convert it again from the original"
CODES = range(6)  # of a form: unset, scanner, aligned, Talairach, MNI, template
UNITS = {1: "metres", 3: "micrometres"}  # 2 is mm; 0, unset, is taken as mm, as everywhere


def geometry(
    path: Path, stated: nibabel.Nifti1Header, header: nibabel.Nifti1Header
) -> tuple[Float[np.ndarray, "4 4"], tuple[str, ...]]:
    """(voxel index of the file -> mm in RAS+, notes on what the file states differently).

    stated: the header as it is in the file; header: as repaired by nibabel. `InputError` if the
    file does not define a geometry, or two that cannot both be right.
    """
    notes = [
        f"its {form} code is {int(stated[f'{form}_code'])}, which NIfTI does not define: its {form}"
        " was ignored"
        for form in ("sform", "qform")
        if int(stated[f"{form}_code"]) not in CODES
    ]
    by_sform, by_qform = header["sform_code"] != 0, header["qform_code"] != 0
    unplaced = f"{path} does not state its position in space (qform and sform codes are 0)"
    ensure(by_sform or by_qform, f"{unplaced}; {AGAIN}")
    _check_units(path, int(header["xyzt_units"]) & 7)
    mm = np.asarray(stated["pixdim"][1:4], np.float64)
    sizes = " x ".join(f"{step:g}" for step in mm)
    if not by_sform:
        sane = np.isfinite(mm).all() and (mm > 0).all()
        ensure(sane, f"{path} has voxels of {sizes} mm (pixdim), and no sform; {AGAIN}")
        qfac = float(stated["pixdim"][0])
        if qfac not in (1, -1):
            notes.append(f"its qfac (pixdim[0]) is {qfac:g}: taken as 1, not mirrored")
        return _checked(path, header.get_qform()), tuple(notes)
    affine = _checked(path, header.get_sform())
    others = []
    if not (np.isfinite(mm).all() and (mm > 0).all()):
        notes.append(f"voxels are {sizes} mm by its pixdim, which was ignored; its sform was used")
    else:
        others.append(Statement("pixdim", mm))
        if by_qform:
            try:
                others = [Statement.of("qform", _qform(stated, header, affine))]
            except (HeaderDataError, ValueError):
                notes.append("its qform is not a rotation and was ignored; its sform was used")
    notes += compare(path, Statement.of("sform", affine), others)
    return affine, tuple(notes)


def _qform(
    stated: nibabel.Nifti1Header, header: nibabel.Nifti1Header, affine: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "4 4"]:
    """The qform; where it does not say whether it mirrors (qfac), as the sform does."""
    qform = np.array(header.get_qform(), np.float64)
    unsaid = float(stated["pixdim"][0]) not in (1, -1)
    if unsaid and np.linalg.det(qform[:3, :3]) * np.linalg.det(affine[:3, :3]) < 0:
        qform[:3, 2] *= -1
    return qform


def _check_units(path: Path, code: int) -> None:
    ensure(code not in UNITS, f"{path} is in {UNITS.get(code)}; convert it to millimetres")
    ensure(
        code in (0, 2), f"{path} has a unit of length that NIfTI does not define ({code}); {ONE}"
    )


def _checked(path: Path, affine: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """The affine; `InputError` if it is singular."""
    affine = np.asarray(affine, np.float64)
    finite = np.isfinite(affine).all() and np.array_equal(affine[3], [0, 0, 0, 1])
    # Relative to the voxel size, so that small voxels pass and degenerate ones do not.
    with np.errstate(over="ignore"):  # NIfTI-2 can state 1e300 mm: inf > inf is rejected too
        flat = 1e-6 * np.prod(np.linalg.norm(affine[:3, :3], axis=0))
        solid = finite and abs(np.linalg.det(affine[:3, :3])) > flat
    ensure(solid, f"{path} has a geometry (affine) that cannot be inverted; {AGAIN}")
    return affine
