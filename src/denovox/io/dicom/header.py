"""The header of a DICOM object: what it is, and the position of its planes.

Read without decoding pixels. PS3.3: C.7.6.2 (Image Plane), C.8.2.1 (CT Image), C.8.15 (Enhanced
CT). pydicom parses; interpretation and validation of values happen here.
"""

# mypy: allow-untyped-calls
# (pydicom's functions are untyped)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID

from ...core.errors import InputError, line
from .files import DAMAGE, Part
from .values import dataset, number_or_none, numbers, quiet, text, texts

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED = (f"{CT}.1", f"{CT}.2")  # Enhanced CT, and classic slices converted to it
DICOMDIR = "1.2.840.10008.1.3.10"
MOST_PIXELS = 2**26  # of a plane: 8192 x 8192; more than that means damage
FAR_MM = 1e5
_DISTINGUISHING = (
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "NominalPercentageOfCardiacPhase",
    "StackID",
    "ConvolutionKernel",
    "KVP",
    "ContentTime",
    "AcquisitionTime",
    "DimensionIndexValues",
    "InstanceNumber",
)
_KEYWORDS = (
    "BitsAllocated BitsStored HighBit Columns Rows ImageOrientationPatient"
    " GantryDetectorTilt ImagePositionPatient ImageType Manufacturer Modality"
    " ModalityLUTSequence NumberOfFrames PatientID PerFrameFunctionalGroupsSequence"
    " PhotometricInterpretation PixelSpacing RescaleIntercept RescaleSlope RescaleType"
    " SOPClassUID SamplesPerPixel SeriesDescription SeriesInstanceUID"
    " SharedFunctionalGroupsSequence SliceThickness SpecificCharacterSet"
).split()
TAGS = [Tag(keyword) for keyword in (*_KEYWORDS, *_DISTINGUISHING)]


@dataclass(frozen=True)
class Facts:
    """What the scanner recorded about a series; empty or None if missing."""

    modality: str = ""
    patient_id: str = ""
    description: str = ""
    manufacturer: str = ""
    kernel: str = ""
    kvp: float | None = None
    thickness_mm: float | None = None
    gantry_degrees: float | None = None


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice. place: mm in LPS of its first pixel. row, column: directions in LPS.

    frame: index in its file. spacing_mm: between columns, between rows. size: columns, rows. HU =
    stored * slope + inter. tags: tags that may distinguish it from another at the same place.
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


@dataclass(frozen=True, eq=False)
class Header:
    """One file. aside: why its planes are not part of a CT volume; fault: why they are unreadable.

    Both are empty if all is well. many: whether it is multi-frame.
    """

    part: Part
    series_uid: str
    facts: Facts
    aside: str
    fault: str
    planes: tuple[Plane, ...]
    many: bool
    remarks: tuple[str, ...]


def header(part: Part) -> Header | None:
    """Read the header of a file; None for a media directory (DICOMDIR), which holds no image.

    Raises `InputError` if it is too damaged to tell which series it belongs to.
    """
    with quiet():
        try:
            with part.open() as file:
                found = dataset(file, TAGS)
            kind = text(found, "SOPClassUID") or text(
                getattr(found, "file_meta", Dataset()), "MediaStorageSOPClassUID"
            )
            if kind == DICOMDIR:
                return None
            series = text(found, "SeriesInstanceUID")
            modality = text(found, "Modality")
            if not kind or not series or not modality:
                raise ValueError("its SOP class, series or modality is missing")
        except DAMAGE as error:
            raise InputError(
                f"{part.name} is a damaged DICOM file ({line(error)}): a slice may be missing;"
                " copy or export it again, or remove the file"
            ) from None
        return _parsed(part, found, kind, series, modality)


