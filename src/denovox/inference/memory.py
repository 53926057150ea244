"""How much memory a run takes, and what is kept on disk where that is more than it may take.

Counted in bytes per voxel; `benchmarks/doctor.py` measures how accurate this is.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterator

import numpy as np

from ..core.box import Shape
from ..core.errors import InputError, ensure
from .engine import Engine
from .options import RunOptions

# Of a layer of tiles, where a volume passes through as a stream: its input, its sum, its result,
# and the steps of elementwise functions.
LAYER_BYTES = 24
# Of the largest part, on the working grid.
GRID_BYTES = {"mean": 0, "resampled": 16, "coloured": 48, "diffpir": 40, "sample": 48}
TILE_BYTES = 75  # of a tile, for each channel of a network's first level (float32)


def tile_mb(engine: Engine, tile: Shape, batch: int) -> float:
    """One batch of tiles in the network."""
    return TILE_BYTES * engine.config.net.channels[0] * math.prod(tile) * batch / 1e6


def grid_mb(kind: str, size: Shape, layer: int) -> float:
    """A part of a scan on its working grid. layer: slices of a layer of tiles; kind: of
    `GRID_BYTES`."""
    x, y, z = size
    return x * y * (z * GRID_BYTES[kind] + layer * LAYER_BYTES) / 1e6


def result(shape: Shape, dtype: type, more_mb: float, options: RunOptions) -> np.ndarray:
    """Zeros for the result of a run that takes more_mb besides; on disk if memory is short.

    `InputError` where `options.memory` is given and does not suffice even then, or neither does
    the disk.
    """
    own_mb, left_mb = math.prod(shape) * np.dtype(dtype).itemsize / 1e6, options.allowance_mb()
    if own_mb + more_mb <= left_mb:
        return np.zeros(shape, dtype)
    if options.memory is not None:
        taken = f"{(more_mb - left_mb) / 1000 + _given_gb(options):.1f} GB"
        ensure(
            more_mb <= left_mb,
            f"this takes about {taken} of memory, and --memory allows {_given_gb(options):g} GB;"
            " allow more, or give a smaller part of the scan",
        )
    options.say(f"memory: the result ({own_mb / 1000:.1f} GB) is kept on disk meanwhile")
    return on_disk(shape, dtype)


def _given_gb(options: RunOptions) -> float:
    from ..core.process import megabytes

    return megabytes(options.memory or 0) / 1000


def on_disk(shape: Shape, dtype: type) -> np.ndarray:
    """Zeros in a file without a name, which vanishes with the array; slices are contiguous."""
    count = math.prod(shape) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile() as file:
        try:
            reserve(file.fileno(), count)
        except OSError as error:
            raise InputError(
                f"{tempfile.gettempdir()} has no room for {count / 1e9:.1f} GB of the result"
                f" ({error.strerror}); set TMPDIR to a larger disk, or allow more with --memory"
            ) from None
        held = mmap.mmap(file.fileno(), count)
    return np.frombuffer(held, dtype).reshape(shape, order="F")


def reserve(file: int, count: int) -> None:
    """Make a file that long. Without the blocks on disk, writing to memory mapped to it would end
    the process once the disk is full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, count)
    else:
        os.truncate(file, count)


def release(values: np.ndarray) -> None:
    """Let go of the memory of an array that is on disk; its values stay."""
    for each in _bases(values):
        if isinstance(each, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            each.madvise(mmap.MADV_DONTNEED)


def _bases(values: object) -> Iterator[object]:
    while values is not None:
        yield values
        values = values.obj if isinstance(values, memoryview) else getattr(values, "base", None)
