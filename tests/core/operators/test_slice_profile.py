"""Slab weights: positive, of sum one, and centred where they say they are."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from denovox.core.errors import InputError
from denovox.core.operators.slice_profile import slab_centres_mm, slab_matrix

PROFILES = ["box", "triangle", "gaussian"]
# Half the support of each profile, in thicknesses.
REACH = {"box": 0.5, "triangle": 1.0, "gaussian": 1.5}

lengths = st.floats(1, 6)


def test_whole_slices_are_plain_means():
    got = slab_matrix(10, 0.5, 2.5, 2.5)
    np.testing.assert_allclose(got, np.kron(np.eye(2), np.full(5, 0.2)), atol=1e-15)


def test_overlap_and_gap_in_numbers():
    overlap = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]) / 3
    np.testing.assert_allclose(slab_matrix(5, 2, 6, 4), overlap, atol=1e-15)
    gap = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0]]) / 2
    np.testing.assert_allclose(slab_matrix(6, 2, 4, 6), gap, atol=1e-15)
    assert slab_matrix(5, 2, 6, 4).dtype == np.float64


def test_the_scans_own_slices_stay():
    np.testing.assert_allclose(slab_matrix(7, 0.7, 0.7, 0.7), np.eye(7), atol=1e-12)


@given(st.integers(8, 40), lengths, lengths, st.sampled_from(PROFILES))
def test_rows_are_positive_sum_to_one_and_keep_a_line(count, thickness, spacing, profile):
    matrix = slab_matrix(count, 1, thickness, spacing, profile)
    centres = slab_centres_mm(count, 1, thickness, spacing)
    assert matrix.shape == (len(centres), count)
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    inside = (centres >= REACH[profile] * thickness) & (
        centres <= count - REACH[profile] * thickness
    )
    assert inside.any() or profile != "box"
    line = np.arange(count) + 0.5
    np.testing.assert_allclose((matrix @ line)[inside], centres[inside], atol=1e-9)


@given(st.integers(8, 40), lengths, lengths)
def test_as_many_slabs_as_fit(count, thickness, spacing):
    centres = slab_centres_mm(count, 1, thickness, spacing)
    assert centres[0] == thickness / 2
    np.testing.assert_allclose(np.diff(centres), spacing)
    assert centres[-1] + thickness / 2 <= count + 1e-5
    assert centres[-1] + spacing + thickness / 2 > count - 1e-5


@pytest.mark.parametrize(
    ("profile", "second_moment"),
    # in thicknesses squared: of a box, of a triangle, and of a gaussian of that width
    [("box", 1 / 12), ("triangle", 1 / 6), ("gaussian", 1 / (8 * np.log(2)))],
)
def test_profiles_have_their_width(profile, second_moment):
    count, thickness = 2001, 100.0
    row = slab_matrix(count, 1, thickness, 950.5, profile)[1]
    centre = slab_centres_mm(count, 1, thickness, 950.5)[1]
    away = np.arange(count) + 0.5 - centre
    # Cut at 1.5 widths, a gaussian lacks 0.5 % of its second moment.
    wanted = second_moment * thickness**2
    assert (row * away**2).sum() == pytest.approx(
        wanted, rel=1e-3 if profile != "gaussian" else 0.01
    )
    assert row[np.abs(away) > REACH[profile] * thickness + 1].max() == 0
    if profile != "box":
        half = row[np.argmin(np.abs(away - thickness / 2))]
        assert half == pytest.approx(row.max() / 2, rel=0.02)


def test_at_the_ends_soft_profiles_are_cut():
    matrix = slab_matrix(20, 1, 5, 5, "gaussian")
    assert matrix[0].argmax() in (0, 1, 2)
    np.testing.assert_allclose(matrix.sum(1), 1)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-12)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ((10, 1, 0.5, 5), "a thickness of 0.5 mm is less than the scan's slice spacing of 1 mm"),
        ((10, 1, 5, 0.5), "a spacing of 0.5 mm is less than the scan's slice spacing of 1 mm"),
        ((10, 1, float("nan"), 5), "a thickness of nan mm is less"),
        ((10, 1, 11, 5), "slabs of 11 mm do not fit into a scan of 10 mm"),
        ((0, 1, 1, 1), "0 slices of 1 mm are not a scan"),
        ((10, 0, 1, 1), "10 slices of 0 mm are not a scan"),
    ],
)
def test_what_makes_no_sense_is_said(asked, sentence):
    with pytest.raises(InputError, match="^" + re.escape(sentence)):
        slab_matrix(*asked)


def test_rounded_headers_lose_no_slab():
    assert slab_matrix(50, float(np.float32(0.7)), 3.5, 3.5).shape == (10, 50)
    assert slab_matrix(50, float(np.float32(0.1)), 5.0, 5.0).shape == (1, 50)
    same = slab_matrix(50, 0.7002, 0.7, 0.7)
    np.testing.assert_allclose(same, np.eye(50), atol=0.02)
    np.testing.assert_allclose(same.sum(1), 1)
