"""The planes of a DICOM object: where each is, how its values become HU, and what else it states.

PS3.3: C.7.6.2 (Image Plane), C.8.2.1 (CT Image), C.8.15 (Enhanced CT).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from pydicom import Dataset

from ...core.errors import InputError, line
from .files import Part
from .values import numbers, text, texts

MOST_PIXELS = 2**26  # of a plane: 8192 x 8192; more than that means damage
FAR_MM = 1e5
# Tags that tell one acquisition or reconstruction from another where they interleave ...
LABELS = (
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "NominalPercentageOfCardiacPhase",
    "NominalCardiacTriggerDelayTime",
    "TemporalPositionTimeOffset",
    "FrameAcquisitionNumber",
    "EchoNumbers",
    "StackID",
    "KVP",
    "ConvolutionKernel",
    "ImageType",
    "FrameType",
    "SliceThickness",
    "SeriesNumber",
    "SeriesDescription",
    "ProtocolName",
    "PatientID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "IrradiationEventUID",
)
# ... and those that do so by their order.
ORDERS = (
    "TriggerTime",
    "AcquisitionDateTime",
    "FrameAcquisitionDateTime",
    "AcquisitionTime",
    "ContentTime",
    "InstanceNumber",
)
DISTINGUISHING = (*LABELS, *ORDERS, "DimensionIndexValues")
# Tags that repeat what the position and the pixel spacing state.
REPEATING = (
    "SpacingBetweenSlices",
    "SliceLocation",
    "ReconstructionDiameter",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
    "PatientPosition",
    "ConcatenationUID",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
)
_ONCE = {"PixelSpacing": 2, "ImageOrientationPatient": 6, "RescaleSlope": 1, "RescaleIntercept": 1}
NO_SLOPE = "there is no RescaleSlope: stored values were taken as HU"
SAME_VALUE = 0.01  # statements that differ by a larger share contradict each other


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice. place: mm in LPS of its first pixel. row, column: directions in LPS.

    frame: index in its file. spacing_mm: between columns, between rows. size: columns, rows. HU =
    stored * slope + inter. tags: `DISTINGUISHING` and `REPEATING` as text, where present.
    """

    part: Part
    frame: int
    place: Float[np.ndarray, " 3"]
    row: Float[np.ndarray, " 3"]
    column: Float[np.ndarray, " 3"]
    spacing_mm: tuple[float, float]
    size: tuple[int, int]
    slope: float
    inter: float
    tags: dict[str, str]


def classic(part: Part, found: Dataset, remarks: list[str]) -> Iterator[Plane]:
    """The single plane of a CT Image."""
    frames = numbers(found, "NumberOfFrames", 1) or (1.0,)
    if frames != (1.0,):
        raise InputError(f"holds {frames[0]:g} frames without their positions")
    yield _plane(part, 0, found, [found], remarks)


def frames(part: Part, found: Dataset, remarks: list[str]) -> Iterator[Plane]:
    """The planes of an Enhanced CT; per-frame functional groups override the shared ones."""
    shared = list(found.get("SharedFunctionalGroupsSequence") or [])[:1]
    each = list(found.get("PerFrameFunctionalGroupsSequence") or [])
    stated = numbers(found, "NumberOfFrames", 1)
    if stated != (float(len(each)),):
        raise InputError(f"describes {len(each)} frames but states that it has {stated or 'none'}")
    for index, own in enumerate(each):
        in_frame, in_all = _items([own]), _items(shared)
        _agree(index, in_frame, in_all)
        groups = [*in_frame, *in_all, found]  # some writers keep what all share at the top
        types = [value.upper() for group in groups for value in texts(group, "FrameType")]
        if "LOCALIZER" not in types:
            yield _plane(part, index, found, groups, remarks)


def _items(groups: list[Dataset]) -> list[Dataset]:
    """The first item of each functional group; those of vendors may state anything."""
    return [
        item
        for group in groups
        for element in group
        if element.VR == "SQ" and element.value and not element.tag.is_private
        for item in element.value[:1]
    ]


