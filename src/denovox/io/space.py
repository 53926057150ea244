"""Whether what a command will write fits on the disk, and whether another writes there already.

Imports nothing that a kit (`denovox pack`) lacks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..core.errors import InputError, ensure

TIGHTEST = 10  # gzip packs no CT more tightly; most come to a third


def packed_bytes(path: Path, size: float) -> int:
    """Bytes that voxels of `size` bytes take at the very least in a file of this name."""
    return int(size / (TIGHTEST if path.name.lower().endswith((".gz", ".zip")) else 1))


def check_space(sizes: Mapping[Path, int]) -> None:
    """Raise `InputError` if files of at least these sizes (bytes) cannot fit on their disks."""
    on: dict[int, list[Path]] = {}
    for path in sizes:
        on.setdefault(os.stat(_folder(path)).st_dev, []).append(path)
    for paths in on.values():
        folder = _folder(paths[0])
        need, free = sum(sizes[path] for path in paths), shutil.disk_usage(folder).free
        names = " and ".join(map(str, paths))
        ensure(
            need <= free,
            f"{names} cannot be written: at least {need / 1e6:.1f} MB are needed, and {folder} has"
            f" {free / 1e6:.1f} MB free; free some space, or choose another place",
        )


def _folder(path: Path) -> Path:
    """The folder that a path is in, or the first above it that exists already."""
    return next(one for one in Path(os.path.realpath(path)).parents if one.is_dir())


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Within the block no other process writes to a folder, which is created if it is missing.

    `InputError` with the sentence `busy` if one does. Not checked on a file system without locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(busy) from None
    except (NotImplementedError, OSError):
        pass  # no locks here: filelock before 4 raises the first, a file system the second
    try:
        yield
    finally:
        lock.release()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 where it cannot be read."""
    every = path.rglob("*") if path.is_dir() else [path]
    try:
        return sum(one.stat().st_size for one in every if one.is_file())
    except OSError:
        return 0
