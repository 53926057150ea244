"""Which slices are one volume: passes that interleave, series of one slice each, contradictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dicom_cases as cases
import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.io import dicom

N = 8  # slices of a pass
PASSES: list[dict[str, tuple[Any, Any]]] = [
    {"AcquisitionNumber": (1, 2)},
    {"TemporalPositionIdentifier": (1, 2)},
    {"TriggerTime": (100, 600)},
    {"NominalPercentageOfCardiacPhase": (30, 75)},
    {"ContentTime": ("120000", "120045")},
    {"AcquisitionTime": ("120000", "120045")},
    {"ConvolutionKernel": ("B30f", "B60f")},
    {"KVP": (80, 140)},
    {"ImageType": (["ORIGINAL", "PRIMARY", "AXIAL", "A"], ["ORIGINAL", "PRIMARY", "AXIAL", "B"])},
    {"EchoNumbers": (1, 2)},
    {"StackID": ("1", "2")},
]


def two_passes(folder: Path, offset: float, tags: dict[str, tuple[Any, Any]]) -> list[np.ndarray]:
    """Two passes of one series, `offset` of a 3 mm step apart; their HU."""
    hu = [cases.phantom((7, 6, N), seed) for seed in (1, 2)]
    for number, one in enumerate(hu):
        along = [[0, 0, 3 * (k + number * offset)] for k in range(N)]
        own = {keyword: values[number] for keyword, values in tags.items()}
        made = cases.images(one, along=along, tags=own)
        for k, each in enumerate(made):
            each.SOPInstanceUID += f".{number}"
            each.InstanceNumber = 1 + k
        cases.save(folder / str(number), made)
    return hu


@pytest.mark.parametrize("offset", [0.0, 0.5, 0.3])
@pytest.mark.parametrize("tags", PASSES, ids=lambda tags: next(iter(tags)))
def test_interleaved_passes_are_never_one_volume(
    tmp_path: Path, tags: dict[str, tuple[Any, Any]], offset: float
) -> None:
    hu = two_passes(tmp_path, offset, tags)
    for straighten in (False, True):
        with pytest.raises(InputError, match=rf"2 stacks .* 8 with {next(iter(tags))} .*--series"):
            dicom.read(tmp_path, straighten=straighten)
    for number, one in enumerate(hu, 1):
        volume = dicom.read(tmp_path, series=f"{cases.SERIES}#{number}")
        assert np.array_equal(volume.hu, np.flip(one, (0, 1)))
        assert volume.spacing_mm[2] == pytest.approx(3)


def test_times_that_run_along_each_pass(tmp_path: Path) -> None:
    hu = cases.phantom((7, 6, 2 * N))
    along = [[0, 0, 3 * (k % N) + 1.5 * (k // N)] for k in range(2 * N)]
    made = cases.images(hu, along=along)
    for k, one in enumerate(made):
        one.AcquisitionNumber = k  # one for each rotation, through both passes
        one.AcquisitionTime = f"{120000 + 45 * (k // N) + k % N}"
    cases.save(tmp_path, made)
    with pytest.raises(InputError, match=r"8 with AcquisitionTime 120000 to 120007 at z = -40"):
        dicom.read(tmp_path)


@pytest.mark.parametrize("kind", ["stations", "rotations", "times", "shuffled", "jittered"])
def test_what_changes_along_one_stack_is_one_volume(tmp_path: Path, kind: str) -> None:
    hu = cases.phantom((7, 6, 24))
    made = cases.images(hu)
    rng = np.random.default_rng(0)
    for k, one in enumerate(made):
        one.AcquisitionNumber = {"stations": 1 + k // 8, "rotations": 1 + k // 2}.get(kind, 1)
        if kind == "times":
            one.AcquisitionTime = one.ContentTime = f"{120050 - k}"
        if kind == "jittered":
            one.TriggerTime = int(rng.choice([610, 612, 615]))
    if kind == "shuffled":
        for one, number in zip(made, rng.permutation(24), strict=True):
            one.InstanceNumber = int(number)
    cases.save(tmp_path, made)
    assert np.array_equal(dicom.read(tmp_path).hu, np.flip(hu, (0, 1)))


@pytest.mark.parametrize("study", [False, True])
def test_a_series_for_every_slice_is_one_stack(tmp_path: Path, study: bool) -> None:
    hu = cases.phantom((7, 6, 12))
    made = cases.images(hu)
    for k, one in enumerate(made):
        one.SeriesInstanceUID = f"{cases.ROOT}.77.{k}"
        if study:
            one.StudyInstanceUID = f"{cases.ROOT}.78.{k}"
    cases.save(tmp_path, made)
    with pytest.raises(InputError, match=r"SeriesInstanceUID of its own.*--series all") as caught:
        dicom.read(tmp_path)
    assert len(str(caught.value)) < len(str(tmp_path)) + 250
    volume = dicom.read(tmp_path, series="all")
    assert np.array_equal(volume.hu, np.flip(hu, (0, 1)))
    assert volume.source.notes == (
        "12 slices with a SeriesInstanceUID each were read as one series",
    )


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        ({"SpacingBetweenSlices": 1}, "SpacingBetweenSlices is 1 mm, but the slices are 2 mm"),
        ({"SliceThickness": 1}, "SliceThickness is 1 mm, but the slices are 2 mm"),
        ({"SliceThickness": 3}, ""),
        ({"SpacingBetweenSlices": 2.01}, ""),
        ({"ReconstructionDiameter": 20}, "ReconstructionDiameter is 20 mm, but 7 columns"),
        ({"ReconstructionDiameter": 4.9}, ""),
        ({"ImagerPixelSpacing": [2, 2]}, "ImagerPixelSpacing is 2 x 2 mm (rows x columns), but"),
    ],
)
def test_what_is_stated_twice_is_compared(tmp_path: Path, tags: dict[str, Any], what: str) -> None:
    cases.series(tmp_path, cases.phantom(), tags=tags)
    notes = dicom.read(tmp_path).source.notes
    assert (what in " ".join(notes)) if what else not notes


@pytest.mark.parametrize("keyword", ["Modality", "SOPClassUID"])
def test_a_missing_tag_that_another_replaces_is_noted(tmp_path: Path, keyword: str) -> None:
    made = cases.images(cases.phantom())
    for one in made:
        delattr(one, keyword)
        if keyword == "SOPClassUID":
            del one.file_meta.MediaStorageSOPClassUID
    for k, one in enumerate(made):
        one.save_as(tmp_path / f"{k}.dcm", enforce_file_format=False)
    volume = dicom.read(tmp_path)
    assert np.array_equal(volume.hu, np.flip(cases.phantom(), (0, 1)))
    assert any(f"the {keyword} is missing" in note for note in volume.source.notes)


def test_a_missing_series_uid_is_not_called_damage(tmp_path: Path) -> None:
    cases.series(tmp_path, cases.phantom(), tags={"SeriesInstanceUID": None})
    with pytest.raises(InputError, match=r"its SeriesInstanceUID is missing \(0020,000E\)"):
        dicom.read(tmp_path)
