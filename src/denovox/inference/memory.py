"""How much memory a run takes, and what is kept on disk where that is more than it may take.

Counted in bytes per voxel; `benchmarks/doctor.py` measures how accurate this is.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from ..core.box import Shape
from ..core.errors import InputError, ensure
from ..core.on_disk import Mapped, mapped, on_disk
from ..core.process import free_mb, megabytes, return_freed
from .engine import Engine
from .options import RunOptions, Say

COPIES = 3  # of a volume in float32: no run keeps more of them in memory, ...
LEAST_MB = 1000.0  # ... unless they are as small as this
# Of a layer of tiles, where a volume passes through as a stream: its input, its sum, its result,
# the steps of elementwise functions, and the change with its transform (sampling/residual.py).
LAYER_BYTES = 36
# Of the largest part, on the working grid, besides what a `Room` keeps.
GRID_BYTES = {"stream": 0, "resampled": 16, "diffpir": 40, "sample": 48}
TILE_BYTES = 75  # of a tile, for each channel of a network's first level (float32)


def tile_mb(engine: Engine, tile: Shape, batch: int) -> float:
    """One batch of tiles in the network."""
    return TILE_BYTES * engine.config.net.channels[0] * math.prod(tile) * batch / 1e6


def grid_mb(kind: str, size: Shape, layer: int) -> float:
    """A part of a scan on its working grid. layer: slices of a layer of tiles; kind: of
    `GRID_BYTES`."""
    x, y, z = size
    return x * y * (z * GRID_BYTES[kind] + layer * LAYER_BYTES) / 1e6


def work_mb(engine: Engine, kind: str, size: Shape, options: RunOptions, blend: bool) -> float:
    """What a part of a scan takes on its working grid besides what a `Room` keeps: as `grid_mb`,
    and one batch of tiles."""
    x, y, z = (each.size for each in engine.tilings(size, options.tile, blend))
    return grid_mb(kind, size, z) + tile_mb(engine, (x, y, z), max(1, options.batch))


@dataclass
class Room:
    """Where arrays as large as a volume are kept: in memory while there is room, then on disk.

    left_mb: room in memory. say: called when the first array is put on disk.
    """

    left_mb: float
    say: Say
    _files: list[weakref.ref[Mapped]] = field(default_factory=list)

    @classmethod
    def beside(cls, shape: Shape, held_mb: float, work_mb: float, options: RunOptions) -> Room:
        """The room of a run on a volume, of which held_mb are in memory already, and which takes
        work_mb besides. `InputError` where `options.memory` is given and does not suffice."""
        return_freed()  # what glibc keeps of the steps before would count as taken
        left_mb = options.allowance_mb() - work_mb
        if options.memory is not None and left_mb < 0:
            given_mb = megabytes(options.memory)
            raise InputError(
                f"this takes about {math.ceil((given_mb - left_mb) / 100) / 10:.1f} GB of memory,"
                f" but --memory allows {given_mb / 1000:g} GB; allow more, or give a smaller part"
                " of the scan"
            )
        copies_mb = COPIES * 4 * math.prod(shape) / 1e6
        return cls(min(left_mb, max(copies_mb - held_mb, LEAST_MB)), options.say)

    def zeros(self, shape: Shape) -> np.ndarray:
        """Zeros in float32; on disk, slices are contiguous. `InputError` where that has no room."""
        own_mb = 4 * math.prod(shape) / 1e6
        if own_mb <= self.left_mb:
            self.left_mb -= own_mb
            return np.zeros(shape, np.float32)
        if not self._files:
            self.say(f"memory: volumes of {own_mb / 1000:.1f} GB are kept on disk during the run")
        values = on_disk(shape, np.float32)
        if (file := mapped(values)) is not None:
            self._files.append(weakref.ref(file))
        return values

    def kept_mb(self, shapes: list[Shape]) -> float:
        """How much of arrays of such shapes would be in memory, MB."""
        left_mb = self.left_mb
        for shape in shapes:
            own_mb = 4 * math.prod(shape) / 1e6
            left_mb -= own_mb if own_mb <= left_mb else 0
        return self.left_mb - left_mb

    def part(self) -> Room:
        """The same room for arrays that are used for a part of the run and then dropped."""
        return replace(self)

    def release(self) -> None:
        """Let go of the memory of the arrays that are on disk; their values stay."""
        for each in self._files:
            if (file := each()) is not None:
                file.release()


def require_memory(doing: str, shape: Shape, per_voxel: int, options: RunOptions) -> None:
    """`InputError` where a volume that is kept in memory as a whole, in so many bytes for each
    voxel, does not fit into what is free, or into `options.memory`."""
    free = free_mb() if options.memory is None else options.allowance_mb()
    takes = per_voxel * math.prod(shape) / 1e6
    ensure(
        takes <= free or not free,
        f"{doing} {' x '.join(map(str, shape))} voxels takes about {takes / 1000:.1f} GB of memory,"
        f" but only {max(free, 0) / 1000:.1f} GB is free; use larger voxels, or a smaller volume",
    )


def slabs(length: int, step: int = 16) -> Iterator[slice]:
    """Consecutive slices, a few at a time, so that what is computed of them takes no memory."""
    return (slice(k, min(k + step, length)) for k in range(0, length, step))
