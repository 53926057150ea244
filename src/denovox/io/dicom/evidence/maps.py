"""DICOM Parametric Map: z-scores or SDs of every voxel, in float32 (PS3.3 A.75, C.8.32).

highdicom builds the header; the voxels are a stream, so that few slices are in memory beside the
map itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydicom import Dataset
from pydicom.sr.coding import Code

from ....core.errors import ensure
from ....core.volume import Volume
from ... import atomic
from .. import output
from ..derived.attributes import Processing
from ..derived.slices import TOGETHER
from ..reader import DicomSource
from ..references import code
from ..values import quiet
from .frames import Frames, Identity, frames_of, identity, refer, settle, stand_in
from .source import Referred, objects_of, referred

SERIES_NUMBER = 9001
_CALCULATED = Code("113097", "DCM", "Unspecified method of calculation")  # CID 7203
_BODY = Code("38266002", "SCT", "Entire body")  # whatever the scan covers of it


@dataclass(frozen=True)
class Quantity:
    """What a map is of. label: ContentLabel, at most 16 characters. words: the same in words.
    meaning, unit: codes of CID 7180 and of UCUM."""

    label: str
    words: str
    meaning: Code
    unit: Code


Z_SCORE = Quantity(
    "ANOMALY_Z",
    "Anomaly z-scores (0: not scored)",
    Code("113071", "DCM", "Z-score"),
    Code("1", "UCUM", "no units"),
)
SD = Quantity(
    "POSTERIOR_SD",
    "SD of posterior samples",
    Code("112183", "DCM", "Standard Deviation of Attenuation Coefficient"),
    Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
)


def check(
    path: str | Path, volume: Volume, force: bool = False, like: DicomSource | None = None
) -> None:
    """Raise `InputError` if `write` could not write a map of a volume; call this before computing.

    Arguments as for `write`.
    """
    atomic.check_writable(path, force, (".dcm",))
    source = referred(volume, path, like)
    few = Volume(np.zeros((*volume.shape[:2], 1), np.float32), volume.affine)
    parametric_map(path, few, SD, source, Processing("denoise"))


def write(
    path: str | Path,
    values: Volume,
    quantity: Quantity,
    processing: Processing,
    force: bool = False,
    like: DicomSource | None = None,
) -> None:
    """Write a map on the grid of a DICOM series.

    values: in place of HU; its source, or `like`, is the series. The file is written in full or not
    at all. `InputError` as in `check`, if values are not finite, or if writing fails.
    """
    atomic.check_writable(path, force, (".dcm",))
    source = referred(values, path, like)
    with quiet():
        output.write(path, parametric_map(path, values, quantity, source, processing))


def parametric_map(
    path: str | Path, values: Volume, quantity: Quantity, source: Referred, processing: Processing
) -> Dataset:
    """The object; `InputError` if values are not finite, or the headers of the series make none.

    path: for messages. The same arguments make the same bytes.
    """
    low, high = float(values.hu.min()), float(values.hu.max())
    finite = np.isfinite(low) and np.isfinite(high)
    ensure(finite, f"{path} was not written: some of its voxels are NaN or infinite")
    frames = frames_of(values.hu, values, source)
    named = identity("map", source, repr(quantity), repr(processing), frames.digest())
    with objects_of(path, source, "Parametric Map"):
        found = _header(frames, quantity, source, processing, named, (low, high))
        _sort(found, frames)
        refer(found, frames, source, _CALCULATED, processing)
        settle(found, named, processing)
    found.ContentCreatorName = None  # type 2
    anatomy = Dataset()  # dcmqi, and so 3D Slicer, reads no map without it
    anatomy.FrameLaterality, anatomy.AnatomicRegionSequence = "U", [code(_BODY)]
    found.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
    found.Columns, found.Rows, _ = frames.values.shape
    found.FloatPixelData = BufferedReader(Stream(frames.values), 2**20)
    return found


def _sort(found: Any, frames: Frames) -> None:
    """Put the frames into the order of the slices, which highdicom reverses: dcmqi assumes it."""
    places = {
        frames.slice_at(np.array(one.PlanePositionSequence[0].ImagePositionPatient, float)): one
        for one in found.PerFrameFunctionalGroupsSequence
    }
    found.PerFrameFunctionalGroupsSequence = [places[k] for k in sorted(places)]
    for k, one in enumerate(found.PerFrameFunctionalGroupsSequence):
        one.FrameContentSequence[0].DimensionIndexValues = k + 1


def _header(
    frames: Frames,
    quantity: Quantity,
    source: Referred,
    processing: Processing,
    named: Identity,
    span: tuple[float, float],
) -> Any:
    """The object without its voxels, and without references to images."""
    import highdicom as hd

    one = stand_in(frames, source)
    one.Rows = one.Columns = 1
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    widest = high if low == 0 else 2 * max(-low, high)
    description = f"denovox {processing.command}: {quantity.words}"[:64]
    return hd.pm.ParametricMap(
        [one],
        np.zeros((frames.values.shape[2], 1, 1), np.float32),
        **named.header(SERIES_NUMBER),
        device_serial_number="none",
        # Where a map is 0 outside the body, the surface of a face can be rendered from it.
        contains_recognizable_visual_features=True,
        real_world_value_mappings=[
            hd.pm.RealWorldValueMapping(
                lut_label=quantity.label,
                lut_explanation=quantity.words,
                unit=quantity.unit,
                value_range=span,
                slope=1.0,
                intercept=0.0,
                quantity_definition=quantity.meaning,
            )
        ],
        voi_lut_transformations=[
            hd.VOILUTTransformation(
                window_center=round(high / 2, 3) if low == 0 else 0.0,
                window_width=round(max(widest, 1.0), 3),
            )
        ],
        content_label=quantity.label,
        content_description=description,
        series_description=description,
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        specific_character_set="ISO_IR 192",
        plane_positions=[
            hd.PlanePositionSequence("PATIENT", place) for place in frames.places.tolist()
        ],
    )


class Stream(RawIOBase):
    """An array as float32 in the order of DICOM; a few slices are converted at a time."""

    def __init__(self, values: Float[np.ndarray, "columns rows slices"]) -> None:
        self._values, self._at = values, 0
        self._block, self._first = np.zeros(0, np.uint8), -1

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, as files do."""
        ends = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: 4 * self._values.size}
        self._at = max(0, ends[whence] + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the beginning of a buffer; 0 at the end."""
        each = 4 * self._values.shape[0] * self._values.shape[1]
        k = self._at // each // TOGETHER * TOGETHER
        if k != self._first:
            block = np.ascontiguousarray(self._values[..., k : k + TOGETHER].T, "<f4")
            self._block, self._first = block.reshape(-1).view(np.uint8), k
        piece = self._block[self._at - k * each :][: len(buffer)]
        buffer[: len(piece)] = piece.data
        self._at += len(piece)
        return len(piece)
