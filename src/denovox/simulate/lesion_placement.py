"""Placement of lesions inside organs: numbered masks for the lesion tasks (Method 2 and 4).

All voxels of a lesion lie in its organ, away from the organ's border and from vessels where space
permits, and apart from other lesions. All distances are between voxel centres, and nothing beyond
the end of the scan belongs to an organ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import Field
from scipy import ndimage

from ..core.box import bounding_box
from ..core.config import Settings
from ..core.errors import InputError, did_you_mean, ensure
from ..core.labels import ID, NAMES, path
from ..core.morphology import close_mm, depth_mm
from ..core.volume import Volume
from ..scan.tissue import CLOSING_MM, Tissue, healthy, under
from .lesion_shapes import Spacing, grow, rough, size_of

MARGINS_MM = 2.0, 1.0, 0.0  # from border and vessels; the first that leaves a place is used
GAP_MM = 5.0  # between two lesions, and to `taken`
SMOOTHER = 1.0, 0.5, 0.0  # factors on the roughness while a shape fits nowhere; 0 is a ball
TRIES = 100  # random places that are tried before all of them are searched
VESSEL_MM = 2.0  # SD of the smoothing that removes small vessels
BRIGHT_HU, BRIGHT_SD = 40.0, 4.0  # how far enhanced vessels lie above their organ
DENSE_HU = -400.0  # vessels and everything else that is not lung

Box = tuple[slice, slice, slice]
Lesion = Bool[np.ndarray, "a b c"]
Organ = Bool[np.ndarray, "u v w"]
Depth = Float[np.ndarray, "u v w"]  # mm from voxels that must not be touched; at most 0 in them


class LesionRequest(Settings):
    """Lesions to place: organ is a class of core/labels, or a coarse one above several.

    diameter_mm: of the ball with each lesion's volume; None draws each from
    simulate/lesion_shapes.SIZES.
    """

    organ: str
    diameter_mm: float | None = None
    count: int = Field(default=1, ge=1, le=255)


@dataclass(frozen=True)
class PlacedLesion:
    """One lesion. number: its value in the mask; diameter_mm: as requested or drawn.

    centre_mm: mean of its voxels, x y z in RAS+. volume_ml: of its voxels. seed: of the call.
    """

    number: int
    organ: str
    centre_mm: tuple[float, float, float]
    diameter_mm: float
    volume_ml: float
    seed: int


def place(
    volume: Volume,
    labels: UInt8[np.ndarray, "x y z"],
    request: LesionRequest,
    seed: int,
    taken: Bool[np.ndarray, "x y z"] | None = None,
) -> tuple[UInt8[np.ndarray, "x y z"], tuple[PlacedLesion, ...]]:
    """(lesion numbers, 1 to count, 0 elsewhere; the placed lesions).

    labels: ids of core/labels on the scan's grid; with coarse ones, liver and muscle are found by
    HU. taken: voxels to stay away from. Lesion k depends on (seed, k) and the lesions before it, so
    that a larger count only adds lesions. `InputError` if the organ is not a class or not in the
    scan, if the diameter is not positive or too large, or if no space is left.
    """
    check(request)
    spacing = volume.spacing_mm
    box, organ = _organ(volume, labels, request.organ)
    allowed = organ & ~_vessels(volume.hu[box], labels[box], organ, request.organ, spacing)
    depth = depth_mm(allowed, spacing, ends=True)
    if taken is not None:
        _keep_off(depth, _box(np.zeros(3, int), taken[box]), taken[box], spacing)
    numbers = np.zeros(volume.shape, np.uint8)
    in_box = numbers[box]
    placed = []
    for number in range(1, request.count + 1):
        rng = np.random.default_rng([seed, 0x91ACE, number])
        most_mm = 2 * max(float(depth.max()), 0.0)
        diameter_mm = _diameter(request, most_mm, rng)
        found = _find(depth, diameter_mm, spacing, rng) if diameter_mm <= most_mm else None
        if found is None:
            raise _does_not_fit(request, number, diameter_mm, most_mm)
        at, lesion = found
        in_box[at][lesion] = number
        _keep_off(depth, at, lesion, spacing)
        corner = [outer.start + inner.start for outer, inner in zip(box, at, strict=True)]
        x, y, z = volume.affine[:3] @ [*(np.argwhere(lesion).mean(0) + corner), 1]
        volume_ml = float(lesion.sum() * np.prod(spacing) / 1000)
        centre_mm = float(x), float(y), float(z)
        placed.append(PlacedLesion(number, request.organ, centre_mm, diameter_mm, volume_ml, seed))
    return numbers, tuple(placed)


def check(request: LesionRequest) -> None:
    """`InputError` if the organ is not a class or the diameter is not a length."""
    name, mm = request.organ, request.diameter_mm
    if name not in ID:
        near = did_you_mean(name, NAMES)
        raise InputError(f"'{name}' is not a class{near}; see docs/reference/labels.md")
    ensure(name not in ("unknown", "outside"), f"'{name}' is not an organ; name one, e.g. 'liver'")
    ensure(
        mm is None or (math.isfinite(mm) and mm > 0),
        f"a lesion's diameter must be above 0 mm, not {mm}",
    )


def _organ(volume: Volume, labels: UInt8[np.ndarray, "x y z"], name: str) -> tuple[Box, Organ]:
    """The box around an organ, and the organ in it: everything else is computed inside it."""
    found = under(labels, name)
    if not found.any() and name in get_args(Tissue):
        found = healthy(volume, labels, name)  # type: ignore[arg-type]  # it is one of them
    if not found.any():
        raise InputError(
            f"no {name} was found in the scan; name an organ in it, or give labels that include it"
        )
    reach_mm = max(2 * CLOSING_MM, GAP_MM)
    margin = [math.ceil(reach_mm / mm) + 1 for mm in volume.spacing_mm]
    box = bounding_box(found, margin).slices
    inside = found[box]
    # A lung label has holes at vessels: small ones are filled, larger vessels are excluded later.
    return box, close_mm(inside, CLOSING_MM, volume.spacing_mm) if name == "lung" else inside


def _vessels(
    hu: Float[np.ndarray, "u v w"],
    labels: UInt8[np.ndarray, "u v w"],
    organ: Organ,
    name: str,
    spacing: Spacing,
) -> Organ:
    """Voxels of vessels and airways: from their labels, and larger vessels also by HU.

    Smoothing reduces a tube of radius r and contrast C to C (1 - exp(-r^2 / 2 sd^2)) at its centre,
    so that tubes thinner than about 5 mm fall below half their contrast. The rest stands out: in
    lung above a fixed HU, elsewhere above the organ's median by more than its texture. An organ
    that is a vessel itself has none.
    """
    if "vessel" in path(name):
        return np.zeros_like(organ)
    found = under(labels, "vessel") | (under(labels, "airway") & ("airway" not in path(name)))
    steps = [VESSEL_MM / mm for mm in spacing]
    smooth = ndimage.gaussian_filter(hu.astype(np.float32), steps, mode="nearest")
    if "lung" in path(name):
        return found | (smooth > DENSE_HU)
    middle = np.median(smooth[organ])
    texture = 1.4826 * np.median(np.abs(smooth[organ] - middle))  # an SD robust to tails
    return found | (smooth > middle + max(BRIGHT_HU, BRIGHT_SD * texture))


def _diameter(request: LesionRequest, most_mm: float, rng: np.random.Generator) -> float:
    """As requested, or drawn from those that fit; the organ's smallest if even that does not."""
    size = size_of(request.organ)
    if request.diameter_mm is not None:
        return request.diameter_mm
    return size.draw(rng, most_mm) if size.smallest_mm <= most_mm else size.smallest_mm


