"""Whether a CT holds together: seams, a single body, a continuous spine, two lungs, two even sides.

A generated volume is evaluated tile by tile, level by level and region by region. Texture and
Fréchet distances hardly notice a step between tiles, a second body, or a spine that ends halfway.
Every figure has its value for real scans beside it: arms and tables are parts of these, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from scipy import ndimage

from ..core.labels import BONE, LUNG, OUTSIDE, UNKNOWN, path
from ..core.labels import NAMES as CLASSES
from ..core.morphology import component_sizes, dilate_mm, erode_mm
from ..core.volume import Volume
from ..scan import anatomy
from ..scan.blocks import block_mean, coarser

Mask = Bool[np.ndarray, "x y z"]
Labels = UInt8[np.ndarray, "x y z"]
Borders = Sequence[Sequence[int]]
NEAR = (-4, -3, -2, 2, 3, 4)  # planes to which a border is compared; its neighbours blend
WORK_MM = 4.0
TABLE_MM = 10.0  # what a ball of this radius does not fit into is not a body
MIDLINE_MM, BRIDGE_MM = 30.0, 6.0  # of the spine; from each vertebra, at least one voxel
LEAST_ML = 20.0  # of lung or bone
NAMES = ("voxels in one body", "slices in one spine", "lung in two parts", "overlap of the sides")

CLASS = {  # of a label map: whether each class is lung or air in it, or bone
    name: np.array([not set(kinds).isdisjoint(path(one)) for one in CLASSES])
    for name, kinds in (("lung", ("lung", "airway")), ("bone", ("bone",)))
}


# -- seams ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """Differences between neighbouring planes along one axis: their absolute sum, and how many."""

    total: Float64[np.ndarray, " planes"]
    count: Int64[np.ndarray, " planes"]


def steps(
    values: Float[np.ndarray, "x y z"], inside: Mask | None = None
) -> tuple[Steps, Steps, Steps]:
    """Along x, y and z. inside: voxels that count; a difference needs both of its voxels."""
    x, y, z = (_along(values, inside, axis) for axis in range(3))
    return x, y, z


def _along(values: Float[np.ndarray, "x y z"], inside: Mask | None, axis: int) -> Steps:
    total, count = [], []
    planes = np.moveaxis(values, axis, 0)
    used = None if inside is None else np.moveaxis(inside, axis, 0)
    for i in range(len(planes) - 1):
        step = np.abs(planes[i + 1] - planes[i])
        step = step.ravel() if used is None else step[used[i + 1] & used[i]]
        total.append(step.sum(dtype=np.float64))
        count.append(step.size)
    return Steps(np.array(total), np.array(count, np.int64))


def seam(axes: Sequence[Steps], borders: Borders) -> float:
    """Mean absolute difference across borders, over that across planes 2 to 4 voxels away.

    borders: along each axis, the i of a border between voxels i and i + 1. 1 without a seam;
    (g + k) / g for a step of k in a slope of g per voxel. A plane near a border that is a border
    itself is not used. NaN where there is nothing to compare.
    """
    at = near = 0.0
    for own, planes in zip(axes, borders, strict=True):
        length = len(own.count)
        for plane in {one for one in planes if 0 <= one < length}:
            beside = [plane + d for d in NEAR if 0 <= plane + d < length]
            beside = [one for one in beside if one not in planes]
            count = int(own.count[beside].sum()) if beside else 0
            if count:
                at += float(own.total[plane])
                near += float(own.count[plane] * own.total[beside].sum() / count)
    return at / near if near else float("nan")


# -- anatomy --------------------------------------------------------------------------------------


def coherence(volume: Volume, found: Labels) -> dict[str, float]:
    """The figures of `NAMES` for a CT in HU, each from 0 to 1; NaN where a scan does not show it.

    found: its `anatomy.coarse`.

    - voxels in one body: share of all dense tissue, tables and clothes aside, in one component;
    - slices in one spine: share of the slices with bone near the midline that its largest component
      reaches;
    - lung in two parts: share of the lung in its two largest components;
    - overlap of the sides: Dice coefficient of the body and its mirror image, left to right.

    On voxels of about 4 mm.
    """
    factor = tuple(max(1, round(WORK_MM / mm)) for mm in volume.spacing_mm)
    mm = coarser(volume.spacing_mm, factor)
    if not (found == OUTSIDE).any():  # a window that cuts off air: nothing shows where a body ends
        return dict.fromkeys(NAMES, float("nan"))

    def part(mask: Mask) -> Bool[np.ndarray, "_ _ _"]:
        return block_mean(mask.astype(np.float32), factor) > 0.25

    body = part(found != OUTSIDE)
    dense = block_mean(volume.hu, factor) > anatomy.BODY_HU
    thick = dilate_mm(erode_mm(dense, TABLE_MM, mm), TABLE_MM, mm) & dense
    lung, spine = part(found == LUNG), part(found == BONE) & _midline(body, mm[0])
    least = LEAST_ML * 1000 / float(np.prod(mm))
    some_spine, some_lung = (mask if mask.sum() > least else mask & False for mask in (spine, lung))
    return {
        NAMES[0]: share_in(thick),
        NAMES[1]: reached(some_spine, dilate_mm(some_spine, max(BRIDGE_MM, 1.01 * max(mm)), mm)),
        NAMES[2]: share_in(some_lung, 2),
        NAMES[3]: mirrored(body),
    }


def share_in(mask: Mask, count: int = 1) -> float:
    """The share of a mask in its `count` largest face-connected components; NaN if it is empty."""
    sizes = np.sort(component_sizes(ndimage.label(mask)[0]))[::-1]
    return float(sizes[:count].sum() / sizes.sum()) if sizes.sum() else float("nan")


def reached(mask: Mask, joined: Mask) -> float:
    """The share of the slices with a mask that its largest part reaches; NaN if it is empty.

    joined: a mask around it, whose components say what is one part.
    """
    parts, _ = ndimage.label(joined)
    largest = mask & (parts == component_sizes(parts, mask).argmax())
    slices = int(mask.any((0, 1)).sum())
    return float(largest.any((0, 1)).sum() / slices) if slices else float("nan")


def mirrored(mask: Mask) -> float:
    """The Dice coefficient of a mask and its mirror image along x, about its own centre."""
    count = mask.shape[0]
    weights = mask.sum((1, 2))
    if not weights.any():
        return float("nan")
    other = round(2 * float(np.average(np.arange(count), weights=weights))) - np.arange(count)
    image = np.zeros_like(mask)
    valid = (other >= 0) & (other < count)
    image[valid] = mask[other[valid]]
    return float(2 * (mask & image).sum() / (mask.sum() + image.sum()))


def _midline(body: Mask, x_mm: float) -> Mask:
    """Voxels near the body's centre along x, slice by slice."""
    x = np.arange(body.shape[0])[:, None]
    weights = body.sum(1)  # x z
    centre = (weights * x).sum(0) / np.maximum(weights.sum(0), 1)
    near = np.abs(x - centre) * x_mm <= MIDLINE_MM
    return np.broadcast_to(near[:, None, :], body.shape)


def followed(hu: Float[np.ndarray, "x y z"], ids: Labels) -> dict[str, float]:
    """Dice coefficients of thresholds within the body with the lung and the bone of a label map.

    Lung and airways: below -400 HU; bone: above 200. NaN where the label map has less than 1 % of
    it.
    """
    body = ~np.isin(ids, (UNKNOWN, OUTSIDE))
    found = {}
    for name, dense in (("lung", hu < anatomy.LUNG_HU), ("bone", hu > anatomy.BONE_HU)):
        organ = CLASS[name][ids]
        enough = organ.sum() >= 0.01 * max(1, body.sum())
        both = 2 * (dense & organ).sum() / max(1, (dense & body).sum() + organ.sum())
        found[name] = float(both) if enough else float("nan")
    return found
