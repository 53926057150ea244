"""`denovox lesion`, `inpaint` and controls at the command line: files, geometry, one sentence."""

import json

import nibabel
import numpy as np
import pydicom
import pytest
from command_line import run
from dicom_cases import series

from denovox import tasks
from denovox.datasets import nnunet, store
from denovox.datasets.manifest import CaseFacts
from denovox.inference import inpaint
from denovox.io import nifti
from denovox.model import weights
from denovox.simulate import phantom
from denovox.simulate.lesion_density import SOFT_TISSUE, SOLID


@pytest.fixture(autouse=True)
def three_steps(monkeypatch):
    """What is tested here is files and words: three steps in place of twenty."""

    def short(y, known, noise, schedule, steps, jumps, *level):
        return tasks.inpainting(y, known, noise, schedule, 3, jumps, *level)

    monkeypatch.setattr(inpaint, "inpainting", short)


@pytest.fixture(scope="module")
def chest():
    return phantom.chest((64, 56, 40), 5.0)


@pytest.fixture
def scan(tmp_path, chest):
    """The phantom as a file whose axes are LAS, so that a lost flip would show."""
    path = tmp_path / "scan.nii.gz"
    affine = chest.ct.affine @ np.diag([-1.0, 1, 1, 1])
    affine[0, 3] = chest.ct.affine[0, 3] + 5.0 * 63
    hu = np.round(chest.ct.hu[::-1]).astype(np.int16)
    nibabel.Nifti1Image(hu, affine).to_filename(path)
    return path


def mask_file(path, like, where):
    """A mask in the axes of a file."""
    image = nibabel.load(like)
    mask = np.zeros(image.shape, np.uint8)
    mask[where] = 1
    nibabel.Nifti1Image(mask, image.affine).to_filename(path)
    return path


def in_lung(scan):
    """A block of air in the phantom's lung, in the file's axes."""
    hu = np.asarray(nibabel.load(scan).dataobj)
    air = (hu < -700) & (hu > -950)
    for i, j, k in np.argwhere(air[8:-8, 8:-8, 8:-8]) + 8:
        block = (slice(i - 2, i + 2), slice(j - 2, j + 2), slice(k - 1, k + 2))
        if air[block].all():
            return block
    raise AssertionError


def test_a_lesion_where_a_mask_says(scan, tmp_path, tiny_lesion):
    where = in_lung(scan)
    mask, out = mask_file(tmp_path / "m.nii.gz", scan, where), tmp_path / "out.nii.gz"
    result = run("lesion", scan, out, "--mask", mask, "--tile", 32, "--weights", tiny_lesion)
    assert result.exit_code == 0, result.output
    before, after = nibabel.load(scan), nibabel.load(out)
    assert before.header.binaryblock == after.header.binaryblock
    changed = np.argwhere(np.asarray(before.dataobj) != np.asarray(after.dataobj))
    inside = [slice(s.start - 1, s.stop + 1) for s in where]  # 4 mm are less than a voxel
    assert len(changed) > 10
    for axis, part in enumerate(inside):
        assert changed[:, axis].min() >= part.start
        assert changed[:, axis].max() < part.stop
    written = nibabel.load(tmp_path / "out_mask.nii.gz")
    np.testing.assert_allclose(written.affine, before.affine, atol=1e-4)
    assert np.array_equal(np.asarray(written.dataobj), np.asarray(nibabel.load(mask).dataobj))
    told = json.loads((tmp_path / "out_lesions.json").read_text())
    assert told["control"] == weights.sha256(tiny_lesion)
    assert told["weights"] == weights.sha256(tiny_lesion.with_name("tiny.safetensors"))
    (one,) = told["lesions"]
    centre = before.affine[:3] @ [*(np.mean([s.start, s.stop - 1]) for s in where), 1]
    np.testing.assert_allclose(one["centre_mm"], centre, atol=1e-3)
    assert one["volume_ml"] == pytest.approx(4 * 4 * 3 * 0.125)
    assert not (tmp_path / "out_mask.dcm").exists()


