"""Which regions a scan spans, along z, from the image alone.

The definition. Head-neck lies above the lungs' apices: from the slice above the topmost one with
lung. The abdomen, pelvis included, lies below the height half way between the diaphragm's dome
(the topmost slice with liver or spleen) and the lungs' deepest recess. The chest lies between.
Half way is where a section begins to hold more soft tissue of the abdomen than lung, which is what
the windows are for; and there lung is a tenth of the body's section, which is how it is found here
(the two agree within 1 cm on the scans of `benchmarks/regions.py`).

Limbs are none of the three; they get a region all the same, and a reason that says that none is
sure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from ..core.labels import BODY, BONE, LUNG, OUTSIDE
from ..core.volume import Volume

ORDER = ("abdomen", "chest", "headneck")  # from inferior to superior
THINNEST_MM = 30.0  # a thinner slab inside a scan is its neighbour's
BORDER_MM = 10.0  # what a border costs, in mm of a slice's full score
WORK_MM = 3.0  # sections are looked at on pixels of about this size
AIRY_HU = (-950.0, -500.0)  # between pure gas and tissue
CHEST_LUNG, APEX_LUNG = 0.10, 0.02  # share of the section
SKULL_CM2, NECK_CM2, TRUNK_CM2 = 60.0, 250.0, 350.0
SHOULDERS = 2.1  # width of the section over its depth
PIPE_CM2, PIPE_MM, MIDLINE_MM = (0.4, 9.0), 45.0, 25.0
# From front to back: gas of the bowel lies further forward, of the rectum further back.
PIPE_DEPTH = (0.25, 0.75)


@dataclass(frozen=True)
class RegionSpan:
    """Slices [start, stop) along z, the region that they show, and why, in a few words."""

    region: str
    start: int
    stop: int
    reason: str


@dataclass(frozen=True)
class Profile:
    """What the sections of a scan show, slice by slice."""

    body_cm2: Float[np.ndarray, " z"]  # the largest part's, arms apart
    lung: Float[np.ndarray, " z"]  # share of the whole section
    skull_cm2: Float[np.ndarray, " z"]  # closed in by bone
    flat: Float[np.ndarray, " z"]  # width over depth
    cut: Bool[np.ndarray, " z"]  # the field of view cuts the body on either side
    pipe: Bool[np.ndarray, " z"]  # a windpipe: a tall column of gas in the midline


def region_spans(volume: Volume, coarse: UInt8[np.ndarray, "x y z"]) -> tuple[RegionSpan, ...]:
    """Slabs that cover every slice, from inferior to superior; coarse: of `scan/anatomy.coarse`.

    The best of all anatomically possible cuts: at most one abdomen, chest and head-neck, in this
    order, none left out between two, and none thinner than 30 mm. No scan is refused.
    """
    profile = measure(volume, coarse)
    first, second = _best_cut(_scores(profile) * volume.spacing_mm[2], volume.spacing_mm[2])
    borders = (0, first, second, volume.shape[2])
    slabs = [
        (region, start, stop)
        for region, start, stop in zip(ORDER, borders, borders[1:], strict=False)
        if stop > start
    ]
    return tuple(
        RegionSpan(*slab, _reason(*slab, profile, alone=len(slabs) == 1)) for slab in slabs
    )


def measure(volume: Volume, coarse: UInt8[np.ndarray, "x y z"]) -> Profile:
    """The profile of a scan, from every few voxels of its sections."""
    x_mm, y_mm, z_mm = volume.spacing_mm
    fx, fy = (max(1, round(WORK_MM / mm)) for mm in (x_mm, y_mm))
    x_mm, y_mm = x_mm * fx, y_mm * fy
    labels, hu = coarse[fx // 2 :: fx, fy // 2 :: fy], volume.hu[fx // 2 :: fx, fy // 2 :: fy]
    body = labels != OUTSIDE
    pixels = np.maximum(body.sum((0, 1)), 1)
    airy = (hu > AIRY_HU[0]) & (hu < AIRY_HU[1]) & (labels == BODY)
    airy = ndimage.binary_opening(airy, np.ones((3, 3, 1), bool))
    ringed = ndimage.binary_fill_holes(labels == BONE, _in_slice()) & (labels != BONE)
    main = _largest(body)
    width, depth = main.any(1).sum(0) * x_mm, main.any(0).sum(0) * y_mm
    return Profile(
        body_cm2=main.sum((0, 1)) * x_mm * y_mm / 100,
        lung=((labels == LUNG) | airy).sum((0, 1)) / pixels,
        skull_cm2=ringed.sum((0, 1)) * x_mm * y_mm / 100,
        flat=width / np.maximum(depth, 1),
        cut=np.any(main[[0, -1]], axis=(0, 1)),
        pipe=_windpipe((hu < -700) & body & (labels != LUNG), main, (x_mm, y_mm, z_mm)),
    )


def _scores(profile: Profile) -> Float[np.ndarray, "3 z"]:
    """How well each slice fits each region of ORDER; the chest, between, is the zero.

    Lung decides. Where there is hardly any, head-neck and abdomen are told apart by other signs.
    """
    below = np.clip(2 * (1 - profile.lung / CHEST_LUNG), -1, 1)
    above = np.clip(1 - profile.lung / APEX_LUNG, -1, 1)
    small = (profile.body_cm2 > 0) & (profile.body_cm2 < NECK_CM2) & ~profile.cut
    signs = (
        -0.4  # the abdomen is the largest, and most like what is left
        + 1.5 * (profile.skull_cm2 > SKULL_CM2)
        + 0.8 * profile.pipe
        + 0.8 * small
        + 0.5 * ((profile.flat > SHOULDERS) & ~profile.cut)
    )
    signs = np.clip(signs, -1, 1) * (profile.lung < CHEST_LUNG)
    return np.stack([below - signs, np.zeros_like(below), above + signs])


def _best_cut(scores: Float[np.ndarray, "3 z"], z_mm: float) -> tuple[int, int]:
    """Where the chest begins and where it ends: the sum of scores at its highest."""
    n = scores.shape[1]
    total = np.concatenate([np.zeros((3, 1)), scores.cumsum(1)], axis=1)
    first, second = np.ix_(np.arange(n + 1), np.arange(n + 1))
    value = total[0][first] + total[1][second] - total[1][first] + total[2, n] - total[2][second]
    value = value - BORDER_MM * (
        ((first > 0) & (first < n)).astype(int) + ((second > 0) & (second < n) & (second > first))
    )
    possible = second >= first
    for length in (first, second - first, n - second):
        possible &= (length == 0) | (length * z_mm >= THINNEST_MM) | (length == n)
    possible &= (second > first) | (first == 0) | (first == n)  # no neck right above a belly
    best = int(np.where(possible, value, -np.inf).argmax())
    return best // (n + 1), best % (n + 1)


def _reason(region: str, start: int, stop: int, profile: Profile, alone: bool) -> str:
    """What is seen, in figures; alone: no other region tells that this one is right."""
    part = slice(start, stop)
    if not profile.body_cm2[part].any():
        return "no body found"
    lung, area = profile.lung[part].mean(), profile.body_cm2[part].mean()
    skull, pipe = (profile.skull_cm2[part] > SKULL_CM2).mean(), profile.pipe[part].mean()
    seen = f"section {area:.0f} cm2, lung {lung:.0%} of it"
    if region == "headneck":
        seen += f", skull in {skull:.0%} and windpipe in {pipe:.0%} of the slices"
    sure = {"abdomen": area > TRUNK_CM2, "chest": lung > APEX_LUNG, "headneck": skull + pipe > 0.1}
    return seen if sure[region] or not alone else f"no region is sure: {seen}"


# -- sections


def _in_slice() -> Bool[np.ndarray, "3 3 3"]:
    """Neighbours within an axial slice only."""
    cross = np.zeros((3, 3, 3), bool)
    cross[:, 1, 1] = cross[1, :, 1] = True
    return cross


def _largest(mask: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """The largest part of each section."""
    parts, _ = ndimage.label(mask, _in_slice())
    size = np.bincount(parts.ravel())
    size[0] = 0
    return mask & (parts > 0) & (size[parts] == size[parts].max((0, 1)))


def _windpipe(
    gas: Bool[np.ndarray, "x y z"], body: Bool[np.ndarray, "x y z"], mm: tuple[float, float, float]
) -> Bool[np.ndarray, " z"]:
    """Slices through a column of gas in the middle of the section, of a windpipe's size."""
    parts, count = ndimage.label(gas, _in_slice())
    if not count:
        return np.zeros(gas.shape[2], bool)
    number = np.arange(1, count + 1)
    cm2 = ndimage.sum_labels(gas, parts, number) * mm[0] * mm[1] / 100
    x, y, z = np.array(ndimage.center_of_mass(gas, parts, number)).T
    z = z.round().astype(int)
    rows, columns = np.any(body, axis=1), np.any(body, axis=0)
    centre, reach = _middle(rows), columns.sum(0)
    front = _middle(columns) + reach / 2
    depth = (front[z] - y) / np.maximum(reach[z], 1)
    good = (
        (cm2 > PIPE_CM2[0])
        & (cm2 < PIPE_CM2[1])
        & (depth > PIPE_DEPTH[0])
        & (depth < PIPE_DEPTH[1])
    )
    good &= np.abs(x - centre[z]) * mm[0] < MIDLINE_MM
    stack, tall = ndimage.label(np.concatenate([[False], good])[parts])
    out = np.zeros(gas.shape[2], bool)
    for _, _, along in ndimage.find_objects(stack, tall):
        if (along.stop - along.start) * mm[2] >= PIPE_MM:
            out[along] = True
    return out


def _middle(line: Bool[np.ndarray, "n z"]) -> Float[np.ndarray, " z"]:
    """Mean index of what is set, per slice."""
    return (np.arange(len(line)) @ line) / np.maximum(line.sum(0), 1)
