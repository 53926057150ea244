"""The procedural chest: the same for a seed, right side right, tissues as dense as they are."""

from __future__ import annotations

import tracemalloc
from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from denovox.core import labels as vocabulary
from denovox.core.labels import BODY, ID, LUNG, OUTSIDE
from denovox.core.volume import Volume
from denovox.scan.anatomy import coarse
from denovox.simulate import phantom
from denovox.simulate.phantom import Phantom, add_noise, chest, draw

HU = {  # lower and upper bound of the median well inside
    "lung_upper_lobe_left": (-900, -780),
    "lung_lower_lobe_right": (-880, -760),
    "liver": (45, 130),
    "spleen": (35, 120),
    "heart": (30, 170),
    "aorta": (35, 165),
    "stomach": (10, 50),
    "autochthon_left": (40, 70),
    "trachea": (-1010, -700),
}


@cache
def small(seed: int) -> Phantom:
    return chest((66, 56, 48), 5.0, seed)


@pytest.fixture(scope="module")
def body() -> Phantom:
    return chest(seed=0)


def centre(phantom: Phantom, *names: str) -> np.ndarray:
    """Mean position in mm (x Right, y Anterior, z Superior) of the classes."""
    where = np.argwhere(np.isin(phantom.labels, [ID[name] for name in names]))
    assert where.size, names
    return where.mean(0) @ phantom.ct.affine[:3, :3].T + phantom.ct.affine[:3, 3]


def test_a_seed_is_a_body() -> None:
    one, again, other = small(0), chest((66, 56, 48), 5.0, 0), small(1)
    np.testing.assert_array_equal(one.ct.hu, again.ct.hu)
    np.testing.assert_array_equal(one.labels, again.labels)
    assert (one.labels != other.labels).mean() > 0.02
    assert np.abs(one.ct.hu - other.ct.hu).mean() > 10


def test_grid_is_centred_and_as_asked(body: Phantom) -> None:
    assert body.ct.shape == body.labels.shape == (112, 96, 80)
    assert body.ct.spacing_mm == (3.0, 3.0, 3.0)
    assert body.ct.hu.dtype == np.float32
    corners = body.ct.affine @ np.array([[0, 0, 0, 1], [111, 95, 79, 1]]).T
    np.testing.assert_allclose(corners[:3].sum(1), 0)


def test_labels_are_the_vocabulary(body: Phantom) -> None:
    present = set(np.unique(body.labels).tolist())
    vocabulary.check(present)
    assert vocabulary.UNKNOWN not in present
    assert {BODY, OUTSIDE} <= present
    assert len(present) >= 40
    wanted = [f"vertebrae_T{n}" for n in range(1, 13)]
    wanted += [f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13)]
    assert {ID[name] for name in wanted} <= present


@pytest.mark.parametrize("name", HU)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tissue_density(name: str, seed: int) -> None:
    phantom = small(seed)
    low, high = HU[name]
    assert low < np.median(phantom.ct.hu[phantom.labels == ID[name]]) < high


def test_bone_fat_and_air(body: Phantom) -> None:
    hu, labels = body.ct.hu, body.labels
    assert 150 < np.median(hu[labels == ID["vertebrae_T8"]]) < 450
    assert hu[labels == ID["rib_left_6"]].max() > 350
    depth = ndimage.distance_transform_edt(labels != OUTSIDE, sampling=body.ct.spacing_mm)
    assert -130 < np.median(hu[(depth > 5) & (depth < 8)]) < -70
    room = ndimage.distance_transform_edt(labels == OUTSIDE) > 4
    np.testing.assert_allclose(hu[room], -1000, atol=0.01)


def test_lung_is_denser_at_the_back(body: Phantom) -> None:
    lung = np.isin(body.labels, [n for name, n in ID.items() if name.startswith("lung_")])
    front, back = (np.zeros_like(lung) for _ in range(2))
    front[:, 60:], back[:, :40] = lung[:, 60:], lung[:, :40]
    assert np.median(body.ct.hu[back]) > np.median(body.ct.hu[front]) + 10


