"""Which scans a trial runs on: from a CSV, a folder, an index or a file; no voxel is read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from denovox.core.errors import InputError
from denovox.evaluation.inputs import scans_of


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
        ([("patient", "scan"), ("A", "")], "line 2: no scan"),
        ([("patient", "scan"), ("A", "a.nii"), ("A", "./a.nii.gz")], "line 3: ./a.nii.gz is there"),
        ([("patient", "scan", "region"), ("A", "a.nii", "leg")], "region 'leg' is none of"),
        ([("patient", "scan")], "has no scans"),
    ):
        with pytest.raises(InputError, match=why):
            scans_of(table(scans / "bad.csv", *bad))
    with pytest.raises(InputError, match="region 'leg' is not known"):
        scans_of(scans, "leg")
