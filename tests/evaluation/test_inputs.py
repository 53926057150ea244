"""The reader of CSVs, folders and indices; voxels are not read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from denovox.core.errors import InputError
from denovox.evaluation.inputs import Pair, pairs_of, scans_of, sets_of


@pytest.fixture
def scans(tmp_path):
    """A folder with two files that are called like scans."""
    for name in ("ann", "bob"):
        (tmp_path / f"{name}.nii.gz").write_bytes(b"")
    return tmp_path


def table(path: Path, *rows: tuple[object, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_scans_of_a_csv_a_folder_and_a_file(scans):
    rows = [("P", "ann.nii.gz", "abdomen"), ("P", "bob.nii.gz", "")]
    listed = table(scans / "scans.csv", ("patient", "scan", "region"), *rows)
    assert [(s.id, s.patient, s.region) for s in scans_of(listed)] == [
        ("ann", "P", "abdomen"), ("bob", "P", None),
    ]  # fmt: skip
    assert scans_of(listed)[0].path == scans / "ann.nii.gz"
    assert [s.region for s in scans_of(listed, "chest")] == ["abdomen", "chest"]
    (scans / "README.md").write_text("not a scan")
    assert [(s.id, s.patient, s.region) for s in scans_of(scans, "auto")] == [
        ("ann", "ann", None), ("bob", "bob", None),
    ]  # fmt: skip
    index = [{"id": "x", "file": "ann.nii.gz", "patient": "Q", "region": "chest"},
             {"id": "y", "file": "bob.nii.gz", "patient": "Q", "region": "limb"}]  # fmt: skip
    (scans / "index.json").write_text(json.dumps(index))
    assert [(s.id, s.patient, s.region) for s in scans_of(scans)] == [
        ("x", "Q", "chest"), ("y", "Q", None),
    ]  # fmt: skip
    (one,) = scans_of(scans / "bob.nii.gz", "headneck")
    assert (one.id, one.patient, one.region) == ("bob", "bob", "headneck")
    for bad, why in (
        ([("patient", "scan"), ("A", "a.nii"), ("A", "./a.nii.gz")], "line 3: .* 'a' already"),
        ([("patient", "scan", "region"), ("A", "a.nii", "leg")], "line 2: region 'leg' is none of"),
    ):
        with pytest.raises(InputError, match=why):
            scans_of(table(scans / "bad.csv", *bad))
    with pytest.raises(InputError, match="region 'leg' is not known"):
        scans_of(scans, "leg")


SETS = [("patient", "set", "scan", "region"), ("a", "real", "a.nii", "chest"),
        ("b", "Real", "b.nii", ""), ("c", "synthetic", "c.nii", "auto"),
        ("d", "made", "c.nii", "chest")]  # fmt: skip


def test_sets_of_a_csv(tmp_path):
    data = table(tmp_path / "sets.csv", *SETS[:4], ("d", "made", "d.nii", "chest"))
    sets = sets_of(data, "abdomen", print)
    assert {name: [(s.id, s.region) for s in scans] for name, scans in sets.items()} == {
        "real": [("a", "chest"), ("b", "abdomen")],
        "synthetic": [("c", None), ("d", "chest")],
    }
    for rows, why in (
        ([*SETS[:4], ("d", "fake", "d.nii", "")], "line 5: set 'fake' is none of real, synth"),
        ([*SETS[:4], ("", "real", "", "")], "line 5: no patient and no scan"),
        ([*SETS[:4], ("a", "real", "a.nii", "")], "there is a scan 'a' already"),
        (SETS, "there is a scan 'c' already"),
        ([*SETS[:4], ("d", "synthetic", "d.nii", "leg")], "region 'leg' is none of"),
        (SETS[:3], "the synthetic set has 0 scans"),
    ):
        with pytest.raises(InputError, match=why):
            sets_of(table(tmp_path / "sets.csv", *rows), None, print)


def test_pairs_of_a_csv(tmp_path):
    rows = [("patient", "map", "mask", "score"), ("A", "1.npy", "2.npy", ".5"),
            ("B", "3.npy", "2.npy", 0)]  # fmt: skip
    assert pairs_of(table(tmp_path / "pairs.csv", *rows), ("map", "mask")) == [
        Pair("A", tmp_path / "1.npy", tmp_path / "2.npy", 0.5),
        Pair("B", tmp_path / "3.npy", tmp_path / "2.npy", 0.0),
    ]
    for last, why in (
        (("B", "3.npy", "4.npy", ""), "line 3: give a score in all lines or in none"),
        (("B", "3.npy", "4.npy", "high"), "line 3: score 'high' is not a number"),
        (("B", "3.npy", "4.npy", "nan"), "line 3: score 'nan' is not a number"),
        (("B", "1.npy", "2.npy", "1"), "line 3: this pair is there already"),
        (("B", "1.npy", "", "1"), "line 3: no mask"),
    ):
        with pytest.raises(InputError, match=why):
            pairs_of(table(tmp_path / "pairs.csv", *rows[:2], last), ("map", "mask"))


def test_pairs_of_folders(tmp_path):
    for name in ("reference/b.nii.gz", "reference/a.nii", "test/a.nrrd", "test/b.nii", "test/.x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    pairs = pairs_of(tmp_path, ("reference", "test"))
    assert [(p.patient, p.first.name, p.second.name) for p in pairs] == [
        ("a", "a.nii", "a.nrrd"), ("b", "b.nii.gz", "b.nii"),
    ]  # fmt: skip
    with pytest.raises(InputError, match="needs maps/ and masks/ with files in both"):
        pairs_of(tmp_path, ("map", "mask"))
    (tmp_path / "test" / "a.mha").write_bytes(b"")
    with pytest.raises(InputError, match="test has two files called a"):
        pairs_of(tmp_path, ("reference", "test"))
