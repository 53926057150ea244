"""Which regions a scan covers along z, from the image alone.

Definition: head and neck lie above the apices of the lungs, starting at the slice above the topmost
one with lung. The abdomen, including the pelvis, lies below the height halfway between the dome of
the diaphragm (the topmost slice with liver or spleen) and the deepest recess of the lungs. The
chest lies in between. Halfway is where a section starts to contain more abdominal soft tissue than
lung, which is what the windows are chosen for; lung makes up a tenth of the body's section there,
which is how that height is found here (the two agree within 1 cm on the scans of
`benchmarks/regions.py`).

Limbs belong to none of the three; they are still assigned a region, with a reason stating that no
region is certain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from ..core.labels import BODY, BONE, LUNG, OUTSIDE
from ..core.morphology import component_sizes, within_slice
from ..core.volume import LENGTH_TOLERANCE, Volume

ORDER = ("abdomen", "chest", "headneck")  # from inferior to superior
THINNEST_MM = 30.0  # a thinner span inside a scan is merged into its neighbour
BORDER_MM = 10.0  # the cost of a border, in mm of slices with a full score
WORK_MM = 3.0  # sections are analysed on pixels of about this size
AIRY_HU = (-950.0, -500.0)  # between pure gas and tissue
CHEST_LUNG, APEX_LUNG = 0.10, 0.02  # lung as a share of the section
SKULL_CM2, NECK_CM2, TRUNK_CM2 = 60.0, 250.0, 350.0
EMPTY = 0.01  # weight of a slice without a body: it goes with its neighbours
SHOULDERS = 2.1  # ratio of the section's width to its depth
TRACHEA_CM2, TRACHEA_MM, MIDLINE_MM = (0.4, 9.0), 45.0, 25.0
# From front to back: bowel gas lies further forward, rectal gas further back.
TRACHEA_DEPTH = (0.25, 0.75)


@dataclass(frozen=True)
class RegionSpan:
    """Slices [start, stop) along z, the region that they show, and a short reason."""

    region: str
    start: int
    stop: int
    reason: str


@dataclass(frozen=True)
class Profile:
    """Measurements of a scan's sections, slice by slice."""

    body_cm2: Float[np.ndarray, " z"]  # of the largest part, without the arms
    lung: Float[np.ndarray, " z"]  # share of the whole section
    skull_cm2: Float[np.ndarray, " z"]  # enclosed by bone
    flat: Float[np.ndarray, " z"]  # width over depth
    cut: Bool[np.ndarray, " z"]  # the field of view cuts the body on either side
    trachea: Bool[np.ndarray, " z"]  # a tall column of gas in the midline


def region_spans(volume: Volume, coarse: UInt8[np.ndarray, "x y z"]) -> tuple[RegionSpan, ...]:
    """Spans that cover every slice, from inferior to superior; coarse: from `scan/anatomy.coarse`.

    The best of all anatomically possible divisions: at most one abdomen, chest and head and neck,
    in this order, none skipped between two, and none thinner than 30 mm. No scan is rejected.
    """
    profile = measure(volume, coarse)
    first, second = _best_cut(_scores(profile) * volume.spacing_mm[2], volume.spacing_mm[2])
    borders = (0, first, second, volume.shape[2])
    spans = [
        (region, start, stop)
        for region, start, stop in zip(ORDER, borders, borders[1:], strict=False)
        if stop > start
    ]
    return tuple(
        RegionSpan(*span, _reason(*span, profile, alone=len(spans) == 1)) for span in spans
    )


