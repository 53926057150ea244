"""nnU-Net v2's layout of a data set: CTs and label maps that its training takes as they are.

    imagesTr/<case>_0000.nii.gz    int16 HU, RAS; 0000 is its first and only channel
    labelsTr/<case>.nii.gz         uint8, 1 in lesions; the same header but for the type
    dataset.json                   what the channels and labels are, and how many cases there are

nnU-Net looks for a data set as `$nnUNet_raw/DatasetXXX_Name` (XXX: three digits, Name: any); any
other folder can be filled as well and be moved there later. Format: its own
documentation/reference/dataset-format.md.

The label is written before the image, each whole or not at all: what has an image is complete, at
any time that a run may be stopped, and `write_dataset_json` counts no others.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from ..core.errors import InputError, ensure, line
from ..core.volume import Volume
from ..io.nifti_bytes import save_new

CHANNELS = {"0": "CT"}  # "CT" is what makes nnU-Net normalise by the HU of the whole data set
LABELS = {"background": 0, "lesion": 1}
ENDING = ".nii.gz"
_FIXED: dict[str, Any] = {"channel_names": CHANNELS, "labels": LABELS, "file_ending": ENDING}
_HIDDEN = re.compile(r"\.[0-9a-f]{32}\.(nii\.gz|json)")  # what is left of files half written


def case_name(case_id: str) -> str:
    """The id of a store's case, as nnU-Net and any file system can have it.

    `<scan>/<region>` becomes `<scan>_<region>`: names differ where ids do, as no region has a _.
    `InputError` where an id is none of a store.
    """
    safe = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9.-]+", case_id)
    ensure(safe, f"'{line(case_id)}' is no case of a store (<scan>/<region>); prepare it again")
    return case_id.replace("/", "_")


def start(folder: Path) -> None:
    """Make the folders, and clear what killed runs left half written; nobody else may be writing.

    `InputError` where they cannot be made, or a data set of other channels or labels is there.
    """
    _read(folder)
    try:
        for part in (folder / "imagesTr", folder / "labelsTr"):
            part.mkdir(parents=True, exist_ok=True)
        for path in (*folder.glob(".*"), *folder.glob("*/.*")):
            if _HIDDEN.fullmatch(path.name):
                path.unlink()
    except OSError as error:
        raise InputError(f"{folder} cannot be filled ({error.strerror}); name another") from error


def paths(folder: Path, name: str) -> tuple[Path, Path]:
    """Where a case's (image, label) are."""
    return folder / "imagesTr" / f"{name}_0000{ENDING}", folder / "labelsTr" / f"{name}{ENDING}"


def is_done(folder: Path, name: str) -> bool:
    """Whether a case is complete."""
    return all(path.is_file() for path in paths(folder, name))


def write_case(
    folder: Path,
    name: str,
    volume: Volume,
    lesion: Bool[np.ndarray, "x y z"] | UInt8[np.ndarray, "x y z"],
) -> None:
    """Write a scan and where its lesions are (anything but 0), on one grid, bit for bit.

    A case that is complete is left alone; of one that is not, both files are written again. HU
    are rounded and clipped to int16. `InputError` where writing fails or HU are not finite;
    `ValueError` where the lesions are not on the scan's grid.
    """
    if lesion.shape != volume.shape:
        raise ValueError(f"lesions of {lesion.shape} on a grid of {volume.shape}")
    if is_done(folder, name):
        return
    bad = volume.hu.size - np.count_nonzero(np.isfinite(volume.hu))
    ensure(not bad, f"{name} is not written: {bad} voxels of it are NaN or infinite")
    image, label = paths(folder, name)
    image.unlink(missing_ok=True)  # it lost its label: until that is there, it is no case
    save_new((lesion != 0).astype(np.uint8), volume.affine, np.dtype(np.uint8), label, True)
    save_new(volume.hu, volume.affine, np.dtype("<i2"), image, False)


def names(folder: Path) -> list[str]:
    """The complete cases, in order."""
    found = (path.name for path in (folder / "imagesTr").glob(f"*_0000{ENDING}"))
    every = (name.removesuffix(f"_0000{ENDING}") for name in found)
    return sorted(name for name in every if is_done(folder, name))


def write_dataset_json(folder: Path) -> int:
    """Write what is complete into dataset.json; how many cases that is.

    What else an earlier dataset.json says (name, licence, ...) stays. `InputError` where it tells
    of other channels or labels, or cannot be written.
    """
    told = _read(folder) | _FIXED | {"numTraining": len(names(folder))}
    beside = folder / f".{uuid.uuid4().hex}.json"
    try:
        beside.write_text(json.dumps(told, indent=1) + "\n")
        os.replace(beside, folder / "dataset.json")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); check it") from error
    finally:
        beside.unlink(missing_ok=True)
    return int(told["numTraining"])


def _read(folder: Path) -> dict[str, Any]:
    """What dataset.json says, or nothing; `InputError` where it is another data set's."""
    path = folder / "dataset.json"
    if not path.exists():
        return {}
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({line(error)}); take it away") from None
    same = isinstance(told, dict) and all(told.get(key) == value for key, value in _FIXED.items())
    ensure(same, f"{path} is of a data set with other channels or labels; name another folder")
    return told
