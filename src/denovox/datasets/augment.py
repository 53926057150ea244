"""A data set of scans with lesions, from scans without: for training what finds or outlines them.

    imagesTr, labelsTr, dataset.json    nnU-Net v2's layout (datasets/nnunet.py); the label is 1 in
                                        lesions, made or real
    lesions/<case>.json                 what was put where, and with what: one file a pair
    lesions.json                        all of these, one pair a line
    splits_final.json                   nnU-Net's folds, by patient: for its preprocessed folder

`<case>_s<k>` is copy k of a case, `<case>_real` the case itself, where it has lesions of its own.
Which lesions copy k has, and of what noise they are made, depends on (seed, case, k) alone: more
copies or more cases change none that are there, and a run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from ..core.errors import InputError, ensure, line
from ..core.volume import Volume
from ..simulate.lesion_placement import Wanted, place
from . import nnunet
from .store import Case

Make = Callable[[Volume, UInt8[np.ndarray, "x y z"], int], Volume]
Facts = dict[str, Any]


def augment(
    cases: Sequence[Case],
    folder: Path,
    per_scan: int,
    seed: int,
    wanted: Callable[[Case], Wanted],
    make: Make,
    about: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Fill a folder with `per_scan` copies of each case; a line for each, as it is done.

    wanted: which lesions a case gets. make: (scan in HU, numbers of the lesions, seed) -> the
    scan with lesions, on the same grid. about: what else the copies depend on (weights, steps),
    kept with them. Pairs that are there are kept, if they were made with the same of all these.
    A case that shows no such organ, or has no room in it, is named and left out; its own pair is
    written even so. `InputError` where that leaves nothing at all, where pairs were made
    otherwise, or where the folder cannot be written.
    """
    ensure(per_scan > 0, "ask for at least one copy of each scan")
    names = {nnunet.case_name(case.facts.id): case for case in cases}
    ensure(len(names) == len(cases), "two of the cases have one name; give each case once")
    nnunet.start(folder)
    (folder / "lesions").mkdir(exist_ok=True)
    found, why = 0, "there are none"
    for name, case in names.items():
        asked = wanted(case)
        pairs = _pairs(name, case, asked, per_scan, seed, dict(about or {}))
        waiting = {pair: facts for pair, facts in pairs.items() if not _kept(folder, pair, facts)}
        if len(waiting) < len(pairs):
            yield f"{name}: {len(pairs) - len(waiting)} of {len(pairs)} were there"
        if waiting:
            why = (yield from _fill(folder, name, case, waiting, asked, make)) or why
        found += sum(nnunet.is_done(folder, pair) for pair in pairs)
    ensure(found, f"{folder}: nothing could be made of {len(names)} cases: {why}")
    _list(folder)
    _split(folder)
    yield f"{folder}: {nnunet.write_dataset_json(folder)} pairs of a CT and a label map"


def _pairs(
    name: str, case: Case, asked: Wanted, per_scan: int, seed: int, about: dict[str, str]
) -> dict[str, Facts]:
    """The pairs of a case, and what each depends on."""
    told: Facts = {"id": case.facts.id, "patient": case.facts.patient}
    pairs: dict[str, Facts] = {}
    if case.facts.lesion_ml > 0:
        pairs[f"{name}_real"] = {**told, "real_ml": case.facts.lesion_ml}
    own = {**told, "wanted": asked.model_dump(mode="json"), "seed": seed, "about": about}
    for k in range(per_scan):
        pairs[f"{name}_s{k}"] = {**own, "copy": k, "copy_seed": copy_seed(seed, told["id"], k)}
    return pairs


def _fill(
    folder: Path, name: str, case: Case, waiting: dict[str, Facts], asked: Wanted, make: Make
) -> Generator[str, None, str]:
    """Make and write pairs of a case, a line for each; why the last was left out, if one was."""
    scan, labels, real = _read(case)
    why = ""
    for pair, facts in waiting.items():
        result, mask = scan, real
        if "copy" in facts:
            try:
                numbers, placed = place(scan, labels, asked, facts["copy_seed"], real)
            except InputError as error:
                if str(error) != why:  # the same for every copy, as a rule
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
    """The seed of one copy: 48 bits that depend on nothing else."""
    digest = hashlib.sha256(json.dumps([seed, case_id, copy]).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _read(case: Case) -> tuple[Volume, UInt8[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
    """(scan, label ids, where its own lesions are) at full size."""
    affine = np.array(case.facts.affine, np.float64).reshape(4, 4)
    scan = Volume(np.asarray(case.voxels("ct")[...], np.float32), affine)
    labels = np.asarray(case.voxels("anatomy")[...])
    if case.facts.lesion_ml > 0:
        return scan, labels, np.asarray(case.voxels("lesion")[...]) > 0
    return scan, labels, np.zeros(scan.shape, bool)


def _words(facts: Facts) -> str:
    if "copy" not in facts:
        return f"the scan's own lesions, {facts['real_ml']:.3g} ml"
    return ", ".join(
        f"{one['organ']} {one['diameter_mm']:.1f} mm at"
        f" ({', '.join(f'{mm:.0f}' for mm in one['centre_mm'])}) mm"
        for one in facts["lesions"]
    )


# ---- what was put where ------------------------------------------------------------------------


def _kept(folder: Path, pair: str, facts: Facts) -> bool:
    """Whether a pair is there; `InputError` where it was made otherwise."""
    if not nnunet.is_done(folder, pair):
        return False
    path = folder / "lesions" / f"{pair}.json"
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} does not say how {pair} was made ({line(error)}); name another folder"
        ) from None
    other = [key for key, value in facts.items() if before.get(key) != value]
    ensure(
        not other,
        f"{folder} holds {pair} made with another {' and '.join(other)}; name another folder, or"
        " ask for the same again",
    )
    return True


def _list(folder: Path) -> None:
    """lesions.json, from what is complete: a list with one pair a line."""
    found = []
    for name in nnunet.names(folder):
        path = folder / "lesions" / f"{name}.json"
        if path.is_file():  # a data set may have had cases before
            found.append(json.dumps({"case": name, **json.loads(path.read_text())}))
    _write(folder / "lesions.json", "[\n" + ",\n".join(found) + "\n]\n")


def _split(folder: Path) -> None:
    """Up to five folds of which each holds out other patients: by case, a patient's copies would
    train what they judge. None of a single patient."""
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
    beside = path.with_name(f".{uuid.uuid4().hex}.json")
    try:
        beside.write_text(text)
        os.replace(beside, path)
    except OSError as error:
        raise InputError(f"{path} could not be written ({error.strerror}); check it") from error
    finally:
        beside.unlink(missing_ok=True)
