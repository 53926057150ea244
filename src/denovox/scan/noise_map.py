"""Where a scan has more noise and where less, relative to its soft tissue.

The noise of a CT scan varies with the photons that reached the detector: across a chest, its SD
differs two- to fourfold. Its spectrum varies less, so that a fixed filter measures the SD up to a
factor: diagonal differences of the difference of two slices. Anatomy adds to them. Blocks with
structure therefore count less, and logarithms limit what edges add (docs/explain/log.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped
from scipy import ndimage

from ..core.labels import OUTSIDE
from ..core.resample import resize
from ..core.volume import Volume

BLOCK_MM, WIDE_MM = 4.5, 12.0  # of a block, and of the blur of the map
SOFT_HU = (-150.0, 250.0)
LUNG_HU = -300.0  # vessels look like noise below it, where noise is limited to soft tissue's
LEAST = 0.1  # of the median difference: smaller ones count as this
MOST = 4.0  # times the SD in soft tissue, or a fraction of it
CHUNK = 16  # slices at a time: a multiple of what fits in a line of the cache

Block = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class NoiseMap:
    """The SD of the noise, up to a factor, in blocks of `block` voxels."""

    values: Float[np.ndarray, "a b c"]
    block: Block

    def on(
        self, grid: Sequence[int], start: Sequence[float], size: Sequence[float]
    ) -> Float[np.ndarray, "u v w"]:
        """Interpolated on a grid over [start, start + size), which are in voxels of the scan."""
        first, length = ([n / b for n, b in zip(v, self.block, strict=True)] for v in (start, size))
        return resize(self.values, grid, first, length)


def noise_map(volume: Volume, coarse: Integer[np.ndarray, "x y z"]) -> NoiseMap:
    """The noise of a scan relative to its median in soft tissue; all ones if there is no noise.

    coarse: label map from `scan/anatomy.coarse`.
    """
    mm, shape = volume.spacing_mm, volume.shape
    block = block_of(BLOCK_MM, mm, shape)
    inside, logs, hu, across = _blocks(volume, coarse, block)
    if not inside.any() or not np.isfinite(logs).all():
        return NoiseMap(np.ones(inside.shape, np.float32), block)
    soft = (inside > 0.9) & (hu > SOFT_HU[0]) & (hu < SOFT_HU[1])
    typical = float(np.median(logs[soft if soft.any() else inside > 0]))
    logs = np.where(hu < LUNG_HU, np.minimum(logs, typical), logs)
    along = [np.gradient(hu, axis=axis) for axis in (0, 1) if hu.shape[axis] > 1]
    structure = np.sqrt(sum((v**2 for v in along), across**2))
    structure /= max(float(np.median(structure[inside > 0.5 * inside.max()])), 1e-9)
    weight = inside / (1 + structure**4)
    wide = [WIDE_MM / (step * b) for step, b in zip(mm, block, strict=True)]
    mean, little = float((weight * logs).sum() / weight.sum()), 1e-3
    sums, weights = (ndimage.gaussian_filter(v, wide) for v in (weight * logs, weight))
    values = (sums + little * mean) / (weights + little)
    values -= np.median(values[soft if soft.any() else inside > 0])
    return NoiseMap(np.exp(values.clip(-math.log(MOST), math.log(MOST))).astype(np.float32), block)


def _blocks(
    volume: Volume, coarse: Integer[np.ndarray, "x y z"], block: Block
) -> tuple[Float[np.ndarray, "a b c"], ...]:
    """Of each block: the share inside the body, the mean logarithm of the differences there (not
    finite if there is no noise), the mean HU, and the mean difference to the next slice."""

    def body(z: slice) -> Bool[np.ndarray, "x y k"]:
        return coarse[..., z] != OUTSIDE

    least = LEAST * typical_difference(volume.hu, body)
    parts = []
    for planes in slabs(volume.shape[2], block[2]):
        hu, difference = differences(volume.hu, planes)
        size, within = diagonal(difference, body(planes))
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(np.maximum(size, least))
        inside = block_mean(within, block)
        parts.append(
            (
                inside,
                block_mean(np.where(within, logs, 0), block) / np.maximum(inside, 1e-6),
                block_mean(hu, block),
                block_mean(np.abs(block_mean(difference, (*block[:2], 1))), (1, 1, block[2])),
            )
        )
    return tuple(np.concatenate(each, axis=2) for each in zip(*parts, strict=True))


# -- differences, and means over blocks


def block_of(edge_mm: float, mm: Sequence[float], shape: Sequence[int]) -> Block:
    """The voxels of a block of about this size, no larger than the scan."""
    x, y, z = (min(max(1, round(edge_mm / a)), n) for a, n in zip(mm, shape, strict=True))
    return x, y, z


def slabs(count: int, depth: int = 1) -> list[slice]:
    """All slices, at least `CHUNK` at a time, in whole blocks of this depth."""
    step = depth * -(-CHUNK // depth)
    return [slice(k, min(k + step, count)) for k in range(0, count, step)]


def neighbours(count: int, z: slice) -> list[int]:
    """The slice after each of z; for the last of all `count`, the one before."""
    return [k + 1 if k + 1 < count else max(k - 1, 0) for k in range(z.start, z.stop)]


def differences(
    hu: Shaped[np.ndarray, "x y z"], z: slice
) -> tuple[Float[np.ndarray, "x y k"], Float[np.ndarray, "x y k"]]:
    """Slices z, and their differences to the next slice (of the last, to the one before).

    A single slice is its own difference.
    """
    count = hu.shape[2]
    planes = hu[..., z].astype(np.float32)
    if count == 1:
        return planes, planes
    return planes, planes - hu[..., neighbours(count, z)].astype(np.float32)


def diagonal(
    values: Float[np.ndarray, "x y k"], inside: Bool[np.ndarray, "x y k"]
) -> tuple[Float[np.ndarray, "x y k"], Bool[np.ndarray, "x y k"]]:
    """Absolute diagonal differences, and whether all four of their voxels are inside."""
    size, whole = np.zeros_like(values), np.zeros(values.shape, bool)
    rows, both = values[:-1] - values[1:], inside[:-1] & inside[1:]
    np.abs(rows[:, :-1] - rows[:, 1:], out=size[:-1, :-1])
    np.logical_and(both[:, :-1], both[:, 1:], out=whole[:-1, :-1])
    return size, whole


def typical_difference(
    hu: Shaped[np.ndarray, "x y z"], inside: Callable[[slice], Bool[np.ndarray, "x y k"]]
) -> float:
    """Median diagonal difference inside, in about eight slices; 0 if nothing is inside."""
    count = hu.shape[2]
    sizes = []
    for k in range(0, count, max(1, count // 8)):
        z = slice(k, k + 1)
        size, whole = diagonal(differences(hu, z)[1], inside(z))
        sizes.append(size[whole])
    return float(np.median(np.concatenate(sizes))) if any(map(len, sizes)) else 0.0


def block_mean(values: Shaped[np.ndarray, "x y k"], block: Block) -> Float[np.ndarray, "a b c"]:
    """Of blocks; those at the ends may have fewer voxels."""
    for axis, edge in enumerate(block):
        starts = np.arange(0, values.shape[axis], edge)
        counts = np.diff([*starts, values.shape[axis]]).astype(np.float32)
        sums = np.add.reduceat(values, starts, axis, dtype=np.float32)
        values = sums / counts.reshape([-1 if i == axis else 1 for i in range(3)])
    return values
