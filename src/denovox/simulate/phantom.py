"""Procedural bodies: CT and label map of a chest, an abdomen or a head and neck, from a seed.

`draw` varies bodies as people differ, by the table `phantoms/organs.toml`; `chest` is the reference
body of tests and examples, in a body of 310 x 220 mm that each seed stretches a little. The same
seed gives the same body at any spacing. Not a model of dose or disease.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from denovox.core.labels import ID, OUTSIDE
from denovox.core.volume import Volume

from .phantoms.canvas import AIR, Build, Canvas, Size
from .phantoms.organs import build, fill_cavity, organs, paint, tables
from .phantoms.thorax import cage, lungs, mediastinum, spine, wall

Spacing = float | tuple[float, float, float]
Painted = tuple[Float[np.ndarray, "planes y z"], UInt8[np.ndarray, "planes y z"]]  # HU and labels
PITCH_MM, BEND_MM, POINTS = 90.0, 5.0, 15  # of a smooth deformation: lattice and SD
SLAB = 2**20  # voxels painted at a time, at some 60 bytes each


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
    body = Body(shape, step, np.random.default_rng(seed), None, ("upper",))
    return _phantom(body.slabs(), shape, step)


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
    body = Body((x, y, z), step, rng, person, row["tables"])
    return _phantom(_bent(body, lattice, shape, rim), shape, step)


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
    canvas = Canvas((x, y, z), step, np.random.default_rng(0), build(region))
    _, labels = _painted(canvas, row["tables"])
    named = {
        ID[name] for one in row["tables"] for organ in organs(one) for _, name, _ in organ.sides()
    }
    return frozenset({*np.unique(labels).tolist(), *named})


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


@dataclass(frozen=True)
class Body:
    """What is painted on a grid: of the arguments of `Canvas`, with the tables of organs."""

    shape: Size
    step: Float[np.ndarray, " 3"]
    rng: np.random.Generator
    build: Build | None
    tables: Sequence[str]

    def slabs(self) -> Iterator[Painted]:
        """HU and labels of a few planes x after the other."""
        thick = max(1, SLAB // math.prod(self.shape[1:]))
        for first in range(0, self.shape[0], thick):
            planes = slice(first, first + thick)
            yield _painted(
                Canvas(self.shape, self.step, deepcopy(self.rng), self.build, planes), self.tables
            )


def _painted(body: Canvas, lists: Sequence[str]) -> Painted:
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
    return body.hu, body.labels


def _bent(
    body: Body, lattice: Float[np.ndarray, "3 a b c"], shape: Size, rim: np.ndarray
) -> Iterator[Painted]:
    """Its slabs after a smooth deformation, without the rim."""
    bells = []
    for n, mm in zip(shape, body.step, strict=True):  # around the points of the lattice
        at = (np.arange(n) - (n - 1) / 2) * mm / PITCH_MM
        each = np.exp(-((at[:, None] - np.arange(POINTS) + (POINTS - 1) / 2) ** 2))
        bells.append(each / (np.sqrt((each**2).sum(1, keepdims=True)) + 1e-9))

    def pulled(hu: np.ndarray, labels: np.ndarray, planes: slice) -> Painted:
        at, grids = lattice, np.ogrid[planes, : shape[1], : shape[2]]
        for each in (bells[0][planes], *bells[1:]):
            at = np.tensordot(at, each, (1, 1))  # this axis becomes the last
        np.clip(at, -3, 3, out=at)
        for one, grid, more, mm in zip(at, grids, rim, body.step, strict=True):
            one *= BEND_MM
            one /= mm
            one += grid + more
        at[0] -= planes.start  # exact, so that a slab has the values of the whole
        return (
            ndimage.map_coordinates(hu, at, order=1, mode="nearest"),
            ndimage.map_coordinates(labels, at, order=0, mode="nearest"),
        )

    done, hu, labels = 0, *(np.zeros((0, *body.shape[1:]), kind) for kind in "fB")
    for more_hu, more_labels in body.slabs():
        hu, labels = np.concatenate([hu, more_hu]), np.concatenate([labels, more_labels])
        if (ready := len(hu) - 2 * int(rim[0])) > 0:
            yield pulled(hu, labels, slice(done, done + ready))
            hu, labels, done = hu[ready:], labels[ready:], done + ready


def _phantom(slabs: Iterator[Painted], shape: Size, step: np.ndarray) -> Phantom:
    """Air around the body, the blur of a scanner, and an affine centred on the grid."""
    hu, labels, first = np.empty(shape, np.float32), np.empty(shape, np.uint8), 0
    for some_hu, some_labels in slabs:
        planes = slice(first, first + len(some_hu))
        hu[planes], labels[planes], first = some_hu, some_labels, planes.stop
        hu[planes][some_labels == OUTSIDE] = AIR
    ndimage.gaussian_filter(hu, [max(0.4, 1.0 / mm) for mm in step], output=hu, mode="nearest")
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = -(np.array(hu.shape) - 1) / 2 * step
    return Phantom(Volume(hu, affine), labels)