def _parsed(part: Part, found: Dataset, kind: str, series: str, modality: str) -> Header:
    """The header of a file whose series is known."""
    aside, fault, many = "", "", False
    planes: tuple[Plane, ...] = ()
    remarks: list[str] = []
    facts = Facts(modality)
    try:
        many = kind in ENHANCED or "PerFrameFunctionalGroupsSequence" in found
        aside = _aside(found, kind, modality)
        facts = _facts(found, modality)
        if not aside:
            planes = tuple(_frames(part, found) if many else _classic(part, found, remarks))
    except InputError as error:
        fault = str(error)
    except DAMAGE as error:
        fault = f"is damaged ({line(error)})"
    return Header(part, series, facts, aside, fault, planes, many, tuple(remarks))


def _aside(found: Dataset, kind: str, modality: str) -> str:
    """Why an object is not a slice of a CT volume; empty if it is one."""
    image = kind == CT or kind in ENHANCED
    if modality != "CT":
        return f"{modality[:16]}, not CT"
    if not image:
        return f"not a CT image ({line(kind_name(kind))})"
    image_type = [value.upper() for value in texts(found, "ImageType")]
    if "LOCALIZER" in image_type or "SCOUT" in image_type:
        return "a localiser"
    if not text(found, "PhotometricInterpretation").startswith("MONOCHROME"):
        return f"not greyscale ({text(found, 'PhotometricInterpretation') or 'unspecified'})"
    return ""


def kind_name(kind: str) -> str:
    """A SOP class in words, where pydicom knows it."""
    return str(UID(kind, validation_mode=0).name)


def _facts(found: Dataset, modality: str) -> Facts:
    """Shown to the user but not required: unreadable values are left out."""
    return Facts(
        modality,
        text(found, "PatientID"),
        text(found, "SeriesDescription"),
        text(found, "Manufacturer"),
        " ".join(texts(found, "ConvolutionKernel")),
        number_or_none(found, "KVP"),
        number_or_none(found, "SliceThickness"),
        number_or_none(found, "GantryDetectorTilt"),
    )


# ---- planes -------------------------------------------------------------------------------------


def _classic(part: Part, found: Dataset, remarks: list[str]) -> Iterator[Plane]:
    """The single plane of a CT Image."""
    frames = numbers(found, "NumberOfFrames", 1) or (1.0,)
    if frames != (1.0,):
        raise InputError(f"holds {frames[0]:g} frames without their positions")
    yield _plane(part, 0, found, [found], remarks)


def _frames(part: Part, found: Dataset) -> Iterator[Plane]:
    """The planes of an Enhanced CT; per-frame functional groups override the shared ones."""
    shared = list(found.get("SharedFunctionalGroupsSequence") or [])[:1]
    each = list(found.get("PerFrameFunctionalGroupsSequence") or [])
    stated = numbers(found, "NumberOfFrames", 1)
    if stated != (float(len(each)),):
        raise InputError(f"describes {len(each)} frames but states that it has {stated or 'none'}")
    for index, own in enumerate(each):
        groups = [
            item
            for group in (own, *shared)
            for element in group
            if element.VR == "SQ" and element.value
            for item in element.value[:1]
        ]
        types = [value.upper() for group in groups for value in texts(group, "FrameType")]
        if "LOCALIZER" not in types:
            yield _plane(part, index, found, groups, [])


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
    if kind == "US":  # "unspecified", as ITK writes: `require_hu` will check
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
    else:  # Type 1 in the standard; `require_hu` will check whether 1 and 0 were meant
        slope, inter = 1.0, 0.0
        remarks.append("there is no RescaleSlope: stored values were taken as HU")
    if not 1e-6 < abs(slope) < 1e6 or abs(inter) > 1e6:
        raise InputError(f"has a rescale slope of {slope:g} and intercept of {inter:g}")
    if text(found, "PhotometricInterpretation") == "MONOCHROME1":
        # PS3.3 C.7.6.3.1.2: only affects display, after the rescale; HU are the same either way.
        remarks.append("MONOCHROME1 only affects display: HU were not inverted")
    where = [found, *(group for group in groups if group is not found)]
    tags = {}
    for keyword in _DISTINGUISHING:
        values = ("/".join(texts(group, keyword)) for group in where)
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
