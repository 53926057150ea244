"""MAISI's preprocessing of a CT for its 2.5D FID, reproduced exactly (Facts 5.4; MONAI's
compute_fid_2-5d_ct.py), without a volume of 512^3 in memory.

RAS; 1 mm by linear interpolation from the first voxel's centre; padded with -1000 HU or cropped to
512 voxels along each axis, around the middle; clipped to [-1000, 1000] HU. Then, for each plane,
all of the middle 40 % of the slices, min-max scaled over these slices together, grey as three
channels B, G, R, minus (.406, .456, .485). A network computes features per slice; rows are slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Float32, Float64

from ..core.volume import Volume

SIZE, AIR_HU, LOW_HU, HIGH_HU = 512, -1000.0, -1000.0, 1000.0
CENTRE = 0.4
MEANS_BGR = (0.406, 0.456, 0.485)
PLANES = {"xy": 2, "yz": 0, "zx": 1}  # as the authors name them: the axis across the slices
TOGETHER = 16  # slices the network sees at once

Box = Float32[np.ndarray, "x y z"]
Network = Callable[[Float32[np.ndarray, "b ..."]], Float64[np.ndarray, "b f"]]


def prepare(volume: Volume, size: int = SIZE) -> Box:
    """The scan at 1 mm, cropped to `size` and clipped in HU; `slices_of` does the padding."""
    values: np.ndarray = volume.hu.astype(np.float32)
    for axis, mm in enumerate(volume.spacing_mm):
        values = _at_1mm(values, axis, mm, size)
    return np.clip(values, LOW_HU, HIGH_HU)


def _at_1mm(values: Box, axis: int, mm: float, size: int) -> Float32[np.ndarray, "x2 y2 z2"]:
    """One axis: voxel j is j mm from the first one's centre; only the middle `size` are computed.

    Like MONAI's Spacing (its default, scale_extent off): round((n - 1) mm + 1) voxels, half to
    even.
    """
    old = values.shape[axis]
    new = int(np.round((old - 1) * mm + 1))
    start = max(new // 2 - size // 2, 0)
    at = np.clip(np.arange(start, min(start + size, new)) / mm, 0, old - 1)
    below = np.minimum(at.astype(int), max(old - 2, 0))
    shape = [1, 1, 1]
    shape[axis] = -1
    share = (at - below).astype(np.float32).reshape(shape)
    first, second = values.take(below, axis), values.take(np.minimum(below + 1, old - 1), axis)
    second -= first
    second *= share
    second += first
    return second


def slices_of(box: Box, plane: str, size: int = SIZE) -> Iterator[Float32[np.ndarray, "3 h w"]]:
    """The slices of a plane as the network sees them, `size` x `size`, one after the other.

    box: from `prepare`, with no side above `size`.
    """
    axis = PLANES[plane]
    before = [(size - side) // 2 for side in box.shape]
    first, last = int((1.0 - CENTRE) / 2.0 * size), int((1.0 + CENTRE) / 2.0 * size)
    moved = np.moveaxis(box, axis, 0)
    there = moved[max(first - before[axis], 0) : max(last - before[axis], 0)]
    # Padding slices, and padding in the plane of a slice, count towards the range as well.
    padded = len(there) < last - first or any(side < size for side in moved.shape[1:])
    low = AIR_HU if padded else float(there.min())
    high = float(there.max(initial=AIR_HU))
    rows, columns = (slice(before[i], before[i] + box.shape[i]) for i in range(3) if i != axis)
    for number in range(first, last):
        grey = np.full((size, size), AIR_HU, np.float32)
        if 0 <= number - before[axis] < len(moved):
            grey[rows, columns] = moved[number - before[axis]]
        grey = (grey - np.float32(low)) / np.float32(high - low + 1e-10)
        yield np.stack([grey - np.float32(mean) for mean in MEANS_BGR])


def features(
    volume: Volume, network: Network, size: int = SIZE
) -> dict[str, Float64[np.ndarray, "slices f"]]:
    """For each plane, a row of features per slice (205 at the authors' size).

    network: slices (b 3 h w) -> their features, averaged over space (b f).
    """
    box = prepare(volume, size)
    return {plane: np.concatenate(list(_fed(box, plane, network, size))) for plane in PLANES}


def _fed(box: Box, plane: str, network: Network, size: int) -> Iterator[np.ndarray]:
    waiting: list[Float[np.ndarray, "3 h w"]] = []
    for one in slices_of(box, plane, size):
        waiting.append(one)
        if len(waiting) == TOGETHER:
            yield network(np.stack(waiting))
            waiting = []
    if waiting:
        yield network(np.stack(waiting))
