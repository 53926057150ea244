"""The attributes of a derived CT image that are new: what it is, where it is, what it stores.

PS3.3: C.7.6.1 General Image, C.7.6.2 Image Plane, C.7.6.3 Image Pixel, C.8.2.1 CT Image, C.7.5.2
Enhanced General Equipment, C.12.1 SOP Common. No file access here.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int16
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from ....core.errors import ensure, line
from ....core.version import __version__
from ..header import CT, ENHANCED
from ..references import code, reference
from .origin import Near
from .slices import Rescale, Slices

_NAMESPACE = uuid.UUID("8d8f4a3a-6d0c-5e58-9c53-0f2b9a7d5e11")  # of all UIDs made here
THICKER = 0.01  # slices spaced this much differently have a thickness of their own
_DERIVED_FROM = 1000  # is added to the source's SeriesNumber
# Type 2 of a CT Image: empty where unknown.
_MAY_BE_EMPTY = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName"
    " StudyID AccessionNumber PositionReferenceIndicator Manufacturer PatientPosition"
    " SliceThickness KVP AcquisitionNumber"
).split()
# BodyPartExamined of paired parts (PS3.16 L), whose Laterality is type 2C.
_PAIRED = set(
    "UNKNOWN ANKLE ARM AXILLA BREAST CALF CLAVICLE EAR ELBOW EXTREMITY EYE FEMUR FIBULA FINGER FOOT"
    " FOREARM HAND HIP HUMERUS KIDNEY KNEE LEG LUNG ORBIT PATELLA RADIUS SCAPULA SHOULDER THIGH"
    " THUMB TIBIA TOE ULNA WRIST ZYGOMA".split()
)
_SOURCE = Code("121322", "DCM", "Source image for image processing operation")  # CID 7202
_PROCESSING = Code("109102", "DCM", "Processing Equipment")  # CID 7005
_SYNTHESIZING = Code("109100", "DCM", "Synthesizing Equipment")


@dataclass(frozen=True)
class _Derivation:
    """words: for DerivationDescription. code: of CID 7203, the closest that it has. synthetic:
    whether image content was generated. new_grid: whether the slices are not those of the
    source."""

    words: str
    code: Code | None
    synthetic: bool
    new_grid: bool = False


_RESAMPLING = Code("113085", "DCM", "Spatial resampling")
_BY = "by a 3D diffusion model"
_EDITING = Code("113077", "DCM", "Volume editing")
DERIVATIONS = {
    "denoise": _Derivation(f"noise reduced {_BY}", Code("113087", "DCM", "Smoothing"), False),
    "superres": _Derivation(
        f"thin slices estimated from thick ones {_BY}", _RESAMPLING, False, True
    ),
    "lesion": _Derivation(f"lesions inserted or removed {_BY}", _EDITING, True),
    "inpaint": _Derivation(f"regions replaced {_BY}", _EDITING, True),
    "synthesize": _Derivation(f"synthesised {_BY}, not acquired from any patient", None, True),
    "detect": _Derivation(f"compared with healthy scans {_BY}", None, False),
    "simulate low-dose": _Derivation("noise of a lower dose added by simulation", None, True),
    "simulate thick-slices": _Derivation(
        "slices averaged into thicker ones by simulation", _RESAMPLING, False, True
    ),
}


@dataclass(frozen=True)
class Processing:
    """What denovox did.

    command: one of `DERIVATIONS`. settings: all of them in words, including the seed. weights:
    sha256 of the weights. description: SeriesDescription, cut at 64 characters; by default "denovox
    denoise" (or whatever the command is) and that of the source. thickness_mm: of the slices, where
    they have a new one; by default their spacing.
    """

    command: str
    settings: str = ""
    weights: str = ""
    description: str = ""
    thickness_mm: float | None = None

    def __post_init__(self) -> None:
        known = ", ".join(DERIVATIONS)
        ensure(
            self.command in DERIVATIONS,
            f"{line(self.command)} is not a command that writes a series; give one of {known}",
        )

    @property
    def derivation(self) -> _Derivation:
        """What the command does, for the header."""
        return DERIVATIONS[self.command]

    def words(self) -> str:
        """The whole processing as one line."""
        model = f"weights sha256 {self.weights}" if self.weights else ""
        return "; ".join(filter(None, (self.derivation.words, _plain(self.settings), model)))


def uid(*parts: str | bytes) -> str:
    """A UID that is a function of its parts (PS3.5 B.2: 2.25 and a name-based UUID)."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little") + content)
    return f"2.25.{uuid.uuid5(_NAMESPACE, digest.hexdigest()).int}"


