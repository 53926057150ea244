"""The manifest of a batch: ids, and what is left to do."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from denovox.batch import ledger as of
from denovox.batch.ledger import Ledger, Place, Wanted, alone, keep_settings
from denovox.batch.scans import Scan
from denovox.core.errors import InputError


def wanted(*names, settings="s", state="1", **facts):
    return [
        Wanted(
            Scan(f"/in/{name}", name, Path("/in", name), **facts),
            {},
            settings,
            f"{state} {of.sha256(name)}",
        )
        for name in names
    ]


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return Place(folder, ".nii.gz", lambda output: output.with_name(f"{output.name}.json"))


def ids(place, *names, **facts):
    return [row.id for row, _ in Ledger(place).plan(wanted(*names, **facts))]


def result(place, number):
    """What a command writes, the last file last."""
    output = place.output(number)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(b"result")
    place.last(output).write_bytes(b"{}")


def lines(place):
    return [json.loads(line) for line in (place.folder / of.NAME).read_text().splitlines()]


def statuses(place, every):
    return [row.status for row, _ in Ledger(place).plan(every)]


@pytest.mark.parametrize("names", [
    ("a", "A"), ("\u00e9", "e\u0301"), ("sub/x", "SUB/X"), ("x y", "x-y"), ("a", "a_sd"),
    ("a_mask", "a"), ("a", "a_report"), ("straße", "STRASSE"), ("con", "con-d1"),
    ("a" * 300, "a" * 301),    ("a", "a_SD"), ("..", "case"), ("d/é", "d/ê"),
])  # fmt: skip
def test_no_two_results_meet_on_any_file_system(place, names):
    one, two = ids(place, *names)
    assert one.casefold() != two.casefold()
    for end in ("", "_sd", "_mask", "_lesions", "_report"):
        assert (one + end).casefold() != two.casefold()
        assert (two + end).casefold() != one.casefold()
    for name in (one, two):
        assert name.isascii()
        assert not name.startswith((".", "/"))
        assert max(map(len, name.split("/"))) <= 120
        assert place.folder in place.output(name).resolve().parents


def test_plain_names_are_kept(place):
    assert ids(place, "p1/ct", "p2/ct", "p1/ct-2") == ["p1/ct", "p2/ct", "p1/ct-2"]


def test_an_id_stays_whatever_is_added(place):
    (first,) = ids(place, "x")
    assert ids(place, "X", "x", "a") == [f"X-{ids(place, 'X')[0][-8:]}", first, "a"]
    assert ids(place, "x") == [first]


def test_results_that_are_folders_are_not_inside_one_another(place):
    folders = replace(place, ending="")
    one, two = ids(folders, "study", "study/series")
    assert not two.startswith(f"{one}/")
    assert "." not in ids(folders, "v1.2")[0]  # or it would look like an ending


def test_what_is_done_is_not_done_again(place):
    every = wanted("a", "b")
    book = Ledger(place)
    rows = [row for row, _ in book.plan(every)]
    assert [row["status"] for row in lines(place)] == ["pending"] * 2
    result(place, "a")
    book.put(replace(rows[0], status="done", seconds=2.0))
    assert statuses(place, every) == ["done", "pending"]
    (done, _) = lines(place)
    assert (done["seconds"], done["output"]) == (2.0, "a.nii.gz")


def test_a_stop_between_a_result_and_its_row_loses_nothing(place):
    every = wanted("a")
    Ledger(place).plan(every)
    assert statuses(place, every) == ["pending"]
    place.output("a").write_bytes(b"result")  # without the file that appears last
    assert statuses(place, every) == ["pending"]
    result(place, "a")
    assert statuses(place, every) == ["done"]


@pytest.mark.parametrize("change", [{"settings": "t"}, {"state": "2"}])
def test_other_settings_or_another_input_are_a_scan_to_do(place, change):
    (row, _), *_ = (book := Ledger(place)).plan(wanted("a"))
    result(place, "a")
    book.put(replace(row, status="done"))
    changed = wanted("a", **change)
    assert statuses(place, changed) == ["pending"]
    assert statuses(place, changed) == ["pending"]  # the old result is not the new one's
    result(place, "a")
    os.utime(place.last(place.output("a")), ns=(1, 1))
    assert statuses(place, changed) == ["done"]


@pytest.mark.parametrize("status", ["refused", "failed"])
def test_what_was_not_processed_is_tried_again(place, status):
    (row, _), *_ = (book := Ledger(place)).plan(wanted("a"))
    book.put(replace(row, status=status))
    assert statuses(place, wanted("a")) == ["pending"]


def test_a_result_that_is_gone_is_made_again(place):
    (row, _), *_ = (book := Ledger(place)).plan(wanted("a"))
    book.put(replace(row, status="done"))
    assert statuses(place, wanted("a")) == ["pending"]


def test_what_cannot_be_processed_is_in_the_manifest(place):
    Ledger(place).plan([*wanted("a", aside="MR, not CT"), *wanted("b", fault="b is damaged")])
    assert [(row["id"], row["status"], row["message"]) for row in lines(place)] == [
        ("a", "skipped", "MR, not CT"), ("b", "refused", "b is damaged"),
    ]  # fmt: skip


def test_files_of_others_are_not_overwritten(place):
    place.output("a").write_bytes(b"mine")
    (row, _), *_ = Ledger(place).plan(wanted("a"))
    assert row.status == "refused"
    assert "a.nii.gz already exists" in row.message
    assert statuses(place, wanted("a")) == ["refused"]
    (row, _), *_ = Ledger(place, force=True).plan(wanted("a"))
    assert row.status == "pending"


def test_a_folder_of_scans_may_move(place):
    (row, _), *_ = (book := Ledger(place)).plan(wanted("a"))
    result(place, "a")
    book.put(replace(row, status="done"))
    (one,) = wanted("a")
    moved = replace(one, scan=replace(one.scan, key="/elsewhere/a", path=Path("/elsewhere/a")))
    ((row, _),) = Ledger(place).plan([moved])
    assert (row.id, row.status, row.input) == ("a", "done", "/elsewhere/a")
    assert len(lines(place)) == 1


def test_names_that_no_terminal_can_show(place):
    Ledger(place).plan(wanted("caf\udce9", "a\u2028b"))
    assert [row["input"] for row in lines(place)] == ["/in/a\\u2028b", "/in/caf\\xe9"]
    assert statuses(place, wanted("caf\udce9", "a\u2028b")) == ["pending"] * 2


def test_a_damaged_manifest_is_one_sentence(place):
    (place.folder / of.NAME).write_text('{"id": "a", "input": "a"}\n{"id": \n')
    with pytest.raises(InputError, match=r"manifest\.jsonl, line 2: not a row of a batch"):
        Ledger(place)


def test_settings_of_a_folder(tmp_path):
    keep_settings(tmp_path, {"noise_hu": 20.0, "weights": ["a"]}, False)
    keep_settings(tmp_path, {"noise_hu": 20.0, "weights": ["a"]}, False)
    with pytest.raises(InputError, match=r"other settings \(noise_hu 20\.0, now None\); choose"):
        keep_settings(tmp_path, {"noise_hu": None, "weights": ["a"]}, False)
    keep_settings(tmp_path, {"noise_hu": None, "weights": ["a"]}, True)
    keep_settings(tmp_path, {"noise_hu": None, "weights": ["a"]}, False)
    assert of.sha256({"a": 1, "b": 2}) == of.sha256({"b": 2, "a": 1}) != of.sha256({"a": 1, "b": 3})


def test_one_batch_at_a_time(tmp_path):
    with alone(tmp_path):
        clash = pytest.raises(InputError, match="another `denovox batch` is writing to")
        with clash, alone(tmp_path):
            pass
    with alone(tmp_path):
        pass
