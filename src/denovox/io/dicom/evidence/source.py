"""The series that a DICOM object is about: patient, study and instance tags of its files, cleaned.

UIDs of the study and of the frame of reference that the series lacks are derived from its own UID,
so that they are the same in every run; images without a valid UID of their own are not referenced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag
from pydicom.uid import UID, generate_uid
from pydicom.valuerep import DA, TM, validate_value

from ....core.errors import InputError, ensure, line, silent
from ....core.volume import Volume
from ..derived.slices import grid_of, on_axes
from ..files import DAMAGE, Part, parts
from ..header import CT
from ..reader import DicomSource
from ..series import Series, found_in
from ..values import dataset, quiet

_SHARED = ("StudyInstanceUID", "FrameOfReferenceUID")  # one for all images
_UIDS = (*_SHARED, "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
_MAY = (
    "PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyID StudyDate StudyTime"
    " StudyDescription ReferringPhysicianName PositionReferenceIndicator"
).split()
_TAGS = [Tag(keyword) for keyword in (*_UIDS, *_MAY, "SpecificCharacterSet")]
_MEDIA = {"SOPClassUID": "MediaStorageSOPClassUID", "SOPInstanceUID": "MediaStorageSOPInstanceUID"}
_PARSED = {"DA": DA, "TM": TM}


@dataclass(frozen=True, eq=False)
class Referred:
    """The series of a volume. own: tags of each file, cleaned and completed; SOPInstanceUID is
    empty where a file cannot be referenced."""

    path: Path
    series: Series
    own: dict[Part, Dataset]
    straightened: bool

    @property
    def images(self) -> dict[Part, Dataset]:
        """The files that can be referenced."""
        return {part: tags for part, tags in self.own.items() if tags.SOPInstanceUID}


def referred(
    volume: Volume,
    path: str | Path,
    like: DicomSource | None = None,
    say: Callable[[str], None] = silent,
) -> Referred:
    """The series that `volume` was read from, or `like`; `InputError` if there is none, it has
    changed, or the volume is on another grid.

    path: of the object, for messages. say: called with a note on each UID that is generated, and on
    images that are not referenced.
    """
    source = volume.source if like is None else like
    if not isinstance(source, DicomSource):
        raise InputError(
            f"{path} cannot be written: it references the DICOM series of its scan, and this scan"
            " is not DICOM; give the scan as DICOM, or choose an output ending in .nii.gz"
        )
    with parts(source.path) as (dicom, _):
        series = next((one for one in found_in(dicom) if one.uid == source.series_uid), None)
        if series is None or not series.planes:
            raise InputError(f"{source.path} has changed since it was read; try again")
        files = dict.fromkeys(plane.part for plane in series.planes)
        own = {part: _patient_tags(part) for part in files}
    if source != volume.source:
        _require_grid(path, volume, source, series)
    notes = [_complete(own, keyword, series.uid) for keyword in _SHARED]
    uses = Counter(tags.SOPInstanceUID for tags in own.values())
    lost = [
        tags
        for tags in own.values()
        if not tags.SeriesInstanceUID or not tags.SOPInstanceUID or uses[tags.SOPInstanceUID] > 1
    ]
    for tags in lost:
        tags.SOPInstanceUID = ""
    if lost:
        notes.append(
            f"{len(lost)} of {len(own)} files have no valid UID of their own (SOPInstanceUID,"
            " SeriesInstanceUID), so results in DICOM do not reference them"
        )
    for note in filter(None, notes):
        say(f"{source.path}: {note}")
    return Referred(source.path, series, own, source.straightened)


@contextmanager
def objects_of(
    path: str | Path,
    source: Referred,
    kind: str,
    advice: str = "choose an output ending in .nii.gz",
) -> Iterator[None]:
    """Within the block an object is made: `InputError` if the headers of the series make no valid
    one of its kind. path: of the object."""
    try:
        with quiet():
            yield
    except (AttributeError, ValueError) as error:
        raise InputError(
            f"{path} cannot be written: the headers of {source.path} do not allow a valid DICOM"
            f" {kind} ({line(error)}); {advice}"
        ) from error


def _require_grid(path: str | Path, volume: Volume, source: DicomSource, series: Series) -> None:
    """`InputError`, with both geometries, unless a volume is on the grid of a series."""
    stack, prefix = series.stack, f"{path} cannot be written:"
    fits = stack is not None and not series.fault
    ensure(fits, f"{prefix} {source.path} {series.fault}, so it does not define a grid")
    assert stack is not None
    theirs = grid_of((*stack.size, len(stack.members)), stack.affine_lps())
    own = on_axes(volume.hu, volume.affine, np.stack([stack.row, stack.column, stack.normal]))
    grid_of(own[0].shape, own[1]).require(theirs, f"{prefix} the scan", source.path)


def _complete(own: dict[Part, Dataset], keyword: str, series_uid: str) -> str:
    """Give every file the same UID; returns a note if it is not the files' own."""
    stated = Counter(str(tags[keyword].value) for tags in own.values() if tags[keyword].value)
    uid = next(iter(stated), "") or generate_uid(entropy_srcs=[series_uid, keyword])
    for tags in own.values():
        setattr(tags, keyword, uid)
    if not stated:
        return (
            f"there is no valid {keyword}, so results in DICOM use one derived from the"
            f" SeriesInstanceUID, {uid}"
        )
    if len(stated) > 1:
        return f"there are {len(stated)} values of {keyword}; results use the first, {uid}"
    return ""


def _patient_tags(part: Part) -> Dataset:
    """Patient, study and instance tags of a file; empty where missing or not valid."""
    with quiet():
        try:
            with part.open() as file:
                found = dataset(file, _TAGS)
            media = getattr(found, "file_meta", Dataset())
            tags = {keyword: str(found.get(keyword) or "") for keyword in (*_UIDS, *_MAY)}
            for keyword, other in _MEDIA.items():
                tags[keyword] = tags[keyword] or str(media.get(other) or "")
        except DAMAGE as error:
            raise InputError(f"{part.name} cannot be read ({line(error)}); copy it again") from None
        for keyword in _UIDS:
            if not UID(tags[keyword], validation_mode=0).is_valid:
                tags[keyword] = ""
        tags["SOPClassUID"] = tags["SOPClassUID"] or CT
        for keyword in _MAY:  # after anonymisation, values can be anything
            vr = dictionary_VR(keyword)
            try:
                validate_value(vr, tags[keyword], RAISE)
                _PARSED.get(vr, str)(tags[keyword])
            except ValueError:
                tags[keyword] = ""
        if tags["PatientSex"] not in ("M", "F", "O"):
            tags["PatientSex"] = ""
        clean = Dataset()
        for keyword, value in tags.items():
            setattr(clean, keyword, value)
    return clean
