"""nnU-Net's layout: its own verifier agrees, and a run may be stopped anywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.core.volume import Volume
from denovox.datasets import nnunet

NEEDED = ("nnunetv2", "batchgenerators", "acvl_utils", "blosc2", "pandas")
# Its pool of processes would import torch again for every data set; threads check the same.
VERIFY = """
import multiprocessing.dummy, sys, types
from nnunetv2.experiment_planning import verify_dataset_integrity as nnunet
nnunet.multiprocessing = types.SimpleNamespace(get_context=lambda kind: multiprocessing.dummy)
for folder in sys.argv[1:]:
    try:
        nnunet.verify_dataset_integrity(folder, 1)
        print("\\n@fine")
    except (AssertionError, RuntimeError) as error:
        print(f"\\n@{error}")
"""


def scan(seed: int = 0, shape: tuple[int, int, int] = (6, 7, 8)) -> Volume:
    """Random HU on a grid that is neither at the origin nor even nor upright."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.eye(3) + 0.05 * rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * np.sign(np.diag(turn)) * [0.7, 0.8123456789, 2.5]
    affine[:3, 3] = rng.uniform(-400, 400, 3)
    return Volume(rng.uniform(-1000, 1000, shape).astype(np.float32), affine)


def lesion(seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((6, 7, 8)) < 0.1).astype(np.uint8)


def filled(folder: Path, count: int = 2) -> Path:
    nnunet.start(folder)
    for k in range(count):
        nnunet.write_case(folder, f"case{k}", scan(k), lesion(k))
    assert nnunet.write_dataset_json(folder) == count
    return folder


