"""Messages and names that any terminal, file and parser can take."""

from __future__ import annotations

import json
import os

import pytest

from denovox.core.errors import InputError, encodable, printable, shown

NAMES = {
    b"M\xfcller": r"M\xfcller",  # Latin-1
    "Müller".encode(): "Müller",
    b"a\nb\tc": r"a\nb\tc",
    b"\x1b[31mred": r"\x1b[31mred",
    "a\u202eb\u200bc".encode(): r"a\u202eb\u200bc",  # reversed, and invisible
    "张 😀".encode(): "张 😀",
    b"a\\b": r"a\b",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_on_one_line_in_valid_unicode(name):
    text = shown(os.fsdecode(name))
    assert text == NAMES[name]
    assert text.isprintable()
    assert text.encode()
    assert shown(text) == text


@pytest.mark.parametrize("name", NAMES)
def test_an_error_is_printable_whatever_it_names(name):
    error = InputError(f"{os.fsdecode(name)} is bad; choose one:\n  first\n  second")
    assert str(error).split("\n  ") == [f"{NAMES[name]} is bad; choose one:", "first", "second"]
    assert str(InputError(str(error))) == printable(str(error)) == str(error)


def test_text_for_json_keeps_its_lines_and_is_valid_unicode():
    text = encodable("a\nü \udcfc \ud800")
    assert text == "a\nü \\xfc \\ud800"
    assert json.loads(json.dumps(text)).encode()
