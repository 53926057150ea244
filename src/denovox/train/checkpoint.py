"""The state of a run on disk, written atomically, with the previous one next to it."""

from __future__ import annotations

import os
import pickle
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from ..core.errors import InputError
from ..io.atomic import open_file, sweep
from ..io.space import locked

NAME, BEFORE = "checkpoint.pt", "checkpoint-before.pt"


def only_run(folder: Path) -> AbstractContextManager[None]:
    """Within the block no other run trains in the folder: two would mix up their states."""
    return locked(
        folder,
        f"another run is training in {folder}; use a different folder, or start processes that"
        " should train together with torchrun (docs/how-to/train.md); if there is no other run,"
        f" remove {folder / '.lock'}",
    )


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write a state atomically: whatever happens, the last good one is kept.

    The replaced state is kept as `BEFORE`. `OSError` if writing fails, which leaves everything as
    it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    with open_file(folder / NAME, keep=folder / BEFORE) as file:
        _write(state, file)
    _flush(folder)


def _write(state: dict[str, Any], file: Any) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # how torch's zip writer reports an OSError
        cause = error.__context__
        raise cause if isinstance(cause, OSError) else OSError(str(error)) from None


def _flush(folder: Path) -> None:
    """Sync the folder itself, so that renames are on disk too."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def load(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """(the last good state, or None if there is none yet; a log line, or "").

    Every byte is checked against its CRC. Raises `InputError` if there are states but none is
    intact.
    """
    paths = [path for path in (folder / NAME, folder / BEFORE) if path.exists()]
    for number, path in enumerate(paths):
        state = _read(path)
        if state is not None:
            passed = f"{folder / NAME} is damaged or missing; resuming from the previous state"
            return state, passed if number or path.name == BEFORE else ""
    if not paths:
        return None, ""
    raise InputError(f"{paths[0]}: not a readable checkpoint; move it away to start from scratch")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with zipfile.ZipFile(path) as whole:
            if whole.testzip() is not None:
                return None
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        return state
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile):
        return None
