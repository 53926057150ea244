"""Tables and lists as people have them: the one reader of CSV, TSV and text for all commands.

A table may come from any spreadsheet: commas, semicolons or tabs; UTF-8 (with or without a byte
order mark), UTF-16 or Latin-1; any line ends; quotes where a value has a comma.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import InputError, ensure, line

SUFFIXES = (".csv", ".tsv", ".txt")
_ENCODINGS = ("cp1252", "latin-1", "cp437")  # of names unpacked from a ZIP made on Windows


@dataclass(frozen=True)
class Row:
    """A line of a table. where: the file and the line's number. cells: by the column's name."""

    where: str
    cells: dict[str, str]


def is_table(path: Path) -> bool:
    """Whether a path is named as a table is."""
    return path.suffix.lower() in SUFFIXES


def rows_of(path: Path, columns: Sequence[str]) -> list[Row]:
    """The lines of a table below its header; empty ones are skipped.

    columns: those that every line must fill; others may be there. `InputError` names the line.
    """
    text = text_of(path)
    every = text.splitlines(keepends=True)
    skipped = 0
    if every and every[0].strip().lower().startswith("sep="):  # which Excel reads and writes
        skipped, text = 1, "".join(every[1:])
    first = next((one for one in text.splitlines() if one.strip()), "")
    delimiter = max(",;\t", key=lambda mark: len(set(columns) & set(_names(first, mark))))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    header: list[str] = []
    rows: list[Row] = []
    end = skipped
    try:
        for cells in reader:
            where, end = f"{path}, line {end + 1}", skipped + reader.line_num
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            ensure(not any("\n" in cell or "\r" in cell for cell in cells),
                   f'{where}: a value continues on the next line; is a " not closed?')  # fmt: skip
            if not header:
                header = _header(cells, columns, where)
                continue
            ensure(not any(cells[len(header) :]),
                   f"{where}: {len(cells)} values for {len(header)} columns; put a value that has"
                   f" a '{delimiter}' in quotes")  # fmt: skip
            named = {name: cell for name, cell in zip(header, cells, strict=False) if name}
            lacks = [name for name in columns if not named.get(name)]
            ensure(not lacks, f"{where}: no {' and no '.join(lacks)}")
            rows.append(Row(where, named))
    except csv.Error as error:
        raise InputError(f"{path}, line {end + 1}: not a line of a CSV ({line(error)})") from None
    ensure(rows, f"{path} has no rows; it needs a line '{','.join(columns)}' and one for each scan")
    return rows


def text_of(path: Path) -> str:
    """The text of a file, whatever its encoding; `InputError` if it is not a text file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or line(error)})") from None
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = "\0"
    for encoding in ("utf-16",) if utf16 else ("utf-8-sig", *_ENCODINGS[:2]):
        try:
            text = content.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    ensure("\0" not in text, f"{path} is not a text file; check which file was given")
    return text


def path_in(folder: Path, name: str) -> Path:
    """The file that a table calls `name`, relative to `folder`; it need not exist.

    Where there is none of exactly this name, the one of the same name in the other Unicode form
    (macOS), in the encoding of a ZIP from Windows, or with the separators of Windows.
    """
    forms = [name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)]
    for encoding in _ENCODINGS:
        try:
            forms.append(os.fsdecode(forms[1].encode(encoding)))
        except UnicodeEncodeError:
            continue
    forms += [form.replace("\\", "/") for form in forms if "\\" in form]
    return next((folder / form for form in forms if (folder / form).exists()), folder / name)


def _names(header: str, delimiter: str) -> list[str]:
    cells = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
    return [cell.strip().lower() for cell in cells]


def _header(cells: Sequence[str], columns: Sequence[str], where: str) -> list[str]:
    names = [cell.lower() for cell in cells]
    lacks = [f"'{name}'" for name in columns if name not in names]
    shown = line(", ".join(cells))
    ensure(not lacks, f"{where}: no column {' and no '.join(lacks)} among {shown}")
    twice = [f"'{name}'" for name in dict.fromkeys(names) if name and names.count(name) > 1]
    ensure(not twice, f"{where}: two columns are called {' and '.join(twice)}")
    return names
