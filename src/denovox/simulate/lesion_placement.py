"""Lesions placed inside organs: number masks for the lesion tasks (METHOD 2 and 4).

A lesion lies in its organ with all its voxels, away from the organ's border and from vessels where
there is room, and apart from other lesions. All distances are between centres of voxels, and what
lies past the end of the scan belongs to no organ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import Field
from scipy import ndimage, signal

from ..core.box import bounding_box
from ..core.config import Settings
from ..core.errors import InputError, did_you_mean, ensure
from ..core.labels import ID, NAMES, path
from ..core.volume import Volume
from ..scan.tissue import CLOSING_MM, Tissue, closed, healthy, under
from .lesion_shapes import Spacing, grow, rough, size_of

MARGINS_MM = 2.0, 1.0, 0.0  # from border and vessels, the first that leaves a place
GAP_MM = 5.0  # between two lesions, and to `taken`
SMOOTHER = 1.0, 0.5, 0.0  # a shape that fits nowhere is made this much rougher, at last a ball
TRIES = 100  # places drawn before all of them are looked at
VESSEL_MM = 2.0  # SD of the smoothing that small vessels do not survive
BRIGHT_HU, BRIGHT_SD = 40.0, 4.0  # vessels with contrast lie so far above their organ
DENSE_HU = -400.0  # vessels and all else that is no lung

Box = tuple[slice, slice, slice]
Lesion = Bool[np.ndarray, "a b c"]
Organ = Bool[np.ndarray, "u v w"]
Depth = Float[np.ndarray, "u v w"]  # mm from what may not be touched; not above 0 there


class Wanted(Settings):
    """Lesions to place: organ is a class of core/labels, or a coarse one above several.

    diameter_mm: of the ball of each lesion's volume; None draws each as
    simulate/lesion_shapes.SIZES has it.
    """

    organ: str
    diameter_mm: float | None = None
    count: int = Field(default=1, ge=1, le=255)


@dataclass(frozen=True)
class Placed:
    """One lesion. number: its value in the mask; diameter_mm: what was asked or drawn.

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
    wanted: Wanted,
    seed: int,
    taken: Bool[np.ndarray, "x y z"] | None = None,
) -> tuple[UInt8[np.ndarray, "x y z"], tuple[Placed, ...]]:
    """(numbers of the lesions, 1 to count, 0 where there is none; what they are).

    labels: ids of core/labels on the scan's grid; in coarse ones liver and muscle are found by HU.
    taken: voxels to keep away from. Lesion k is drawn from (seed, k) and what lies there already,
    so that a larger count only adds lesions. `InputError` on an organ that is no class or that the
    scan does not show, on a diameter that is not positive or has no room, and where no room is
    left.
    """
    check(wanted)
    spacing = volume.spacing_mm
    box, organ = _organ(volume, labels, wanted.organ)
    allowed = organ & ~_vessels(volume.hu[box], labels[box], organ, wanted.organ, spacing)
    depth = ndimage.distance_transform_edt(np.pad(allowed, 1), spacing)[1:-1, 1:-1, 1:-1]
    if taken is not None:
        _keep_off(depth, _box(np.zeros(3, int), taken[box]), taken[box], spacing)
    numbers = np.zeros(volume.shape, np.uint8)
    mine = numbers[box]
    placed = []
    for number in range(1, wanted.count + 1):
        rng = np.random.default_rng([seed, 0x91ACE, number])
        room_mm = 2 * max(float(depth.max()), 0.0)
        diameter_mm = _diameter(wanted, room_mm, rng)
        found = _find(depth, diameter_mm, spacing, rng) if diameter_mm <= room_mm else None
        if found is None:
            raise _no_room(wanted, number, diameter_mm, room_mm)
        at, lesion = found
        mine[at][lesion] = number
        _keep_off(depth, at, lesion, spacing)
        corner = [part.start + own.start for part, own in zip(box, at, strict=True)]
        x, y, z = volume.affine[:3] @ [*(np.argwhere(lesion).mean(0) + corner), 1]
        volume_ml = float(lesion.sum() * np.prod(spacing) / 1000)
        centre_mm = float(x), float(y), float(z)
        placed.append(Placed(number, wanted.organ, centre_mm, diameter_mm, volume_ml, seed))
    return numbers, tuple(placed)


def check(wanted: Wanted) -> None:
    """`InputError` where the organ is no class, or the diameter no length."""
    name, mm = wanted.organ, wanted.diameter_mm
    if name not in ID:
        near = did_you_mean(name, NAMES)
        raise InputError(f"'{name}' is not a class{near}; see docs/reference/labels.md")
    ensure(name not in ("unknown", "outside"), f"'{name}' is no organ; name one, e.g. 'liver'")
    ensure(
        mm is None or (math.isfinite(mm) and mm > 0),
        f"a lesion's diameter must be above 0 mm, not {mm}",
    )