def _find(
    depth: Depth, diameter_mm: float, spacing: Spacing, rng: np.random.Generator
) -> tuple[Box, Lesion] | None:
    """A lesion of that size and a place where it fits; None if there is none.

    The roughest shape that fits takes precedence over the widest margin.
    """
    roughness = rough(rng)
    for smoother in SMOOTHER:
        shape = grow(diameter_mm, roughness * smoother, spacing, rng)
        lesion = shape[bounding_box(shape).slices]
        for margin_mm in MARGINS_MM:
            at = _site(depth, margin_mm, lesion, spacing, rng)
            if at is not None:
                return at, lesion
    return None


def _site(
    depth: Depth, margin_mm: float, lesion: Lesion, spacing: Spacing, rng: np.random.Generator
) -> Box | None:
    """A place where all of a lesion is deep enough; all such places are equally likely."""
    bad = (depth < margin_mm) | (depth <= 0)
    own = depth_mm(lesion, spacing, ends=True)
    core = np.unravel_index(own.argmax(), own.shape)  # the middle of the largest ball in it
    enough_mm = own.max() - math.hypot(*spacing)  # one voxel less: depth near `taken` is rounded
    cores = np.argwhere((depth >= enough_mm) & ~bad) - core
    last = np.array(depth.shape) - lesion.shape
    corners = cores[((cores >= 0) & (cores <= last)).all(1)]
    if not len(corners):
        return None
    for corner in corners[rng.integers(len(corners), size=TRIES)]:
        at = _box(corner, lesion)
        if not bad[at][lesion].any():
            return at
    from scipy.signal import fftconvolve  # imports most of scipy

    touched = fftconvolve(bad.astype(np.float64), lesion[::-1, ::-1, ::-1], "valid")
    corners = np.argwhere(touched < 0.5)
    return _box(corners[rng.integers(len(corners))], lesion) if len(corners) else None


def _box(corner: Int[np.ndarray, " 3"], lesion: Lesion) -> Box:
    x, y, z = (slice(int(a), int(a) + n) for a, n in zip(corner, lesion.shape, strict=True))
    return x, y, z


def _keep_off(depth: Depth, at: Box, taken: Lesion, spacing: Spacing) -> None:
    """Lower depth, in place, around newly taken voxels of a box, to 0 at GAP_MM from them."""
    if not taken.any() or depth.max() <= 0:
        return
    reach_mm = float(depth.max()) + GAP_MM  # farther away nothing changes
    wide, inner = [], []
    for part, mm in zip(at, spacing, strict=True):
        more = math.ceil(reach_mm / mm)
        wide.append(slice(max(0, part.start - more), part.stop + more))
        inner.append(slice(part.start - wide[-1].start, part.stop - wide[-1].start))
    here = depth[tuple(wide)]
    free = np.ones(here.shape, bool)
    free[tuple(inner)] = ~taken
    np.minimum(here, ndimage.distance_transform_edt(free, spacing) - GAP_MM, out=here)


def _does_not_fit(
    request: LesionRequest, number: int, diameter_mm: float, most_mm: float
) -> InputError:
    half_mm = math.floor(2 * most_mm) / 2
    fits = f"the largest that fits is about {half_mm:g} mm" if half_mm else "nothing fits"
    if number == 1:
        advice = "ask for a smaller one" if half_mm else "name another organ"
        return InputError(
            f"a lesion of {diameter_mm:g} mm does not fit in {request.organ}, clear of vessels and"
            f" other lesions: {fits}; {advice}"
        )
    return InputError(
        f"no room left in {request.organ} for lesion {number} of {request.count}, of"
        f" {diameter_mm:.3g} mm: {fits}; ask for fewer or smaller ones"
    )
