"""Build a data set of scans with lesions from scans without, to train detectors or segmenters.

    imagesTr, labelsTr, dataset.json    nnU-Net v2's layout (datasets/nnunet.py); the label is 1 in
                                        lesions, synthetic or real
    lesions/<case>.json                 what was inserted where, and how: one file per pair
    lesions.json                        all of these, one pair per line
    splits_final.json                   nnU-Net's folds, by patient: for its preprocessed folder

`<case>_s<k>` is copy k of a case, `<case>_real` the case itself, if it has real lesions. The
lesions of copy k, and the noise they are generated from, depend only on (seed, case, k): adding
copies or cases changes none of the existing ones, and a stopped run resumes where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from ..core.errors import InputError, ensure, line
from ..core.volume import Volume
from ..io.atomic import user_output, write_file
from ..simulate.lesion_placement import LesionRequest, place
from . import nnunet
from .store import Case

Make = Callable[[Volume, UInt8[np.ndarray, "x y z"], int], Volume]
Facts = dict[str, Any]


def augment(
    cases: Sequence[Case],
    folder: Path,
    per_scan: int,
    seed: int,
    wanted: Callable[[Case], LesionRequest],
    make: Make,
    about: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Fill a folder with `per_scan` copies of each case; yields a line as each is done.

    wanted: which lesions a case gets. make: (scan in HU, lesion numbers, seed) -> the scan with
    lesions, on the same grid. about: what else the copies depend on (weights, steps), stored with
    them. Existing pairs are kept if they were made with the same of all these. A case without the
    organ, or without room in it, is reported and left out; its own pair is still written. Raises
    `InputError` if nothing at all can be made, if existing pairs were made with other settings, or
    if the folder cannot be written.
    """
    ensure(per_scan > 0, "request at least one copy of each scan")
    names = {nnunet.case_name(case.facts.id): case for case in cases}
    ensure(len(names) == len(cases), "two cases have the same name; give each case once")
    nnunet.start(folder)
    (folder / "lesions").mkdir(exist_ok=True)
    found, why = 0, "there are none"
    for name, case in names.items():
        request = wanted(case)
        pairs = _pairs(name, case, request, per_scan, seed, dict(about or {}))
        waiting = {pair: facts for pair, facts in pairs.items() if not _kept(folder, pair, facts)}
        if len(waiting) < len(pairs):
            yield f"{name}: {len(pairs) - len(waiting)} of {len(pairs)} already exist"
        if waiting:
            why = (yield from _fill(folder, name, case, waiting, request, make)) or why
        found += sum(nnunet.is_done(folder, pair) for pair in pairs)
    ensure(found, f"{folder}: no pair could be generated from {len(names)} cases: {why}")
    _list(folder)
    _split(folder)
    yield f"{folder}: {nnunet.write_dataset_json(folder)} pairs of a CT and a label map"


def _pairs(
    name: str, case: Case, request: LesionRequest, per_scan: int, seed: int, about: dict[str, str]
) -> dict[str, Facts]:
    """The pairs of a case, and what each depends on."""
    known: Facts = {"id": case.facts.id, "patient": case.facts.patient}
    pairs: dict[str, Facts] = {}
    if case.facts.lesion_ml > 0:
        pairs[f"{name}_real"] = {**known, "real_ml": case.facts.lesion_ml}
    own = {**known, "wanted": request.model_dump(mode="json"), "seed": seed, "about": about}
    for k in range(per_scan):
        pairs[f"{name}_s{k}"] = {**own, "copy": k, "copy_seed": copy_seed(seed, known["id"], k)}
    return pairs


def _fill(
    folder: Path,
    name: str,
    case: Case,
    waiting: dict[str, Facts],
    request: LesionRequest,
    make: Make,
) -> Generator[str, None, str]:
    """Make and write pairs of a case, yielding a line each; returns why one was left out."""
    scan, labels, real = _read(case)
    why = ""
    for pair, facts in waiting.items():
        result, mask = scan, real
        if "copy" in facts:
            try:
                numbers, placed = place(scan, labels, request, facts["copy_seed"], real)
            except InputError as error:
                if str(error) != why:  # usually the same for every copy
                    yield f"{name}: left out, {error}"
                why = str(error)
                continue
            result = scan.with_hu(make(scan, numbers, facts["copy_seed"]).hu)
            mask = (numbers > 0) | real
            facts = {**facts, "lesions": [asdict(one) for one in placed]}
        _write(folder / "lesions" / f"{pair}.json", json.dumps(facts))  # first: `_kept` needs it
        nnunet.write_case(folder, pair, result, mask)
        yield f"{pair}: {_words(facts)}"
    return why


def copy_seed(seed: int, case_id: str, copy: int) -> int:
    """The seed of one copy: 48 bits that depend only on these arguments."""
    digest = hashlib.sha256(json.dumps([seed, case_id, copy]).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _read(case: Case) -> tuple[Volume, UInt8[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
    """(scan, label ids, mask of its real lesions) at full resolution."""
    affine = np.array(case.facts.affine, np.float64).reshape(4, 4)
    scan = Volume(np.asarray(case.voxels("ct")[...], np.float32), affine)
    labels = np.asarray(case.voxels("anatomy")[...])
    if case.facts.lesion_ml > 0:
        return scan, labels, np.asarray(case.voxels("lesion")[...]) > 0
    return scan, labels, np.zeros(scan.shape, bool)


def _words(facts: Facts) -> str:
    if "copy" not in facts:
        return f"real lesions of the scan, {facts['real_ml']:.3g} ml"
    return ", ".join(
        f"{one['organ']} {one['diameter_mm']:.1f} mm at"
        f" ({', '.join(f'{mm:.0f}' for mm in one['centre_mm'])}) mm"
        for one in facts["lesions"]
    )


# ---- what was inserted where --------------------------------------------------------------------


def _kept(folder: Path, pair: str, facts: Facts) -> bool:
    """Whether a pair exists; `InputError` if it was made with other settings."""
    if not nnunet.is_done(folder, pair):
        return False
    path = folder / "lesions" / f"{pair}.json"
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} does not record how {pair} was generated ({line(error)}); choose another"
            " folder"
        ) from None
    other = [key for key, value in facts.items() if before.get(key) != value]
    ensure(
        not other,
        f"{folder} holds {pair}, generated with a different {' and '.join(other)}; choose another"
        " folder, or use the same settings again",
    )
    return True


def _list(folder: Path) -> None:
    """Write lesions.json for the complete pairs: a list with one pair per line."""
    found = []
    for name in nnunet.names(folder):
        path = folder / "lesions" / f"{name}.json"
        if path.is_file():  # the data set may contain other cases
            found.append(json.dumps({"case": name, **json.loads(path.read_text())}))
    _write(folder / "lesions.json", "[\n" + ",\n".join(found) + "\n]\n")


def _split(folder: Path) -> None:
    """Write up to five folds split by patient: split by case, copies of one patient would be both
    trained and validated on. Nothing for a single patient."""
    rows = json.loads((folder / "lesions.json").read_text())
    patients = sorted({row["patient"] for row in rows})
    folds = []
    for fold in range(min(5, len(patients)) if len(patients) > 1 else 0):
        out = set(patients[fold::5])
        parts: dict[str, list[str]] = {"train": [], "val": []}
        for row in rows:
            parts["val" if row["patient"] in out else "train"].append(row["case"])
        folds.append(parts)
    if folds:
        _write(folder / "splits_final.json", json.dumps(folds, indent=1))


def _write(path: Path, text: str) -> None:
    with user_output(path):
        write_file(path, text)