@pytest.mark.slow
def test_lesions_in_an_organ_by_seed(scan, tmp_path, tiny_lesion):
    asked = (
        "--organ",
        "lung",
        "--diameter",
        "14mm",
        "--count",
        2,
        "--tile",
        32,
        "--weights",
        tiny_lesion,
    )
    outs = [tmp_path / f"{name}.nii.gz" for name in "abc"]
    for out, seed in zip(outs, (7, 7, 8), strict=True):
        result = run("lesion", scan, out, *asked, "--seed", seed)
        assert result.exit_code == 0, result.output
    assert outs[0].read_bytes() == outs[1].read_bytes()
    masks = [np.asarray(nibabel.load(tmp_path / f"{n}_mask.nii.gz").dataobj) for n in "abc"]
    assert np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])
    assert set(np.unique(masks[0])) == {0, 1, 2}
    told = json.loads((tmp_path / "a_lesions.json").read_text())
    assert told["seed"] == 7
    affine = nibabel.load(outs[0]).affine
    for one in told["lesions"]:
        assert one["organ"] == "lung"
        centre = np.argwhere(masks[0] == one["number"]).mean(0)
        np.testing.assert_allclose(one["centre_mm"], affine[:3] @ [*centre, 1], atol=1e-3)
        assert f"lesion {one['number']}: lung, 14.0 mm" in result.stderr


@pytest.mark.slow
def test_an_organ_may_be_a_mask_that_is_named_as_one(scan, tmp_path, tiny_lesion):
    hu = np.asarray(nibabel.load(scan).dataobj)
    block = (slice(28, 36), slice(20, 28), slice(10, 16))
    assert hu[block].max() > -200
    organ = mask_file(tmp_path / "pancreas.nii.gz", scan, block)
    out = tmp_path / "out.nii.gz"
    asked = ("--organ", organ, "--diameter", 12, "--tile", 32, "--weights", tiny_lesion)
    result = run("lesion", scan, out, *asked)
    assert result.exit_code == 0, result.output
    mask = np.asarray(nibabel.load(tmp_path / "out_mask.nii.gz").dataobj)
    assert mask[block].sum() == mask.sum() > 0
    assert json.loads((tmp_path / "out_lesions.json").read_text())["lesions"][0]["organ"] == (
        "pancreas"
    )


@pytest.mark.slow
def test_the_coarse_anatomy_is_computed_once(scan, tmp_path, tiny_lesion, coarse_calls):
    where = in_lung(scan)
    mask = mask_file(tmp_path / "m.nii.gz", scan, where)
    organ = mask_file(tmp_path / "pancreas.nii.gz", scan, (slice(28, 36), slice(20, 28), slice(24)))
    commands = (
        ("lesion", "--mask", mask),
        ("lesion", "--organ", "lung", "--diameter", 14),
        ("lesion", "--organ", organ, "--diameter", 10),
        ("inpaint", "--mask", mask, "--with-lesion", mask),
    )
    for name, *more in commands:
        coarse_calls.clear()
        asked = (*more, "--tile", 32, "--force", "--weights", tiny_lesion)
        result = run(name, scan, tmp_path / "out.nii.gz", *asked)
        assert result.exit_code == 0, result.output
        assert coarse_calls == [(64, 56, 40)], (name, more)


@pytest.mark.slow
def test_of_dicom_the_mask_is_a_dicom_seg_too(tmp_path, chest, tiny_lesion):
    hu = chest.ct.hu[:, ::-1].round()
    series(tmp_path / "dicom", hu, spacing=(5.0, 5.0, 5.0))
    out = tmp_path / "out.nii.gz"
    asked = ("--organ", "lung", "--diameter", 15, "--tile", 32, "--weights", tiny_lesion)
    result = run("lesion", tmp_path / "dicom", out, *asked)
    assert result.exit_code == 0, result.output
    seg = pydicom.dcmread(tmp_path / "out_mask.dcm")
    assert seg.Modality == "SEG"
    mask = np.asarray(nibabel.load(tmp_path / "out_mask.nii.gz").dataobj)
    assert seg.pixel_array.sum() == mask.sum() > 0