def _organ(volume: Volume, labels: UInt8[np.ndarray, "x y z"], name: str) -> tuple[Box, Organ]:
    """The box about an organ, and the organ in it: everything else is worked out in there."""
    found = under(labels, name)
    if not found.any() and name in get_args(Tissue):
        found = healthy(volume, labels, name)  # type: ignore[arg-type]  # it is one of them
    if not found.any():
        raise InputError(
            f"the scan shows no {name}; name an organ that it shows, or give labels that have it"
        )
    reach_mm = max(2 * CLOSING_MM, GAP_MM)
    margin = [math.ceil(reach_mm / mm) + 1 for mm in volume.spacing_mm]
    box = bounding_box(found, margin).slices
    inside = found[box]
    # Lung by its label has holes where vessels are; small ones are lung, larger ones come off.
    return box, closed(inside, CLOSING_MM, volume.spacing_mm) if name == "lung" else inside


def _vessels(
    hu: Float[np.ndarray, "u v w"],
    labels: UInt8[np.ndarray, "u v w"],
    organ: Organ,
    name: str,
    spacing: Spacing,
) -> Organ:
    """Voxels of vessels and airways: by their labels, and larger vessels by HU.

    Smoothing fades a tube of radius r and contrast C to C (1 - exp(-r^2 / 2 sd^2)) in its middle,
    so that what is thinner than about 5 mm falls below half its contrast. What is left stands out:
    in lung above a fixed HU, elsewhere above the organ's own median, by more than its own texture.
    An organ that is a vessel itself has none.
    """
    if "vessel" in path(name):
        return np.zeros_like(organ)
    found = under(labels, "vessel") | (under(labels, "airway") & ("airway" not in path(name)))
    steps = [VESSEL_MM / mm for mm in spacing]
    smooth = ndimage.gaussian_filter(hu.astype(np.float32), steps, mode="nearest")
    if "lung" in path(name):
        return found | (smooth > DENSE_HU)
    middle = np.median(smooth[organ])
    texture = 1.4826 * np.median(np.abs(smooth[organ] - middle))  # an SD that tails do not move
    return found | (smooth > middle + max(BRIGHT_HU, BRIGHT_SD * texture))


def _diameter(wanted: Wanted, room_mm: float, rng: np.random.Generator) -> float:
    """What is asked, or drawn from what fits; the smallest there is where even that does not."""
    size = size_of(wanted.organ)
    if wanted.diameter_mm is not None:
        return wanted.diameter_mm
    return size.draw(rng, room_mm) if size.smallest_mm <= room_mm else size.smallest_mm


def _find(
    depth: Depth, diameter_mm: float, spacing: Spacing, rng: np.random.Generator
) -> tuple[Box, Lesion] | None:
    """A lesion of that size, and where it fits; None where none does.

    The roughest shape that fits comes before the widest margin.
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
    """Where all of a lesion is deep enough: any such place alike."""
    bad = (depth < margin_mm) | (depth <= 0)
    own = ndimage.distance_transform_edt(np.pad(lesion, 1), spacing)[1:-1, 1:-1, 1:-1]
    core = np.unravel_index(own.argmax(), own.shape)  # the middle of the largest ball in it
    enough_mm = own.max() - math.hypot(*spacing)  # a voxel less: near `taken` depth is rounded
    cores = np.argwhere((depth >= enough_mm) & ~bad) - core
    last = np.array(depth.shape) - lesion.shape
    corners = cores[((cores >= 0) & (cores <= last)).all(1)]
    if not len(corners):
        return None
    for corner in corners[rng.integers(len(corners), size=TRIES)]:
        at = _box(corner, lesion)
        if not bad[at][lesion].any():
            return at
    touched = signal.fftconvolve(bad.astype(np.float64), lesion[::-1, ::-1, ::-1], "valid")
    corners = np.argwhere(touched < 0.5)
    return _box(corners[rng.integers(len(corners))], lesion) if len(corners) else None


def _box(corner: Int[np.ndarray, " 3"], lesion: Lesion) -> Box:
    x, y, z = (slice(int(a), int(a) + n) for a, n in zip(corner, lesion.shape, strict=True))
    return x, y, z


def _keep_off(depth: Depth, at: Box, taken: Lesion, spacing: Spacing) -> None:
    """Depth, in place, now that these voxels of a box are taken: GAP_MM from them is no room."""
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


def _no_room(wanted: Wanted, number: int, diameter_mm: float, room_mm: float) -> InputError:
    most_mm = math.floor(2 * room_mm) / 2
    fits = f"the largest that fits is about {most_mm:g} mm" if most_mm else "nothing fits"
    if number == 1:
        advice = "ask for a smaller one" if most_mm else "name another organ"
        return InputError(
            f"a lesion of {diameter_mm:g} mm has no room in {wanted.organ}, clear of vessels and"
            f" other lesions: {fits}; {advice}"
        )
    return InputError(
        f"no room left in {wanted.organ} for lesion {number} of {wanted.count}, of"
        f" {diameter_mm:.3g} mm: {fits}; ask for fewer or smaller ones"
    )
