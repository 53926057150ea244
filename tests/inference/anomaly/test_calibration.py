"""Calibration: sums that add up, z-scores that are standard normal on what they came from."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from denovox.core.box import Box
from denovox.core.errors import InputError
from denovox.core.labels import BODY, BONE, LUNG, OUTSIDE
from denovox.core.volume import Volume
from denovox.inference.anomaly.calibration import (
    CLASSES,
    PRIOR_ML,
    AnomalyMethod,
    body_box,
    bundled,
    classes_of,
    empty,
    measured,
    merge,
    places_of,
    read,
    write,
)
from denovox.model.weights import describe, locate

SHAPE = (24, 20, 16)
VOXEL_ML = 1.0
LIKE = empty("chest", AnomalyMethod(), "w")


def scan(seed, shape=SHAPE):
    """Two maps, correlated, whose mean and covariance depend on class and place; its cells."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, shape).astype(np.uint8)
    places = rng.integers(0, 8, shape).astype(np.uint8)
    first, second = rng.standard_normal((2, *shape))
    one = (classes + 0.5 * places) + (1 + classes + places) * first
    other = -classes + (1 + places) * (0.6 * first + 0.8 * second)
    return np.stack([one, other], -1).astype(np.float32), classes, places


def of(seed, voxel_ml=VOXEL_ML, keep=None):
    hu, classes, places = scan(seed)
    keep = np.ones(SHAPE, bool) if keep is None else keep
    return measured(hu, classes, places, keep, voxel_ml, LIKE)


def test_with_much_volume_mean_and_covariance_are_the_cells_own():
    hu, classes, places = scan(0)
    mean, covariance = measured(hu, classes, places, np.ones(SHAPE, bool), 1e5, LIKE).moments()
    for a in range(3):
        for b in range(8):
            own = hu[(classes == a) & (places == b)].astype(float)
            np.testing.assert_allclose(mean[a, b], own.mean(0), rtol=1e-3, atol=1e-3)
            want = np.cov(own.T, bias=True) + 0.25 * np.eye(2)
            np.testing.assert_allclose(covariance[a, b], want, rtol=1e-3, atol=1e-3)


def test_healthy_z_scores_have_an_rms_of_1_in_every_cell():
    calibration = merge([of(seed, 100.0) for seed in range(4)])
    hu, classes, places = scan(9)
    z = calibration.z(hu, classes, places)
    assert np.sqrt(np.square(z).mean()) == pytest.approx(1, abs=0.05)
    for b in (0, 7):
        own = z[(classes == 1) & (places == b)]
        assert np.sqrt(np.square(own).mean()) == pytest.approx(1, abs=0.15)
        assert abs(np.sign(own).mean()) < 0.2


def test_the_distance_is_mahalanobis_and_its_sign_the_first_maps(monkeypatch):
    monkeypatch.setattr("denovox.inference.anomaly.calibration.MOST_RESIDUAL", 99.0)
    hu, classes, places = scan(0)
    calibration = measured(hu, classes, places, np.ones(SHAPE, bool), 10.0, LIKE)
    mean, covariance = calibration.moments()
    z = calibration.z(hu, classes, places)
    for at in [(0, 0, 0), (5, 7, 3), (23, 19, 15)]:
        cell = classes[at], places[at]
        want = mahalanobis(hu[at], mean[cell], np.linalg.inv(covariance[cell]))
        assert abs(z[at]) == pytest.approx(want / np.sqrt(2), rel=1e-4)
        assert np.sign(z[at]) == np.sign(hu[at][0] - mean[cell][0])


