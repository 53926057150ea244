"""DICOM SEG: where lesions were inserted, as an object alongside the CT series.

BINARY, one segment per lesion (PS3.3 A.51, C.8.20), written by highdicom. Frames are on the grid of
the volume, in the slice, row and column order of the series; where they are planes of the series
itself, each frame references the image that it lies on. UIDs of the study and of the frame of
reference that the series lacks are derived from that of the series, so that they are the same in
every run; images without a UID of their own are not referenced.
"""

# mypy: allow-untyped-calls
# (pydicom's functions are untyped)

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from pydicom import Dataset

from ...core.errors import InputError, ensure, line, silent
from ...core.version import __version__
from ...core.volume import Volume
from .. import atomic
from .header import CT, ENHANCED
from .planes import Plane
from .references import code, reference
from .seg_series import Referred, referred
from .values import quiet

SYNTHETIC = "Synthetic lesions by denovox, not the patient's"
NUMBER = 9000  # SeriesNumber; scanners use smaller ones
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def check(
    path: str | Path, volume: Volume, force: bool = False, say: Callable[[str], None] = silent
) -> None:
    """Raise `InputError` if `write` could not write a SEG of a volume; call this before computing.

    say: called with a note on each UID that is generated, and on images that are not referenced.
    """
    atomic.check_writable(path, force, (".dcm",))
    source = referred(volume, path)
    for note in source.notes:
        say(f"{source.path}: {note}")
    one = np.zeros(volume.shape, np.uint8)
    one[0, 0, 0] = 1
    grid = _grid(one, volume, source.series.planes[0])
    k = int(grid.numbers.any((1, 2)).argmax())
    plane = _Grid(grid.numbers[k : k + 1], grid.affine)
    with quiet():
        _object(path, plane, source, ["Lesion 1"], SYNTHETIC).save_as(
            BytesIO(), enforce_file_format=True
        )


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
    `volume.source`. The file is written in full or not at all. Raises `InputError` as `check`
    does, if no voxel is marked, or if writing fails; `ValueError` if the numbers are not on the
    volume's grid.
    """
    atomic.check_writable(path, force, (".dcm",))
    source = referred(volume, path)
    if numbers.shape != volume.shape:
        raise ValueError(f"numbers of {numbers.shape} on a grid of {volume.shape}")
    count = int(numbers.max())
    ensure(count, f"{path} was not written: no voxel is marked as a lesion")
    names = [*labels[:count], *(f"Lesion {k + 1}" for k in range(len(labels), count))]
    grid = _grid(numbers, volume, source.series.planes[0])
    with quiet():  # highdicom warns about names and numbers taken from the source
        seg = _object(path, grid, source, names, description)
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


def _object(
    path: str | Path, grid: _Grid, source: Referred, names: list[str], description: str
) -> Any:
    """The SEG object; `InputError` if the headers of the series make no valid one."""
    try:
        seg = _segmentation(grid, source, names, description)
        _refer(seg, grid, source)
    except (AttributeError, ValueError) as error:
        raise InputError(
            f"{path} cannot be written: the headers of {source.path} make no valid DICOM SEG"
            f" ({line(error)}); convert the series to NIfTI and give that"
        ) from error
    return seg


def _segmentation(grid: _Grid, source: Referred, names: list[str], description: str) -> Any:
    """The SEG object, without references to images."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    steps = np.linalg.norm(grid.affine[:3, :3], axis=0).tolist()
    across = (grid.affine[:3, [2, 1]] / [steps[2], steps[1]]).T.ravel().tolist()
    places = grid.places().tolist()
    series = source.series
    like = deepcopy(source.own[series.planes[0].part])  # what highdicom reads from a source image
    like.SOPClassUID, like.Modality = CT, "CT"
    like.SOPInstanceUID, like.SeriesInstanceUID = hd.UID(), hd.UID()  # `_refer` has the real ones
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


def _refer(seg: Any, grid: _Grid, source: Referred) -> None:
    """Reference the images of the series: all as sources, and per frame the one it lies on.

    Done here because highdicom requires every plane to match an image within 1e-3 mm, whereas a
    series counts as even within 0.02 mm; and because an Enhanced CT may be several files.
    """
    from pydicom.sr.codedict import codes

    own = {part: tags for part, tags in source.own.items() if tags.SOPInstanceUID}
    del seg.SourceImageSequence, seg.ReferencedSeriesSequence  # highdicom's
    if own:
        seg.SourceImageSequence = [_image(tags) for tags in own.values()]
        seg.ReferencedSeriesSequence = []
    for uid in dict.fromkeys(tags.SeriesInstanceUID for tags in own.values()):
        listed = Dataset()
        listed.SeriesInstanceUID = uid
        listed.ReferencedInstanceSequence = [
            _image(tags) for tags in own.values() if tags.SeriesInstanceUID == uid
        ]
        seg.ReferencedSeriesSequence.append(listed)
    at: dict[int, list[Dataset]] = {}
    for plane in () if source.straightened else source.series.planes:
        if plane.part not in own:
            continue
        image = _image(own[plane.part])
        if image.ReferencedSOPClassUID in ENHANCED:
            image.ReferencedFrameNumber = plane.frame + 1
        image.SpatialLocationsPreserved = "YES"
        image.PurposeOfReferenceCodeSequence = [
            code(codes.cid7202.SourceImageForImageProcessingOperation)
        ]
        at.setdefault(grid.slice_at(plane.place), []).append(image)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        images = at.get(grid.slice_at(np.array(place, float)), [])
        derived = Dataset()
        derived.DerivationCodeSequence = [code(codes.cid7203.SegmentationImageDerivation)]
        derived.SourceImageSequence = images
        frame.DerivationImageSequence = [derived] if images else []  # type 2


def _image(tags: Dataset) -> Dataset:
    return reference(tags.SOPClassUID, tags.SOPInstanceUID)
