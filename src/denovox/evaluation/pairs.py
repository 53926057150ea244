"""`denovox evaluate`: pairs on disk, through a published protocol, to a table of figures.

What a model restored and what the truth is are files: any method's output can be judged, ours and
others' alike.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..core.errors import InputError, line
from ..io import formats, nifti
from ..io.new_folder import check_folder
from ..metrics.results import Figure, Results, write
from ..model.weights import describe, locate
from . import published
from .inputs import sha256
from .tables import detection_figures, slice_figures, volume_figures

SLICES = {
    "mayo16-redcnn": published.mayo16_redcnn,
    "mayo16-corediff": published.mayo16_corediff,
    "mayo16-founddiff": published.mayo16_founddiff,
}
COLUMNS = {"detect": ("map", "mask")}  # of a task; others have a reference and a test
FOLDERS = {"detect": ("maps", "masks")}
_ENDS = re.compile(r"\.(?:nii(?:\.gz)?|nrrd|mha|mhd|npy|png|tiff?|zip)$", re.IGNORECASE)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Pair:
    """Two files to be compared, and whose they are; score: of the whole image, if it was given."""

    patient: str
    first: Path
    second: Path
    score: float | None = None


def evaluate(
    name: str,
    data: Path,
    out: Path,
    method: str = "denovox",
    seed: int = 0,
    weights: str | None = None,
    force: bool = False,
    say: Say = lambda text: None,
) -> Results:
    """Judge all pairs of `data` by the protocol and write `figures.json` and `figures.md` to `out`.

    data: a CSV (patient, reference, test; for detection patient, map, mask and maybe score), or a
    folder with reference/ and test/ (maps/ and masks/). weights: what made the files, if a model
    of ours did; its sha256 is recorded on this word alone. `InputError` where pairs are not whole.
    """
    row = published.protocol(name)
    check_folder(out, force)
    made_by = None if weights is None else describe(locate(weights))[2]
    pairs = pairs_of(data, row.task)
    patients = [pair.patient for pair in pairs]
    figures: tuple[Figure, ...]
    if name in SLICES:
        found = []
        for pair in pairs:
            reference, test = (formats.read(path, say=say) for path in (pair.first, pair.second))
            if reference.shape != test.shape or not np.allclose(
                reference.affine, test.affine, atol=0.01
            ):
                raise InputError(f"{pair.second} is not on the grid of {pair.first}")
            found.append(SLICES[name](reference.hu, test.hu))
            say(f"{pair.second.name}: PSNR {found[-1].psnr_db.mean():.2f} dB")
        figures = slice_figures(found, patients, method, seed)
    elif name == "rplhr":
        volumes = [
            published.rplhr(nifti.read(one.first, hu=False).hu, nifti.read(one.second, hu=False).hu)
            for one in pairs
        ]
        figures = volume_figures(volumes, patients, method, seed)
    else:
        maps, masks = ([_image(p) for p in column] for column in _columns(pairs))
        given = [pair.score for pair in pairs]
        scores = [one for one in given if one is not None]
        if scores and len(scores) != len(given):
            raise InputError(f"{data}: some images have a score and some have none; give all")
        figures = detection_figures(maps, masks, patients, method, seed, scores or None)
    settings = {"method": method, "seed": seed, "pairs": len(pairs)}
    notes: tuple[str, ...] = (
        f"published test set: {row.patients}",
        f"convention: {row.source}",
        row.needs,
    )
    if made_by is not None:
        notes += (f"that {weights} made these files was said, not measured",)
    judged = tuple(_facts(pair, row.task) for pair in pairs)
    results = Results(name, str(data), figures, settings, made_by, __version__, notes, judged)
    write(results, out, force)
    return results


def pairs_of(data: Path, task: str) -> list[Pair]:
    """The pairs of a CSV or of two folders, in order; `InputError` where one has no partner."""
    if data.is_dir():
        return _of_folders(data, FOLDERS.get(task, ("reference", "test")), task)
    first, second = COLUMNS.get(task, ("reference", "test"))
    try:
        with data.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{data} cannot be read as a CSV of pairs ({line(error)})") from None
    pairs = []
    for number, row in enumerate(rows, 2):
        lacks = [name for name in ("patient", first, second) if not row.get(name)]
        if lacks:
            raise InputError(f"{data}, line {number}: no {' and no '.join(lacks)}")
        try:
            score = float(row["score"]) if row.get("score") else None
        except ValueError:
            raise InputError(f"{data}, line {number}: '{row['score']}' is no score") from None
        paths = (data.parent / row[first], data.parent / row[second])
        pairs.append(Pair(row["patient"], *paths, score))
    if not pairs:
        raise InputError(
            f"{data} has no pairs; it needs a line each below 'patient,{first},{second}'"
        )
    return pairs


def _of_folders(data: Path, names: tuple[str, str], task: str) -> list[Pair]:
    there = [
        {_ENDS.sub("", p.name): p for p in sorted((data / name).glob("[!.]*"))} for name in names
    ]
    for name, found in zip(names, there, strict=True):
        if not found:
            raise InputError(f"{data / name} is no folder with files in it; give a CSV or {names}")
    alone = sorted(set(there[0]) ^ set(there[1]))
    if alone:
        raise InputError(f"{data}: {', '.join(alone[:5])} has no partner of the same name")
    # BMAD's images are <patient>_<slice>; scans are one a patient.
    return [
        Pair(stem.rpartition("_")[0] or stem if task == "detect" else stem, path, there[1][stem])
        for stem, path in there[0].items()
    ]


def _facts(pair: Pair, task: str) -> dict[str, Any]:
    """Which files were judged, by content."""
    told: dict[str, Any] = {"patient": pair.patient}
    names = COLUMNS.get(task, ("reference", "test"))
    for name, path in zip(names, (pair.first, pair.second), strict=True):
        told |= {name: str(path), f"{name}_sha256": sha256(path)}
    return told


def _columns(pairs: Sequence[Pair]) -> tuple[list[Path], list[Path]]:
    return [pair.first for pair in pairs], [pair.second for pair in pairs]


def _image(path: Path) -> np.ndarray:
    """A map or mask: .npy, a volume, or a picture of one channel."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix.lower() in (".png", ".tif", ".tiff"):
            from skimage.io import imread

            image = imread(path)
            if image.ndim != 2:
                raise InputError(f"{path} has colours; give one channel")
            return np.asarray(image)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({line(error)})") from None
    return formats.read(path, hu=False).hu
