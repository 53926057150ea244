"""What a label map by itself says: which regions it covers along z, and whether it shows one body.

The borders are those of `body_regions`, read off labels instead of HU, with one difference: the
chest includes all lung. In the windows of the abdomen and of head and neck, lung would be cut off
at the lower end.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from ..core.errors import InputError, ensure
from ..core.labels import BODY, ID, NAMES, OUTSIDE, path
from ..core.morphology import Spacing, component_sizes, dilate_mm
from ..core.volume import within
from .body_regions import THINNEST_MM, RegionSpan

Labels = UInt8[np.ndarray, "x y z"]

_NECK = ("brain", "skull", "thyroid_gland", *(f"vertebrae_C{n}" for n in range(1, 7)))
_TRUNK = (
    "liver spleen pancreas gallbladder stomach duodenum small_bowel colon kidney urinary_bladder"
    " prostate sacrum hip_left hip_right femur_left femur_right vertebrae_L5 vertebrae_L4"
    " vertebrae_L3 iliac_artery_left iliac_artery_right iliopsoas_left iliopsoas_right"
    " gluteus_maximus_left gluteus_maximus_right"
).split()
WORK_MM = 4.0  # bodies are counted on voxels of about this size
BRIDGE_MM = 15.0  # organs this far apart belong to one body, where the body itself has no label
SECOND = 0.25  # a part this large, relative to the largest, is not an arm: it is another body


def label_spans(ids: Labels, z_mm: float) -> tuple[RegionSpan, ...]:
    """The regions that the labels determine, without gaps, from inferior to superior.

    The chest is where there is lung; head and neck lie above it, the abdomen below. A part thinner
    than 30 mm belongs to the chest. Without lung, all is head and neck or all is abdomen, as its
    organs say. `InputError` where the labels show no organ of any region, or organs of two regions
    without the lung between them.
    """
    count = ids.shape[2]
    lung, neck, trunk = (_slices(ids, names) for names in (("lung",), _NECK, _TRUNK))
    if not lung.any():
        ensure(
            neck.any() or trunk.any(),
            "the label map has no lung and no organ of the head, neck or abdomen, so its region"
            " is not known; give --region",
        )
        ensure(
            not (neck.any() and trunk.any()),
            "the label map shows organs of the head or neck and of the abdomen, but no lung, so the"
            " borders of the chest are not known; give --region, or a label map with lungs",
        )
        name = "headneck" if neck.any() else "abdomen"
        return (RegionSpan(name, 0, count, "its organs are labelled"),)
    found = np.flatnonzero(lung)
    first, last = int(found[0]), int(found[-1]) + 1
    first = first if within(first * z_mm, THINNEST_MM) else 0
    last = last if within((count - last) * z_mm, THINNEST_MM) else count
    named = (
        ("abdomen", 0, first, "below the lung"),
        ("chest", first, last, "lung is labelled"),
        ("headneck", last, count, "above the lung"),
    )
    return tuple(RegionSpan(*span) for span in named if span[2] > span[1])


def require_one_body(ids: Labels, spacing_mm: Spacing) -> None:
    """`InputError` where a label map shows no body, or more than one.

    Arms beside the trunk are smaller than a quarter of it and do not count. Where neither the body
    nor its outside is labelled, organs up to 30 mm apart are one body.
    """
    step = [max(1, round(WORK_MM / mm)) for mm in spacing_mm]
    few = ids[tuple(slice(s // 2, None, s) for s in step)]
    few = few if few.size else ids
    inside = _members(("body",))[few]
    if not inside.any():
        inside = _members(("body",))[ids].any(keepdims=True)  # perhaps finer than every step
    ensure(
        inside.any(),
        "the anatomy shows no body: every voxel is unknown (0) or outside; give a label map with"
        " organs, or leave it out to generate without one",
    )
    mm = [a * b for a, b in zip(spacing_mm, step, strict=True)]
    outlined = bool(np.isin(few, (BODY, OUTSIDE)).any())
    joined = inside if outlined else dilate_mm(inside, BRIDGE_MM, (mm[0], mm[1], mm[2]))
    parts, _ = ndimage.label(joined)
    litres = np.sort(component_sizes(parts, inside)[1:])[::-1] * math.prod(mm) / 1e6
    bodies = litres[litres >= SECOND * litres[0]]
    if len(bodies) > 1:
        listed = " and ".join(f"{each:.2g}" for each in bodies[:3])
        raise InputError(
            f"the anatomy shows {len(bodies)} separate bodies (of {listed} litres); the model"
            " generates one: give a label map for each"
        )


def _members(names: tuple[str, ...] | list[str]) -> Bool[np.ndarray, " labels"]:
    """For each label, whether it is one of these classes or part of one."""
    table = np.array([not set(names).isdisjoint(path(name)) for name in NAMES])
    table[[ID["unknown"], OUTSIDE]] = False
    return table


def _slices(ids: Labels, names: tuple[str, ...] | list[str]) -> Bool[np.ndarray, " z"]:
    """Which slices show one of the classes."""
    return np.asarray(_members(names)[ids].any((0, 1)))
