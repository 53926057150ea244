"""denovox.io.nifti beside nibabel and SimpleITK: the same value at the same millimetre.

SimpleITK measures in LPS. Its own limits: axes must stand at right angles (no shears), and voxel
sizes and directions go through a float32 quaternion or rows, so places agree to about 1e-4 mm in
the 100 mm from the first voxel.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.orientations import axcodes2ornt, inv_ornt_aff

from denovox.core import labels
from denovox.core.volume import Volume
from denovox.io import label_maps, nifti

SHAPE = (3, 4, 5)
COUNT = 200
AXES = [
    codes
    for order in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*order)
]
TYPES = ("int16", "uint16", "int32", "float32", "float64")
SCALES = ((1.0, 0.0), (1.0, -1024.0), (0.5, -1000.25), (-2.0, 3.0), (0.1, 0.0))
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
Find = Callable[[np.ndarray], np.ndarray]  # n places, RAS mm -> the n values there


@dataclass(frozen=True)
class Case:
    """A file to be: values as stored, in the file's own axes, and where they lie (RAS)."""

    raw: np.ndarray
    affine: np.ndarray
    slope: float
    inter: float

    @property
    def hu(self) -> np.ndarray:
        return self.raw.astype(np.float64) * self.slope + self.inter


def case(seed: int) -> Case:
    """Case `seed` of 200: every one of 48 orientations, straight or turned, in all types."""
    rng = np.random.default_rng(seed)
    straight = inv_ornt_aff(axcodes2ornt(AXES[seed % 48]), SHAPE)[:3, :3]
    turn = np.eye(3)
    if seed % 3:  # about any axis: a few degrees, or any angle at all
        axis = rng.normal(size=3)
        axis /= np.linalg.norm(axis)
        angle = rng.uniform(0, np.pi) if seed % 3 == 2 else np.radians(rng.uniform(0, 30))
        cross = np.cross(np.eye(3), axis)
        turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    affine = np.eye(4)
    affine[:3] = np.c_[turn @ straight * rng.uniform(0.3, 7, 3), rng.uniform(-500, 500, 3)]
    dtype = np.dtype(TYPES[seed % 5])
    low, high = (0, 4000) if dtype.kind == "u" else (-1500, 3000)
    raw = rng.permutation(np.arange(low, high))[:60].reshape(SHAPE).astype(dtype)
    if dtype.kind == "f":
        raw += rng.uniform(0, 0.9, SHAPE).astype(dtype)  # all values differ, and so say where
    return Case(raw, affine, *SCALES[rng.integers(len(SCALES))])


def check(one: Case, find: Find, rtol: float = 1e-6) -> None:
    """`find` knows every voxel of `one` at its place."""
    index = np.array(list(np.ndindex(*SHAPE)))
    mm = index @ one.affine[:3, :3].T + one.affine[:3, 3]
    np.testing.assert_allclose(find(mm), one.hu.ravel(), rtol=rtol, atol=1e-4)


def whole_indices(index: np.ndarray) -> np.ndarray:
    """Indices of voxels, from places that must be their centres."""
    assert np.abs(index - np.rint(index)).max() < 2e-3
    return np.rint(index).astype(int)


def in_array(values: np.ndarray, affine: np.ndarray) -> Find:
    """Look values up where an affine (RAS) says."""
    back = np.linalg.inv(affine)
    return lambda mm: values[tuple(whole_indices(mm @ back[:3, :3].T + back[:3, 3]).T)]


def by_nibabel(path: Path) -> Find:
    image = nib.load(path)
    return in_array(np.asarray(image.dataobj), image.affine)


def by_itk(path: Path) -> Find:
    image = sitk.ReadImage(str(path))
    values = sitk.GetArrayFromImage(image)  # z y x

    def find(mm: np.ndarray) -> np.ndarray:
        lps = (mm * [-1, -1, 1]).tolist()
        x, y, z = whole_indices(
            np.array([image.TransformPhysicalPointToContinuousIndex(at) for at in lps])
        ).T
        return values[z, y, x]

    return find


def by_denovox(path: Path) -> Find:
    volume = nifti.read(path)
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    return in_array(volume.hu, volume.affine)


def save_nibabel(one: Case, path: Path) -> None:
    """As stored, with slope and intercept; qform, sform or both say where."""
    image = nib.Nifti1Image(one.raw, one.affine)
    image.header.set_slope_inter(one.slope, one.inter)
    codes = ((1, 1), (1, 0), (0, 2))[int(one.raw[0, 0, 0]) % 3]
    image.set_qform(one.affine, codes[0])
    image.set_sform(one.affine, codes[1])
    nib.save(image, path)


