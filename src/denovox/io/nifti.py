"""NIfTI: the only place where axes, rescaling and geometry are read and written.

CT in HU and label maps, always in the axes closest to RAS; `nifti_bytes.py` handles the bytes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int32, Integer
from nibabel.orientations import apply_orientation, inv_ornt_aff

from ..core import labels
from ..core.errors import ensure
from ..core.volume import Volume
from .nifti_bytes import NiftiSource, check_writable, decoded, each_slice, load, save, save_new

__all__ = ["check_writable", "read", "write", "write_labels", "write_mask"]


def read(path: str | Path, padding: float | None = None) -> Volume:
    """Read a 3D .nii or .nii.gz -> its values in the axes closest to RAS, with a `NiftiSource`.

    `hu` of the Volume is float32, or float64 if the file stores that; whether these are HU is not
    checked. padding: in place of NaN at the border, see `missing.fill_missing`. Raises `InputError`
    if the file cannot be read as one 3D image with a known position in space.
    """
    source = load(Path(path))
    values, notes = decoded(source, source.dtype, padding)
    return Volume(values, source.affine, replace(source, notes=(*source.notes, *notes)))


def whole_numbers(
    values: Float[np.ndarray, "x y z"], path: str | Path
) -> Int32[np.ndarray, "x y z"]:
    """Label values as integers; `InputError` if they are not, or float32 cannot hold them."""
    ids = np.rint(values)
    broken = np.count_nonzero(np.abs(values - ids) > 1e-3)  # a slope may give 1.0000001
    no = f"{path} is not a label map:"
    fraction = f"{no} {broken} of its voxels are not integers; give masks resampled with"
    ensure(not broken, f"{fraction} nearest neighbour")
    ensure(np.abs(ids).max() < 2**24, f"{no} it has values of 2^24 or more; give the original")
    return ids.astype(np.int32)


def write(volume: Volume, path: str | Path, force: bool = False) -> None:
    """Write HU to .nii or .nii.gz, all of it or nothing.

    With a `NiftiSource`, every header field (geometry, type, slope, the rest) and every voxel whose
    HU did not change are copied from that file bit for bit; integer types are rounded and clipped.
    Otherwise: int16, RAS, millimetres, slope 1. `InputError` as for `check_writable`, if writing
    fails, or if HU are not finite; `ValueError` if the grid is no longer that of the source (drop
    the source in that case).
    """
    bad = sum(np.count_nonzero(~np.isfinite(plane)) for plane in each_slice(volume.hu))
    ensure(not bad, f"{path} was not written: {bad} voxels of the result are NaN or infinite")
    source = volume.source
    if not isinstance(source, NiftiSource):
        return save_new(volume.hu, volume.affine, np.dtype("<i2"), path, force)
    grid = apply_orientation(volume.hu, source.ornt).shape
    if grid != source.raw.shape or not np.allclose(volume.affine, source.affine, atol=1e-4):
        raise ValueError(f"the grid is no longer that of {source.path}; write it without a source")
    save(path, force, source.head, source.planes(volume.hu))


def write_labels(
    ids: Integer[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    path: str | Path,
    force: bool = False,
) -> None:
    """Write a label map as uint8, RAS; `InputError` as for `write`, or for undefined ids."""
    labels.check(np.unique(ids))
    save_new(ids, affine, np.dtype(np.uint8), path, force)


def write_mask(
    ids: Integer[np.ndarray, "x y z"], like: Volume, path: str | Path, force: bool = False
) -> None:
    """Write labels of a volume as uint8, in the voxel order in which `write` writes that volume;
    `InputError` as for `write`."""
    source, affine = like.source, like.affine
    if isinstance(source, NiftiSource):
        affine = affine @ inv_ornt_aff(source.ornt, like.shape)
        ids = apply_orientation(ids, source.ornt)
    save_new(ids, affine, np.dtype(np.uint8), path, force)
