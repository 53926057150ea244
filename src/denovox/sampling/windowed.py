"""A denoiser of whole volumes from a denoiser of boxes (Method 1, "large volumes").

Tiles are evaluated layer by layer along z, and slices are finished as soon as no later tile covers
them. A volume can thus pass through as a stream: in memory are one layer and one batch of tiles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ..core.box import Box, Shape, Tile, Tiling
from ..core.condition import Condition
from ..core.condition import batch as collate
from .sampler import Denoise, Vol

PatchDenoise = Callable[[Tensor, float, Condition], Tensor]
Slices = Callable[[slice], Vol]  # consecutive slices of a volume
Needed = Callable[[slice], Bool[Tensor, "x y z"]]  # the same of a mask
Tilings = tuple[Tiling, Tiling, Tiling]
Tiles = tuple[Tile, Tile, Tile]
Pass = tuple[list[Tiles], int]  # a batch of tiles, and the number of a noise level


def windowed(
    denoise: PatchDenoise,
    condition: Condition,
    tiling: Tiling | Tilings | None = None,
    batch: int = 1,
    seed: int | None = 0,
    done: Callable[[float], None] = lambda share: None,
    needed: Needed | None = None,
) -> Denoise:
    """`denoise`, applied tile by tile and blended with weights that sum to one.

    condition: for the whole volume. tiling: of each axis, or of all. batch: number of tiles of the
    same size per batch; affects nothing but float rounding. seed: moves the seams at every call
    (None: they stay), so that a small overlap is enough. done: called with the share of tiles
    completed in this call. needed: voxels whose result matters; tiles without any are skipped, and
    what the others return does not change. Apart from x, only the result, a layer of tiles and one
    batch of them are in memory at a time.
    """
    calls = itertools.count()

    def whole(x: Vol, sigma: float) -> Vol:
        x_y_z = layout(x.shape[2:], tiling, seed, next(calls))
        layers = Layers(denoise, condition, x_y_z, batch, done)
        out = torch.empty_like(x)
        for z, part in layers.run(lambda z: x[..., z], sigma, x.shape[4], needed):
            out[..., z] = part
            del part  # or it would be held while the next layer is summed
        return out

    return whole


def layout(
    shape: Shape | torch.Size, tiling: Tiling | Tilings | None, seed: int | None, call: int = 0
) -> list[list[Tile]]:
    """The tiles along each axis of a volume; their seams depend on the seed and the call alone."""
    each = tiling if isinstance(tiling, tuple) else (tiling or Tiling(),) * 3
    rng = np.random.default_rng([seed or 0, call])
    shifts = rng.uniform(-1, 1, 3) if seed is not None else np.zeros(3)
    return [own.tiles(n, s) for own, n, s in zip(each, shape, shifts, strict=True)]


@dataclass(frozen=True)
class NoiseLevels:
    """A noise level that varies within a volume. The denoiser is evaluated at `sigmas`, in each
    tile at those that it needs, and the results are interpolated (docs/explain/method.md).

    position: slices -> the place of each voxel among the sigmas, 0 for the first; None with one.
    """

    sigmas: tuple[float, ...]
    position: Slices | None = None


def levels_of(
    tiles: list[Tiles], position: Vol | None, mask: Bool[Tensor, "x y z"] | None
) -> range:
    """The levels that some tiles of a layer need, by the voxels that matter."""
    if position is None:
        return range(1)
    values = []
    for box in map(_box, tiles):
        own = position[(0, 0, *box.slices)]
        values.append(own.flatten() if mask is None else own[mask[box.slices]])
    every = torch.cat(values)
    return range(math.floor(float(every.min())), math.ceil(float(every.max())) + 1)


def _share(position: Float[Tensor, "1 x y z"], level: int) -> Float[Tensor, "1 x y z"]:
    """What a level contributes to each voxel, by linear interpolation."""
    return (1 - (position - level).abs()).clamp_min(0)


@dataclass(frozen=True)
class Layers:
    """The tiles of a volume, evaluated layer by layer. axes: from `layout`; else as `windowed`.

    control: the condition's, where it is not in memory as a whole. A `denoise` that has a method
    `each`, from an iterator of its arguments to one of its results, gets all tiles of a layer.
    """

    denoise: PatchDenoise
    condition: Condition
    axes: list[list[Tile]]
    batch: int = 1
    done: Callable[[float], None] = lambda share: None
    control: Slices | None = None

    def run(
        self, x: Slices, sigma: float | NoiseLevels, length: int, needed: Needed | None = None
    ) -> Iterator[tuple[slice, Vol]]:
        """The result as finished slices [z, z'), in order; x is called once for each layer.

        sigma: the noise level of x. length: slices of the volume. needed: as in `windowed`, called
        after x for each layer.
        """
        across, along, layers = self.axes
        starts = [tile.start for tile in layers[1:]]
        levels = sigma if isinstance(sigma, NoiseLevels) else NoiseLevels((sigma,))
        carried: Vol | None = None
        for number, (layer, end) in enumerate(zip(layers, [*starts, length], strict=True)):
            z = slice(layer.start, min(layer.stop, length))
            slab = x(z)
            out = torch.zeros_like(slab)
            if carried is not None:
                out[..., : carried.shape[4]] = carried
            at_0 = Tile(0, layer.stop - layer.start, layer.weight)
            tiles: list[Tiles] = [(a, b, at_0) for a, b in itertools.product(across, along)]
            mask = None if needed is None else needed(z)
            if mask is not None:
                tiles = [each for each in tiles if mask[_box(each).slices].any()]
            position = None if levels.position is None else levels.position(z).to(slab.device)
            passes = [
                (group, level)
                for group in _groups(tiles, self.batch)
                for level in levels_of(group, position, mask)
            ]
            calls = self._calls(slab, passes, layer, levels.sigmas)
            count = 0
            for (group, level), results in zip(passes, self._results(calls), strict=True):
                for each, result in zip(group, results, strict=True):
                    if position is not None:
                        result = result * _share(_cut(position, _box(each))[0], level)
                    _blend(out, each, result)
                count += 1  # noqa: SIM113 (enumerate would keep the results of the last one)
                self.done((number + count / len(passes)) / len(layers))
            if not passes:
                self.done((number + 1) / len(layers))
            del slab
            yield slice(layer.start, end), out[..., : end - layer.start]
            carried = out[..., end - layer.start :].clone()
            del out

    def _calls(
        self, slab: Vol, passes: list[Pass], layer: Tile, sigmas: Sequence[float]
    ) -> Iterator[tuple[Tensor, float, Condition]]:
        """The arguments of `denoise` for each batch of tiles in a layer, at each level it needs."""
        x, y, z = slab.shape[2:]
        layer_box = Box((0, 0, layer.start), (x, y, layer.stop - layer.start))
        condition = self.condition.crop(layer_box)
        if self.control is not None:
            condition = replace(
                condition, control=self.control(slice(layer.start, layer.start + z))
            )
        for group, level in passes:
            boxes = [_box(tiles) for tiles in group]
            conditions = collate([condition.crop(box) for box in boxes])
            yield torch.cat([_cut(slab, box) for box in boxes]), sigmas[level], conditions

    def _results(self, calls: Iterator[tuple[Tensor, float, Condition]]) -> Iterator[Tensor]:
        each = getattr(self.denoise, "each", None)
        return (self.denoise(*call) for call in calls) if each is None else each(calls)


def _groups(tiles: list[Tiles], batch: int) -> Iterator[list[Tiles]]:
    """Tiles ordered by size, in groups of at most `batch` of the same size."""

    for _, alike in itertools.groupby(sorted(tiles, key=tile_size), key=tile_size):
        same = list(alike)
        yield from (same[i : i + batch] for i in range(0, len(same), batch))


def tile_size(tiles: tuple[Tile, ...]) -> Shape:
    """Voxels along x, y, z."""
    return _box(tiles).size


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


def _blend(out: Vol, tiles: Tiles, result: Tensor) -> None:
    """Add a tile's weighted result to the sum of its layer, in place."""
    target = out[(0, slice(None), *_box(tiles).slices)]
    for axis, tile in enumerate(tiles, start=1):
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        result = result * torch.from_numpy(tile.weight).to(result, non_blocking=True).view(shape)
    target += result[(slice(None), *(slice(0, n) for n in target.shape[1:]))]
