"""denovox.scan.geometry_checks: voxels and extents that no CT has."""

from __future__ import annotations

import numpy as np
import pytest

from denovox.core.volume import Volume
from denovox.scan.geometry_checks import check_geometry


def findings(
    shape: tuple[int, int, int], mm: tuple[float, ...], origin: float = 7.0
) -> dict[str, str]:
    """code -> severity, of a grid of air."""
    affine = np.diag([*mm, 1.0])
    affine[:3, 3] = origin
    air = np.broadcast_to(np.float32(-1000), shape)  # no memory
    found = check_geometry(Volume(air, affine))[1]
    assert all(not one.sentence.endswith(".") for one in found)
    return {one.code: one.severity for one in found}


@pytest.mark.parametrize(
    ("shape", "mm"),
    [
        ((64, 56, 16), (3000, 3000, 3000)),  # micrometres, as mm
        ((64, 56, 16), (0.003, 0.003, 0.003)),  # metres, as mm
        ((512, 512, 100), (0.007, 0.007, 0.05)),
        ((512, 512, 100), (0.7, 0.7, 50)),  # cm, of 5 mm
        ((512, 512, 300), (7, 7, 10)),  # ten times too large: 3.6 m wide
        ((64, 64, 1500), (2, 2, 2)),
    ],
)
def test_beyond_what_a_ct_can_be_is_refused(
    shape: tuple[int, int, int], mm: tuple[float, ...]
) -> None:
    assert findings(shape, mm)["size"] == "refuse"


@pytest.mark.parametrize(
    ("shape", "mm"),
    [
        ((512, 512, 1100), (0.98, 0.98, 1)),  # a whole body
        ((1024, 1024, 200), (0.1, 0.1, 0.2)),  # an ear, photon counting
        ((512, 512, 30), (0.9, 0.9, 10)),
        ((512, 512, 20), (0.9, 0.9, 20.001)),
        ((512, 512, 900), (0.7, 0.7, 2)),  # 1.8 m
        ((300, 200, 400), (1.5, 1.5, 1.5)),
        ((512, 512, 100), (1.6, 1.6, 3)),  # 0.82 m: an extended field of view
        ((40, 40, 12), (0.8, 0.8, 5)),  # a crop
        ((7, 6, 5), (1, 1, 1)),
        ((100, 90, 80), (1, 1, 1)),
        ((512, 2, 2), (1, 1, 1)),
    ],
)
def test_what_a_ct_can_be_is_not_doubted(
    shape: tuple[int, int, int], mm: tuple[float, ...]
) -> None:
    assert not {"size", "identity"} & findings(shape, mm).keys()


def test_what_hardly_any_ct_is_is_doubted() -> None:
    assert findings((512, 512, 300), (0.07, 0.07, 0.5))["size"] == "doubt"  # cm, as mm
    assert findings((512, 512, 100), (2.5, 2.5, 5))["size"] == "doubt"  # 1.28 m wide
    assert findings((512, 512, 100), (1, 1, 1))["identity"] == "doubt"
    assert findings((512, 512, 100), (1, 1, 1), 0)["identity"] == "doubt"
    assert findings((200, 200, 100), (1, 1, 1), 0)["identity"] == "note"
    assert "identity" not in findings((200, 200, 100), (1, 1, 1))
    assert "identity" not in findings((40, 40, 20), (1, 1, 1), 0)  # a crop
    assert "identity" not in findings((512, 512, 100), (0.9, 0.9, 1), 0)


def test_the_identity_is_known_in_any_axes() -> None:
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = -199, -199, 0  # an LPS file of 200 x 200 x 50, first voxel at the origin
    found = check_geometry(Volume(np.broadcast_to(np.float32(0), (200, 200, 50)), affine))[1]
    (one,) = [each for each in found if each.code == "identity"]
    assert "exactly 1 x 1 x 1 mm, the first at the origin (an identity affine)" in one.sentence


def test_the_sentence_has_the_figures_and_the_remedy() -> None:
    air = np.broadcast_to(np.float32(-1000), (64, 56, 16))
    found = check_geometry(Volume(air, np.diag([3000.0, 3000, 3000, 1])))[1]
    (one,) = [each for each in found if each.severity == "refuse"]
    assert one.sentence == "voxels are 3000 x 3000 x 3000 mm, but those of a CT are 0.05 to 20 mm"
    assert "micrometres" in one.advice
