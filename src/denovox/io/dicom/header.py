"""What a DICOM object says of itself before its pixels: what it is, and where its planes lie.

Read without decoding. PS3.3: C.7.6.2 (Image Plane), C.8.2.1 (CT Image), C.8.15 (Enhanced CT).
pydicom parses; what a value means, and whether it will do, is decided here.
"""

# mypy: allow-untyped-calls
# (pydicom's functions carry no types)

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
MOST_PIXELS = 2**26  # of a plane: 8192 x 8192; what more than that is claimed is damage
FAR_MM = 1e5
_TOLD_APART = (
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
TAGS = [Tag(keyword) for keyword in (*_KEYWORDS, *_TOLD_APART)]


@dataclass(frozen=True)
class Facts:
    """What the scanner said of a series; empty or None where it did not."""

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

    frame: which of its file's. spacing_mm: between columns, between rows. size: columns, rows.
    HU = stored * slope + inter. told: what may tell it from another at the same place.
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
    told: dict[str, str]


@dataclass(frozen=True, eq=False)
class Header:
    """One file. aside: why its planes are no part of a CT volume; fault: why they cannot be read.

    Both are empty where all is well. many: whether it is multi-frame.
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
    """What a file says; None for a directory of a medium (DICOMDIR), which holds no image.

    `InputError` where it is too damaged to say which series it belongs to.
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
                raise ValueError("it does not say of what kind or of which series it is")
        except DAMAGE as error:
            raise InputError(
                f"{part.name} is a damaged DICOM file ({line(error)}): a slice may be lost; copy"
                " or export it again, or take the file away"
            ) from None
        return _judged(part, found, kind, series, modality)


def _judged(part: Part, found: Dataset, kind: str, series: str, modality: str) -> Header:
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
    """What an object is that is no slice of a CT volume, or nothing."""
    image = kind == CT or kind in ENHANCED
    if modality != "CT":
        return f"{modality[:16]}, not CT"
    if not image:
        return f"no CT image ({line(kind_name(kind))})"
    image_type = [value.upper() for value in texts(found, "ImageType")]
    if "LOCALIZER" in image_type or "SCOUT" in image_type:
        return "a localiser"
    if not text(found, "PhotometricInterpretation").startswith("MONOCHROME"):
        return f"no grey image ({text(found, 'PhotometricInterpretation') or 'nothing said'})"
    return ""


def kind_name(kind: str) -> str:
    """A SOP class in words, where pydicom knows it."""
    return str(UID(kind, validation_mode=0).name)


def _facts(found: Dataset, modality: str) -> Facts:
    """What is told to the user, never needed: what is unreadable is left out."""
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
    """The one plane of a CT Image."""
    frames = numbers(found, "NumberOfFrames", 1) or (1.0,)
    if frames != (1.0,):
        raise InputError(f"holds {frames[0]:g} frames and does not say where they lie")
    yield _plane(part, 0, found, [found], remarks)


def _frames(part: Part, found: Dataset) -> Iterator[Plane]:
    """The planes of an Enhanced CT: each frame's own functional groups before the shared ones."""
    shared = list(found.get("SharedFunctionalGroupsSequence") or [])[:1]
    each = list(found.get("PerFrameFunctionalGroupsSequence") or [])
    told = numbers(found, "NumberOfFrames", 1)
    if told != (float(len(each)),):
        raise InputError(f"describes {len(each)} frames where it says it has {told or 'none'}")
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
    """One plane; `groups` are searched for what concerns it, in order. `InputError`."""

    def need(keyword: str, count: int) -> tuple[float, ...]:
        for group in groups:
            if values := numbers(group, keyword, count):
                return values
        raise InputError(f"does not say its {keyword}")

    kind = _check_values(found, groups)
    if kind == "US":  # "unspecified", as ITK writes: `require_hu` will see
        remarks.append("RescaleType says no unit (US): values were taken for HU")
    size = (int(*numbers(found, "Columns", 1) or (0,)), int(*numbers(found, "Rows", 1) or (0,)))
    if min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
        raise InputError(f"says it has {size[0]} columns and {size[1]} rows")
    place = np.array(need("ImagePositionPatient", 3))
    row, column = np.array(need("ImageOrientationPatient", 6)).reshape(2, 3)
    between_rows, between_columns = need("PixelSpacing", 2)  # in this order: PS3.3 10.7.1.3
    if np.abs(place).max() > FAR_MM:
        raise InputError("says it lies further away than any patient (ImagePositionPatient)")
    crooked = max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column))
    if not crooked < 1e-2:
        raise InputError("has an ImageOrientationPatient that is not two perpendicular directions")
    if not (1e-3 < between_rows < 100 and 1e-3 < between_columns < 100):
        raise InputError(f"says its pixels are {between_columns:g} x {between_rows:g} mm")
    if any("RescaleSlope" in group for group in groups):
        (slope,), (inter,) = need("RescaleSlope", 1), need("RescaleIntercept", 1)
    else:  # Type 1 in the standard; `require_hu` will see whether 1 and 0 were meant
        slope, inter = 1.0, 0.0
        remarks.append("no RescaleSlope is given: stored values were taken for HU")
    if not 1e-6 < abs(slope) < 1e6 or abs(inter) > 1e6:
        raise InputError(f"has a rescale slope of {slope:g} and intercept of {inter:g}")
    if text(found, "PhotometricInterpretation") == "MONOCHROME1":
        # PS3.3 C.7.6.3.1.2: how to show grey levels, after HU; CT may say it, and HU stay as are.
        remarks.append("MONOCHROME1 is about display: HU were not inverted")
    where = [found, *(group for group in groups if group is not found)]
    told = {}
    for keyword in _TOLD_APART:
        values = ("/".join(texts(group, keyword)) for group in where)
        told[keyword] = next((value for value in values if value), "")
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
        {keyword: value for keyword, value in told.items() if value},
    )


def _check_values(found: Dataset, groups: list[Dataset]) -> str:
    """The unit of values; `InputError` where stored values cannot become HU as CT's do."""
    said = (text(group, "RescaleType").upper() for group in groups)
    kind = next((kind for kind in said if kind), "HU")
    if kind not in ("HU", "US"):
        raise InputError(f"is in units of {line(kind)}, not HU (RescaleType)")
    if any("ModalityLUTSequence" in group for group in [found, *groups]):
        raise InputError("maps its values by a table (Modality LUT), not by slope and intercept")
    if numbers(found, "SamplesPerPixel", 1) not in ((), (1.0,)):
        raise InputError("has several samples a pixel; it is no CT")
    return kind