IMPLEMENTATION = uid("implementation")


def meta(kind: str, instance: str) -> FileMetaDataset:
    """The file meta information of an object of a SOP class (PS3.10 7.1)."""
    found = FileMetaDataset()
    found.MediaStorageSOPClassUID, found.MediaStorageSOPInstanceUID = UID(kind), UID(instance)
    found.TransferSyntaxUID = ExplicitVRLittleEndian
    found.ImplementationClassUID = UID(IMPLEMENTATION)
    found.ImplementationVersionName = f"DENOVOX_{__version__}"[:16]
    return found


def describe(found: Dataset, processing: Processing, near: Near | None) -> None:
    """What the image is, how it was made, and of which images (near; None: of none)."""
    derivation = processing.derivation
    old = found.get("ImageType") or []
    kinds = [str(one) for one in ([old] if isinstance(old, str) else old)]
    types = ["DERIVED", "SECONDARY", *(kinds[2:3] if any(kinds[2:3]) else ["AXIAL"])]
    if found.get("MultienergyCTAcquisition") == "YES":  # it requires the fourth (C.8.2.1.1.1)
        types += kinds[3:4]
    # SyntheticData (0008,001C) says the same, but dicom3tools of 2022 takes it for an error.
    found.ImageType = [*types, *["SYNTHETIC"] * derivation.synthetic]
    found.ContentQualification = "RESEARCH"
    said = f"denovox {__version__} {processing.command}: {processing.words()}"
    if earlier := str(found.get("DerivationDescription", "")):
        said += f"; before: {earlier}"
    found.DerivationDescription = said[:1024]
    codes = [*(found.get("DerivationCodeSequence") or [])]
    codes += [code(derivation.code)] if derivation.code is not None else []
    if codes:
        found.DerivationCodeSequence = codes
    if near is None:
        found.BurnedInAnnotation = "NO"
        found.Manufacturer = found.ManufacturerModelName = "denovox"
        found.SoftwareVersions = __version__
    elif images := list(_sources(near)):
        found.SourceImageSequence = images
    earlier_equipment = found.get("ContributingEquipmentSequence") or []
    ours = equipment(processing, _SYNTHESIZING if near is None else _PROCESSING)
    found.ContributingEquipmentSequence = [*earlier_equipment, ours]
    title = f"denovox {processing.command} " + "SYNTHETIC" * (near is None)
    title = processing.description or f"{title}{found.get('SeriesDescription', '')}"
    found.SeriesDescription = _plain(title)[:64].strip()
    number = int(found.get("SeriesNumber") or 0)
    found.SeriesNumber = number + _DERIVED_FROM if 0 <= number < 10**9 else _DERIVED_FROM
    _complete(found)


def _complete(found: Dataset) -> None:
    """Add what a CT Image requires, under conditions too, and the source lacks."""
    wanted = list(_MAY_BE_EMPTY)
    if any(element.keyword.startswith("ContrastBolus") for element in found):
        wanted.append("ContrastBolusAgent")
    if (
        str(found.get("BodyPartExamined") or "UNKNOWN") in _PAIRED
        and "ImageLaterality" not in found
    ):
        wanted.append("Laterality")
    for keyword in wanted:
        if keyword not in found:
            setattr(found, keyword, None)
    removed = found.get("PatientIdentityRemoved") == "YES"
    if removed and not any(f"DeidentificationMethod{end}" in found for end in ("", "CodeSequence")):
        found.DeidentificationMethod = "not stated in the source"  # type 1C


