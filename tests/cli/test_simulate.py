"""`denovox simulate`: files in, files out, and what it refuses."""

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner

from denovox.cli.main import main


def run(*arguments):
    return CliRunner().invoke(main, ["simulate", *map(str, arguments)])


@pytest.fixture
def scan(tmp_path):
    """A cylinder of water in air, 40 x 40 x 6 voxels of 6 x 6 x 2 mm."""
    x, y, _ = np.meshgrid(*(np.arange(n) - n / 2 + 0.5 for n in (40, 40, 6)), indexing="ij")
    hu = np.where(np.hypot(x, y) < 16, 0, -1000).astype(np.int16)
    path = tmp_path / "scan.nii.gz"
    nibabel.Nifti1Image(hu, np.diag([-6.0, -6.0, 2.0, 1.0])).to_filename(path)
    return path


def noise(path, scan):
    return (nibabel.load(path).get_fdata() - nibabel.load(scan).get_fdata())[12:28, 12:28].std()


def test_less_dose_is_more_noise_on_the_same_grid(scan, tmp_path):
    for dose in (0.5, 0.1):
        asked = ("--dose", dose, "--views", 120)
        result = run("low-dose", scan, tmp_path / f"{dose}.nii.gz", *asked)
        assert result.exit_code == 0, result.output
        assert np.array_equal(
            nibabel.load(tmp_path / f"{dose}.nii.gz").affine, nibabel.load(scan).affine
        )
    half, tenth = (noise(tmp_path / f"{dose}.nii.gz", scan) for dose in (0.5, 0.1))
    # Variance goes as 1/dose - 1: nine to one; some 1500 voxels, correlated.
    assert tenth / half == pytest.approx(3, rel=0.2)


def test_the_scans_own_noise_sets_the_photons(scan, tmp_path):
    asked = ("--dose", 0.5, "--noise-hu", 30, "--views", 120, "--electronic", 0)
    result = run("low-dose", scan, tmp_path / "out.nii.gz", *asked)
    assert result.exit_code == 0, result.output
    assert "photons:" in result.stderr
    # Half the dose adds the variance that the scan has.
    assert noise(tmp_path / "out.nii.gz", scan) == pytest.approx(30, rel=0.25)
    # It is laid to photons alone; a detector's noise comes on top only if asked for.
    for name, more in (("plain", ()), ("more", ("--electronic", 10))):
        assert run("low-dose", scan, tmp_path / f"{name}.nii.gz", *asked[:-2], *more).exit_code == 0
    out, plain, more = (
        nibabel.load(tmp_path / f"{name}.nii.gz").get_fdata() for name in ("out", "plain", "more")
    )
    assert np.array_equal(out, plain)
    assert not np.array_equal(out, more)


def test_slabs_have_their_own_grid(scan, tmp_path):
    result = run("thick-slices", scan, tmp_path / "out.nii.gz", "--thickness", 4, "--spacing", 6)
    assert result.exit_code == 0, result.output
    image = nibabel.as_closest_canonical(nibabel.load(tmp_path / "out.nii.gz"))
    assert image.shape == (40, 40, 2)
    assert image.header.get_zooms()[2] == pytest.approx(6)
    assert image.affine[2, 3] == pytest.approx(1)  # between the first two slices, at 0 and 2 mm


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("low-dose", "--photons", 1e6, "--noise-hu", 10), "both set the noise"),
        (("low-dose", "--noise-hu", -1), "-1 HU"),
        (("thick-slices", "--thickness", 1), "1"),
        (("thick-slices", "--thickness", 1000), "1000"),
    ],
)
def test_what_makes_no_sense_is_refused(scan, tmp_path, words, says):
    out = tmp_path / "out.nii.gz"
    result = run(words[0], scan, out, *words[1:])
    assert result.exit_code == 2
    assert says in result.stderr.strip().splitlines()[-1]
    assert not out.exists()
