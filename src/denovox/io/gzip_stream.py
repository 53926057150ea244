"""The bytes of a file, unpacked if gzip: as many as are asked for, and no more.

A packed file of a megabyte may unpack to a gigabyte, and a header of 348 bytes may ask for more
than there are atoms: nothing here takes memory that the file has not filled.
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
DEFLATE = 1032  # gzip packs at most this many bytes into one
REST = 2**26  # bytes of a packed file that may follow what was asked for


@dataclass
class Unpacked:
    """A file being read from its start. most: the bytes it can hold, as far as its size tells."""

    path: Path
    file: BufferedReader | gzip.GzipFile
    most: int
    taken: int = 0

    @property
    def packed(self) -> bool:
        """Whether it is gzip."""
        return isinstance(self.file, gzip.GzipFile)

    def require(self, end: int) -> None:
        """`InputError` where the file is too small to hold `end` bytes."""
        if end > self.most:
            self._cut(f"at most {self.most}" if self.packed else str(self.most), end)

    def head(self, size: int) -> bytes:
        """The next `size` bytes, or what there is of them."""
        found = self.file.read(size)
        self.taken += len(found)
        return found

    def values(self, size: int, dtype: np.dtype, begun: bytes) -> Shaped[np.ndarray, " n"]:
        """The next `size` values, of which some bytes have `begun`; `InputError` if cut short."""
        end = self.taken - len(begun) + size * dtype.itemsize
        self.require(end)
        try:
            raw = np.empty(size, dtype)  # not yet memory: what is never filled costs nothing
        except MemoryError:
            needed = f"{size * dtype.itemsize / 2**30:.1f} GiB of memory"
            raise InputError(f"{self.path} needs {needed}; cut out a part of it") from None
        room = raw.view(np.uint8)
        done = min(len(begun), room.size)
        room[:done] = np.frombuffer(begun[:done], np.uint8)
        while done < room.size:
            got = self.file.readinto(room[done : done + CHUNK].data)
            if not got:
                self._cut(str(self.taken), end)
            done += got
            self.taken += got
        raw.flags.writeable = False
        return raw

    def check_end(self) -> None:
        """Go on to the end of a packed file, where its checksum is, and forget what lies before."""
        left = 0
        while self.packed and (chunk := self.file.read(CHUNK)):
            left += len(chunk)
            if left > REST:
                raise InputError(
                    f"{self.path} goes on for more than {REST >> 20} MiB after the voxels that its"
                    " header tells of; export it again"
                )

    def _cut(self, there: str, end: int) -> None:
        lost = f"{there} of {end} bytes are there"
        raise InputError(f"{self.path} is cut short: {lost}; copy or export it again")


@contextmanager
def unpacked(path: Path) -> Iterator[Unpacked]:
    """The file at `path`, its content deciding whether it is gzip.

    `InputError`, also within the block, where it cannot be read or its gzip is damaged.
    """
    if os.path.isdir(path):
        raise InputError(f"{path} is a directory; give one .nii or .nii.gz file")
    try:
        status = os.stat(path)  # before opening, which waits for ever at a pipe
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
