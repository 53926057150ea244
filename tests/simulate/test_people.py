"""Phantoms of all regions: each seed another person, with organs as large as people's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from denovox.core.labels import ID, NAMES, OUTSIDE, UNKNOWN
from denovox.scan.label_regions import label_spans, require_one_body
from denovox.simulate.phantom import Phantom, classes, draw, view
from denovox.simulate.phantoms.organs import build, organs, tables, volumes

REGIONS = ("chest", "abdomen", "headneck")
SEEDS, MM = 20, 8.0
LOBES = {
    side: [ID[name] for name in NAMES if name.startswith("lung_") and name.endswith(side)]
    for side in ("left", "right")
}
PARTS = {  # of [volume]: the labels that it is the sum of
    "lungs": LOBES["left"] + LOBES["right"],
    "mandible": [ID["bone"]],
    "glands": [ID["gland"]],
}


@dataclass(frozen=True)
class Facts:
    """About one person. ml: by label; x: mean position of a label along x, mm."""

    ml: np.ndarray
    x: np.ndarray
    bodies: int
    at_sides: bool
    regions: set[str]


@cache
def people(region: str) -> list[Facts]:
    """20 of them, drawn once for all tests."""
    return [facts(draw(region, None, MM, seed)) for seed in range(SEEDS)]


def facts(phantom: Phantom) -> Facts:
    ids = phantom.labels
    require_one_body(ids, phantom.ct.spacing_mm)
    x = phantom.ct.affine[0, 3] + MM * np.arange(ids.shape[0])
    count = np.bincount(ids.ravel(), minlength=256)
    total = np.bincount(ids.ravel(), np.broadcast_to(x[:, None, None], ids.shape).ravel(), 256)
    inside = ids != OUTSIDE
    sides = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
    return Facts(
        ml=count * MM**3 / 1e3,
        x=total / np.maximum(count, 1),
        bodies=ndimage.label(inside, np.ones((3, 3, 3)))[1],
        at_sides=any(face.any() for face in sides),
        regions={span.region for span in label_spans(ids, MM)},
    )


def table(region: str) -> set[str]:
    """Labels of the organs that a view is about."""
    lists = ["upper"] if region == "chest" else tables()["region"][region]["tables"]
    return {label for name in lists for one in organs(name) for _, label, _ in one.sides()}


@pytest.mark.slow
@pytest.mark.parametrize("region", REGIONS)
def test_organs_are_there_and_as_large_as_in_people(region: str) -> None:
    every = people(region)
    for label in table(region):
        assert np.mean([one.ml[ID[label]] > 0 for one in every]) >= 0.95, label
    for name in tables()["region"][region]["whole"]:
        mean, sd = volumes()[name]
        ml = np.array([one.ml[PARTS.get(name, [ID.get(name, 0)])].sum() for one in every])
        assert (np.abs(ml - mean) < 3 * sd).all(), (name, ml)
        assert abs(ml.mean() - mean) < sd, (name, ml.mean())
        assert ml.std() > 0.05 * mean, (name, ml.std())


@pytest.mark.slow
@pytest.mark.parametrize("region", REGIONS)
def test_one_body_within_view_and_all_labels_foreseen(region: str) -> None:
    for one in people(region):
        assert one.bodies == 1
        assert not one.at_sides
        assert region in one.regions
        assert one.ml[UNKNOWN] == 0
        assert set(np.flatnonzero(one.ml)) <= classes(region)


@pytest.mark.slow
def test_left_is_left() -> None:
    for one in people("chest"):
        left, right = (
            (one.ml[lobes] * one.x[lobes]).sum() / one.ml[lobes].sum() for lobes in LOBES.values()
        )
        assert left + 40 < one.x[ID["vertebrae_T8"]] < right - 40
    for one in people("abdomen"):
        assert one.x[ID["spleen"]] < one.x[ID["vertebrae_L2"]] - 30
        assert one.x[ID["liver"]] > one.x[ID["vertebrae_L2"]] + 20
        for name in ("kidney", "femur", "hip", "iliopsoas", "adrenal_gland"):
            assert one.x[ID[f"{name}_left"]] < one.x[ID[f"{name}_right"]] - 20
    for one in people("headneck"):
        assert one.x[ID["humerus_left"]] < -100 < 100 < one.x[ID["humerus_right"]]


@pytest.mark.parametrize("region", REGIONS)
def test_a_seed_is_a_person(region: str) -> None:
    grid = (40, 30, 24)
    one, again, other = (draw(region, grid, 12.0, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.labels, again.labels)
    np.testing.assert_array_equal(one.ct.hu, again.ct.hu)
    assert one.ct.shape == grid
    inside = (one.labels != OUTSIDE) | (other.labels != OUTSIDE)
    assert (one.labels != other.labels)[inside].mean() > 0.15
    assert build(region).stretch != build(region, np.random.default_rng(0)).stretch


def test_the_same_person_at_another_spacing() -> None:
    fine, coarse = (draw("abdomen", (n, n * 3 // 4, n), mm, 5) for n, mm in ((96, 4.5), (48, 9.0)))
    assert (coarse.labels.repeat(2, 0).repeat(2, 1).repeat(2, 2) == fine.labels).mean() > 0.91
    liver = [
        (one.labels == ID["liver"]).sum() * np.prod(one.ct.spacing_mm) for one in (fine, coarse)
    ]
    assert liver[0] == pytest.approx(liver[1], rel=0.05)


@pytest.mark.parametrize(
    ("region", "label", "low", "high"),
    [
        ("chest", "lung_lower_lobe_left", -900, -740),
        ("abdomen", "liver", 30, 130),
        ("abdomen", "kidney_left", 10, 190),
        ("abdomen", "hip_right", 150, 500),
        ("headneck", "brain", 25, 50),
        ("headneck", "skull", 300, 1000),
    ],
)
def test_tissues_have_their_hu(region: str, label: str, low: float, high: float) -> None:
    phantom = draw(region, view(region, 8.0), 8.0, 1)
    assert low < np.median(phantom.ct.hu[phantom.labels == ID[label]]) < high
    room = ndimage.distance_transform_edt(phantom.labels == OUTSIDE) > 4
    np.testing.assert_allclose(phantom.ct.hu[room], -1000, atol=0.01)


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="positive"):
        draw("chest", (0, 5, 5), 3.0)
    with pytest.raises(KeyError):
        draw("knee")
    assert draw("abdomen", (7, 50, 1), (40.0, 5.0, 2.0)).labels.shape == (7, 50, 1)
