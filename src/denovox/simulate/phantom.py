"""A procedural body: CT and label map of a schematic chest for any seed, without a download.

Organs are ellipsoids, tubes and arcs in mm around the centre of the thorax, x to the Right,
y Anterior, z Superior, in a body of 310 x 220 mm that each seed stretches and varies; the same
seed gives the same body at any spacing. For tests and examples: not a model of dose or disease.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from denovox.core.labels import ID, OUTSIDE
from denovox.core.volume import Volume

Mask = Bool[np.ndarray, "x y z"]
Field = Float[np.ndarray, "_ _ _"]  # may be one voxel wide where it is constant
Point = tuple[float, ...] | np.ndarray
Size = tuple[int, int, int]
Spacing = float | tuple[float, float, float]

AIR, FAT, MUSCLE, LIVER, MARROW, PLAIN_BLOOD, CONTRAST_BLOOD = -1000, -100, 55, 60, 200, 45, 150
SPINE_Y, CANAL_Y = -52.0, -74.0
SIDES = ((-1, "left"), (1, "right"))


@dataclass(frozen=True)
class Phantom:
    """ct: HU, float32, noise-free; labels: ids of core/labels, OUTSIDE explicit, no 0."""

    ct: Volume
    labels: UInt8[np.ndarray, "x y z"]


def chest(shape: Size = (112, 96, 80), spacing_mm: Spacing = 3.0, seed: int = 0) -> Phantom:
    """The thorax of body number `seed` on a grid of `shape` voxels (x y z) centred on it.

    About every third body has contrast in its blood. `ValueError` for a shape or spacing not > 0.
    """
    step = np.broadcast_to(np.asarray(spacing_mm, float), 3)
    if min(shape) < 1 or min(step) <= 0:
        raise ValueError(f"shape {shape} and spacing {step} mm must be positive")
    body = _Body(shape, step, np.random.default_rng(seed))
    for paint in (_wall, _lungs, _abdomen, _mediastinum, _spine, _cage):
        paint(body)
    body.hu[body.labels == OUTSIDE] = AIR
    hu = ndimage.gaussian_filter(body.hu, [max(0.4, 1.0 / mm) for mm in step], mode="nearest")
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * step
    return Phantom(Volume(hu.astype(np.float32), affine), body.labels)


def add_noise(volume: Volume, noise_hu: float, seed: int) -> Volume:
    """White Gaussian noise of that standard deviation in HU, float32: a crude lower dose.

    Voxels are independent, unlike in any real scan; simulation in the projection domain is in
    simulate/dose.py. `ValueError` for a negative standard deviation.
    """
    if noise_hu < 0:
        raise ValueError(f"a standard deviation of {noise_hu} HU is negative")
    noise = np.random.default_rng(seed).standard_normal(volume.shape, dtype=np.float32)
    return volume.with_hu(volume.hu.astype(np.float32) + np.float32(noise_hu) * noise)


class _Body:
    """The canvas: reference coordinates in mm, HU and labels; parts are painted on it in turn."""

    def __init__(self, shape: Size, step: np.ndarray, rng: np.random.Generator) -> None:
        self.rng, self.step, self.fat_mm = rng, float(max(step)), float(rng.uniform(10, 20))
        stretch = rng.uniform([0.93, 0.92, 0.95], [1.03, 1.08, 1.01])
        grid = zip(shape, (step / stretch).astype(np.float32), strict=True)
        self.axes = [mm * (np.arange(n, dtype=np.float32) - (n - 1) / 2) for n, mm in grid]
        self.x, self.y, self.z = np.ix_(*self.axes)
        self.blood = CONTRAST_BLOOD if rng.random() < 0.35 else PLAIN_BLOOD
        self.hu, self.labels = np.full(shape, AIR, np.float32), np.full(shape, OUTSIDE, np.uint8)
        self.fine, self.patchy = self._texture(3.0), self._texture(13.0)
        # The rib cage: 1 on its surface, less inside; it narrows towards the apex.
        rise = np.clip((self.z + 20) / 142, 0, 0.97)
        self.width, self.depth = 118 * np.sqrt(1 - rise**3), 82 * np.sqrt(1 - rise**3)
        self.back = 4 - 18 * rise**2  # the apex lies further back
        self.rho = _oval(self.x, self.width, self.y - self.back, self.depth)
        self.turn = np.arctan2(np.abs(self.x), self.back - self.y) / np.pi  # 0 back, 1 front
        # The diaphragm's upper face, lower towards the wall and at the back.
        right = 62 * np.exp(-(((self.x - 58) / 62) ** 2) - ((self.y - 8) / 62) ** 2)
        left = 50 * np.exp(-(((self.x + 62) / 55) ** 2) - ((self.y - 8) / 60) ** 2)
        self.dome = float(rng.uniform(-120, -104)) + np.maximum(right, left) + self.y / 10

    def _texture(self, pitch_mm: float) -> Field:
        """Smooth noise of about unit variance from a lattice in mm, the same at any spacing."""
        noise = ndimage.gaussian_filter(self.rng.standard_normal((64, 64, 64)), 0.7, mode="wrap")
        noise = (1.5 * noise / noise.std()).astype(np.float32)
        for number, axis in enumerate(self.axes):
            at = (axis / pitch_mm).reshape([-1 if n == number else 1 for n in range(3)])
            low = np.floor(at).astype(int).ravel()
            below, above = (noise.take((low + k) % 64, number) for k in (0, 1))
            noise = below + (at - np.floor(at)) * (above - below)
        return noise

    def slab(self, low_mm: float, high_mm: float) -> _Body:
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

    def ball(self, centre: Point, radii: Point, turn: float = 0) -> Field:
        """Below 1 inside an ellipsoid, rotated about z by `turn` degrees from x towards y."""
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        x, y, z = (g - o for g, o in zip((self.x, self.y, self.z), np.asarray(centre), strict=True))
        a, b, d = np.asarray(radii)
        return ((c * x + s * y) / a) ** 2 + ((c * y - s * x) / b) ** 2 + (z / d) ** 2

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


def _oval(x: Field, a: Field | float, y: Field, b: Field | float) -> Field:
    """A rounded box: 1 on the curve of half axes a and b, growing linearly with distance."""
    return ((np.abs(x) / a) ** 2.5 + (np.abs(y) / b) ** 2.5) ** 0.4


def _wall(body: _Body) -> None:
    """Skin, fat, muscle; inside the rib cage, the fat that fills gaps between organs."""
    waist = 1 - 0.10 * np.clip((body.z - 40) / 80, 0, 1) ** 2
    skin = _oval(body.x, 155 * waist, body.y, 110 * waist)
    body.put("body", skin < 1, FAT, 8)
    deep = (skin < 1 - body.fat_mm / 125) & (body.rho > 0.9)
    body.put("body", deep & (np.abs(body.patchy) > 0.16), MUSCLE, 8)  # fat seams between muscles
    body.put("", (skin < 1) & (skin > 1 - 2 / 120), 20)


def _lungs(body: _Body) -> None:
    """Five lobes with fissures, denser at the back, and a tree of vessels in each lung."""
    middle = 16 + 14 * np.clip(1 - (body.y / 70) ** 2, 0, 1) + 10 * np.clip(-body.z / 100, 0, 1)
    air = (body.rho < 0.93) & (np.abs(body.x) > middle) & (body.z > body.dome + 4) & (body.z < 106)
    hu = -832 - 0.3 * body.y + 0 * body.z
    oblique, level = body.z - 48 + (body.y + 60) * 0.95, body.z - 0.12 * body.y - 2
    right, upper = body.x > 0, oblique > 0
    for name, where in (
        ("upper_lobe_left", ~right & upper),
        ("lower_lobe_left", ~right & ~upper),
        ("upper_lobe_right", right & upper & (level > 0)),
        ("middle_lobe_right", right & upper & (level <= 0)),
        ("lower_lobe_right", right & ~upper),
    ):
        body.put(f"lung_{name}", air & where, hu, 22)
    fissure = (np.abs(oblique) < 0.9) | (right & upper & (np.abs(level) < 0.6))
    body.hu[air & fissure] += 90
    for side, _ in SIDES:
        _vessels(body, air, side)


def _vessels(body: _Body, air: Mask, side: int) -> None:
    """Branches from the hilum outwards, thinner and shorter at each fork."""
    around = np.arange(6) * np.pi / 3 + body.rng.uniform(0, 1, 6)  # directions of the first six
    ways = np.stack([np.full(6, 1.1 * side), np.cos(around), 1.5 * np.sin(around)], 1)
    twigs = [(np.array([34 * side, -8, 0]), way / np.linalg.norm(way), 34.0, 5.0) for way in ways]
    while twigs:
        at, way, length, radius = twigs.pop()
        end = at + way * length
        for box, mm in body.near([at, end], radius + body.step):
            share = np.clip(0.5 + (radius - mm) / body.step, 0, 1) * min(1, 2 * radius / body.step)
            body.hu[box] += np.where(air[box], share, 0) * (body.blood - body.hu[box])
        for _ in range(0 if radius < 0.9 else 1 if radius < 1.3 else 2):
            bent = way + body.rng.normal(0, 0.55, 3)
            twigs.append((end, bent / np.linalg.norm(bent), length * 0.78, radius * 0.7))


def _abdomen(body: _Body) -> None:
    """Liver, spleen and stomach under the diaphragm, in fat."""
    inside = (body.rho < 0.91) & (body.z < body.dome)  # and around it the diaphragm
    body.put("body", (body.rho < 0.93) & (body.z < body.dome + 4), MUSCLE)
    body.put("body", inside, FAT, 8)
    stomach = body.ball((-52, 30, -112), (46, 36, 58), 20)
    body.put("stomach", inside & (stomach < 1), 30)
    body.put("", inside & (stomach < 0.85) & (body.y > 44 + 14 * body.rng.random()), AIR, 0)
    enhanced = 0.4 * (body.blood - PLAIN_BLOOD)
    body.put("spleen", inside & (body.ball((-86, -38, -108), (26, 38, 45), 25) < 1), 50 + enhanced)
    body.put("liver", inside & (body.ball((52, 4, -125), (98, 88, 95)) < 1), LIVER + enhanced)
    body.put("inferior_vena_cava", body.tube([(22, -14, -50), (24, -26, -140)], 11), body.blood)


def _mediastinum(body: _Body) -> None:
    """Heart with great vessels, trachea, main bronchi and esophagus."""
    blood, grow = body.blood, float(body.rng.uniform(0.92, 1.08))
    heart, wide = (-20.0, 20.0, -38.0), np.array([62.0, 45.0, 46.0]) * grow
    body.put("body", body.ball(heart, wide + 5, 145) < 1, FAT)
    body.put("heart", body.ball(heart, wide, 145) < 1, PLAIN_BLOOD + 0.35 * (blood - PLAIN_BLOOD))
    muscle = body.labels == ID["heart"]
    chambers = [(-44, 36, -48, 34, 17, 22), (-14, 44, -40, 30, 15, 24)]
    chambers += [(-12, -4, -18, 26, 16, 18), (22, 12, -28, 18, 20, 22)]
    for at in chambers:
        body.put("", muscle & (body.ball(at[:3], np.array(at[3:]) * grow, 145) < 1), blood)
    aorta = [(2, 20, -22), (14, 28, 15), (12, 22, 44), (2, 4, 56), (-12, -18, 54), (-20, -36, 38)]
    aorta += [(-22, -42, 10), (-19, -40, -60), (-9, -36, -140)]
    body.put(
        "body", body.tube([(-14, 38, -12), (-16, 22, 12), (-2, 0, 12), (26, -8, 6)], 11), blood
    )
    for name, points, radius in (
        ("pulmonary_vein", [(-46, -20, -22), (-20, -14, -18), (0, -14, -18), (40, -18, -22)], 6),
        ("superior_vena_cava", [(26, 16, -18), (26, 20, 52), (25, 22, 66)], 9),
        ("brachiocephalic_vein_right", [(25, 22, 66), (36, 26, 100)], 7),
        ("brachiocephalic_vein_left", [(25, 22, 66), (-8, 36, 78), (-40, 28, 100)], 7),
        ("brachiocephalic_trunk", [(10, 14, 56), (16, 8, 100)], 6.5),
        ("aorta", aorta, 13.5 * float(body.rng.uniform(0.9, 1.15))),
    ):
        body.put(name, body.tube(points, radius), blood)
    body.put("esophagus", body.tube([(-3, -30, 130), (-5, -34, 20), (-9, -26, -95)], 8), 35)
    windpipe, bronchi = [(0, -6, 130), (2, -16, 34)], [(44, -16, 2), (2, -16, 34), (-44, -18, 4)]
    body.put("body", body.tube(windpipe, 11) | body.tube(bronchi, 8), MUSCLE)
    body.put("trachea", body.tube(windpipe, 8.5) | body.tube(bronchi, 6), AIR, 2)


def _spine(body: _Body) -> None:
    """C7 to L2 as far as they are in view: bodies, arches and processes around the canal."""
    for side, name in SIDES:
        muscle = (((body.x - side * 26) / 21) ** 2 + ((body.y + 80) / 17) ** 2 < 1) & (body.rho > 0)
        body.put(f"autochthon_{name}", muscle & (body.labels != OUTSIDE), MUSCLE)
    for number, level in enumerate(["C7", *(f"T{n}" for n in range(1, 13)), "L1", "L2"]):
        top, tall = _vertebra(number)
        slab, size, middle = body.slab(top - tall - 22, top + 2), 1 + 0.025 * number, top - tall / 2
        x, y, z = slab.x, slab.y, slab.z
        rim = (x / (17 * size)) ** 2 + ((y - SPINE_Y + 1) / (14 * size)) ** 2
        arch, edge = x**2 + (y - CANAL_Y) ** 2, np.abs(z - middle) - tall / 2
        slab.put("body", (rim < 0.94) & (edge < 0), 80)
        tip = (np.abs(x) < 3.5) & (y < CANAL_Y - 8) & (y > CANAL_Y - 25)
        tip = tip & (np.abs(z - middle - 0.6 * (y - CANAL_Y)) < 6)
        wing = (np.abs(x) < 32) & (np.abs(y - CANAL_Y - 2 + 0.35 * (np.abs(x) - 14)) < 5)
        wing = wing & (np.abs(z - middle - 2) < 5.5)
        bone = tip | wing | ((rim < 1) & (edge < -2.2)) | ((arch < 15**2) & (edge < -1.5))
        slab.put(f"vertebrae_{level}", bone & (arch > 9.5**2), 420, 30)
        slab.put("", (rim < 0.74) & (edge < -4.2) & (arch > 11.5**2), MARROW, 22)
    canal = body.x**2 + (body.y - CANAL_Y) ** 2 + 0 * body.z
    body.put("body", canal < 9.5**2, 10)
    body.put("spinal_cord", canal < 6**2, 35)


def _vertebra(number: int) -> tuple[float, float]:
    """(top, height) in mm, disc included; C7 is number 0; each is .45 mm taller than the last."""
    return 116 - 16.5 * (number - 1) - 0.225 * (number - 1) * (number - 2), 16.05 + 0.45 * number


def _cage(body: _Body) -> None:
    """Ribs that descend from the spine to the front, cartilage, sternum, clavicles, scapulae."""
    for number in range(1, 13):
        top, tall = _vertebra(number)
        slab = body.slab(top - 100, top + 14)
        turn, z, back = slab.turn, slab.z, top - tall / 2 + 3
        shell = ((slab.rho - 0.985) * np.minimum(slab.width, slab.depth) / 4.2) ** 2
        fall = (18 + 7.0 * min(number, 8)) * np.sin(np.clip(turn / 0.72, 0, 1) * np.pi / 2)
        bony = 0.74 if number < 8 else 0.70 - 0.04 * (number - 8) if number < 11 else 0.34
        if number < 11:
            rise = back - fall + (turn - bony) / 0.17 * (10 if number < 3 else 24)
            soft = (turn >= bony) & (turn < bony + 0.17) & (slab.labels != OUTSIDE)
            slab.put("costal_cartilages", soft & (shell + ((z - rise) / 6) ** 2 < 1), 95)
        across = shell + ((z - back + fall) / 6.5) ** 2
        for side, name in SIDES:
            part = (side * slab.x > 15) & (turn < bony) & (turn > 0.09)
            slab.put(f"rib_{name}_{number}", part & (across < 1), 520, 40)
            slab.put("", part & (across < 0.25), MARROW)
    plate = np.maximum(np.abs(body.y - body.back - body.depth) / 6, np.abs(body.z - 20) / 62)
    plate = np.maximum(plate, np.abs(body.x) / (12 + 9 * np.clip((body.z - 45) / 30, 0, 1)))
    body.put("sternum", plate < 1, 380, 30)
    body.put("", plate < 0.72, MARROW - 60, 20)
    for side, name in SIDES:
        clavicle = np.array([(18, 58, 84), (55, 52, 96), (98, 10, 106), (112, -14, 106)])
        body.put(f"clavicula_{name}", body.tube(clavicle * [side, 1, 1], 6), 550, 30)
        blade = body.ball((side * 92, -66, 48), (40, 3.6, 58), side * 38) < 1
        body.put(f"scapula_{name}", blade & (body.labels != OUTSIDE), 450, 40)
