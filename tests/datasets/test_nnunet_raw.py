"""nnU-Net's raw folders and Decathlon tasks as a layout of `denovox prepare`."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner, Result

from denovox.cli.main import main
from denovox.core.errors import InputError
from denovox.core.labels import ID
from denovox.core.volume import Volume
from denovox.datasets import nnunet, store
from denovox.datasets.executors import here
from denovox.datasets.layouts import survey
from denovox.datasets.prepare import prepare as fill
from denovox.datasets.prepare_config import PrepareConfig

V2 = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "liver tumor": 2, "ignore": 3},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
V1 = {
    "name": "Pancreas",
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "pancreas", "2": "cancer"},
    "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
}


def tree(root: Path, facts: object, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


TWO = ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTr/b_0000.nii.gz")


@pytest.mark.parametrize(
    ("facts", "paths"),
    [
        (V2, TWO),
        (V1, TWO),
        (V1, ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTr/b.nii.gz")),
        (V2 | {"file_ending": ".nrrd"}, tuple(one.replace(".nii.gz", ".nrrd") for one in TWO)),
    ],
    ids=["v2", "v1", "Decathlon", "nrrd"],
)
def test_it_is_recognised(tmp_path, facts, paths):
    found = survey(tree(tmp_path, facts, *paths))
    assert found.layout == "nnunet"
    assert survey(tmp_path, "nnunet") == found
    assert [(one.id, one.patient, len(one.masks)) for one in found.entries] == [
        ("a", "a", 1),
        ("b", "b", 0),
    ]
    assert found.entries[1].notes == ("without a mask",)
    assert not found.left_out


def test_labels_go_by_their_names(tmp_path):
    (one,) = survey(tree(tmp_path / "v2", V2, *TWO)).entries[0].masks
    assert one.bridge.values == {1: ID["liver"], 2: 0, 3: 0}
    assert one.bridge.lesions == (2,)
    (one,) = survey(tree(tmp_path / "v1", V1, *TWO)).entries[0].masks
    assert (one.bridge.values, one.bridge.lesions) == ({1: ID["pancreas"], 2: 0}, (2,))
    regions = V2 | {"labels": {"background": 0, "kidney": [1, 2], "tumor": 2, "kidney_left": [1]}}
    (one,) = survey(tree(tmp_path / "regions", regions, *TWO)).entries[0].masks
    assert one.bridge.values == {1: ID["kidney_left"], 2: ID["kidney"]}
    assert one.bridge.lesions == (2,)


def test_of_several_channels_only_the_ct(tmp_path):
    paths = ("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    found = survey(tree(tmp_path, V2 | {"channel_names": {"0": "PET", "1": "CT"}}, *paths))
    assert [(one.id, one.scan.name) for one in found.entries] == [("a", "a_0001.nii.gz")]
    assert found.left_out == (("imagesTr/a_0000.nii.gz", "channel 0 (PET), not CT"),)
    assert len(found.entries[0].masks) == 1


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (V2 | {"channel_names": {"0": "T2", "1": "FLAIR"}}, r"no CT among.*\(0: T2, 1: FLAIR\)"),
        (V1 | {"modality": {"0": "MRI"}}, "no CT among its channels"),
        ({key: V2[key] for key in ("labels",)}, "neither channel_names nor modality"),
        (V2 | {"file_ending": ".png"}, r"images ending in .png are not volumes"),
        ({"channel_names": {"0": "CT"}}, "has no 'labels'"),
        ([1], "has no 'labels'"),
        (V2 | {"labels": {"background": 0, "liver": "x"}}, "label 'liver' has the value x"),
        (V2 | {"channel_names": {"zero": "CT"}}, "'zero' is not a channel number"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path, facts, why):
    with pytest.raises(InputError, match=why) as told:
        survey(tree(tmp_path, facts, *TWO))
    assert "\n" not in str(told.value)


def test_cases_for_testing_stay_apart_by_patient(tmp_path):
    tree(tmp_path, V2, *TWO, "imagesTs/c_0000.nii.gz", "labelsTs/c.nii.gz")
    splits = {one.id: one.split for one in survey(tmp_path).entries}
    assert splits == {"a": None, "b": None, "c": "test"}
    table = tmp_path / "patients.csv"
    table.write_bytes("\ufeffcase;patient\r\na;P1\r\nb;P2\r\nc;P1\r\n".encode())
    found = {one.id: (one.patient, one.split) for one in survey(tmp_path, None, table).entries}
    assert found == {"a": ("P1", "test"), "b": ("P2", None), "c": ("P1", "test")}
    table.write_text("case,patient\na,P1\nc,P1\n")
    with pytest.raises(InputError, match=r"no patient for case b; .*--dry-run"):
        survey(tmp_path, None, table)
    table.write_text("case,patient\na,P1\na,P2\n")
    with pytest.raises(InputError, match="line 3: case 'a' has another patient, P1"):
        survey(tmp_path, None, table)


def test_several_data_sets_in_one_folder(tmp_path):
    for name in ("Dataset001_A", "Dataset002_B"):
        tree(tmp_path / name, V2, *TWO[:2])
    found = [(one.id, one.patient) for one in survey(tmp_path).entries]
    assert found == [("Dataset001_A_a", "a"), ("Dataset002_B_a", "a")]


def prepare(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["prepare", *map(str, arguments)])


def body(seed: int, shape=(40, 36, 12)) -> np.ndarray:
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.7, np.where(x < 0, 50.0, -100.0), -1000.0)
    return (hu + 15 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def test_what_augment_writes_comes_back(tmp_path):
    """Voxels, grid, lesions and patients; and a mask on another grid puts its scan aside."""
    raw, affine = tmp_path / "Dataset501_Lesions", np.diag([4.0, 4.0, 5.0, 1.0])
    nnunet.start(raw)
    lesion = np.zeros((40, 36, 12), np.uint8)
    lesion[15:19, 15:19, 4:8] = 1
    for k in range(3):
        nnunet.write_case(raw, f"s_chest_s{k}", Volume(body(k), affine), lesion)
    nnunet.write_dataset_json(raw)
    rows = [{"case": f"s_chest_s{k}", "patient": "Ann"} for k in range(3)]
    (raw / "lesions.json").write_text(json.dumps(rows))
    label = raw / "labelsTr/s_chest_s2.nii.gz"
    shifted = affine.copy()
    shifted[2, 3] = 40
    nibabel.save(nibabel.Nifti1Image(lesion, shifted), label)
    out = tmp_path / "store"
    words = "\n".join(fill(raw, out, PrepareConfig(), here))
    assert "s_chest_s2: excluded" in words
    assert words.count("40 x 36 x 12 voxels") == 2, "both geometries"
    cases = store.cases(out)
    assert {one.facts.patient for one in cases} == {"Ann"}
    assert len(cases) == 2
    one = next(case for case in cases if case.facts.id.startswith("s_chest_s0/"))
    assert np.array_equal(np.asarray(one.voxels("ct")[...]), np.maximum(np.rint(body(0)), -1024))
    assert np.array_equal(np.asarray(one.voxels("lesion")[...]), lesion)
    np.testing.assert_allclose(np.array(one.facts.affine).reshape(4, 4), affine)


def test_the_table_of_patients_is_an_option(tmp_path):
    table = tmp_path / "p.csv"
    table.write_text("case,patient\na,Ann\nb,Bob\n")
    tree(tmp_path / "d", V2, *TWO)
    given = (tmp_path / "d", "--out", tmp_path / "s", "--dry-run", "--patients", table)
    assert prepare(*given).stdout.splitlines() == [
        "a: patient Ann, 1 masks",
        "b: patient Bob, 0 masks",
    ]
