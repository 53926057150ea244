"""The anatomy vocabulary: TotalSegmentator's ids, the tree above them, and the mirror."""

from __future__ import annotations

import numpy as np
import pytest

from denovox.core import labels
from denovox.core.errors import InputError
from denovox.core.labels import ID, NAMES, mirror_table, parent, path, path_matrix


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "unknown"),
        (1, "spleen"),
        (2, "kidney_right"),
        (5, "liver"),
        (10, "lung_upper_lobe_left"),
        (14, "lung_lower_lobe_right"),
        (16, "trachea"),
        (25, "sacrum"),
        (26, "vertebrae_S1"),
        (27, "vertebrae_L5"),
        (31, "vertebrae_L1"),
        (32, "vertebrae_T12"),
        (43, "vertebrae_T1"),
        (44, "vertebrae_C7"),
        (50, "vertebrae_C1"),
        (51, "heart"),
        (52, "aorta"),
        (69, "humerus_left"),
        (79, "spinal_cord"),
        (90, "brain"),
        (91, "skull"),
        (92, "rib_left_1"),
        (103, "rib_left_12"),
        (104, "rib_right_1"),
        (115, "rib_right_12"),
        (116, "sternum"),
        (117, "costal_cartilages"),
    ],
)
def test_ids_are_totalsegmentators(number, name):
    assert NAMES[number] == name
    assert ID[name] == number


def test_names_are_117_and_the_coarse_ones_each_once():
    assert len(labels.TOTALSEGMENTATOR_V2) == 117
    assert len(set(NAMES)) == len(NAMES) <= 256  # they are stored as uint8
    assert labels.BODY == 118


@pytest.mark.parametrize("name", NAMES)
def test_every_path_ends_at_a_root_without_a_cycle(name):
    steps = [name]
    while (above := parent(steps[-1])) is not None:
        assert above not in steps
        assert above in ID
        steps.append(above)
    assert path(name) == tuple(steps)
    assert steps[-1] in ("unknown", "body", "outside")
    assert (steps[-1] == "body") == (name not in ("unknown", "outside"))


@pytest.mark.parametrize(
    ("name", "above"),
    [
        ("lung_middle_lobe_right", ("lung", "body")),
        ("vertebrae_L1", ("vertebrae", "bone", "body")),
        ("rib_left_3", ("ribs", "bone", "body")),
        ("hip_left", ("bone", "body")),
        ("trachea", ("airway", "body")),
        ("brachiocephalic_trunk", ("vessel", "body")),
        ("inferior_vena_cava", ("vessel", "body")),
        ("iliac_artery_left", ("vessel", "body")),
        ("iliopsoas_left", ("muscle", "body")),
        ("kidney_cyst_left", ("kidney", "body")),
        ("colon", ("bowel", "body")),
        ("adrenal_gland_left", ("gland", "body")),
        ("gallbladder", ("body",)),
        ("liver", ("body",)),
        ("spinal_cord", ("body",)),
        ("costal_cartilages", ("body",)),
        ("unknown", ()),
        ("outside", ()),
    ],
)
def test_paths(name, above):
    assert path(name) == (name, *above)


def test_every_lung_bone_and_vessel_is_found():
    children = {coarse: [n for n in NAMES if parent(n) == coarse] for coarse in NAMES}
    assert len(children["lung"]) == 5
    assert len(children["vertebrae"]) == 25
    assert len(children["ribs"]) == 24
    # sacrum, skull, sternum, and pairs of humerus, scapula, clavicula, femur, hip.
    assert len(set(children["bone"]) - {"vertebrae", "ribs"}) == 13
    assert len(children["muscle"]) == 10


def test_path_matrix_has_a_one_for_each_class_on_the_path():
    matrix = path_matrix()
    assert matrix.shape == (len(NAMES), len(NAMES))
    for name, row in zip(NAMES, matrix, strict=True):
        assert {NAMES[j] for j in np.flatnonzero(row)} == set(path(name))
        assert set(row) <= {0, 1}


def test_mirror_swaps_the_twins():
    table = mirror_table()
    for one, other in [("kidney_left", "kidney_right"), ("rib_left_7", "rib_right_7")]:
        assert table[ID[one]] == ID[other]
        assert table[ID[other]] == ID[one]
    for name in ("unknown", "liver", "aorta", "vertebrae_T4", "lung", "outside"):
        assert table[ID[name]] == ID[name]


def test_mirror_twice_is_the_class_itself_or_a_coarser_one():
    table = mirror_table()
    back = table[table]
    lost = {NAMES[i] for i in np.flatnonzero(back != np.arange(len(NAMES)))}
    # Two classes have no twin: mirrored, they are of the class above.
    assert lost == {"lung_middle_lobe_right", "atrial_appendage_left"}
    assert NAMES[table[ID["lung_middle_lobe_right"]]] == "lung"
    assert NAMES[table[ID["atrial_appendage_left"]]] == "body"
    paired = [n for n in NAMES if "left" in n or "right" in n]
    assert all(table[ID[n]] != ID[n] for n in paired)


def test_check_names_every_strange_value():
    labels.check(range(len(NAMES)))
    labels.check(np.unique(np.array([[0, 5], [117, 5]], np.uint8)))
    with pytest.raises(InputError, match=r"values -1, 200, 1000 are not in the vocabulary"):
        labels.check([1000, 5, 200, -1, 200])
