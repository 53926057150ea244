"""Change of grid, one axis at a time: linear upwards, area-weighted (anti-aliased) downwards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped


def _weights(old: int, new: int, start: float, size: float) -> Float[np.ndarray, "new old"]:
    """Triangle filter of one axis; its half-width is one output cell when cells grow."""
    cell = size / new
    centres = start + (np.arange(new) + 0.5) * cell
    reach = max(cell, 1.0)
    distance = np.abs(np.arange(old) + 0.5 - centres[:, None])
    weights = np.clip(1 - distance / reach, 0, None)
    # Where part of a triangle lies past an end, what is left of it is scaled to one, as torch's
    # antialiased interpolation does; a centre out of every voxel's reach takes the nearest.
    empty = weights.sum(1) == 0
    weights[empty, np.clip(centres[empty].astype(int), 0, old - 1)] = 1
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def resize(
    array: Float[np.ndarray, "x y z"],
    shape: Sequence[int],
    start: Sequence[float] = (0, 0, 0),
    size: Sequence[float] | None = None,
) -> Float[np.ndarray, "x2 y2 z2"]:
    """The box [start, start + size) of `array` (default: all of it) on a grid of `shape` cells.

    start and size are voxels, fractions allowed. Same size and shape on whole voxels is a copy.
    """
    size = array.shape if size is None else size
    for axis, new in enumerate(shape):
        old = array.shape[axis]
        weights = _weights(old, new, start[axis], size[axis])
        array = np.moveaxis(np.tensordot(weights, array, (1, axis)), 0, axis)
    return array


def nearest(
    array: Shaped[np.ndarray, "x y z"],
    shape: Sequence[int],
    start: Sequence[float] = (0, 0, 0),
    size: Sequence[float] | None = None,
) -> Shaped[np.ndarray, "x2 y2 z2"]:
    """As `resize`, for labels: each new voxel takes the value at its centre."""
    size = array.shape if size is None else size
    picks = []
    for old, new, first, length in zip(array.shape, shape, start, size, strict=True):
        centres = first + (np.arange(new) + 0.5) * length / new
        picks.append(np.clip(np.floor(centres).astype(int), 0, old - 1))
    return array[np.ix_(*picks)]


def noise_gain(array_shape: Sequence[int], shape: Sequence[int]) -> float:
    """What `resize` of a whole array to `shape` makes of white noise: its SD, as a factor."""
    gain = 1.0
    for old, new in zip(array_shape, shape, strict=True):
        gain *= float(np.sqrt((_weights(old, new, 0, old) ** 2).sum(1).mean()))
    return gain
