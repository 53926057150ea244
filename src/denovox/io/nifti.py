"""NIfTI: the only place where axes, rescaling and geometry are read and written.

CT in HU and label maps, always in the axes closest to RAS; `nifti_bytes.py` handles the bytes.
"""

# mypy: allow-untyped-calls
# (nibabel's functions are untyped)

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int32, Integer, UInt8
from nibabel.orientations import apply_orientation, inv_ornt_aff

from ..core import labels
from ..core.errors import InputError, ensure
from ..core.volume import Volume
from .nifti_bytes import NiftiSource, check_writable, decoded, load, save, save_new

__all__ = [
    "check_writable",
    "read",
    "read_label_map",
    "read_label_values",
    "read_labels",
    "require_hu",
    "write",
    "write_labels",
    "write_mask",
]

GRID_TOLERANCE_MM = 0.01  # with float32 headers, corners of one grid agree to about 1e-3 mm


def read(path: str | Path, hu: bool = True) -> Volume:
    """Read a 3D .nii or .nii.gz -> its HU in the axes closest to RAS, with a `NiftiSource`.

    `hu` of the Volume is float32, or float64 if the file stores that. Raises `InputError` if the
    file cannot be read as one 3D image with a known position in space, or (unless `hu=False`) if
    its values cannot be Hounsfield units.
    """
    source = load(Path(path))
    volume = Volume(decoded(source, source.dtype), source.affine, source)
    if hu:
        require_hu(volume, str(path))
    return volume


def require_hu(volume: Volume, name: str = "the volume") -> None:
    """Raise `InputError`, giving the evidence, if values of `name` are not Hounsfield units.

    Low values (padding of -2000 or -3024) are fine: only the absence of air is evidence.
    """
    low, high = float(volume.hu.min()), float(volume.hu.max())
    if low <= -200:
        return
    if low >= -1 and high <= 1:
        what = "they look normalised to [-1, 1] or [0, 1]"
    elif low >= 0 and high <= 255:
        what = "they look like grey levels of 0 to 255"
    elif low >= 0:
        what = "a rescale intercept (often -1024) may have been lost, and there is no air in it"
    else:
        what = "there is no air in it (nothing at or below -200)"
    raise InputError(
        f"{name} is not in Hounsfield units: its values range over [{low:g}, {high:g}], {what};"
        " convert the original CT again, keeping its HU"
    )


def read_label_values(
    path: str | Path,
) -> tuple[Int32[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    """A label map with its stored values, whatever they mean (`label_sets`), and its affine.

    In the axes closest to RAS. Raises `InputError` if `read` would reject the file, or its values
    are not integers below 2^24.
    """
    source = load(Path(path))
    return whole_numbers(decoded(source, source.dtype), path), source.affine


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


def read_label_map(
    path: str | Path,
) -> tuple[UInt8[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    """A label map by itself: ids of `core.labels` in the axes closest to RAS, and its affine.

    `InputError` as for `read_label_values`, or if a value is not a label of the vocabulary.
    """
    ids, affine = read_label_values(path)
    try:
        labels.check(np.unique(ids))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return ids.astype(np.uint8), affine


def read_labels(path: str | Path, like: Volume) -> UInt8[np.ndarray, "x y z"]:
    """The label map of a volume; `InputError` if it is not on that volume's grid."""
    ids, affine = read_label_map(path)
    _require_grid(path, ids.shape, affine, like)
    return ids


def write(volume: Volume, path: str | Path, force: bool = False) -> None:
    """Write HU to .nii or .nii.gz, all of it or nothing.

    With a `NiftiSource`, every header field (geometry, type, slope, the rest) and every voxel whose
    HU did not change are copied from that file bit for bit; integer types are rounded and clipped.
    Otherwise: int16, RAS, millimetres, slope 1. `InputError` as for `check_writable`, if writing
    fails, or if HU are not finite; `ValueError` if the grid is no longer that of the source (drop
    the source in that case).
    """
    bad = volume.hu.size - np.count_nonzero(np.isfinite(volume.hu))
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


def _require_grid(
    path: str | Path, shape: tuple[int, ...], affine: Float[np.ndarray, "4 4"], like: Volume
) -> None:
    """Raise `InputError` if labels on this grid do not match the grid of `like`."""
    apart = _corners(shape, affine) - _corners(like.shape, like.affine)
    ensure(
        shape == like.shape and np.linalg.norm(apart, axis=1).max() <= GRID_TOLERANCE_MM,
        f"{path} is not on the grid of its CT: labels {geometry(shape, affine)}, CT"
        f" {geometry(like.shape, like.affine)}; resample the labels to the CT (nearest neighbour)",
    )


def _corners(shape: tuple[int, ...], affine: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "8 3"]:
    """Positions of the 8 corner voxels, mm."""
    index = np.indices((2, 2, 2)).reshape(3, 8).T * (np.array(shape) - 1)
    corners: np.ndarray = index @ affine[:3, :3].T + affine[:3, 3]
    return corners


def geometry(shape: tuple[int, ...], affine: Float[np.ndarray, "4 4"]) -> str:
    """A grid in words, for messages that compare two."""
    first, last = (", ".join(f"{mm:.2f}" for mm in at) for at in _corners(shape, affine)[[0, 7]])
    return f"{' x '.join(map(str, shape))} voxels from ({first}) to ({last}) mm"
