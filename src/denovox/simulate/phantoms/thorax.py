"""Painters of what every body has: wall, lungs, mediastinum, spine and rib cage."""

from __future__ import annotations

import numpy as np

from denovox.core.labels import ID, OUTSIDE

from .canvas import AIR, FAT, MARROW, MUSCLE, PLAIN_BLOOD, SIDES, Canvas, Mask

SPINE_Y, CANAL_Y = -52.0, -74.0
SKULL_BASE, CORD_END, LOWEST = 222.0, -150.0, -290.0  # of the spinal canal
MIDDLE = (SKULL_BASE + LOWEST) / 2
LEVELS = [f"C{n}" for n in range(1, 8)]  # C7 is number 0
LEVELS += [f"T{n}" for n in range(1, 13)] + [f"L{n}" for n in range(1, 6)]


def wall(body: Canvas) -> None:
    """Skin, fat, muscle; inside the rib cage, the fat that fills gaps between organs."""
    skin = body.skin
    body.put("body", skin < 1, FAT, 8)
    deep = (skin < 1 - body.fat_mm / 125) & (body.rho > 0.9)
    body.put("body", deep & (np.abs(body.patchy) > 0.16), MUSCLE, 8)  # fat seams between muscles
    body.put("", (skin < 1) & (skin > 1 - 2 / 120), 20)


def lungs(body: Canvas) -> None:
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


def _vessels(body: Canvas, air: Mask, side: int) -> None:
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


def mediastinum(body: Canvas) -> None:
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
    aorta += [(-5, -22, -165), (-2, -20, -226)]
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


def spine(body: Canvas) -> None:
    """C1 to L5 as far as they are in view: bodies, arches and processes around the canal."""
    for side, name in SIDES:
        muscle = ((body.x - side * 26) / 21) ** 2 + ((body.y + 80) / 17) ** 2 < 1
        muscle = muscle & (body.z < SKULL_BASE - 16) & (body.z > LOWEST)
        body.put(f"autochthon_{name}", muscle & (body.labels != OUTSIDE), MUSCLE)
    for number, level in enumerate(LEVELS, -6):
        if body.build is None and number < 0:
            continue  # the reference body has no neck
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
    canal, spinal = body.x**2 + (body.y - CANAL_Y) ** 2, np.abs(body.z - MIDDLE) < MIDDLE - LOWEST
    body.put("body", (canal < 9.5**2) & spinal, 10)
    body.put("spinal_cord", (canal < 6**2) & spinal & (body.z > CORD_END), 35)


def _vertebra(number: int) -> tuple[float, float]:
    """(top, height) in mm, disc included; C7 is number 0; each is .45 mm taller than the last, and
    L3 to L5 are 9 mm taller than that."""
    top = 116 - 16.5 * (number - 1) - 0.225 * (number - 1) * (number - 2)
    return top - 9 * max(0, number - 15), 16.05 + 0.45 * number + 9 * (number >= 15)


def cage(body: Canvas) -> None:
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
