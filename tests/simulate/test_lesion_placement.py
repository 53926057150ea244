"""Lesions in organs: all inside, off borders and vessels, apart, and what cannot be is told."""

import re

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage, stats

from denovox.core.errors import InputError
from denovox.core.labels import BODY, ID, LUNG, NAMES, OUTSIDE, path
from denovox.core.volume import Volume
from denovox.scan.tissue import healthy
from denovox.simulate import lesion_placement, phantom
from denovox.simulate.lesion_placement import GAP_MM, LesionRequest, place
from denovox.simulate.lesion_shapes import SIZES

MM = (1.5, 1.5, 3.0)


def block(shape=(48, 44, 24), mm=MM, margin=6):
    """Liver in a body of fat; the affine turns and moves it."""
    turned = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]) * mm
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turned, (-30, 20, 5)
    labels = np.full(shape, BODY, np.uint8)
    labels[margin:-margin, margin:-margin, margin // 2 : -(margin // 2)] = ID["liver"]
    hu = np.where(labels == ID["liver"], 100, -90) + np.random.default_rng(0).normal(0, 8, shape)
    return Volume(hu.astype(np.float32), affine), labels


def clearance(mask, spacing):
    """mm from each voxel to the nearest one outside of a mask; the scan's end is outside."""
    return ndimage.distance_transform_edt(np.pad(mask, 1), spacing)[1:-1, 1:-1, 1:-1]


def below(labels, organ):
    return np.isin(labels, [number for number, name in enumerate(NAMES) if organ in path(name)])


def largest_told(error):
    return float(re.search(r"the largest that fits is about ([\d.]+) mm", str(error.value))[1])


@pytest.fixture(scope="module")
def chest():
    return phantom.chest(seed=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "organ", ["lung", "lung_lower_lobe_right", "liver", "spleen", "vertebrae", "aorta"]
)
def test_lesions_lie_inside_their_organ_and_apart(chest, organ):
    numbers, placed = place(chest.ct, chest.labels, LesionRequest(organ=organ, count=3), 4)
    inside = healthy(chest.ct, chest.labels, "lung") if organ == "lung" else None
    inside = below(chest.labels, organ) if inside is None else inside
    assert inside[numbers > 0].all()
    assert np.unique(numbers).tolist() == [0, 1, 2, 3]
    for fact in placed:
        own = numbers == fact.number
        assert ndimage.label(own)[1] == 1
        others = (numbers > 0) & ~own
        assert ndimage.distance_transform_edt(~others, chest.ct.spacing_mm)[own].min() > GAP_MM
        assert fact.volume_ml == pytest.approx(own.sum() * 27 / 1000)
        centre = chest.ct.affine @ [*np.argwhere(own).mean(0), 1]
        assert fact.centre_mm == pytest.approx(tuple(centre[:3]))
        assert (fact.organ, fact.seed) == (organ, 4)


def test_facts_are_in_mm_of_a_turned_scan():
    volume, labels = block()
    numbers, (fact,) = place(volume, labels, LesionRequest(organ="liver", diameter_mm=16), 0)
    centre = volume.affine @ [*np.argwhere(numbers == 1).mean(0), 1]
    assert fact.centre_mm == pytest.approx(tuple(centre[:3]))
    assert fact.diameter_mm == 16
    assert fact.volume_ml == pytest.approx(np.pi / 6 * 16**3 / 1000, rel=0.1)


def test_two_mm_off_the_border_where_there_is_room_and_less_where_not():
    volume, labels = block()
    depth = clearance(labels == ID["liver"], MM)
    for seed in range(8):
        numbers, _ = place(volume, labels, LesionRequest(organ="liver", diameter_mm=12), seed)
        assert depth[numbers > 0].min() >= 2
    labels[:, :18] = labels[:, 26:] = BODY  # 8 voxels: room for 12 mm, none to spare
    depth = clearance(labels == ID["liver"], MM)
    least = [
        depth[
            place(volume, labels, LesionRequest(organ="liver", diameter_mm=11.5), seed)[0] > 0
        ].min()
        for seed in range(6)
    ]
    assert min(least) == 1.5


def test_the_end_of_the_scan_is_a_border():
    volume, labels = block()
    labels[:], volume.hu[:] = ID["liver"], 100
    for seed in range(10):
        numbers, _ = place(volume, labels, LesionRequest(organ="liver", diameter_mm=30), seed)
        assert not numbers[0].any()
        assert not numbers[..., -1].any()
        assert clearance(labels > 0, MM)[numbers > 0].min() >= 2


def test_taken_voxels_are_kept_away_from():
    volume, labels = block()
    taken = np.zeros(volume.shape, bool)
    taken[10:30, 10:36, 3:-3] = True
    away = ndimage.distance_transform_edt(~taken, MM)
    for seed in range(6):
        numbers, _ = place(volume, labels, LesionRequest(organ="liver", diameter_mm=8), seed, taken)
        assert away[numbers > 0].min() > GAP_MM
    outside = np.zeros(volume.shape, bool)
    outside[:, :2] = True  # too far to matter
    free, _ = place(volume, labels, LesionRequest(organ="liver", diameter_mm=8), 0)
    again, _ = place(volume, labels, LesionRequest(organ="liver", diameter_mm=8), 0, outside)
    assert np.array_equal(free, again)


def test_vessels_with_contrast_are_kept_off_and_thin_ones_are_not():
    volume, labels = block()
    volume.hu[20:27, 6:-6, 8:14] += 80  # 10 x 18 mm
    thick = np.zeros(volume.shape, bool)
    thick[20:27, 6:-6, 8:14] = True
    for seed in range(10):
        numbers, _ = place(volume, labels, LesionRequest(organ="liver", diameter_mm=14), seed)
        assert not (thick & (numbers > 0)).any()
    thin, _ = block()
    thin.hu[8::6, :, 12] += 80  # 1.5 x 3 mm, 9 mm apart: no room between them
    numbers, _ = place(thin, labels, LesionRequest(organ="liver", diameter_mm=20), 0)
    assert (numbers[8::6, :, 12] > 0).any()


def test_vessels_by_label_and_dense_lung_are_kept_off():
    volume, labels = block(margin=4)
    labels[labels == ID["liver"]] = LUNG
    volume.hu[labels == LUNG] = -850
    volume.hu[20:26] = 40  # what a label calls lung and is none, 9 mm
    labels[34] = ID["pulmonary_vein"]  # closed with the lung's small holes
    assert healthy(volume, labels, "lung")[34, 20, 12]
    for seed in range(8):
        numbers, _ = place(volume, labels, LesionRequest(organ="lung", diameter_mm=9), seed)
        assert not (numbers[20:26] > 0).any()
        assert not (numbers[34] > 0).any()
    vein, _ = place(volume, labels, LesionRequest(organ="pulmonary_vein", diameter_mm=1), 0)
    assert vein[34].any()


def test_small_vessels_that_a_lung_label_leaves_out_may_be_covered():
    volume, labels = block(margin=4)
    labels[labels == ID["liver"]] = LUNG
    volume.hu[labels == LUNG] = -850
    holes = (slice(8, None, 6), slice(None), slice(4, None, 5))
    labels[holes], volume.hu[holes] = BODY, 40  # 9 x 15 mm apart: no room between
    numbers, _ = place(volume, labels, LesionRequest(organ="lung", diameter_mm=20), 0)
    assert (numbers[holes] > 0).any()


def test_liver_and_muscle_are_found_in_coarse_labels():
    volume, _ = block((120, 60, 40), mm=(1.5, 1.5, 3.0))
    labels = np.full(volume.shape, BODY, np.uint8)
    labels[:2] = OUTSIDE
    volume.hu[:] = -100
    volume.hu[66:112, 10:50, 1:39] = 100  # on the patient's right
    numbers, _ = place(volume, labels, LesionRequest(organ="liver", diameter_mm=20), 0)
    assert healthy(volume, labels, "liver")[numbers > 0].all()
    volume.hu[3:20, :, :] = 50
    numbers, _ = place(volume, labels, LesionRequest(organ="muscle", diameter_mm=12), 0)
    assert numbers[3:20].any()


def test_a_seed_says_it_all_and_more_lesions_only_add_some():
    volume, labels = block()
    three, facts = place(volume, labels, LesionRequest(organ="liver", diameter_mm=7, count=3), 5)
    again, _ = place(volume, labels, LesionRequest(organ="liver", diameter_mm=7, count=3), 5)
    two, fewer = place(volume, labels, LesionRequest(organ="liver", diameter_mm=7, count=2), 5)
    other, _ = place(volume, labels, LesionRequest(organ="liver", diameter_mm=7, count=3), 6)
    assert np.array_equal(three, again)
    assert np.array_equal(np.where(three == 3, 0, three), two)
    assert facts[:2] == fewer
    assert not np.array_equal(three, other)


@pytest.mark.slow
def test_every_place_is_as_likely():
    volume, labels = block((90, 9, 9), mm=(2.0, 2.0, 2.0), margin=2)
    ball = LesionRequest(organ="liver", diameter_mm=3)
    where = [place(volume, labels, ball, seed)[1][0].centre_mm[1] for seed in range(40)]
    low = volume.affine[1, 3] + 2 * 3  # its centre is 2 mm (one voxel) off either end
    span = 2 * (90 - 4 - 3)
    assert stats.kstest(where, stats.uniform(low, span).cdf).pvalue > 0.01


def test_a_hard_place_is_found_by_looking_at_all(monkeypatch):
    volume, labels = block((60, 40, 20), margin=2)
    liver = labels == ID["liver"]
    liver[::12] = liver[:, ::10] = False  # cells of 11 x 9 voxels ...
    liver[30:50, 8:30] = True  # ... and one place of 20 x 22
    labels[~liver] = BODY
    numbers, _ = place(volume, labels, LesionRequest(organ="liver", diameter_mm=24), 0)
    assert numbers[30:50, 8:30].any()
    monkeypatch.setattr(lesion_placement, "TRIES", 0)
    for seed in range(5):
        numbers, _ = place(volume, labels, LesionRequest(organ="liver", diameter_mm=24), seed)
        assert liver[numbers > 0].all()


# -- sizes


@pytest.mark.slow
def test_drawn_sizes_are_the_organs_and_fit():
    volume, labels = block()
    sizes = [
        place(volume, labels, LesionRequest(organ="liver"), seed)[1][0].diameter_mm
        for seed in range(24)
    ]
    assert SIZES["liver"].smallest_mm <= min(sizes) < 8
    assert 20 < max(sizes) < 2 * clearance(labels == ID["liver"], MM).max()
    labels[:, :16] = labels[:, 17:] = BODY
    with pytest.raises(InputError, match="a lesion of 4 mm does not fit in liver"):
        place(volume, labels, LesionRequest(organ="liver"), 0)


@pytest.mark.parametrize("mm", [(1.5, 1.5, 3.0), (2.0, 2.0, 2.0), (0.9, 0.9, 5.0)])
def test_the_largest_that_fits_is_told_and_fits(mm):
    volume, labels = block(mm=mm)
    with pytest.raises(InputError, match="a lesion of 300 mm does not fit in liver") as error:
        place(volume, labels, LesionRequest(organ="liver", diameter_mm=300), 0)
    most_mm = largest_told(error)
    numbers, _ = place(volume, labels, LesionRequest(organ="liver", diameter_mm=most_mm), 0)
    assert (labels == ID["liver"])[numbers > 0].all()
    with pytest.raises(InputError, match=f"about {most_mm:g} mm; ask for a smaller one"):
        place(volume, labels, LesionRequest(organ="liver", diameter_mm=most_mm + 1), 0)


def test_no_room_left_is_told_with_what_still_fits():
    volume, labels = block()
    wanted = LesionRequest(organ="liver", diameter_mm=20, count=30)
    with pytest.raises(InputError, match=r"no room left in liver for lesion \d+ of 30") as error:
        place(volume, labels, wanted, 0)
    assert largest_told(error) < 20
    with pytest.raises(InputError, match="nothing fits; name another organ"):
        place(volume, labels, LesionRequest(organ="liver", diameter_mm=5), 0, labels > 0)


# -- what cannot be


@pytest.mark.parametrize(
    ("organ", "told"),
    [
        ("livr", r"'livr' is not a class \(did you mean 'liver'\?\)"),
        ("Lung", r"did you mean 'lung'"),
        ("xyzzy", r"'xyzzy' is not a class; see docs/reference/labels.md"),
        ("outside", "'outside' is not an organ"),
        ("unknown", "'unknown' is not an organ"),
        ("pancreas", "no pancreas was found in the scan"),
        ("lung", "no lung was found in the scan"),
        ("muscle", "no muscle was found in the scan"),
    ],
)
def test_what_is_no_organ_here_is_told(organ, told):
    volume, labels = block()
    labels[labels == BODY] = ID["spleen"]
    with pytest.raises(InputError, match=told):
        place(volume, labels, LesionRequest(organ=organ), 0)


@pytest.mark.parametrize("diameter", [0.0, -3.0, float("nan"), float("inf")])
def test_a_diameter_is_a_size(diameter):
    volume, labels = block()
    with pytest.raises(InputError, match="a lesion's diameter must be above 0 mm"):
        place(volume, labels, LesionRequest(organ="liver", diameter_mm=diameter), 0)


def test_settings_are_checked():
    for wrong in ({"count": 0}, {"count": 256}, {"size": 3}):
        with pytest.raises(ValidationError):
            LesionRequest.model_validate({"organ": "liver", **wrong})
