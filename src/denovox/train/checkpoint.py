"""The state of a run on disk: whole or not at all, and the one before it beside it."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ..core.errors import InputError

NAME, BEFORE = "checkpoint.pt", "checkpoint-before.pt"


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Within the block no other run trains in a folder: two would mix their states.

    `InputError` where one does. Where the file system knows no locks, nothing can be told.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another run trains in {folder}; give this one a folder of its own, or start processes"
            " that are to train together by torchrun (docs/training.md); if none does, remove"
            f" {folder / '.lock'}"
        ) from None
    except (NotImplementedError, OSError):
        pass  # no locks here: filelock before 4 says so by the first, a file system by the second
    try:
        yield
    finally:
        lock.release()


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write beside, flush to disk, rename: whatever happens, the last good state stays.

    The state that is replaced is kept as `BEFORE`. `OSError` where it cannot be written: all is as
    it was then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f".{NAME}.*"):  # of a run that was killed while it wrote
        left.unlink(missing_ok=True)
    beside = folder / f".{NAME}.{os.getpid()}"
    try:
        with open(beside, "wb") as file:
            _write(state, file)
            file.flush()
            os.fsync(file.fileno())
        if (folder / NAME).exists():
            (folder / NAME).replace(folder / BEFORE)
        beside.replace(folder / NAME)
        _flush(folder)
    finally:
        beside.unlink(missing_ok=True)


def _write(state: dict[str, Any], file: Any) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # what torch's zip writer makes of an OSError under it
        cause = error.__context__
        raise cause if isinstance(cause, OSError) else OSError(str(error)) from None


def _flush(folder: Path) -> None:
    """Names are on disk only when their folder is."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def load(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """(the last good state, or None where no run has saved one; a line to be said, or "").

    Every byte is checked against the CRC that it was written with. `InputError` where there are
    states and none is good.
    """
    paths = [path for path in (folder / NAME, folder / BEFORE) if path.exists()]
    for number, path in enumerate(paths):
        state = _read(path)
        if state is not None:
            passed = f"{folder / NAME} is damaged or missing; going on from the state before it"
            return state, passed if number or path.name == BEFORE else ""
    if not paths:
        return None, ""
    raise InputError(f"{paths[0]}: not a readable checkpoint; move it away to start anew")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with zipfile.ZipFile(path) as whole:
            if whole.testzip() is not None:
                return None
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        return state
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile):
        return None
