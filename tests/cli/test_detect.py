"""`denovox detect` and `denovox calibrate`, as they are called."""

import json

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner
from command_line import run

from denovox.cli.main import main
from denovox.inference.anomaly.calibration import read
from denovox.model.weights import describe

SHAPE = (36, 32, 12)
SPOT = (
    slice(22, 26),
    slice(13, 17),
    slice(5, 8),
)  # in the file's axes: x runs to the left


def save(path, array, affine=None):
    affine = np.diag([-4.0, -4.0, 5.0, 1.0]) if affine is None else affine
    nibabel.Nifti1Image(array, affine).to_filename(path)
    return path


def hu_of(seed, spot_hu=0.0):
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.7, 60, -1000) + 0.0
    hu += 10 * np.random.default_rng(seed).standard_normal(SHAPE)
    hu[SPOT] += spot_hu
    return hu.round().astype(np.int16)


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """Weights, a sick scan, and a calibration of a healthy one: (folder, options, scan, made)."""
    import torch

    from denovox.model import weights
    from denovox.model.presets import PRESETS

    folder = tmp_path_factory.mktemp("ready")
    config = weights.ModelConfig(net=PRESETS["tiny"])
    torch.manual_seed(0)
    state = {n: torch.randn_like(p) * 0.05 for n, p in config.build().named_parameters()}
    path = folder / "tiny.safetensors"
    weights.save(path, state, config, {})
    healthy = save(folder / "healthy.nii.gz", hu_of(1))
    options = ("--weights", path, "--region", "abdomen", "--tile", 32)
    made = run("calibrate", healthy, "--out", folder / "made", *options)
    assert made.exit_code == 0, made.output
    return folder, options, save(folder / "sick.nii.gz", hu_of(0, 150)), made


@pytest.fixture(scope="module")
def detected(ready):
    folder, options, scan, _ = ready
    out, report = folder / "map.nii.gz", folder / "map.json"
    given = ("--calibration", folder / "made/abdomen.json", "--report", report)
    return run("detect", scan, out, *given, *options), out, report


def test_the_map_lies_on_the_scans_own_grid_and_shows_the_spot(ready, detected):
    result, out, _ = detected
    assert result.exit_code == 0, result.output
    scan, found = nibabel.load(ready[2]), nibabel.load(out)
    assert found.shape == scan.shape
    np.testing.assert_array_equal(found.affine, scan.affine)
    assert found.get_data_dtype() == np.float32
    z = found.get_fdata()
    assert z[SPOT].mean() > 3
    assert not z[scan.get_fdata() < -500].any()
    assert np.unique(z).size > 1000  # not rounded to whole numbers


def test_the_report_says_where_and_by_what(ready, detected):
    options = ready[1]
    told = json.loads(detected[2].read_text())
    sha = describe(options[1])[2]
    assert told["weights"] == sha == told["calibrations"][0]["weights"]
    assert told["settings"] == {"region": "abdomen", "roi": None, "seed": 0}
    assert (told["threshold"], told["compactness"], told["left_out"]) == (3, 0.85, [])
    assert told["covered"][0]["region"] == "abdomen"
    first = told["components"][0]
    assert first["centre_mm"] == pytest.approx((-4 * 23.5, -4 * 14.5, 5 * 6.0), abs=4)
    assert first["region"] == "abdomen"
    assert first["peak_z"] > 4
    assert first["mean_hu"] > 100
    line = detected[0].stderr.strip().splitlines()[-1]
    many = len(told["components"])
    assert line.startswith(f"score {told['score']:.1f}, {many} compact component")
    assert "not a diagnosis" in told["meaning"]
    assert set(first) == {
        *("volume_ml", "centre_mm", "peak_z", "mean_z", "mean_hu", "contrast_hu", "region"),
        *("tissue", "compactness"),
    }


def test_a_mask_says_where_to_look(ready):
    folder, options, scan, _ = ready
    inside = np.zeros(SHAPE, np.uint8)
    inside[20:30, 10:20, 3:9] = 4
    roi = save(folder / "roi.nii.gz", inside)
    out = folder / "within.nii.gz"
    given = ("--calibration", folder / "made/abdomen.json", "--roi", roi)
    result = run("detect", scan, out, *given, *options)
    assert result.exit_code == 0, result.output
    z = nibabel.load(out).get_fdata()
    assert not z[inside == 0].any()
    assert z[SPOT].mean() > 1
    again = run("detect", scan, folder / "again.nii.gz", *given, *options)
    assert again.exit_code == 0
    assert (folder / "again.nii.gz").read_bytes() == out.read_bytes()


