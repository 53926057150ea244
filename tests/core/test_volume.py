"""Volume and Window: units there and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from denovox.core.errors import InputError
from denovox.core.volume import Grid, Volume, Window, spacing_of, within

ABDOMEN = Window(360, 60)
widths, levels, values = st.floats(1, 4000), st.floats(-1000, 1000), st.floats(-2000, 4000)


def test_the_ends_of_a_window_are_plus_and_minus_one():
    assert (ABDOMEN.low_hu, ABDOMEN.high_hu) == (-120, 240)
    assert [ABDOMEN.unit(hu) for hu in (-120, 60, 240)] == [-1, 0, 1]
    assert [ABDOMEN.hu(unit) for unit in (-1, 0, 1)] == [-120, 60, 240]


def test_a_window_does_not_clip():
    assert ABDOMEN.unit(600) == 3
    assert ABDOMEN.hu(-5) == -840


@given(widths, levels, values)
def test_unit_and_hu_are_inverse(width, level, hu):
    window = Window(width, level)
    assert window.hu(window.unit(hu)) == pytest.approx(hu, rel=1e-9, abs=1e-8)


@given(widths, levels, st.floats(0, 200))
def test_sigma_is_a_difference_of_units(width, level, noise_hu):
    window = Window(width, level)
    assert window.sigma(noise_hu) == pytest.approx(
        window.unit(level + noise_hu) - window.unit(level), abs=1e-9
    )


def test_sigma_of_method_3():
    assert ABDOMEN.sigma(27) == pytest.approx(0.15)  # quarter dose, nearly
    assert ABDOMEN.sigma(180) == 1


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_arrays_and_tensors_keep_their_kind(make):
    hu = make([-120.0, 60.0, 240.0])
    assert type(ABDOMEN.unit(hu)) is type(hu)
    assert ABDOMEN.unit(hu).tolist() == [-1, 0, 1]
    assert ABDOMEN.hu(ABDOMEN.unit(hu)).dtype == hu.dtype


def test_spacing_is_the_length_of_the_affines_columns():
    turn = np.deg2rad(20)
    rotation = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.7, -0.8, 5])
    affine[:3, 3] = [10, -20, 300]
    assert spacing_of(affine) == pytest.approx((0.7, 0.8, 5))


@pytest.mark.parametrize("limit", [0.7, 1.1, 3.0, 6.0])
def test_what_a_file_rounds_is_within_a_limit(limit):
    turn = np.deg2rad(20)
    turned = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    for dtype, scale in ((np.float32, 1.0), (np.float64, 1 - 2e-4), (np.float64, 1 + 2e-4)):
        affine = np.diag([limit, limit, limit, 1.0])
        affine[:2, :2] = scale * limit * np.array(turned)
        for mm in spacing_of(affine.astype(dtype)):
            assert within(mm, limit, limit)
            assert within(mm, limit)
            assert within(mm, 0, limit)


def test_what_no_file_rounds_is_not():
    assert not within(0.69, 0.7, 6)
    assert not within(6.05, 0.7, 6)
    assert not within(float("nan"), 0.7)


def test_a_volume_with_other_values_keeps_the_rest():
    volume = Volume(np.zeros((3, 4, 5), np.float32), np.diag([1.0, 2.0, 3.0, 1.0]), source="file")
    assert volume.shape == (3, 4, 5)
    assert volume.spacing_mm == (1, 2, 3)
    other = volume.with_hu(np.ones((3, 4, 5), np.float32))
    assert (other.hu == 1).all()
    assert (volume.hu == 0).all()
    assert other.affine is volume.affine
    assert other.source == "file"


def test_another_shape_is_refused():
    volume = Volume(np.zeros((3, 4, 5), np.float32), np.eye(4))
    with pytest.raises(ValueError, match=r"\(3, 4, 6\) does not match the grid's \(3, 4, 5\)"):
        volume.with_hu(np.zeros((3, 4, 6), np.float32))


@pytest.mark.parametrize(
    ("z", "first", "count"),
    [
        (slice(2, 5), 2, 3),
        (slice(0, 6), 0, 6),
        (slice(None), 0, 6),
        (slice(4, None), 4, 2),
        (slice(-2, None), 4, 2),
        (slice(3, 99), 3, 3),
    ],
)
def test_slices_of_a_volume_stay_where_they_were(z, first, count):
    rng = np.random.default_rng(0)
    affine = np.eye(4)
    affine[:3] = rng.normal(size=(3, 4))
    volume = Volume(rng.normal(size=(3, 4, 6)), affine, source="file")
    part = volume.slices(z)
    assert part.shape == (3, 4, count)
    assert part.source is None
    assert np.shares_memory(part.hu, volume.hu)
    for k in range(count):
        assert np.array_equal(part.hu[..., k], volume.hu[..., first + k])
        np.testing.assert_allclose(part.affine @ [1, 2, k, 1], affine @ [1, 2, first + k, 1])
    assert part.spacing_mm == volume.spacing_mm


def test_every_other_slice_is_no_volume_of_the_same_grid():
    volume = Volume(np.zeros((3, 4, 6), np.float32), np.eye(4))
    for step in (2, -1):
        with pytest.raises(ValueError, match=f"steps of {step}"):
            volume.slices(slice(None, None, step))
    assert np.array_equal(volume.affine, np.eye(4))


def test_a_grid_is_another_if_any_corner_is_off():
    affine = np.array([[0, -0.8, 0, 10], [0.7, 0, 0, -20], [0, 0, 2.5, 300], [0, 0, 0, 1.0]])
    one = Grid((200, 100, 50), affine)
    assert one.matches(Grid((200, 100, 50), affine.astype(np.float32).astype(np.float64)))
    longer = affine @ np.diag([1 + 1e-4, 1, 1, 1])  # 0.014 mm, at the far end alone
    assert np.allclose(longer[:3, 3], affine[:3, 3])
    others = {
        "shape": Grid((200, 100, 49), affine),
        "origin": Grid(one.shape, affine + 0.1 * np.eye(4, k=3)),
        "spacing": Grid(one.shape, longer),
        "direction": Grid(one.shape, affine @ np.diag([-1, 1, 1, 1])),
        "order": Grid((100, 200, 50), affine[:, [1, 0, 2, 3]]),  # the same voxels, as an array not
    }
    for other in others.values():
        assert not one.matches(other)
        with pytest.raises(InputError) as caught:
            other.require(one, "m.nii", "ct.nii")
        assert str(caught.value) == (
            f"m.nii is not on the grid of ct.nii: it has {other}, and ct.nii has {one}; resample"
            " one of them to the other"
        )
    assert str(one) == (
        "200 x 100 x 50 voxels of 0.7 x 0.8 x 2.5 mm from (10.00, -20.00, 300.00) to"
        " (-69.20, 119.30, 422.50) mm"
    )
