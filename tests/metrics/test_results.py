"""The table of results: strict JSON, a Markdown table, and a folder that is whole or not there."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.io.atomic import write_folder
from denovox.metrics.bootstrap import Interval
from denovox.metrics.results import Figure, Results, as_json, as_markdown, over_patients, write

PSNR = Figure("psnr", 31.25, Interval(30.5, 32.0, 0.95, 2000), 2, 3, "dB", "ours|tiny")
SSIM = Figure("ssim", 0.9, Interval(None, None), 1, 1)
RESULTS = Results(
    "mayo16-redcnn",
    "L506",
    (PSNR, SSIM),
    {"seed": 3, "steps": (1, 2)},
    "ab12",
    "0.1",
    ("B30, 3 mm",),
)


def test_json_has_all_of_it() -> None:
    told = json.loads(as_json(RESULTS))
    assert told["figures"][0] == {
        "name": "psnr",
        "value": 31.25,
        "unit": "dB",
        "method": "ours|tiny",
        "better": "higher",
        "patients": 2,
        "scans": 3,
        "interval": {"low": 30.5, "high": 32.0, "level": 0.95, "resamples": 2000},
    }
    assert (told["weights"], told["settings"]) == ("ab12", {"seed": 3, "steps": [1, 2]})
    assert (told["protocol"], told["notes"]) == ("mayo16-redcnn", ["B30, 3 mm"])


def test_json_is_strict() -> None:
    odd = Figure("psnr", math.inf, Interval(math.nan, None), 1, 1)
    text = as_json(Results("p", "d", (odd,), {"noise_hu": math.nan}))
    told = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert told["figures"][0]["value"] is None
    assert told["settings"] == {"noise_hu": None}


def test_markdown_is_a_table() -> None:
    lines = as_markdown(RESULTS).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert rows[2] == "| ours\\|tiny | psnr (dB) | 31.250 [30.500, 32.000] | higher | 2 | 3 |"
    assert rows[3] == "| denovox | ssim | 0.900 | higher | 1 | 1 |"
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1
    assert "- weights: sha256 ab12" in lines
    assert "- B30, 3 mm" in lines
    assert "weights: none" in as_markdown(Results("p", "d", ()))


def test_over_patients_counts_both() -> None:
    values = np.array([1.0, 2.0, 6.0])
    found = over_patients("x", ["a", "a", "b"], lambda drawn: float(values[drawn].mean()), seed=1)
    assert (found.value, found.patients, found.scans) == (3, 2, 3)
    assert (found.interval.low, found.interval.high) == (1.5, 6)
    assert over_patients("x", ["a"], lambda drawn: 1.0, value=5.0).value == 5
    with pytest.raises(InputError, match="no scan"):
        over_patients("x", [], lambda drawn: 0.0)


def test_write_makes_both(tmp_path: Path) -> None:
    write(RESULTS, tmp_path / "out")
    assert (tmp_path / "out/figures.json").read_text() == as_json(RESULTS)
    assert (tmp_path / "out/figures.md").read_text() == as_markdown(RESULTS)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_is_left_of_a_folder_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "b":
            raise OSError(28, "No space left on device")
        return whole(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_folder(tmp_path / "out", {"a": b"1", "b": b"2"})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_folder(out, {"a": b"1"})  # an empty one is as good as none
    (out / "mine").write_bytes(b"x")
    with pytest.raises(InputError, match="already contains files"):
        write_folder(out, {"a": b"2"})
    assert (out / "a").read_bytes() == b"1"
    write_folder(out, {"a": b"2"}, force=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {"a": b"2", "mine": b"x"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_places_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="is not a folder"):
        write_folder(tmp_path / "file", {})
    with pytest.raises(InputError, match="no does not exist; create it first"):
        write_folder(tmp_path / "no/out", {})
