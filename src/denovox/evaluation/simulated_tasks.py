"""One scan through a simulated protocol: damage it, let a model work on it, measure.

What the figures are is said in `evaluation/simulated_metrics.py`. What is compared with is the scan
as it came; the model is never shown it, nor the anatomy or the regions found in it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
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
from ..inference.anomaly.detection import detect
from ..inference.model import (
    Model,
    region_spans_of,
)
from ..inference.options import RunOptions, Say
from ..inference.scan_context import noise_in
from ..inference.superres import superres
from ..metrics.results import Measured, gains
from ..scan import anatomy as anatomy_of
from ..scan.body_regions import RegionSpan
from ..scan.tissue import Tissue
from ..simulate.dose import (
    LowDoseConfig,
    photons_of,
    simulate_low_dose,
    simulate_thick_slices,
)
from ..simulate.planted_lesions import Fact, Lesions, plant
from .inputs import Keep, Scan
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
TISSUES: dict[str, tuple[Tissue, ...]] = {  # where a lesion is planted, one scan each
    "headneck": ("muscle",),
    "chest": ("lung", "muscle"),
    "abdomen": ("liver", "muscle"),
}


class TrialConfig(Settings):
    """The damage, and whose output it is. region: of all scans; None: as the data say, else found
    along z. dose: of simulated-dose, seed included; its photons and electronic noise count only
    where the scan's own noise cannot be told (`own_dose`). factor: slices averaged to one, of
    simulated-slab. lesions: of planted-lesions; one at a time, in each tissue of `TISSUES`.
    """

    dose: LowDoseConfig = LowDoseConfig()
    factor: int = Field(5, ge=2)
    lesions: Lesions = Lesions()
    region: str | None = None
    method: str = "denovox"


@dataclass(frozen=True)
class Bench:
    """What every scan of a trial is given: the model, the damage, and how to run."""

    model: Model
    config: TrialConfig
    calibrations: tuple[Calibration, ...]
    options: RunOptions
    keep: Keep


@dataclass(frozen=True)
class Found:
    """What one scan gave. facts: what was done to it, for the record, ready for JSON."""

    measured: list[Measured]
    scored: list[Scored] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def dose_trial(scan: Scan, truth: Volume, bench: Bench) -> Found:
    """A lower dose, denoised: against the scan, in the window of each region."""
    labels, rows = anatomy_of.coarse(truth), []
    config, facts = own_dose(truth, labels, bench.config.dose, bench.options.say)
    low = simulate_low_dose(truth, config)
    result = bench.model.denoise(low, scan.region, options=bench.options)
    for what, volume in (("reference", truth), ("input", low), ("test", result)):
        bench.keep(what, scan.id, volume)
    for slab in region_spans_of(truth, labels, scan.region, lambda line: None):
        z = slice(slab.start, slab.stop)
        own = labels[..., z]
        body = own != OUTSIDE
        before, after = (
            simulated_dose(_cut(truth, z), _cut(each, z), own, body, slab.region)
            for each in (low, result)
        )
        rows.append(Measured(scan.patient, slab.region, "low dose", before))
        after += gains(after, {"low dose": before})
        rows.append(Measured(scan.patient, slab.region, bench.config.method, after))
    return Found(rows, facts=facts)


def own_dose(
    truth: Volume, labels: Labels, config: LowDoseConfig, say: Say
) -> tuple[LowDoseConfig, dict[str, Any]]:
    """The config with the photons that a scan's own noise tells of; and what was told.

    A part of the scan's *own* dose, that is: its noise has 1/dose times the variance then, whatever
    the patient's size, and in a crop too. All of that noise is laid to photons, none to the
    detector. The config as it is, where the noise cannot be estimated.
    """
    try:
        whole = RegionSpan("scan", 0, truth.shape[2], "whole")
        noise_hu, _ = noise_in(truth, labels, whole, None, lambda line: None)
        photons = photons_of(truth, noise_hu, config)
    except InputError as error:
        say(f"the scan's own noise is not known ({error}); {config.photons:g} photons are taken")
        return config, {**config.model_dump(include={"photons", "electronic"}), "noise_hu": None}
    told = {"photons": photons, "electronic": 0.0}
    return config.model_copy(update=told), {**told, "noise_hu": noise_hu}


def slab_trial(scan: Scan, truth: Volume, bench: Bench) -> Found:
    """Thick slices, made thin again by interpolation and by the model: against the scan."""
    factor = bench.config.factor
    slabs = truth.shape[2] // factor
    truth = _cut(truth, slice(0, slabs * factor))
    thick = simulate_thick_slices(truth, factor * truth.spacing_mm[2])
    result, _ = superres(
        bench.model, thick, factor=factor, region=scan.region, options=bench.options
    )
    labels, rows = anatomy_of.coarse(truth), []
    for what, volume in (("reference", truth), ("input", thick), ("test", result)):
        bench.keep(what, scan.id, volume)
    tried = {name: thick.hu @ way for name, way in interpolations(slabs, factor).items()}
    for slab in _whole(
        region_spans_of(truth, labels, scan.region, lambda line: None), slabs, factor
    ):
        z, coarse = (slice(slab.start * n, slab.stop * n) for n in (factor, 1))
        body = labels[..., z] != OUTSIDE
        *values, ours = (
            simulated_slab(truth.hu[..., z], hu[..., z], thick.hu[..., coarse], body, slab.region)
            for hu in [*tried.values(), result.hu]
        )
        others = dict(zip(tried, values, strict=True))
        rows += [Measured(scan.patient, slab.region, *each) for each in others.items()]
        ours += gains(ours, others)
        rows.append(Measured(scan.patient, slab.region, bench.config.method, ours))
    return Found(rows)


def _whole(slabs: Sequence[RegionSpan], count: int, factor: int) -> list[RegionSpan]:
    """Regions in thick slices, those that lie wholly in them; three or more, or left out."""
    whole = [
        replace(one, start=-(-one.start // factor), stop=min(count, one.stop // factor))
        for one in slabs
    ]
    return [one for one in whole if one.stop - one.start >= 3]


def lesion_trial(scan: Scan, healthy: Volume, bench: Bench) -> Found:
    """The scan as it came, and once for each tissue with a lesion in it, both looked at."""
    labels = anatomy_of.coarse(healthy)
    known = {one.region for one in bench.calibrations}
    planted = [
        (slab, tissue, *found)
        for slab in region_spans_of(healthy, labels, scan.region, bench.options.say)
        if slab.region in known
        for tissue in TISSUES[slab.region]
        if (found := _planted(scan, healthy, labels, slab, tissue, bench)) is not None
    ]
    if not planted:
        bench.options.say(f"{scan.id} is left out: no region and tissue to plant a lesion into")
        return Found([])

    def look(volume: Volume, lesion: Mask, number: int, name: str) -> tuple[Hu, float]:
        options = bench.options.part(number, len(planted) + 1)
        found = detect(bench.model, volume, bench.calibrations, scan.region, options=options)
        size: Hu = np.abs(found.z.hu)
        kept = {"input": volume.hu, "maps": size, "masks": lesion.astype(np.float32)}
        for what, hu in kept.items():
            bench.keep(what, f"{scan.id}_{name}", volume.with_hu(hu))
        return size, found.score

    _, before = look(healthy, np.zeros(healthy.shape, bool), 0, "healthy")
    rows, scored = [], []
    for number, (slab, tissue, volume, lesion, _) in enumerate(planted, 1):
        score, after = look(volume, lesion, number, tissue)
        judged = np.zeros(healthy.shape, bool)
        judged[..., slab.start : slab.stop] = labels[..., slab.start : slab.stop] != OUTSIDE
        values = planted_lesions(score, lesion, judged)
        rows.append(Measured(scan.patient, f"{slab.region} {tissue}", bench.config.method, values))
        scored.append(Scored(scan.patient, scan.id, before, after))
    return Found(rows, scored, {"lesions": [asdict(fact) for *_, fact in planted]})


def _planted(
    scan: Scan, volume: Volume, labels: Labels, slab: RegionSpan, tissue: Tissue, bench: Bench
) -> tuple[Volume, Mask, Fact] | None:
    """The scan with one lesion in a region's slices, and where and what it is; None: no room."""
    z = slice(slab.start, slab.stop)
    seed = zlib.crc32(f"{bench.options.seed} {scan.id} {tissue}".encode())
    config = bench.config.lesions.model_copy(update={"number": 1, "tissues": (tissue,)})
    try:
        sick, numbers, facts = plant(_cut(volume, z), labels[..., z], config, seed)
    except InputError:
        bench.options.say(f"{scan.id}: no room for a lesion in healthy {tissue}")
        return None
    hu, lesion = volume.hu.astype(np.float32), np.zeros(volume.shape, bool)
    hu[..., z], lesion[..., z] = sick.hu, numbers > 0
    return volume.with_hu(hu), lesion, facts[0]


WAYS: dict[str, Callable[[Scan, Volume, Bench], Found]] = {
    "simulated-dose": dose_trial,
    "simulated-slab": slab_trial,
    "planted-lesions": lesion_trial,
}


def _cut(volume: Volume, z: slice) -> Volume:
    """Some of a scan's slices; no source, since they are no longer the file's."""
    affine = volume.affine.copy()
    affine[:3, 3] += z.start * affine[:3, 2]
    return Volume(np.ascontiguousarray(volume.hu[..., z]), affine)
