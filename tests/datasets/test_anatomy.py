"""Label maps of others as an anatomy: TotalSegmentator, MAISI, nnU-Net, each by its own numbers."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.core.labels import BODY, ID
from denovox.datasets import label_sets
from denovox.datasets.anatomy import read
from denovox.scan.label_regions import label_spans, require_one_body

MM = (4.0, 4.0, 10.0)
# What is in a trunk, from bottom to top, and beside it.
ORGANS = ("liver", "lung_lower_lobe_right", "aorta", "vertebrae_T8", "kidney_left")
NUMBERS = {  # as published, independent of our tables
    "totalsegmentator_v2": (5, 14, 52, 36, 3),
    "totalsegmentator_v1": (5, 17, 7, 27, 3),
    "maisi": (1, 32, 6, 42, 14),
}


def trunk(values: tuple[int, ...], body: int = 0) -> np.ndarray:
    """Five organs stacked in a body, of so many."""
    out = np.zeros((20, 16, 20), np.int16)
    out[3:17, 3:13] = body
    for number, value in enumerate(values):
        out[6:14, 5:11, 4 * number : 4 * number + 4] = value
    return out


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(values, np.diag([-MM[0], -MM[1], MM[2], 1])).to_filename(path)  # LPS
    return path


def organs(ids: np.ndarray) -> list[int]:
    """Ids in the order of `ORGANS`."""
    return [int(ids[10, 8, 4 * number + 1]) for number in range(len(ORGANS))]


EXPECTED = [ID[name] for name in ORGANS]


@pytest.mark.parametrize("name", NUMBERS)
def test_published_numbers(name: str, tmp_path: Path) -> None:
    ids, affine = read(save(tmp_path / "a.nii.gz", trunk(NUMBERS[name])), name)
    assert organs(ids) == EXPECTED
    assert np.allclose(np.diag(affine)[:3], MM)  # turned to RAS
    require_one_body(ids, MM)
    assert [span.region for span in label_spans(ids, MM[2])] == ["abdomen", "chest", "headneck"]


def test_totalsegmentator_needs_no_name_and_maisi_has_a_body(tmp_path: Path) -> None:
    ids, _ = read(save(tmp_path / "a.nii.gz", trunk(NUMBERS["totalsegmentator_v2"])))
    assert organs(ids) == EXPECTED
    ids, _ = read(save(tmp_path / "b.nii.gz", trunk(NUMBERS["maisi"], 200)), "maisi")
    assert organs(ids) == EXPECTED
    assert ids[4, 4, 4] == BODY


@pytest.mark.parametrize("version", [1, 2])
def test_nnunet_names_its_labels_in_dataset_json(version: int, tmp_path: Path) -> None:
    names = ("Liver", "right lower lung lobe", "aorta", "vertebrae_T8", "left kidney")
    names = (names[0], "lung_lower_lobe_right", *names[2:])
    labels: dict[str, int | str] = {"background": 0, **{name: k for k, name in enumerate(names, 1)}}
    if version == 1:
        labels = {str(value): name for name, value in labels.items()}
    path = save(tmp_path / "labelsTr" / "case.nii.gz", trunk((1, 2, 3, 4, 5)))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    notes: list[str] = []
    ids, _ = read(path, say=notes.append)
    assert organs(ids) == EXPECTED
    assert "dataset.json" in notes[0]
    ids, _ = read(path, "denovox")  # its numbers, if somebody insists
    assert organs(ids) == [1, 2, 3, 4, 5]


def test_what_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = save(tmp_path / "labelsTr" / "case.nii.gz", trunk((1, 2, 3, 4, 250)))
    with pytest.raises(InputError, match="250 are not in the vocabulary"):
        read(path)
    with pytest.raises(InputError, match=r"'maisi' does not have: 250"):
        read(path, "maisi")
    with pytest.raises(InputError, match=r"'masi' is not known \(did you mean 'maisi'"):
        read(path, "masi")
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "blob": 1}}')
    with pytest.raises(InputError, match="does not have: 2, 3, 4, 250"):
        read(path)
    path = save(tmp_path / "labelsTr" / "other.nii.gz", trunk((1, 1, 1, 1, 1)))
    with pytest.raises(InputError, match="no label that is a class of the vocabulary"):
        read(path)


def test_every_label_set_with_classes_can_be_read(tmp_path: Path) -> None:
    for name in label_sets.names():
        value, number = next(
            ((v, n) for v, n in label_sets.bridge(name).values.items() if n), (0, 0)
        )
        ids, _ = read(save(tmp_path / "a.nii.gz", trunk((value,) * 5)), name)
        assert organs(ids) == [number] * 5, name
