"""Planted lesions: a scan, a few shapes with different HU in healthy tissue, and their positions.

For measuring detection where no ground truth is available. Shapes are balls, or balls with smaller
ones grown on their surface. A lesion adds its contrast to the scan, whose noise and texture remain,
and has its own texture. This is not a model of a disease: a detector that finds these has not been
shown to find cancer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from pydantic import Field
from scipy import ndimage

from ..core.box import bounding_box
from ..core.config import Settings
from ..core.errors import InputError
from ..core.morphology import Mask, depth_mm, dilate_mm
from ..core.volume import Volume
from ..scan.tissue import (
    Tissue,  # also imported from here where lesions are planted
    healthy,
)
from .lesion_shapes import Balls, cluster, depth

Shape = Literal["sphere", "grown"]

GAP_MM = 8.0  # between two lesions
AIR_HU = -1000.0


class Lesions(Settings):
    """What to plant.

    contrast_hu: difference from the tissue, without its sign, which is drawn from `signs`. texture:
    SD of the lesion's own texture, as a share of its contrast. edge_mm: width of the transition at
    a border.
    """

    number: int = Field(default=1, ge=1)
    diameter_mm: tuple[float, float] = (6.0, 30.0)
    contrast_hu: tuple[float, float] = (40.0, 150.0)
    signs: tuple[Literal[-1, 1], ...] = Field(default=(-1, 1), min_length=1)
    tissues: tuple[Tissue, ...] = ("liver", "lung", "muscle")
    shapes: tuple[Shape, ...] = ("sphere", "grown")
    texture: float = Field(default=0.15, ge=0)
    edge_mm: float = Field(default=2.0, gt=0)


@dataclass(frozen=True)
class PlantedLesion:
    """One planted lesion. diameter_mm: of the ball with its volume. centre_mm: RAS+."""

    tissue: Tissue
    shape: Shape
    diameter_mm: float
    contrast_hu: float
    volume_ml: float
    centre_mm: tuple[float, float, float]


def plant(
    volume: Volume, labels: UInt8[np.ndarray, "x y z"], config: Lesions, seed: int
) -> tuple[Volume, UInt8[np.ndarray, "x y z"], tuple[PlantedLesion, ...]]:
    """The scan with lesions, a map of their numbers (1, 2, ...; 0: none), and their records.

    labels: ids of core/labels on the scan's grid, coarse ones (`anatomy.coarse`) or finer. Sizes,
    contrasts, shapes and tissues are drawn independently; if a size fits nowhere in its tissue, the
    largest that fits is used. `InputError` if even the smallest does not fit.
    """
    rng = np.random.default_rng([seed, 0x1E510])
    hu = volume.hu.astype(np.float32).copy()
    numbers = np.zeros(volume.shape, np.uint8)
    free = np.ones(volume.shape, bool)
    masks: dict[Tissue, Mask] = {}
    facts = []
    for number in range(1, config.number + 1):
        tissue = config.tissues[rng.integers(len(config.tissues))]
        shape = config.shapes[rng.integers(len(config.shapes))]
        wanted_mm = rng.uniform(*config.diameter_mm)
        contrast_hu = float(rng.uniform(*config.contrast_hu) * rng.choice(config.signs))
        if tissue not in masks:
            masks[tissue] = healthy(volume, labels, tissue)
        space = masks[tissue] & free
        at, diameter_mm = _site(space, volume.spacing_mm, wanted_mm, config.diameter_mm[0], rng)
        if not diameter_mm:
            raise InputError(
                f"no room for a lesion of {config.diameter_mm[0]:g} mm in healthy {tissue} (lesion"
                f" {number} of {config.number}); ask for fewer or smaller ones, or other tissues"
            )
        balls = _balls(shape, diameter_mm / 2, rng)
        alpha, box = _share(at, balls, volume, config.edge_mm)
        alpha *= masks[tissue][box]  # a lesion ends where its organ does
        grain = 1 + config.texture * _texture(alpha.shape, volume.spacing_mm, diameter_mm / 6, rng)
        hu[box] = np.maximum(hu[box] + contrast_hu * alpha * grain, np.minimum(hu[box], AIR_HU))
        inside = alpha >= 0.5
        if not inside.any():  # thinner than a slice
            inside = alpha == alpha.max()
        numbers[box][inside] = number
        free &= ~dilate_mm(numbers == number, GAP_MM, volume.spacing_mm)
        facts.append(_fact(tissue, shape, diameter_mm, contrast_hu, numbers == number, volume))
    return volume.with_hu(hu), numbers, tuple(facts)


def _site(
    space: Mask,
    spacing: tuple[float, float, float],
    wanted_mm: float,
    least_mm: float,
    rng: np.random.Generator,
) -> tuple[tuple[int, ...], float]:
    """A voxel with space around it for a ball, and the ball's diameter; 0 if there is none."""
    box = bounding_box(space)
    depth = depth_mm(space[box.slices], spacing, ends=True)  # nor is there tissue past the scan
    most_mm = 2 * float(depth.max())
    if most_mm < least_mm:
        return (0, 0, 0), 0.0
    diameter_mm = min(wanted_mm, most_mm)
    fits = np.flatnonzero(depth >= diameter_mm / 2)
    index = np.unravel_index(fits[rng.integers(fits.size)], depth.shape)
    return tuple(int(i) + first for i, first in zip(index, box.start, strict=True)), diameter_mm