def _plain(text: str) -> str:
    """Text for one value: a backslash would begin another (PS3.5 6.2)."""
    return " ".join(text.replace("\\", "/").split())


def _sources(near: Near) -> Iterable[Dataset]:
    """References to the source slices; none to images without a UID."""
    for plane in near.planes:
        kind, instance = near.origin.images[plane.part]
        if not kind or not instance:
            continue
        image = reference(kind, instance)
        if kind in ENHANCED:
            image.ReferencedFrameNumber = plane.frame + 1
        image.SpatialLocationsPreserved = "NO" if near.same is None else "YES"
        image.PurposeOfReferenceCodeSequence = [code(_SOURCE)]
        yield image


def equipment(processing: Processing, purpose: Code = _PROCESSING) -> Dataset:
    """The item of the ContributingEquipmentSequence for denovox; purpose: of CID 7005."""
    found = Dataset()
    found.Manufacturer = found.ManufacturerModelName = "denovox"
    found.SoftwareVersions = __version__
    found.ContributionDescription = processing.words()[:1024]
    found.PurposeOfReferenceCodeSequence = [code(purpose)]
    return found


def locate(
    found: Dataset, slices: Slices, k: int, near: Near | None, thickness_mm: float | None = None
) -> None:
    """Position, directions and spacing; the source's own numbers where the slice is the same.

    thickness_mm: of slices that are not the source's; None: their spacing, if that is new.
    """
    row, column, _ = slices.ways
    place, across = slices.place(k), slices.spacing_mm
    if near is not None and near.same is not None:
        row, column, place = near.same.row, near.same.column, near.same.place
        across = (*near.same.spacing_mm, across[2])
    found.ImagePositionPatient = _decimals(place)
    found.ImageOrientationPatient = _decimals([*row, *column])
    found.PixelSpacing = _decimals([across[1], across[0]])  # between rows comes first: 10.7.1.3
    found.SpacingBetweenSlices = format_number_as_ds(across[2])
    if (
        thickness_mm is not None
        or near is None
        or abs(across[2] / near.origin.stack.median_mm - 1) > THICKER
    ):
        found.SliceThickness = format_number_as_ds(float(thickness_mm or across[2]))
    if near is None or near.same is None:
        found.pop("SliceLocation", None)
    if near is not None and not near.origin.same_plane(slices):
        found.pop("ReconstructionDiameter", None)
    if near is not None and near.origin.source.straightened:
        found.pop("GantryDetectorTilt", None)


def _decimals(numbers: Any) -> list[str]:
    return [format_number_as_ds(float(number) + 0.0) for number in numbers]


def store(found: Dataset, stored: Int16[np.ndarray, "rows columns"], scale: Rescale) -> None:
    """Pixels, their type and their scale; there is no padding, since the reader made it air."""
    found.Rows, found.Columns = stored.shape
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit = 16, 16, 15
    found.PixelRepresentation = 1
    found.add_new("SmallestImagePixelValue", "SS", int(stored.min()))
    found.add_new("LargestImagePixelValue", "SS", int(stored.max()))
    found.RescaleSlope = format_number_as_ds(scale.slope)
    found.RescaleIntercept = format_number_as_ds(scale.inter)
    found.RescaleType = "HU"
    found.add_new("PixelData", "OW", stored.tobytes() + bytes(stored.nbytes % 2))


def identify(found: Dataset, series: str, k: int) -> None:
    """The image's own UID and number, in a series; what is missing of the study around it."""
    found.SpecificCharacterSet = "ISO_IR 192"
    found.SOPClassUID, found.SOPInstanceUID = CT, uid("image", series, str(k))
    found.SeriesInstanceUID, found.InstanceNumber, found.Modality = series, k + 1, "CT"
    found.file_meta = meta(CT, found.SOPInstanceUID)
