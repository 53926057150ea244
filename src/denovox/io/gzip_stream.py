"""Read a file, decompressing gzip: exactly as many bytes as requested.

A gzip file of a megabyte may unpack to a gigabyte, and a 348-byte header may claim any size at all:
nothing here allocates memory that the file does not fill.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from ..core.errors import InputError

CHUNK = 2**20
DEFLATE = 1032  # maximum compression ratio of gzip
REST = 2**26  # unpacked bytes that may follow the voxels


@dataclass
class Unpacked:
    """A file being read from its start. most: upper bound on its unpacked size, in bytes."""

    path: Path
    file: BufferedReader | gzip.GzipFile
    most: int
    taken: int = 0

    @property
    def packed(self) -> bool:
        """Whether the file is gzip."""
        return isinstance(self.file, gzip.GzipFile)

    def require(self, end: int) -> None:
        """Raise `InputError` if the file is too small to hold `end` bytes."""
        if end > self.most:
            self._cut(f"at most {self.most}" if self.packed else str(self.most), end)

    def head(self, size: int) -> bytes:
        """The next `size` bytes, or fewer at the end of the file."""
        found = self.file.read(size)
        self.taken += len(found)
        return found

    def values(self, size: int, dtype: np.dtype, begun: bytes) -> Shaped[np.ndarray, " n"]:
        """The next `size` values, whose first bytes are `begun`; `InputError` if truncated."""
        end = self.taken - len(begun) + size * dtype.itemsize
        self.require(end)
        try:
            raw = np.empty(size, dtype)  # not committed yet: pages never filled cost nothing
        except MemoryError:
            needed = f"{size * dtype.itemsize / 2**30:.1f} GiB of memory"
            raise InputError(f"{self.path} needs {needed}; crop it first") from None
        buffer = raw.view(np.uint8)
        done = min(len(begun), buffer.size)
        buffer[:done] = np.frombuffer(begun[:done], np.uint8)
        while done < buffer.size:
            got = self.file.readinto(buffer[done : done + CHUNK].data)
            if not got:
                self._cut(str(self.taken), end)
            done += got
            self.taken += got
        raw.flags.writeable = False
        return raw

    def check_end(self) -> None:
        """Read to the end of a gzip file, where the checksum is, discarding the data."""
        left = 0
        while self.packed and (chunk := self.file.read(CHUNK)):
            left += len(chunk)
            if left > REST:
                raise InputError(
                    f"{self.path} has more than {REST >> 20} MiB after the voxels that its header"
                    " describes; export it again"
                )

    def _cut(self, there: str, end: int) -> None:
        lost = f"{there} of {end} bytes are there"
        raise InputError(f"{self.path} is truncated: {lost}; copy or export it again")


@contextmanager
def unpacked(path: Path) -> Iterator[Unpacked]:
    """Open the file at `path`; whether it is gzip is decided by its content.

    Raises `InputError`, also within the block, if it cannot be read or its gzip data is damaged.
    """
    if os.path.isdir(path):
        raise InputError(f"{path} is a directory; give one .nii or .nii.gz file")
    try:
        status = os.stat(path)  # before opening, which blocks forever on a pipe
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is a device or a pipe; copy it to a file")
        if not status.st_size:
            raise InputError(f"{path} is empty (0 bytes); copy or export it again")
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if packed:
                yield Unpacked(path, gzip.GzipFile(fileobj=file), DEFLATE * status.st_size)
            else:
                yield Unpacked(path, file, status.st_size)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        what = " ".join(str(error).split()).rstrip(".")
        damage = f"{path} is a damaged gzip file ({what}); copy or export it again"
        raise InputError(damage) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check it") from error
