"""The nnU-Net v2 data set layout: CTs and label maps that nnU-Net can train on directly.

    imagesTr/<case>_0000.nii.gz    int16 HU, RAS; 0000 is its first and only channel
    labelsTr/<case>.nii.gz         uint8, 1 in lesions, or other labels; the same header except for
                                   the type
    dataset.json                   the channels and labels, and the number of cases

nnU-Net expects a data set in `$nnUNet_raw/DatasetXXX_Name` (XXX: three digits, Name: any); any
other folder can be filled as well and moved there later. Format: nnU-Net's
documentation/reference/dataset-format.md.

The label is written before the image, each atomically: a case with an image is complete whenever a
run is stopped, and `write_dataset_json` counts no others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from ..core.errors import InputError, ensure, line
from ..core.volume import Volume
from ..io.atomic import sweep, user_output, write_file
from ..io.nifti_bytes import save_new

CHANNELS = {"0": "CT"}  # "CT" makes nnU-Net normalise by the HU statistics of the data set
LABELS = {"background": 0, "lesion": 1}
ENDING = ".nii.gz"


def case_name(case_id: str) -> str:
    """The id of a case in a form that nnU-Net and any file system accept.

    `<scan>/<region>` becomes `<scan>_<region>`: unique, as no region contains a _. `InputError` if
    an id is not one of a store.
    """
    safe = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9.-]+", case_id)
    ensure(safe, f"'{line(case_id)}' is not a case of a store (<scan>/<region>); prepare it again")
    return case_id.replace("/", "_")


def start(folder: Path, labels: Mapping[str, int] = LABELS) -> None:
    """Create the folders and remove partial files of killed runs; nothing else may be writing.

    labels: of the data set, name -> value, without gaps from 0, the background. Raises
    `InputError` if this fails, or if there is a data set with other channels or labels.
    """
    _read(folder, labels)
    try:
        for part in (folder / "imagesTr", folder / "labelsTr"):
            part.mkdir(parents=True, exist_ok=True)
        for part in (folder, *folder.glob("*/")):
            sweep(part)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written to ({error.strerror}); choose another"
        ) from error


def paths(folder: Path, name: str) -> tuple[Path, Path]:
    """The paths of a case's (image, label)."""
    return folder / "imagesTr" / f"{name}_0000{ENDING}", folder / "labelsTr" / f"{name}{ENDING}"


def is_done(folder: Path, name: str) -> bool:
    """Whether a case is complete."""
    return all(path.is_file() for path in paths(folder, name))


def write_case(
    folder: Path,
    name: str,
    volume: Volume,
    values: Bool[np.ndarray, "x y z"] | UInt8[np.ndarray, "x y z"],
) -> None:
    """Write a scan and its lesion mask or the values of its label map, on exactly the same grid.

    A complete case is left alone; for an incomplete one, both files are written again. HU are
    rounded and clipped to int16. `InputError` if writing fails or HU are not finite; `ValueError`
    if the label map is not on the scan's grid.
    """
    if values.shape != volume.shape:
        raise ValueError(f"labels of {values.shape} on a grid of {volume.shape}")
    if is_done(folder, name):
        return
    bad = volume.hu.size - np.count_nonzero(np.isfinite(volume.hu))
    ensure(not bad, f"{name} was not written: {bad} of its voxels are NaN or infinite")
    image, label = paths(folder, name)
    image.unlink(missing_ok=True)  # its label is gone: until that is written, it is not a case
    save_new(values.astype(np.uint8), volume.affine, np.dtype(np.uint8), label, True)
    save_new(volume.hu, volume.affine, np.dtype("<i2"), image, False)


def names(folder: Path) -> list[str]:
    """The complete cases, in order."""
    found = (path.name for path in (folder / "imagesTr").glob(f"*_0000{ENDING}"))
    every = (name.removesuffix(f"_0000{ENDING}") for name in found)
    return sorted(name for name in every if is_done(folder, name))


def write_dataset_json(folder: Path, labels: Mapping[str, int] = LABELS) -> int:
    """Write dataset.json for the complete cases; returns their number.

    Other fields of an existing dataset.json (name, licence, ...) are kept. `InputError` if it has
    other channels or labels, or cannot be written.
    """
    content = _read(folder, labels) | _fixed(labels) | {"numTraining": len(names(folder))}
    with user_output(folder / "dataset.json"):
        write_file(folder / "dataset.json", json.dumps(content, indent=1) + "\n")
    return int(content["numTraining"])


def _fixed(labels: Mapping[str, int]) -> dict[str, Any]:
    return {"channel_names": CHANNELS, "labels": dict(labels), "file_ending": ENDING}


def _read(folder: Path, labels: Mapping[str, int]) -> dict[str, Any]:
    """The contents of dataset.json, or nothing; `InputError` if it is another data set's."""
    path = folder / "dataset.json"
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({line(error)}); remove it") from None
    same = isinstance(content, dict) and all(
        content.get(key) == value for key, value in _fixed(labels).items()
    )
    ensure(
        same, f"{path} describes a data set with other channels or labels; choose another folder"
    )
    return content
