"""The header of a DICOM object: what it is, and the position of its planes.

Read without decoding pixels. PS3.3: C.7.6.2 (Image Plane), C.8.2.1 (CT Image), C.8.15 (Enhanced
CT). pydicom parses; interpretation and validation of values happen here.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID

from ...core.errors import InputError, ensure, line
from .files import DAMAGE, Part
from .planes import DISTINGUISHING, REPEATING, Plane, classic, frames
from .values import dataset, number_or_none, quiet, text, texts

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED = (f"{CT}.1", f"{CT}.2")  # Enhanced CT, and classic slices converted to it
DICOMDIR = "1.2.840.10008.1.3.10"
_KEYWORDS = (
    "BitsAllocated BitsStored HighBit Columns Rows ImageOrientationPatient"
    " GantryDetectorTilt ImagePositionPatient ImageType Manufacturer Modality"
    " ModalityLUTSequence NumberOfFrames PatientID PerFrameFunctionalGroupsSequence"
    " PhotometricInterpretation PixelSpacing RescaleIntercept RescaleSlope RescaleType"
    " SOPClassUID SamplesPerPixel SeriesDescription SeriesInstanceUID"
    " SharedFunctionalGroupsSequence SliceThickness SpecificCharacterSet StudyInstanceUID"
).split()
TAGS = [Tag(keyword) for keyword in (*_KEYWORDS, *DISTINGUISHING, *REPEATING)]


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
    study_uid: str = ""


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
            image = "Rows" in found
            if not (series or kind or modality or image):
                raise ValueError("its SOP class, series and modality are missing")
        except DAMAGE as error:
            raise InputError(
                f"{part.name} is a damaged DICOM file ({line(error)}): a slice may be missing;"
                " copy or export it again, or remove the file"
            ) from None
        remarks: list[str] = []
        if not kind and modality == "CT" and image:  # ACR-NEMA had no such tag
            kind = CT
            remarks.append("the SOPClassUID is missing (0008,0016): read as CT by its Modality")
        if not modality and kind in (CT, *ENHANCED):
            modality = "CT"
            remarks.append("the Modality is missing (0008,0060): read as CT by its SOPClassUID")
        for name, tag, value in (
            ("SeriesInstanceUID", "0020,000E", series),
            ("SOPClassUID", "0008,0016", kind or modality),
            ("Modality", "0008,0060", kind or modality),
        ):
            what = "its series" if name == "SeriesInstanceUID" else "whether it is CT"
            ensure(
                value,
                f"{part.name}: its {name} is missing ({tag}), so it does not state {what}; export"
                " it again with that tag, or remove the file",
            )
        return _parsed(part, found, (kind, series, modality), remarks)


def _parsed(part: Part, found: Dataset, known: tuple[str, str, str], remarks: list[str]) -> Header:
    """The header of a file of a known (kind, series, modality)."""
    kind, series, modality = known
    aside, fault, many = "", "", False
    planes: tuple[Plane, ...] = ()
    facts = Facts(modality)
    try:
        many = kind in ENHANCED or "PerFrameFunctionalGroupsSequence" in found
        aside = _aside(found, kind, modality)
        facts = _facts(found, modality)
        if not aside:
            planes = tuple(frames(part, found, remarks) if many else classic(part, found, remarks))
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
        return f"not a CT image ({line(UID(kind, validation_mode=0).name)})"
    image_type = [value.upper() for value in texts(found, "ImageType")]
    if "LOCALIZER" in image_type or "SCOUT" in image_type:
        return "a localiser"
    colours = text(found, "PhotometricInterpretation")
    ensure(colours, "has no PhotometricInterpretation")  # or a slice would be lost
    return "" if colours.startswith("MONOCHROME") else f"not greyscale ({colours})"


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
        text(found, "StudyInstanceUID"),
    )
