"""Planted lesions: size, contrast, edge and place are what was asked for."""

import numpy as np
import pytest
from pydantic import ValidationError

from denovox.core.errors import InputError
from denovox.core.labels import BODY, BONE, ID, LUNG, OUTSIDE
from denovox.core.volume import Volume
from denovox.scan.tissue import healthy
from denovox.simulate.planted_lesions import Lesions, plant

MM = (1.5, 1.5, 3.0)
PLAIN = Lesions(tissues=("liver",), shapes=("sphere",), diameter_mm=(18, 18), texture=0)


def liver(shape=(60, 60, 30), hu=90.0, mm=MM):
    """A scan that is liver all through, and its labels."""
    affine = np.diag([*mm, 1.0])
    affine[:3, 3] = (-30, 20, 5)
    return Volume(np.full(shape, hu, np.float32), affine), np.full(shape, ID["liver"], np.uint8)


@pytest.mark.parametrize("shape", ["sphere", "grown"])
@pytest.mark.parametrize("mm", [(1.5, 1.5, 3.0), (1.0, 1.0, 1.0), (0.8, 0.8, 5.0)])
def test_volume_is_that_of_the_ball_asked_for(shape, mm):
    volume, labels = liver(tuple(round(90 / each) for each in mm), mm=mm)
    config = PLAIN.model_copy(update={"shapes": (shape,)})
    got, numbers, (fact,) = plant(volume, labels, config, 3)
    asked = 4 / 3 * np.pi * 9**3 / 1000
    step = (got.hu - volume.hu).sum() * np.prod(mm) / 1000 / fact.contrast_hu
    assert step == pytest.approx(asked, rel=0.06)  # partial volume included
    assert (numbers == 1).sum() * np.prod(mm) / 1000 == pytest.approx(asked, rel=0.1)
    assert fact.volume_ml == pytest.approx((numbers == 1).sum() * np.prod(mm) / 1000)
    assert fact.shape == shape


def test_the_middle_has_the_contrast_and_the_edge_is_soft():
    volume, labels = liver()
    got, numbers, (fact,) = plant(volume, labels, PLAIN, 0)
    added = (got.hu - volume.hu) / fact.contrast_hu
    index = np.linalg.inv(volume.affine) @ [*fact.centre_mm, 1]
    centre = index[:3]
    away = np.linalg.norm((np.argwhere(np.ones(volume.shape)) - centre) * MM, axis=1)
    away = away.reshape(volume.shape)
    assert 40 <= abs(fact.contrast_hu) <= 150
    np.testing.assert_allclose(added[away < 6], 1, atol=1e-5)
    assert not added[away > 12].any()
    between = added[(away > 8) & (away < 10)]
    assert ((between > 0.05) & (between < 0.95)).mean() > 0.5
    assert (added[numbers == 1] >= 0.5 - 1e-5).all()
    assert (added[numbers == 0] < 0.5).all()


def test_outside_of_lesions_nothing_changes_and_the_input_stays():
    volume, labels = liver()
    before = volume.hu.copy()
    got, numbers, facts = plant(volume, labels, PLAIN.model_copy(update={"number": 2}), 1)
    assert np.array_equal(volume.hu, before)
    assert len(facts) == 2
    assert set(np.unique(numbers)) == {0, 1, 2}
    far = got.hu == volume.hu
    assert far.mean() > 0.7


def test_texture_of_the_scan_stays_and_the_lesion_has_one_of_its_own():
    volume, labels = liver((60, 60, 30))
    noise = np.random.default_rng(0).normal(0, 10, volume.shape).astype(np.float32)
    noisy = volume.with_hu(volume.hu + noise)
    got, numbers, _ = plant(noisy, labels, PLAIN, 0)
    clean, _, _ = plant(volume, labels, PLAIN, 0)
    np.testing.assert_allclose(got.hu - noise, clean.hu, atol=1e-3)
    config = PLAIN.model_copy(update={"texture": 0.2})
    own, _, (fact,) = plant(volume, labels, config, 0)
    inside = (own.hu - clean.hu)[numbers == 1] / fact.contrast_hu
    assert 0.1 < inside.std() < 0.3


