"""Thick slices made thin again, against averages taken by hand."""

import numpy as np
import pytest

from denovox.core.operators.slab_average import SlabAverage
from denovox.core.operators.slice_profile import slab_matrix
from denovox.datasets.samples.control_inputs import boxes, loss_weight, low_resolution, onto_lesion


def volume(count=24):
    return np.random.default_rng(3).standard_normal((3, 2, count)).astype(np.float32)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_averaged_again_it_is_what_the_thin_slices_were(factor):
    thin = volume()
    low = low_resolution(thin, float(factor), 0.0)
    mean = thin.reshape(3, 2, -1, factor).mean(-1)
    np.testing.assert_allclose(low.reshape(3, 2, -1, factor).mean(-1), mean, atol=1e-5)
    assert np.abs(low - thin).max() > 0.1  # something is lost


def test_the_offset_moves_where_slabs_begin():
    thin = volume()
    low = low_resolution(thin, 4.0, 0.25)  # the first slab began a voxel before the volume
    mean = thin[..., 3:23].reshape(3, 2, 5, 4).mean(-1)
    np.testing.assert_allclose(low[..., 3:23].reshape(3, 2, 5, 4).mean(-1), mean, atol=1e-5)


def test_a_factor_that_is_no_whole_number():
    thin = volume(30)
    low = low_resolution(thin, 2.5, 0.0)
    slabs = SlabAverage(slab_matrix(30, 1.0, 2.5, 2.5)).matrix
    np.testing.assert_allclose((low @ slabs.T), (thin @ slabs.T), atol=1e-5)


def test_what_does_not_change_along_z_stays():
    flat = np.repeat(volume(1), 17, axis=2)
    np.testing.assert_allclose(low_resolution(flat, 3.3, 0.6), flat, atol=1e-5)


def test_each_lesion_has_its_box():
    mask = np.zeros((6, 7, 8), np.uint8)
    mask[1:3, 2:5, 6:8] = 1
    mask[5, 0, 0] = 1
    assert set(boxes(mask)) == {(1, 2, 6, 2, 4, 7), (5, 0, 0, 5, 0, 0)}
    assert boxes(np.zeros((3, 3, 3), np.uint8)) == ()


def test_a_crop_onto_a_lesion_lies_in_the_case_and_shows_it():
    rng, shape, size = np.random.default_rng(0), (40, 33, 28), [8.0, 8.0, 8.0]
    for pace, box in (
        (2, (0, 0, 0, 1, 1, 1)),
        (1, (39, 32, 27, 39, 32, 27)),
        (2, (12, 9, 4, 30, 20, 20)),
    ):
        for _ in range(50):
            start = np.array(onto_lesion([box], size, shape, pace, rng))
            assert (start >= 0).all()
            assert (start + 8 <= shape).all()
            assert (start % pace == 0).all()
            assert (start <= np.array(box[3:])).all()
            assert (start + 8 > np.array(box[:3])).all()


def test_weights_are_on_lesions_and_a_voxel_around_them():
    mask = np.zeros((5, 5, 5), np.float32)
    mask[2, 2, 2] = 1
    weight = loss_weight(mask, 7.0)
    assert (weight[1:4, 1:4, 1:4] == 7).all()
    assert weight.sum() == 27 * 7 + 98