def _agree(index: int, in_frame: list[Dataset], in_all: list[Dataset]) -> None:
    """`InputError` if a frame and what all frames share state different geometry or HU.

    The standard allows one of them only (PS3.3 C.7.6.16), so neither can be trusted.
    """
    for keyword, count in _ONCE.items():
        own, shared = (
            next((values for group in groups if (values := numbers(group, keyword, count))), ())
            for groups in (in_frame, in_all)
        )
        apart = (
            abs(a - b) > SAME_VALUE * max(abs(a), 0.1) for a, b in zip(own, shared, strict=False)
        )
        if any(apart):
            raise InputError(
                f"states a {keyword} of {_shown(own)} for frame {index + 1}, but"
                f" {_shown(shared)} for all frames"
            )


def _shown(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.6g}" for value in values)


def _plane(
    part: Part, frame: int, found: Dataset, groups: list[Dataset], remarks: list[str]
) -> Plane:
    """One plane; `groups` are searched in order for its tags. `InputError` if one is unusable."""

    def need(keyword: str, count: int) -> tuple[float, ...]:
        for group in groups:
            if values := numbers(group, keyword, count):
                return values
        raise InputError(f"has no {keyword}")

    kind = _check_values(found, groups)
    if kind == "US":  # "unspecified", as ITK writes: `scan/gate.py` checks
        remarks.append("RescaleType is unspecified (US): values were taken as HU")
    size = (int(*numbers(found, "Columns", 1) or (0,)), int(*numbers(found, "Rows", 1) or (0,)))
    if min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
        raise InputError(f"claims {size[0]} columns and {size[1]} rows")
    place = np.array(need("ImagePositionPatient", 3))
    row, column = np.array(need("ImageOrientationPatient", 6)).reshape(2, 3)
    between_rows, between_columns = need("PixelSpacing", 2)  # in this order: PS3.3 10.7.1.3
    if np.abs(place).max() > FAR_MM:
        raise InputError(
            "has an implausible position (ImagePositionPatient), too far away for any patient"
        )
    crooked = max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column))
    if not crooked < 1e-2:
        raise InputError("has an ImageOrientationPatient that is not two perpendicular directions")
    if not (1e-3 < between_rows < 100 and 1e-3 < between_columns < 100):
        raise InputError(f"claims pixels of {between_columns:g} x {between_rows:g} mm")
    if any("RescaleSlope" in group for group in groups):
        (slope,), (inter,) = need("RescaleSlope", 1), need("RescaleIntercept", 1)
    elif lone := next((v for group in groups if (v := numbers(group, "RescaleIntercept", 1))), ()):
        raise InputError(f"has a RescaleIntercept of {lone[0]:g} but no RescaleSlope")
    else:  # Type 1 in the standard; `scan/gate.py` checks whether 1 and 0 were meant
        slope, inter = 1.0, 0.0
        remarks.append(NO_SLOPE)
    if not 1e-6 < abs(slope) < 1e6 or abs(inter) > 1e6:
        raise InputError(f"has a rescale slope of {slope:g} and intercept of {inter:g}")
    if text(found, "PhotometricInterpretation") == "MONOCHROME1":
        # PS3.3 C.7.6.3.1.2: only affects display, after the rescale; HU are the same either way.
        remarks.append("MONOCHROME1 only affects display: HU were not inverted")
    tags = {}
    for keyword in (*DISTINGUISHING, *REPEATING):
        values = ("/".join(texts(group, keyword)) for group in groups)
        tags[keyword] = next((value for value in values if value), "")
    return Plane(
        part,
        frame,
        place,
        row,
        column,
        (between_columns, between_rows),
        size,
        slope,
        inter,
        {keyword: value for keyword, value in tags.items() if value},
    )


def _check_values(found: Dataset, groups: list[Dataset]) -> str:
    """The unit of values; `InputError` if stored values cannot be converted to HU."""
    units = (text(group, "RescaleType").upper() for group in groups)
    kind = next((kind for kind in units if kind), "HU")
    if kind not in ("HU", "US"):
        raise InputError(f"is in units of {line(kind)}, not HU (RescaleType)")
    if any("ModalityLUTSequence" in group for group in [found, *groups]):
        raise InputError(
            "maps its values through a table (Modality LUT), not by slope and intercept"
        )
    if numbers(found, "SamplesPerPixel", 1) not in ((), (1.0,)):
        raise InputError("has several samples per pixel, so it is not a CT")
    return kind