def test_signs_of_the_contrast_are_those_asked_for():
    volume, labels = liver()
    for signs in ((-1,), (1,)):
        config = PLAIN.model_copy(update={"signs": signs})
        drawn = [plant(volume, labels, config, seed)[2][0].contrast_hu for seed in range(4)]
        assert set(np.sign(drawn)) == set(signs)
    both = [plant(volume, labels, PLAIN, seed)[2][0].contrast_hu for seed in range(8)]
    assert set(np.sign(both)) == {-1, 1}
    for wrong in ((), (0,)):
        with pytest.raises(ValidationError):
            Lesions.model_validate({"signs": wrong})


def test_same_seed_same_lesions():
    volume, labels = liver()
    config = PLAIN.model_copy(update={"shapes": ("grown",), "texture": 0.2})
    one, again, other = (plant(volume, labels, config, seed)[0].hu for seed in (5, 5, 6))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_lesion_stays_in_its_organ_and_lesions_stay_apart():
    volume, labels = liver()
    labels[:, 30:] = BODY
    config = PLAIN.model_copy(update={"number": 4, "shapes": ("grown",), "diameter_mm": (8, 12)})
    for seed in range(8):
        got, numbers, _ = plant(volume, labels, config, seed)
        assert np.array_equal(got.hu[:, 30:], volume.hu[:, 30:])
    for number in range(1, 5):
        own, others = numbers == number, (numbers != 0) & (numbers != number)
        grown = np.argwhere(own)[:, None] - np.argwhere(others)[None]
        assert np.linalg.norm(grown * MM, axis=2).min() > 8


def test_what_does_not_fit_is_made_smaller_and_what_never_fits_is_told():
    volume, labels = liver()
    thin = np.full_like(labels, BODY)
    thin[20:28] = ID["liver"]  # 12 mm
    _, _, (fact,) = plant(volume, thin, PLAIN.model_copy(update={"diameter_mm": (6, 30)}), 0)
    assert 6 <= fact.diameter_mm <= 13.5
    with pytest.raises(InputError, match="no room for a lesion of 18 mm in healthy liver"):
        plant(volume, thin, PLAIN, 0)
    with pytest.raises(InputError, match="healthy lung"):
        plant(volume, labels, Lesions(tissues=("lung",)), 0)


def test_lung_is_the_label_with_its_small_vessels():
    volume, labels = liver()
    labels[:] = BODY
    labels[10:50, 10:50, 4:26] = LUNG
    labels[30, 30, 4:26] = BODY  # a vessel 1.5 mm wide
    found = healthy(volume, labels, "lung")
    assert found[30, 30, 10]
    assert not found[5, 5, 2]


def test_liver_by_hu_is_the_large_piece_on_the_right_and_not_what_a_thin_bridge_joins():
    volume, labels = liver((120, 60, 40), hu=-100.0)
    labels[:] = BODY
    volume.hu[70:102, 10:50, 1:39] = 100  # on the patient's right: x grows to the right
    volume.hu[5:45, 5:55, 1:39] = 100  # larger, on the left
    volume.hu[45:70, 20:40, 8:30] = 100  # broad: one piece with the left, which is cut off
    volume.hu[102:112, 26:34, 13:18] = 100  # a thin bridge
    volume.hu[112:120, 20:40, 10:25] = 100  # to a neighbour
    found = healthy(volume, labels, "liver")
    assert found[90, 30, 20]
    assert not found[:50].any()
    assert not found[113:].any()


def test_muscle_by_hu_lies_near_skin_or_bone():
    volume, labels = liver((80, 80, 20), hu=50.0)
    labels[:] = BODY
    labels[:3] = OUTSIDE
    found = healthy(volume, labels, "muscle")
    assert found[10, 40, 10]
    assert not found[60, 40, 10]
    labels[60, 40, 10] = BONE
    assert healthy(volume, labels, "muscle")[62, 40, 10]


def test_lesions_in_air_do_not_fall_below_air():
    volume, labels = liver(hu=-950.0)
    labels[:] = LUNG
    config = PLAIN.model_copy(update={"tissues": ("lung",), "contrast_hu": (150, 150)})
    lows = [plant(volume, labels, config, seed)[0].hu.min() for seed in range(6)]
    assert min(lows) == -1000
