"""Where a tissue is in a scan: by its labels where they name it, else by HU, and roughly."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from ..core.labels import BODY, BONE, ID, NAMES, OUTSIDE, path
from ..core.volume import Volume

Tissue = Literal["liver", "lung", "muscle"]
Mask = Bool[np.ndarray, "x y z"]
Spacing = tuple[float, float, float]

SOFT_HU, MUSCLE_HU = (30.0, 190.0), (10.0, 110.0)  # of the smoothed scan, with or without contrast
SMOOTH_MM, CLOSING_MM = 3.0, 3.0
LIVER_ML = 150.0  # a piece of soft tissue this large, at the right and cut off, is taken for liver
NECK_MM = 8.0  # thinner bridges between the liver and its neighbours are cut
SKIN_MM = 35.0  # muscle looked for by HU lies this near the skin or a bone
BONE_MM = 25.0


def healthy(volume: Volume, labels: UInt8[np.ndarray, "x y z"], tissue: Tissue) -> Mask:
    """Where a tissue is: by its labels where they name it, else by HU, and roughly.

    By HU, lung is the label itself with its small vessels; liver the largest piece of soft tissue
    on the patient's right that is left when thin bridges are cut; muscle soft tissue near the
    skin or a bone. Whether the patient is ill there nobody knows.
    """
    if tissue == "lung":
        return closed(under(labels, "lung"), CLOSING_MM, volume.spacing_mm)
    named = under(labels, tissue)
    if named.any():
        return named
    steps = [SMOOTH_MM / mm for mm in volume.spacing_mm]
    smooth = ndimage.gaussian_filter(volume.hu.astype(np.float32), steps, mode="nearest")
    inside = (labels == BODY) | (labels == ID["unknown"])
    low, high = SOFT_HU if tissue == "liver" else MUSCLE_HU
    soft = inside & (smooth > low) & (smooth < high)
    if tissue == "muscle":
        skin = near(labels == OUTSIDE, SKIN_MM, volume.spacing_mm)
        return soft & (skin | near(labels == BONE, BONE_MM, volume.spacing_mm))
    return _liver(soft, labels, volume.spacing_mm)


def _liver(soft: Mask, labels: UInt8[np.ndarray, "x y z"], spacing: Spacing) -> Mask:
    """The largest piece on the patient's right (x grows to the right), opened."""
    body = np.flatnonzero((labels != OUTSIDE).any((1, 2)))
    middle = (body[0] + body[-1]) // 2 if body.size else 0
    core = ndimage.distance_transform_edt(soft, spacing) > NECK_MM
    parts, _ = ndimage.label(core)
    size = np.bincount(parts[middle:].ravel(), minlength=int(parts.max()) + 1)
    size[0] = 0
    if size.max() * np.prod(spacing) / 1000 < LIVER_ML:
        return np.zeros_like(soft)
    core = parts == size.argmax()
    core[:middle] = False
    return soft & near(core, NECK_MM, spacing)


def under(labels: UInt8[np.ndarray, "x y z"], name: str) -> Mask:
    """Voxels of a class or of one below it."""
    table = np.array([name in path(each) for each in NAMES])
    found: Mask = table[labels]
    return found


def near(mask: Mask, mm: float, spacing: Spacing) -> Mask:
    """Voxels no farther than `mm` from one of the mask, centre to centre."""
    if not mask.any():
        return np.zeros_like(mask)
    found: Mask = ndimage.distance_transform_edt(~mask, spacing) <= mm
    return found


def closed(mask: Mask, mm: float, spacing: Spacing) -> Mask:
    """Holes and clefts up to twice `mm` wide filled."""
    if not mask.any():
        return mask
    grown = near(mask, mm, spacing)
    shrunk: Mask = ndimage.distance_transform_edt(grown, spacing) > mm
    return shrunk | mask
