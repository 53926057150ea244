"""The reader of CSVs, folders and indices; voxels are not read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from denovox.core.errors import InputError
from denovox.evaluation.inputs import Pair, pairs_of, rows_of, scans_of, sets_of

COLUMNS = ("patient", "scan")


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


PLAIN = "patient,scan\nA,a.nii\nBé,b.nii\n"
SPELLINGS = {
    "plain": PLAIN.encode(),
    "byte order mark": PLAIN.encode("utf-8-sig"),
    "UTF-16": PLAIN.encode("utf-16"),
    "Latin-1": PLAIN.encode("latin-1"),
    "semicolons": PLAIN.replace(",", ";").encode(),
    "semicolons of Excel in Latin-1": PLAIN.replace(",", ";")
    .replace("\n", "\r\n")
    .encode("cp1252"),
    "tabs": PLAIN.replace(",", "\t").encode(),
    "CRLF": PLAIN.replace("\n", "\r\n").encode(),
    "CR": PLAIN.replace("\n", "\r").encode(),
    "spaces": PLAIN.replace(",", " ,  ").encode(),
    "quotes": PLAIN.replace("a.nii", '"a.nii"').encode(),
    "spaces and quotes": PLAIN.replace("a.nii", ' "a.nii" ').encode(),
    "capitals in the header": PLAIN.replace("patient,scan", "Patient,SCAN").encode(),
    "empty lines": PLAIN.replace("\n", "\n\n,\n").encode(),
    "columns that do not count": b"note,scan,patient\n,a.nii,A\nx,b.nii,B\xc3\xa9\n",
    "no line end at the end": PLAIN.strip().encode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_csv_of_any_spelling_reads_the_same(tmp_path, spelling):
    path = tmp_path / "scans.csv"
    path.write_bytes(SPELLINGS[spelling])
    read = [tuple(row.cells[name] for name in COLUMNS) for row in rows_of(path, COLUMNS)]
    assert read == [("A", "a.nii"), ("Bé", "b.nii")]


def test_values_may_have_the_delimiter_in_quotes(tmp_path):
    path = tmp_path / "scans.csv"
    path.write_text('patient;scan\n"Doe; Jane";"a, b.nii"\n')
    assert rows_of(path, COLUMNS)[0].cells == {"patient": "Doe; Jane", "scan": "a, b.nii"}
    path.write_text('patient,scan\n"Doe, Jane","a ""1"".nii"\n')
    assert rows_of(path, COLUMNS)[0].cells == {"patient": "Doe, Jane", "scan": 'a "1".nii'}


BROKEN = {
    "": "has no rows; it needs a line 'patient,scan'",
    "patient,scan\n": "has no rows",
    "patient,file\nA,a\n": "line 1: no column 'scan' among patient, file",
    "\npatient;file\n": "line 2: no column 'scan' among patient, file|patient;file",
    "patient,scan,scan\nA,a,b\n": "line 1: two columns are called 'scan'",
    "patient,scan\n\nA,\n": "line 3: no scan",
    "patient,scan\n\n,a\n": "line 3: no patient",
    "patient,scan\r\n\r\nA\r\n": "line 3: no scan",
    "patient,scan\nA,a.nii\nDoe, Jane,b.nii\n": "line 3: 3 values for 2 columns",
    'patient,scan\nA,a.nii\nB,"b.nii\nC,c.nii\n': "line 3: a value goes on in the next line",
    "patient,scan\nA,\0\n": "is not a text file",
}


@pytest.mark.parametrize("text", BROKEN)
def test_errors_name_the_line(tmp_path, text):
    path = tmp_path / "scans.csv"
    path.write_bytes(text.encode())
    with pytest.raises(InputError, match=BROKEN[text]) as error:
        rows_of(path, COLUMNS)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_csv(tmp_path):
    with pytest.raises(InputError, match="cannot be read as a CSV"):
        rows_of(tmp_path / "gone.csv", COLUMNS)
    with pytest.raises(InputError, match="cannot be read as a CSV"):
        rows_of(tmp_path, COLUMNS)


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
