"""A stand-in for TotalSegmentator's command: how it is found and called, and what it returns."""

import json
import os
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner

from denovox.cli.main import main
from denovox.core.errors import InputError
from denovox.core.labels import ID
from denovox.core.volume import Volume
from denovox.datasets import totalsegmentator
from denovox.datasets.totalsegmentator import COMMAND, VARIABLE, anatomy, segment
from denovox.inference import lesions
from denovox.io import nifti
from denovox.simulate import phantom

PYTHON = sys.executable
SHAPE = (5, 6, 7)
AFFINE = np.array([[0.7, 0, 0.05, -20], [0, 0.8, 0, 10], [-0.05, 0, 2.5, 300], [0, 0, 0, 1]])

# Its interface (bin/TotalSegmentator of version 2): liver above 0 HU, spleen in the last voxel.
PROGRAM = """#!{python}
import argparse, json, os, sys
import nibabel, numpy as np
parser = argparse.ArgumentParser()
parser.add_argument("-i")
parser.add_argument("-o")
parser.add_argument("-ml", "--ml", action="store_true")
parser.add_argument("-ta", "--task", default="total")
parser.add_argument("-d", "--device", default="gpu")
given = parser.parse_args()
print("If you use this tool please cite it")
image = nibabel.load(given.i)
seen = dict(vars(given), unit=image.header.get_xyzt_units()[0], type=str(image.get_data_dtype()))
seen["python"] = os.environ.get("PYTHONPATH")
open({log!r}, "w").write(json.dumps(seen))
hu = np.asarray(image.dataobj)
found = np.where(hu > 0, 5, 0).astype(np.uint8)
found[-1, -1, -1] = 1
found = nibabel.Nifti1Image(found, image.affine)
{then}
nibabel.save(found, given.o)
"""


@pytest.fixture
def volume():
    """No two axes alike, nothing symmetric, oblique."""
    hu = np.full(SHAPE, -1000, np.float32)
    hu[1, 2, 3] = hu[1, 2, 4] = hu[4, 0, 6] = 50
    return Volume(hu, AFFINE)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts the command, with some lines of its own, into a folder on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(folder))

    def write(then: str = "", name: str = COMMAND) -> Path:
        log = str(tmp_path / "seen.json")
        path = folder / name
        path.write_text(PROGRAM.format(python=PYTHON, log=log, then=then))
        path.chmod(0o755)
        return path

    return write


def expected(volume: Volume) -> np.ndarray:
    ids = np.where(volume.hu > 0, ID["liver"], 0)
    ids[-1, -1, -1] = ID["spleen"]
    return ids


@pytest.mark.parametrize(
    ("device", "asked"), [(None, "gpu"), ("cpu", "cpu"), ("cuda", "gpu"), ("cuda:1", "gpu:1")]
)
def test_every_voxel_gets_its_own_label(program, volume, tmp_path, monkeypatch, device, asked):
    program()
    monkeypatch.setenv("PYTHONPATH", "/packages/of/another/python")
    found = segment(volume, device)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected(volume))
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert (seen["ml"], seen["task"], seen["device"]) == (True, "total", asked)
    assert (seen["unit"], seen["type"], seen["python"]) == ("mm", "float32", None)
    assert not os.path.exists(seen["i"])


@pytest.mark.parametrize("axes", ["LPS", "SAR"])
def test_an_answer_in_other_axes_is_turned_back(program, volume, axes):
    turn = f"nibabel.io_orientation(found.affine), nibabel.orientations.axcodes2ornt({axes!r})"
    program(f"found = found.as_reoriented(nibabel.orientations.ornt_transform({turn}))")
    assert np.array_equal(segment(volume), expected(volume))


@pytest.mark.parametrize(
    ("then", "problem"),
    [
        ("sys.exit('RuntimeError: CUDA out of memory')", r"exit code 1 \(RuntimeError: CUDA out"),
        ("sys.exit(0)", r"wrote no file \(If you use this tool please cite it\); run it by itself"),
        ("found = nibabel.Nifti1Image(found.dataobj, image.affine + np.eye(4, k=3))", "grid"),
        (
            "found = nibabel.Nifti1Image(np.full(hu.shape, 150, 'u1'), image.affine)",
            "does not have: 150",
        ),
        ("open(given.o, 'w').write('no image'); sys.exit(0)", "cannot be used: it"),
    ],
)
def test_a_failure_is_one_sentence(program, volume, then, problem):
    path = program(then)
    with pytest.raises(InputError, match=problem) as raised:
        segment(volume)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "anatomy.nii.gz" not in str(raised.value)  # of a folder that is gone


def test_where_it_is_looked_for(program, volume, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    notes = []
    assert anatomy(volume, "auto", say=notes.append) is None
    assert anatomy(volume, None, say=notes.append) is None
    assert notes == ["anatomy: by thresholds, since no TotalSegmentator was found"]
    with pytest.raises(InputError, match=f"no {COMMAND} was found; install"):
        segment(volume)
    on_path = program()
    assert totalsegmentator.command() == str(on_path)
    named = program(name="mine")
    monkeypatch.setenv(VARIABLE, str(named))
    assert totalsegmentator.command() == str(named)
    assert np.array_equal(anatomy(volume, "auto", say=notes.append), expected(volume))
    assert notes[1:] == [f"anatomy: by TotalSegmentator ({named})"]
    named.chmod(0o644)
    with pytest.raises(InputError, match=f"{VARIABLE} is .*mine, which is not a program"):
        totalsegmentator.command()
    named.write_text("#!/no/such/python\n")
    named.chmod(0o755)
    with pytest.raises(InputError, match=r"mine could not be started \(No such file.*\); run it"):
        segment(volume)


def test_a_lesion_in_an_organ_that_only_it_knows(program, tmp_path, tiny_lesion, monkeypatch):
    def unchanged(model, context, plan, options):
        return lesions.Edited(context.volume, plan.numbers, plan.placed)

    monkeypatch.setattr(lesions, "add", unchanged)
    program("found = nibabel.Nifti1Image(np.where(hu > 0, 7, 0).astype('u1'), image.affine)")
    chest = phantom.chest((40, 36, 24), 8.0)
    scan, out = tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz"
    nifti.write(chest.ct, scan)
    words = ["lesion", scan, out, "--organ", "pancreas", "--diameter", "20mm", "--tile", "32"]
    words = [str(word) for word in (*words, "--weights", tiny_lesion)]
    plain = CliRunner().invoke(main, words)
    assert plain.exit_code == 2
    assert "no pancreas was found" in plain.stderr
    result = CliRunner().invoke(main, [*words, "--anatomy", "auto"])
    assert result.exit_code == 0, result.output
    assert "anatomy: by TotalSegmentator (" in result.stderr
    mask = np.asarray(nibabel.load(tmp_path / "out_mask.nii.gz").dataobj) > 0
    assert mask.any()
    assert (np.round(chest.ct.hu)[mask] > 0).all()
    assert json.loads((tmp_path / "out_lesions.json").read_text())["lesions"][0]["organ"] == (
        "pancreas"
    )
