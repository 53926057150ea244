"""Lesion shapes: size, one piece, the same in mm on any grid, as round as real ones are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from skimage.measure import marching_cubes, mesh_surface_area

from denovox.io import label_maps
from denovox.simulate.lesion_shapes import (
    ROUGHNESS,
    SIZES,
    Size,
    cluster,
    depth,
    grow,
    rough,
    size_of,
)

REAL = {  # masks of the real CTs: the values that are lesions
    "chest_4DLung-113_rtstruct": (1, 2),
    "chest_NSCLCRG-R01-001_autonodule": (1,),
    "chest_RIDER-0117_autonodule": (1, 2, 3),
    "limb_STS-001_gtv": (1,),
    "limb_STS-003_gtv": (1,),
}


def rng(*seed):
    return np.random.default_rng(seed)


def volume_of(diameter_mm):
    return np.pi / 6 * diameter_mm**3


def sphericity(mask, mm):
    """Surface of the ball of a mask's volume over its own, by marching cubes (1: a ball)."""
    vertices, faces, _, _ = marching_cubes(np.pad(mask, 2).astype(np.float32), 0.5, spacing=mm)
    volume = mask.sum() * np.prod(mm)
    return np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / mesh_surface_area(vertices, faces)


def dice(a, b):
    """Overlap of two masks about their middle voxels."""
    shape = np.maximum(a.shape, b.shape)
    a, b = (
        np.pad(m, [((n - k) // 2,) * 2 for n, k in zip(shape, m.shape, strict=True)])
        for m in (a, b)
    )
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@settings(max_examples=25)
@given(
    st.floats(1, 20),
    st.floats(0, 0.4),
    st.tuples(st.floats(1, 4), st.floats(1, 4), st.floats(1, 6)),
    st.integers(0, 99),
)
def test_a_lesion_is_one_piece_without_holes_in_the_smallest_odd_box(diameter, roughness, mm, seed):
    got = grow(diameter, roughness, mm, rng(seed))
    _, pieces = ndimage.label(got)
    assert pieces == 1
    assert np.array_equal(ndimage.binary_fill_holes(got), got)
    for axis, size in enumerate(got.shape):
        assert size % 2 == 1
        assert got.take(0, axis).any() or got.take(-1, axis).any()


def test_very_rough_lesions_have_no_holes_either():
    for seed in range(8):  # half of them would
        got = grow(14, 0.4, (1.0, 1.0, 1.0), rng(seed))
        assert np.array_equal(ndimage.binary_fill_holes(got), got)


@pytest.mark.parametrize("roughness", [0.0, 0.02, 0.1, 0.25])
def test_the_middle_voxel_is_its_centre_and_its_volume_a_balls(roughness):
    for seed in range(6):
        got = grow(12, roughness, (0.6, 0.6, 0.8), rng(seed))
        middle = np.argwhere(got).mean(0) - np.array(got.shape) // 2
        assert np.abs(middle).max() < 0.5
        assert got.sum() * 0.6 * 0.6 * 0.8 == pytest.approx(volume_of(12), rel=0.025)


def test_without_roughness_it_is_a_ball():
    mm = (0.7, 0.8, 1.1)
    got = grow(14, 0, mm, rng(0))
    away = np.linalg.norm((np.argwhere(np.ones(got.shape)) - np.array(got.shape) // 2) * mm, axis=1)
    assert got.ravel()[away < 7 - 0.35].all()
    assert not got.ravel()[away > 7 + 0.35].any()
    for axis in range(3):
        assert np.array_equal(np.flip(got, axis), got)


@pytest.mark.parametrize("roughness", [0.03, 0.12, 0.25])
def test_one_generator_is_one_lesion_on_any_grid(roughness):
    fine = grow(15, roughness, (0.5, 0.5, 0.5), rng(4))
    assert np.array_equal(fine, grow(15, roughness, (0.5, 0.5, 0.5), rng(4)))
    assert dice(fine, grow(15, roughness, (0.5, 0.5, 0.5), rng(5))) < 0.95
    coarse = grow(15, roughness, (1.5, 1.5, 6.5), rng(4))
    # A voxel of a thick slice is the majority of its 3 x 3 x 13 fine ones about the same centre.
    blocks = np.array(coarse.shape) * (3, 3, 13)
    room = np.maximum(blocks, fine.shape) // 2
    padded = np.pad(fine, [(int(n), int(n)) for n in room - np.array(fine.shape) // 2])
    cut = padded[
        tuple(slice(r - b // 2, r + b // 2 + 1) for r, b in zip(room, blocks, strict=True))
    ]
    u, v, w = coarse.shape
    majority = cut.reshape(u, 3, v, 3, w, 13).mean((1, 3, 5)) >= 0.5
    assert (majority != coarse).sum() <= 0.03 * coarse.sum()


def test_a_lesion_thinner_than_a_slice_is_one_voxel():
    assert grow(2, 0.1, (3.0, 3.0, 8.0), rng(0)).tolist() == [[[True]]]


def test_the_rougher_the_less_round():
    mm = (1.0, 1.0, 1.0)
    means = [
        np.mean([sphericity(grow(20, r, mm, rng(k)), mm) for k in range(8)])
        for r in (0, 0.04, 0.1, 0.2)
    ]
    assert np.all(np.diff(means) < -0.04)
    assert means[0] == pytest.approx(0.92, abs=0.02)  # what stairs leave of a ball


def test_bad_numbers_are_told():
    for diameter, roughness, mm in ((0, 0.1, 1.0), (np.nan, 0.1, 1.0), (9, -0.1, 1.0), (9, 0, 0.0)):
        with pytest.raises(ValueError, match="must be above 0"):
            grow(diameter, roughness, (1.0, 1.0, mm), rng(0))


def test_a_cluster_grows_on_surfaces_and_depth_is_the_distance_to_it():
    centres, radii = cluster(rng(1), 0.5)
    assert (radii[1:] <= 0.325).all()
    gaps = np.linalg.norm(centres[1:, None] - centres[None], axis=-1) - radii
    assert all(np.abs(gaps[k, : k + 1]).min() < 1e-12 for k in range(len(gaps)))
    one = (np.zeros((1, 3)), np.ones(1))
    x, y, z = np.array([0, 3.0]), np.array([0, 0.5]), np.zeros(1)
    np.testing.assert_allclose(depth([x, y, z], one)[..., 0], [[-1, -0.5], [2, 9.25**0.5 - 1]])
    two = (np.array([[-1.0, 0, 0], [1, 0, 0]]), np.ones(2))
    x = np.array([0.0, 1.0])
    assert depth([x, z, z], two).ravel().tolist() == [0, -1]
    np.testing.assert_allclose(depth([x, z, z], two, 0.2).ravel(), [-0.05, -1])  # blend / 4


# -- sizes


def test_sizes_are_a_log_normal_cut_at_both_ends():
    size = Size(10, 0.5, 6, 20)
    got = np.array([size.draw(g) for g in [rng(0)] for _ in range(2000)])
    steps = np.log(np.array([6, 20]) / 10) / 0.5
    assert stats.kstest(np.log(got / 10) / 0.5, stats.truncnorm(*steps).cdf).pvalue > 0.01
    assert (got.min(), got.max()) == (pytest.approx(6, abs=0.1), pytest.approx(20, abs=0.2))
    less = np.array([size.draw(g, 9) for g in [rng(0)] for _ in range(200)])
    assert 8.8 < less.max() <= 9
    with pytest.raises(ValueError, match="no diameter between"):
        size.draw(rng(0), 5)


def test_the_table_says_what_its_sources_say():
    def share(organ, below_mm):
        size = SIZES[organ]
        return stats.norm.cdf(np.log(below_mm / size.median_mm) / size.spread)

    lung = SIZES["lung"]
    assert lung.median_mm * np.exp(lung.spread**2 / 2) == pytest.approx(7.05, abs=0.05)
    assert share("liver", 10) == pytest.approx(0.316, abs=0.01)
    assert share("liver", 20) == pytest.approx(0.58, abs=0.01)
    assert [share("colon", mm) for mm in (20, 40, 60)] == pytest.approx(
        [0.13, 0.52, 0.82], abs=0.04
    )
    assert all(s.smallest_mm < s.median_mm < s.largest_mm for s in SIZES.values())


def test_an_organ_has_the_row_of_the_nearest_class_above_it():
    assert size_of("lung_upper_lobe_left") == SIZES["lung"]
    assert size_of("kidney_left") == SIZES["kidney"]
    assert size_of("spleen") == size_of("small_bowel") == SIZES["default"]


# -- real lesions


def real_lesions(folder):
    """(mask, spacing) of every piece of every segmented lesion."""
    for name, values in REAL.items():
        labels, affine = label_maps.read(folder / f"{name}.nii.gz")
        mm = tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())
        for value in values:
            parts, _ = ndimage.label(labels == value, np.ones((3, 3, 3)))
            for number, box in enumerate(ndimage.find_objects(parts), 1):
                yield parts[box] == number, mm


@pytest.mark.slow
def test_grown_shapes_are_as_round_as_real_ones(data_dir):
    real, grown = [], []
    for number, (mask, mm) in enumerate(real_lesions(data_dir)):
        real.append(sphericity(mask, mm))
        diameter_mm = (6 / np.pi * mask.sum() * np.prod(mm)) ** (1 / 3)
        for k in range(20):
            g = rng(number, k)
            grown.append(sphericity(grow(diameter_mm, rough(g), mm, g), mm))
    assert len(grown) == 200
    assert min(grown) <= min(real)
    assert max(real) <= max(grown)
    assert np.mean(grown) == pytest.approx(np.mean(real), abs=np.std(real) / len(real) ** 0.5)
    assert stats.ks_2samp(real, grown).pvalue > 0.2


def test_roughness_is_drawn_within_its_range():
    got = [rough(g) for g in [rng(0)] for _ in range(300)]
    assert ROUGHNESS[0] <= min(got) < 0.025
    assert 0.22 < max(got) <= ROUGHNESS[1]
    low, high = np.log(ROUGHNESS)
    assert stats.kstest(np.log(got), stats.uniform(low, high - low).cdf).pvalue > 0.01