def test_the_residual_counts_for_two_sd_at_most_and_the_contrast_for_all():
    hu, classes, places = scan(0)
    calibration = measured(hu, classes, places, np.ones(SHAPE, bool), 10.0, LIKE)
    mean, covariance = (each[0, 0] for each in calibration.moments())
    slope = covariance[0, 1] / covariance[0, 0]
    sd = np.sqrt(covariance[0, 0]), np.sqrt(covariance[1, 1] - slope * covariance[0, 1])
    at = np.zeros((1, 1, 6, 2), np.float32)
    contrasts, residuals = (np.array(each) for each in ((0, 0, 0, 9, 9, 1), (1, 2, 50, 0, -50, -1)))
    at[0, 0, :, 0] = mean[0] + sd[0] * contrasts
    at[0, 0, :, 1] = mean[1] + slope * sd[0] * contrasts + sd[1] * residuals
    none = np.zeros((1, 1, 6), np.uint8)
    want = np.sqrt((0.5, 2, 2, 81 / 2, 85 / 2, 1))
    np.testing.assert_allclose(np.abs(calibration.z(at, none, none))[0, 0], want, rtol=1e-4)


def test_a_map_that_says_nothing_leaves_the_other_a_z_score():
    hu, classes, places = scan(0)
    hu[..., 1] = 0
    calibration = measured(hu, classes, places, np.ones(SHAPE, bool), 1e5, LIKE)
    mean, covariance = calibration.moments()
    own = (hu[..., 0] - mean[classes, places, 0]) / np.sqrt(covariance[classes, places, 0, 0])
    np.testing.assert_allclose(calibration.z(hu, classes, places), own / np.sqrt(2), atol=1e-4)


def test_a_cell_never_seen_leans_on_its_class_and_a_class_on_all():
    hu, classes, places = scan(0)
    keep = places != 5
    mean, covariance = measured(hu, classes, places, keep, 1e4, LIKE).moments()
    own = hu[keep & (classes == 2)].astype(float)
    np.testing.assert_allclose(mean[2, 5], own.mean(0), rtol=1e-3, atol=1e-3)
    want = np.cov(own.T, bias=True) + 0.25 * np.eye(2)
    np.testing.assert_allclose(covariance[2, 5], want, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(mean[CLASSES - 1, 0], hu[keep].mean(0), rtol=1e-3, atol=1e-3)


def test_shrinkage_is_pseudo_counts():
    classes, places = (np.zeros((2, 1, 1), np.uint8) for _ in range(2))
    classes[1], places[1] = 0, 1
    hu = np.array([[10.0, 1.0], [4.0, 1.0]], np.float32).reshape(2, 1, 1, 2)
    made = measured(hu, classes, places, np.ones((2, 1, 1), bool), PRIOR_ML, LIKE)
    # Class and total have the mean 7; each cell is joined with as much of it as it has itself.
    assert made.moments()[0][0, :3, 0] == pytest.approx([8.5, 5.5, 7])
    assert made.moments()[0][0, :3, 1] == pytest.approx([1, 1, 1])


def test_merging_is_the_same_as_seeing_all_at_once():
    parts = [scan(seed) for seed in range(3)]
    hu, classes, places = (np.concatenate(each) for each in zip(*parts, strict=True))
    once = measured(hu, classes, places, np.ones(classes.shape, bool), VOXEL_ML, LIKE)
    merged = merge([of(seed) for seed in range(3)])
    assert merged.scans == 3
    for got, want in zip(merged.moments(), once.moments(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    twice = merge([merge([of(0), of(1)]), of(2)])
    np.testing.assert_allclose(twice.products, merged.products, rtol=1e-12)
    assert twice.scans == 3


def test_only_kept_voxels_count():
    keep = np.zeros(SHAPE, bool)
    keep[:5] = True
    assert sum(of(0, 2.0, keep).millilitres) == pytest.approx(2 * keep.sum())


def test_calibrations_of_two_kinds_are_not_merged():
    for change in (
        {"region": "abdomen"},
        {"method": AnomalyMethod(sigma_star=2)},
        {"weights": "v"},
    ):
        with pytest.raises(InputError, match=rf"different kinds.*{next(iter(change))} is"):
            merge([of(0), of(1).model_copy(update=change)])
    with pytest.raises(InputError, match="no calibration to merge"):
        merge([])


def test_to_json_and_back(tmp_path):
    made = of(0)
    write(made, tmp_path / "c.json")
    assert read(tmp_path / "c.json") == made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("{}", "is not a calibration"),
        ("\x00", "is not a calibration"),
        (b"\xff\xfe", "is not a calibration"),
        (
            LIKE.model_copy(update={"sums": (1.0,)}).model_dump_json(),
            "sums has 1 number",
        ),
        (
            LIKE.model_copy(update={"layout": 1}).model_dump_json(),
            "earlier version of denovox.*create it again with denovox calibrate",
        ),
        (LIKE.model_dump_json(exclude={"layout"}), "earlier version of denovox"),
    ],
)
def test_bad_files_are_told(tmp_path, text, said):
    file = tmp_path / "c.json"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=said):
        read(file)


