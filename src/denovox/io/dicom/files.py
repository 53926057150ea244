"""Find DICOM objects: in a folder (searched recursively), in a ZIP, or one file.

Nothing is unpacked to disk, symlink loops are not followed, only regular files are opened, and no
length stated in a file leads to an allocation that the file could not fill.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import IO

from pydicom.errors import BytesLengthException, InvalidDicomError

from ...core.errors import InputError, line

MOST_UNPACKED = 64 * 2**30  # bytes a ZIP may hold; a whole-body scan of 4000 slices is 2 GiB
MOST_MEMBER = 16 * 2**30  # bytes of one file in it
# What pydicom, zipfile and others raise on damaged bytes, from their source code and fuzzing.
DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
SNIFFED = 512  # bytes that tell whether a file is DICOM
_FIRST_GROUPS = (2, 4, 8)
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"SQ", b"UC", b"UN", b"UR", b"UT")


class Bounded:
    """A file whose reads are capped at its size: a false length costs no memory."""

    def __init__(self, file: IO[bytes] | BufferedIOBase, size: int) -> None:
        self._file, self._size = file, size

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes (all if negative), or fewer at the end."""
        rest = max(0, self._size - self.tell())
        return self._file.read(rest if size is None or size < 0 else min(size, rest))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position, as files do."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The current position in bytes."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass(frozen=True)
class Part:
    """One file: on disk, or a member of a ZIP. name: as used in messages. size: in bytes."""

    name: str
    size: int
    path: Path
    archive: zipfile.ZipFile | None = None
    member: zipfile.ZipInfo | None = None

    @contextmanager
    def open(self) -> Iterator[Bounded]:
        """Open it for reading; raises one of `DAMAGE` if that fails."""
        if self.archive is None or self.member is None:
            with open(self.path, "rb") as file:
                yield Bounded(file, self.size)
        else:
            with self.archive.open(self.member) as inside:
                yield Bounded(inside, self.size)


def is_dicom(start: bytes) -> bool:
    """Whether the first bytes (`SNIFFED`) of a file are DICOM, with or without its preamble."""
    return start[128:132] == b"DICM" or any(_bare(start, order) for order in ("<", ">"))


def _bare(start: bytes, order: str) -> bool:
    """Whether bytes are data elements of ascending tags from the first groups (PS3.5 7.1)."""
    at, before, count = 0, -1, 0
    while count < 3 and at + 8 <= len(start):
        group, element = struct.unpack_from(f"{order}HH", start, at)
        tag, kind = group << 16 | element, start[at + 4 : at + 6]
        if tag <= before or (before < 0 and group not in _FIRST_GROUPS):
            return False
        if not (kind.isalpha() and kind.isupper()):  # implicit VR
            head, (size,) = 8, struct.unpack_from(f"{order}L", start, at + 4)
        elif kind in _LONG_VRS:
            head, (size,) = 12, struct.unpack_from(f"{order}L", start.ljust(at + 12), at + 8)
        else:
            head, (size,) = 8, struct.unpack_from(f"{order}H", start, at + 6)
        if size > len(start) and kind not in _LONG_VRS:
            return count > 1
        at, before, count = at + head + size, tag, count + 1
    return count > 1


@contextmanager
def parts(path: Path) -> Iterator[tuple[list[Part], list[Part]]]:
    """(DICOM files, others) under a folder, in a ZIP, or the one file; sorted by name.

    Raises `InputError` if one cannot be read, or is named .dcm but is not DICOM: a slice may be
    lost.
    """
    with ExitStack() as held:
        try:
            if os.path.isdir(path):
                found = _in_folder(path)
            elif is_zip(path):
                found = _in_zip(path, held.enter_context(zipfile.ZipFile(path)))
            else:
                found = [Part(str(path), os.stat(path).st_size, path)]
        except FileNotFoundError:
            raise InputError(f"{path} does not exist; check the path") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); check it") from error
        except DAMAGE as error:
            what = f"{path} is a damaged ZIP ({line(error)}); copy or export it again"
            raise InputError(what) from None
        yield _sorted(found)


def is_zip(path: Path) -> bool:
    """Whether a file starts like a ZIP, including an empty one."""
    with open(path, "rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _sorted(found: list[Part]) -> tuple[list[Part], list[Part]]:
    """DICOM files and others, distinguished by content."""
    dicom, others = [], []
    for part in sorted(found, key=lambda part: part.name):
        try:
            with part.open() as file:
                start = file.read(SNIFFED)
        except DAMAGE as error:
            raise InputError(f"{part.name} cannot be read ({line(error)}); copy it again") from None
        if is_dicom(start):
            dicom.append(part)
        elif part.name.lower().endswith((".dcm", ".ima")):
            raise InputError(
                f"{part.name} is named DICOM but is not ({part.size} bytes, no DICM at byte 128):"
                " a slice may be missing; copy or export it again, or remove the file"
            )
        else:
            others.append(part)
    return dicom, others


def _in_folder(folder: Path) -> list[Part]:
    """The regular files under a folder, except hidden ones; no folder is entered twice."""
    found, visited = [], set()
    for root, folders, files in os.walk(folder, followlinks=True):
        there = os.stat(root)
        if (there.st_dev, there.st_ino) in visited:
            folders.clear()
            continue
        visited.add((there.st_dev, there.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(root, name)
            if name.startswith(".") or not path.exists():  # macOS's ._ files; a dangling link
                continue
            status = path.stat()
            if stat.S_ISREG(status.st_mode):  # a pipe would block
                found.append(Part(str(path), status.st_size, path))
    return found


def _in_zip(path: Path, archive: zipfile.ZipFile) -> list[Part]:
    """The files in a ZIP, except hidden ones; `InputError` if it is a bomb or encrypted."""
    members = [member for member in archive.infolist() if not member.is_dir()]
    total, most = (
        sum(member.file_size for member in members),
        max((member.file_size for member in members), default=0),
    )
    if total > MOST_UNPACKED or most > MOST_MEMBER:
        raise InputError(
            f"{path} unpacks to {total / 2**30:.0f} GiB (its largest file to {most / 2**30:.0f}"
            " GiB), more than any CT; if you trust it, unpack it yourself and give the folder"
        )
    if any(member.flag_bits & 1 for member in members):
        raise InputError(f"{path} is password-protected; unpack it and give the folder")
    return [
        Part(f"{path}/{line(member.filename)}", member.file_size, path, archive, member)
        for member in members
        if not member.filename.startswith("__MACOSX/")
        and not member.filename.rsplit("/", 1)[-1].startswith(".")
    ]
