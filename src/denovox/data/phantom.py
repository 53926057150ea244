"""A procedural body: CT and label map of a schematic chest for any seed, no download.

Organs are ellipsoids, tubes and arcs in mm around the centre of the thorax, x to the Right,
y Anterior, z Superior, on a body of 310 x 220 mm that each seed stretches and varies. So the same
seed at another spacing is the same body, texture included. It is a picture for tests and
examples, not a model of dose or disease.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from denovox.core.labels import ID, OUTSIDE
from denovox.core.volume import Volume

Mask = Bool[np.ndarray, "x y z"]
Field = Float[np.ndarray, "x y z"]
Point = Sequence[float]

AIR, FAT, MUSCLE, LIVER, CORTEX, MARROW, DISC = -1000.0, -100.0, 55.0, 60.0, 700.0, 200.0, 80.0
PLAIN_BLOOD, CONTRAST_BLOOD = 45.0, 150.0
SPINE_Y, CANAL_Y = -52.0, -74.0
T1_TOP, T1_HEIGHT, VERTEBRA_GROWTH = 116.0, 16.5, 0.45  # mm; each vertebra that much taller


@dataclass(frozen=True)
class Phantom:
    """ct: HU, float32, free of noise; labels: ids of core/labels, OUTSIDE explicit, no 0."""

    ct: Volume
    labels: UInt8[np.ndarray, "x y z"]


def chest(
    shape: tuple[int, int, int] = (112, 96, 80),
    spacing_mm: float | tuple[float, float, float] = 3.0,
    seed: int = 0,
) -> Phantom:
    """The thorax of body number `seed` on a grid of `shape` voxels (x y z) centred on it.

    Every third body or so has contrast in its blood. `ValueError` on a shape or spacing not > 0.
    """
    step = (spacing_mm,) * 3 if isinstance(spacing_mm, int | float) else tuple(spacing_mm)
    if min(shape) < 1 or min(step) <= 0:
        raise ValueError(f"shape {shape} and spacing {step} mm must be positive")
    rng = np.random.default_rng(seed)
    body = _Body(shape, step, rng)
    _wall(body)
    _lungs(body)
    _abdomen(body)
    _mediastinum(body)
    _spine(body)
    _cage(body)
    body.hu[body.labels == OUTSIDE] = AIR
    hu = ndimage.gaussian_filter(body.hu, [max(0.4, 1.0 / mm) for mm in step], mode="nearest")
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * mm for n, mm in zip(shape, step, strict=True)]
    return Phantom(Volume(hu.astype(np.float32), affine), body.labels)


def add_noise(volume: Volume, noise_hu: float, seed: int) -> Volume:
    """White Gaussian noise of that standard deviation in HU, float32: a crude lower dose.

    Voxels are independent, as in no real scan; simulation in the projection domain comes with
    data/degrade.py. `ValueError` on a negative standard deviation.
    """
    if noise_hu < 0:
        raise ValueError(f"a standard deviation of {noise_hu} HU is negative")
    noise = np.random.default_rng(seed).standard_normal(volume.shape, dtype=np.float32)
    return volume.with_hu(volume.hu.astype(np.float32) + np.float32(noise_hu) * noise)


class _Body:
    """The canvas: reference coordinates in mm, HU and labels under construction."""

    def __init__(
        self, shape: tuple[int, int, int], step: tuple[float, ...], rng: np.random.Generator
    ) -> None:
        self.rng = rng
        self.stretch = rng.uniform([0.93, 0.92, 0.95], [1.03, 1.08, 1.01])
        axes = [
            ((np.arange(n) - (n - 1) / 2) * mm / s).astype(np.float32)
            for n, mm, s in zip(shape, step, self.stretch, strict=True)
        ]
        self.axes = axes
        self.x, self.y, self.z = np.ix_(*axes)
        self.step = float(max(step))
        self.blood = CONTRAST_BLOOD if rng.random() < 0.35 else PLAIN_BLOOD
        self.fat_mm = float(rng.uniform(10, 20))
        self.hu = np.full(shape, AIR, np.float32)
        self.labels = np.full(shape, OUTSIDE, np.uint8)
        self.fine, self.patchy = self._texture(2.0), self._texture(9.0)
        # The rib cage: 1 on its surface, less inside; it narrows towards the apex.
        rise = np.clip((self.z + 20) / 142, 0, 0.97)
        self.width = 118 * np.sqrt(1 - rise**3)
        self.depth = 82 * np.sqrt(1 - rise**3)
        self.back = 4 - 18 * rise**2  # the apex lies further back
        self.rho = _oval(self.x, self.width, self.y - self.back, self.depth)
        # The diaphragm's upper face, lower towards the wall and at the back.
        right = 62 * np.exp(-(((self.x - 58) / 62) ** 2) - ((self.y - 8) / 62) ** 2)
        left = 50 * np.exp(-(((self.x + 62) / 55) ** 2) - ((self.y - 8) / 60) ** 2)
        self.dome = float(rng.uniform(-120, -104)) + np.maximum(right, left) + self.y / 10

    def _texture(self, sigma_mm: float) -> Field:
        """Smooth noise of unit variance, drawn on a lattice in mm, the same at any spacing."""
        lattice, pitch = self.rng.standard_normal((64, 64, 64), np.float32), sigma_mm * 1.5
        lattice = ndimage.gaussian_filter(lattice, 0.7, mode="wrap")
        for number, axis in enumerate(self.axes):
            at = axis / pitch
            low = np.floor(at).astype(int)
            part = np.expand_dims(
                (at - low).astype(np.float32), [d for d in range(3) if d != number]
            )
            below, above = (lattice.take((low + k) % 64, number) for k in (0, 1))
            lattice = below * (1 - part) + above * part
        return lattice / lattice.std() if lattice.std() > 0 else lattice

    def put(self, name: str, where: Mask, hu: Field | float, rough: float = 6.0) -> None:
        """Label `where` and give it HU with texture of SD `rough`; "" leaves the labels."""
        if name:
            self.labels[where] = ID[name]
        value = np.broadcast_to(np.asarray(hu, np.float32), where.shape)[where]
        self.hu[where] = value + rough * self.fine[where]

    def ball(self, centre: Point, radii: Point, turn: float = 0.0) -> Field:
        """Below 1 inside an ellipsoid, turned about z by `turn` degrees from x towards y."""
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        x, y, z = self.x - centre[0], self.y - centre[1], self.z - centre[2]
        u, v = c * x + s * y, c * y - s * x
        return (u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (z / radii[2]) ** 2

    def near(self, points: Sequence[Point], reach: float) -> Iterator[tuple[tuple, Field]]:
        """Per piece of a polyline: the box about it, and mm from the piece within the box."""
        for a, b in zip(np.array(points[:-1], float), np.array(points[1:], float), strict=True):
            low, high = np.minimum(a, b) - reach, np.maximum(a, b) + reach
            box = tuple(
                slice(*np.searchsorted(axis, (lo, hi)))
                for axis, lo, hi in zip(self.axes, low, high, strict=True)
            )
            p = [
                g - o
                for g, o in zip(
                    np.ix_(*(t[k] for t, k in zip(self.axes, box, strict=True))), a, strict=True
                )
            ]
            d = b - a
            t = np.clip(
                sum(q * e for q, e in zip(p, d, strict=True)) / max(float(d @ d), 1e-6), 0, 1
            )
            yield box, np.sqrt(sum((q - t * e) ** 2 for q, e in zip(p, d, strict=True)))

    def tube(self, points: Sequence[Point], radius: float) -> Mask:
        """Within `radius` mm of the polyline."""
        found = np.zeros(self.labels.shape, bool)
        for box, mm in self.near(points, radius):
            found[box] |= mm < radius
        return found


def _oval(x: Field, a: Field | float, y: Field, b: Field | float) -> Field:
    """A rounded box: 1 on the curve of half axes a and b, growing linearly with distance."""
    return ((np.abs(x) / a) ** 2.5 + (np.abs(y) / b) ** 2.5) ** 0.4


# -- the parts, each painted over what is there


def _wall(body: _Body) -> None:
    """Skin, fat, muscle; inside the cage the fat that fills gaps between organs."""
    waist = 1 - 0.10 * np.clip((body.z - 40) / 80, 0, 1) ** 2
    skin = _oval(body.x, 155 * waist, body.y, 110 * waist)
    body.put("body", skin < 1, FAT, 8)
    deep = (skin < 1 - body.fat_mm / 125) & (body.rho > 0.9)
    seams = np.abs(body.patchy) < 0.16  # fat between the muscles
    body.put("body", deep & ~seams, MUSCLE, 8)
    body.put("", (skin < 1) & (skin > 1 - 2 / 120), 20)


def _lungs(body: _Body) -> None:
    """Five lobes with fissures, denser at the back, and a tree of vessels in each lung."""
    middle = 16 + 14 * np.clip(1 - (body.y / 70) ** 2, 0, 1) + 10 * np.clip(-body.z / 100, 0, 1)
    air = (body.rho < 0.93) & (np.abs(body.x) > middle) & (body.z > body.dome + 4) & (body.z < 106)
    hu = -832 - 0.3 * body.y + 0 * body.z
    oblique = body.z - (48 - (body.y + 60) * 0.95)
    right, upper = body.x > 0, oblique > 0
    level = body.z - 0.12 * body.y - 2
    lobes = {
        "lung_upper_lobe_left": ~right & upper,
        "lung_lower_lobe_left": ~right & ~upper,
        "lung_upper_lobe_right": right & upper & (level > 0),
        "lung_middle_lobe_right": right & upper & (level <= 0),
        "lung_lower_lobe_right": right & ~upper,
    }
    for name, where in lobes.items():
        body.put(name, air & where, hu, 22)
    fissure = (np.abs(oblique) < 0.9) | (right & upper & (np.abs(level) < 0.6))
    body.hu[air & fissure] += 90
    for side in (-1, 1):
        _vessels(body, air, np.array([side * 34.0, -8.0, 0.0]), side)


def _vessels(body: _Body, air: Mask, hilum: Float[np.ndarray, 3], side: int) -> None:
    """Branches from the hilum outwards, thinner and shorter at each fork."""
    twigs = [(hilum, d / np.linalg.norm(d), 34.0, 5.0) for d in _fan(body.rng, side)]
    while twigs:
        at, way, length, radius = twigs.pop()
        end = at + way * length
        for box, mm in body.near([at, end], radius + body.step):
            share = np.clip(0.5 + (radius - mm) / body.step, 0, 1) * min(1, 2 * radius / body.step)
            here = np.where(air[box], share, 0)
            body.hu[box] += here * (body.blood - body.hu[box])
        if radius > 0.9:
            for _ in range(2 if radius > 1.3 else 1):
                bent = way + body.rng.normal(0, 0.55, 3)
                twigs.append((end, bent / np.linalg.norm(bent), length * 0.78, radius * 0.7))


def _fan(rng: np.random.Generator, side: int) -> Float[np.ndarray, "n 3"]:
    """First directions of the vessels, spread up, down, forward and back."""
    ways = [
        [1, 0.2, 1.6],
        [1.2, 1.1, 0.3],
        [1.2, -1, 0.5],
        [1, 0.8, -0.8],
        [0.8, -0.9, -1.4],
        [1.5, 0, 0],
    ]
    return np.array(ways) * [side, 1, 1] + rng.normal(0, 0.25, (6, 3))


def _abdomen(body: _Body) -> None:
    """Liver, spleen and stomach under the diaphragm, in fat."""
    inside = (body.rho < 0.91) & (body.z < body.dome)
    body.put("body", (body.rho < 0.93) & (body.z < body.dome + 4), MUSCLE)
    body.put("body", inside & (body.z < body.dome - 3), FAT, 8)
    gas = body.y > 52 + float(body.rng.uniform(-8, 8))
    stomach = inside & (body.ball((-52, 30, -112), (46, 36, 58), 20) < 1)
    body.put("stomach", stomach, 30)
    body.put("", stomach & gas & (body.ball((-52, 30, -112), (42, 32, 54), 20) < 1), AIR, 0)
    enhanced = 0.4 * (body.blood - PLAIN_BLOOD)
    body.put("spleen", inside & (body.ball((-86, -38, -108), (26, 38, 45), 25) < 1), 50 + enhanced)
    body.put("liver", inside & (body.ball((52, 4, -125), (98, 88, 95)) < 1), LIVER + enhanced)
    body.put("inferior_vena_cava", body.tube([(22, -14, -50), (24, -26, -140)], 11), body.blood)


def _mediastinum(body: _Body) -> None:
    """Heart with its great vessels, trachea, main bronchi and esophagus."""
    blood, grow = body.blood, float(body.rng.uniform(0.92, 1.08))
    heart = (-20.0, 20.0, -38.0)
    wide = np.array([62.0, 45.0, 46.0]) * grow
    body.put("body", body.ball(heart, wide + 5, 145) < 1, FAT)
    body.put("heart", body.ball(heart, wide, 145) < 1, PLAIN_BLOOD + 0.35 * (blood - PLAIN_BLOOD))
    chambers = [(-44, 36, -48), (-14, 44, -40), (-12, -4, -18), (22, 12, -28)]
    sizes = [(34, 17, 22), (30, 15, 24), (26, 16, 18), (18, 20, 22)]
    for centre, radii in zip(chambers, sizes, strict=True):
        inner = body.ball(centre, np.array(radii) * grow, 145) < 1
        body.put("", inner & (body.labels == ID["heart"]), blood)
    aorta = [(2, 20, -22), (14, 28, 15), (12, 22, 44), (2, 4, 56), (-12, -18, 54), (-20, -36, 38)]
    aorta += [(-22, -42, 10), (-19, -40, -60), (-9, -36, -140)]
    pulmonary = [(-14, 38, -12), (-16, 22, 12), (-2, 0, 12), (26, -8, 6)]
    body.put(
        "body", body.tube(pulmonary, 11) | body.tube([(-16, 20, 14), (-36, -12, 10)], 10), blood
    )
    tubes = [
        ("pulmonary_vein", [(-20, -14, -18), (-46, -20, -22)], 6),
        ("pulmonary_vein", [(0, -14, -18), (40, -18, -22)], 6),
        ("superior_vena_cava", [(26, 16, -18), (26, 20, 52), (25, 22, 66)], 9),
        ("brachiocephalic_vein_right", [(25, 22, 66), (36, 26, 100)], 7),
        ("brachiocephalic_vein_left", [(25, 22, 66), (-8, 36, 78), (-40, 28, 100)], 7),
        ("brachiocephalic_trunk", [(10, 14, 56), (16, 8, 100)], 6.5),
        ("common_carotid_artery_left", [(-2, 2, 60), (-16, 2, 120)], 4.5),
        ("subclavian_artery_left", [(-10, -12, 60), (-24, -14, 98), (-48, -8, 106)], 5),
        ("aorta", aorta, 13.5 * float(body.rng.uniform(0.9, 1.15))),
    ]
    for name, points, radius in tubes:
        body.put(name, body.tube(points, radius), blood)
    body.put("esophagus", body.tube([(-3, -30, 130), (-5, -34, 20), (-9, -26, -95)], 8), 35)
    windpipe, bronchi = [(0, -6, 130), (2, -16, 34)], [(44, -16, 2), (2, -16, 34), (-44, -18, 4)]
    ring = body.tube(windpipe, 11) | (body.tube(bronchi, 8.5) & (np.abs(body.x) < 38))
    body.put("body", ring, MUSCLE)
    lumen = body.tube(windpipe, 8.5) | body.tube(bronchi, 6)
    body.put("trachea", lumen, AIR, 2)


def _spine(body: _Body) -> None:
    """C7 to L2 as far as they are in view: bodies, arches and processes about the canal."""
    x, y, z = body.x, body.y, body.z
    for side, name in ((-1, "left"), (1, "right")):
        muscle = (((x - side * 26) / 21) ** 2 + ((y - CANAL_Y + 6) / 17) ** 2 < 1) & (z < 200)
        body.put(f"autochthon_{name}", muscle & (body.labels != OUTSIDE), MUSCLE)
    names = ["C7", *(f"T{n}" for n in range(1, 13)), "L1", "L2"]
    for number, level in enumerate(names):
        top, tall = _vertebra(number)
        size, middle = 1 + 0.025 * number, top - tall / 2
        rim = np.hypot(x / (17 * size), (y - SPINE_Y + 1) / (14 * size)) + 0 * z
        slab = np.abs(z - middle) - tall / 2
        body.put("body", (rim < 0.97) & (slab < 0), DISC)
        arch = np.hypot(x, y - CANAL_Y) + 0.0 * z
        spines = (np.abs(x) < 3.5) & (y < CANAL_Y - 8) & (y > CANAL_Y - 32)
        spines = spines & (np.abs(z - middle - 0.6 * (y - CANAL_Y)) < 6)
        wings = (np.abs(x) < 32) & (np.abs(y - CANAL_Y - 2 + 0.35 * (np.abs(x) - 14)) < 5)
        wings = wings & (np.abs(z - middle - 2) < 5.5)
        bodies = (rim < 1) & (slab < -2.2)
        bone = bodies | spines | wings | ((arch < 15) & (slab < -1.5))
        bone &= arch > 9.5
        body.put(f"vertebrae_{level}", bone, 420, 30)
        body.put("", (rim < 0.86) & (slab < -4.2) & (arch > 11.5), MARROW, 22)
    canal = np.hypot(x, y - CANAL_Y) + 0 * z
    body.put("body", canal < 9.5, 10)
    body.put("spinal_cord", np.hypot(x / 6.5, (y - CANAL_Y) / 5.5) + 0 * z < 1, 35)


def _vertebra(number: int) -> tuple[float, float]:
    """(top, height) in mm with its disc; C7 is number 0, T1 is 1."""
    below = number - 1
    top = T1_TOP - T1_HEIGHT * below - VERTEBRA_GROWTH * below * (below - 1) / 2
    return top, T1_HEIGHT + VERTEBRA_GROWTH * below


def _cage(body: _Body) -> None:
    """Ribs falling from the spine to the front, cartilage, sternum, clavicles, scapulae."""
    x, y, z = body.x, body.y, body.z
    turn = np.arctan2(np.abs(x), body.back - y) / np.pi  # 0 at the spine, 1 at the sternum
    shell = np.abs(body.rho - 0.985) * np.minimum(body.width, body.depth)
    for number in range(1, 13):
        top, tall = _vertebra(number)
        fall = (18 + 7.0 * min(number, 8)) * np.sin(
            np.clip(turn, 0, 0.72) / 0.72 * np.pi / 2
        ) ** 1.5
        high = top - tall / 2 + 3 - fall
        bony = 0.74 if number < 8 else 0.70 - 0.04 * (number - 8) if number < 11 else 0.34
        across = np.hypot(shell / 4.2, (z - high) / 6.5)
        if number < 11:
            soft = (turn >= bony) & (turn < bony + 0.17)
            rise = high + (turn - bony) / 0.17 * (10 if number < 3 else 24)
            where = (np.hypot(shell / 4.2, (z - rise) / 6) < 1) & soft & (body.labels != OUTSIDE)
            body.put("costal_cartilages", where, 95)
        for side, name in ((-1, "left"), (1, "right")):
            part = (side * x > 15) & (turn < bony) & (turn > 0.09)
            body.put(f"rib_{name}_{number}", part & (across < 1), 520, 40)
            body.put("", part & (across < 0.5), MARROW)
    front = body.back + body.depth * 0.985
    plate = np.maximum(np.abs(y - front) / 6, np.abs(z - 20) / 62)
    plate = np.maximum(plate, np.abs(x) / (12 + 9 * np.clip((z - 45) / 30, 0, 1)))
    body.put("sternum", plate < 1, 380, 30)
    body.put("", plate < 0.72, MARROW - 60, 20)
    for side, name in ((-1, "left"), (1, "right")):
        clavicle = [
            (side * 18, 58, 84),
            (side * 55, 52, 96),
            (side * 98, 10, 106),
            (side * 112, -14, 106),
        ]
        body.put(f"clavicula_{name}", body.tube(clavicle, 6), 550, 30)
        body.put("", body.tube(clavicle, 3), MARROW)
        blade = body.ball((side * 92, -66, 48), (40, 3.6, 58), side * 38) < 1
        spine = body.tube([(side * 66, -92, 72), (side * 116, -52, 92)], 5)
        body.put(f"scapula_{name}", (blade | spine) & (body.labels != OUTSIDE), 450, 40)
