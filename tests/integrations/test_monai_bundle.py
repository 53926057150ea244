"""A MONAI bundle, run by MONAI itself; and volumes to and from its tensors."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from command_line import refuses, run
from tiny_store import make_store

import denovox
from denovox.core.errors import InputError
from denovox.core.volume import Volume
from denovox.integrations.monai import Denoise

monai = pytest.importorskip("monai.bundle", reason="needs the extra [monai]")
# MONAI warns that a configuration is code, whoever wrote it.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:monai")
TENSOR = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"}


@pytest.fixture
def bundle(tiny, tmp_path):
    """The bundle of a tiny network."""
    folder = tmp_path / "bundle"
    words = ("--weights", tiny, "--license", "cc-by-4.0")
    result = run("export", "monai-bundle", folder, *words)
    assert result.exit_code == 0, result.output
    return folder


def config(bundle, name, **override):
    file = bundle / "configs" / f"{name}.json"
    return {"config_file": str(file), "bundle_root": str(bundle), **override}


def scan_at(path, dtype=np.int16, turned=()):
    """A noisy cylinder with two lungs, 40 x 36 x 24 voxels, as a file; `turned`: axes that are
    reversed."""
    x, y, _ = np.indices((40, 36, 24)) - np.reshape((19.5, 17.5, 11.5), (3, 1, 1, 1))
    hu = np.where(np.hypot(x / 17, y / 14) < 1, 40.0, -1000.0)
    hu[np.hypot((np.abs(x) - 8) / 5, y / 8) < 1] = -850
    hu = (hu + np.random.default_rng(0).normal(0, 30, hu.shape)).astype(dtype)
    affine = np.diag([8.0, 8.0, 5.0, 1.0])
    for axis in turned:
        hu = np.flip(hu, axis)
        affine[:3, 3] += affine[:3, axis] * (hu.shape[axis] - 1)
        affine[:3, axis] *= -1
    path.parent.mkdir(exist_ok=True)
    nibabel.Nifti1Image(np.ascontiguousarray(hu), affine).to_filename(path)
    return path


# ---- the bundle ---------------------------------------------------------------------------------


def test_a_run_of_monai_writes_what_denovox_denoise_writes(bundle, tiny, tmp_path):
    """To the byte, whatever the type and the axes of the file."""
    files = {"a.nii.gz": (np.int16, (0, 1)), "b.nii": (np.float32, (2,))}
    for name, (dtype, turned) in files.items():
        scan_at(tmp_path / "scans" / name, dtype, turned)
    dirs = {"dataset_dir": str(tmp_path / "scans"), "output_dir": str(tmp_path / "out")}
    monai.run(**config(bundle, "inference", device="cpu", region="chest", **dirs))
    for name in files:
        own = tmp_path / "own.nii.gz"
        words = ("--weights", tiny, "--region", "chest", "--device", "cpu", "--force")
        result = run("denoise", tmp_path / "scans" / name, own, *words)
        assert result.exit_code == 0, result.output
        theirs = tmp_path / "out" / f"{name.partition('.')[0]}_denoised.nii.gz"
        assert theirs.read_bytes() == own.read_bytes()
        assert not np.array_equal(denovox.read(own).hu, denovox.read(tmp_path / "scans" / name).hu)


def test_the_configurations_have_what_monai_asks_for(bundle, tmp_path):
    scan_at(tmp_path / "scans" / "a.nii.gz")
    settings = config(bundle, "inference", dataset_dir=str(tmp_path / "scans"), device="cpu")
    workflow = monai.ConfigWorkflow(**settings, workflow_type="infer", logging_file=False)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_metadata_are_of_the_form_that_monai_checks(bundle):
    """The keys and types that the schema of 2024-07-25 requires."""
    meta = json.loads((bundle / "configs/metadata.json").read_text())
    texts = "schema version monai_version pytorch_version numpy_version task description authors"
    assert all(isinstance(meta[name], str) and meta[name] for name in [*texts.split(), "copyright"])
    assert meta["required_packages_version"] == {"denovox": denovox.__version__}
    for tensor in (meta["network_data_format"][x] for x in ("inputs", "outputs")):
        (image,) = tensor.values()
        assert image.keys() >= TENSOR
        assert image["format"] == "hounsfield"
        assert len(image["spatial_shape"]) == 3
    assert "for tests" in meta["description"]


def test_the_files_of_a_bundle(bundle, tiny):
    assert (bundle / "models/model.safetensors").read_bytes() == tiny.read_bytes()
    assert "cc-by-4.0" in (bundle / "LICENSE").read_text()
    assert "python -m monai.bundle run" in (bundle / "docs/README.md").read_text()
    monai.download_large_files(str(bundle))  # there are none, and it says so


def test_training_goes_on_from_the_weights_of_the_bundle(bundle, tiny, tmp_path):
    make_store(tmp_path / "store")
    more = {
        "recipe#data#store": str(tmp_path / "store"),
        "recipe#data#source": "$None",
        "recipe#data#sample#patch": 16,
        "recipe#train#steps": 2,
        "recipe#train#precision": "float32",
    }
    folder = tmp_path / "run"
    monai.run(**config(bundle, "train", output_dir=str(folder), device="cpu", **more))
    from denovox.model import weights

    config_of, card, digest = weights.describe(folder / "model.safetensors")
    assert config_of == weights.describe(tiny)[0]
    assert card["steps"] == 2
    assert card["history"][0]["sha256"] == weights.sha256(tiny) != digest


def test_a_recipe_is_that_of_the_weights_without_its_patients(tiny, tmp_path):
    """The bundled base was trained by a recipe; where its data were is of no use elsewhere."""
    assert run("export", "monai-bundle", tmp_path / "base").exit_code == 0
    recipe = json.loads((tmp_path / "base/configs/train.json").read_text())["recipe"]
    from denovox.model import weights

    of_base = weights.describe(weights.locate("base"))[1]["recipe"]
    assert recipe["train"] == of_base["train"]
    assert recipe["expert"] == of_base["expert"] == {"below": 0.6}
    assert recipe["data"]["validation_patients"] == []
    assert "shared" not in (tmp_path / "base/configs/train.json").read_text()


def test_what_cannot_be_exported_is_one_sentence(tiny, tiny_lesion, tmp_path):
    bundle = tmp_path / "new"
    refuses(run("export", "monai-bundle", bundle, "--weights", tiny), "--license")
    words = ("--weights", tiny_lesion, "--license", "other")
    refuses(run("export", "monai-bundle", bundle, *words), "a control, not a base")
    assert not bundle.exists()
    bundle.mkdir()
    (bundle / "mine.txt").write_text("mine")
    refuses(run("export", "monai-bundle", bundle), "already contains files")


# ---- its tensors --------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [(), (0,), (0, 1), (2,)])
def test_an_image_that_monai_has_loaded_is_the_scan_that_denovox_reads(turned, tmp_path):
    from monai.transforms import LoadImage

    path = scan_at(tmp_path / "scan.nii.gz", np.int16, turned)
    for channel in (True, False):
        image = LoadImage(image_only=True, ensure_channel_first=channel)(path)
        volume, read = Volume.from_metatensor(image), denovox.read(path, accept_hu=True)
        assert np.array_equal(volume.hu, read.hu)
        np.testing.assert_allclose(volume.affine, read.affine, atol=1e-5)
        back = volume.to_metatensor(like=image)
        assert back.shape == image.shape
        assert np.array_equal(back.numpy(), image.numpy())
        np.testing.assert_array_equal(back.affine, image.affine)
        assert back.meta["filename_or_obj"] == image.meta["filename_or_obj"]
    with pytest.raises(InputError, match="not on one grid"):
        Volume(volume.hu[1:], volume.affine).to_metatensor(like=image)


def test_the_inferer_takes_what_any_reader_of_monai_gives(tiny, tmp_path):
    """In the axes of the file, and with the transforms that have been applied to it."""
    from monai.transforms import Compose, EnsureChannelFirst, Flip, LoadImage

    path = scan_at(tmp_path / "scan.nii.gz", np.int16, (1,))
    loading = Compose([LoadImage(image_only=True), EnsureChannelFirst(), Flip(2)])
    image, model = loading(path), denovox.load(tiny, "cpu")
    result = Denoise(region="chest")(image, model)
    expected = model.denoise(denovox.read(path), "chest")
    assert np.array_equal(Volume.from_metatensor(result).hu, expected.hu)
    assert [one["class"] for one in result.applied_operations] == ["Flip"]
    assert loading.transforms[2].inverse(result).shape == image.shape
