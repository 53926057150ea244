"""DICOM SEG: where lesions were inserted, as an object alongside the CT series.

BINARY, one segment per lesion (PS3.3 A.51, C.8.20), written by highdicom. Frames are on the grid of
the volume, in the slice, row and column order of the series; where they are planes of the series
itself, each frame references the image that it lies on.
"""

# mypy: allow-untyped-calls
# (pydicom's functions are untyped)

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import DA, TM

from ...core.errors import InputError, ensure, line
from ...core.version import __version__
from ...core.volume import Volume
from .. import atomic
from .files import DAMAGE, Part, parts
from .header import CT, ENHANCED, Plane
from .reader import DicomSource
from .series import Series, found_in
from .values import dataset, quiet

SYNTHETIC = "Synthetic lesions by denovox, not the patient's"
NUMBER = 9000  # SeriesNumber; scanners use smaller ones
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MUST = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
_MAY = (
    "PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyID StudyDate StudyTime"
    " StudyDescription ReferringPhysicianName PositionReferenceIndicator"
).split()
_TAGS = [Tag(keyword) for keyword in (*_MUST, *_MAY, "SpecificCharacterSet")]


def check_writable(path: str | Path, force: bool = False) -> None:
    """Raise `InputError` if `write` could not write a file; call this before the computation."""
    atomic.check_writable(path, force, (".dcm",))


def write(
    path: str | Path,
    numbers: UInt8[np.ndarray, "x y z"],
    volume: Volume,
    labels: Sequence[str] = (),
    description: str = SYNTHETIC,
    force: bool = False,
) -> None:
    """Write lesions (1, 2, ...; 0: none) on the grid of a volume that was read from DICOM.

    labels: of the segments, in order; "Lesion 3" and so on where missing. description: of series
    and content, up to 64 characters. Patient, study and frame of reference are read again from
    `volume.source`. The file is written in full or not at all. Raises `InputError` as
    `check_writable` does, if the volume did not come from DICOM or its series lacks what a SEG
    requires, if no voxel is marked, or if writing fails; `ValueError` if the numbers are not on the
    volume's grid.
    """
    check_writable(path, force)
    source = volume.source
    if not isinstance(source, DicomSource):
        raise InputError(
            f"{path} was not written: a DICOM SEG references the DICOM series of its scan, and this"
            " scan is not DICOM; choose an output ending in .nii.gz"
        )
    if numbers.shape != volume.shape:
        raise ValueError(f"numbers of {numbers.shape} on a grid of {volume.shape}")
    count = int(numbers.max())
    ensure(count, f"{path} was not written: no voxel is marked as a lesion")
    names = [*labels[:count], *(f"Lesion {k + 1}" for k in range(len(labels), count))]
    with parts(source.path) as (dicom, _):
        series = next((one for one in found_in(dicom) if one.uid == source.series_uid), None)
        if series is None or not series.planes:
            raise InputError(f"{source.path} has changed since it was read; try again")
        own = {plane.part: _patient_tags(plane.part) for plane in series.planes}
    grid = _grid(numbers, volume, series.planes[0])
    with quiet():  # highdicom warns about names and numbers taken from the source
        try:
            seg = _segmentation(grid, series, own, names, description)
            _refer(seg, grid, series, own, source.straightened)
        except ValueError as error:
            raise InputError(
                f"{path} was not written: the headers of {source.path} make no valid DICOM SEG"
                f" ({line(error)}); choose an output ending in .nii.gz"
            ) from error
        with atomic.user_output(path), atomic.open_file(path) as file:
            seg.save_as(file, enforce_file_format=True)


# ---- the grid -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Grid:
    """Numbers as slices, rows, columns; affine: their indices -> mm in LPS."""

    numbers: UInt8[np.ndarray, "slices rows columns"]
    affine: Float[np.ndarray, "4 4"]

    def places(self) -> Float[np.ndarray, "slices 3"]:
        """Positions of each slice's first pixel."""
        steps = np.arange(len(self.numbers))[:, None] * self.affine[:3, 0]
        places: np.ndarray = self.affine[:3, 3] + steps
        return places

    def slice_at(self, place: Float[np.ndarray, " 3"]) -> int:
        """The index of the slice with this first pixel."""
        return int(np.rint(np.linalg.solve(self.affine, [*place, 1.0])[0]))


