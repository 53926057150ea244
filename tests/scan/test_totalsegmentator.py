"""TotalSegmentator as a stand-in of the same interface: what it is given, what comes back."""

import inspect
import sys
from types import ModuleType

import nibabel
import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.core.labels import TOTALSEGMENTATOR_V2
from denovox.core.volume import Volume
from denovox.scan import totalsegmentator as module
from denovox.scan.totalsegmentator import FAST, PARTS, segment, weights_folder

SHAPE = (5, 6, 7)
AFFINE = np.array([[0.7, 0, 0.05, -20], [0, 0.8, 0, 10], [-0.05, 0, 2.5, 300], [0, 0, 0, 1]])


def totalsegmentator(
    input, output=None, ml=False, nr_thr_resamp=1, nr_thr_saving=6, fast=False, nora_tag="None",
    preview=False, task="total", roi_subset=None, statistics=False, radiomics=False,
    crop_path=None, body_seg=False, force_split=False, output_type="nifti", quiet=False,
    verbose=False, test=0, skip_saving=False, device="gpu", license_number=None,
    statistics_exclude_masks_at_border=True, no_derived_masks=False, v1_order=False,
    fastest=False, roi_subset_robust=None,
):  # fmt: skip
    """The real signature (python_api.py, 2.3): liver above 0 HU, in the axes of its input."""
    print("Using Device: cpu")
    assert isinstance(input, nibabel.Nifti1Image)
    assert (output, ml, task, v1_order) == (None, True, "total", False)
    assert input.get_data_dtype() == np.float32
    assert input.header.get_xyzt_units()[0] == "mm"
    found = np.where(np.asarray(input.dataobj) > 0, 5, 0).astype(np.uint8)
    return nibabel.Nifti1Image(found, input.affine)


@pytest.fixture
def volume():
    """No two axes alike, nothing symmetric, oblique."""
    hu = np.full(SHAPE, -1000, np.float32)
    hu[1, 2, 3] = hu[1, 2, 4] = hu[4, 0, 6] = 50
    return Volume(hu, AFFINE)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """The package with the classes of v2, and all its weights."""
    package = ModuleType("totalsegmentator")
    api = ModuleType("totalsegmentator.python_api")
    classes = ModuleType("totalsegmentator.map_to_binary")
    api.totalsegmentator = totalsegmentator
    classes.class_map = {"total": dict(enumerate(TOTALSEGMENTATOR_V2, 1))}
    for part in (package, api, classes):
        monkeypatch.setitem(sys.modules, part.__name__, part)
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path))
    for number in PARTS + FAST:
        folder = tmp_path / f"Dataset{number}_x_1559subj/nnUNetTrainer__nnUNetPlans__3d_fullres"
        (folder / "fold_0").mkdir(parents=True)
        (folder / "fold_0/checkpoint_final.pth").touch()
    return api


@pytest.mark.parametrize("fast", [False, True])
def test_every_voxel_gets_its_own_label(installed, volume, fast, capsys):
    found = segment(volume, fast)
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.where(volume.hu > 0, 5, 0))
    assert capsys.readouterr().out == ""  # standard output is a command's own


@pytest.mark.parametrize("axes", ["LPS", "SAR", "PIR"])
def test_an_answer_in_other_axes_is_turned_back(installed, volume, monkeypatch, axes):
    def turned(input, output, ml, task, fast, device, quiet):
        found = totalsegmentator(input, output, ml=ml, task=task)
        have = nibabel.io_orientation(found.affine)
        want = nibabel.orientations.axcodes2ornt(axes)
        return found.as_reoriented(nibabel.orientations.ornt_transform(have, want))

    monkeypatch.setattr(installed, "totalsegmentator", turned)
    assert np.array_equal(segment(volume), np.where(volume.hu > 0, 5, 0))


def test_what_it_is_asked_is_in_its_interface():
    """Names that we pass are parameters of the real function, whose signature stands above."""
    names = set(inspect.signature(totalsegmentator).parameters)
    assert {"ml", "task", "fast", "device", "quiet"} <= names


def test_an_answer_on_another_grid(installed, volume, monkeypatch):
    small = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), AFFINE)
    monkeypatch.setattr(installed, "totalsegmentator", lambda *a, **k: small)
    with pytest.raises(InputError, match=r"another grid \(2 x 2 x 2 .* CT has 5 x 6 x 7"):
        segment(volume)
    moved = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE + np.eye(4, k=3))
    monkeypatch.setattr(installed, "totalsegmentator", lambda *a, **k: moved)
    with pytest.raises(InputError, match="another grid"):
        segment(volume)


def test_without_the_package(volume, monkeypatch):
    monkeypatch.setitem(sys.modules, "totalsegmentator", None)  # as if not installed
    with pytest.raises(InputError, match=r"pip install 'denovox\[anatomy\]'.*weights in .*results"):
        segment(volume)


def test_without_weights_nothing_is_fetched(installed, volume, monkeypatch, tmp_path):
    def never(*given, **named):
        raise AssertionError("it would have downloaded its weights")

    monkeypatch.setattr(installed, "totalsegmentator", never)
    [part] = tmp_path.glob("Dataset293*/*/fold_0/checkpoint_final.pth")
    part.unlink()  # a folder alone, of an interrupted download, is not enough
    with pytest.raises(InputError, match=r"\(datasets 293\) are not in .*TOTALSEG_WEIGHTS_PATH"):
        segment(volume)
    [part] = tmp_path.glob("Dataset297*/*/fold_0/checkpoint_final.pth")
    part.unlink()
    with pytest.raises(InputError, match=r"datasets 297"):
        segment(volume, fast=True)


def test_classes_that_are_not_v2s(installed, volume):
    sys.modules["totalsegmentator.map_to_binary"].class_map["total"][7] = "aorta"
    with pytest.raises(InputError, match="does not have the 117 classes of v2"):
        segment(volume)


def test_where_weights_are_looked_for(monkeypatch, tmp_path):
    for name in ("TOTALSEG_WEIGHTS_PATH", "TOTALSEG_HOME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module.Path, "home", lambda: tmp_path)
    assert weights_folder() == tmp_path / ".totalsegmentator/nnunet/results"
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "ts"))
    assert weights_folder() == tmp_path / "ts/nnunet/results"
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "w"))
    assert weights_folder() == tmp_path / "w"