def verdicts(*folders: Path) -> list[tuple[str, str]]:
    """Of nnU-Net's verifier on each: ("fine" or its error, what it printed)."""
    lacks = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacks:
        pytest.skip(f"no {', '.join(lacks)}: nnU-Net's verifier cannot judge")
    done = subprocess.run(
        [sys.executable, "-c", VERIFY, *map(str, folders)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found = re.findall(r"(.*?)\n@([^\n]*)\n", done.stdout, re.DOTALL)
    assert len(found) == len(folders), done.stdout + done.stderr
    return [(said, words) for words, said in found]


@pytest.mark.slow
def test_nnunets_own_verifier_is_content_and_sees_what_is_broken(tmp_path):
    """The broken ones so that its being content says something."""
    kinds = ("whole", "label", "grid", "spacing", "lost", "count")
    folders = {k: filled(tmp_path / f"Dataset{n:03}_{k}") for n, k in enumerate(kinds)}
    for kind, folder in folders.items():
        image, label = nnunet.paths(folder, "case1")
        found = nibabel.load(label)
        values, affine = np.asarray(found.dataobj), found.affine
        if kind == "label":
            nibabel.Nifti1Image(values * 2, affine).to_filename(label)
        elif kind == "grid":
            nibabel.Nifti1Image(values[:-1], affine).to_filename(label)
        elif kind == "spacing":
            nibabel.Nifti1Image(values, affine @ np.diag([1.1, 1, 1, 1])).to_filename(label)
        elif kind == "lost":
            label.unlink()
        elif kind == "count":
            image.unlink()
    said = dict(zip(folders, verdicts(*folders.values()), strict=True))
    verdict, words = said.pop("whole")
    assert verdict == "fine"
    assert "mismatch" not in words
    assert "Error" not in words
    expected = {
        "label": "unexpected labels",
        "grid": "Some images have errors",
        "spacing": "Some images have errors",
        "lost": "not all training cases have a label",
        "count": "expected number of training cases",
    }
    assert {k: expected[k] in verdict for k, (verdict, _) in said.items()} == dict.fromkeys(
        expected, True
    ), said


def test_values_types_and_geometry(tmp_path):
    nnunet.start(tmp_path)
    volume, mask = scan(3), lesion(3) > 0
    nnunet.write_case(tmp_path, "a_b", volume, mask)
    image, label = (nibabel.load(path) for path in nnunet.paths(tmp_path, "a_b"))
    assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
    assert np.array_equal(np.asarray(image.dataobj), np.rint(volume.hu))
    assert np.array_equal(np.asarray(label.dataobj), mask)
    np.testing.assert_allclose(image.affine, volume.affine, rtol=1e-6)
    one, other = (
        {key: value.tobytes() for key, value in found.header.items()} for found in (image, label)
    )
    assert {key for key in one if one[key] != other[key]} == {"datatype", "bitpix"}
    assert image.header["sform_code"] > 0


def test_dataset_json_says_what_nnunet_asks_for(tmp_path):
    filled(tmp_path)
    assert json.loads((tmp_path / "dataset.json").read_text()) == {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }


def test_hu_beyond_int16_are_clipped(tmp_path):
    nnunet.start(tmp_path)
    hu = scan().hu
    hu[0, 0, :2] = (-1e6, 1e6)
    nnunet.write_case(tmp_path, "a", Volume(hu, np.eye(4)), lesion())
    written = np.asarray(nibabel.load(nnunet.paths(tmp_path, "a")[0]).dataobj)
    assert written[0, 0, :2].tolist() == [-32768, 32767]


def test_what_is_complete_is_left_alone_and_what_is_not_is_done_again(tmp_path):
    filled(tmp_path)
    image, label = nnunet.paths(tmp_path, "case0")
    before = image.read_bytes(), label.read_bytes()
    nnunet.write_case(tmp_path, "case0", scan(9), lesion(9))
    assert (image.read_bytes(), label.read_bytes()) == before
    for lost in (image, label):
        lost.unlink()
        assert not nnunet.is_done(tmp_path, "case0")
        assert nnunet.names(tmp_path) == ["case1"]
        nnunet.write_case(tmp_path, "case0", scan(9), lesion(9))
        assert nnunet.is_done(tmp_path, "case0")
        assert np.array_equal(np.asarray(nibabel.load(image).dataobj), np.rint(scan(9).hu))
        assert np.array_equal(np.asarray(nibabel.load(label).dataobj), lesion(9))


def test_at_no_time_is_there_an_image_without_its_label(tmp_path, monkeypatch):
    """Stopped before each file that is written: nnU-Net never sees half a case."""
    for moment in range(2):
        folder = tmp_path / str(moment)
        nnunet.start(folder)
        _stopped_at(monkeypatch, moment)
        with pytest.raises(KeyboardInterrupt):
            nnunet.write_case(folder, "a", scan(), lesion())
        monkeypatch.undo()
        assert not list((folder / "imagesTr").iterdir())
        assert nnunet.write_dataset_json(folder) == 0
        nnunet.write_case(folder, "a", scan(), lesion())
        assert nnunet.write_dataset_json(folder) == 1
    other = tmp_path / "0"
    for one, same in zip(nnunet.paths(folder, "a"), nnunet.paths(other, "a"), strict=True):
        assert one.read_bytes() == same.read_bytes()


def _stopped_at(monkeypatch, moment: int) -> None:
    """The process is stopped where file number `moment` was to take its name."""
    real, seen = os.replace, []

    def replace(*args) -> None:
        seen.append(args)
        if len(seen) > moment:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(os, "replace", replace)


def test_what_a_killed_run_left_is_cleared_and_nothing_else(tmp_path):
    filled(tmp_path)
    left = tmp_path / "imagesTr" / f".{'0a' * 16}.part"
    own = tmp_path / "labelsTr" / ".keep"
    left.write_bytes(b"half")
    own.write_bytes(b"")
    nnunet.start(tmp_path)
    assert not left.exists()
    assert own.exists()
    assert nnunet.names(tmp_path) == ["case0", "case1"]


def test_a_data_set_of_another_kind_is_not_touched(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1}}')
    for touch in (nnunet.start, nnunet.write_dataset_json):
        with pytest.raises(InputError, match="other channels or labels; choose another folder"):
            touch(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        nnunet.start(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        nnunet.start(tmp_path / "file")


def test_what_else_a_dataset_json_says_stays(tmp_path):
    filled(tmp_path)
    told = json.loads((tmp_path / "dataset.json").read_text()) | {"licence": "CC BY 4.0"}
    (tmp_path / "dataset.json").write_text(json.dumps(told))
    nnunet.write_case(tmp_path, "more", scan(5), lesion(5))
    assert nnunet.write_dataset_json(tmp_path) == 3
    again = json.loads((tmp_path / "dataset.json").read_text())
    assert again == told | {"numTraining": 3}


def test_a_scan_that_is_not_finite_or_on_another_grid_is_no_case(tmp_path):
    nnunet.start(tmp_path)
    hu = scan().hu
    hu[0] = np.nan
    with pytest.raises(InputError, match="56 of its voxels are NaN"):
        nnunet.write_case(tmp_path, "a", Volume(hu, np.eye(4)), lesion())
    with pytest.raises(ValueError, match="on a grid of"):
        nnunet.write_case(tmp_path, "a", scan(), lesion()[1:])
    assert nnunet.names(tmp_path) == []


def test_names_are_safe_and_differ_where_ids_do():
    ids = ["a/chest", "a/abdomen", "a_b/chest", "a-b/chest", "a.b/chest"]
    names = [nnunet.case_name(one) for one in ids]
    assert names[:2] == ["a_chest", "a_abdomen"]
    assert len(set(names)) == len(ids)
    for bad in ("a", "a/b/c", "../chest", "a/chest_b", "ä/chest", "a b/chest"):
        with pytest.raises(InputError, match="not a case of a store"):
            nnunet.case_name(bad)
