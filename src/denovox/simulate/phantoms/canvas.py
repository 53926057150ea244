"""The canvas that bodies are drawn on, in the coordinates of a reference body.

Millimetres around the centre of the thorax, x to the Right, y Anterior, z Superior; each body
stretches them. Parts are painted one over the other, so that the last one is seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from denovox.core.labels import ID, OUTSIDE

Mask = Bool[np.ndarray, "x y z"]
Field = Float[np.ndarray, "_ _ _"]  # may be one voxel wide where it is constant
Point = tuple[float, ...] | np.ndarray
Size = tuple[int, int, int]

AIR, FAT, MUSCLE, MARROW, PLAIN_BLOOD, CONTRAST_BLOOD = -1000, -100, 55, 200, 45, 150
SIDES = ((-1, "left"), (1, "right"))


@dataclass(frozen=True)
class Build:
    """How a body departs from the reference: see `people.build`.

    stretch: along x, y, z. outline: rows of height, half width, half depth and y of the centre of
    the skin, in mm of the reference; girth: a factor of both halves. centre_mm: height of the
    middle of the grid. scale: of each organ's radii; move: of its position, mm; hu: added to it.
    """

    stretch: tuple[float, float, float]
    fat_mm: float
    girth: float
    outline: Float[np.ndarray, "rows 4"]
    centre_mm: float
    scale: dict[str, float] = field(default_factory=dict)
    move: dict[str, Float[np.ndarray, " 3"]] = field(default_factory=dict)
    hu: dict[str, float] = field(default_factory=dict)


class Canvas:
    """Reference coordinates in mm, HU and labels of a grid, or of its planes x.

    build: None for the reference.
    """

    def __init__(
        self,
        shape: Size,
        step: np.ndarray,
        rng: np.random.Generator,
        build: Build | None = None,
        x: slice = slice(None),
    ) -> None:
        self.rng, self.step, self.build = rng, float(max(step)), build
        self.fat_mm = float(rng.uniform(10, 20))
        stretch = rng.uniform([0.93, 0.92, 0.95], [1.03, 1.08, 1.01])
        if build is not None:
            self.fat_mm, stretch = build.fat_mm, np.array(build.stretch)
        grid = zip(shape, (step / stretch).astype(np.float32), strict=True)
        self.axes = [mm * (np.arange(n, dtype=np.float32) - (n - 1) / 2) for n, mm in grid]
        if build is not None:
            self.axes[2] = self.axes[2] + np.float32(build.centre_mm)
        self.axes[0] = self.axes[0][x]
        self.x, self.y, self.z = np.ix_(*self.axes)
        shape = (self.x.size, *shape[1:])
        self.blood = CONTRAST_BLOOD if rng.random() < 0.35 else PLAIN_BLOOD
        self.hu, self.labels = np.full(shape, AIR, np.float32), np.full(shape, OUTSIDE, np.uint8)
        self.fine, self.patchy = self._texture(3.0), self._texture(13.0)
        # The rib cage: 1 on its surface, less inside; it narrows towards the apex.
        rise = np.clip((self.z + 20) / 142, 0, 0.97)
        self.width, self.depth = 118 * np.sqrt(1 - rise**3), 82 * np.sqrt(1 - rise**3)
        self.back = 4 - 18 * rise**2  # the apex lies further back
        self.rho = oval(self.x, self.width, self.y - self.back, self.depth)
        self.turn = np.arctan2(np.abs(self.x), self.back - self.y) / np.pi  # 0 back, 1 front
        # The diaphragm's upper face, lower towards the wall and at the back.
        right = 62 * np.exp(-(((self.x - 58) / 62) ** 2) - ((self.y - 8) / 62) ** 2)
        left = 50 * np.exp(-(((self.x + 62) / 55) ** 2) - ((self.y - 8) / 60) ** 2)
        self.dome = float(rng.uniform(-120, -104)) + np.maximum(right, left) + self.y / 10

    def _texture(self, pitch_mm: float) -> Field:
        """Smooth noise of about unit variance from a lattice in mm, the same at any spacing."""
        noise = ndimage.gaussian_filter(self.rng.standard_normal((64, 64, 64)), 0.7, mode="wrap")
        noise = (1.5 * noise / noise.std()).astype(np.float32)
        places = [axis / pitch_mm for axis in self.axes]
        lows = [np.floor(at).astype(int) for at in places]
        noise = noise[np.ix_(*(np.arange(low[0], low[-1] + 2) % 64 for low in lows))]
        for number, (at, low) in enumerate(zip(places, lows, strict=True)):
            share = (at - np.floor(at)).reshape([-1 if n == number else 1 for n in range(3)])
            below, above = (noise.take(low - low[0] + k, number) for k in (0, 1))
            noise = below + share * (above - below)
        return noise

    @property
    def skin(self) -> Field:
        """1 on the skin, less inside."""
        if self.build is None:
            waist = 1 - 0.10 * np.clip((self.z - 40) / 80, 0, 1) ** 2
            return oval(self.x, 155 * waist, self.y, 110 * waist)
        rows, z = self.build.outline, self.z.ravel()
        a, b, middle = (
            np.interp(z, rows[:, 0], column)[None, None].astype(np.float32)
            for column in rows[:, 1:].T
        )
        return oval(self.x, self.build.girth * a, self.y - middle, self.build.girth * b)

    def slab(self, low_mm: float, high_mm: float) -> Canvas:
        """The same canvas between two heights."""
        part, cut = copy(self), slice(*np.searchsorted(self.axes[2], (low_mm, high_mm)))
        for name in "z hu labels fine rho turn width depth back".split():
            setattr(part, name, getattr(self, name)[:, :, cut])
        return part

    def put(self, name: str, where: Mask, hu: Field | float, rough: float = 6) -> None:
        """Label `where` and give it HU with texture of SD `rough`; "" keeps the labels."""
        if name:
            self.labels[where] = ID[name]
        value = np.broadcast_to(np.asarray(hu, np.float32), where.shape)[where]
        self.hu[where] = value + rough * self.fine[where]

    def ball(self, centre: Point, radii: Point, turn: float = 0, power: float = 2) -> Field:
        """Below 1 inside a superellipsoid, rotated about z by `turn` degrees from x towards y."""
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        x, y, z = (g - o for g, o in zip((self.x, self.y, self.z), np.asarray(centre), strict=True))
        a, b, d = np.asarray(radii)
        u, v, w = (c * x + s * y) / a, (c * y - s * x) / b, z / d
        if power == 2:
            return u**2 + v**2 + w**2
        return np.abs(u) ** power + np.abs(v) ** power + np.abs(w) ** power

    def near(
        self, points: Sequence[Point] | np.ndarray, reach: float
    ) -> Iterator[tuple[Any, Field]]:
        """For each segment of a polyline: the box around it, and the distance in mm within it."""
        for a, b in pairwise(np.asarray(points, float)):
            ends = zip(self.axes, np.minimum(a, b) - reach, np.maximum(a, b) + reach, strict=True)
            x, y, z = (slice(*np.searchsorted(axis, (low, high))) for axis, low, high in ends)
            u, v, w = self.x[x] - a[0], self.y[:, y] - a[1], self.z[:, :, z] - a[2]
            i, j, k = b - a
            t = np.clip((u * i + v * j + w * k) / (i * i + j * j + k * k), 0, 1)
            yield (x, y, z), np.sqrt((u - t * i) ** 2 + (v - t * j) ** 2 + (w - t * k) ** 2)

    def tube(self, points: Sequence[Point] | np.ndarray, radius: float) -> Mask:
        """Within `radius` mm of the polyline."""
        found = np.zeros(self.labels.shape, bool)
        for box, mm in self.near(points, radius):
            found[box] |= mm < radius
        return found


def oval(x: Field, a: Field | float, y: Field, b: Field | float) -> Field:
    """A rounded box: 1 on the curve of half axes a and b, growing linearly with distance."""
    return ((np.abs(x) / a) ** 2.5 + (np.abs(y) / b) ** 2.5) ** 0.4
