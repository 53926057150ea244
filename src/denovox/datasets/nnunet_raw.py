"""nnU-Net's raw data sets (versions 1 and 2) and Decathlon tasks -> cases.

    dataset.json                  channels (v1: modality) and labels
    imagesTr/<case>_0000.nii.gz   channel 0 of a case; Decathlon tasks leave out the _0000
    labelsTr/<case>.nii.gz        its label map; imagesTs and labelsTs likewise

Only the channels that dataset.json calls CT are read. Format: nnU-Net's
documentation/reference/dataset-format.md; `nnunet.py` writes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..core.errors import InputError, ensure, line
from . import label_sets
from .source_scans import PAPERS, Entry, LeftOut, Mask

NAME = "nnunet"
LOOK = "dataset.json with imagesTr/<case>_0000.nii.gz and labelsTr/<case>.nii.gz"
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
_JSON = re.compile(r"(?:.*/)?dataset\.json")
_CT = re.compile(r"(?i)(?<![a-z])(?:ct|cta|cect|ncct|computed tomography)(?![a-z])")


def roots(files: list[str]) -> list[str]:
    """The folders (relative, with a final slash, or "") that hold a data set of this layout."""
    every = (name.removesuffix("dataset.json") for name in files if _JSON.fullmatch(name))
    tr, ts = "imagesTr/", "imagesTs/"
    return [at for at in every if any(one.startswith((at + tr, at + ts)) for one in files)]


def cases(source: Path, files: list[str]) -> tuple[list[Entry], list[LeftOut]]:
    """(the cases of all data sets below a folder, what is left out).

    The patient is nnU-Net's case identifier, or what the lesions.json of `denovox augment` states.
    A case of imagesTs is a test case. `InputError` for a dataset.json that cannot be read, or one
    without a CT channel.
    """
    found: list[Entry] = []
    left: list[LeftOut] = []
    known: set[str] = set()
    every = roots(files)
    ensure(every, f"{source} has no dataset.json beside imagesTr; nnU-Net needs one")
    for at in every:
        prefix = f"{PurePosixPath(at).name}_" if at and len(every) > 1 else ""
        facts = _Facts(source / f"{at}dataset.json")
        patients = _patients(source / f"{at}lesions.json")
        for part in ("Tr", "Ts"):
            names = [one for one in files if one.startswith(f"{at}images{part}/")]
            for name in names:
                case, channel = facts.split(name)
                if not case:
                    continue
                known.add(name)
                if channel not in facts.ct:
                    of = facts.channels.get(channel)
                    why = f"channel {channel} ({of}), not CT" if of else "a channel not described"
                    left.append((name, why))
                    continue
                mask = f"{at}labels{part}/{case}{facts.ending}"
                known.add(mask)
                there = mask in files
                several = f"_{channel:04}" if len(facts.ct) > 1 else ""
                found.append(
                    Entry(
                        id=f"{prefix}{case}{several}",
                        patient=patients.get(case, case),
                        scan=source / name,
                        masks=(Mask(source / mask, facts.bridge),) if there else (),
                        source=facts.name,
                        licence=facts.licence,
                        notes=("without a mask",) if part == "Tr" and not there else (),
                        split="test" if part == "Ts" else None,
                    )
                )
    left += [
        (name, "not part of this layout")
        for name in files
        if name not in known and not PAPERS.fullmatch(name)
    ]
    return found, left


def bridge_of(path: Path) -> label_sets.Bridge:
    """What the values of a data set's label maps mean, by the names in its dataset.json;
    `InputError` if it cannot be read."""
    return label_sets.by_names(_names(_content(path)["labels"], path))


def _content(path: Path) -> Any:
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({line(error)}); check it") from None
    fine = isinstance(content, dict) and isinstance(content.get("labels"), dict)
    ensure(fine, f"{path} has no 'labels'; it is not a dataset.json of nnU-Net")
    return content


class _Facts:
    """What a dataset.json states: channels, labels, ending."""

    def __init__(self, path: Path) -> None:
        content = _content(path)
        self.name = str(content.get("name") or path.parent.name)
        self.licence = str(content.get("licence") or content.get("license") or "")
        self.ending = str(content.get("file_ending") or ".nii.gz")
        ensure(
            self.ending in ENDINGS,
            f"{path}: images ending in {line(self.ending)} are not volumes that denovox reads"
            f" ({', '.join(ENDINGS)}); convert them",
        )
        stated = content.get("channel_names") or content.get("modality")
        ensure(
            isinstance(stated, dict) and stated, f"{path} has neither channel_names nor modality"
        )
        self.channels = {int(key): str(of) for key, of in _numbered(stated, path)}
        self.ct = tuple(key for key, of in self.channels.items() if _CT.search(of))
        shown = ", ".join(f"{key}: {of}" for key, of in self.channels.items())
        ensure(
            self.ct,
            f"{path} names no CT among its channels ({line(shown)}); denovox reads CT only. If one"
            ' is a CT, call it "CT" there',
        )
        self.bridge = label_sets.by_names(_names(content["labels"], path))

    def split(self, name: str) -> tuple[str, int]:
        """(case, channel) of a path; ("", 0) if it is not an image of this data set."""
        last = PurePosixPath(name).name
        if not last.endswith(self.ending):
            return "", 0
        stem = last.removesuffix(self.ending)
        numbered = re.fullmatch(r"(.+)_(\d{4})", stem)
        if numbered:
            return numbered[1], int(numbered[2])
        return (stem, 0) if len(self.channels) == 1 else ("", 0)  # a Decathlon task


def _numbered(table: Mapping[str, Any], path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a table of channels, whose keys are numbers."""
    for key, of in table.items():
        ensure(key.isascii() and key.isdigit(), f"{path}: '{line(key)}' is not a channel number")
        yield key, of


def _names(table: Mapping[str, Any], path: Path) -> dict[int, list[str]]:
    """Label value -> its names, from name -> value(s) (v2) or value -> name (v1); without 0."""
    found: dict[int, list[str]] = {}
    for key, of in table.items():
        old = key.isdigit() and isinstance(of, str) and not of.isdigit()
        name, values = (of, [key]) if old else (key, of if isinstance(of, list) else [of])
        for value in values:
            whole = isinstance(value, int | str) and str(value).isdigit()
            ensure(whole, f"{path}: label '{line(key)}' has the value {line(value)}, not a number")
            if int(value):
                found.setdefault(int(value), []).append(name)
    return found


def _patients(path: Path) -> dict[str, str]:
    """case -> patient, from what `denovox augment` writes beside its cases."""
    try:
        rows = json.loads(path.read_text())
        return {str(row["case"]): str(row["patient"]) for row in rows}
    except (OSError, ValueError, TypeError, KeyError):
        return {}
