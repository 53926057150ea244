"""Shapes and sizes of lesions: balls with smaller balls grown on them and a rough surface.

A shape is drawn in mm, not in voxels: the same generator gives the same lesion on any grid. This is
not a model of a disease: sizes follow published figures for an organ where there are any, and
roughness follows a handful of segmented tumours, nodes and nodules
(tests/simulate/test_lesion_shapes.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Complex, Float, Shaped
from scipy import ndimage, special

from ..core.labels import path
from ..core.morphology import largest

Balls = tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]  # centres, radii
Mask = Bool[np.ndarray, "u v w"]
Spacing = tuple[float, float, float]

# Range of a lesion's roughness, log-uniform: sphericities are then distributed like those of the
# segmented lesions that the tests compare with, .51 to .93.
ROUGHNESS = 0.02, 0.25

GROWN = 6  # balls added to the first one
FULL = 0.12  # roughness at which they have their full size; below it they are smaller
BLEND = 0.08  # width over which two balls merge into one
WAVES, WAVELENGTHS = 32, (0.5, 1.6)  # of the noise on the surface, in radii of the first ball
LATTICE, ACROSS = 36, 16  # points along an axis for measuring a shape; per lesion diameter


@dataclass(frozen=True)
class Size:
    """Diameters of an organ's lesions: log-normal, truncated at both ends.

    spread: standard deviation of the logarithm. A diameter is that of the ball with a lesion's
    volume; published ones are mostly longest diameters, so drawn lesions are rather large.
    """

    median_mm: float
    spread: float
    smallest_mm: float
    largest_mm: float

    def draw(self, rng: np.random.Generator, most_mm: float = np.inf) -> float:
        """A diameter in mm, at most `most_mm`; `ValueError` if all are larger."""
        ends_mm = np.array([self.smallest_mm, min(self.largest_mm, most_mm)])
        if ends_mm[1] < ends_mm[0]:
            raise ValueError(f"no diameter between {ends_mm[0]} and {ends_mm[1]} mm")
        low, high = special.ndtr(np.log(ends_mm / self.median_mm) / self.spread)
        steps = special.ndtri(rng.uniform(low, high))
        return float(np.clip(self.median_mm * np.exp(self.spread * steps), *ends_mm))


SIZES: dict[str, Size] = {
    # LIDC, 518 nodules: median 5.71, mean 7.05, 2.0 to 29.4 mm, by volume (Acad
    # Radiol 2007, "a comparison of different size metrics"); spread = sqrt(2 ln(mean / median)).
    # Smallest: nodules of 3 mm and above are outlined there and counted in LUNA16.
    "lung": Size(5.7, 0.65, 3, 30),
    # Colorectal metastases: 31.6 % of 447 up to 10 mm (Ko et al., PLoS One 2017, at resection) and
    # 58 % of 252 below 20 mm (PMID 12147835, Radiology 2002), one log-normal through both. LiTS and
    # MSD liver: no table of sizes found. Smallest and largest: chosen.
    "liver": Size(16, 1.0, 4, 100),
    # Smallest and largest: `radiographic_size` in the clinical table of KiTS23, .5 to 17.8 cm.
    # Median and spread: chosen (about the limit of 4 cm between T1a and T1b).
    "kidney": Size(40, 0.6, 5, 178),
    # Chosen: no table of sizes was found for MSD pancreas, PANORAMA and others.
    "pancreas": Size(28, 0.5, 5, 80),
    # Longest diameter at resection of 300,386: 13 % up to 2 cm, 39 % to 4, 30 % to 6, 18 % above
    # (Am J Surg 2015, 209:570, National Cancer Data Base), log-normal through 2, 4 and 6 cm. MSD
    # colon: no table of sizes found. Smallest and largest: chosen.
    "colon": Size(39, 0.54, 10, 120),
    # RECIST 1.1 (Schwartz et al., Eur J Cancer 2009): pathological from a short axis of 10 mm,
    # measurable from 15 mm. Median (the limit of measurability), spread and largest: chosen. Not a
    # class of the vocabulary: for users who place nodes themselves.
    "lymph_node": Size(15, 0.35, 10, 40),
    "default": Size(15, 0.6, 4, 60),  # any other organ: chosen
}


def size_of(organ: str) -> Size:
    """The row of a class of core/labels, else that of its nearest ancestor, else the default."""
    return next((SIZES[name] for name in path(organ) if name in SIZES), SIZES["default"])


def rough(rng: np.random.Generator) -> float:
    """A roughness drawn from the range ROUGHNESS."""
    return float(np.exp(rng.uniform(*np.log(ROUGHNESS))))


def grow(
    diameter_mm: float, roughness: float, spacing_mm: Spacing, rng: np.random.Generator
) -> Bool[np.ndarray, "u v w"]:
    """A lesion on a grid: the smallest array of odd sizes whose middle voxel is its centre.

    If voxels are fine, its volume is that of a ball of `diameter_mm`; it is one piece (connected by
    faces), without holes. roughness: 0 is a ball; otherwise the standard deviation of smooth noise
    on the distance from the surface, in radii of a ball on which smaller balls have grown, farther
    out the higher the roughness. A voxel belongs to the lesion if half of its points do (a
    sixteenth of the lesion apart), so that a thick slice averages as in CT; at least one voxel
    does. `ValueError` for a diameter or spacing not > 0, or a roughness < 0.
    """
    if not (diameter_mm > 0 and roughness >= 0 and min(spacing_mm) > 0):
        raise ValueError(
            f"diameter {diameter_mm} mm and spacing {spacing_mm} mm must be above 0, roughness"
            f" {roughness} at least 0"
        )
    outline = _outline(roughness, rng)
    volume, middle, reach = _measure(outline)
    scale_mm = diameter_mm * (np.pi / 6 / volume) ** (1 / 3)
    axes, counts = [], []
    for mm, at, most in zip(spacing_mm, middle, reach, strict=True):
        half = int(np.ceil(most * scale_mm / mm))
        count = min(ACROSS, int(np.ceil(ACROSS * mm / diameter_mm))) | 1  # odd: no ties
        fine = (np.arange((2 * half + 1) * count) + 0.5) / count - 0.5 - half
        axes.append(at + fine * mm / scale_mm)
        counts.append(count)
    share = _means(outline.distance(axes) < 0, counts)
    inside = share >= 0.5
    if not inside.any():  # thinner than a slice
        inside[tuple(n // 2 for n in inside.shape)] = True
    return _tight(_whole(inside))


def cluster(rng: np.random.Generator, size: float = 1.0) -> Balls:
    """A ball of radius 1 at the origin and smaller ones, each grown on the surface of another.

    size: of the smaller balls; at 1, they are about half as large as the first.
    """
    centres, radii = np.zeros((1, 3)), np.ones(1)
    for _ in range(GROWN):
        host = rng.integers(len(radii))
        way = rng.standard_normal(3)
        centre = centres[host] + radii[host] * way / np.linalg.norm(way)
        centres = np.vstack([centres, centre])
        radii = np.append(radii, size * rng.uniform(0.35, 0.65))
    return centres, radii


def depth(
    axes: Sequence[Float[np.ndarray, " _"]], balls: Balls, blend: float = 0.0
) -> Float[np.ndarray, "u v w"]:
    """Signed distance of a grid's points to a union of balls, negative inside, in the axes' unit.

    blend: balls whose surfaces are closer than this merge into one another.
    """
    best = np.full([len(axis) for axis in axes], np.inf)
    for centre, radius in zip(*balls, strict=True):
        x, y, z = np.ix_(*(axis - at for axis, at in zip(axes, centre, strict=True)))
        own = np.sqrt(x * x + y * y + z * z) - radius
        gap = np.abs(best - own) if blend else None
        best = np.minimum(best, own)
        if gap is not None:
            best -= np.maximum(blend - gap, 0) ** 2 / (4 * blend)
    return best


# -- a rough outline


@dataclass(frozen=True)
class _Outline:
    """Balls and waves, drawn once; all lengths in radii of the first ball."""

    balls: Balls
    waves: Float[np.ndarray, "3 waves"]
    turns: Complex[np.ndarray, " waves"]  # their phases, e^(i phase)
    roughness: float

    def distance(self, axes: Sequence[Float[np.ndarray, " _"]]) -> Float[np.ndarray, "u v w"]:
        """The approximate signed distance at the points of a grid, negative inside."""
        found = depth(axes, self.balls, min(BLEND, self.roughness))
        # A plane wave is a product of three factors, one per axis; the sum over waves is a matmul.
        x, y, z = (np.exp(1j * np.outer(a, k)) for a, k in zip(axes, self.waves, strict=True))
        plane = (x[:, None] * y[None]).reshape(-1, WAVES)
        wave = plane.real @ (z * self.turns).real.T - plane.imag @ (z * self.turns).imag.T
        noise: Float[np.ndarray, "u v w"] = np.sqrt(2 / WAVES) * wave.reshape(found.shape)
        return found + self.roughness * noise


def _outline(roughness: float, rng: np.random.Generator) -> _Outline:
    """A random outline; its noise is a sum of plane waves, so it is band-limited and gridless."""
    balls = cluster(rng, min(1.0, roughness / FULL))
    ways = rng.standard_normal((3, WAVES))
    shortest, longest = np.log(WAVELENGTHS)
    lengths = np.exp(rng.uniform(shortest, longest, WAVES))
    waves = 2 * np.pi * ways / np.linalg.norm(ways, axis=0) / lengths
    turns = np.exp(2j * np.pi * rng.uniform(0, 1, WAVES))
    return _Outline(balls, waves, turns, roughness)


def _measure(outline: _Outline) -> tuple[float, Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    """(volume, centre of mass, extent from it along each axis), in radii of the first ball."""
    centres, radii = outline.balls
    reach = float((np.linalg.norm(centres, axis=1) + radii).max()) + 3 * outline.roughness
    axis = ((np.arange(LATTICE) + 0.5) / LATTICE * 2 - 1) * reach
    cell = axis[1] - axis[0]
    inside = np.argwhere(_whole(outline.distance([axis] * 3) < 0))
    at = axis[inside]
    middle = at.mean(0)
    return len(inside) * cell**3, middle, np.abs(at - middle).max(0) + cell


# -- voxels


def _means(
    values: Shaped[np.ndarray, "u v w"], counts: Sequence[int]
) -> Float[np.ndarray, "u2 v2 w2"]:
    """Means over blocks of `counts` points along each axis."""
    shape = [
        n for size, count in zip(values.shape, counts, strict=True) for n in (size // count, count)
    ]
    return values.reshape(shape).mean((1, 3, 5))


def _whole(mask: Mask) -> Mask:
    """The largest piece (connected by faces) with its holes filled."""
    filled: Mask = ndimage.binary_fill_holes(largest(mask))
    return filled


def _tight(mask: Mask) -> Bool[np.ndarray, "a b c"]:
    """The smallest box centred on the middle voxel that contains everything."""
    away = np.abs(np.argwhere(mask) - np.array(mask.shape) // 2).max(0)
    box = (slice(n // 2 - k, n // 2 + k + 1) for n, k in zip(mask.shape, away, strict=True))
    return mask[tuple(box)]
