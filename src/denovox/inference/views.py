"""What the page of a result shows: images, overlays and places to go to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from ..core.volume import Volume
from ..reports.viewer.page import Overlay, Place, View
from ..simulate.lesion_placement import PlacedLesion
from .anomaly.detection import Detection
from .anomaly.findings import describe as component
from .lesions import describe


def of_detection(volume: Volume, found: Detection) -> View:
    """A scan under its z-scores; a place for each component."""
    low, high = found.limits.z, 2 * found.limits.z
    scores = Overlay("z-score", found.z.hu, "warm", low, high, negative="winter")
    places = (Place(component(one), one.centre_mm) for one in found.components)
    return View(volume, overlays=(scores,), places=tuple(places))


def of_edit(
    before: Volume,
    after: Volume,
    mask: Shaped[np.ndarray, "x y z"],
    placed: Sequence[PlacedLesion] = (),
) -> View:
    """A scan before and after part of it was generated; a place for each lesion, or the mask."""
    if placed:
        places = tuple(Place(describe(one), one.centre_mm) for one in placed)
    else:
        voxel = np.mean(np.nonzero(mask), axis=1)
        x, y, z = before.affine[:3, :3] @ voxel + before.affine[:3, 3]
        places = (Place("the mask", (float(x), float(y), float(z))),)
    overlay = Overlay("mask", (mask != 0).astype(np.uint8), opacity=0.3)
    return View(before, after, (overlay,), places)


def of_synthesis(volume: Volume, lesions: Shaped[np.ndarray, "x y z"] | None = None) -> View:
    """A generated scan, with the lesions that were asked for."""
    if lesions is None or not np.any(lesions):
        return View(volume)
    overlay = Overlay("lesions", (np.asarray(lesions) != 0).astype(np.uint8), opacity=0.3)
    return View(volume, overlays=(overlay,))
