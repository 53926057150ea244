"""A folder with an index -> a store: regions, masks, patients; resumable."""

import json

import nibabel
import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.core.labels import ID
from denovox.data import store
from denovox.data.prepare import prepare, to_vocabulary

SHAPE = (24, 22, 10)
AFFINE = np.diag([-4.0, -4.0, 5.0, 1.0])  # LPS, as the shared scans are


@pytest.fixture
def source(tmp_path):
    """Three scans: a torso with a mask, a chest, a limb."""
    folder = tmp_path / "scans"
    folder.mkdir()
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.7, 40, -1000).astype(np.int16)
    hu[2, 3, 4] = 77  # tells where this voxel goes
    mask = np.zeros(SHAPE, np.uint8)
    mask[10:14, 10:14, 2:6] = 1
    mask[8:10, 10:14, 2:6] = 2
    entries = []
    for name, region, patient in (("t", "torso", "A"), ("c", "chest", "B"), ("l", "limb", "C")):
        nibabel.Nifti1Image(hu, AFFINE).to_filename(folder / f"{name}.nii.gz")
        entries.append({"id": name, "file": f"{name}.nii.gz", "region": region, "patient": patient})
    nibabel.Nifti1Image(mask, AFFINE).to_filename(folder / "t_organs.nii.gz")
    entries[0]["masks"] = {"t_organs": {"1": "liver", "2": "a thing without a name"}}
    (folder / "index.json").write_text(json.dumps(entries))
    return folder


def test_what_goes_in_comes_out(source, tmp_path):
    said = list(prepare(source, tmp_path / "store"))
    assert said[2] == "l: left out, region 'limb' is not one of the model's"
    chest, torso = store.cases(tmp_path / "store")
    assert (chest.facts.regions, torso.facts.regions) == (("chest",), ("chest", "abdomen"))
    assert torso.facts.patient == "A"
    assert torso.facts.spacing_mm == (4.0, 4.0, 5.0)
    # x and y of an LPS file run the other way in RAS.
    assert torso.ct[SHAPE[0] - 1 - 2, SHAPE[1] - 1 - 3, 4] == 77
    liver = np.argwhere(np.asarray(torso.anatomy) == ID["liver"])
    assert liver.min(0).tolist() == [10, 8, 2]
    assert liver.max(0).tolist() == [13, 11, 5]
    # What the table cannot name falls to what thresholds say; nothing is left without a label.
    assert {ID["body"], ID["outside"]} <= set(np.unique(torso.anatomy))
    assert ID["unknown"] not in np.unique(torso.anatomy)


def test_a_second_run_does_nothing_again(source, tmp_path):
    target = tmp_path / "store"
    list(prepare(source, target))
    times = {p: p.stat().st_mtime_ns for p in target.rglob("*.npy")}
    assert list(prepare(source, target))[:2] == ["t: there already", "c: there already"]
    assert {p: p.stat().st_mtime_ns for p in target.rglob("*.npy")} == times


def test_totalsegmentators_ids_are_the_vocabularys():
    values = np.array([[[0, 5, 117]]])
    assert to_vocabulary(values, "TotalSegmentator v2 total ids").tolist() == values.tolist()
    assert to_vocabulary(values, {"5": "spleen"}).tolist() == [[[0, ID["spleen"], 0]]]


def test_a_folder_without_an_index(tmp_path):
    with pytest.raises(InputError, match=r"no index\.json"):
        list(prepare(tmp_path, tmp_path / "store"))