def _balls(shape: Shape, radius_mm: float, rng: np.random.Generator) -> Balls:
    """Centres and radii of the balls whose union is the lesion, with the volume of one ball."""
    centres, radii = np.zeros((1, 3)), np.ones(1)
    if shape == "grown":
        centres, radii = cluster(rng)
        reach = float((np.linalg.norm(centres, axis=1) + radii).max())
        axis = ((np.arange(40) + 0.5) / 20 - 1) * reach
        share = float((depth([axis] * 3, (centres, radii)) < 0).mean())
        scale = (4 / 3 * np.pi / (share * (2 * reach) ** 3)) ** (1 / 3)
        centres, radii = centres * scale, radii * scale
    return centres * radius_mm, radii * radius_mm


def _share(
    at: tuple[int, ...], balls: Balls, volume: Volume, edge_mm: float
) -> tuple[Float[np.ndarray, "u v w"], tuple[slice, ...]]:
    """The lesion's share of each voxel, 0 to 1, in its box of the scan.

    A voxel is the mean of points about 1 mm apart, so that a thick slice averages as in CT.
    """
    centres, radii = balls
    reach_mm = float((np.linalg.norm(centres, axis=1) + radii).max()) + edge_mm
    box, axes = [], []
    for index, mm, count in zip(at, volume.spacing_mm, volume.shape, strict=True):
        reach = int(np.ceil(reach_mm / mm))
        first, last = max(0, index - reach), min(count, index + reach + 1)
        points = max(1, round(mm))
        fine = (np.arange((last - first) * points) + 0.5) / points - 0.5 + first - index
        box.append(slice(first, last))
        axes.append((fine * mm, points))
    alpha = np.clip(0.5 - depth([fine for fine, _ in axes], balls) / edge_mm, 0, 1)
    for axis, (_, points) in enumerate(axes):
        shape = list(alpha.shape)
        shape[axis : axis + 1] = [shape[axis] // points, points]
        alpha = alpha.reshape(shape).mean(axis + 1)
    return alpha, tuple(box)


def _texture(
    shape: tuple[int, ...],
    spacing: tuple[float, float, float],
    grain_mm: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "u v w"]:
    """A smooth random field of SD 1."""
    white = rng.standard_normal(shape)
    field = ndimage.gaussian_filter(white, [grain_mm / mm for mm in spacing], mode="wrap")
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6))


def _fact(
    tissue: Tissue, shape: Shape, diameter_mm: float, contrast_hu: float, mask: Mask, volume: Volume
) -> PlantedLesion:
    index = np.argwhere(mask).mean(0)
    x, y, z = volume.affine[:3, :3] @ index + volume.affine[:3, 3]
    volume_ml = float(mask.sum() * np.prod(volume.spacing_mm) / 1000)
    return PlantedLesion(
        tissue, shape, diameter_mm, contrast_hu, volume_ml, (float(x), float(y), float(z))
    )
