"""Images for a browser: small NIfTI files on one grid, which a page or a notebook contains."""

from __future__ import annotations

import gzip
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from ..resample import nearest, resize


def niftis(
    scans: Sequence[Float[np.ndarray, "x y z"]],
    overlays: Sequence[Shaped[np.ndarray, "x y z"]],
    affine: Float[np.ndarray, "4 4"],
    most_mb: float,
) -> tuple[list[bytes], tuple[int, ...]]:
    """Gzipped NIfTI files of scans and overlays, `most_mb` MB at most, and their shape in voxels.

    affine: of all of them, voxel index -> mm in RAS+. Scans are rounded to integer HU, and other
    values that are not whole numbers to 0.01. Where the files would be larger, scans are averaged
    onto a coarser grid, and overlays sampled there.
    """
    shape: tuple[int, ...] = scans[0].shape
    found = _files(scans, overlays, affine, shape)
    while max(shape) > 1 and (megabytes := sum(map(len, found)) / 1e6) > most_mb:
        shrink = 0.95 * (most_mb / megabytes) ** (1 / 3)
        shape = tuple(max(1, int(n * shrink)) for n in shape)
        found = _files(scans, overlays, affine, shape)
    return found, shape


def averaged(original: Sequence[int], shape: Sequence[int]) -> str:
    """The sentence for images on a coarser grid than the original's; "" if it is the same."""
    if tuple(original) == tuple(shape):
        return ""
    sizes = (" x ".join(map(str, one)) for one in (original, shape))
    return "Images are averaged from {} onto {} voxels.".format(*sizes)


def _files(
    scans: Sequence[Float[np.ndarray, "x y z"]],
    overlays: Sequence[Shaped[np.ndarray, "x y z"]],
    affine: Float[np.ndarray, "4 4"],
    shape: tuple[int, ...],
) -> list[bytes]:
    """The files on a grid of `shape` cells."""
    ratio = np.array(scans[0].shape) / shape
    grid = affine @ np.diag([*ratio, 1])
    grid[:3, 3] += affine[:3, :3] @ ((ratio - 1) / 2)
    scaled = [resize(scan.astype(np.float32, copy=False), shape) for scan in scans]
    return [_nifti(one, grid, 1.0) for one in scaled] + [
        _nifti(nearest(one, shape), grid, 1.0 if one.dtype.kind in "biu" else 0.01)
        for one in overlays
    ]


def _nifti(
    values: Shaped[np.ndarray, "x y z"], affine: Float[np.ndarray, "4 4"], step: float
) -> bytes:
    """Values in multiples of `step` as a gzipped NIfTI file of 16-bit integers."""
    import nibabel

    stored = np.clip(np.rint(values / step), -32768, 32767).astype(np.int16)
    image = nibabel.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(step, 0)
    return gzip.compress(image.to_bytes(), 6, mtime=0)
