"""One scan through a simulated protocol: degrade it, run a model on it, measure.

The metrics are those of `evaluation/simulated_metrics.py`. The reference is the original scan; the
model is given neither it nor the anatomy and regions recognised in it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from pydantic import Field

from ..core.config import Settings
from ..core.errors import InputError
from ..core.labels import OUTSIDE
from ..core.volume import Volume
from ..inference.anomaly.calibration import Calibration
from ..inference.model import Model
from ..inference.options import RunOptions, Say
from ..inference.scan_context import noise_in, spans_in
from ..metrics.results import Measured, gains
from ..scan import anatomy as anatomy_of
from ..scan.body_regions import RegionSpan
from ..scan.tissue import Tissue
from ..simulate.dose import LowDoseConfig, photons_of, simulate_low_dose
from ..simulate.planted_lesions import Lesions, PlantedLesion, plant
from ..simulate.slabs import simulate_thick_slices
from .inputs import Save, Scan
from .simulated_metrics import (
    Scored,
    interpolations,
    planted_lesions,
    simulated_dose,
    simulated_slab,
)

Labels = UInt8[np.ndarray, "x y z"]
Mask = Bool[np.ndarray, "x y z"]
Hu = Float[np.ndarray, "x y z"]
TISSUES: dict[str, tuple[Tissue, ...]] = {  # that get a lesion, one scan each
    "headneck": ("muscle",),
    "chest": ("lung", "muscle"),
    "abdomen": ("liver", "muscle"),
}


class SimulatedConfig(Settings):
    """What is simulated, and the method's name.

    dose: of simulated-dose, seed included; its photons and electronic noise count only where the
    scan's own noise cannot be estimated (`own_dose`). factor: slices averaged to one, of
    simulated-slab. lesions: of planted-lesions; one at a time, in each tissue of `TISSUES`.
    region: of all scans whose list names none; None: recognised along z.
    """

    dose: LowDoseConfig = LowDoseConfig()
    factor: int = Field(5, ge=2)
    lesions: Lesions = Lesions()
    region: str | None = None
    method: str = "denovox"


@dataclass(frozen=True)
class RunContext:
    """What is the same for every scan of a run."""

    model: Model
    config: SimulatedConfig
    calibrations: tuple[Calibration, ...]
    options: RunOptions
    save: Save


@dataclass(frozen=True)
class ScanResult:
    """The figures of one scan. facts: how it was degraded, for the record, ready for JSON."""

    measured: list[Measured]
    scored: list[Scored] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


# -- lower dose -----------------------------------------------------------------------------------


def lower_dose(scan: Scan, truth: Volume, context: RunContext) -> ScanResult:
    """A lower dose, denoised: compared with the scan, in the window of each region."""
    labels = anatomy_of.coarse(truth)
    config, facts = own_dose(truth, labels, context.config.dose, context.options.say)
    low = simulate_low_dose(truth, config)
    result = context.model.denoise(low, scan.region, options=context.options)
    for what, volume in (("reference", truth), ("input", low), ("test", result)):
        context.save(what, scan.id, volume)
    rows = dose_rows(scan, truth, labels, {"low dose": low, context.config.method: result})
    return ScanResult(rows, facts=facts)


def dose_rows(
    scan: Scan, truth: Volume, labels: Labels, volumes: dict[str, Volume]
) -> list[Measured]:
    """Figures of volumes by method, in each region of the scan; the last gets its gains.

    labels: the coarse anatomy of the reference.
    """
    rows = []
    for span in spans_in(truth, labels, scan.region, lambda line: None):
        z = slice(span.start, span.stop)
        own = labels[..., z]
        values = {
            method: simulated_dose(
                truth.slices(z), volume.slices(z), own, own != OUTSIDE, span.region
            )
            for method, volume in volumes.items()
        }
        last, ours = values.popitem()
        values[last] = ours + gains(ours, values)
        rows += [Measured(scan.patient, span.region, *each) for each in values.items()]
    return rows


def own_dose(
    truth: Volume, labels: Labels, config: LowDoseConfig, say: Say
) -> tuple[LowDoseConfig, dict[str, Any]]:
    """The config with the photons that a scan's own noise implies; and a record of them.

    So the dose is a part of the scan's *own*: its noise then has 1/dose times the variance,
    whatever the patient's size, and in a crop too. All of that noise is attributed to photons,
    none to the detector. The config is unchanged where the noise cannot be estimated.
    """
    try:
        whole = RegionSpan("scan", 0, truth.shape[2], "whole")
        noise_hu, _ = noise_in(truth, labels, whole, None, lambda line: None)
        photons = photons_of(truth, noise_hu, config)
    except InputError as error:
        say(f"the scan's own noise is not known ({error}); using {config.photons:g} photons")
        return config, {**config.model_dump(include={"photons", "electronic"}), "noise_hu": None}
    own = {"photons": photons, "electronic": 0.0}
    return config.model_copy(update=own), {**own, "noise_hu": noise_hu}


# -- thick slices ---------------------------------------------------------------------------------


def thick_slices(scan: Scan, truth: Volume, context: RunContext) -> ScanResult:
    """Thick slices, restored by interpolation and by the model: compared with the scan."""
    config = context.config
    factor, slabs = config.factor, truth.shape[2] // config.factor
    truth = truth.slices(slice(0, slabs * factor))
    thick = simulate_thick_slices(truth, factor * truth.spacing_mm[2])
    result: Volume = context.model.superres(
        thick, factor=factor, region=scan.region, options=context.options
    )
    labels, rows = anatomy_of.coarse(truth), []
    for what, volume in (("reference", truth), ("input", thick), ("test", result)):
        context.save(what, scan.id, volume)
    thin = {name: thick.hu @ matrix for name, matrix in interpolations(slabs, factor).items()}
    spans = spans_in(truth, labels, scan.region, lambda line: None)
    for span in _whole(spans, slabs, factor):
        fine, coarse = (slice(span.start * n, span.stop * n) for n in (factor, 1))
        body = labels[..., fine] != OUTSIDE
        *values, ours = (
            simulated_slab(
                truth.hu[..., fine], hu[..., fine], thick.hu[..., coarse], body, span.region
            )
            for hu in [*thin.values(), result.hu]
        )
        others = dict(zip(thin, values, strict=True))
        rows += [Measured(scan.patient, span.region, *each) for each in others.items()]
        ours += gains(ours, others)
        rows.append(Measured(scan.patient, span.region, config.method, ours))
    return ScanResult(rows)


def _whole(spans: Sequence[RegionSpan], count: int, factor: int) -> list[RegionSpan]:
    """Regions in thick slices, those that lie wholly in them; left out where fewer than three."""
    whole = [
        replace(one, start=-(-one.start // factor), stop=min(count, one.stop // factor))
        for one in spans
    ]
    return [one for one in whole if one.stop - one.start >= 3]


# -- lesions --------------------------------------------------------------------------------------


def plant_lesions(scan: Scan, healthy: Volume, context: RunContext) -> ScanResult:
    """Detection in the original scan, and in one with a lesion for each tissue."""
    labels = anatomy_of.coarse(healthy)
    known = {one.region for one in context.calibrations}
    planted = [
        (span, tissue, *result)
        for span in spans_in(healthy, labels, scan.region, context.options.say)
        if span.region in known
        for tissue in TISSUES[span.region]
        if (result := _planted(scan, healthy, labels, span, tissue, context)) is not None
    ]
    if not planted:
        context.options.say(f"{scan.id} is left out: no region and tissue for a lesion")
        return ScanResult([])

    def detected(volume: Volume, lesion: Mask, number: int, name: str) -> tuple[Hu, float]:
        options = context.options.part(number, len(planted) + 1)
        result = context.model.detect(
            volume, region=scan.region, calibrations=context.calibrations, options=options
        )
        size: Hu = np.abs(result.z.hu)
        saved = {"input": volume.hu, "maps": size, "masks": lesion.astype(np.float32)}
        for what, hu in saved.items():
            context.save(what, f"{scan.id}_{name}", volume.with_hu(hu))
        return size, result.score

    _, before = detected(healthy, np.zeros(healthy.shape, bool), 0, "healthy")
    rows, scores = [], []
    for number, (span, tissue, volume, lesion, _) in enumerate(planted, 1):
        score, after = detected(volume, lesion, number, tissue)
        values = planted_lesions(score, lesion, scored_voxels(labels, span))
        region = f"{span.region} {tissue}"
        rows.append(Measured(scan.patient, region, context.config.method, values))
        scores.append(Scored(scan.patient, scan.id, before, after))
    return ScanResult(rows, scores, {"lesions": [asdict(fact) for *_, fact in planted]})


def scored_voxels(labels: Labels, span: RegionSpan) -> Mask:
    """The body in a region's slices."""
    scored = np.zeros(labels.shape, bool)
    scored[..., span.start : span.stop] = labels[..., span.start : span.stop] != OUTSIDE
    return scored


def _planted(
    scan: Scan, volume: Volume, labels: Labels, span: RegionSpan, tissue: Tissue,
    context: RunContext,
) -> tuple[Volume, Mask, PlantedLesion] | None:  # fmt: skip
    """The scan with one lesion in a region's slices, its mask and record; None: no room."""
    z = slice(span.start, span.stop)
    seed = zlib.crc32(f"{context.options.seed} {scan.id} {tissue}".encode())
    config = context.config.lesions.model_copy(update={"number": 1, "tissues": (tissue,)})
    try:
        part, numbers, facts = plant(volume.slices(z), labels[..., z], config, seed)
    except InputError:
        context.options.say(f"{scan.id}: no room for a lesion in healthy {tissue}")
        return None
    hu, lesion = volume.hu.astype(np.float32), np.zeros(volume.shape, bool)
    hu[..., z], lesion[..., z] = part.hu, numbers > 0
    return volume.with_hu(hu), lesion, facts[0]
