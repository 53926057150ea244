"""A folder of results that is complete or not there."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from ..core.errors import InputError, line


def check_folder(folder: str | Path, force: bool = False) -> None:
    """`InputError` where a folder cannot be made there; ask before the work, not after it."""
    target = Path(folder)
    if target.is_file() or (target.is_symlink() and not target.exists()):
        raise InputError(f"{target} is no folder; name one that is not there yet")
    if not force and target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target} has files in it already; name another, or give --force")
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target.absolute().parent} is not there; make that folder first")


def write_folder(folder: str | Path, files: Mapping[str, bytes], force: bool = False) -> None:
    """Write the files into a new folder of that name: all of them, or nothing is left.

    They are written beside it and the folder is then renamed. With `force`, a folder that is there
    keeps its other files, and these are each replaced in one step.
    `InputError` where the folder has files (without `force`), or cannot be written.
    """
    check_folder(folder, force)
    target = Path(os.path.realpath(folder))
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        unfinished.mkdir()
        for name, content in files.items():
            (unfinished / name).write_bytes(content)
        if target.is_dir() and any(target.iterdir()):
            for name in files:
                os.replace(unfinished / name, target / name)
        else:
            os.replace(unfinished, target)
    except OSError as error:
        raise InputError(
            f"{target} could not be written ({error.strerror or line(error)}); check the disk"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
