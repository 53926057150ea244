"""Read a file, decompressing gzip: exactly as many bytes as requested; and write gzip.

A gzip file of a megabyte may unpack to a gigabyte, and a 348-byte header may claim any size at all:
nothing here allocates memory that the file does not fill. Bytes after the last gzip member (zeros
of a tape or a disk block, whatever a download appended) are not part of the data: they are counted.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Shaped

from ..core.errors import InputError

CHUNK = 2**20
DEFLATE = 1032  # maximum compression ratio of gzip
REST = 2**26  # unpacked bytes that may follow the voxels
MEMBER = b"\x1f\x8b\x08"  # a gzip member starts like this
# On CT, level 3 packs within 1 % of the size of level 6, in half the time (benchmarks/startup.py).
LEVEL = 3
BLOCK = 2**20  # bytes that are packed by themselves; costs less than 0.1 % of the size
MOST_THREADS = 4  # more would wait for the voxels


class _Members(RawIOBase):
    """The data of all gzip members of a file, as one stream; zlib verifies each checksum.

    Raises `zlib.error` or `EOFError` where the file is damaged. left: bytes after the last member.
    """

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._machine = zlib.decompressobj(31)
        self._ahead = b""
        self._ended = False
        self.left = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the beginning of a buffer; 0 at the end."""
        while not self._ended:
            packed = self._machine.unconsumed_tail or self._ahead or self._file.read(CHUNK)
            self._ahead = b""
            got = self._machine.decompress(packed, len(buffer))
            if self._machine.eof:
                self._next()
            elif not packed and not got:
                raise EOFError("it ends within the data")
            if got:
                buffer[: len(got)] = got
                return len(got)
        return 0

    def _next(self) -> None:
        """Go to the next member, which may follow zeros; or to the end."""
        rest = self._machine.unused_data
        end = self._file.tell() - len(rest)
        rest = rest.lstrip(b"\0")
        while len(rest) < len(MEMBER) and (more := self._file.read(CHUNK)):
            rest = (rest + more).lstrip(b"\0")
        if rest.startswith(MEMBER):
            self._machine, self._ahead = zlib.decompressobj(31), rest
            return
        self._ended = True
        self.left = os.fstat(self._file.fileno()).st_size - end


@dataclass
class Unpacked:
    """A file being read from its start. most: upper bound on its unpacked size, in bytes."""

    path: Path
    file: BufferedReader
    most: int
    taken: int = 0

    @property
    def packed(self) -> bool:
        """Whether the file is gzip."""
        return isinstance(self.file.raw, _Members)

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

    def check_end(self) -> tuple[int, int]:
        """Read to the end of a gzip file, where the checksum is; the bytes discarded.

        These are (unpacked) bytes after the voxels, and bytes after the last gzip member.
        """
        if not isinstance(self.file.raw, _Members):
            return self.most - self.taken, 0
        left = 0
        while chunk := self.file.read(CHUNK):
            left += len(chunk)
            if left > REST:
                raise InputError(
                    f"{self.path} has more than {REST >> 20} MiB after the voxels that its header"
                    " describes; export it again"
                )
        return left, self.file.raw.left

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
                members: Any = BufferedReader(_Members(file), CHUNK)
                yield Unpacked(path, members, DEFLATE * status.st_size)
            else:
                yield Unpacked(path, file, status.st_size)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path") from None
    except (EOFError, zlib.error) as error:
        what = str(error).rpartition(": ")[2]
        damage = f"{path} is a damaged gzip file ({what}); copy or export it again"
        raise InputError(damage) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check it") from error


def write_packed(file: BinaryIO, parts: Iterable[bytes]) -> None:
    """Write data as one gzip member, packed by several threads; equal data give equal files."""
    file.write(MEMBER + bytes(6) + b"\xff")  # no name, no time, any system
    checksum = size = 0
    waiting: deque[Future[bytes]] = deque()
    threads = min(os.cpu_count() or 1, MOST_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        for block in _blocks(parts):
            checksum, size = zlib.crc32(block, checksum), size + len(block)
            waiting.append(pool.submit(_deflated, block))
            if len(waiting) > 2 * threads:
                file.write(waiting.popleft().result())
        for packed in waiting:
            file.write(packed.result())
    file.write(zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS).flush())  # the end
    file.write(checksum.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little"))


def _blocks(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same data in blocks of the same size, up to the last."""
    left = bytearray()
    for part in parts:
        left += part
        while len(left) >= BLOCK:
            yield bytes(left[:BLOCK])
            del left[:BLOCK]
    yield bytes(left)


def _deflated(block: bytes) -> bytes:
    """A block that others may follow: it ends at a whole byte."""
    machine = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return machine.compress(block) + machine.flush(zlib.Z_SYNC_FLUSH)
