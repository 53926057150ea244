"""The anatomy vocabulary: 117 classes of TotalSegmentator v2, coarse classes, and their tree.

Ids 1 to 117 are those of TotalSegmentator, so its label maps can be used unchanged. 0 is
"unknown": a voxel that nobody has labelled, which is not the same as background (Method 1). Coarse
classes have their own ids, so that a mask of "lung" or "bone" is a condition just like a mask of
lobes or vertebrae: a class's embedding is the sum along its path to the root (`path_matrix`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from .errors import InputError


def _spine() -> list[str]:
    levels = [("L", 5), ("T", 12), ("C", 7)]
    return [f"vertebrae_{part}{number}" for part, count in levels for number in range(count, 0, -1)]


def _ribs() -> list[str]:
    return [f"rib_{side}_{number}" for side in ("left", "right") for number in range(1, 13)]


TOTALSEGMENTATOR_V2: tuple[str, ...] = (
    *"spleen kidney_right kidney_left gallbladder liver stomach pancreas".split(),
    *"adrenal_gland_right adrenal_gland_left".split(),
    *"lung_upper_lobe_left lung_lower_lobe_left".split(),
    *"lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right".split(),
    *"esophagus trachea thyroid_gland small_bowel duodenum colon urinary_bladder".split(),
    *"prostate kidney_cyst_left kidney_cyst_right sacrum vertebrae_S1".split(),
    *_spine(),
    *"heart aorta pulmonary_vein brachiocephalic_trunk".split(),
    *"subclavian_artery_right subclavian_artery_left".split(),
    *"common_carotid_artery_right common_carotid_artery_left".split(),
    *"brachiocephalic_vein_left brachiocephalic_vein_right atrial_appendage_left".split(),
    *"superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein".split(),
    *"iliac_artery_left iliac_artery_right iliac_vena_left iliac_vena_right".split(),
    *"humerus_left humerus_right scapula_left scapula_right".split(),
    *"clavicula_left clavicula_right femur_left femur_right hip_left hip_right".split(),
    *"spinal_cord gluteus_maximus_left gluteus_maximus_right".split(),
    *"gluteus_medius_left gluteus_medius_right".split(),
    *"gluteus_minimus_left gluteus_minimus_right autochthon_left autochthon_right".split(),
    *"iliopsoas_left iliopsoas_right brain skull".split(),
    *_ribs(),
    *"sternum costal_cartilages".split(),
)

# Coarse classes, each with its parent; "body" and "outside" are roots.
_COARSE: dict[str, str | None] = {
    "body": None,
    "outside": None,
    "lung": "body",
    "airway": "body",
    "bone": "body",
    "vertebrae": "bone",
    "ribs": "bone",
    "vessel": "body",
    "muscle": "body",
    "kidney": "body",
    "bowel": "body",
    "gland": "body",
}

UNKNOWN = 0
NAMES: tuple[str, ...] = ("unknown", *TOTALSEGMENTATOR_V2, *_COARSE)
ID: dict[str, int] = {name: number for number, name in enumerate(NAMES)}
BODY, OUTSIDE, LUNG, AIRWAY, BONE = (ID[n] for n in ("body", "outside", "lung", "airway", "bone"))

_PARENT_BY_WORD: tuple[tuple[str, str], ...] = (  # the first word found in a class's name decides
    ("lung_", "lung"),
    ("trachea", "airway"),
    ("vertebrae_", "vertebrae"),
    ("rib_", "ribs"),
    *((w, "bone") for w in "sacrum humerus scapula clavicula femur hip_ skull sternum".split()),
    *((w, "vessel") for w in "aorta artery vein vena brachiocephalic".split()),
    *((w, "muscle") for w in "gluteus autochthon iliopsoas".split()),
    ("kidney", "kidney"),
    *((w, "bowel") for w in "stomach small_bowel duodenum colon".split()),
    *((w, "gland") for w in "adrenal thyroid pancreas prostate".split()),
)


def parent(name: str) -> str | None:
    """The next coarser class, or None for a root ("unknown", "body", "outside")."""
    if name in _COARSE or name == "unknown":
        return _COARSE.get(name)
    return next((coarse for word, coarse in _PARENT_BY_WORD if word in name), "body")


def path(name: str) -> tuple[str, ...]:
    """The classes from `name` up to its root, `name` first."""
    above = parent(name)
    return (name,) if above is None else (name, *path(above))


_SAME = {  # other words for those of the vocabulary
    **dict.fromkeys(("vertebra", "spine"), "vertebrae"),
    **{"lungs": "lung", "kidneys": "kidney", "bones": "bone", "vessels": "vessel"},
    **{"muscles": "muscle", "glands": "gland", "airways": "airway", "clavicle": "clavicula"},
    **{"oesophagus": "esophagus", "bladder": "urinary_bladder", "l": "left", "r": "right"},
}
_SIDES = {"left", "right"}


@cache
def _by_words() -> dict[frozenset[str], str]:
    return {frozenset(name.lower().split("_")): name for name in NAMES[1:]}


def named(*texts: str) -> str | None:
    """The class that one of these names means, whatever its case and the order of its words.

    "Right kidney" is kidney_right, "L1 vertebra" vertebrae_L1. A side that the vocabulary does not
    have is dropped: "left lung" is lung. None where no name is certain.
    """
    for text in texts:
        words = re.findall(r"[a-z]+\d*|\d+", text.lower())
        words = [part for word in words for part in _SAME.get(word, word).split("_")]
        whole = frozenset(words) - {"of", "the"}
        for found in (whole, whole - _SIDES):
            if found in _by_words():
                return _by_words()[found]
    return None


def overlay(
    under: UInt8[np.ndarray, "x y z"], over: UInt8[np.ndarray, "x y z"]
) -> UInt8[np.ndarray, "x y z"]:
    """Merge two label maps of one scan: the finer class wins, `over` if both are equally fine.

    So the order of overlapping masks does not matter: "bone" is kept if "body" comes after it.
    """
    fine = np.array([len(path(name)) for name in NAMES], np.uint8)
    fine[UNKNOWN] = 0
    return np.where(fine[over] >= fine[under], over, under)


def path_matrix() -> Float[np.ndarray, "labels labels"]:
    """M[i, j] = 1 where class j is on the path of class i: embeddings are M @ table."""
    matrix = np.zeros((len(NAMES), len(NAMES)), np.float32)
    for name in NAMES:
        matrix[ID[name], [ID[above] for above in path(name)]] = 1
    return matrix


def mirror_table() -> Integer[np.ndarray, " labels"]:
    """Class id -> class id of the other side of the body, for a left-right flip."""
    swap = {"left": "right", "right": "left"}

    def other(name: str) -> str:
        twin = "_".join(swap.get(word, word) for word in name.split("_"))
        # The middle lobe, for example, has no counterpart: mirrored, it is lung but not a lobe.
        return twin if twin in ID else parent(name) or name

    return np.array([ID[other(name)] for name in NAMES])


def with_lesion(
    ids: UInt8[np.ndarray, "x y z"], lesion: Bool[np.ndarray, "x y z"]
) -> UInt8[np.ndarray, "x y z"]:
    """A healthy label map as a segmentation of the scan with the lesion would have it: within lung
    and airway, the lesion is soft tissue."""
    in_air = np.array([bool({"lung", "airway"} & {*path(name)}) for name in NAMES])
    return np.where(lesion & in_air[ids], np.uint8(BODY), ids)


def check(values: Iterable[Any]) -> None:
    """`InputError` listing label values that are not in the vocabulary (the first ten)."""
    strange = sorted({int(v) for v in values} - set(range(len(NAMES))))
    if strange:
        listed = ", ".join(map(str, strange[:10]))
        raise InputError(
            f"label values {listed} are not in the vocabulary (0 unknown, 1-117 TotalSegmentator"
            f" v2, 118-{len(NAMES) - 1} coarse classes; see docs/reference/labels.md)"
        )