@pytest.mark.parametrize("seed", range(3))
def test_left_is_left_and_front_is_front(seed: int) -> None:
    phantom = small(seed)
    x, y, z = 0, 1, 2
    assert centre(phantom, "liver")[x] > 20 > -20 > centre(phantom, "spleen")[x]
    assert centre(phantom, "heart")[x] < -5
    assert centre(phantom, "stomach")[x] < -20
    for pair in ("rib_{}_5", "scapula_{}", "clavicula_{}", "autochthon_{}"):
        left, right = (centre(phantom, pair.format(side))[x] for side in ("left", "right"))
        assert left < -10 < 10 < right
    assert (
        centre(phantom, "lung_upper_lobe_left")[x]
        < 0
        < centre(phantom, "lung_middle_lobe_right")[x]
    )
    assert centre(phantom, "vertebrae_T8")[y] < centre(phantom, "heart")[y] - 30
    assert centre(phantom, "sternum")[y] > centre(phantom, "heart")[y] + 20
    assert centre(phantom, "spinal_cord")[y] < centre(phantom, "vertebrae_T8")[y]
    heights = [centre(phantom, f"vertebrae_T{n}")[z] for n in range(1, 13)]
    assert (np.diff(heights) < -10).all()


@pytest.mark.parametrize("seed", range(4))
def test_room_encloses_the_body(seed: int) -> None:
    labels = small(seed).labels
    for face in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        assert (face == OUTSIDE).all()
    room, count = ndimage.label(labels == OUTSIDE)
    assert count == 1, np.bincount(room.ravel())


def test_the_same_body_at_another_spacing(body: Phantom) -> None:
    other = chest((56, 48, 80), (6.0, 6.0, 3.0), seed=0)
    again = other.labels.repeat(2, 0).repeat(2, 1)
    assert (again == body.labels).mean() > 0.9
    lung = ID["lung_lower_lobe_right"]
    sizes = [(p.labels == lung).sum() * np.prod(p.ct.spacing_mm) for p in (body, other)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.03)


def test_thin_and_odd_grids_work() -> None:
    assert chest((7, 50, 3), (40.0, 5.0, 2.0)).labels.shape == (7, 50, 3)
    with pytest.raises(ValueError, match="positive"):
        chest((0, 5, 5))
    with pytest.raises(ValueError, match="positive"):
        chest((5, 5, 5), (1.0, -1.0, 1.0))


def test_single_slice_is_a_slice_of_the_body() -> None:
    whole, one = chest((60, 50, 41), 5.0), chest((60, 50, 1), 5.0)
    np.testing.assert_array_equal(whole.labels[:, :, 20:21], one.labels)


def test_painting_in_slabs_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def bodies() -> list[Phantom]:
        return [draw("abdomen", (30, 26, 20), (15.0, 14.0, 16.0), 3), chest((30, 26, 20), 11.0, 1)]

    whole = bodies()
    monkeypatch.setattr(phantom, "SLAB", 9 * 30 * 22)
    for one, of in zip(bodies(), whole, strict=True):
        np.testing.assert_array_equal(one.labels, of.labels)
        np.testing.assert_array_equal(one.ct.hu, of.ct.hu)


def test_a_body_takes_little_more_memory_than_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom, "SLAB", 2**17)
    tracemalloc.start()
    try:
        draw("chest", (100, 80, 80), 4.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * 100 * 80 * 80 + 80 * 2**17  # with a slab; all of it at once took 75 a voxel


@pytest.mark.slow
def test_thresholds_find_what_was_painted(body: Phantom) -> None:
    found = coarse(body.ct)
    painted = np.isin(body.labels, [n for name, n in ID.items() if name.startswith("lung_")])
    both = ((found == LUNG) & painted).sum()
    assert 2 * both / ((found == LUNG).sum() + painted.sum()) > 0.9


def test_noise_has_the_asked_deviation_and_seed() -> None:
    flat = Volume(np.full((40, 40, 40), 50.0), np.eye(4))
    noisy = add_noise(flat, 25.0, seed=3)
    assert noisy.hu.dtype == np.float32
    assert noisy.hu.std() == pytest.approx(25, rel=0.02)
    assert noisy.hu.mean() == pytest.approx(50, abs=0.5)
    np.testing.assert_array_equal(noisy.hu, add_noise(flat, 25.0, seed=3).hu)
    assert (noisy.hu != add_noise(flat, 25.0, seed=4).hu).mean() > 0.99
    np.testing.assert_array_equal(add_noise(flat, 0.0, seed=3).hu, flat.hu)
    with pytest.raises(ValueError, match="negative"):
        add_noise(flat, -1.0, seed=0)
