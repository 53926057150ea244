"""Procedural bodies: CT and label map of a chest, an abdomen or a head and neck, from a seed.

`draw` varies bodies as people differ, by the table `phantoms/organs.toml`; `chest` is the reference
body of tests and examples, in a body of 310 x 220 mm that each seed stretches a little. The same
seed gives the same body at any spacing. Not a model of dose or disease.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from denovox.core.labels import ID, OUTSIDE
from denovox.core.volume import Volume

from .phantoms.canvas import AIR, Canvas, Size
from .phantoms.organs import build, fill_cavity, organs, paint, tables
from .phantoms.thorax import cage, lungs, mediastinum, spine, wall

Spacing = float | tuple[float, float, float]
PITCH_MM, BEND_MM, POINTS = 90.0, 5.0, 15  # of a smooth deformation: lattice and SD


@dataclass(frozen=True)
class Phantom:
    """ct: HU, float32, noise-free; labels: ids of core/labels, OUTSIDE explicit, no 0."""

    ct: Volume
    labels: UInt8[np.ndarray, "x y z"]


def chest(shape: Size = (112, 96, 80), spacing_mm: Spacing = 3.0, seed: int = 0) -> Phantom:
    """The thorax of reference body number `seed` on a grid of `shape` voxels (x y z) centred on it.

    About every third body has contrast in its blood. `ValueError` for a shape or spacing not > 0.
    """
    step = _step(shape, spacing_mm)
    body = Canvas(shape, step, np.random.default_rng(seed))
    _paint(body, ("upper",))
    return _phantom(body.hu, body.labels, step)


def draw(
    region: str, shape: Size | None = None, spacing_mm: Spacing = 3.0, seed: int = 0
) -> Phantom:
    """A region of person number `seed`: chest, abdomen or headneck, on a grid centred on it.

    shape: voxels (x y z); None: as many as the region takes. Sizes of body and organs, their
    places and HU, and the posture vary from seed to seed. `ValueError` as `chest`, `KeyError` for
    another region.
    """
    row = tables()["region"][region]
    shape = shape or view(region, spacing_mm)
    step = _step(shape, spacing_mm)
    rng = np.random.default_rng([seed, sorted(tables()["region"]).index(region)])
    person = build(region, rng)
    lattice = rng.standard_normal((3, POINTS, POINTS, POINTS))
    rim = np.ceil(3 * BEND_MM / step).astype(int)  # drawn as well, since it may be bent into view
    x, y, z = (int(n + 2 * more) for n, more in zip(shape, rim, strict=True))
    body = Canvas((x, y, z), step, rng, person)
    _paint(body, row["tables"])
    return _phantom(*_bent(body, lattice, shape, step, rim), step)


def view(region: str, spacing_mm: Spacing) -> Size:
    """Voxels (x y z) that a region takes."""
    mm, size = np.broadcast_to(np.asarray(spacing_mm, float), 3), tables()["region"][region]["view"]
    x, y, z = (max(1, round(of / one)) for of, one in zip(size, mm, strict=True))
    return x, y, z


@cache
def classes(region: str) -> frozenset[int]:
    """Ids of what a region may show: all that the mean person has within 40 mm of the view, and
    its organs."""
    row = tables()["region"][region]
    step = np.full(3, 8.0)
    x, y, z = (round(of / 8) for of in (*row["view"][:2], row["view"][2] + 80))
    body = Canvas((x, y, z), step, np.random.default_rng(0), build(region))
    _paint(body, row["tables"])
    named = {
        ID[name] for one in row["tables"] for organ in organs(one) for _, name, _ in organ.sides()
    }
    return frozenset({*np.unique(body.labels).tolist(), *named})


def add_noise(volume: Volume, noise_hu: float, seed: int) -> Volume:
    """White Gaussian noise of that standard deviation in HU, float32: a crude lower dose.

    Voxels are independent, unlike in any real scan; simulation in the projection domain is in
    simulate/dose.py. `ValueError` for a negative standard deviation.
    """
    if noise_hu < 0:
        raise ValueError(f"a standard deviation of {noise_hu} HU is negative")
    noise = np.random.default_rng(seed).standard_normal(volume.shape, dtype=np.float32)
    return volume.with_hu(volume.hu.astype(np.float32) + np.float32(noise_hu) * noise)


def _step(shape: Size, spacing_mm: Spacing) -> Float[np.ndarray, " 3"]:
    step = np.broadcast_to(np.asarray(spacing_mm, float), 3)
    if min(shape) < 1 or min(step) <= 0:
        raise ValueError(f"shape {shape} and spacing {step} mm must be positive")
    return step


def _paint(body: Canvas, lists: tuple[str, ...] | list[str]) -> None:
    """Everything, from the outside to what covers it."""
    wall(body)
    lungs(body)
    fill_cavity(body)
    for organ in (one for name in lists if name in ("upper", "abdomen") for one in organs(name)):
        paint(body, organ)
    for part in (mediastinum, spine, cage):
        part(body)
    for organ in (one for name in lists if name in ("bones", "head") for one in organs(name)):
        paint(body, organ)


def _bent(
    body: Canvas,
    lattice: Float[np.ndarray, "3 a b c"],
    shape: Size,
    step: Float[np.ndarray, " 3"],
    rim: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """HU and labels after a smooth deformation, without the rim."""
    by, source = lattice, np.ogrid[tuple(slice(n) for n in shape)]
    for n, mm in zip(shape, step, strict=True):  # bells around the points of the lattice
        at = (np.arange(n) - (n - 1) / 2) * mm / PITCH_MM
        bells = np.exp(-((at[:, None] - np.arange(POINTS) + (POINTS - 1) / 2) ** 2))
        bells /= np.sqrt((bells**2).sum(1, keepdims=True)) + 1e-9
        by = np.tensordot(by, bells, (1, 1))  # this axis becomes the last
    moved = [
        grid + more + np.clip(one, -3, 3) * BEND_MM / mm
        for grid, more, one, mm in zip(source, rim, by, step, strict=True)
    ]
    hu = ndimage.map_coordinates(body.hu, moved, order=1, mode="nearest")
    labels = ndimage.map_coordinates(body.labels, moved, order=0, mode="nearest")
    return hu, labels


def _phantom(hu: np.ndarray, labels: np.ndarray, step: np.ndarray) -> Phantom:
    """Air around the body, the blur of a scanner, and an affine centred on the grid."""
    hu[labels == OUTSIDE] = AIR
    blurred = ndimage.gaussian_filter(hu, [max(0.4, 1.0 / mm) for mm in step], mode="nearest")
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = -(np.array(hu.shape) - 1) / 2 * step
    return Phantom(Volume(blurred.astype(np.float32), affine), labels)
