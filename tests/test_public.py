"""The public face: what `import denovox` gives, and that every task runs from it."""

import subprocess
import sys

import numpy as np
import pytest

import denovox
from denovox.core.errors import InputError
from denovox.core.labels import ID, LUNG
from denovox.inference.scan_context import ScanContext
from denovox.scan import anatomy
from denovox.simulate import phantom
from denovox.simulate.dose import LowDoseConfig, simulate_low_dose


@pytest.fixture(scope="module")
def chest():
    """A procedural chest of 6 mm voxels."""
    return phantom.add_noise(phantom.chest((56, 44, 24), 6.0).ct, 20.0, 0)


def test_every_public_name_can_be_had_and_is_listed():
    for name in denovox.__all__:
        assert getattr(denovox, name) is not None
    assert set(denovox.__all__) <= set(dir(denovox))
    with pytest.raises(AttributeError, match="no attribute 'denoise'"):
        denovox.denoise  # noqa: B018


def imported(code, *names):
    """Which of some modules are imported by code, in a process of its own."""
    code += f"; import sys; print(sorted({set(names)} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return out.stdout.strip()


def test_importing_denovox_imports_nothing_slow():
    """Listing its names, as tab completion does, as well."""
    code = "import denovox; dir(denovox); denovox.simulate"
    assert imported(code, "torch", "monai", "scipy", "nibabel", "pydicom") == "[]"


def test_the_command_line_imports_nothing_slow_before_a_command_runs():
    slow = ("numpy", "scipy", "torch", "nibabel", "pydicom", "pydantic", "pyarrow", "rich")
    assert imported("import denovox.cli.main", *slow) == "[]"


def test_a_model_is_loaded_without_what_other_tasks_need():
    code = "import denovox; denovox.load()"
    slow = ("monai", "scipy.signal", "scipy.stats", "skimage", "zarr", "pyarrow")
    assert imported(code, *slow) == "[]"


@pytest.mark.slow
def test_six_tasks_from_one_model(chest, tiny, tiny_lesion):
    base, steered = denovox.load(tiny), denovox.load(tiny_lesion)
    options = denovox.RunOptions(tile=32)
    clean = base.denoise(chest, "chest", 20.0, options=options)
    assert clean.shape == chest.shape
    assert clean.affine is chest.affine
    drawn = base.posterior(chest, 2, "chest", 20.0, options)
    assert drawn.sd.shape == chest.shape
    thin = base.superres(chest, 1.5, region="chest", evaluations=1, options=options)
    assert thin.shape == (56, 44, 36)
    assert thin.consistency.max_hu < 0.1
    made = base.synthesize("chest", (24, 24, 24), (4.0, 4.0, 4.0), steps=2, options=options)
    assert made.shape == (24, 24, 24)
    mask = np.zeros(chest.shape, np.int32)
    mask[26:30, 20:24, 10:14] = 7
    edited = steered.add_lesions(chest, mask, region="chest", options=options)
    assert (edited.numbers > 0).sum() == (mask > 0).sum()
    far = np.ones(chest.shape, bool)
    far[23:33, 17:27, 7:17] = False
    assert np.array_equal(edited.volume.hu[far], chest.hu[far])
    hole = steered.inpaint(chest, mask, region="chest", options=options)
    assert np.array_equal(hole.hu[mask == 0], chest.hu[mask == 0])
    assert not np.array_equal(hole.hu[mask > 0], chest.hu[mask > 0])
    assert base.describe()["card"] == {"text": "for tests"}
    assert steered.describe()["control"]["card"]["base"] == "tiny"


def test_detection_takes_the_bundled_calibrations_of_its_weights(chest, tiny):
    """And says so where there are none."""
    with pytest.raises(InputError, match="made with the weights"):
        denovox.load(tiny).detect(chest)


@pytest.mark.slow
def test_a_context_is_found_once_for_all_tasks(chest, tiny, monkeypatch):
    asked = []
    coarse = anatomy.coarse
    monkeypatch.setattr(anatomy, "coarse", lambda volume: asked.append(1) or coarse(volume))
    model, context = denovox.load(tiny), ScanContext(chest, "chest", 20.0)
    options = denovox.RunOptions(tile=32)
    alone = model.denoise(chest, "chest", 20.0, options=options)
    asked.clear()
    shared = model.denoise(chest, options=options, context=context)
    model.posterior(chest, 2, options=options, context=context)
    assert len(asked) == 1
    assert np.array_equal(shared.hu, alone.hu)
    with pytest.raises(ValueError, match="another scan"):
        model.denoise(alone, context=context)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda m, ct: m.add_lesions(ct), "either a mask or an organ"),
        (lambda m, ct: m.add_lesions(ct, np.ones((2, 2, 2))), r"shape \(2, 2, 2\)"),
        (lambda m, ct: m.add_lesions(ct, organ="lver"), "did you mean"),
        (lambda m, ct: m.inpaint(ct, np.zeros(ct.shape)), "is empty"),
        (lambda m, ct: m.denoise(ct, "chest", 0.0), "cannot be removed"),
        (lambda m, ct: m.denoise(ct, "chets"), "chest"),
        (lambda m, ct: m.posterior(ct, 1), "at least 2 samples"),
        (lambda m, ct: m.superres(ct), "either a factor or"),
        (
            lambda m, ct: m.synthesize("chest", (8, 8, 8), (90.0, 1.0, 1.0)),
            "mm that the model supports",
        ),
        (
            lambda m, ct: m.add_lesions(ct, np.ones(ct.shape), region="chest"),
            r"load\('lesion'\)|outside the body",
        ),
    ],
)
def test_what_makes_no_sense_is_one_sentence(ask, words, chest, tiny):
    with pytest.raises(InputError, match=words):
        ask(denovox.load(tiny), chest)


@pytest.mark.slow
def test_files_and_simulations(chest, tmp_path):
    path = tmp_path / "ct.nii.gz"
    denovox.write(chest, path)
    ct = denovox.read(path)
    ids = denovox.coarse_anatomy(ct)
    assert (ids == LUNG).any()
    report = denovox.inspect(path)
    assert report.verdict in ("ok", "note", "doubt")
    low = denovox.simulate.low_dose(ct, dose=0.25, seed=1)
    assert not np.array_equal(low.hu, ct.hu)
    same = simulate_low_dose(ct, LowDoseConfig(dose=0.25, seed=1))
    assert np.array_equal(low.hu, same.hu)
    assert denovox.simulate.low_dose(ct, dose=1.0).shape == ct.shape
    with pytest.raises(InputError, match=r"outside \(0, 1\]"):
        denovox.simulate.low_dose(ct, dose=25)
    thick = denovox.simulate.thick_slices(ct, 12.0)
    assert thick.spacing_mm[2] == pytest.approx(12)
    assert denovox.report(ct, low).change.mean_hu > 0
    from denovox.io import nifti

    nifti.write_mask((ids == LUNG) * np.uint8(ID["liver"]), ct, tmp_path / "mask.nii.gz")
    mask = denovox.read_labels(tmp_path / "mask.nii.gz", like=ct)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask > 0, ids == LUNG)
