"""The one reader of tables: any spreadsheet's spelling, and errors that name the line."""

from __future__ import annotations

import os
import unicodedata

import pytest

from denovox.core.errors import InputError
from denovox.io.tables import path_in, rows_of, text_of

COLUMNS = ("patient", "scan")
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
    "Excel's own first line": ("sep=;\r\n" + PLAIN.replace(",", ";")).encode("utf-8-sig"),
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
    'patient,scan\nA,a.nii\nB,"b.nii\nC,c.nii\n': "line 3: a value continues on the next line",
    "sep=;\r\npatient;scan\r\n\r\nA;\r\n": "line 4: no scan",
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
    with pytest.raises(InputError, match="cannot be read"):
        rows_of(tmp_path / "gone.csv", COLUMNS)
    with pytest.raises(InputError, match="cannot be read"):
        rows_of(tmp_path, COLUMNS)


def test_text_of_windows_has_its_own_letters(tmp_path):
    path = tmp_path / "list.txt"
    for encoding in ("cp1252", "utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes("Škoda, 1 €".encode(encoding))
        assert text_of(path) == "Škoda, 1 €"


@pytest.mark.parametrize(
    ("on_disk", "listed"),
    [
        (b"M\xfcller.nii", "Müller.nii"),  # unpacked from a ZIP made on Windows
        (b"M\x81ller.nii", "Müller.nii"),  # the same, by DOS
        (b"M\xfcller.nii", unicodedata.normalize("NFD", "Müller.nii")),
        (unicodedata.normalize("NFD", "Müller.nii").encode(), "Müller.nii"),  # macOS
        ("Müller.nii".encode(), unicodedata.normalize("NFD", "Müller.nii")),
        (b"sub/a b.nii", "sub\\a b.nii"),
        (b"sub/M\xfcller.nii", "sub\\Müller.nii"),
        (b"a\\b.nii", "a\\b.nii"),
    ],
)
def test_a_listed_name_finds_its_file_however_it_is_encoded(tmp_path, on_disk, listed):
    (tmp_path / "sub").mkdir()
    path = tmp_path / os.fsdecode(on_disk)
    path.touch()
    assert path_in(tmp_path, listed) == path
    assert path_in(tmp_path, "none\\Müller.nii") == tmp_path / "none\\Müller.nii"
