"""DICOM SEG: lesions, components of an anomaly map, or replaced regions.

BINARY, one segment per number of a mask (PS3.3 A.51, C.8.20), written by highdicom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8, UInt16
from pydicom import Dataset
from pydicom.sr.coding import Code

from ....core.errors import ensure, silent
from ....core.version import __version__
from ....core.volume import Volume
from ... import atomic
from .. import output
from ..derived.attributes import Processing
from ..reader import DicomSource
from ..values import quiet
from .frames import Frames, Identity, frames_of, identity, refer, settle, stand_in
from .source import Referred, objects_of, referred

Numbers = UInt8[np.ndarray, "x y z"] | UInt16[np.ndarray, "x y z"]
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
SERIES_NUMBER = 9000  # scanners use smaller ones


@dataclass(frozen=True)
class Content:
    """What the segments of an object are. label: ContentLabel. name: of a segment, before its
    number. description: of series and content, up to 64 characters. category, kind: codes of CID
    7150 and 7151."""

    label: str
    name: str
    description: str
    category: Code
    kind: Code


LESIONS = Content(
    "LESIONS",
    "Lesion",
    "Synthetic lesions by denovox, not the patient's",
    ABNORMAL,
    Code("52988006", "SCT", "Lesion"),
)
COMPONENTS = Content(
    "ANOMALIES", "Component", "denovox detect: components of the anomaly map", ABNORMAL, ABNORMAL
)
REPLACED = Content(
    "REPLACED",
    "Region",
    "Replaced by denovox, not the patient's",
    Code("309825002", "SCT", "Spatial and Relational Concept"),
    Code("111099", "DCM", "Selected region"),
)


@dataclass(frozen=True)
class How:
    """How a SEG is written. processing: what denovox did. labels: of the segments, in order;
    "Lesion 3" and so on where missing. like: the series that it is about; None: the one that the
    volume was read from."""

    processing: Processing
    labels: Sequence[str] = ()
    content: Content = LESIONS
    force: bool = False
    like: DicomSource | None = None


def check(
    path: str | Path,
    volume: Volume,
    force: bool = False,
    say: Callable[[str], None] = silent,
    like: DicomSource | None = None,
) -> None:
    """Raise `InputError` if `write` could not write a SEG of a volume; call this before computing.

    say: called with a note on each UID that is generated, and on images that are not referenced.
    """
    atomic.check_writable(path, force, (".dcm",))
    source = referred(volume, path, like, say)
    one = np.zeros(volume.shape, np.uint8)
    one[0, 0, 0] = 1
    with quiet():
        found = segmentation(path, one, volume, source, How(Processing("lesion")))
        found.save_as(BytesIO(), enforce_file_format=True)


def write(path: str | Path, numbers: Numbers, volume: Volume, how: How) -> None:
    """Write the numbers 1, 2, ... (0: none) on the grid of a volume that was read from DICOM.

    Patient, study and frame of reference are read again from the series. The file is written in
    full or not at all. Raises `InputError` as `check` does, if no voxel is marked, or if writing
    fails; `ValueError` if the numbers are not on the volume's grid.
    """
    atomic.check_writable(path, how.force, (".dcm",))
    source = referred(volume, path, how.like)
    if numbers.shape != volume.shape:
        raise ValueError(f"numbers of {numbers.shape} on a grid of {volume.shape}")
    ensure(numbers.any(), f"{path} was not written: no voxel is marked")
    with quiet():  # highdicom warns about names and numbers taken from the source
        output.write(path, segmentation(path, numbers, volume, source, how))


def layered(
    outer: Bool[np.ndarray, "x y z"], inner: Bool[np.ndarray, "x y z"] | None = None
) -> UInt8[np.ndarray, "x y z"]:
    """Numbers of two masks: 1 in the outer one, 2 where the inner one is set as well."""
    numbers = outer.astype(np.uint8)
    if inner is not None:
        numbers[outer & inner] = 2
    return numbers


def segmentation(
    path: str | Path, numbers: Numbers, volume: Volume, source: Referred, how: How
) -> Dataset:
    """The object; `InputError` if the headers of the series make no valid one.

    path: for messages. The same arguments make the same bytes.
    """
    from pydicom.sr.codedict import codes

    count, content = int(numbers.max()), how.content
    names = list(how.labels[:count])
    names += [f"{content.name} {k + 1}" for k in range(len(names), count)]
    whole = frames_of(numbers, volume, source)
    marked = np.flatnonzero(whole.values.any((0, 1)))
    frames = whole.between(int(marked[0]), int(marked[-1]) + 1)
    facts = (*names, repr(content), repr(how.processing))
    named = identity("seg", source, *facts, frames.digest())
    with objects_of(path, source, "SEG", "convert the series to NIfTI and give that"):
        found = _segmentation(frames, source, names, content, named)
        refer(found, frames, source, codes.cid7203.SegmentationImageDerivation, how.processing)
        settle(found, named, how.processing)
    return found


def _segmentation(
    frames: Frames, source: Referred, names: list[str], content: Content, named: Identity
) -> Any:
    """The SEG object, without references to images."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    denovox = hd.AlgorithmIdentificationSequence(
        "denovox", codes.cid7162.ArtificialIntelligence, __version__
    )
    segments = [
        hd.seg.SegmentDescription(
            number,
            name[:64],
            content.category,
            content.kind,
            hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            denovox,
            tracking_uid=named.of(f"segment {number}"),
            tracking_id=tracking_id(content, number),
        )
        for number, name in enumerate(names, 1)
    ]
    return hd.seg.Segmentation(
        [stand_in(frames, source)],
        np.ascontiguousarray(frames.values.T),
        hd.seg.SegmentationTypeValues.BINARY,
        segments,
        **named.header(SERIES_NUMBER),
        device_serial_number="none",
        content_label=content.label,
        content_description=content.description[:64],
        series_description=content.description[:64],
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        specific_character_set="ISO_IR 192",  # whatever the encoding of the source
        plane_positions=[
            hd.PlanePositionSequence("PATIENT", place) for place in frames.places.tolist()
        ],
    )


def tracking_id(content: Content, number: int) -> str:
    """What a segment is called wherever it is referred to."""
    return f"denovox {content.name.lower()} {number}"
