"""The findings of a detection as a DICOM SR: TID 1500 of PS3.16 in a Comprehensive 3D SR.

One measurement group per component (TID 1411), which refers to its segment in the SEG and to the
source series, and one for the scan (TID 1501), with its score. Unverified and preliminary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.sr.coding import Code

from ....core.errors import ensure
from ....core.version import __version__
from ..derived.attributes import Processing
from .frames import identity, settle
from .maps import Z_SCORE
from .seg import ABNORMAL, COMPONENTS, tracking_id
from .source import Referred, objects_of

SERIES_NUMBER = 9002
_MEAN, _MAXIMUM = Code("373098007", "SCT", "Mean"), Code("56851009", "SCT", "Maximum")
_MINIMUM = Code("255605001", "SCT", "Minimum")
_VOLUME, _ML = Code("118565006", "SCT", "Volume"), Code("ml", "UCUM", "milliliter")
_HU_MEAN = Code("112181", "DCM", "Mean Attenuation Coefficient")
_HU = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
_SCORE = Code("246262008", "SCT", "Score")
# Where a component is: of what it consists, or else the region of the body (CID 4 and 4031).
SITES = {
    "lung": Code("39607008", "SCT", "Lung"),
    "airway": Code("89187006", "SCT", "Airway structure"),
    "bone": Code("3138006", "SCT", "Bone"),
    "headneck": Code("774007", "SCT", "Head and Neck"),
    "chest": Code("816094009", "SCT", "Thorax"),
    "abdomen": Code("818981001", "SCT", "Abdomen"),
}


@dataclass(frozen=True)
class Finding:
    """One component. peak_z: of the largest |z|, signed. region: headneck, chest or abdomen.
    tissue: of most of its voxels, in the coarse label map."""

    volume_ml: float
    mean_z: float
    peak_z: float
    mean_hu: float
    region: str
    tissue: str


def report(
    path: str | Path,
    found: Sequence[Finding],
    score: float,
    source: Referred,
    objects: tuple[Dataset, Dataset | None],
    processing: Processing,
) -> Dataset:
    """The object; `InputError` if the headers of the series make no valid one.

    found: in the order of the segments. score: of the scan. objects: the map and the SEG; None
    where there is no component. path: for messages. The same arguments make the same bytes.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    about = [one for one in objects if one is not None]
    facts = (repr(tuple(found)), repr(score), *(str(one.SOPInstanceUID) for one in about))
    named = identity("report", source, repr(processing), *facts)
    series = source.own[source.series.planes[0].part].SeriesInstanceUID
    ensure(
        series,
        f"{path} cannot be written: {source.path} has no valid SeriesInstanceUID, which a report of"
        " findings refers to; choose an output ending in .nii.gz",
    )
    with objects_of(path, source, "SR"):
        denovox = hd.sr.DeviceObserverIdentifyingAttributes(
            uid=named.of("device"),
            name="denovox",
            manufacturer_name="denovox",
            model_name="denovox",
        )
        context = hd.sr.ObservationContext(
            observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, denovox)
        )
        method = hd.sr.AlgorithmIdentification("denovox detect", __version__, [processing.words()])
        groups = [_scan(score, named.of("scan"), method)]
        if objects[1] is not None:
            groups += [
                _component(one, number, objects[1], series, method)
                for number, one in enumerate(found, 1)
            ]
        content = hd.sr.MeasurementReport(
            observation_context=context,
            procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
            imaging_measurements=groups,
        )
        made: Dataset = hd.sr.Comprehensive3DSR(
            evidence=[*about, *source.images.values()],
            content=content[0],
            **named.header(SERIES_NUMBER),
            series_description="denovox detect: findings, for research only",
            is_complete=True,
            specific_character_set="ISO_IR 192",
        )
        settle(made, named, processing)
    return made


def _scan(score: float, uid: str, method: Any) -> Any:
    """The group of the scan: its score."""
    import highdicom as hd

    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid, "denovox scan"),
        algorithm_id=method,
        measurements=[hd.sr.Measurement(_SCORE, _number(score), Z_SCORE.unit)],
    )


def _component(one: Finding, number: int, seg: Dataset, series: str, method: Any) -> Any:
    """The group of a component, with the segment of this number."""
    import highdicom as hd

    segment = seg.SegmentSequence[number - 1]
    measure = hd.sr.Measurement
    site = SITES.get(one.tissue) or SITES.get(one.region)
    most = _MAXIMUM if one.peak_z > 0 else _MINIMUM
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            segment.TrackingUID, tracking_id(COMPONENTS, number)
        ),
        referenced_segment=hd.sr.ReferencedSegment(
            seg.SOPClassUID,
            seg.SOPInstanceUID,
            number,
            source_series=hd.sr.SourceSeriesForSegmentation(series),
        ),
        finding_type=ABNORMAL,
        finding_sites=None if site is None else [hd.sr.FindingSite(site)],
        algorithm_id=method,
        measurements=[
            measure(_VOLUME, _number(one.volume_ml), _ML),
            measure(Z_SCORE.meaning, _number(one.mean_z), Z_SCORE.unit, derivation=_MEAN),
            measure(Z_SCORE.meaning, _number(one.peak_z), Z_SCORE.unit, derivation=most),
            measure(_HU_MEAN, _number(one.mean_hu), _HU),
        ],
    )


def _number(value: float) -> float:
    """With as many digits as the 16 characters of a decimal string hold."""
    return float(f"{value:.6g}")
