"""What a derived image inherits from the header of its source, cleaned.

Patient, study, visit, frame of reference, device, acquisition, reconstruction, contrast medium and
windows stay (PS3.3 A.3). Left behind: what describes the pixels, the instance, the series or the
performed procedure step of the source, private elements, overlays, tables, icons, signatures, and
what cannot be decoded. Text becomes UTF-8.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.config import RAISE
from pydicom.datadict import DicomDictionary  # type: ignore[attr-defined]
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSNearLossless,
    JPEGTransferSyntaxes,
)
from pydicom.valuerep import format_number_as_ds, validate_value

from ....core.errors import InputError, line
from ..files import DAMAGE, Part
from ..values import quiet, tags_of, text

_GROUPS = {0x0010, 0x0012, 0x0018, 0x0038}  # patient, trial, acquisition, visit
_BUT = set(
    "ContentQualification SpacingBetweenSlices SecondaryCaptureDeviceID HardcopyCreationDeviceID"
    " DateOfSecondaryCapture TimeOfSecondaryCapture SecondaryCaptureDeviceManufacturer"
    " SecondaryCaptureDeviceManufacturerModelName SecondaryCaptureDeviceSoftwareVersions"
    " VideoImageFormatAcquired DigitalImageFormatAcquired".split()
)
_AND = set(
    "SpecificCharacterSet ImageType SyntheticData StudyDate StudyTime AcquisitionDate"
    " AcquisitionTime AcquisitionDateTime AcquisitionUID AccessionNumber"
    " IssuerOfAccessionNumberSequence Manufacturer InstitutionName InstitutionAddress"
    " InstitutionCodeSequence InstitutionalDepartmentName ReferringPhysicianName"
    " ReferringPhysicianIdentificationSequence PhysiciansOfRecord TimezoneOffsetFromUTC"
    " StationName StudyDescription ProcedureCodeSequence SeriesDescription ManufacturerModelName"
    " AdmittingDiagnosesDescription PerformingPhysicianName OperatorsName ReferencedImageSequence"
    " AnatomicRegionSequence IrradiationEventUID DerivationDescription DerivationCodeSequence"
    " StudyInstanceUID StudyID FrameOfReferenceUID PositionReferenceIndicator SeriesNumber"
    " AcquisitionNumber Laterality ImageLaterality TemporalPositionIdentifier"
    " NumberOfTemporalPositions TemporalResolution SliceLocation WindowCenter WindowWidth"
    " WindowCenterWidthExplanation VOILUTFunction BurnedInAnnotation RecognizableVisualFeatures"
    " QualityControlImage LongitudinalTemporalInformationModified LossyImageCompression"
    " LossyImageCompressionRatio LossyImageCompressionMethod RequestedProcedureDescription"
    " RequestedProcedureCodeSequence RequestingPhysician RequestAttributesSequence"
    " PerformedProtocolCodeSequence AcquisitionContextSequence".split()
)
_FUNCTIONAL = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
_READ = [Tag(keyword) for keyword in (*_FUNCTIONAL, "Rows", "Columns", "NumberOfFrames")]
# Kept as they are written, however wrong: they must match what other systems have.
_IDENTITY = {"StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "AccessionNumber", "StudyID"}
# Names that an Enhanced CT has for what CT Image calls otherwise (PS3.3 C.8.15.3, C.8.2.1).
_CLASSIC = {
    "ExposureTimeInms": "ExposureTime",
    "XRayTubeCurrentInmA": "XRayTubeCurrent",
    "ExposureInmAs": "Exposure",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameAcquisitionDateTime": "AcquisitionDateTime",
}
_TEXT = set("AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT".split())
_NUMBERS = set("AT FD FL SL SS SV UL US UV".split())
_CHECKED = set("AE AS CS DA DS DT IS TM UI UR".split())
# What lossy transfer syntaxes are called in LossyImageCompressionMethod (PS3.3 C.7.6.1.1.5.1).
_LOSSY = dict.fromkeys(JPEGTransferSyntaxes, "ISO_10918_1") | {JPEGLSNearLossless: "ISO_14495_1"}
for _uid in (JPEGLossless, JPEGLosslessSV1, *JPEG2000TransferSyntaxes):
    _LOSSY.pop(_uid, None)


@cache
def _wanted() -> frozenset[BaseTag]:
    """The tags to keep, of the top level."""
    return frozenset(
        Tag(tag)
        for tag, (*_, name) in DicomDictionary.items()
        if name in _AND or (tag >> 16 in _GROUPS and name not in _BUT)
    )


def read(part: Part) -> Dataset:
    """The header of a file, without pixels; `InputError` if it cannot be read."""
    return tags_of(part, [*_wanted(), *_READ])


def inherited(part: Part, found: Dataset, frame: int) -> Dataset:
    """The cleaned header of a slice, from what `read` returned for its file.

    frame: its index in a multi-frame file. `InputError` if it cannot be interpreted.
    """
    with quiet():
        try:
            many = any(keyword in found for keyword in _FUNCTIONAL)
            out = _clean(_flattened(found, frame) if many else found, _wanted())
            _lossy(found, out, part.size)
            _window(out)
            return out
        except DAMAGE as error:
            raise InputError(f"{part.name} cannot be read ({line(error)}); copy it again") from None


def _flattened(found: Dataset, frame: int) -> Dataset:
    """A frame of an Enhanced CT as the header of a single image."""
    flat = Dataset()
    own = list(found.get(_FUNCTIONAL[0]) or [])[frame : frame + 1]
    shared = list(found.get(_FUNCTIONAL[1]) or [])[:1]
    for groups in (*shared, *own):
        for group in groups:
            if group.VR == "SQ" and group.value and not group.tag.is_private:
                flat.update(group.value[0])
    for tag in found.keys() - {Tag("ImageType"), *_READ}:
        flat[tag] = found.get_item(tag)
    for enhanced, classic in _CLASSIC.items():
        value = flat.get(enhanced)
        if value is not None and classic not in flat:
            numeric = isinstance(value, int | float)
            setattr(flat, classic, round(value) if numeric else value)
        flat.pop(enhanced, None)
    return flat


def _clean(found: Dataset, wanted: frozenset[BaseTag] | None = None) -> Dataset:
    """A copy of what can be decoded and is worth keeping; nothing private, nothing empty.

    wanted: tags of the top level; None inside sequences, where all is kept.
    """
    out = Dataset()
    for tag in sorted(found.keys()):
        if tag.is_private or tag == 0x00080005 or (wanted is not None and tag not in wanted):
            continue
        try:
            element = found[tag]
            if element.VR == "SQ":
                items = [item for item in map(_clean, element.value) if len(item)]
                if items:
                    out.add_new(tag, "SQ", items)
            elif element.VR in _NUMBERS and not element.is_empty:
                out.add_new(tag, element.VR, element.value)
            elif element.VR in _TEXT and not element.is_empty:
                values = _valid(element)
                if any(values):
                    out.add_new(tag, element.VR, values if len(values) > 1 else values[0])
        except DAMAGE:
            continue
    return out


def _valid(element: DataElement) -> list[str]:
    """The values of an element as text; none if one of them is not valid and cannot be mended."""
    several: Any = element.value if element.VM > 1 else [element.value]
    values = [str(value) for value in several]
    if element.VR not in _CHECKED or element.keyword in _IDENTITY:
        return values
    return [_mended(element.VR, value) for value in values]


def _mended(vr: str, value: str) -> str:
    """A value that PS3.5 6.2 allows; `ValueError` if there is none close to it."""
    if vr == "CS":
        value = value.upper()
    elif vr == "DS" and len(value) > 16:
        value = format_number_as_ds(float(value))
    validate_value(vr, value, RAISE)
    return value


def _lossy(found: Dataset, out: Dataset, size_bytes: int) -> None:
    """Once lossy, always lossy (PS3.3 C.7.6.1.1.5), whether or not the source states it."""
    method = _LOSSY.get(UID(text(getattr(found, "file_meta", Dataset()), "TransferSyntaxUID")))
    if method is None:
        return
    out.LossyImageCompression = "01"
    if "LossyImageCompressionMethod" not in out:
        out.LossyImageCompressionMethod = method
    if "LossyImageCompressionRatio" not in out:
        raw = 2 * int(found.get("Rows", 0)) * int(found.get("Columns", 0))
        raw *= int(found.get("NumberOfFrames") or 1)
        out.LossyImageCompressionRatio = f"{max(1.0, raw / size_bytes):.4g}"


def _window(out: Dataset) -> None:
    """Drop windows that are not pairs of a centre and a width."""
    centres, widths = (out.get(name) for name in ("WindowCenter", "WindowWidth"))
    pairs = [list(each) if hasattr(each, "__iter__") else [each] for each in (centres, widths)]
    fine = centres is not None and widths is not None and len(pairs[0]) == len(pairs[1])
    if not fine or any(width < 1 for width in pairs[1]):
        for name in ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation"):
            out.pop(name, None)
