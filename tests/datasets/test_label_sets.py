"""Bridges: every table whole and in the vocabulary, and what they do to an array."""

import nibabel
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from denovox.core.errors import InputError
from denovox.core.labels import (
    BODY,
    BONE,
    ID,
    LUNG,
    NAMES,
    OUTSIDE,
    TOTALSEGMENTATOR_V2,
    overlay,
    path,
)
from denovox.core.volume import Volume
from denovox.datasets import label_sets
from denovox.datasets.label_sets import Bridge, apply, bridge, from_table, lesion, organs
from denovox.io import label_maps

HOW_MANY = {  # values, as published; all numbered from 1 without a gap
    "totalsegmentator_v2": 117,
    "totalsegmentator_v1": 104,
    "maisi": 132,
    "abdomenatlas_1_0": 9,
    "abdomenatlas_1_1": 25,
    "amos22": 15,
    "btcv": 13,
    "word": 16,
    "flare22": 13,
    "abdomenct1k": 4,
    "msd_liver": 2,
    "msd_lung": 1,
    "lits": 2,
    "kits": 3,
    "segthor": 4,
    "structseg_thorax": 6,
    "structseg_headneck": 22,
    "instance22": 1,
    "segrap23": 54,
    "autopet": 1,
    "chaos_ct": 0,
    "lymph_nodes": 0,
}

# A few values of each, from the published tables and not from ours.
SPOTS = {
    "totalsegmentator_v2": {1: "spleen", 26: "vertebrae_S1", 51: "heart", 117: "costal_cartilages"},
    "totalsegmentator_v1": {
        **{7: "aorta", 10: "pancreas", 18: "vertebrae_L5", 41: "vertebrae_C1", 44: "heart"},
        **{48: "heart", 49: "vessel", 50: "brain", 58: "rib_left_1", 81: "rib_right_12"},
        **{92: "sacrum", 93: "body", 104: "urinary_bladder"},
    },
    "maisi": {
        **{1: "liver", 5: "kidney_right", 14: "kidney_left", 22: "brain", 23: "body", 26: "liver"},
        **{28: "lung_upper_lobe_left", 33: "vertebrae_L5", 57: "trachea", 62: "colon"},
        **{63: "rib_left_1", 86: "rib_right_12", 93: "femur_left", 97: "sacrum", 115: "heart"},
        **{120: "skull", 121: "spinal_cord", 127: "vertebrae_S1", 128: "bone", 132: "airway"},
    },
    "abdomenatlas_1_0": {1: "aorta", 7: "inferior_vena_cava", 9: "stomach"},
    "abdomenatlas_1_1": {12: "urinary_bladder", 17: "femur_left", 22: "lung", 24: "prostate"},
    "amos22": {1: "spleen", 2: "kidney_right", 6: "liver", 11: "adrenal_gland_right", 15: "body"},
    "btcv": {2: "kidney_right", 6: "liver", 10: "portal_vein_and_splenic_vein", 11: "pancreas"},
    "word": {1: "liver", 3: "kidney_left", 12: "gland", 14: "urinary_bladder", 15: "femur_left"},
    "flare22": {1: "liver", 2: "kidney_right", 7: "adrenal_gland_right", 13: "kidney_left"},
    "abdomenct1k": {1: "liver", 2: "kidney", 3: "spleen", 4: "pancreas"},
    "msd_liver": {1: "liver", 2: "liver"},
    "msd_lung": {1: "body"},
    "lits": {2: "liver"},
    "kits": {1: "kidney", 2: "kidney", 3: "kidney"},
    "segthor": {1: "esophagus", 2: "heart", 3: "trachea", 4: "aorta"},
    "structseg_thorax": {1: "lung", 3: "heart", 4: "esophagus", 5: "trachea", 6: "spinal_cord"},
    "structseg_headneck": {1: "brain", 2: "body", 12: "gland", 20: "spinal_cord", 22: "bone"},
    "instance22": {1: "body"},
    "segrap23": {1: "brain", 10: "body", 34: "gland", 36: "bone", 46: "spinal_cord", 54: "trachea"},
    "autopet": {1: "body"},
    "chaos_ct": {1: "liver", 255: "liver"},
    "lymph_nodes": {1: "body", 17: "body"},
}


def column(*values, dtype=np.int32):
    """Values along z."""
    return np.array(values, dtype).reshape(1, 1, -1)


def test_every_table_is_known_here():
    assert set(label_sets.names()) == {"denovox", *HOW_MANY} == {"denovox", *SPOTS}