@pytest.mark.slow
def test_taking_out_and_putting_back(scan, tmp_path, tiny, tiny_lesion):
    where = in_lung(scan)
    mask = mask_file(tmp_path / "m.nii.gz", scan, where)
    small = mask_file(
        tmp_path / "s.nii.gz", scan, tuple(slice(s.start, s.start + 2) for s in where)
    )
    before = np.asarray(nibabel.load(scan).dataobj)
    hole = np.asarray(nibabel.load(mask).dataobj) > 0
    results = []
    for name, more in (("a", ()), ("b", ("--with-lesion", small)), ("c", ("--jumps", "1x1"))):
        out = tmp_path / f"{name}.nii.gz"
        result = run(
            "inpaint", scan, out, "--mask", mask, "--tile", 32, "--control", tiny_lesion, *more
        )
        assert result.exit_code == 0, result.output
        after = np.asarray(nibabel.load(out).dataobj)
        assert np.array_equal(before[~hole], after[~hole])
        assert not np.array_equal(before[hole], after[hole])
        results.append(after)
    assert not np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    # Without a lesion the base alone will do, and gives the same.
    assert (
        run(
            "inpaint",
            scan,
            tmp_path / "d.nii.gz",
            "--mask",
            mask,
            "--tile",
            32,
            "--weights",
            tiny,
        ).exit_code
        == 0
    )
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "d.nii.gz").dataobj), results[0])


@pytest.mark.slow
def test_a_whole_scan_with_lesions(chest, tmp_path, tiny, tiny_lesion):
    anatomy, mask = tmp_path / "anatomy.nii.gz", tmp_path / "m.nii.gz"
    nifti.write_labels(chest.labels, chest.ct.affine, anatomy)
    lesion = np.zeros(chest.ct.shape, np.uint8)
    lesion[20:24, 20:24, 20:24] = 1
    nifti.write_labels(lesion, chest.ct.affine, mask)
    asked = ("--region", "chest", "--anatomy", anatomy, "--steps", 3, "--tile", 32)
    plain, sick = tmp_path / "plain.nii.gz", tmp_path / "sick.nii.gz"
    assert run("synthesize", plain, *asked, "--weights", tiny).exit_code == 0
    both = ("--weights", tiny, "--control", tiny_lesion)
    result = run("synthesize", sick, *asked, "--lesions", mask, *both)
    assert result.exit_code == 0, result.output
    healthy, drawn = (nifti.read(file).hu for file in (plain, sick))
    hole = inpaint.around(lesion > 0, chest.ct.spacing_mm)
    assert np.array_equal(healthy[~hole], drawn[~hole])
    core = drawn[21:23, 21:23, 21:23].mean()
    assert SOLID[0] - 1 < core < SOFT_TISSUE[2] + 1  # as dense as `denovox lesion` makes it
    for more, says in (
        (("--weights", tiny), "--control lesion"),
        ((*both, "--weights", tiny), "one base and one control at most"),
    ):
        result = run("synthesize", tmp_path / "no.nii.gz", *asked, "--lesions", mask, *more)
        assert result.exit_code == 2
        assert says in result.stderr
    empty = tmp_path / "empty.nii.gz"
    nifti.write_labels(np.zeros_like(lesion), chest.ct.affine, empty)
    result = run("synthesize", tmp_path / "no.nii.gz", *asked, "--lesions", empty, *both)
    assert result.exit_code == 2
    assert "is empty" in result.stderr
    assert not (tmp_path / "no.nii.gz").exists()
    result = run("synthesize", tmp_path / "no.nii.gz", "--region", "chest", "--shape", "8x8x8",
                 "--spacing", 3, "--lesions", mask, *both)  # fmt: skip
    assert result.exit_code == 2
    assert "--anatomy" in result.stderr


