"""Shapes in millimetres: against closed forms, and against scipy where both know the answer."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from denovox.core import morphology
from denovox.core.morphology import (
    close_mm,
    component_sizes,
    depth_mm,
    dilate_mm,
    erode_mm,
    joined,
    labelled,
    largest,
    reaching,
    within_slice,
)

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.9, 3.0), (2.5, 0.5, 1.25)]


def blobs(seed, shape=(17, 23, 19), share=0.3):
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return smooth > np.quantile(smooth, 1 - share)


def ball(radius_mm, mm, shape=(31, 31, 31)):
    index = np.moveaxis(np.indices(shape), 0, -1) - np.array(shape) // 2
    return ((index * mm) ** 2).sum(-1) <= radius_mm**2


@pytest.mark.parametrize("mm", SPACINGS)
@pytest.mark.parametrize("seed", range(3))
def test_depth_is_scipys_distance_bit_for_bit(mm, seed):
    mask = blobs(seed)
    assert np.array_equal(depth_mm(mask, mm), ndimage.distance_transform_edt(mask, mm))
    padded = ndimage.distance_transform_edt(np.pad(mask, 1), mm)[1:-1, 1:-1, 1:-1]
    assert np.array_equal(depth_mm(mask, mm, ends=True), padded)


@pytest.mark.parametrize("mm", SPACINGS)
@pytest.mark.parametrize("radius_mm", [0.4, 2.0, 3.5, 8.0])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_erosion_and_dilation_are_thresholds_of_a_distance(mm, radius_mm, share):
    """The box in which they are computed cuts nothing off."""
    mask = blobs(4, share=share)
    inside, outside = (ndimage.distance_transform_edt(m, mm) for m in (mask, ~mask))
    assert np.array_equal(erode_mm(mask, radius_mm, mm), inside > radius_mm)
    assert np.array_equal(dilate_mm(mask, radius_mm, mm), outside <= radius_mm)


@pytest.mark.parametrize("mm", SPACINGS)
def test_a_ball_of_many_rods_is_the_same(mm, monkeypatch):
    """It is found by its distance instead."""
    mask = blobs(5)
    by_rods = dilate_mm(mask, 3.5, mm), erode_mm(mask, 3.5, mm)
    asked = []
    depth = morphology.depth_mm
    monkeypatch.setattr(morphology, "depth_mm", lambda *of: asked.append(1) or depth(*of))
    monkeypatch.setattr(morphology, "MOST_RODS", 0)
    assert np.array_equal(dilate_mm(mask, 3.5, mm), by_rods[0])
    assert np.array_equal(erode_mm(mask, 3.5, mm), by_rods[1])
    assert len(asked) == 2


@pytest.mark.parametrize("mm", SPACINGS)
def test_a_dilated_point_is_a_ball(mm):
    point = np.zeros((31, 31, 31), bool)
    point[15, 15, 15] = True
    assert np.array_equal(dilate_mm(point, 4.2, mm), ball(4.2, mm))
    assert np.array_equal(erode_mm(~point, 4.2, mm), ~ball(4.2, mm))


def test_a_slab_goes_on_beyond_the_ends():
    slab = np.zeros((9, 9, 12), bool)
    slab[..., 3:9] = True
    for radius, first, last in ((1.9, 4, 8), (2.0, 5, 7)):  # the border voxels' centres count
        eroded = erode_mm(slab, radius * 1.5, (1, 1, 1.5))
        assert np.flatnonzero(eroded.all((0, 1))).tolist() == list(range(first, last))
        assert np.array_equal(eroded, np.broadcast_to(eroded[:1, :1], eroded.shape))
    assert depth_mm(slab, (1, 1, 1.5))[0, 0].tolist() == [
        0,
        0,
        0,
        1.5,
        3,
        4.5,
        4.5,
        3,
        1.5,
        0,
        0,
        0,
    ]
    assert depth_mm(slab, (1, 1, 1.5), ends=True)[0, 0].max() == 1


def test_all_and_nothing():
    mm, every = (1.0, 2.0, 3.0), np.ones((4, 5, 6), bool)
    assert np.isinf(depth_mm(every, mm)).all()
    for change in (erode_mm, dilate_mm, close_mm):
        assert change(every, 9.0, mm).all()
        assert not change(~every, 9.0, mm).any()
    assert depth_mm(every, mm, ends=True)[1, 2, 3] == 2
    assert not depth_mm(~every, mm, ends=True).any()


def test_closing_fills_what_is_narrower_than_twice_its_radius():
    cleft = np.ones((20, 9, 9), bool)
    cleft[8:12] = False  # voxels of 0.5 mm: the two in the middle lie 1 mm from a side
    assert not close_mm(cleft, 0.9, (0.5, 1, 1))[9].any()
    assert close_mm(cleft, 1.0, (0.5, 1, 1)).all()
    mask = blobs(7)
    closed = close_mm(mask, 3.0, SPACINGS[1])
    assert (closed >= mask).all()
    assert np.array_equal(close_mm(closed, 3.0, SPACINGS[1]), closed)


def test_the_mask_that_is_given_stays():
    mask = blobs(1)
    before = mask.copy()
    for change in (erode_mm, dilate_mm, close_mm):
        change(mask, 2.0, (1, 1, 1))
    largest(mask)
    assert np.array_equal(mask, before)


def test_within_a_slice_nothing_joins_along_z_or_by_corners():
    mask = np.zeros((3, 3, 2), bool)
    mask[0, 0] = mask[1, 1, 0] = mask[1, 0, 0] = mask[2, 2, 1] = True
    parts, count = ndimage.label(mask, within_slice())
    assert count == 3
    assert parts[0, 0, 0] == parts[1, 0, 0] == parts[1, 1, 0]
    assert parts[0, 0, 1] not in (parts[0, 0, 0], parts[2, 2, 1])


def test_sizes_of_components():
    parts, count = ndimage.label(blobs(2))
    among = blobs(3)
    assert count > 1
    sizes = [int((parts == n).sum()) * (n > 0) for n in range(count + 1)]
    assert component_sizes(parts).tolist() == sizes
    shared = [int(((parts == n) & among).sum()) * (n > 0) for n in range(count + 1)]
    assert component_sizes(parts, among).tolist() == shared
    last = parts[-1:]  # in which some components are missing
    assert component_sizes(last, count=count + 3).tolist() == [
        int((last == n).sum()) * (n > 0) for n in range(count + 3)
    ]
    assert component_sizes(np.zeros((2, 2, 2), int)).tolist() == [0]


def test_the_largest_component():
    mask = np.zeros((9, 5, 5), bool)
    mask[0, 0, :2] = mask[2, :3, 1] = mask[5, 1:4, 1] = True  # 2, 3 and 3 voxels
    found = largest(mask)
    assert np.argwhere(found).tolist() == [[2, 0, 1], [2, 1, 1], [2, 2, 1]]
    assert largest(found) is found
    assert not largest(np.zeros((2, 2, 2), bool)).any()


def reaching_by_numbers(mask, axes):
    """`reaching`, from the numbers of the connected components of what is eroded."""
    wide, inner = np.pad(mask, 1, constant_values=True), (slice(1, -1),) * 3
    cube = np.ones((3, 3, 3))
    core = ndimage.binary_erosion(wide, cube, border_value=1)
    parts, _ = ndimage.label(core, cube)
    ends = [np.take(parts[inner], (0, -1), axis) for axis in axes]
    numbers = np.setdiff1d(np.concatenate([end.ravel() for end in ends]), [0])
    return (ndimage.binary_dilation(np.isin(parts, numbers), cube) & wide)[inner]


@pytest.mark.parametrize("axes", [(0, 1), (0, 1, 2), (2,)])
@pytest.mark.parametrize("seed", range(12))
def test_what_reaches_the_border_is_found_in_any_layout(seed, axes):
    rng = np.random.default_rng(seed)
    mask = blobs(seed, tuple(rng.integers(4, 26, 3)), rng.uniform(0.2, 0.7))
    expected = reaching_by_numbers(mask, axes)
    for order in itertools.permutations(range(3)):
        laid = np.ascontiguousarray(mask.transpose(order)).transpose(np.argsort(order))
        assert np.array_equal(reaching(laid, axes), expected)
    assert np.array_equal(reaching(mask[::-1, :, ::-1], axes), expected[::-1, :, ::-1])


def test_a_region_that_winds_is_followed_to_its_end():
    mask = np.zeros((200, 7, 9), bool)
    mask[:, :3] = mask[:, 4:] = True
    for turn in range(3, 200, 8):  # walls with gaps on alternate sides, thick enough to pass
        mask[turn : turn + 4, :, : 5 if turn % 16 == 3 else 9] = False
        mask[turn : turn + 4, :, :4] = turn % 16 != 3
    mask[-1] = False
    assert np.array_equal(reaching(mask, (0,)), reaching_by_numbers(mask, (0,)))


@pytest.mark.parametrize("sign", [1, -1])
def test_components_that_touch_at_corners(sign: int) -> None:
    """Also where two slabs meet; numbered like scipy's."""
    values = sign * np.random.default_rng(3).random((40, 13, 11)).astype(np.float32)
    values[12:20, 4:6] = 0

    def found(corners: bool) -> np.ndarray:
        links: list[np.ndarray] = []
        parts = [
            np.where(own > 0, own + before, 0)
            for _, before, own in labelled(values, links, 4, 0.88, sign, corners)
        ]
        labels = np.concatenate(parts)
        return np.append(0, 1 + joined(links, int(labels.max())))[labels]

    parts, count = ndimage.label(sign * values > 0.88, np.ones((3, 3, 3)))
    assert np.array_equal(found(True), parts)
    assert count > 5
    assert found(False).max() > count
