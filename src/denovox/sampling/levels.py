"""Coarse to fine: the grids of a pyramid, and the steps that a number of tiles allows (Method 6).

The model was trained on whole volumes resized to its patch, on crops of twice the patch at half
the resolution, and on crops. A volume is therefore drawn as a whole first, and refined at twice
the resolution until it has its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from ..core.box import Shape, Tile
from ..core.errors import InputError, ensure
from ..core.schedule import Schedule
from .guidance import Guidance

TILES = 2000  # evaluations of tiles that the levels of a volume share
START, STOP = 3.0, 0.02  # sigmas between which a level is refined, ...
FEW, FEW_START, FEW_STOP = 4, 1.0, 0.15  # ... and with fewer evaluations than FEW


@dataclass(frozen=True)
class Level:
    """A grid of the pyramid and its sigmas. tiles: evaluations of tiles, where guidance counts.

    blend: whether tiles overlap; guided: whether guidance is applied.
    """

    grid: Shape
    sigmas: list[float]
    tiles: int
    blend: bool = True
    guided: bool = True

    @property
    def steps(self) -> int:
        """Evaluations of the whole grid."""
        return len(self.sigmas) - 1


def plan(
    grids: Sequence[Shape],
    steps: int,
    schedule: Schedule,
    guidance: Guidance,
    tiles: Callable[[Shape, bool], int],
    distilled: bool = False,
) -> list[Level]:
    """Levels of at most `steps` evaluations each; several of them share `TILES`.

    tiles: of one evaluation of a grid, whose tiles overlap or not. Where the finest level would be
    left a single evaluation, it is not guided; where even that does not help, tiles do not overlap,
    and borders show (the coarsest level's always do). distilled: the weights know the sigmas of
    `steps` evaluations alone. A finer level takes the last of these, from the one nearest to
    `START`; none can be saved, so tiles overlap unless the levels together would need more than
    `TILES`.
    """

    def sigmas(number: int, count: int) -> list[float]:
        if distilled or number == 0:
            path = schedule.from_noise(count)
            first = min(range(count), key=lambda i: abs(math.log(path[i] / START)))
            return path[first if number else 0 :]
        start, stop = (START, STOP) if count >= FEW else (FEW_START, FEW_STOP)
        return schedule.descend(count, start=start, stop=stop)

    last = len(grids) - 1
    for overlap, guides in ((True, True), (True, False), (False, False)):

        def cost(number: int, count: int, overlap: bool = overlap, guides: bool = guides) -> int:
            guided = guides or number < last
            evaluated = sum(1 + (guided and guidance.covers(s)) for s in sigmas(number, count)[:-1])
            return tiles(grids[number], overlap or number == 0) * evaluated

        costs = [partial(cost, number) for number in range(len(grids))]
        if last and not distilled:
            counts = affordable(steps, costs, TILES)
            enough = counts[-1] >= min(steps, 2)
        else:
            counts = [steps] * len(grids)
            enough = not last or sum(each(steps) for each in costs) <= TILES
        if enough:
            break
    return [
        Level(
            grid,
            sigmas(number, count),
            cost(number, count),
            blend=overlap or number == 0,
            guided=guides or number < last,
        )
        for number, (grid, count) in enumerate(zip(grids, counts, strict=True))
    ]


def pyramid(shape: Shape, whole: int, levels: int | None = None) -> list[Shape]:
    """The grids from the coarsest to `shape` itself, each with the same extent.

    The coarsest has `whole` voxels along each axis, fewer along a shorter axis; the others are the
    volume at 1/2, 1/4, ... of its resolution. An axis is never coarser than the coarsest grid, as
    in training, where an axis shorter than a crop is taken whole. levels: how many (None: all): the
    coarsest and the finest remain. `InputError` where the volume does not have as many.
    """
    least = [min(whole, n) for n in shape]
    grids = [shape]
    for octave in range(1, 64):
        grid = tuple(max(math.ceil(n / 2**octave), m) for n, m in zip(shape, least, strict=True))
        if math.prod(grid) * 2 > math.prod(grids[-1]) and grid != tuple(least):
            continue  # hardly coarser
        if grid != grids[-1]:
            grids.append((grid[0], grid[1], grid[2]))
        if grid == tuple(least):
            break
    if levels is None or levels == len(grids):
        return grids[::-1]
    ensure(levels > 0, f"{levels} levels are not possible; give 1 or more")
    if levels > len(grids):
        size = " x ".join(map(str, shape))
        raise InputError(
            f"a volume of {size} voxels has {len(grids)} level{'s' if len(grids) > 1 else ''} at"
            f" most, since the coarsest has {whole} along an axis; leave --levels out or reduce it"
        )
    return [grids[-1], *grids[: levels - 1][::-1]] if levels > 1 else [shape]


def borders(axes: Sequence[Sequence[Tile]]) -> tuple[tuple[int, ...], ...]:
    """Along each axis, the i of each border between voxels i and i + 1 at which two tiles meet, or
    in the middle of what they share."""
    return tuple(
        tuple((other.start + one.stop) // 2 - 1 for one, other in pairwise(tiles)) for tiles in axes
    )


def affordable(wanted: int, tiles: Sequence[Callable[[int], int]], budget: int) -> list[int]:
    """Evaluations at each level, from the coarsest, so that all tiles together are in a budget.

    tiles: of a level, for a number of evaluations. From the finest level on, each gets as many as
    leave those below it twice that, up to `wanted`, so the finest gets the fewest; at least 1.
    """
    counts: list[int] = []
    for level in reversed(range(len(tiles))):

        def cost(n: int, level: int = level) -> int:
            return tiles[level](n) + sum(below(min(2 * n, wanted)) for below in tiles[:level])

        count = next((n for n in range(wanted, 1, -1) if cost(n) <= budget), 1)
        budget -= tiles[level](count)
        counts.append(count)
    return counts[::-1]
