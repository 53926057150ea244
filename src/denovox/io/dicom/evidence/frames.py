"""What Segmentations and Parametric Maps have in common: frames on the grid of a volume.

Frames are in the slice, row and column order of the series; where they are planes of the series
itself, each references the image that it is on. UIDs and dates are functions of the content, the
source and the settings, so that the same call writes the same bytes: ContentDate and ContentTime,
which these objects must have, are those of the study.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from pydicom import Dataset

from ....core.version import __version__
from ....core.volume import Volume
from ..derived.attributes import Processing, equipment, meta, uid
from ..derived.slices import blocks, on_axes
from ..header import CT, ENHANCED
from ..references import code, reference
from .source import Referred

NO_DATE, NO_TIME = "19700101", "000000"  # of content, where the study has none


@dataclass(frozen=True, eq=False)
class Frames:
    """values: a view of an array on a volume's grid. affine: (column, row, slice) -> mm in LPS."""

    values: Shaped[np.ndarray, "columns rows slices"]
    affine: Float[np.ndarray, "4 4"]

    @property
    def places(self) -> Float[np.ndarray, "slices 3"]:
        """Positions of each slice's first pixel."""
        steps = np.arange(self.values.shape[2])[:, None] * self.affine[:3, 2]
        return self.affine[:3, 3] + steps

    def slice_at(self, place: Float[np.ndarray, " 3"]) -> int:
        """The index of the slice with this first pixel."""
        return int(np.rint(np.linalg.solve(self.affine, [*place, 1.0])[2]))

    def between(self, first: int, end: int) -> Frames:
        """Some of the slices."""
        affine = self.affine.copy()
        affine[:3, 3] += first * affine[:3, 2]
        return Frames(self.values[..., first:end], affine)

    def digest(self) -> bytes:
        """A hash of the values and where they are."""
        found = hashlib.sha256((self.affine.round(6) + 0.0).tobytes())
        found.update(repr((self.values.shape, self.values.dtype.str)).encode())
        for block in blocks(self.values):
            found.update(np.ascontiguousarray(block.T).data)
        return found.digest()


def frames_of(values: Shaped[np.ndarray, "x y z"], volume: Volume, source: Referred) -> Frames:
    """Values on a volume's grid in the order of its series; nothing is resampled.

    Where they are all of the series, its own numbers count: those of a NIfTI file are rounded.
    """
    stack, plane = source.series.stack, source.series.planes[0]
    ways = np.stack([plane.row, plane.column, np.cross(plane.row, plane.column)])
    found = Frames(*on_axes(values, volume.affine.astype(np.float64), ways))
    if stack is None or source.straightened:
        return found
    whole = found.values.shape == (*stack.size, len(stack.members))
    return replace(found, affine=stack.affine_lps()) if whole else found


@dataclass(frozen=True)
class Identity:
    """UIDs that are a function of the content of an object, its source and the settings."""

    series: str

    @property
    def instance(self) -> str:
        """SOPInstanceUID."""
        return uid("instance", self.series)

    def of(self, part: str) -> str:
        """The UID of something in the object."""
        return uid(part, self.series)

    def header(self, series_number: int) -> dict[str, Any]:
        """What highdicom's objects of any kind take about themselves and what made them."""
        return {
            "series_instance_uid": self.series,
            "series_number": series_number,
            "sop_instance_uid": self.instance,
            "instance_number": 1,
            "manufacturer": "denovox",
            "manufacturer_model_name": "denovox",
            "software_versions": __version__,
        }


def identity(kind: str, source: Referred, *facts: str | bytes) -> Identity:
    """The UIDs of an object of this kind about a series; facts: everything else it depends on."""
    shared = sorted({str(value) for tags in source.own.values() for value in tags.values()})
    return Identity(uid(kind, __version__, source.series.uid, *shared, *facts))


def stand_in(frames: Frames, source: Referred) -> Dataset:
    """What highdicom reads from a source image: one with the patient, the study and this grid.

    Its own UIDs are not used: `refer` writes the references.
    """
    columns, rows, _ = frames.values.shape
    across, down, between = np.linalg.norm(frames.affine[:3, :3], axis=0).tolist()
    ways = frames.affine[:3, :2] / [across, down]
    found = deepcopy(source.own[source.series.planes[0].part])
    found.SOPClassUID, found.Modality = CT, "CT"
    found.SOPInstanceUID = found.SeriesInstanceUID = uid("stand-in")
    found.Rows, found.Columns = rows, columns
    found.ImagePositionPatient = frames.places[0].tolist()
    found.ImageOrientationPatient = ways.T.ravel().tolist()
    found.PixelSpacing, found.SpacingBetweenSlices = [down, across], between
    found.SliceThickness = source.series.facts.thickness_mm or between
    return found


def refer(
    found: Any, frames: Frames, source: Referred, derivation: Any, processing: Processing
) -> None:
    """Reference the images of the series: all as sources, and per frame the one that it is on.

    Done here because highdicom requires every plane to match an image within 1e-3 mm, whereas a
    series counts as even within 0.02 mm; and because an Enhanced CT may be several files.
    derivation: a code of CID 7203.
    """
    from pydicom.sr.codedict import codes

    own = source.images
    found.pop("SourceImageSequence", None)  # highdicom's
    found.pop("ReferencedSeriesSequence", None)
    if own:
        found.SourceImageSequence = [_image(tags) for tags in own.values()]
        found.ReferencedSeriesSequence = []
    for series in dict.fromkeys(tags.SeriesInstanceUID for tags in own.values()):
        listed = Dataset()
        listed.SeriesInstanceUID = series
        listed.ReferencedInstanceSequence = [
            _image(tags) for tags in own.values() if tags.SeriesInstanceUID == series
        ]
        found.ReferencedSeriesSequence.append(listed)
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
        at.setdefault(frames.slice_at(plane.place), []).append(image)
    for frame in found.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        images = at.get(frames.slice_at(np.array(place, float)), [])
        derived = Dataset()
        derived.DerivationDescription = processing.words()[:1024]
        derived.DerivationCodeSequence = [code(derivation)]
        derived.SourceImageSequence = images
        frame.DerivationImageSequence = [derived] if images else []  # type 2


def _image(tags: Dataset) -> Dataset:
    return reference(tags.SOPClassUID, tags.SOPInstanceUID)


def settle(found: Any, named: Identity, processing: Processing) -> None:
    """Everything that highdicom takes from a clock or at random, as a function of the content."""
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime"):
        found.pop(keyword, None)
    found.ContentDate = found.get("StudyDate") or NO_DATE
    found.ContentTime = found.get("StudyTime") or NO_TIME
    for item in _dimensions(found):
        item.DimensionOrganizationUID = named.of("dimensions")
    found.ContributingEquipmentSequence = [equipment(processing)]
    found.file_meta = meta(found.SOPClassUID, found.SOPInstanceUID)


def _dimensions(found: Any) -> Iterator[Any]:
    yield from found.get("DimensionOrganizationSequence", ())
    yield from found.get("DimensionIndexSequence", ())