def test_bad_input_is_one_sentence_and_nothing_is_written(scan, tmp_path, tiny, tiny_lesion):
    where = in_lung(scan)
    mask = mask_file(tmp_path / "m.nii.gz", scan, where)
    other = tmp_path / "other.nii.gz"
    moved = nibabel.load(mask)
    nibabel.Nifti1Image(np.asarray(moved.dataobj), moved.affine + np.eye(4, k=3) * 7).to_filename(
        other
    )
    outside = mask_file(tmp_path / "air.nii.gz", scan, (slice(0, 3),) * 3)
    empty = mask_file(tmp_path / "empty.nii.gz", scan, (slice(0, 0),) * 3)
    foreign = tmp_path / "foreign.nii.gz"
    foreign.write_bytes(mask.read_bytes())
    muscle = ("--organ", "muscle", "--diameter", 10)
    cases = [
        ((), "either --mask or --organ"),
        (("--mask", mask, "--organ", "lung"), "either --mask or --organ"),
        (("--mask", mask, "--count", 2), "go with --organ"),
        (("--mask", other), "is not on the grid of its CT: it has 64 x 56 x 40"),
        (("--mask", outside), "outside the body"),
        (("--mask", empty), "is empty"),
        (("--organ", "lungs"), "did you mean 'lung'"),
        (("--organ", "brain"), "no brain was found"),
        (("--organ", "lung", "--diameter", "400"), "largest"),
        (("--organ", "lung", "--diameter", "wide"), "is not a length in mm"),
        (("--organ", foreign), "name the file after the organ"),
        (("--mask", mask, "--density", "solid", "--contrast", 9), "--density or --contrast, but"),
        ((*muscle, "--density", "solid"), "lesion 1 is in the muscle; give a contrast"),
        ((*muscle, "--contrast", "900"), "HU for lesion 1, outside -"),
    ]
    out = tmp_path / "out.nii.gz"
    for more, says in cases:
        result = run("lesion", scan, out, *more, "--tile", 32, "--weights", tiny_lesion)
        assert result.exit_code == 2, (more, result.output)
        assert says in result.stderr, (more, result.stderr)
        assert result.stderr.strip().splitlines()[-1].startswith("denovox: ")
        assert not list(tmp_path.glob("out*"))
    result = run("lesion", scan, out, "--mask", mask, "--tile", 32, "--weights", tiny)
    assert result.exit_code == 2
    assert "--control lesion" in result.stderr
    result = run("inpaint", scan, out, "--mask", mask, "--jumps", "2")
    assert result.exit_code == 2
    assert "LENGTHxTIMES" in result.stderr
    assert not list(tmp_path.glob("out*"))


def test_a_control_goes_only_where_it_is_of_use(scan, tmp_path, tiny_lesion, tiny_superres):
    out = tmp_path / "out.nii.gz"
    result = run("denoise", scan, out, "--tile", 32, "--weights", tiny_lesion)
    assert result.exit_code == 2
    assert "is a control for lesion; denoise takes none" in result.stderr
    result = run("superres", scan, out, "--factor", 2, "--control", tiny_lesion)
    assert result.exit_code == 2
    assert "superres takes one for low-resolution" in result.stderr
    assert not out.exists()


def test_a_control_of_another_base_is_refused(scan, tmp_path, tiny_lesion):
    out = tmp_path / "out.nii.gz"
    both = ("--weights", "base", "--control", tiny_lesion)
    result = run("lesion", scan, out, "--organ", "lung", *both)
    assert result.exit_code == 2
    assert "belongs to a base with sha256" in result.stderr
    assert not out.exists()


@pytest.mark.slow
def test_a_data_set_for_nnunet_from_a_store(tmp_path, chest, tiny_lesion):
    shelf = tmp_path / "store"
    facts = CaseFacts(
        id="a", patient="p", region="chest", spacing_mm=(5.0,) * 3,
        affine=tuple(chest.ct.affine.ravel().tolist()),
    )  # fmt: skip
    store.add(shelf, facts, np.round(chest.ct.hu).astype(np.int16), chest.labels)
    store.index(shelf)
    asked = ("--per-scan", 1, "--diameter", 14, "--tile", 32, "--control", tiny_lesion)
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        out.mkdir()
        result = run("augment", shelf, "--out", out, *asked)
        assert result.exit_code == 0, result.output
    image, label = (nibabel.load(path) for path in nnunet.paths(outs[0], "a_chest_s0"))
    mask = np.asarray(label.dataobj) > 0
    assert mask.any()
    changed = np.asarray(image.dataobj) != np.round(chest.ct.hu).astype(np.int16)
    assert changed[mask].any()
    assert not changed[~inpaint.around(mask, (5.0,) * 3)].any()
    for a, b in zip(*(nnunet.paths(out, "a_chest_s0") for out in outs), strict=True):
        assert a.read_bytes() == b.read_bytes()
    told = json.loads((outs[0] / "lesions.json").read_text())[0]
    assert told["lesions"][0]["organ"] == "lung"
    assert told["about"]["control"] == weights.sha256(tiny_lesion)
    assert "already exist" in run("augment", shelf, "--out", outs[0], *asked).stderr
    for more, says in (
        (("--organ", "lungs"), "did you mean 'lung'"),
        (("--seed", 1), "generated with a different"),
        (("--diameter", "far"), "is not a length"),
    ):
        result = run("augment", shelf, "--out", outs[0], *asked, *more)
        assert result.exit_code == 2, result.output
        assert says in result.stderr
