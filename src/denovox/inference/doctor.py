"""What `denovox doctor` reports about a scan before it is processed: facts, doubts and costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ..core.config import Settings
from ..core.errors import InputError, shown
from ..core.operators.coloured_noise import WHITE
from ..core.process import return_freed
from ..core.volume import Volume
from ..io import dicom, formats
from ..io.dicom.geometry import TILT_DEGREES
from ..scan import anatomy, geometry_checks, hu_checks, slice_checks
from ..scan.body_regions import RegionSpan, region_spans
from ..scan.constant_fill import PADDING_HU, as_air, fill_sentence, outside_fill
from ..scan.hu_checks import Finding, Severity
from ..scan.noise_map import noise_map
from .cost.commands import Noise, Scan
from .cost.estimate import Cost, costs
from .cost.timing import TileTiming
from .frame import working_grid
from .region_blend import blend_parts
from .scan_context import noise_in, stored_bytes

MARKS: dict[Severity, str] = {"ok": "ok", "note": "note", "doubt": "DOUBT", "refuse": "REFUSED"}


class Region(Settings):
    """Slices [start, stop) along z (inferior to superior): region, reason for it, and noise."""

    region: str
    start: int
    stop: int
    reason: str
    noise_hu: float | None  # SD; None where there is too little soft tissue
    coloured: bool


class Stacking(Settings):
    """How the slices of a DICOM series are positioned, as acquired."""

    series_uid: str
    slices: int
    tilt_degrees: float
    gaps_mm: tuple[tuple[float, int], ...]  # each distinct gap, and its number of occurrences
    kernel: str
    thickness_mm: float | None


class Report(Settings):
    """Everything found in one file or folder. verdict: the worst of the findings.

    Parts are None, or empty, where the scan did not get that far: one that cannot be read has
    findings only, one that is not in HU has no view, regions or costs.
    """

    path: str
    verdict: Severity
    findings: tuple[Finding, ...]
    values: hu_checks.Values | None = None
    geometry: geometry_checks.Geometry | None = None
    stacking: tuple[Stacking, ...] = ()
    view: geometry_checks.View | None = None
    regions: tuple[Region, ...] = ()
    costs: tuple[Cost, ...] = ()

    def __str__(self) -> str:
        """The report as text: one line per finding, the most severe last."""
        lines = [f"{self.path}: {MARKS[self.verdict]}"]
        for one in sorted(self.findings, key=lambda one: hu_checks.ORDER.index(one.severity)):
            advice = f"; {one.advice}" if one.advice else ""
            lines.append(f"  {MARKS[one.severity]:8}{one.sentence}{advice}")
        for part in self.regions:
            noise = "noise unknown" if part.noise_hu is None else f"noise {part.noise_hu:.1f} HU"
            noise += ", coloured" * part.coloured
            where = f"slices {part.start} to {part.stop - 1}"
            lines.append(f"  region  {part.region}, {where}, {noise} ({part.reason})")
        lines += (f"  cost    {run}" for run in self.costs)
        return "\n".join(lines)


def _worst(findings: list[Finding]) -> Severity:
    return max((one.severity for one in findings), key=hu_checks.ORDER.index)


def examine(
    path: str | Path,
    *,
    series: str | None = None,
    straighten: bool = False,
    timing: TileTiming | None = None,
) -> Report:
    """Examine a scan in any format that `io/formats` reads; an unreadable scan is a finding, too.

    series, straighten: as in `io/formats.read`. timing: from `time_tile`, called beforehand;
    without it, no costs are reported.
    """
    path = Path(path)
    notes: list[str] = []
    stacking: tuple[Stacking, ...] = ()
    try:
        stacking = _stacking(path, series)
        volume = formats.read(
            path, series=series, straighten=straighten, padding=PADDING_HU, say=notes.append
        )
    except InputError as error:
        found = [
            *_of_stacking(stacking),
            Finding(code="read", severity="refuse", sentence=str(error)),
        ]
        return Report(
            path=shown(path), verdict=_worst(found), findings=tuple(found), stacking=stacking
        )
    found = [Finding(code="reader", severity="note", sentence=note) for note in notes]
    found += _of_stacking(stacking)
    geometry, more = geometry_checks.check_geometry(volume)
    found += more
    stored_mb = stored_bytes(volume) / 1e6
    if stored_mb:
        volume = replace(volume, source=None)  # the stored values are not needed any more
    found += slice_checks.check_slices(volume)
    values, more = hu_checks.check_values(volume)
    return_freed()  # what glibc keeps of each step adds up
    if any(one.severity == "refuse" for one in (*found, *more)):
        return Report(
            path=shown(path),
            verdict=_worst([*found, *more]),
            findings=(*found, *more),
            stacking=stacking,
            values=values,
            geometry=geometry,
        )
    filled = outside_fill(volume.hu)
    if filled is not None:
        text = fill_sentence(volume.hu, filled)
        found.append(Finding(code="fill", severity="note", sentence=text))
    coarse = anatomy.coarse(volume)
    return_freed()
    values, more = hu_checks.check_values(volume, coarse)
    found += more
    volume = volume.with_hu(as_air(volume.hu, filled))
    view, more = geometry_checks.check_view(volume, coarse)
    found += more
    spans = region_spans(volume, coarse)
    regions = tuple(_region(volume, coarse, span) for span in spans)
    noise = tuple(
        Noise(region.noise_hu or 0.0, noise_map(volume.slices(part.z), coarse[..., part.z]))
        for region, part in zip(regions, blend_parts(spans, volume.spacing_mm[2]), strict=True)
    )
    scan = Scan(volume, coarse, spans, noise, stored_mb, filled is not None)
    found += () if timing is None else _resampled(timing, volume)
    return Report(
        path=shown(path),
        verdict=_worst(found),
        findings=tuple(found),
        stacking=stacking,
        values=values,
        geometry=geometry,
        view=view,
        regions=regions,
        costs=() if timing is None else costs(timing, scan),
    )


def _region(volume: Volume, coarse: UInt8[np.ndarray, "x y z"], span: RegionSpan) -> Region:
    """A region with its noise, as `Model.denoise` would estimate it."""
    noise_hu, coloured = None, False
    with suppress(InputError):
        noise_hu, spectrum = noise_in(volume, coarse, span, None, lambda line: None)
        coloured = spectrum is not WHITE
    return_freed()
    return Region(
        region=span.region,
        start=span.start,
        stop=span.stop,
        reason=span.reason,
        noise_hu=noise_hu,
        coloured=coloured,
    )


def _resampled(timing: TileTiming, volume: Volume) -> Iterator[Finding]:
    """A finding if the model works on another grid."""
    limits = timing.model.config.spacing_mm
    grid = working_grid(volume, limits)
    if grid != volume.shape:
        low, high = limits
        voxels = " x ".join(map(str, grid))
        sentence = f"processed at {voxels} voxels: the model supports {low:g} to {high:g} mm"
        yield Finding(code="resampled", severity="note", sentence=sentence)


def _stacking(path: Path, series: str | None) -> tuple[Stacking, ...]:
    """The series of a DICOM path that are CT volumes, or the selected one."""
    if formats.kind_of(path) != "dicom":
        return ()
    return tuple(
        Stacking(
            series_uid=one.uid,
            slices=one.count,
            tilt_degrees=one.tilt_degrees,
            gaps_mm=one.gaps_mm,
            kernel=one.facts.kernel,
            thickness_mm=one.facts.thickness_mm,
        )
        for one in dicom.series_in(path)
        if one.stack is not None and (series is None or one.matches(series))
    )


def _of_stacking(series: tuple[Stacking, ...]) -> Iterator[Finding]:
    """Gantry tilt and uneven gaps, series by series."""
    for one in series:
        if one.tilt_degrees > TILT_DEGREES:
            sentence = f"the gantry was tilted by {one.tilt_degrees:.1f} degrees"
            yield Finding(code="tilt", severity="note", sentence=sentence)
        if len(one.gaps_mm) > 1:
            gaps = ", ".join(f"{mm:g} mm x {count}" for mm, count in one.gaps_mm)
            sentence = f"{one.slices} slices are unevenly spaced, {gaps} apart"
            yield Finding(code="gaps", severity="note", sentence=sentence)
