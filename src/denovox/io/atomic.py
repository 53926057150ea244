"""Atomic writing of files and folders: all of it or nothing.

Everything is written under a hidden name next to its target and renamed once it is complete, so
readers see either the old content or the new, even after a kill. Writing raises `OSError`, for
callers that can carry on without the file; `user_output` turns it into `InputError`.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..core.errors import InputError, ensure, line

_HIDDEN = re.compile(r"\.[0-9a-f]{32}\.part")  # no reader mistakes it for an image or weights


def _hidden() -> str:
    return f".{uuid.uuid4().hex}.part"


@contextmanager
def open_file(path: str | Path, keep: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file for writing; it is renamed to `path` if the block ends without an error.

    By then it is on disk (fsync). A symlink stays: the file it points to is replaced. keep: the
    name, in the same folder, under which the replaced file is kept.
    """
    target = Path(os.path.realpath(path))
    temp = target.with_name(_hidden())
    try:
        # Not tempfile: its files have mode 0600 and would keep it under their final name.
        with open(temp, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and target.exists():
            target.replace(keep)
        temp.replace(target)
    finally:
        temp.unlink(missing_ok=True)


def write_file(path: str | Path, content: bytes | str) -> None:
    """Write bytes, or text as UTF-8, the way `open_file` does."""
    with open_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new hidden folder in `parent` (created if missing), removed when the block ends.

    To keep it, or files in it, rename them.
    """
    folder = parent / _hidden()
    try:
        folder.mkdir(parents=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def open_folder(folder: str | Path, force: bool = False) -> Iterator[Path]:
    """A folder to fill; it is renamed to `folder` if the block ends without an error.

    With `force`, an existing folder keeps its other files, and the new ones are moved into it, each
    in one step. `InputError` as in `check_folder`, and if writing fails.
    """
    check_folder(folder, force)
    target = Path(os.path.realpath(folder))
    with user_output(folder), scratch_folder(target.parent) as unfinished:
        yield unfinished
        if target.is_dir() and any(target.iterdir()) and force:
            for path in sorted(p for p in unfinished.rglob("*") if not p.is_dir()):
                destination = target / path.relative_to(unfinished)
                destination.parent.mkdir(parents=True, exist_ok=True)
                path.replace(destination)
        else:
            unfinished.replace(target)


def write_folder(folder: str | Path, files: Mapping[str, bytes | str], force: bool = False) -> None:
    """Write a folder of named files (text as UTF-8); force and errors as in `open_folder`."""
    with open_folder(folder, force) as unfinished:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            (unfinished / name).write_bytes(data)


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder; nothing else may be writing to it."""
    for path in folder.glob(".*.part"):
        if _HIDDEN.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def user_output(path: str | Path) -> Iterator[None]:
    """Turn an `OSError` in the block into an `InputError`: one sentence that names the path."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror or line(error)}); check the disk"
        ) from error


def check_writable(path: str | Path, force: bool, ends: tuple[str, ...]) -> None:
    """Raise `InputError` if a file could not be written; call this before the computation.

    force: an existing file may be replaced. ends: permitted suffixes, in lower case.
    """
    path = Path(path)
    folder = Path(os.path.realpath(path)).parent
    prefix = f"{path} cannot be written:"
    named = path.name.lower().endswith(ends)
    ensure(named, f"{prefix} the output name must end in {' or '.join(ends)}")
    ensure(os.path.isdir(folder), f"{prefix} {folder} is not a directory; create it first")
    ensure(not os.path.isdir(path), f"{prefix} it is a directory; name a file in it")
    ensure(
        force or not os.path.exists(path),
        f"{path} already exists; choose another name, or use --force",
    )
    _check_access(path, folder)


def check_folder(folder: str | Path, force: bool = False) -> None:
    """Raise `InputError` if a folder could not be written; call this before the computation.

    force: an existing folder may contain files.
    """
    target = Path(folder)
    parent = Path(os.path.realpath(target)).parent
    if target.is_file() or (target.is_symlink() and not target.exists()):
        raise InputError(f"{target} is not a folder; name one that does not exist yet")
    taken = not force and target.is_dir() and any(target.iterdir())
    ensure(not taken, f"{target} already contains files; choose another, or use --force")
    ensure(parent.is_dir(), f"{parent} does not exist; create that folder first")
    _check_access(target, parent)


def _check_access(path: Path, parent: Path) -> None:
    access = os.access(parent, os.W_OK | os.X_OK)
    ensure(access, f"{path} cannot be written: no permission to write to {parent}")
