"""A scan compared with its surroundings, and with a healthy estimate of it.

Noise of sigma* hides what the model has no reason to expect; from there, the model returns to what
it considers healthy (Method 2), and the rest of the scan is its residual. The estimate keeps 93 to
100 % of the contrast of planted lesions, though, and may be off over a whole organ. So there is a
second map, without a model: the scan minus its local mean in the same organ. A calibration weights
the two by tissue and place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from ...core.box import Box
from ...core.labels import OUTSIDE
from ...core.regions import region as region_named
from ...core.volume import Volume
from ..engine import Engine
from ..memory import Room
from ..options import RunOptions
from .calibration import (
    RIM_MM,
    SMOOTH_MM,
    AnomalyMethod,
    Calibration,
    body_box,
    classes_of,
    measured,
    places_of,
)
from .contrast import AIRY, LocalMeans, Surroundings
from .estimate import Few, Wanted, residual_of

Mask = Bool[np.ndarray, "x y z"]
Labels = UInt8[np.ndarray, "x y z"]


@dataclass(frozen=True)
class AnomalyMaps:
    """The maps of a box, HU: its contrast and its residual, both smoothed.

    estimate: if healthy. classes, body: tissue classes in the box, and the box of the body.
    """

    maps_hu: Float[np.ndarray, "x y z k"]
    estimate: Volume
    classes: UInt8[np.ndarray, "x y z"]
    box: Box
    body: Box


def anomaly_maps(
    engine: Engine,
    volume: Volume,
    coarse: Labels,
    region: str,
    roi: Mask,
    method: AnomalyMethod,
    options: RunOptions,
    z: slice | None = None,
) -> AnomalyMaps:
    """The maps of a region of interest, clipped to the window of its region.

    z: the slices that form the region, all if None; the result's box is relative to them. The
    network processes the ROI's bounding box and `CONTEXT_MM` around it, at its position in the
    region; outside the ROI it sees the scan.
    """
    z = slice(0, volume.shape[2]) if z is None else z
    wanted = Wanted(volume, coarse, region, roi, z, method)
    maps = PartMaps.of(engine, wanted, options, Room(math.inf, options.say))
    return maps.at(slice(0, maps.box.size[2]))


@dataclass(frozen=True, eq=False)
class PartMaps:
    """The maps of a part of a scan, ready to be computed a few slices at a time.

    box: in slices `wanted.z`. residual: model units. scan: in a few slices of the box, model units.
    """

    wanted: Wanted
    box: Box
    body: Box
    scan: Few
    residual: Few
    groups: Callable[[slice], Labels]
    means: LocalMeans

    @classmethod
    def of(cls, engine: Engine, wanted: Wanted, options: RunOptions, room: Room) -> PartMaps:
        """Run the network. room: for what it computes."""
        volume, z, method = wanted.volume, wanted.z, wanted.method
        window, spacing_mm = region_named(wanted.region).window, volume.spacing_mm
        x, y, k = wanted.box.slices
        first = k.start
        box = Box((x.start, y.start, first - z.start), wanted.box.size)

        def scan(at: slice) -> Float[np.ndarray, "x y n"]:
            hu = volume.hu[x, y, first + at.start : first + at.stop]
            return np.clip(window.unit(hu.astype(np.float32)), -1, 1)

        labels = wanted.coarse[..., z]
        surroundings = Surroundings.of(labels, spacing_mm)

        def groups(at: slice) -> Labels:
            start = box.start[2]
            return surroundings.at((x, y, slice(start + at.start, start + at.stop)))

        def within(at: slice) -> Labels:
            return groups(at) * wanted.roi[x, y, first + at.start : first + at.stop]

        residual = residual_of(engine, wanted, scan, options, room)
        half = np.float32(window.width_hu / 2)
        means = LocalMeans.of(
            lambda at: scan(at) * half, within, box.size, spacing_mm, method.reach_mm
        )
        return cls(wanted, box, body_box(labels), scan, residual, groups, means)

    def at(self, z: slice) -> AnomalyMaps:
        """The maps in slices z of the box."""
        method, spacing_mm = self.wanted.method, self.wanted.volume.spacing_mm
        window = region_named(self.wanted.region).window
        half, count = np.float32(window.width_hu / 2), self.box.size[2]
        reach = reach_of(method, spacing_mm[2])
        near = slice(max(0, z.start - reach), min(count, z.stop + reach))
        inner = (slice(None), slice(None), slice(z.start - near.start, z.stop - near.start))
        scan, residual, groups = self.scan(near), self.residual(near), self.groups(near)
        x, y, k = self.box.slices
        along = slice(*(self.wanted.z.start + k.start + end for end in (near.start, near.stop)))
        asked = groups * self.wanted.roi[x, y, along]
        # Smoothed before taking magnitudes: noise averages out, lesions do not.
        steps = [method.smooth_mm / mm for mm in spacing_mm]
        maps_hu = np.empty((*scan.shape[:2], z.stop - z.start, 2), np.float32)
        difference = self.means.contrast(scan * half, asked, near, method.clip_hu)
        maps_hu[..., 0] = ndimage.gaussian_filter(difference, steps, mode="nearest")[inner]
        del difference
        difference = np.where(asked > 0, residual * half, np.float32(0))
        maps_hu[..., 1] = ndimage.gaussian_filter(difference, steps, mode="nearest")[inner]
        del difference, asked
        estimate = Volume(window.hu(scan - residual).astype(np.float32), self.wanted.volume.affine)
        labels = np.ascontiguousarray(self.wanted.coarse[x, y, along])
        classes = classes_of(estimate, labels, groups == AIRY)[inner]
        box = Box((*self.box.start[:2], k.start + z.start), (*self.box.size[:2], z.stop - z.start))
        return AnomalyMaps(
            maps_hu, Volume(estimate.hu[inner], estimate.affine), classes, box, self.body
        )


def reach_of(method: AnomalyMethod, z_mm: float) -> int:
    """How many slices away a map, or the class of a voxel, still depends on."""
    smoothed = (method.smooth_mm, 0.0), (SMOOTH_MM, RIM_MM)
    return max(int(4 * sd / z_mm + 0.5) + max(1, round(rim / z_mm)) for sd, rim in smoothed)


# -- compared with healthy scans


def z_scores(maps: AnomalyMaps, calibration: Calibration) -> Float[np.ndarray, "u v w"]:
    """The z-scores of the maps, in their box."""
    places = places_of(maps.body, maps.box, calibration.bins)
    return calibration.z(maps.maps_hu, maps.classes, places)


def calibration_of(maps: AnomalyMaps, coarse: Labels, keep: Mask, like: Calibration) -> Calibration:
    """The calibration from one scan's maps, over the body voxels in `keep`."""
    places = places_of(maps.body, maps.box, like.bins)
    voxel_ml = float(np.prod(maps.estimate.spacing_mm)) / 1000
    counts = keep[maps.box.slices] & (coarse[maps.box.slices] != OUTSIDE)
    return measured(maps.maps_hu, maps.classes, places, counts, voxel_ml, like)
