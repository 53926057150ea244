"""What a label map by itself says about regions and bodies."""

from __future__ import annotations

import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.core.labels import BODY, ID, LUNG, OUTSIDE
from denovox.scan.label_regions import label_spans, require_one_body

MM = (4.0, 4.0, 5.0)


def tower(**organs: tuple[int, int]) -> np.ndarray:
    """A body of 60 slices with organs at these slices."""
    ids = np.full((20, 16, 60), OUTSIDE, np.uint8)
    ids[4:16, 3:13] = BODY
    for name, (low, high) in organs.items():
        ids[6:12, 5:10, low:high] = ID[name]
    return ids


def spans(ids: np.ndarray, z_mm: float = 5.0) -> list[tuple[str, int, int]]:
    return [(span.region, span.start, span.stop) for span in label_spans(ids, z_mm)]


def test_the_chest_is_where_lung_is():
    ids = tower(liver=(10, 22), lung=(20, 45), brain=(52, 60))
    assert spans(ids) == [("abdomen", 0, 20), ("chest", 20, 45), ("headneck", 45, 60)]


def test_lobes_are_lung():
    ids = tower(lung_upper_lobe_left=(20, 45))
    assert spans(ids) == [("abdomen", 0, 20), ("chest", 20, 45), ("headneck", 45, 60)]


def test_what_is_thinner_than_30_mm_belongs_to_the_chest():
    assert spans(tower(lung=(5, 55))) == [("chest", 0, 60)]
    assert spans(tower(lung=(6, 54))) == [("abdomen", 0, 6), ("chest", 6, 54), ("headneck", 54, 60)]
    assert spans(tower(lung=(6, 54)), 4.9) == [("chest", 0, 60)]


@pytest.mark.parametrize(
    ("organ", "region"),
    [("liver", "abdomen"), ("kidney_left", "abdomen"), ("brain", "headneck"),
     ("vertebrae_C3", "headneck"), ("hip_left", "abdomen")],
)  # fmt: skip
def test_without_lung_an_organ_decides(organ, region):
    assert spans(tower(**{organ: (20, 30)})) == [(region, 0, 60)]


def test_where_labels_do_not_determine_the_region_it_has_to_be_given():
    with pytest.raises(InputError, match="no lung and no organ of the head, neck or abdomen"):
        label_spans(tower(bone=(10, 50)), 5.0)
    with pytest.raises(InputError, match="but no lung, so the borders of the chest"):
        label_spans(tower(liver=(0, 20), brain=(45, 60)), 5.0)


def test_a_body_with_arms_is_one_body():
    ids = tower(lung=(20, 45))
    ids[0:2, 5:9] = BODY
    ids[18:20, 5:9] = BODY
    require_one_body(ids, MM)


@pytest.mark.parametrize("spacing", [MM, (1.0, 1.0, 1.0), (6.0, 6.0, 6.0)])
@pytest.mark.parametrize("background", [OUTSIDE, 0])
def test_two_bodies_are_refused(spacing, background):
    ids = np.full((40, 24, 24), background, np.uint8)
    ids[3:17, 4:20] = BODY
    ids[22:36, 4:20] = BODY
    ids[25:30, 8:12, 4:16] = LUNG
    with pytest.raises(InputError, match="shows 2 separate bodies"):
        require_one_body(ids, spacing)


def test_organs_without_a_body_around_them_may_be_apart():
    ids = np.zeros((60, 20, 20), np.uint8)
    ids[10:20, 5:15] = ID["lung_lower_lobe_right"]
    ids[24:34, 5:15] = ID["lung_lower_lobe_left"]
    require_one_body(ids, MM)
    ids[24:34] = 0
    ids[45:55, 5:15] = ID["lung_lower_lobe_left"]  # 100 mm away
    with pytest.raises(InputError, match="2 separate bodies"):
        require_one_body(ids, MM)


@pytest.mark.parametrize("value", [0, OUTSIDE])
def test_no_body_is_refused(value):
    with pytest.raises(InputError, match="shows no body"):
        require_one_body(np.full((8, 8, 8), value, np.uint8), MM)


def test_a_body_finer_than_the_voxels_that_are_looked_at_is_one():
    ids = np.full((32, 32, 32), OUTSIDE, np.uint8)
    ids[16, 17, 18] = ID["liver"]
    require_one_body(ids, (0.5, 0.5, 0.5))
