"""The tiles that the network would be evaluated on, as `sampling/windowed` will cut them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool

from ...core.box import Shape, Tile
from ...sampling.windowed import NoiseLevels, layout, levels_of, tile_size
from ..engine import Engine


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a scan as the network sees it.

    size: on the working grid. numbers: one for each evaluation, as in `engine.Evaluation`: it moves
    the seams. blend: as in `tasks.Task`. needed: voxels that matter (None: all); levels: of the
    noise (None: one); both as in `sampling/windowed`.
    """

    size: Shape
    numbers: Sequence[int] = (0,)
    blend: bool = True
    needed: Bool[torch.Tensor, "x y z"] | None = None
    levels: NoiseLevels | None = None

    @property
    def evaluations(self) -> int:
        """The most of a voxel: results are interpolated between two noise levels."""
        levels = 1 if self.levels is None else len(self.levels.sigmas)
        return len(self.numbers) * min(levels, 2)

    def tiles(self, model: Engine, edge: int) -> Iterator[Shape]:
        """The tiles of a run with seed 0, as often as they are evaluated. edge: of the largest."""
        tilings = model.tilings(self.size, edge, self.blend)
        place = None if self.levels is None else self.levels.position
        for number in self.numbers:
            across, along, layers = layout(self.size, tilings, 0, number)
            for layer in layers:
                at = slice(layer.start, min(layer.stop, self.size[2]))
                mask = None if self.needed is None else self.needed[..., at]
                position = None if place is None else place(at)
                at_0 = Tile(0, layer.stop - layer.start, layer.weight)
                for a, b in itertools.product(across, along):
                    if mask is None or mask[a.start : a.stop, b.start : b.stop].any():
                        tile = (a, b, at_0)
                        yield from (tile_size(tile),) * len(levels_of([tile], position, mask))


@dataclass(frozen=True)
class TilePlan:
    """The tiles of a command. evaluations: most per voxel. count, voxels: over all tiles and
    evaluations. shapes: distinct ones. part: size of the largest piece.

    Seams and shapes change from one evaluation to the next, but count and voxels do not.
    """

    evaluations: int
    count: int
    voxels: int
    shapes: frozenset[Shape]
    part: Shape

    @classmethod
    def of(cls, model: Engine, pieces: Iterable[Piece], edge: int) -> TilePlan:
        """The tiles of all pieces, of which one at a time is kept."""
        most, part, shapes = 1, (0, 0, 0), list[Shape]()
        for piece in pieces:
            most = max(most, piece.evaluations)
            part = max(part, piece.size, key=math.prod)
            shapes += piece.tiles(model, edge)
        return cls(most, len(shapes), sum(map(math.prod, shapes)), frozenset(shapes), part)

    @property
    def largest(self) -> Shape:
        """The shape with the most voxels."""
        return max(self.shapes, key=math.prod, default=(0, 0, 0))

    @property
    def layer(self) -> int:
        """Slices of the thickest layer of tiles."""
        return max((z for _, _, z in self.shapes), default=0)
