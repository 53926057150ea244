"""The manifest's digests and names, and what format 1 promises."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from denovox.core.errors import InputError
from denovox.reports import manifest as of
from denovox.reports.recorder import Recorder, decided, recording

# What readers of format 1 rely on: never taken away from.
PROMISED = {
    "Manifest": "format command inputs decisions settings seed model versions cost notes outputs",
    "Input": "argument name sha256 files geometry modality series_uid",
    "Geometry": "shape spacing_mm affine",
    "Decisions": "scan regions noise working_grid",
    "RegionFound": "region first_slice last_slice reason",
    "NoiseAssumed": "region first_slice last_slice sd_hu coloured estimated",
    "Model": "weights control calibrations device hardware precision",
    "File": "name sha256 files",
    "Versions": "denovox torch python",
    "Cost": "seconds threads peak_memory_mb peak_gpu_memory_mb",
    "Written": "name sha256 files geometry series_uid",
}


@pytest.mark.parametrize("part", PROMISED)
def test_no_key_of_format_1_goes(part):
    schema = json.loads(of.schema())
    found = schema if part == "Manifest" else schema["$defs"][part]
    assert set(PROMISED[part].split()) <= set(found["properties"])
    assert of.FORMAT == 1


def least() -> of.Manifest:
    versions = of.Versions(denovox="1", torch="2", python="3")
    return of.Manifest(command="denoise", versions=versions, cost=of.Cost(seconds=1.5))


def test_a_later_version_may_add_keys(tmp_path):
    content = json.loads(of.as_text(least()))
    content["new"] = content["cost"]["new"] = 1
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    assert of.read(path) == least()
    path.write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(InputError, match=r"a\.json is not a manifest of denovox"):
        of.read(path)


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ("a/out.nii.gz", "a/out.nii.gz.json"),
        ("a/out", "a/out.json"),
        ("a/out/", "a/out.json"),
        ("out.zip", "out.zip.json"),
        ("x.y/s.1", "x.y/s.1.json"),
    ],
)
def test_where_it_is(output, name):
    assert of.beside(Path(output)) == Path(name)


def test_a_folder_is_hashed_in_the_order_of_its_paths(tmp_path):
    """Not in that of the file system, nor by parts of a path: "b-" comes before "b/"."""
    for name, text in (("b/a", "1"), ("b-", "2"), ("B", "3"), (".hidden", "4")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    order = [(".hidden", "4"), ("B", "3"), ("b-", "2"), ("b/a", "1")]
    lines = "".join(f"{hashlib.sha256(t.encode()).hexdigest()}  {n}\n" for n, t in order)
    got = of.file_at(tmp_path)
    assert (got.sha256, got.files) == (hashlib.sha256(lines.encode()).hexdigest(), 4)


def test_a_file_and_names(tmp_path, monkeypatch):
    path = tmp_path / "a\n.nrrd"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert of.file_at(path) == of.File(name="a\\n.nrrd", sha256=digest)
    assert of.file_at(Path(f"{path}:liver")).sha256 == digest  # a segment of a label map
    assert of.file_at(tmp_path / "none") == of.File(name="none")
    monkeypatch.chdir(tmp_path)
    assert of.name_of(Path(".")) == tmp_path.name


def test_only_a_manifest_of_the_same_command_is_replaced_unasked(tmp_path):
    path = tmp_path / "out.json"
    of.check(path, False, "denoise")
    path.write_text(of.as_text(least()))
    of.check(path, False, "denoise")
    of.check(path, True)
    for command in ("", "prepare"):
        with pytest.raises(InputError, match=r"out\.json already exists"):
            of.check(path, False, command)


def test_one_beside_a_folder_that_will_be_created_needs_none_above_it(tmp_path):
    beside = tmp_path / "a/b/store.json"
    of.check(beside, False, "prepare")
    with pytest.raises(InputError, match="a/b does not exist; create it first"):
        of.check(beside, False)
    (tmp_path / "a").touch()
    with pytest.raises(InputError, match=r"a is a file|is not a folder"):
        of.check(beside, False, "prepare")


def test_decisions_are_noted_once_by_scan():
    recorder = Recorder()
    decided("grid", [1])  # outside a command: nowhere
    with recording(recorder):
        decided("grid", [1, 1])
        recorder.begin_scan("b")
        decided("grid", [1])
        decided("regions", ["chest", "abdomen"])
        decided("regions", ["chest"])
    decided("grid", [2])
    assert recorder.decisions == [
        (None, {"grid": [1]}),
        ("b", {"grid": [1], "regions": ["chest", "abdomen"]}),
    ]
