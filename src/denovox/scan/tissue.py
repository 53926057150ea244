"""Where a tissue is in a scan: from its labels if they include it, else roughly, from HU."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from ..core.labels import BODY, BONE, ID, NAMES, OUTSIDE, path
from ..core.morphology import Mask, Spacing, close_mm, component_sizes, dilate_mm, erode_mm
from ..core.volume import Volume

Tissue = Literal["liver", "lung", "muscle"]

SOFT_HU, MUSCLE_HU = (30.0, 190.0), (10.0, 110.0)  # in the smoothed scan, with or without contrast
SMOOTH_MM, CLOSING_MM = 3.0, 3.0
LIVER_ML = 150.0  # a separate piece of soft tissue this large on the right counts as liver
NECK_MM = 8.0  # thinner bridges between the liver and its neighbours are cut
SKIN_MM = 35.0  # muscle found by HU lies this close to the skin,
BONE_MM = 25.0  # or this close to a bone


def healthy(volume: Volume, labels: UInt8[np.ndarray, "x y z"], tissue: Tissue) -> Mask:
    """Where a tissue is: from its labels if they include it, else roughly, from HU.

    Lung is always its label, with small vessels filled in. By HU, liver is the largest piece of
    soft tissue on the patient's right after thin bridges are cut, and muscle is soft tissue near
    the skin or a bone. Whether the tissue is actually healthy is not known.
    """
    if tissue == "lung":
        return close_mm(under(labels, "lung"), CLOSING_MM, volume.spacing_mm)
    named = under(labels, tissue)
    if named.any():
        return named
    steps = [SMOOTH_MM / mm for mm in volume.spacing_mm]
    smooth = ndimage.gaussian_filter(volume.hu.astype(np.float32), steps, mode="nearest")
    inside = (labels == BODY) | (labels == ID["unknown"])
    low, high = SOFT_HU if tissue == "liver" else MUSCLE_HU
    soft = inside & (smooth > low) & (smooth < high)
    if tissue == "muscle":
        skin = dilate_mm(labels == OUTSIDE, SKIN_MM, volume.spacing_mm)
        return soft & (skin | dilate_mm(labels == BONE, BONE_MM, volume.spacing_mm))
    return _liver(soft, labels, volume.spacing_mm)


def _liver(soft: Mask, labels: UInt8[np.ndarray, "x y z"], spacing: Spacing) -> Mask:
    """The largest piece on the patient's right (x increases to the right), opened."""
    body = np.flatnonzero((labels != OUTSIDE).any((1, 2)))
    middle = (body[0] + body[-1]) // 2 if body.size else 0
    core = erode_mm(soft, NECK_MM, spacing)
    parts, _ = ndimage.label(core)
    size = component_sizes(parts[middle:], count=int(parts.max()) + 1)
    if size.max() * np.prod(spacing) / 1000 < LIVER_ML:
        return np.zeros_like(soft)
    core = parts == size.argmax()
    core[:middle] = False
    return soft & dilate_mm(core, NECK_MM, spacing)


def under(labels: UInt8[np.ndarray, "x y z"], name: str) -> Mask:
    """Voxels of a class or of any class below it."""
    table = np.array([name in path(each) for each in NAMES])
    found: Mask = table[labels]
    return found