def save_itk(one: Case, path: Path) -> None:
    """HU as such (ITK writes no slope of its own), in the type of the values."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(one.raw.transpose(2, 1, 0)))
    lps = TO_LPS @ one.affine
    mm = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(mm.tolist())
    image.SetDirection((lps[:3, :3] / mm).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))


def plain(one: Case) -> Case:
    """Without a slope."""
    return Case(one.raw, one.affine, 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("part", range(4))
def test_what_others_write_is_read_and_what_is_written_back_others_read(
    tmp_path: Path, part: int, suffix: str
) -> None:
    for seed in range(part, COUNT, 4):
        one = case(seed)
        path, back = tmp_path / f"{seed}{suffix}", tmp_path / f"{seed}-back{suffix}"
        save_nibabel(one, path)
        check(one, by_denovox(path))
        volume = nifti.read(path)
        nifti.write(volume, back)
        check(one, by_nibabel(back))
        check(one, by_itk(back))
        # Changed HU find their way, too: those that every type can say again.
        moved = Case(one.raw + 1, one.affine, one.slope, one.inter)
        hu = volume.hu + np.asarray(one.slope, volume.hu.dtype)
        nifti.write(volume.with_hu(hu), back, force=True)
        check(moved, by_itk(back), 1e-5)
        check(moved, by_nibabel(back), 1e-5)


@pytest.mark.parametrize("part", range(4))
def test_what_itk_writes_is_read(tmp_path: Path, part: int) -> None:
    for seed in range(part, COUNT, 4):
        one = plain(case(seed))
        path = tmp_path / f"{seed}.nii"
        save_itk(one, path)
        check(one, by_denovox(path))
        check(one, by_nibabel(path))  # the fixture is what it says


@pytest.mark.parametrize("part", range(4))
def test_a_volume_that_never_was_a_file_lies_where_it_should(tmp_path: Path, part: int) -> None:
    for seed in range(part, COUNT, 4):
        one = plain(case(seed))
        canonical = nib.as_closest_canonical(nib.Nifti1Image(np.rint(one.hu), one.affine))
        hu = np.asarray(canonical.dataobj).astype(np.float32)
        path = tmp_path / f"{seed}.nii"
        nifti.write(Volume(hu, canonical.affine), path)
        whole = Case(np.rint(one.raw), one.affine, 1, 0)
        check(whole, by_nibabel(path))
        check(whole, by_itk(path))
        check(whole, by_denovox(path))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_label_maps_lie_where_their_ct_does(tmp_path: Path, part: int) -> None:
    for seed in range(part, COUNT, 4):
        one = case(seed)
        ids = np.random.default_rng(seed).permutation(60).reshape(SHAPE).astype(np.uint8)
        map_of = Case(ids, one.affine, 1, 0)
        save_nibabel(one, tmp_path / "ct.nii")
        like = nifti.read(tmp_path / "ct.nii")
        for save in (save_nibabel, save_itk):
            save(map_of, tmp_path / "seg.nii")
            check(map_of, in_array(label_maps.read_labels(tmp_path / "seg.nii", like), like.affine))
        found, affine = label_maps.vocabulary(tmp_path / "seg.nii")
        nifti.write_labels(found, affine, tmp_path / f"{seed}.nii.gz")
        check(map_of, by_nibabel(tmp_path / f"{seed}.nii.gz"))
        check(map_of, by_itk(tmp_path / f"{seed}.nii.gz"))
        assert nib.load(tmp_path / f"{seed}.nii.gz").get_data_dtype() == np.uint8
        labels.check(np.unique(found))


def test_a_sheared_grid_is_read_as_its_sform_says(tmp_path: Path) -> None:
    # ITK refuses shears (a tilted gantry, written by some converters): nibabel alone can say.
    one = case(0)
    shear = np.eye(4)
    shear[1, 2] = 0.3
    sheared = Case(one.raw, shear @ one.affine, one.slope, one.inter)
    image = nib.Nifti1Image(sheared.raw, sheared.affine)
    image.header.set_slope_inter(one.slope, one.inter)
    nib.save(image, tmp_path / "ct.nii")
    check(sheared, by_denovox(tmp_path / "ct.nii"))
    nifti.write(nifti.read(tmp_path / "ct.nii"), tmp_path / "back.nii")
    check(sheared, by_nibabel(tmp_path / "back.nii"))