@pytest.mark.parametrize("name", HOW_MANY)
def test_a_table_is_whole_and_says_where_it_is_from(name):
    by = bridge(name)
    rest = [200] if name == "maisi" else []  # of the body, in masks that MAISI makes
    assert sorted(by.values) == [*range(1, HOW_MANY[name] + 1), *rest]
    assert label_sets.tables()["bridge"][name]["source"]
    assert set(by.values.values()) <= set(ID.values())
    assert set(by.lesions) <= set(by.values)
    assert by.covers
    assert "unknown" not in by.covers


@pytest.mark.parametrize("name", HOW_MANY)
def test_values_become_their_classes(name):
    values, classes = zip(*SPOTS[name].items(), strict=True)
    out = apply(column(0, *values), bridge(name))
    assert out.dtype == np.uint8
    assert [NAMES[i] for i in out.ravel()] == ["unknown", *classes]


def test_totalsegmentators_numbers_are_the_vocabularys():
    assert bridge("totalsegmentator_v2").values == {i: i for i in range(1, 118)}
    every = column(*range(len(NAMES)))
    assert np.array_equal(apply(every, bridge("denovox")), every)


def test_what_v1_and_v2_both_have_keeps_its_name():
    v1 = bridge("totalsegmentator_v1").values.values()
    coarse = {ID["vessel"], ID["body"]}  # the pulmonary artery, the face
    assert len(set(v1) - coarse) == 104 - 5 - 2 + 1  # five parts of the heart are one
    # v2 split off what v1 did not have.
    new = set(TOTALSEGMENTATOR_V2) - set(bridge("totalsegmentator_v1").covers)
    assert {"skull", "thyroid_gland", "sternum", "superior_vena_cava", "spinal_cord"} <= new


def test_left_and_right_stay_apart():
    """Where a table names a side it names both, and each once."""
    for name in HOW_MANY:
        fine = [i for i in bridge(name).values.values() if "_left" in NAMES[i]]
        for number in fine:
            other = NAMES[number].replace("_left", "_right")
            if other in ID:
                assert ID[other] in bridge(name).values.values(), (name, other)


def test_unknown_values_are_all_named():
    raw = column(0, 1, 15, 16, 300, -2, 16, 70000)
    with pytest.raises(
        InputError, match=r"x.nii.gz has values .*'amos22'.*: -2, 16, 300, 70000 \("
    ):
        apply(raw, bridge("amos22"), "x.nii.gz")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64])
def test_any_integer_type_will_do(dtype):
    assert apply(column(0, 6, 14, dtype=dtype), bridge("amos22")).ravel().tolist() == [
        0,
        ID["liver"],
        ID["urinary_bladder"],
    ]


def test_values_are_looked_up_in_place():
    """A whole volume at once is its voxels one by one."""
    raw = np.random.default_rng(1).integers(0, 16, (3, 4, 5))
    by = bridge("amos22")
    expected = np.vectorize(lambda v: by.values.get(int(v), 0))(raw)
    assert np.array_equal(apply(raw, by), expected)


def test_zero_is_unknown_unless_a_table_says_so():
    assert apply(column(0, 3), from_table({3: "liver"})).ravel().tolist() == [0, ID["liver"]]
    assert apply(column(0), from_table({"0": "outside"})).ravel().tolist() == [ID["outside"]]


def test_a_table_of_ones_own():
    by = from_table({"7": "lung", 2: "liver"})
    assert by.values == {7: ID["lung"], 2: ID["liver"]}
    assert by.covers == ("liver", "lung")
    with pytest.raises(InputError, match=r"'Spleeen' \(value 3\).*did you mean 'spleen'"):
        from_table({3: "Spleeen"})
    with pytest.raises(InputError, match=r"'kidney left'.*did you mean 'kidney_left'"):
        from_table({3: "kidney left"})
    for bad in ("liver", "-1", "1.5", "70000"):
        with pytest.raises(InputError, match="not a label value"):
            from_table({bad: "liver"})


def test_a_name_that_is_none():
    with pytest.raises(InputError, match=r"'amos2022' is not known \(did you mean 'amos22'\?\)"):
        bridge("amos2022")


def test_what_is_a_lesion():
    raw = column(0, 1, 2, 3)
    assert lesion(raw, bridge("kits")).ravel().tolist() == [False, False, True, True]
    assert lesion(raw, bridge("lymph_nodes")).ravel().tolist() == [False, True, True, True]
    assert not lesion(raw, bridge("amos22")).any()


