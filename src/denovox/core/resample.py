"""Resampling, one axis at a time: linear upwards, area-weighted (anti-aliased) downwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Shaped
from scipy import ndimage

from .volume import Volume


def _weights(old: int, new: int, start: float, size: float) -> Float[np.ndarray, "new old"]:
    """Triangle filter along one axis; its half-width is one output cell when downsampling."""
    cell = size / new
    centres = start + (np.arange(new) + 0.5) * cell
    reach = max(cell, 1.0)
    distance = np.abs(np.arange(old) + 0.5 - centres[:, None])
    weights = np.clip(1 - distance / reach, 0, None)
    # Where part of a triangle lies past an end, the rest is normalised to one, as in torch's
    # antialiased interpolation; a centre out of reach of every voxel takes the nearest.
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

    start and size are in voxels and may be fractional. The same size and shape on whole voxels
    change nothing (and for the whole array return the array itself).
    """
    size = array.shape if size is None else size
    # The axis that shrinks most goes first, which leaves less work for the others.
    for axis in sorted(range(3), key=lambda i: shape[i] / array.shape[i]):
        old, new, first = array.shape[axis], shape[axis], start[axis]
        if new == size[axis] and first == int(first) and 0 <= first <= old - new:
            array = array[(slice(None),) * axis + (slice(int(first), int(first) + new),)]
            continue
        weights = _weights(old, new, first, size[axis])
        if axis == 0:
            array = (weights @ array.reshape(old, -1)).reshape(new, *array.shape[1:])
        else:  # without a transposed copy of the array
            array = np.matmul(weights, array) if axis == 1 else array @ weights.T
    return np.ascontiguousarray(array)


def nearest(
    array: Shaped[np.ndarray, "x y z"],
    shape: Sequence[int],
    start: Sequence[float] = (0, 0, 0),
    size: Sequence[float] | None = None,
) -> Shaped[np.ndarray, "x2 y2 z2"]:
    """Like `resize`, for labels: each new voxel takes the value at its centre."""
    size = array.shape if size is None else size
    for axis, new in enumerate(shape):
        centres = start[axis] + (np.arange(new) + 0.5) * size[axis] / new
        pick = np.clip(np.floor(centres).astype(int), 0, array.shape[axis] - 1)
        if new == size[axis] and np.array_equal(pick, np.arange(pick[0], pick[0] + new)):
            array = array[(slice(None),) * axis + (slice(pick[0], pick[0] + new),)]
        else:
            array = array.take(pick, axis)
    return np.ascontiguousarray(array)


def onto(
    array: Float[np.ndarray, "x y z"],
    to_array: Float[np.ndarray, "4 4"],
    shape: Sequence[int],
    outside: float,
) -> Float[np.ndarray, "x2 y2 z2"]:
    """Trilinear interpolation on another grid; to_array: voxel index there -> index in `array`.

    Positions beyond the array take the value `outside`.
    """
    return ndimage.affine_transform(
        array, to_array, output_shape=tuple(shape), order=1, cval=outside
    )


def interpolated(scan: Volume, like: Volume) -> Volume:
    """A scan on the grid of another volume; beyond its ends, it has its lowest value."""
    to_scan = np.linalg.inv(scan.affine) @ like.affine
    return replace(like, hu=onto(scan.hu, to_scan, like.shape, float(scan.hu.min())))


def noise_gain(array_shape: Sequence[int], shape: Sequence[int]) -> float:
    """The factor by which `resize` of a whole array to `shape` changes the SD of white noise."""
    gain = 1.0
    for old, new in zip(array_shape, shape, strict=True):
        gain *= float(np.sqrt((_weights(old, new, 0, old) ** 2).sum(1).mean()))
    return gain
