"""Arrays in files without a name, where they would take more memory than a process may."""

from __future__ import annotations

import math
import mmap
import os
import tempfile

import numpy as np
import numpy.typing

from .errors import InputError


class Mapped(mmap.mmap):
    """A file of `on_disk`, mapped to memory."""

    def release(self) -> None:
        """Let go of the memory that it takes; its values stay."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.madvise(mmap.MADV_DONTNEED)


def on_disk(shape: tuple[int, ...], dtype: numpy.typing.DTypeLike) -> np.ndarray:
    """Zeros in a file without a name, which vanishes with the array; slices are contiguous.

    `InputError` where the disk has no room.
    """
    count = math.prod(shape) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile() as file:
        try:
            reserve(file.fileno(), count)
        except OSError as error:
            raise InputError(
                f"{tempfile.gettempdir()} has no room for {count / 1e9:.1f} GB of the result"
                f" ({error.strerror}); set TMPDIR to a larger disk, or allow more with --memory"
            ) from None
        held = Mapped(file.fileno(), count)
    if hasattr(mmap, "MADV_RANDOM"):  # or Linux would map much more than the rows that are used
        held.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(held, dtype).reshape(shape, order="F")


def reserve(file: int, count: int) -> None:
    """Make a file that long. Without the blocks on disk, writing to memory mapped to it would end
    the process once the disk is full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, count)
    else:
        os.truncate(file, count)


def mapped(values: object) -> Mapped | None:
    """The file of an array of `on_disk`, or of a view of one; None for other arrays."""
    while values is not None and not isinstance(values, Mapped):
        values = values.obj if isinstance(values, memoryview) else getattr(values, "base", None)
    return values


def release(values: np.ndarray) -> None:
    """Let go of the memory that an array of `on_disk` takes; nothing happens to other arrays."""
    if (file := mapped(values)) is not None:
        file.release()
