"""Blocks of voxels: against definitions on the whole scan."""

import math

import numpy as np
import pytest

from denovox.scan.blocks import block_mean, boxes, clipped, repeat, smooth, smooth_at

SHAPES = [(41, 23, 18), (40, 24, 18)]  # with and without a remainder
FACTOR = (4, 3, 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_means_over_blocks_whose_last_repeats_the_edge(shape):
    hu = np.random.default_rng(0).integers(-1500, 4000, shape).astype(np.float32)
    padding = [(0, -n % f) for n, f in zip(shape, FACTOR, strict=True)]
    padded = np.pad(np.clip(hu, -1024, 3071), padding, mode="edge").astype(np.float64)
    blocks = [padded[i::4, j::3, k::2] for i in range(4) for j in range(3) for k in range(2)]
    assert np.array_equal(block_mean(hu, FACTOR), np.mean(blocks, axis=0).astype(np.float32))
    ones = block_mean(hu, FACTOR, lambda part: (part > 0).astype(np.float32))
    assert np.array_equal(ones, np.mean([b > 0 for b in blocks], axis=0).astype(np.float32))


@pytest.mark.parametrize("mm", [(0.4, 0.9, 2.5), (1.0, 1.0, 0.3)])
def test_a_box_is_smoothed_as_in_the_whole_scan(mm):
    """Bit for bit, at the ends of the scan and far from them."""
    hu = 900 * np.random.default_rng(1).standard_normal((41, 23, 18)).astype(np.float32)
    whole = smooth(clipped(hu), 0.8, mm)
    for voxels in (
        (slice(0, 41), slice(0, 23), slice(0, 18)),
        (slice(0, 9), slice(7, 12), slice(11, 18)),
        (slice(17, 21), slice(0, 3), slice(5, 6)),
    ):
        assert np.array_equal(smooth_at(hu, voxels, 0.8, mm), whole[voxels])


def test_boxes_cover_a_mask_once_and_no_more_than_they_need():
    mask = np.zeros((50, 9, 7), bool)
    mask[3:30, 2:5, 1:4] = True
    mask[40, 8, 6] = True
    covered = np.zeros(mask.shape, int)
    for voxels, blocks in boxes(mask, FACTOR):
        covered[blocks] += 1
        at = [(box.start * f, box.stop * f) for box, f in zip(blocks, FACTOR, strict=True)]
        assert [(box.start, box.stop) for box in voxels] == at
    assert np.array_equal(covered, mask)
    assert not list(boxes(np.zeros((5, 5, 5), bool), FACTOR))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_of_blocks_becomes_a_mask_of_voxels(shape):
    size = [math.ceil(n / f) for n, f in zip(shape, FACTOR, strict=True)]
    mask = np.random.default_rng(2).random(size) > 0.5
    at = np.ix_(*(np.arange(n) // f for n, f in zip(shape, FACTOR, strict=True)))
    assert np.array_equal(repeat(mask, FACTOR, shape), mask[at])