def _grid(numbers: UInt8[np.ndarray, "x y z"], volume: Volume, plane: Plane) -> _Grid:
    """The volume's grid with its axes reordered to match the series; nothing is resampled."""
    affine = _LPS @ volume.affine
    ways = np.stack([np.cross(plane.row, plane.column), plane.column, plane.row])
    along = ways @ (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    axes = np.abs(along).argmax(1)
    affine = affine[:, [*axes, 3]]
    turned = numbers.transpose(axes)
    for axis in range(3):
        if along[axis, axes[axis]] < 0:
            affine[:, 3] += affine[:, axis] * (turned.shape[axis] - 1)
            affine[:, axis] *= -1
            turned = np.flip(turned, axis)
    return _Grid(np.ascontiguousarray(turned), affine)


# ---- the object ---------------------------------------------------------------------------------


def _patient_tags(part: Part) -> Dataset:
    """Patient, study and instance tags of a file, cleaned; `InputError` if one is missing."""
    with quiet():
        try:
            with part.open() as file:
                found = dataset(file, _TAGS)
            tags = {keyword: str(found.get(keyword) or "") for keyword in (*_MUST, *_MAY)}
        except DAMAGE as error:
            raise InputError(f"{part.name} cannot be read ({line(error)}); copy it again") from None
        lacks = [keyword for keyword in _MUST if not tags[keyword]]
        ensure(
            not lacks,
            f"{part.name} has no {' or '.join(lacks)}, which a DICOM SEG references; choose an"
            " output ending in .nii.gz",
        )
        for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
            try:
                kind(tags[keyword])
            except ValueError:  # after anonymisation, dates can be anything
                tags[keyword] = ""
        if tags["PatientSex"] not in ("M", "F", "O"):
            tags["PatientSex"] = ""
        clean = Dataset()
        for keyword, value in tags.items():
            setattr(clean, keyword, value)
    return clean


def _segmentation(
    grid: _Grid, series: Series, own: dict[Part, Dataset], names: list[str], description: str
) -> Any:
    """The SEG object, without references to images."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    steps = np.linalg.norm(grid.affine[:3, :3], axis=0).tolist()
    across = (grid.affine[:3, [2, 1]] / [steps[2], steps[1]]).T.ravel().tolist()
    places = grid.places().tolist()
    like = deepcopy(own[series.planes[0].part])  # the tags highdicom reads from a source image
    like.SOPClassUID, like.Modality, like.SeriesInstanceUID = CT, "CT", series.uid
    like.Rows, like.Columns = grid.numbers.shape[1:]
    like.ImagePositionPatient, like.ImageOrientationPatient = places[0], across
    like.PixelSpacing, like.SpacingBetweenSlices = steps[1:], steps[0]
    like.SliceThickness = series.facts.thickness_mm or steps[0]
    denovox = hd.AlgorithmIdentificationSequence(
        "denovox", codes.cid7162.ArtificialIntelligence, __version__
    )
    segments = [
        hd.seg.SegmentDescription(
            number,
            name[:64],
            hd.sr.CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure"),
            hd.sr.CodedConcept("52988006", "SCT", "Lesion"),
            hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            denovox,
            tracking_uid=hd.UID(),
            tracking_id=f"denovox lesion {number}",
        )
        for number, name in enumerate(names, 1)
    ]
    return hd.seg.Segmentation(
        [like],
        grid.numbers,
        hd.seg.SegmentationTypeValues.BINARY,
        segments,
        series_instance_uid=hd.UID(),
        series_number=NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="denovox",
        manufacturer_model_name="denovox",
        software_versions=__version__,
        device_serial_number="none",
        content_label="LESIONS",
        content_description=description[:64],
        series_description=description[:64],
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        specific_character_set="ISO_IR 192",  # whatever the encoding of the source
        plane_positions=[hd.PlanePositionSequence("PATIENT", place) for place in places],
    )


def _refer(
    seg: Any, grid: _Grid, series: Series, own: dict[Part, Dataset], straightened: bool
) -> None:
    """Reference the images of the series: all as sources, and per frame the one it lies on.

    Done here because highdicom requires every plane to match an image within 1e-3 mm, whereas a
    series counts as even within 0.02 mm; and because an Enhanced CT may be several files.
    """
    from pydicom.sr.codedict import codes

    seg.SourceImageSequence = [_reference(tags) for tags in own.values()]
    listed = Dataset()
    listed.SeriesInstanceUID = series.uid
    listed.ReferencedInstanceSequence = [_reference(tags) for tags in own.values()]
    seg.ReferencedSeriesSequence = [listed]
    at: dict[int, list[Dataset]] = {}
    for plane in series.planes if not straightened else ():
        image = _reference(own[plane.part])
        if image.ReferencedSOPClassUID in ENHANCED:
            image.ReferencedFrameNumber = plane.frame + 1
        image.SpatialLocationsPreserved = "YES"
        image.PurposeOfReferenceCodeSequence = [
            _code(codes.cid7202.SourceImageForImageProcessingOperation)
        ]
        at.setdefault(grid.slice_at(plane.place), []).append(image)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        images = at.get(grid.slice_at(np.array(place, float)), [])
        derived = Dataset()
        derived.DerivationCodeSequence = [_code(codes.cid7203.SegmentationImageDerivation)]
        derived.SourceImageSequence = images
        frame.DerivationImageSequence = [derived] if images else []  # type 2


def _reference(tags: Dataset) -> Dataset:
    found = Dataset()
    found.ReferencedSOPClassUID = tags.SOPClassUID
    found.ReferencedSOPInstanceUID = tags.SOPInstanceUID
    return found


def _code(concept: Any) -> Dataset:
    found = Dataset()
    found.CodeValue, found.CodingSchemeDesignator = concept.value, concept.scheme_designator
    found.CodeMeaning = concept.meaning
    return found