def masked(folder, name, array, affine=None):
    return ("--roi", save(folder / name, array, affine))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (lambda f: masked(f, "e.nii.gz", np.zeros(SHAPE, np.uint8)), "is empty"),
        (
            lambda f: masked(f, "o.nii.gz", np.ones(SHAPE, np.uint8), np.diag([-4, -4, 4, 1])),
            "not on the grid",
        ),
        (lambda f: ("--region", "chest"), "calibrations are for abdomen"),
        (lambda f: ("--calibration", f / "sick.nii.gz"), "is not a calibration"),
        (lambda f: ("--report", f / "report.txt"), "end in .json"),
        (lambda f: ("--report", f / "not/there.json"), "create it first"),
    ],
)
def test_bad_input_is_one_sentence(ready, words, says):
    folder, options, scan, _ = ready
    out = folder / "bad.nii.gz"
    given = ("--calibration", folder / "made/abdomen.json")
    asked = words(folder)
    given = () if asked[0] == "--calibration" else given
    result = run("detect", scan, out, *given, *options, *asked)
    assert result.exit_code == 2, result.output
    assert says in result.stderr.strip().splitlines()[-1]
    assert result.stderr.strip().splitlines()[-1].startswith("denovox: ")
    assert not out.exists()


def test_an_output_that_is_there_stays(ready, detected):
    folder, options, scan, _ = ready
    _, out, report = detected
    before = out.read_bytes(), report.read_bytes()
    given = ("--calibration", folder / "made/abdomen.json", *options)
    for words in ((out,), (folder / "new.nii.gz", "--report", report)):
        result = run("detect", scan, *words, *given)
        assert result.exit_code == 2
        assert "already exists" in result.stderr
    assert (out.read_bytes(), report.read_bytes()) == before
    assert not (folder / "new.nii.gz").exists()


def test_the_bundled_calibration_is_not_for_other_weights(ready):
    folder, options, scan, _ = ready
    result = run("detect", scan, folder / "bad.nii.gz", *options)
    assert result.exit_code == 2
    assert "was made with the weights" in result.stderr
    assert "denovox calibrate" in result.stderr


def test_calibrating_tells_what_it_made_and_keeps_what_is_there(ready):
    folder, options, _, made = ready
    found = read(folder / "made/abdomen.json")
    assert (found.region, found.scans) == ("abdomen", 1)
    assert found.weights == describe(options[1])[2]
    assert "abdomen.json: 1 scan," in made.stderr
    again = run("calibrate", folder / "healthy.nii.gz", "--out", folder / "made", *options)
    assert again.exit_code == 2
    assert "already exists" in again.stderr
    strange = run(
        *("calibrate", folder / "healthy.nii.gz", "--out", folder / "other"),
        *("--lesions", "a.nii.gz", "b.nii.gz"),
    )
    assert strange.exit_code == 2
    assert "a.nii.gz, which is not among SCANS" in strange.stderr
    assert not (folder / "other").exists()


def test_two_scans_add_up_and_lesions_are_left_out(ready):
    folder, options, scan, _ = ready
    lesion = np.zeros(SHAPE, np.uint8)
    lesion[SPOT] = 1
    mask = save(folder / "lesion.nii.gz", lesion)
    healthy = folder / "healthy.nii.gz"
    for name, words in (("with", ()), ("without", ("--lesions", scan, mask))):
        out = ("--out", folder / name)
        result = run("calibrate", healthy, scan, *out, *words, *options)
        assert result.exit_code == 0, result.output
    both, less = (read(folder / name / "abdomen.json") for name in ("with", "without"))
    assert both.scans == less.scans == 2
    gone = lesion.sum() * 4 * 4 * 5 / 1000
    assert sum(both.millilitres) - sum(less.millilitres) == pytest.approx(gone)
    one = read(folder / "made/abdomen.json")
    assert sum(both.millilitres) == pytest.approx(2 * sum(one.millilitres), rel=0.01)


@pytest.mark.slow
def test_a_store_is_read_case_by_case(ready, tmp_path):

    options = ready[1]
    (tmp_path / "scans").mkdir()
    save(tmp_path / "scans/one.nii.gz", hu_of(1))
    asked = ("prepare", tmp_path / "scans", "--out", tmp_path / "store", "--workers", "1")
    prepared = CliRunner().invoke(main, [str(a) for a in (*asked, "--layout", "folder")])
    assert prepared.exit_code == 0, prepared.output
    words = ("--weights", options[1], "--tile", 32, "--out", tmp_path / "made")
    result = run("calibrate", tmp_path / "store", *words)
    assert result.exit_code == 0, result.output
    made = list((tmp_path / "made").glob("*.json"))
    assert len(made) == 1
    assert read(made[0]).region == made[0].stem


def test_the_coarse_anatomy_of_a_scan_is_computed_once(ready, coarse_calls):
    folder, options, scan, _ = ready
    given = ("--calibration", folder / "made/abdomen.json", "--report", folder / "once.json")
    assert run("detect", scan, folder / "once.nii.gz", *given, *options).exit_code == 0
    assert coarse_calls == [SHAPE]
    result = run("calibrate", scan, scan, "--out", folder / "twice", *options)
    assert result.exit_code == 0, result.output
    assert coarse_calls == [SHAPE] * 3  # once for each of the scans
