"""The table of regions is Method 1's."""

from __future__ import annotations

import pytest

from denovox.core.errors import InputError
from denovox.core.regions import REGIONS, UNKNOWN_REGION, region


@pytest.mark.parametrize(
    ("name", "width", "level", "low", "high"),
    [
        ("headneck", 400, 50, -150, 250),
        ("chest", 1800, -500, -1400, 400),
        ("abdomen", 360, 60, -120, 240),
    ],
)
def test_windows_of_method_1(name, width, level, low, high):
    row = region(name)
    assert row.name == name
    assert (row.window.width_hu, row.window.level_hu) == (width, level)
    assert (row.window.low_hu, row.window.high_hu) == (low, high)


def test_ids_are_written_into_weights_and_never_change():
    assert {name: row.id for name, row in REGIONS.items()} == {
        "headneck": 1,
        "chest": 2,
        "abdomen": 3,
    }
    assert UNKNOWN_REGION == 0


def test_a_region_nobody_knows_lists_the_known():
    with pytest.raises(InputError, match="'leg' is not known; choose one of headneck, chest, abd"):
        region("leg")
