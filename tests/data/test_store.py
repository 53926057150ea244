"""The store: what went in comes out, and half a case is never seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.data.store import CaseFacts, add, cases, split


def facts(name: str = "a", patient: str = "p", **more: object) -> CaseFacts:
    known = {"id": name, "patient": patient, "regions": ("chest",), "spacing_mm": (1.0, 0.5, 2.5)}
    return CaseFacts(**(known | more))


def arrays(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (4, 5, 6)
    ct = rng.integers(-1024, 3000, shape).astype(np.int16)
    return ct, rng.integers(0, 118, shape).astype(np.uint8)


def test_a_case_comes_back_as_it_went_in(tmp_path):
    ct, anatomy = arrays()
    known = facts(source="a scanner", licence="CC BY 4.0")
    add(tmp_path, known, ct, anatomy)
    (case,) = cases(tmp_path)
    assert case.facts == known
    assert np.array_equal(case.ct, ct)
    assert np.array_equal(case.anatomy, anatomy)
    assert case.ct.dtype == np.int16
    assert case.anatomy.dtype == np.uint8


def test_arrays_are_mapped_and_not_read(tmp_path):
    add(tmp_path, facts(), *arrays())
    (case,) = cases(tmp_path)
    assert isinstance(case.ct, np.memmap)
    assert isinstance(case.anatomy, np.memmap)
    assert not case.ct.flags.writeable


def test_cases_come_in_order_of_id(tmp_path):
    for name in ("c", "a", "b"):
        add(tmp_path, facts(name), *arrays())
    assert [case.facts.id for case in cases(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize("failing", ["ct.npy", "anatomy.npy", "case.json"])
def test_a_failure_midway_leaves_nothing(tmp_path, monkeypatch, failing):
    store = tmp_path / "store"
    save, write = np.save, Path.write_text

    def full(path: Path) -> None:
        if path.name == failing:
            path.write_bytes(b"half")
            raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", lambda path, array: (full(path), save(path, array)))
    monkeypatch.setattr(Path, "write_text", lambda path, text: (full(path), write(path, text)))
    with pytest.raises(OSError, match="No space left"):
        add(store, facts(), *arrays())
    assert list(store.iterdir()) == []
    with pytest.raises(InputError):
        cases(store)


def test_until_it_is_complete_a_case_is_not_seen(tmp_path, monkeypatch):
    add(tmp_path, facts("a"), *arrays())
    rename, seen = Path.rename, []

    def look(path: Path, target: Path) -> Path:
        assert (path / "case.json").exists()  # all is written, under another name
        seen.extend(case.facts.id for case in cases(tmp_path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", look)
    add(tmp_path, facts("b"), *arrays())
    assert seen == ["a"]
    assert [case.facts.id for case in cases(tmp_path)] == ["a", "b"]


def test_a_second_case_of_one_name_does_not_replace_the_first(tmp_path):
    add(tmp_path, facts(), *arrays(0))
    with pytest.raises(OSError, match=r"not empty|exists"):
        add(tmp_path, facts(), *arrays(1))
    (case,) = cases(tmp_path)
    assert np.array_equal(case.ct, arrays(0)[0])
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_split_is_by_patient(tmp_path):
    for name, patient in [("a", "p"), ("b", "q"), ("c", "p"), ("d", "r")]:
        add(tmp_path, facts(name, patient), *arrays())
    training, validation = split(cases(tmp_path), ("p",))
    assert [case.facts.id for case in training] == ["b", "d"]
    assert [case.facts.id for case in validation] == ["a", "c"]
    training, validation = split(cases(tmp_path), ())
    assert len(training) == 4
    assert validation == []


def test_a_patient_nobody_knows_is_named(tmp_path):
    add(tmp_path, facts(), *arrays())
    with pytest.raises(InputError, match=r"\['x', 'y'\] are not in the store"):
        split(cases(tmp_path), ("y", "p", "x"))


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_cases_is_no_store(tmp_path, exists):
    folder = tmp_path / "store"
    if exists:
        (folder / "something").mkdir(parents=True)
    with pytest.raises(InputError, match="no store here"):
        cases(folder)


def test_a_fact_nobody_knows_is_an_error(tmp_path):
    add(tmp_path, facts(), *arrays())
    card = tmp_path / "a" / "case.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"dose": 1}))
    with pytest.raises(ValueError, match="dose"):
        cases(tmp_path)
