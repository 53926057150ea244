"""The connected pieces of a map of z-scores, and the score of a scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer, UInt8, UInt16

from ...core.labels import AIRWAY, BODY, BONE, LUNG, NAMES, OUTSIDE
from ...core.morphology import Links, joined, labelled
from ...core.on_disk import release
from ...core.volume import Volume
from ...scan.body_regions import RegionSpan

THRESHOLD, MIN_ML = 3.0, 0.05  # of a component: |z| and volume
COMPACTNESS = 0.85  # of a component, at least: the ends of vessels and the edges of organs are not
COARSE = sorted((BODY, OUTSIDE, LUNG, AIRWAY, BONE))  # ids of a coarse label map
SIGNS = 1, -1  # bright and dark components
SLICES = 8  # that are labelled at a time

Labels = UInt8[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Component:
    """A connected piece of the map. centre_mm: RAS+. peak_z and mean_z are signed: below 0 is
    darker than the surroundings. mean_hu: of the scan; contrast_hu: against its surroundings,
    smoothed.
    region: of the slice at its centre. tissue: of most of its voxels in the coarse label map.
    compactness: radius of the ball of its volume over that of the ball of its second moments: 1 of
    a ball, .89 of an ellipsoid twice as long as wide, lower the more it is a tube or a sheet."""

    volume_ml: float
    centre_mm: tuple[float, float, float]
    peak_z: float
    mean_hu: float
    contrast_hu: float
    region: str
    tissue: str
    mean_z: float
    compactness: float


@dataclass(frozen=True)
class ComponentLimits:
    """What a component must have at least: |z| of every voxel, and compactness; 0: any shape."""

    z: float = THRESHOLD
    compactness: float = COMPACTNESS


LIMITS = ComponentLimits()


def scan_score(found: Sequence[Component]) -> float:
    """The highest mean |z| of a component; 0 where there is none."""
    return max((abs(each.mean_z) for each in found), default=0.0)


def components(
    z: Volume,
    contrast_hu: Float[np.ndarray, "x y z"],
    limits: ComponentLimits,
    hu: Float[np.ndarray, "x y z"],
    coarse: Labels,
    spans: Sequence[RegionSpan],
) -> tuple[Component, ...]:
    """Connected pieces of |z| above the threshold, dark and bright separately, highest |z| first.

    Those under `MIN_ML`, or less compact than asked for, are dropped. hu, coarse: the scan, its
    label map. spans: its regions.
    """
    peaks, compactness, numbers = _pieces(z, limits)
    totals = np.zeros((7 + len(COARSE), len(peaks)))
    for slab, piece in _numbered(z, limits.z, numbers):
        at = np.nonzero(piece)
        number, ids = piece[at] - 1, coarse.T[slab][at]
        values = (each.T[slab][at] for each in (z.hu, hu, contrast_hu))
        weights = [None, at[2], at[1], at[0] + slab.start, *values, *(ids == one for one in COARSE)]
        for total, weight in zip(totals, weights, strict=True):
            total += np.bincount(number, weight, len(peaks))
        release(contrast_hu)
    found = []
    every = zip(totals[:7].T, totals[7:].T, peaks, compactness, strict=True)
    for (count, *sums), tissues, peak_z, compact in every:
        i, j, k, mean_z, mean_hu, mean_contrast = np.divide(sums, count).tolist()
        right, front, up = (z.affine[:3, :3] @ (i, j, k) + z.affine[:3, 3]).tolist()
        found.append(
            Component(
                float(count) * _voxel_ml(z),
                (right, front, up),
                float(peak_z),
                mean_hu,
                mean_contrast,
                next(s.region for s in spans if k < s.stop - 0.5 or s is spans[-1]),
                NAMES[COARSE[int(tissues.argmax())]],
                mean_z,
                float(compact),
            )
        )
    return tuple(found)


def numbered(z: Volume, limits: ComponentLimits) -> UInt16[np.ndarray, "x y z"]:
    """Voxels of the components of a map, numbered from 1 in the order of `components`; 0: none."""
    out = np.zeros(z.shape, np.uint16)
    for slab, piece in _numbered(z, limits.z, _pieces(z, limits)[2]):
        out.T[slab] += piece
    return out


def _pieces(
    z: Volume, limits: ComponentLimits
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], tuple[UInt16[np.ndarray, " _"], ...]]:
    """Signed peak and compactness of each component, highest |z| first; of each sign, the component
    of each label.

    They are numbered from 1; 0: too small, not compact, or no label.
    """
    moments, peaks, pieces, count = [], [], [], 0
    for sign in SIGNS:
        links: list[Links] = []
        sums, highest = [np.zeros((5, 0))], [np.zeros(0, np.float32)]
        for slab, parts in _labelled(z, limits.z, sign, links):
            at = np.nonzero(parts)
            label = parts[at] - 1
            mm = [each * by for each, by in zip(at[::-1], z.spacing_mm, strict=True)]
            mm[2] += slab.start * z.spacing_mm[2]
            weights = (None, *mm, np.square(mm).sum(0))
            sums.append(np.stack([np.bincount(label, weight) for weight in weights]))
            highest.append(np.zeros(sums[-1].shape[1], np.float32))
            np.maximum.at(highest[-1], label, np.abs(z.hu.T[slab][at]))
        total, high = np.concatenate(sums, 1), np.concatenate(highest)
        piece = joined(links, len(high))
        moment, peak = np.zeros((5, piece.max(initial=-1) + 1)), np.zeros(piece.max(initial=-1) + 1)
        np.add.at(moment.T, piece, total.T)
        np.maximum.at(peak, piece, high)
        moments.append(moment)
        peaks.append(sign * peak)
        pieces.append(piece + count)
        count += len(peak)
    peak, moment = np.concatenate(peaks), np.concatenate(moments, 1)
    compact = _compactness(moment, z.spacing_mm)
    large = (moment[0] * _voxel_ml(z) >= MIN_ML) & (compact >= limits.compactness)
    kept = np.flatnonzero(large)
    order = kept[np.argsort(-np.abs(peak[kept]), kind="stable")]
    number = np.zeros(count, np.uint16)
    number[order] = np.arange(1, len(order) + 1)
    return peak[order], compact[order], tuple(number[piece] for piece in pieces)


def _compactness(
    moments: Float[np.ndarray, "5 n"], spacing_mm: tuple[float, float, float]
) -> Float[np.ndarray, " n"]:
    """From each one's voxels, and its sums of x, y, z (mm) and of their squares together.

    A ball of radius r has a variance of r^2 / 5 along each axis, and no body of its volume has
    less; that within voxels counts.
    """
    count, *first, second = moments
    mm2 = np.square(spacing_mm).sum() / 12
    variance = second / count - np.square(np.divide(first, count)).sum(0) + mm2
    volume = count * np.prod(spacing_mm)
    radius: Float[np.ndarray, " n"] = np.cbrt(3 * volume / (4 * np.pi))
    return radius / np.sqrt(5 / 3 * variance)


def _numbered(
    z: Volume, threshold: float, numbers: Sequence[UInt16[np.ndarray, " _"]]
) -> Iterator[tuple[slice, UInt16[np.ndarray, "z y x"]]]:
    """A few slices at a time, of one sign: the component of each voxel, from 1; 0: none."""
    for sign, number in zip(SIGNS, numbers, strict=True):
        before = 0
        for slab, parts in _labelled(z, threshold, sign, []):
            own = number[before : before + parts.max()]
            before += len(own)
            yield slab, np.concatenate([np.zeros(1, np.uint16), own])[parts]


def _labelled(
    z: Volume, threshold: float, sign: int, links: list[Links]
) -> Iterator[tuple[slice, Integer[np.ndarray, "z y x"]]]:
    """`labelled`, slice by slice, since the array may be on disk."""
    for first, _, parts in labelled(z.hu.T, links, SLICES, threshold, sign, corners=True):
        yield slice(first, first + len(parts)), parts
        release(z.hu)


def _voxel_ml(z: Volume) -> float:
    return float(np.prod(z.spacing_mm)) / 1000
