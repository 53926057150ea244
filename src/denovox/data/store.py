"""A store: one folder a case, read by random box without touching the rest.

    store/<case>/ct.npy        int16 HU, x y z nearest to RAS
    store/<case>/anatomy.npy   uint8 label ids of core/labels
    store/<case>/case.json     Case: region, patient, spacing

Arrays are memory-mapped. A case appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int16, UInt8

from ..core.errors import InputError
from ..core.settings import Settings


class CaseFacts(Settings):
    """What is known of a case beside its voxels. patient: the unit by which data is split."""

    id: str
    patient: str
    regions: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    source: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Case:
    """A case of a store; its arrays are opened when they are first asked for."""

    folder: Path
    facts: CaseFacts

    @cached_property
    def ct(self) -> Int16[np.ndarray, "x y z"]:
        """HU, memory-mapped."""
        return np.load(self.folder / "ct.npy", mmap_mode="r")

    @cached_property
    def anatomy(self) -> UInt8[np.ndarray, "x y z"]:
        """Label ids, memory-mapped."""
        return np.load(self.folder / "anatomy.npy", mmap_mode="r")


def add(
    store: Path,
    facts: CaseFacts,
    ct: Int16[np.ndarray, "x y z"],
    anatomy: UInt8[np.ndarray, "x y z"],
) -> None:
    """Write a case beside its place, then rename: a killed run leaves no half a case."""
    beside = store / f".{facts.id}.{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        np.save(beside / "ct.npy", ct)
        np.save(beside / "anatomy.npy", anatomy)
        (beside / "case.json").write_text(facts.model_dump_json(indent=1))
        beside.rename(store / facts.id)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def cases(store: Path) -> list[Case]:
    """All cases of a store, in order of id; `InputError` where there is none."""
    found = sorted(store.glob("[!.]*/case.json"))
    if not found:
        raise InputError(f"{store}: no store here (no folder with a case.json)")
    return [Case(p.parent, CaseFacts(**json.loads(p.read_text()))) for p in found]


def split(every: list[Case], validation_patients: tuple[str, ...]) -> tuple[list[Case], list[Case]]:
    """(training, validation) cases, split by patient; a patient no case has is an error."""
    strange = set(validation_patients) - {case.facts.patient for case in every}
    if strange:
        raise InputError(f"validation patients {sorted(strange)} are not in the store")
    held = [case for case in every if case.facts.patient in validation_patients]
    return [case for case in every if case not in held], held