def test_a_file_of_one_organ_is_a_label_map_of_one_value():
    assert len(organs("hanseg")) == 30
    assert len(organs("segrap23")) == 45 + 2
    seen = organs("totalsegmentator")
    assert set(TOTALSEGMENTATOR_V2) < set(seen)
    assert seen["heart_atrium_left"].covers == ("heart",)
    mask = column(0, 1)
    assert apply(mask, organs("hanseg")["Parotid_L"]).ravel().tolist() == [0, ID["gland"]]
    assert lesion(mask, organs("segrap23")["GTVp"]).ravel().tolist() == [False, True]
    assert not lesion(mask, organs("segrap23")["Brain"]).any()
    with pytest.raises(InputError, match="'liver' does not have: 2"):
        apply(column(2), seen["liver"])
    # A set's label map and its files are one anatomy.
    whole = {name for by in organs("segrap23").values() for name in by.covers}
    assert whole == set(bridge("segrap23").covers)


def test_the_finer_class_wins_whatever_the_order():
    a = column(*(ID[n] for n in ("body", "bone", "unknown", "rib_left_1")), dtype=np.uint8)
    b = column(*(ID[n] for n in ("bone", "body", "liver", "unknown")), dtype=np.uint8)
    for out in (overlay(a, b), overlay(b, a)):
        assert [NAMES[i] for i in out.ravel()] == ["bone", "bone", "liver", "rib_left_1"]
    same = overlay(*(column(ID[n], dtype=np.uint8) for n in ("liver", "spleen")))
    assert NAMES[same.item()] == "spleen"


def test_whatever_is_labelled_lies_in_the_body():
    for by in (bridge(name) for name in HOW_MANY):
        for number in {*by.values.values(), by.every or 0} - {0}:
            assert path(NAMES[number])[-1] == "body"


def test_values_of_a_file_as_they_are(tmp_path):
    raw = np.random.default_rng(2).integers(0, 1000, (4, 5, 6)).astype(np.int16)
    file = tmp_path / "m.nii.gz"
    nibabel.Nifti1Image(raw, np.diag([-1.0, -2.0, 3.0, 1.0])).to_filename(file)
    values, affine = label_maps.read(file)
    assert values.dtype == np.int32
    assert np.array_equal(values, raw[::-1, ::-1])
    assert np.array_equal(affine, nibabel.as_closest_canonical(nibabel.load(file)).affine)
    hu = np.zeros((4, 5, 6), np.float32)
    assert np.array_equal(label_maps.on_grid(file, Volume(hu, affine)), values)
    with pytest.raises(InputError, match="not on the grid of its CT"):
        label_maps.on_grid(file, Volume(hu, affine + np.eye(4, k=3)))
    with pytest.raises(InputError, match="not in the vocabulary"):
        label_maps.vocabulary(file)
    nibabel.Nifti1Image(raw + 0.5, np.eye(4)).to_filename(file)
    with pytest.raises(InputError, match="not integers"):
        label_maps.read(file)
    nibabel.Nifti1Image(raw.astype(np.int32) + 2**25, np.eye(4)).to_filename(file)
    with pytest.raises(InputError, match=r"2\^24"):
        label_maps.read(file)


def test_a_bridge_cannot_be_changed():
    with pytest.raises(AttributeError):
        Bridge("x", {}).name = "y"


def test_combine_fine_wins_and_coarse_fills() -> None:
    coarse_map = np.array([BODY, LUNG, BONE, OUTSIDE, BONE, LUNG], np.uint8)
    known = np.array([0, ID["lung_upper_lobe_left"], BODY, 0, ID["liver"], LUNG], np.uint8)
    expected = [BODY, ID["lung_upper_lobe_left"], BONE, OUTSIDE, ID["liver"], LUNG]
    combined = label_sets.combine(known.reshape(6, 1, 1), coarse_map.reshape(6, 1, 1))
    assert combined.dtype == np.uint8
    assert combined.ravel().tolist() == expected


def test_combine_refuses_strange_values_and_shapes() -> None:
    map_ = np.full((2, 2, 2), BODY, np.uint8)
    with pytest.raises(InputError, match="200"):
        label_sets.combine(np.full((2, 2, 2), 200, np.uint8), map_)
    with pytest.raises((ValueError, TypeCheckError), match=r"shape|coarse"):
        label_sets.combine(np.zeros((2, 2, 1), np.uint8), map_)
