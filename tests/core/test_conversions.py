"""A volume to and from other packages: the same voxel at the same place in the patient."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from denovox.core.errors import InputError
from denovox.core.volume import Volume

AXES = st.permutations([0, 1, 2])
SIGNS = st.tuples(*[st.sampled_from([1, -1])] * 3)
SHAPE = (4, 5, 6)


def scan(order, signs, tilt=0.0):
    """(values, affine) in any orientation, with other spacings along each axis."""
    affine = np.eye(4)
    cos, sin = np.cos(tilt), np.sin(tilt)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    affine[:3, :3] = turn @ np.eye(3)[:, order] * signs * (0.7, 1.5, 4.0)
    affine[:3, 3] = -31, 7.5, 120
    values = np.random.default_rng(0).integers(-1000, 2000, SHAPE).astype(np.int16)
    return values, affine


def same_places(volume, values, affine):
    """Every voxel of a volume is, at its place in mm, the voxel of the array."""
    index = np.indices(volume.shape).reshape(3, -1)
    mm = volume.affine[:3, :3] @ index + volume.affine[:3, 3:]
    back = np.linalg.solve(affine[:3, :3], mm - affine[:3, 3:])
    nearest = np.rint(back).astype(int)
    np.testing.assert_allclose(back, nearest, atol=1e-4)
    assert np.array_equal(values[tuple(nearest)], volume.hu.reshape(-1))
    # x, y, z are the axes nearest to R, A, S.
    assert np.argmax(np.abs(volume.affine[:3, :3]), axis=0).tolist() == [0, 1, 2]
    assert (np.diag(volume.affine)[:3] > 0).all()


@given(AXES, SIGNS, st.floats(-0.4, 0.4))
def test_nibabel_in_any_orientation(order, signs, tilt):
    values, affine = scan(order, signs, tilt)
    volume = Volume.from_nibabel(nib.Nifti1Image(values, affine))
    same_places(volume, values, affine)
    again = volume.to_nibabel()
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-5)
    assert np.array_equal(np.asarray(again.dataobj), volume.hu)


@given(AXES, SIGNS, st.floats(-0.4, 0.4))
def test_sitk_in_any_orientation(order, signs, tilt):
    values, affine = scan(order, signs, tilt)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    image = sitk.GetImageFromArray(values.T)
    mm = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(mm.tolist())
    image.SetDirection((lps[:3, :3] / mm).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    volume = Volume.from_sitk(image)
    same_places(volume, values, affine)
    out = volume.to_sitk()
    for at in ((0, 0, 0), (3, 2, 1), tuple(n - 1 for n in volume.shape)):
        point = out.TransformIndexToPhysicalPoint(at)
        assert image[image.TransformPhysicalPointToIndex(point)] == out[at] == volume.hu[at]


@given(AXES, SIGNS)
def test_metatensor_in_any_orientation(order, signs):
    values, affine = scan(order, signs)
    tensor = MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(affine))
    volume = Volume.from_metatensor(tensor)
    same_places(volume, values, affine)
    out = volume.to_metatensor()
    assert tuple(out.shape) == (1, *volume.shape)
    again = Volume.from_metatensor(out)
    assert np.array_equal(again.hu, volume.hu)
    np.testing.assert_allclose(again.affine, volume.affine)


def test_a_metatensor_in_lps_is_turned():
    values, affine = scan([0, 1, 2], (1, 1, 1))
    tensor = MetaTensor(torch.from_numpy(values), affine=np.diag([-1, -1, 1, 1]) @ affine)
    tensor.meta["space"] = "LPS"
    same_places(Volume.from_metatensor(tensor), values, affine)


def test_an_array_in_either_order_of_axes():
    values, affine = scan([0, 1, 2], (1, 1, 1))
    volume = Volume.from_numpy(values, affine)
    same_places(volume, values, affine)
    turned = Volume.from_numpy(values.T, affine, axes="zyx")
    assert np.array_equal(turned.hu, volume.hu)
    assert Volume.from_numpy(values, spacing_mm=(0.7, 1.5, 4)).spacing_mm == (0.7, 1.5, 4.0)
    assert Volume.from_numpy(values, spacing_mm=2).spacing_mm == (2, 2, 2)
    assert volume.hu.dtype == np.float32
    assert Volume.from_numpy(values.astype(float), spacing_mm=2).hu.dtype == np.float64
    # What a caller does to the array later does not reach the volume, nor a read-only flag.
    frozen = values.astype(np.float32)
    frozen.flags.writeable = False
    assert np.array_equal(Volume.from_numpy(frozen, spacing_mm=1).hu, frozen)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda v: Volume.from_numpy(v), "either an affine or spacing_mm"),
        (lambda v: Volume.from_numpy(v, np.eye(4), spacing_mm=1), "either an affine or spacing_mm"),
        (lambda v: Volume.from_numpy(v[0], spacing_mm=1), r"shape \(5, 6\)"),
        (lambda v: Volume.from_numpy(v, spacing_mm=-1), "above 0 mm"),
        (lambda v: Volume.from_numpy(v, spacing_mm=1, axes="yzx"), "'xyz' or 'zyx'"),
        (lambda v: Volume.from_numpy(v * 1j, spacing_mm=1), "complex"),
        (lambda v: Volume.from_numpy(v / 0.0, spacing_mm=1), "NaN or infinite"),
        (lambda v: Volume.from_numpy(v, np.zeros((4, 4))), "invertible 4 x 4 matrix"),
        (lambda v: Volume.from_numpy(v, np.eye(3)), "4 x 4"),
        (lambda v: Volume.from_nibabel(v), "not a nibabel image"),
        (lambda v: Volume.from_sitk(v), "not a SimpleITK image"),
        (lambda v: Volume.from_sitk(sitk.Image(3, 3, sitk.sitkInt16)), "not a single 3D scalar"),
        (lambda v: Volume.from_metatensor(torch.zeros(2, 2, 2)), "not a MONAI MetaTensor"),
        (
            lambda v: Volume.from_numpy(v, np.eye(4) + np.eye(4, k=1) * 0.3).to_sitk(),
            "not perpendicular",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_not_a_scan_is_one_sentence(make, words):
    values, _ = scan([0, 1, 2], (1, 1, 1))
    with pytest.raises(InputError, match=words):
        make(values)


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(InputError, match="pip install SimpleITK"):
        Volume.from_numpy(np.zeros((2, 2, 2)), spacing_mm=1).to_sitk()
