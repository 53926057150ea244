"""A denoiser of whole volumes from a denoiser of boxes (Method 1, "large volumes")."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..core.box import Box, Tile, Tiling
from ..core.condition import Condition
from ..core.condition import batch as collate
from .sampler import Denoise, Vol

PatchDenoise = Callable[[Tensor, float, Condition], Tensor]


def windowed(
    denoise: PatchDenoise,
    condition: Condition,
    tiling: Tiling | None = None,
    batch: int = 1,
    seed: int | None = 0,
    done: Callable[[float], None] = lambda share: None,
) -> Denoise:
    """`denoise`, applied tile by tile and blended with weights that sum to one.

    condition: for the whole volume. batch: number of tiles of the same size per batch; affects
    nothing but float rounding. seed: moves the seams at every call (None: they stay), so that a
    small overlap is enough. done: called with the share of tiles completed in this call. Apart from
    x, only the result and one batch of tiles are in memory at a time.
    """
    tiling = tiling or Tiling()
    calls = itertools.count()

    def whole(x: Vol, sigma: float) -> Vol:
        rng = np.random.default_rng([seed or 0, next(calls)])
        shifts = rng.uniform(-1, 1, 3) if seed is not None else np.zeros(3)
        axes = [tiling.tiles(n, s) for n, s in zip(x.shape[2:], shifts, strict=True)]
        out = torch.zeros_like(x)
        count, total = 0, len(axes[0]) * len(axes[1]) * len(axes[2])
        for group in _groups(axes, batch):
            boxes = [_box(tiles) for tiles in group]
            conditions = collate([condition.crop(box) for box in boxes])
            results = denoise(torch.cat([_cut(x, box) for box in boxes]), sigma, conditions)
            for tiles, result in zip(group, results, strict=True):
                _blend(out, tiles, result)
            count += len(group)
            done(count / total)
        return out

    return whole


def _groups(axes: list[list[Tile]], batch: int) -> Iterator[list[tuple[Tile, ...]]]:
    """Tiles ordered by size, in groups of at most `batch` of the same size."""

    def size(tiles: tuple[Tile, ...]) -> tuple[int, ...]:
        return tuple(t.stop - t.start for t in tiles)

    for _, alike in itertools.groupby(sorted(itertools.product(*axes), key=size), key=size):
        same = list(alike)
        yield from (same[i : i + batch] for i in range(0, len(same), batch))


def _box(tiles: tuple[Tile, ...]) -> Box:
    x, y, z = tiles
    size = (x.stop - x.start, y.stop - y.start, z.stop - z.start)
    return Box((x.start, y.start, z.start), size)


def _cut(x: Vol, box: Box) -> Float[Tensor, "b 1 x2 y2 z2"]:
    """The voxels of a box; past the end of the volume, its mirror image, with realistic noise."""
    inside = x[(..., *box.slices)]
    short = [n - m for n, m in zip(box.size, inside.shape[2:], strict=True)]
    if not any(short):
        return inside
    fits = all(s < m for s, m in zip(short, inside.shape[2:], strict=True))
    pads = [p for s in reversed(short) for p in (0, s)]
    return F.pad(inside, pads, mode="reflect" if fits else "replicate")


def _blend(out: Vol, tiles: tuple[Tile, ...], result: Tensor) -> None:
    """Add a tile's weighted result to the whole volume, in place."""
    target = out[(0, slice(None), *_box(tiles).slices)]
    for axis, tile in enumerate(tiles, start=1):
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        result = result * torch.from_numpy(tile.weight).to(result).view(shape)
    target += result[(slice(None), *(slice(0, n) for n in target.shape[1:]))]
