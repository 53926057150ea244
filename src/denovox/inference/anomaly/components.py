"""The connected pieces of a map of z-scores, and the score of a scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from ...core.labels import NAMES
from ...core.morphology import components_at
from ...core.volume import Volume
from ...scan.body_regions import RegionSpan
from ..memory import slabs

TOP_ML = 0.3  # the scan's score is the mean of |z| over its highest 0.3 mL
THRESHOLD, MIN_ML = 4.0, 0.05  # of a component: |z| and volume

Labels = UInt8[np.ndarray, "x y z"]
Voxels = tuple[np.ndarray, np.ndarray, np.ndarray]  # their indices along x, y, z


@dataclass(frozen=True)
class Component:
    """A connected piece of the map. centre_mm: RAS+. peak_z and mean_z are signed: below 0 is
    darker than the surroundings. mean_hu: of the scan; contrast_hu: against its surroundings,
    smoothed.
    region: of the slice at its centre. tissue: of most of its voxels in the coarse label map."""

    volume_ml: float
    centre_mm: tuple[float, float, float]
    peak_z: float
    mean_hu: float
    contrast_hu: float
    region: str
    tissue: str
    mean_z: float


def scan_score(
    z: Float[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float], top_ml: float = TOP_ML
) -> float:
    """Mean of |z| over the highest `top_ml`, wherever it is: more robust than the maximum."""
    count = min(z.size, max(1, round(top_ml * 1000 / float(np.prod(spacing_mm)))))
    top = np.zeros(0, np.float32)
    for some in slabs(z.shape[2]):
        top = np.concatenate([top, np.abs(z[..., some]).ravel()])
        top = np.partition(top, max(0, top.size - count))[-count:]
    return float(top.mean())


def components(
    z: Volume,
    contrast_hu: Float[np.ndarray, "x y z"],
    threshold: float,
    hu: Float[np.ndarray, "x y z"],
    coarse: Labels,
    spans: Sequence[RegionSpan],
) -> tuple[Component, ...]:
    """Connected pieces of |z| above the threshold, dark and bright separately, highest |z| first.

    Those under `MIN_ML` are dropped. hu, coarse: the scan, its label map. spans: its regions.
    """
    found = []
    for inside, peak_z in _pieces(z, threshold):
        index = np.mean(inside, 1)
        right, front, up = (z.affine[:3, :3] @ index + z.affine[:3, 3]).tolist()
        found.append(
            Component(
                len(inside[0]) * _voxel_ml(z),
                (right, front, up),
                peak_z,
                float(hu[inside].mean()),
                float(contrast_hu[inside].mean()),
                next(s.region for s in spans if index[2] < s.stop - 0.5 or s is spans[-1]),
                NAMES[int(np.bincount(coarse[inside]).argmax())],
                float(z.hu[inside].mean()),
            )
        )
    return tuple(found)


def numbered(z: Volume, threshold: float) -> UInt16[np.ndarray, "x y z"]:
    """Voxels of the components of a map, numbered from 1 in the order of `components`; 0: none."""
    out = np.zeros(z.shape, np.uint16)
    for number, (inside, _) in enumerate(_pieces(z, threshold), 1):
        out[inside] = number
    return out


def _pieces(z: Volume, threshold: float) -> list[tuple[Voxels, float]]:
    """Voxels and peak z of each component, highest |z| first."""
    found = []
    for sign in (1, -1):
        # Slice by slice, in which the array may be on disk.
        numbers, places = components_at(z.hu.T, above=threshold, sign=sign, corners=True)
        order = np.argsort(numbers, kind="stable")
        ends = np.flatnonzero(np.diff(numbers[order], append=-1)) + 1
        for voxels in np.split(places[order], ends[:-1]) if len(order) else ():
            if len(voxels) * _voxel_ml(z) >= MIN_ML:
                up, front, right = (
                    axis.astype(np.uint16) for axis in np.unravel_index(voxels, z.shape[::-1])
                )
                inside = right, front, up
                found.append((inside, sign * float(np.abs(z.hu[inside]).max())))
    return sorted(found, key=lambda each: -abs(each[1]))


def _voxel_ml(z: Volume) -> float:
    return float(np.prod(z.spacing_mm)) / 1000
