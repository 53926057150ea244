"""Noise in soft tissue relative to the noise in its flattest parts, a few slices at a time.

A slice of a `Volume` is scattered over all of its memory, so a few are copied at once, as planes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped
from scipy import ndimage

from ..core.labels import BODY

SMOOTH_MM = 3.0  # what remains after this blur counts as anatomy
SOFT_HU = (-150.0, 250.0)
LOCAL_MM, WORK_MM = 25.0, 6.0  # blur of the local SD, and voxel size of the grid for it
LEAST_SHARE = 0.5  # lower bound of the local SD, relative to the SD in the squares
CHUNK = 16  # slices: a multiple of what fits in a line of the cache

Corners = Integer[np.ndarray, "n 3"]


@dataclass(frozen=True, eq=False)
class SoftTissue:
    """The soft tissue of a scan, in the part of each slice that contains the body.

    hu: of the scan; mm: its voxel size. start, stop: that part, x y. soft: within that part, slices
    first, where there is soft tissue.
    """

    hu: Shaped[np.ndarray, "x y z"]
    mm: tuple[float, float, float]
    start: tuple[int, int]
    stop: tuple[int, int]
    soft: Bool[np.ndarray, "z u v"]

    @classmethod
    def of(
        cls,
        hu: Shaped[np.ndarray, "x y z"],
        coarse: Integer[np.ndarray, "x y z"],
        mm: tuple[float, float, float],
        watch: Callable[[SoftTissue, slice, Float[np.ndarray, "k u v"]], None],
    ) -> SoftTissue | None:
        """coarse: labels; None without any body.

        watch: called with slices whose soft tissue has been found, and their `blur`, its to keep.
        """
        flat = np.zeros(hu.shape[:2], bool)
        for i, plane in enumerate(coarse):
            flat[i] = (plane == BODY).any(1)
        if not flat.any():
            return None
        ends = [np.flatnonzero(flat.any(1 - axis))[[0, -1]] for axis in (0, 1)]
        (x, u), (y, v) = ((int(first), int(last) + 1) for first, last in ends)
        tissue = cls(hu, mm, (x, y), (u, v), np.empty((hu.shape[2], u - x, v - y), bool))
        for planes in tissue.chunks():
            blur = tissue.blur(planes)
            soft = (blur > SOFT_HU[0]) & (blur < SOFT_HU[1])
            tissue.soft[planes] = soft & np.moveaxis(coarse[x:u, y:v, planes] == BODY, 2, 0)
            watch(tissue, planes, blur)
        return tissue

    def chunks(self) -> Iterator[slice]:
        """All slices, a few at a time."""
        count = self.hu.shape[2]
        return (slice(k, min(k + CHUNK, count)) for k in range(0, count, CHUNK))

    def planes(self, z: slice, margin: tuple[int, int] = (0, 0)) -> Float[np.ndarray, "z u v"]:
        """A copy of slices in the part with the body and, as far as it reaches, a margin."""
        part = tuple(
            slice(max(0, a - more), b + more)
            for a, b, more in zip(self.start, self.stop, margin, strict=True)
        )
        return np.moveaxis(self.hu[(*part, z)], 2, 0).astype(np.float32, order="C")

    def blur(self, z: slice) -> Float[np.ndarray, "z u v"]:
        """Slices blurred within themselves, in the part with the body."""
        sigma = [SMOOTH_MM / step for step in self.mm[:2]]
        reach = (math.ceil(4 * sigma[0] + 1), math.ceil(4 * sigma[1] + 1))
        wide = self.planes(z, reach)
        x, y = (min(first, more) for first, more in zip(self.start, reach, strict=True))
        _, u, v = self.soft.shape
        wide = ndimage.gaussian_filter1d(wide, sigma[0], 1)[:, x : x + u]
        blur: np.ndarray = ndimage.gaussian_filter1d(wide, sigma[1], 2)[..., y : y + v]
        return blur


def body_share(tissue: SoftTissue, corners: Corners, size: int) -> float:
    """Median SD of the noise in soft tissue relative to its SD in the squares, `LEAST_SHARE` to 1.

    corners: of the squares; size: their edge in voxels.

    Flat squares lie deep in the body, where there is more noise than in most of it. Texture only
    adds to the local SD, so a ratio above 1 is not due to noise.

    The local SD, up to a factor, is the mean absolute diagonal difference in soft tissue, blurred
    over `LOCAL_MM`: the spectrum is the same everywhere, so any fixed filter measures it. With two
    or more slices, differences of slices are used; because of edges, each voxel counts as 4 medians
    at most. Where there is no soft tissue nearby, the local SD is the mean.
    """
    local = _LocalSd(tissue)
    corners = corners - [*tissue.start, 0]
    in_squares = np.empty((len(corners), size, size), np.float32)
    shares, done = np.empty(np.count_nonzero(tissue.soft), np.float32), 0
    for k, soft in enumerate(tissue.soft):
        if not soft.any():
            continue
        plane = local.plane(k)
        values = plane[soft]
        shares[done : done + len(values)] = values
        done += len(values)
        for number in np.flatnonzero(corners[:, 2] == k):
            a, b, _ = corners[number]
            in_squares[number] = plane[a : a + size, b : b + size]
    rms = np.sqrt(np.square(in_squares.ravel()).mean())
    if not rms:
        return 1.0
    shares /= rms
    np.maximum(shares, LEAST_SHARE, out=shares)
    return min(1.0, float(np.median(shares, overwrite_input=True)))


class _LocalSd:
    """The local SD of the noise, up to a factor, plane by plane."""

    def __init__(self, tissue: SoftTissue) -> None:
        self.tissue = tissue
        shape, mm = tissue.hu.shape, tissue.mm
        factor = [min(max(1, round(WORK_MM / a)), n) for a, n in zip(mm, shape, strict=True)]
        weight, sums = _sums_of_details(tissue, factor)
        wide = [LOCAL_MM / (step * f) for step, f in zip(mm, factor, strict=True)]
        weight, sums = (ndimage.gaussian_filter(v, wide, mode="reflect") for v in (weight, sums))
        mean = sums.sum() / max(weight.sum(), 1e-9)
        little = 0.02 * np.prod(factor)
        self.values = ((sums + little * mean) / (weight + little)).astype(np.float32)
        self.at = [(np.arange(n) + 0.5) / f - 0.5 for n, f in zip(shape, factor, strict=True)]
        self.fine: dict[int, Float[np.ndarray, "u v"]] = {}

    def plane(self, k: int) -> Float[np.ndarray, "u v"]:
        """Slice k, interpolated in the part with the body."""
        low, high, share = _between(self.at[2][[k]], self.values.shape[2])
        below, above = self._fine(int(low[0])), self._fine(int(high[0]))
        plane: np.ndarray = below + share * (above - below)
        return plane

    def _fine(self, number: int) -> Float[np.ndarray, "u v"]:
        """A plane of the coarse grid, interpolated within itself; the last two are kept."""
        if number not in self.fine:
            self.fine = {k: v for k, v in self.fine.items() if k == number - 1}
            plane = self.values[..., number]
            for axis in (0, 1):
                inside = slice(self.tissue.start[axis], self.tissue.stop[axis])
                low, high, share = _between(self.at[axis][inside], plane.shape[axis])
                share = share if axis else share[:, None]
                below, above = plane.take(low, axis), plane.take(high, axis)
                plane = below + share * (above - below)
            self.fine[number] = plane
        return self.fine[number]


def _between(
    where: Float[np.ndarray, " n"], count: int
) -> tuple[Integer[np.ndarray, " n"], Integer[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """For linear interpolation among `count` values, constant beyond: indices and second share."""
    where = np.clip(where, 0, count - 1)
    low = np.minimum(where.astype(int), max(count - 2, 0))
    return low, np.minimum(low + 1, count - 1), (where - low).astype(np.float32)


def _sums_of_details(
    tissue: SoftTissue, factor: list[int]
) -> tuple[Float[np.ndarray, "a b c"], Float[np.ndarray, "a b c"]]:
    """In blocks of `factor` voxels of the scan: number of differences, and sum of their sizes."""
    hu, (x, y) = tissue.hu, tissue.start
    count = hu.shape[2]
    some = range(0, count, max(1, count // 8))
    sizes = [size[inside] for size, inside in (_details(tissue, slice(k, k + 1)) for k in some)]
    most = 4 * float(np.median(np.concatenate(sizes))) if any(map(len, sizes)) else np.inf
    shape = [-(-n // f) for n, f in zip(hu.shape, factor, strict=True)]
    weight, sums = np.zeros(shape), np.zeros(shape)
    a, b = x // factor[0], y // factor[1]  # the first block
    before = (x - a * factor[0], y - b * factor[1])
    for planes in tissue.chunks():
        size, inside = _details(tissue, planes)
        np.minimum(size, most, out=size)
        size[~inside] = 0
        for total, values in ((weight, inside), (sums, size)):
            for k, blocks in enumerate(_blocks(values, factor, before), planes.start):
                u, v = blocks.shape
                total[a : a + u, b : b + v, k // factor[2]] += blocks
    return weight, sums


def _details(
    tissue: SoftTissue, z: slice
) -> tuple[Float[np.ndarray, "k u v"], Bool[np.ndarray, "k u v"]]:
    """Absolute diagonal differences of slices z minus their neighbours, and where they lie in soft
    tissue."""
    count = tissue.hu.shape[2]
    last = z.stop == count  # the last slice's neighbour is the one before it
    first = max(0, z.start - 1) if last else z.start
    planes, soft = tissue.planes(slice(first, z.stop + 1)), tissue.soft[first : z.stop + 1]
    at = np.arange(z.start, z.stop) - first
    near = at + 1
    if last:
        near[-1] = max(at[-1] - 1, 0)
    plane = planes[at] - planes[near] if count > 1 else planes
    both = soft[at] & soft[near]
    detail = plane[:, :-1, :-1] - plane[:, 1:, :-1]
    detail -= plane[:, :-1, 1:]
    detail += plane[:, 1:, 1:]
    rows = both[:, :-1] & both[:, 1:]
    return np.abs(detail, out=detail), rows[..., :-1] & rows[..., 1:]


def _blocks(
    planes: Shaped[np.ndarray, "z x y"], factor: list[int], before: tuple[int, int]
) -> Float[np.ndarray, "z u v"]:
    """Sums over blocks of `factor` voxels; missing voxels at the ends count as 0."""
    a, b = factor[:2]
    count, x, y = planes.shape
    u, v = (-(-(n + more) // f) for n, more, f in zip((x, y), before, (a, b), strict=True))
    padded = np.zeros((count, u * a, v * b))
    padded[:, before[0] : before[0] + x, before[1] : before[1] + y] = planes
    return padded.reshape(count, u, a, v, b).sum((2, 4))
