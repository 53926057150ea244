"""Outputs in each other's way, and disks on which they do not fit, are refused in advance."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import nibabel
import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.core.volume import Volume
from denovox.io import nifti
from denovox.io.outputs import check_apart, least_bytes
from denovox.io.space import check_space

Usage = namedtuple("Usage", "total used free")


def test_an_output_is_neither_an_input_nor_in_the_way_of_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.nii").symlink_to("in.nii")
    (tmp_path / "sub").mkdir()
    source = Path("in.nii")
    for output in (tmp_path / "in.nii", Path("link.nii"), Path("sub/../in.nii")):
        with pytest.raises(InputError, match=r"OUTPUT is INPUT itself \(in.nii\); choose another"):
            check_apart({"OUTPUT": output}, {"--mask": None, "INPUT": source})
    for second in ("sub", "./sub/", tmp_path / "sub/x"):
        with pytest.raises(InputError, match=r"conflicts with"):
            check_apart({"OUTPUT": Path("sub/x"), "--report": Path(second)}, {"INPUT": source})
    check_apart({"OUTPUT": Path("sub/x"), "--report": Path("sub/y"), "--save": None}, {})
    check_apart({"OUTPUT": Path("sub/xy"), "--report": Path("sub/x")}, {"INPUT": Path("sub")})


def test_files_that_cannot_fit_are_refused_with_the_figures(tmp_path, monkeypatch):
    paths = [tmp_path / "a.nii", tmp_path / "b.nii"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, 3_000_000))
    check_space(dict.fromkeys(paths, 1_500_000))
    with pytest.raises(InputError) as caught:
        check_space(dict.fromkeys(paths, 1_500_001))
    assert str(caught.value) == (
        f"{paths[0]} and {paths[1]} cannot be written: at least 3.0 MB are needed, and {tmp_path}"
        " has 3.0 MB free; free some space, or choose another place"
    )


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_the_bytes_of_a_file_are_never_overestimated(tmp_path, dtype):
    hu = np.random.default_rng(0).normal(0, 1, (20, 20, 20)).round()
    nibabel.Nifti1Image(hu.astype(dtype), np.eye(4)).to_filename(tmp_path / "in.nii")
    volume = nifti.read(tmp_path / "in.nii")
    for name in ("a.nii", "a.NII.GZ"):
        nifti.write(volume, tmp_path / name)
        size, least = (tmp_path / name).stat().st_size, least_bytes(tmp_path / name, volume)
        assert 0 < least <= size
        assert name != "a.nii" or size - least == 352  # the header
    assert least_bytes(Path("a.nii"), Volume(volume.hu, volume.affine), 2.5) == 8000 * 5
    assert least_bytes(Path("a.nii"), volume, -1) == 0
