"""Planted lesions: a scan, a few shapes of another HU in healthy tissue, and where they are.

For measuring detection where no truth is at hand. Shapes are balls, or balls that have grown
smaller ones on their surface; a lesion adds its contrast to what is there, so that the scan's own
noise and texture stay, and brings a texture of its own. No model of a disease: a detector that
finds these has not been shown to find cancer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from pydantic import Field
from scipy import ndimage

from ..core.errors import InputError
from ..core.labels import BODY, BONE, ID, NAMES, OUTSIDE, path
from ..core.settings import Settings
from ..core.volume import Volume

Tissue = Literal["liver", "lung", "muscle"]
Shape = Literal["sphere", "grown"]
Mask = Bool[np.ndarray, "x y z"]

SOFT_HU, MUSCLE_HU = (30.0, 190.0), (10.0, 110.0)  # of the smoothed scan, with or without contrast
SMOOTH_MM, CLOSING_MM = 3.0, 3.0
LIVER_ML = 150.0  # a piece of soft tissue this large, at the right and cut off, is taken for liver
NECK_MM = 8.0  # thinner bridges between the liver and its neighbours are cut
SKIN_MM = 35.0  # muscle looked for by HU lies this near the skin or a bone
BONE_MM = 25.0
GAP_MM = 8.0  # between two lesions
AIR_HU = -1000.0


class Lesions(Settings):
    """What to plant.

    contrast_hu: size of the step against the tissue; its sign is drawn. texture: SD of the
    lesion's own texture, as a share of its contrast. edge_mm: width over which a border rises.
    """

    number: int = Field(default=1, ge=1)
    diameter_mm: tuple[float, float] = (6.0, 30.0)
    contrast_hu: tuple[float, float] = (40.0, 150.0)
    tissues: tuple[Tissue, ...] = ("liver", "lung", "muscle")
    shapes: tuple[Shape, ...] = ("sphere", "grown")
    texture: float = Field(default=0.15, ge=0)
    edge_mm: float = Field(default=2.0, gt=0)


@dataclass(frozen=True)
class Fact:
    """One planted lesion. diameter_mm: of the ball of its volume. centre_mm: RAS+."""

    tissue: Tissue
    shape: Shape
    diameter_mm: float
    contrast_hu: float
    volume_ml: float
    centre_mm: tuple[float, float, float]


def plant(
    volume: Volume, labels: UInt8[np.ndarray, "x y z"], config: Lesions, seed: int
) -> tuple[Volume, UInt8[np.ndarray, "x y z"], tuple[Fact, ...]]:
    """The scan with lesions, a map of their numbers (1, 2, ...; 0: none), and what they are.

    labels: ids of core/labels on the scan's grid, coarse ones (`anatomy.coarse`) or finer. Sizes,
    contrasts, shapes and tissues are drawn independently; where a size fits nowhere in its tissue
    the largest that fits is taken. `InputError` where even the smallest does not.
    """
    rng = np.random.default_rng([seed, 0x1E510])
    hu = volume.hu.astype(np.float32).copy()
    numbers = np.zeros(volume.shape, np.uint8)
    free = np.ones(volume.shape, bool)
    rooms: dict[Tissue, Mask] = {}
    facts = []
    for number in range(1, config.number + 1):
        tissue = config.tissues[rng.integers(len(config.tissues))]
        shape = config.shapes[rng.integers(len(config.shapes))]
        wanted_mm = rng.uniform(*config.diameter_mm)
        contrast_hu = float(rng.uniform(*config.contrast_hu) * rng.choice([-1.0, 1.0]))
        if tissue not in rooms:
            rooms[tissue] = healthy(volume, labels, tissue)
        room = rooms[tissue] & free
        at, diameter_mm = _site(room, volume.spacing_mm, wanted_mm, config.diameter_mm[0], rng)
        if not diameter_mm:
            raise InputError(
                f"no room for a lesion of {config.diameter_mm[0]:g} mm in healthy {tissue} (lesion"
                f" {number} of {config.number}); ask for fewer or smaller ones, or other tissues"
            )
        balls = _balls(shape, diameter_mm / 2, rng)
        alpha, box = _share(at, balls, volume, config.edge_mm)
        alpha *= rooms[tissue][box]  # a lesion ends where its organ does
        own = 1 + config.texture * _texture(alpha.shape, volume.spacing_mm, diameter_mm / 6, rng)
        hu[box] = np.maximum(hu[box] + contrast_hu * alpha * own, np.minimum(hu[box], AIR_HU))
        inside = alpha >= 0.5
        if not inside.any():  # thinner than a slice
            inside = alpha == alpha.max()
        numbers[box][inside] = number
        free &= ndimage.distance_transform_edt(numbers != number, volume.spacing_mm) > GAP_MM
        facts.append(_fact(tissue, shape, diameter_mm, contrast_hu, numbers == number, volume))
    return volume.with_hu(hu), numbers, tuple(facts)


def healthy(volume: Volume, labels: UInt8[np.ndarray, "x y z"], tissue: Tissue) -> Mask:
    """Where a tissue is: by its labels where they name it, else by HU, and roughly.

    By HU, lung is the label itself with its small vessels; liver the largest piece of soft tissue
    on the patient's right that is left when thin bridges are cut; muscle soft tissue near the
    skin or a bone. Whether the patient is ill there nobody knows.
    """
    if tissue == "lung":
        return _closed(_under(labels, "lung"), CLOSING_MM, volume.spacing_mm)
    named = _under(labels, tissue)
    if named.any():
        return named
    steps = [SMOOTH_MM / mm for mm in volume.spacing_mm]
    smooth = ndimage.gaussian_filter(volume.hu.astype(np.float32), steps, mode="nearest")
    inside = (labels == BODY) | (labels == ID["unknown"])
    low, high = SOFT_HU if tissue == "liver" else MUSCLE_HU
    soft = inside & (smooth > low) & (smooth < high)
    if tissue == "muscle":
        skin = _near(labels == OUTSIDE, SKIN_MM, volume.spacing_mm)
        return soft & (skin | _near(labels == BONE, BONE_MM, volume.spacing_mm))
    return _liver(soft, labels, volume.spacing_mm)


def _liver(
    soft: Mask, labels: UInt8[np.ndarray, "x y z"], spacing: tuple[float, float, float]
) -> Mask:
    """The largest piece on the patient's right (x grows to the right), opened."""
    body = np.flatnonzero((labels != OUTSIDE).any((1, 2)))
    middle = (body[0] + body[-1]) // 2 if body.size else 0
    core = ndimage.distance_transform_edt(soft, spacing) > NECK_MM
    parts, _ = ndimage.label(core)
    size = np.bincount(parts[middle:].ravel(), minlength=int(parts.max()) + 1)
    size[0] = 0
    if size.max() * np.prod(spacing) / 1000 < LIVER_ML:
        return np.zeros_like(soft)
    core = parts == size.argmax()
    core[:middle] = False
    return soft & _near(core, NECK_MM, spacing)


