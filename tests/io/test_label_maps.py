"""Label maps on the grid of their CT: whatever their format, orientation or crop."""

import itertools

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.orientations import axcodes2ornt, inv_ornt_aff

from denovox.core.errors import InputError
from denovox.core.volume import Volume
from denovox.io import label_maps

SHAPE = (7, 6, 5)


def ct() -> Volume:
    affine = np.diag([0.7, 0.8, 2.5, 1.0])
    affine[:3, 3] = (-31.5, 12.25, 700)
    return Volume(np.zeros(SHAPE, np.float32), affine)


def values() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)


def nrrd(path, ids, affine) -> None:
    """An array x y z with its RAS affine, as ITK writes it."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(ids.T))
    lps = np.diag([-1, -1, 1, 1]) @ affine
    mm = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(mm.tolist())
    image.SetDirection((lps[:3, :3] / mm).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize("name", ["m.nii.gz", "m.nrrd", "m.seg.nrrd", "m.mha"])
@pytest.mark.parametrize(
    "axes", ["".join(c) for c in itertools.islice(itertools.product("RL", "PA", "SI"), 0, 8, 3)]
)
def test_any_format_and_orientation_lands_on_the_ct(tmp_path, name, axes):
    turn = inv_ornt_aff(axcodes2ornt(tuple(axes)), SHAPE)
    affine = ct().affine @ turn
    there = nibabel.orientations.apply_orientation(values(), axcodes2ornt(tuple(axes)))
    if name.endswith("gz"):
        nibabel.Nifti1Image(there, affine).to_filename(tmp_path / name)
    else:
        nrrd(tmp_path / name, there, affine)
    got = label_maps.on_grid(tmp_path / name, ct())
    assert got.dtype == np.int32
    assert np.array_equal(got, values())


@pytest.mark.parametrize("name", ["m.nii.gz", "m.seg.nrrd"])
def test_a_cropped_label_map_goes_where_it_was_cut(tmp_path, name):
    cut = (slice(2, 6), slice(1, 4), slice(3, 5))
    affine = ct().affine.copy()
    affine[:3, 3] = (ct().affine @ [2, 1, 3, 1])[:3]
    write = nrrd if name.endswith("nrrd") else _nifti
    write(tmp_path / name, values()[cut], affine)
    expected = np.zeros(SHAPE, np.int32)
    expected[cut] = values()[cut]
    assert np.array_equal(label_maps.on_grid(tmp_path / name, ct()), expected)


def _nifti(path, ids, affine) -> None:
    nibabel.Nifti1Image(ids, affine).to_filename(path)


def shifted(voxels: float) -> np.ndarray:
    moved = np.eye(4)
    moved[0, 3] = voxels
    return moved


@pytest.mark.parametrize(
    "moved", [np.diag([1, 1, 1.02, 1.0]), shifted(0.4), shifted(1), shifted(-1)]
)
def test_labels_of_another_grid_are_refused_with_both_geometries(tmp_path, moved):
    """Another spacing from the same first voxel; half a voxel aside; sticking out at either end."""
    _nifti(tmp_path / "m.nii", values(), ct().affine @ moved)
    with pytest.raises(
        InputError, match=r"not on the grid of its CT: it has 7 x 6 x 5.*its CT has 7 x 6"
    ):
        label_maps.on_grid(tmp_path / "m.nii", ct())


def test_fractions_are_no_labels_in_any_format(tmp_path):
    nrrd(tmp_path / "m.nrrd", np.full(SHAPE, 0.5, np.float32), ct().affine)
    with pytest.raises(InputError, match="not integers"):
        label_maps.read(tmp_path / "m.nrrd")


def test_values_come_with_their_affine(tmp_path):
    nrrd(tmp_path / "m.nrrd", values(), ct().affine)
    got, affine = label_maps.read(tmp_path / "m.nrrd")
    assert np.array_equal(got, values())
    np.testing.assert_allclose(affine, ct().affine)
    _nifti(tmp_path / "m.nii", values(), ct().affine)
    assert np.array_equal(label_maps.read(tmp_path / "m.nii")[0], got)