def measure(volume: Volume, coarse: UInt8[np.ndarray, "x y z"]) -> Profile:
    """The profile of a scan, measured on a subset of its voxels."""
    x_mm, y_mm, z_mm = volume.spacing_mm
    fx, fy = (max(1, round(WORK_MM / mm)) for mm in (x_mm, y_mm))
    x_mm, y_mm = x_mm * fx, y_mm * fy
    labels, hu = coarse[fx // 2 :: fx, fy // 2 :: fy], volume.hu[fx // 2 :: fx, fy // 2 :: fy]
    body = labels != OUTSIDE
    pixels = np.maximum(body.sum((0, 1)), 1)
    airy = (hu > AIRY_HU[0]) & (hu < AIRY_HU[1]) & (labels == BODY)
    airy = ndimage.binary_opening(airy, np.ones((3, 3, 1), bool))
    ringed = ndimage.binary_fill_holes(labels == BONE, within_slice()) & (labels != BONE)
    main = _largest(body)
    width, depth = main.any(1).sum(0) * x_mm, main.any(0).sum(0) * y_mm
    return Profile(
        body_cm2=main.sum((0, 1)) * x_mm * y_mm / 100,
        lung=((labels == LUNG) | airy).sum((0, 1)) / pixels,
        skull_cm2=ringed.sum((0, 1)) * x_mm * y_mm / 100,
        flat=width / np.maximum(depth, 1),
        cut=np.any(main[[0, -1]], axis=(0, 1)),
        trachea=_trachea((hu < -700) & body & (labels != LUNG), main, (x_mm, y_mm, z_mm)),
    )


def _scores(profile: Profile) -> Float[np.ndarray, "3 z"]:
    """How well each slice fits each region in ORDER, relative to the chest, whose score is 0.

    Lung decides. Where there is hardly any, other signs separate head and neck from abdomen.
    """
    below = np.clip(2 * (1 - profile.lung / CHEST_LUNG), -1, 1)
    above = np.clip(1 - profile.lung / APEX_LUNG, -1, 1)
    small = (profile.body_cm2 > 0) & (profile.body_cm2 < NECK_CM2) & ~profile.cut
    signs = (
        -0.4  # the abdomen is the largest region, and the likeliest without other signs
        + 1.5 * (profile.skull_cm2 > SKULL_CM2)
        + 0.8 * profile.trachea
        + 0.8 * small
        + 0.5 * ((profile.flat > SHOULDERS) & ~profile.cut)
    )
    signs = np.clip(signs, -1, 1) * (profile.lung < CHEST_LUNG)
    scores = np.stack([below - signs, np.zeros_like(below), above + signs])
    return scores * np.where(profile.body_cm2 > 0, 1, EMPTY)


def _best_cut(scores: Float[np.ndarray, "3 z"], z_mm: float) -> tuple[int, int]:
    """Where the chest starts and ends in the division with the highest total score."""
    n = scores.shape[1]
    total = np.concatenate([np.zeros((3, 1)), scores.cumsum(1)], axis=1)
    first, second = np.ix_(np.arange(n + 1), np.arange(n + 1))
    value = total[0][first] + total[1][second] - total[1][first] + total[2, n] - total[2][second]
    value = value - BORDER_MM * (
        ((first > 0) & (first < n)).astype(int) + ((second > 0) & (second < n) & (second > first))
    )
    possible, least_mm = second >= first, THINNEST_MM * (1 - LENGTH_TOLERANCE)
    for length in (first, second - first, n - second):
        possible &= (length == 0) | (length * z_mm >= least_mm) | (length == n)
    possible &= (second > first) | (first == 0) | (first == n)  # no neck directly above an abdomen
    best = int(np.where(possible, value, -np.inf).argmax())
    return best // (n + 1), best % (n + 1)


def _reason(region: str, start: int, stop: int, profile: Profile, alone: bool) -> str:
    """The measurements behind a region; alone: there is no other region to confirm this one."""
    part = slice(start, stop)
    if not profile.body_cm2[part].any():
        return "no body found"
    lung, area = profile.lung[part].mean(), profile.body_cm2[part].mean()
    skull, trachea = (profile.skull_cm2[part] > SKULL_CM2).mean(), profile.trachea[part].mean()
    facts = f"section of {area:.0f} cm2, {lung:.0%} of it lung"
    if region == "headneck":
        facts += f", skull in {skull:.0%} and trachea in {trachea:.0%} of the slices"
    certain = {
        "abdomen": area > TRUNK_CM2,
        "chest": lung > APEX_LUNG,
        "headneck": skull + trachea > 0.1,
    }
    return facts if certain[region] or not alone else f"no region is certain: {facts}"


# -- sections


def _largest(mask: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """The largest component of each section."""
    parts, _ = ndimage.label(mask, within_slice())
    size = component_sizes(parts)
    return mask & (parts > 0) & (size[parts] == size[parts].max((0, 1)))


def _trachea(
    gas: Bool[np.ndarray, "x y z"], body: Bool[np.ndarray, "x y z"], mm: tuple[float, float, float]
) -> Bool[np.ndarray, " z"]:
    """Slices with a column of gas the size of a trachea in the middle of the section."""
    parts, count = ndimage.label(gas, within_slice())
    if not count:
        return np.zeros(gas.shape[2], bool)
    at = np.nonzero(parts)
    number = parts[at] - 1
    pixels = np.bincount(number)
    cm2 = pixels * mm[0] * mm[1] / 100
    x, y, z = (np.bincount(number, index) / pixels for index in at)
    z = z.round().astype(int)
    rows, columns = np.any(body, axis=1), np.any(body, axis=0)
    centre, reach = _middle(rows), columns.sum(0)
    front = _middle(columns) + reach / 2
    depth = (front[z] - y) / np.maximum(reach[z], 1)
    good = (
        (cm2 > TRACHEA_CM2[0])
        & (cm2 < TRACHEA_CM2[1])
        & (depth > TRACHEA_DEPTH[0])
        & (depth < TRACHEA_DEPTH[1])
    )
    good &= np.abs(x - centre[z]) * mm[0] < MIDLINE_MM
    stack, tall = ndimage.label(np.concatenate([[False], good])[parts])
    out = np.zeros(gas.shape[2], bool)
    for _, _, along in ndimage.find_objects(stack, tall):
        if (along.stop - along.start) * mm[2] >= TRACHEA_MM:
            out[along] = True
    return out


def _middle(line: Bool[np.ndarray, "n z"]) -> Float[np.ndarray, " z"]:
    """Mean index of the set voxels in each slice."""
    return (np.arange(len(line)) @ line) / np.maximum(line.sum(0), 1)
