"""Conversion of a `Volume` from and to the images of other packages, which are imported lazily.

Input may have any orientation: its axes are permuted and flipped to the nearest of RAS, and voxels
are never resampled. Output is in RAS, at the same place in the patient.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from jaxtyping import Float

from .errors import InputError, ensure

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS millimetres -> RAS millimetres, and back

Array = Float[np.ndarray, "x y z"]
Affine = Float[np.ndarray, "4 4"]


def nearest_ras(values: Any, affine: Any, what: str = "the image") -> tuple[Array, Affine]:
    """(HU, affine) in the axes nearest to RAS. values: 3D, with axes in the affine's order.

    `InputError` if it is not a single finite 3D image with an invertible affine.
    """
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    array, matrix = np.asarray(values), np.asarray(affine, np.float64)
    ensure(
        array.ndim == 3 and array.size > 0,
        f"{what} has shape {array.shape}; pass a single 3D image",
    )
    ensure(
        array.dtype.kind in "biuf",
        f"{what} has {array.dtype} values; pass real numbers in Hounsfield units",
    )
    ensure(
        matrix.shape == (4, 4)
        and bool(np.isfinite(matrix).all())
        and abs(np.linalg.det(matrix[:3, :3])) > 1e-9,
        f"the affine of {what} is not a finite, invertible 4 x 4 matrix; pass one in mm",
    )
    wide = np.float64 if array.dtype in (np.float64, np.int64, np.uint64) else np.float32
    orientation = io_orientation(matrix)
    hu = np.ascontiguousarray(apply_orientation(array, orientation), wide)
    bad = hu.size - int(np.count_nonzero(np.isfinite(hu)))
    ensure(not bad, f"{bad} voxels of {what} are NaN or infinite; replace them")
    return hu, matrix @ inv_ornt_aff(orientation, array.shape)


def from_numpy(
    values: Any, affine: Any = None, spacing_mm: Any = None, axes: str = "xyz"
) -> tuple[Array, Affine]:
    """(HU, affine) of an array, with the arguments of `Volume.from_numpy`."""
    ensure(axes in ("xyz", "zyx"), f"axes is '{axes}'; pass 'xyz' or 'zyx'")
    ensure(
        (affine is None) != (spacing_mm is None),
        "an array has no position in space; pass either an affine or spacing_mm",
    )
    array = np.asarray(values)
    if axes == "zyx":
        array = array.T
    if affine is None:
        mm = np.broadcast_to(np.asarray(spacing_mm, np.float64), 3)
        ensure(bool((mm > 0).all()), f"spacing_mm is {spacing_mm}; it must be above 0 mm")
        affine = np.diag([*mm, 1.0])
    return nearest_ras(array, affine, "the array")


def from_nibabel(image: Any) -> tuple[Array, Affine]:
    """(HU, affine) of a nibabel image."""
    ensure(
        hasattr(image, "dataobj") and hasattr(image, "affine"),
        f"{type(image).__name__} is not a nibabel image",
    )
    return nearest_ras(np.asarray(image.dataobj), image.affine)


def to_nibabel(hu: Array, affine: Affine) -> Any:
    """A nibabel `Nifti1Image`, HU in the array's dtype."""
    nibabel = _package("nibabel")
    image = nibabel.Nifti1Image(hu, affine)
    image.header.set_xyzt_units("mm")
    return image


def from_sitk(image: Any) -> tuple[Array, Affine]:
    """(HU, affine) of a SimpleITK image, whose axes are LPS."""
    sitk = _package("SimpleITK")
    ensure(isinstance(image, sitk.Image), f"{type(image).__name__} is not a SimpleITK image")
    ensure(
        image.GetDimension() == 3 and image.GetNumberOfComponentsPerPixel() == 1,
        "the SimpleITK image is not a single 3D scalar image; extract one",
    )
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return nearest_ras(sitk.GetArrayFromImage(image).T, LPS @ affine)


def to_sitk(hu: Array, affine: Affine) -> Any:
    """A SimpleITK image; `InputError` if the axes are sheared, which ITK cannot represent."""
    sitk = _package("SimpleITK")
    lps = LPS @ affine
    mm = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / mm
    ensure(
        bool(np.allclose(direction.T @ direction, np.eye(3), atol=1e-4)),
        "the volume's axes are not perpendicular, which SimpleITK cannot represent; resample it",
    )
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu.T))
    image.SetSpacing(mm.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(direction.ravel().tolist())
    return image


def from_metatensor(tensor: Any) -> tuple[Array, Affine]:
    """(HU, affine) of a MONAI `MetaTensor` (x, y, z, or 1, x, y, z), whose affine is in RAS mm."""
    ensure(
        hasattr(tensor, "affine") and hasattr(tensor, "meta"),
        f"{type(tensor).__name__} is not a MONAI MetaTensor",
    )
    values = tensor.detach().cpu().as_tensor().numpy()
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    return nearest_ras(values, _ras_affine(tensor), "the MetaTensor")


def _ras_affine(tensor: Any) -> Affine:
    """The affine of a `MetaTensor`, in RAS mm also where its space is LPS."""
    affine = np.asarray(tensor.affine, np.float64)
    space = str(getattr(tensor.meta.get("space"), "value", tensor.meta.get("space")))
    return LPS @ affine if space == "LPS" else affine


def to_metatensor(hu: Array, affine: Affine, like: Any = None) -> Any:
    """A MONAI `MetaTensor` (1, x, y, z) in RAS; or in the axes of another that is on the same grid,
    with its shape, metadata and applied transforms."""
    import torch

    data = _package("monai.data")
    if like is None:
        values = torch.from_numpy(np.ascontiguousarray(hu))[None]
        return data.MetaTensor(values, affine=torch.from_numpy(affine), meta={"space": "RAS"})
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    there = _ras_affine(like)
    back = ornt_transform(io_orientation(affine), io_orientation(there))
    turned = np.ascontiguousarray(apply_orientation(hu, back))
    ensure(
        turned.size == like.numel() and turned.shape == tuple(like.shape[-3:]),
        f"the volume has {turned.shape} voxels, the MetaTensor {tuple(like.shape)}; they are not on"
        " one grid",
    )
    values = torch.from_numpy(turned).reshape(like.shape).to(like.device)
    applied = list(like.applied_operations)
    meta = {name: value for name, value in like.meta.items() if name != "affine"}
    return data.MetaTensor(values, like.affine, meta, applied_operations=applied)


def _package(name: str) -> Any:
    """The imported package, or `InputError` with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        top = name.partition(".")[0]
        raise InputError(f"{top} is not installed; pip install {top}") from None
