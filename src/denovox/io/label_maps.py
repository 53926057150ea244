"""Label maps in any format, with their stored values, on the grid of their CT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8

from ..core.errors import InputError, ensure
from ..core.volume import Volume
from . import formats, itk, nifti
from .nifti import GRID_TOLERANCE_MM, geometry


def read(path: Path) -> tuple[Int32[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    """(values, affine) of a NIfTI, NRRD or MetaImage file, in the axes closest to RAS.

    Raises `InputError` if the file cannot be read, or its values are not integers below 2^24.
    """
    if formats.kind_of(path) != "itk":
        return nifti.read_label_values(path)
    volume = itk.read(path)
    return nifti.whole_numbers(volume.hu, path), volume.affine


def on_grid(path: Path, like: Volume) -> Int32[np.ndarray, "x y z"]:
    """The values on the grid of a volume; 0 outside a label map that was cropped.

    Its voxels must coincide with voxels of the volume within 0.01 mm: labels are never resampled
    silently. Otherwise `InputError`, with both geometries.
    """
    values, affine = read(path)
    offset = np.linalg.solve(like.affine, affine[:, 3])[:3]
    start = np.rint(offset).astype(int)
    stop = start + values.shape
    axes = affine[:3, :3] - like.affine[:3, :3]
    apart_mm = np.linalg.norm(like.affine[:3, :3] @ (offset - start)) + np.linalg.norm(
        np.abs(axes) @ values.shape
    )
    if apart_mm > GRID_TOLERANCE_MM or (start < 0).any() or (stop > like.shape).any():
        raise InputError(
            f"{path} is not on the grid of its CT: labels {geometry(values.shape, affine)}, CT"
            f" {geometry(like.shape, like.affine)}; resample the labels to the CT (nearest"
            " neighbour)"
        )
    if values.shape == like.shape:
        return values
    out = np.zeros(like.shape, np.int32)
    out[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = values
    return out


def read_labels(
    path: str | Path, like: Volume | None = None
) -> UInt8[np.ndarray, "x y z"] | Int32[np.ndarray, "x y z"]:
    """A label map or mask in any format, with its stored values, in the axes closest to RAS.

    like: a CT whose grid the result is put on (0 outside a cropped label map). uint8 if the values
    fit. Raises `InputError` if the file cannot be read, or its voxels are not those of the CT.
    """
    values = read(Path(path))[0] if like is None else on_grid(Path(path), like)
    fits = values.size == 0 or (values.min() >= 0 and values.max() < 256)
    return values.astype(np.uint8) if fits else values


def marked(path: Path, like: Volume) -> Bool[np.ndarray, "x y z"]:
    """True where a label map on a volume's grid is not 0; `InputError` if it is 0 throughout."""
    found = on_grid(path, like) != 0
    ensure(found.any(), f"{path} is empty: all its voxels are 0")
    return found
