"""Atomic writing of files and folders: all of it or nothing; and of several, all or none.

Everything is written under a hidden name beside its target and renamed once it is complete, so
readers see the old content or the new, even after a kill; in a `together` block, when that ends.
Writing raises `OSError`, for callers that can do without; `user_output` makes it an `InputError`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ..core.errors import InputError, ensure, line

_ADVICE = {  # what to do about an error of the system; otherwise: check the disk
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "free some space, or choose another place",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
}
_HIDDEN = re.compile(r"\.[0-9a-f]{32}\.part")  # no reader mistakes it for an image or weights


def _hidden() -> str:
    return f".{uuid.uuid4().hex}.part"


# ---- sets of files ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Move:
    """A complete file or folder, the name that it will take, and that which the old one keeps."""

    source: Path
    target: Path
    keep: Path | None = None


@dataclass(frozen=True)
class _Set:
    """What is renamed at once. cleanup: removes whatever was not."""

    cleanup: ExitStack
    moves: list[_Move] = field(default_factory=list)


_collecting: ContextVar[_Set | None] = ContextVar("collecting", default=None)


@contextmanager
def together() -> Iterator[None]:
    """All files and folders that are written in the block appear when it ends, or none of them.

    If one cannot be renamed, those before it are withdrawn, and what they replaced is restored
    (`InputError`, which names it). Write the main result last: where it is, all others are, even
    after a kill. Blocks within blocks join the outermost.
    """
    if _collecting.get() is not None:
        yield
        return
    with ExitStack() as cleanup:
        files = _Set(cleanup)
        before = _collecting.set(files)
        try:
            yield
        finally:
            _collecting.reset(before)
        _commit(files.moves, user_output)


def pending() -> list[tuple[Path, Path]]:
    """(final place, present place) of what waits for the end of the `together` block, if any."""
    files = _collecting.get()
    return [] if files is None else [(move.target, move.source) for move in files.moves]


@contextmanager
def _joined() -> Iterator[_Set]:
    """The set of the `together` block that we are in, or one that ends with this block."""
    if (files := _collecting.get()) is not None:
        yield files
        return
    with ExitStack() as cleanup:
        files = _Set(cleanup)
        yield files
        _commit(files.moves)


def _commit(
    moves: list[_Move],
    naming: Callable[[Path], AbstractContextManager[None]] = lambda target: nullcontext(),
) -> None:
    """Rename all, or none. naming: how an error is turned into one that names the target."""
    with ExitStack() as spare, ExitStack() as undo:
        for move in moves:
            with naming(move.target):
                move.target.parent.mkdir(parents=True, exist_ok=True)
                if move.keep is not None and move.target.exists():
                    move.target.replace(move.keep)
                if len(moves) > 1:
                    before = move.target.with_name(_hidden())
                    spare.callback(_remove, before)
                    undo.callback(_withdraw, move, before)
                    _hold(move.target, before)
                move.source.replace(move.target)
        undo.pop_all()


def _hold(target: Path, before: Path) -> None:
    """Give what is about to be replaced a second, hidden name."""
    if target.is_dir():  # an empty one: a folder with files is never replaced as a whole
        before.mkdir()
        target.rmdir()
    elif target.exists():
        try:
            os.link(target, before)
        except OSError:  # a file system without hard links
            target.replace(before)


def _withdraw(move: _Move, before: Path) -> None:
    """Undo a rename, or as much of it as was done."""
    if not move.source.exists():
        move.target.replace(move.source)
    if before.exists() and not (before.is_dir() and move.target.exists()):
        before.replace(move.target)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


# ---- files and folders --------------------------------------------------------------------------


@contextmanager
def open_file(path: str | Path, keep: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file for writing; it is renamed to `path` if the block ends without an error.

    By then it is on disk (fsync). A symlink stays: the file it points to is replaced. keep: the
    name, in the same folder, under which the replaced file is kept.
    """
    target = Path(os.path.realpath(path))
    temp = target.with_name(_hidden())
    with _joined() as files:
        files.cleanup.callback(temp.unlink, missing_ok=True)
        # Not tempfile: its files have mode 0600 and would keep it under their final name.
        with open(temp, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        files.moves.append(_Move(temp, target, keep))


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

    With `force`, an existing folder keeps its other files, and the new ones are moved into it, all
    or none. `InputError` as in `check_folder`, and if writing fails.
    """
    check_folder(folder, force)
    target = Path(os.path.realpath(folder))
    with user_output(folder), _joined() as files:
        unfinished = files.cleanup.enter_context(scratch_folder(target.parent))
        before = _collecting.set(None)  # a file in it is complete as soon as it is written
        try:
            yield unfinished
        finally:
            _collecting.reset(before)
        if target.is_dir() and any(target.iterdir()) and force:
            every = sorted(path for path in unfinished.rglob("*") if not path.is_dir())
            files.moves.extend(_Move(path, target / path.relative_to(unfinished)) for path in every)
        else:
            files.moves.append(_Move(unfinished, target))


def write_folder(folder: str | Path, files: Mapping[str, bytes | str], force: bool = False) -> None:
    """Write files, by path in the folder (text as UTF-8); force, errors: see `open_folder`."""
    with open_folder(folder, force) as unfinished:
        for name, content in files.items():
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder; nothing else may be writing to it."""
    for path in folder.glob(".*.part"):
        if _HIDDEN.fullmatch(path.name):
            _remove(path)


@contextmanager
def user_output(path: str | Path) -> Iterator[None]:
    """Turn an `OSError` in the block into an `InputError`: one sentence that names the path.

    An error that names a file elsewhere, such as one that could not be read, is left as it is.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str | bytes | Path):
            there = Path(os.path.realpath(os.fsdecode(error.filename)))
            if Path(os.path.realpath(path)).parent not in there.parents:
                raise
        advice = _ADVICE.get(error.errno or 0, "check the disk")
        raise InputError(
            f"{path} could not be written ({error.strerror or line(error)}); {advice}"
        ) from error


# ---- before the computation ---------------------------------------------------------------------


def check_writable(path: str | Path, force: bool, ends: tuple[str, ...]) -> None:
    """Raise `InputError` if a file could not be written; call this before the computation.

    force: an existing file may be replaced. ends: permitted suffixes, in lower case.
    """
    path = Path(path)
    prefix = f"{path} cannot be written:"
    named = path.name.lower().endswith(ends)
    ensure(named, f"{prefix} the output name must end in {' or '.join(ends)}")
    ensure(not os.path.isdir(path), f"{prefix} it is a directory; name a file in it")
    ensure(
        force or not os.path.exists(path),
        f"{path} already exists; choose another name, or use --force",
    )
    _try_name(path)


def check_folder(folder: str | Path, force: bool = False, parents: bool = False) -> None:
    """Raise `InputError` if a folder could not be written; call this before the computation.

    force: an existing folder may contain files. parents: missing folders above it will be created.
    """
    target = Path(folder)
    if os.path.lexists(target) and not os.path.isdir(target):
        raise InputError(f"{target} is not a folder; name one that does not exist yet")
    taken = not force and os.path.isdir(target) and any(target.iterdir())
    ensure(not taken, f"{target} already contains files; choose another, or use --force")
    while parents and not os.path.lexists(target) and not os.path.lexists(target.absolute().parent):
        target = target.absolute().parent
    _try_name(target)


def _try_name(path: Path) -> None:
    """`InputError` unless its folder takes a file of this name: one is created out of sight."""
    target = Path(os.path.realpath(path))
    parent, prefix = target.parent, f"{path} cannot be written:"
    ensure(
        os.path.isdir(parent) or not os.path.lexists(parent),
        f"{prefix} {parent} is a file, not a folder; choose another place",
    )
    try:
        os.stat(parent)
        allowed = os.access(parent, os.W_OK | os.X_OK)
        ensure(allowed, f"{prefix} no permission to write to {parent}")
        with scratch_folder(parent) as hidden:
            (hidden / target.name).touch()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{prefix} the folder {parent} does not exist; create it first") from None
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "choose another name or folder")
        long = error.errno == errno.ENAMETOOLONG
        size = f" ({len(os.fsencode(target.name))} bytes)" if long else ""
        raise InputError(f"{prefix} {error.strerror or line(error)}{size}; {advice}") from error