def _under(labels: UInt8[np.ndarray, "x y z"], name: str) -> Mask:
    """Voxels of a class or of one below it."""
    table = np.array([name in path(each) for each in NAMES])
    found: Mask = table[labels]
    return found


def _near(mask: Mask, mm: float, spacing: tuple[float, float, float]) -> Mask:
    if not mask.any():
        return np.zeros_like(mask)
    near: Mask = ndimage.distance_transform_edt(~mask, spacing) <= mm
    return near


def _closed(mask: Mask, mm: float, spacing: tuple[float, float, float]) -> Mask:
    """Holes and clefts up to twice `mm` wide filled."""
    if not mask.any():
        return mask
    grown = _near(mask, mm, spacing)
    closed: Mask = ndimage.distance_transform_edt(grown, spacing) > mm
    return closed | mask


def _site(
    room: Mask,
    spacing: tuple[float, float, float],
    wanted_mm: float,
    least_mm: float,
    rng: np.random.Generator,
) -> tuple[tuple[int, ...], float]:
    """A voxel with room around it for a ball, and the ball's diameter; 0 where none has any."""
    padded = np.pad(room, 1)  # what lies past the end of the scan is no tissue
    depth = ndimage.distance_transform_edt(padded, spacing)[1:-1, 1:-1, 1:-1]
    most_mm = 2 * float(depth.max())
    if most_mm < least_mm:
        return (0, 0, 0), 0.0
    diameter_mm = min(wanted_mm, most_mm)
    fits = np.flatnonzero(depth >= diameter_mm / 2)
    index = np.unravel_index(fits[rng.integers(fits.size)], room.shape)
    return tuple(int(i) for i in index), diameter_mm


def _balls(
    shape: Shape, radius_mm: float, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """Centres and radii of the balls whose union is the lesion: of a ball's volume in all."""
    centres, radii = np.zeros((1, 3)), np.ones(1)
    if shape == "grown":
        for _ in range(6):
            host = rng.integers(len(radii))
            way = rng.standard_normal(3)
            centre = centres[host] + radii[host] * way / np.linalg.norm(way)
            centres = np.vstack([centres, centre])
            radii = np.append(radii, rng.uniform(0.35, 0.65))
        reach = float((np.linalg.norm(centres, axis=1) + radii).max())
        axis = (np.arange(40) + 0.5) / 20 - 1
        points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1) * reach
        share = float((_depth_mm(points, centres, radii) < 0).mean())
        scale = (4 / 3 * np.pi / (share * (2 * reach) ** 3)) ** (1 / 3)
        centres, radii = centres * scale, radii * scale
    return centres * radius_mm, radii * radius_mm


def _depth_mm(
    points: Float[np.ndarray, "*n 3"],
    centres: Float[np.ndarray, "k 3"],
    radii: Float[np.ndarray, " k"],
) -> Float[np.ndarray, "*n"]:
    """Signed distance to the union of balls, negative inside."""
    best = np.full(points.shape[:-1], np.inf)
    for centre, radius in zip(centres, radii, strict=True):
        best = np.minimum(best, np.linalg.norm(points - centre, axis=-1) - radius)
    return best


def _share(
    at: tuple[int, ...],
    balls: tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]],
    volume: Volume,
    edge_mm: float,
) -> tuple[Float[np.ndarray, "u v w"], tuple[slice, ...]]:
    """The lesion's share of each voxel, 0 to 1, in its box of the scan.

    A voxel is the mean of points about 1 mm apart, so that a thick slice averages as a CT does.
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
    grid = np.stack(np.meshgrid(*(fine for fine, _ in axes), indexing="ij"), -1)
    alpha = np.clip(0.5 - _depth_mm(grid, centres, radii) / edge_mm, 0, 1)
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
    tissue: Tissue, shape: Shape, diameter_mm: float, contrast_hu: float, own: Mask, volume: Volume
) -> Fact:
    index = np.argwhere(own).mean(0)
    x, y, z = volume.affine[:3, :3] @ index + volume.affine[:3, 3]
    volume_ml = float(own.sum() * np.prod(volume.spacing_mm) / 1000)
    return Fact(tissue, shape, diameter_mm, contrast_hu, volume_ml, (float(x), float(y), float(z)))
