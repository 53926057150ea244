"""How dense lesions are asked to be: ranges, windows, and what cannot be."""

from dataclasses import replace

import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.simulate.lesion_density import DensityRequest, Site, target_hu

LUNG = Site("lesion 1", "lung_upper_lobe_left", -850.0, 12.0, "chest")
LIVER = Site("lesion 2", "liver", 110.0, 12.0, "abdomen")


def drawn(site, **request):
    rng = np.random.default_rng(0)
    return np.array([target_hu(DensityRequest(**request), site, rng) for _ in range(200)])


@pytest.mark.parametrize(
    ("site", "request_", "ranges"),
    [
        (LUNG, {}, [(-20, 50)]),
        (LUNG, {"density": "solid"}, [(-20, 50)]),
        (LUNG, {"density": "ground-glass"}, [(-750, -450)]),
        (LUNG, {"density": "part-solid"}, [(-750, -450), (-160, 50)]),
        (replace(LUNG, organ=None), {"density": "solid"}, [(-20, 50)]),  # air around a mask
        (LIVER, {}, [(30, 90)]),
        (replace(LIVER, organ="pancreas"), {}, [(7, 63)]),
        (replace(LIVER, organ=None), {}, [(7, 63)]),
    ],
)
def test_hu_are_drawn_from_the_range_of_the_organ(site, request_, ranges):
    hu = drawn(site, **request_)
    assert hu.shape == (200, len(ranges))
    for column, (least, most) in zip(hu.T, ranges, strict=True):
        assert least <= column.min()
        assert column.max() <= most
        assert np.ptp(column) > 0.6 * (most - least)


def test_a_contrast_is_a_difference_from_the_organ():
    assert (drawn(LIVER, contrast_hu=-40) == 70).all()
    assert (drawn(LUNG, contrast_hu=200) == -650).all()


def test_hu_that_nobody_asked_for_stay_in_the_window():
    assert (drawn(replace(LIVER, organ_hu=400)) == 240).all()  # the abdomen's window ends there


@pytest.mark.parametrize(
    ("site", "request_", "says"),
    [
        (LUNG, {"density": "solid", "contrast_hu": 10.0}, "a density or a contrast, but not both"),
        (LUNG, {"contrast_hu": float("nan")}, "nan HU is not a number"),
        (LIVER, {"density": "solid"}, "of the lung, but lesion 2 is in the liver; give a contrast"),
        (replace(LIVER, organ=None), {"density": "solid"}, "lesion 2 has 110 HU around it"),
        (LIVER, {"contrast_hu": 200}, r"means 310 HU for lesion 2, outside -120 to 240 HU"),
        (replace(LUNG, region="abdomen"), {"density": "ground-glass"}, "window of the abdomen"),
        (replace(LUNG, diameter_mm=5), {"density": "part-solid"}, "5 mm, a part-solid one 6 mm"),
    ],
)
def test_what_cannot_be_is_one_sentence(site, request_, says):
    with pytest.raises(InputError, match=says):
        drawn(site, **request_)
