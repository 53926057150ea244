"""Where DICOM objects are written: to a folder, to a ZIP, or to a single file; all or none."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile

from pydicom import Dataset

from .. import atomic

_IN_MEMORY = 2**21  # bytes of an object on its way into a ZIP; larger ones wait on disk
_MOST = 2**31 - 1  # bytes of a member of a ZIP without its 64 bit extensions


def check(path: Path, force: bool) -> None:
    """`InputError` if `files` could not write there; call this before the computation."""
    if _zipped(path):
        atomic.check_writable(path, force, (".zip",))
    else:
        atomic.check_folder(path, force)


@contextmanager
def files(path: Path, force: bool) -> Iterator[Callable[[str, Dataset], None]]:
    """What adds an object to the folder or the ZIP; all of them appear at the end, or none.

    A ZIP has the same bytes whenever it is written. `InputError` if writing fails.
    """
    if not _zipped(path):
        with atomic.open_folder(path, force) as folder:
            yield lambda name, found: found.save_as(folder / name, enforce_file_format=True)
        return
    there = os.path.dirname(os.path.realpath(path))
    with (
        atomic.user_output(path),
        atomic.open_file(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):

        def add(name: str, found: Dataset) -> None:
            with SpooledTemporaryFile(_IN_MEMORY, dir=there) as content:
                found.save_as(content, enforce_file_format=True)
                long = content.tell() > _MOST
                content.seek(0)
                with archive.open(name, "w", force_zip64=long) as member:
                    shutil.copyfileobj(content, member, 2**20)
            archive.getinfo(name).external_attr = 0o644 << 16

        yield add


def write(path: str | Path, found: Dataset) -> None:
    """Write one object to a file, in full or not at all; `InputError` if that fails."""
    with atomic.user_output(path), atomic.open_file(path) as file:
        found.save_as(file, enforce_file_format=True)


def _zipped(path: Path) -> bool:
    return path.suffix.lower() == ".zip"