def test_a_folder_cannot_be_written(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder could not be written"):
        write(of(0), tmp_path / "folder")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_bundled_ones_are_one_a_region_and_for_one_model():
    found = bundled()
    assert {each.region for each in found} <= {"headneck", "chest", "abdomen"}
    assert len({each.region for each in found}) == len(found) > 0
    assert {each.weights for each in found} == {describe(locate("base"))[2]}


def test_a_patient_is_left_out_of_the_bundled_ones(tmp_path):
    parts = {name: of(seed).model_copy(update={"patient": name}) for seed, name in enumerate("abc")}
    for name, part in parts.items():
        write(part, tmp_path / f"chest-{name}.json")
    write(of(3).model_copy(update={"region": "abdomen", "patient": "b"}), tmp_path / "d.json")
    assert [(each.region, each.scans) for each in bundled(folder=tmp_path)] == [
        ("chest", 3),
        ("abdomen", 1),
    ]
    (others,) = bundled("b", tmp_path)
    assert (others.region, others.patient) == ("chest", "")
    assert others.sums == merge([parts["a"], parts["c"]]).sums
    assert [each.scans for each in bundled("nobody", tmp_path)] == [3, 1]
    assert merge([parts["a"], parts["a"]]).patient == "a"


def test_nothing_seen_is_told():
    with pytest.raises(InputError, match="contains no voxels"):
        LIKE.moments()


def test_classes_are_tissues_and_their_rims():
    coarse = np.full((60, 20, 20), BODY, np.uint8)
    hu = np.full(coarse.shape, 50.0, np.float32)
    parts = {(0, 10): OUTSIDE, (10, 20): LUNG, (40, 50): BONE}
    for (first, last), label in parts.items():
        coarse[first:last] = label
    hu[20:30] = -100  # fat
    hu[50:] = -900  # gas in the body
    airy = coarse == LUNG
    got = classes_of(Volume(hu, np.diag([2.0, 2.0, 2.0, 1.0])), coarse, airy)
    insides = [got[x, 10, 10] for x in (3, 15, 25, 35, 45, 55)]
    assert insides == [0, 4, 6, 8, 10, 2]  # outside, lung, fat, soft, bone, gas
    assert got[35, 10, 10] + 1 == got[38, 10, 10]  # 4 mm from bone
    assert got.max() < CLASSES
    # A nodule, dense in the estimate and no lung in the label map, is compared with lung.
    coarse[14:17, 8:12, 8:12] = BODY
    assert np.array_equal(classes_of(Volume(hu, np.diag([2.0, 2.0, 2.0, 1.0])), coarse, airy), got)


def test_places_are_parts_of_the_bodys_box():
    coarse = np.full((20, 20, 10), OUTSIDE, np.uint8)
    coarse[4:16, 8:12] = BODY
    places = places_of(body_box(coarse), Box((0, 0, 0), coarse.shape), (2, 2, 2))
    part = places_of(body_box(coarse), Box((5, 3, 2), (9, 8, 4)), (2, 2, 2))
    assert np.array_equal(part, places[5:14, 3:11, 2:6])
    assert places[4, 8, 0] == 0
    assert places[9, 9, 4] == 0
    assert places[10, 9, 4] == 4
    assert places[9, 10, 4] == 2
    assert places[9, 9, 5] == 1
    assert places[0, 0, 0] == 0
    assert places[19, 19, 9] == 7
