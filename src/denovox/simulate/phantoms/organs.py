"""The table of organs (`organs.toml`): how one is painted, and how a body is drawn at random."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from jaxtyping import Float

from denovox.core.labels import OUTSIDE

from .canvas import AIR, FAT, MARROW, MUSCLE, PLAIN_BLOOD, SIDES, Build, Canvas

MOST_SD = 2.0  # no body is further from the mean in any quantity
BENT_SD = 0.12  # of volumes, relative, by the deformation that follows


@dataclass(frozen=True)
class Organ:
    """A row of the table; its keys are explained there. Without radii, a tube."""

    name: str
    hu: tuple[float, float]
    key: str = ""
    at: tuple[float, ...] = ()
    radii: tuple[float, ...] = ()
    turn: float = 0.0
    power: float = 2.0
    path: tuple[tuple[float, ...], ...] = ()
    radius: float = 0.0
    both: bool = False
    within: str = "skin"
    floor: float | None = None
    slope: float = 0.0
    uptake: float = 0.0
    rough: float = 6.0
    gas: tuple[float, float] | None = None
    seams: bool = False
    marrow: bool = False
    move: tuple[float, ...] = (1.0, 1.0, 1.0)
    fit: float = 1.0

    def sides(self) -> list[tuple[int, str, str]]:
        """(factor of x, label, key) on each side; of one in the middle, just that."""
        key = self.key or self.name
        if not self.both:
            return [(1, self.name, key)]
        return [(x, self.name.format(side=s), key.format(side=s)) for x, s in SIDES]


@cache
def tables() -> dict[str, Any]:
    """The contents of `organs.toml`."""
    return tomllib.loads(resources.files(__package__).joinpath("organs.toml").read_text("utf-8"))


@cache
def organs(table: str) -> tuple[Organ, ...]:
    """The rows of one of its lists, in the order in which they are painted."""
    rows: list[dict[str, Any]] = tables()[table]
    return tuple(Organ(**{key: _tuple(value) for key, value in row.items()}) for row in rows)


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def volumes() -> Mapping[str, tuple[float, float]]:
    """Mean and SD of the volume of organs, ml."""
    return {key: (float(row[0]), float(row[1])) for key, row in tables()["volume"].items()}


def paint(body: Canvas, organ: Organ) -> None:
    """Paint an organ on the canvas, inside the skin."""
    cavity = (body.rho < 0.91) & (body.z < body.dome)
    inside = cavity if organ.within == "cavity" else body.labels != OUTSIDE
    if organ.floor is not None:
        inside = inside & (body.z > organ.floor - organ.slope * np.maximum(body.x, 0))
    build = body.build
    for side, label, key in organ.sides():
        scale, move, shift = 1.0, np.zeros(3), 0.0
        if build is not None:
            scale = organ.fit * build.scale.get(key, 1.0)
            move, shift = build.move[key], build.hu[key]
        hu = organ.hu[0] + shift + organ.uptake * (body.blood - PLAIN_BLOOD)
        mirror = np.array([side, 1, 1])
        if organ.radii:
            r = body.ball(
                np.array(organ.at) * mirror + move,
                np.array(organ.radii) * scale,
                side * organ.turn,
                organ.power,
            )
            where, core = inside & (r < 1), r < 0.75
        else:
            path = np.array(organ.path) * mirror + move
            where = inside & body.tube(path, organ.radius * scale)
            core = body.tube(path, 0.75 * organ.radius * scale)
        if organ.seams:
            where = where & (np.abs(body.patchy) > 0.16)
        body.put(label, where, hu, organ.rough)
        if organ.marrow:
            body.put("", where & core, MARROW, 20)
        if organ.gas is not None and organ.radii:
            front = organ.gas[0] + organ.gas[1] * body.rng.random()
            body.put("", inside & (r < 0.85) & (body.y > front), AIR, 0)
        elif organ.gas is not None:
            body.put("", where & core & (body.patchy > organ.gas[0]), AIR, 0)


def fill_cavity(body: Canvas) -> None:
    """Diaphragm, and fat below it."""
    body.put("body", (body.rho < 0.93) & (body.z < body.dome + 4), MUSCLE)
    body.put("body", (body.rho < 0.91) & (body.z < body.dome), FAT, 8)


def build(region: str, rng: np.random.Generator | None = None) -> Build:
    """A body at random: the sizes of a region's row, and size, place and HU of each organ.

    rng: None for the mean person.
    """
    row = tables()["region"][region]
    skin: Float[np.ndarray, "rows 4"] = np.array(row["skin"], float)
    stretch = [_drawn(rng, *pair) for pair in row["stretch"]]
    usual = math.prod(mean for mean, _ in row["stretch"])
    room = (usual / math.prod(stretch)) ** (1 / 3)  # organs do not grow with the body
    body = Build(
        stretch=(stretch[0], stretch[1], stretch[2]),
        fat_mm=_drawn(rng, *row["fat"]),
        girth=_drawn(rng, *row["girth"]),
        outline=skin,
        centre_mm=float(row["centre"]),
    )
    for organ in (one for table in row["tables"] for one in organs(table)):
        for _, _, key in organ.sides():
            if key in body.move:
                continue  # another part of it
            body.move[key] = np.array([_drawn(rng, 0.0, mm) for mm in organ.move])
            body.hu[key] = _drawn(rng, 0.0, organ.hu[1])
            mean, sd = volumes().get(key, (1.0, 0.15))
            own = math.sqrt(max((sd / mean) ** 2 - BENT_SD**2, 0.0))
            body.scale[key] = room * _drawn(rng, 1.0, own) ** (1 / 3)
    return body


def _drawn(rng: np.random.Generator | None, mean: float, sd: float) -> float:
    """A normal number within 2 SD of the mean; the mean where there is no rng."""
    off = 0.0 if rng is None else float(np.clip(rng.standard_normal(), -MOST_SD, MOST_SD))
    return mean + sd * off
