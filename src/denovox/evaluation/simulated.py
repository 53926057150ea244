"""Simulated trials: damage a CT, let a model restore it (or find the lesion), compare.

What the figures are is said in `evaluation/simulated_metrics.py`; whose they are, with which
settings and weights, in the results. Seeds are fixed, so that a trial can be run again to the bit
on a machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.errors import InputError, ensure
from ..inference.anomaly.calibration import Calibration, bundled
from ..inference.model import (
    Model,
)
from ..inference.options import RunOptions
from ..metrics.fidelity import SSIM_RADIUS
from ..metrics.results import Measured, Results
from ..model.weights import describe
from .inputs import Keep, Scan, scans_of, sha256
from .simulated_metrics import SIMULATED, Scored
from .simulated_tasks import WAYS, Bench, TrialConfig
from .tables import measured_figures, scan_figures

EMPTY = {  # why a protocol may have measured nothing, though every scan was fit
    "simulated-slab": "no scan has three thick slices of one region; give longer ones, or --region",
    "planted-lesions": "no lesion could be planted: no scan has a region with a calibration and"
    " healthy tissue with room for the smallest; give scans that show more, or --region",
}


TRUTH = {
    "simulated-dose": "the truth is the scan as it came, its own noise included: to know it better"
    " than by 10 log10(1 / dose) dB above the input, noise would have to be guessed",
    "simulated-slab": "the truth is the scan as it came, its own noise included",
    "planted-lesions": "the scan as it came counts as healthy, whatever is in it",
}


def trial(
    name: str,
    data: Path,
    model: Model,
    config: TrialConfig,
    calibrations: Sequence[Calibration] | None = None,
    options: RunOptions | None = None,
    keep: Keep = lambda what, scan, volume: None,
) -> Results:
    """Run a simulated protocol on all scans of `data`; nothing is written but by `keep`.

    data: a scan, a folder of scans or a CSV, see `scans_of`. calibrations: of planted-lesions, see
    `detect`; None: those that come with denovox. keep: given reference, input and test (planted-
    lesions: input, maps and masks) of every scan. All scans are read and looked at before the
    first is worked on.
    `InputError` names the scan that cannot be used; nothing is measured then.
    """
    ensure(name in SIMULATED, f"'{name}' is no simulated protocol; {', '.join(SIMULATED)} are")
    options = options or RunOptions()
    weights = describe(model.path)[2]
    if name == "planted-lesions" and calibrations is None:
        calibrations = [one for one in bundled() if one.weights == weights]
        told = f"no calibration of the weights {model.path.name} comes with denovox"
        ensure(
            calibrations,
            f"{told}; use --weights base, or denovox.evaluation.simulated with your own",
        )
    bench = Bench(model, config, tuple(calibrations or ()), options, keep)
    scans, facts = scans_of(data, config.region, options.say), []
    for scan in scans:
        with _about(scan):
            facts.append(_facts(name, scan, bench))
    measured: list[Measured] = []
    scored: list[Scored] = []
    for number, scan in enumerate(scans):
        options.say(f"{scan.id}: {number + 1} of {len(scans)}")
        of_scan = Bench(model, config, bench.calibrations, options.part(number, len(scans)), keep)
        with _about(scan):
            found = WAYS[name](scan, scan.read(), of_scan)
        measured += found.measured
        scored += found.scored
        facts[number] |= found.facts
    ensure(measured, EMPTY.get(name, ""))
    figures = measured_figures(measured, options.seed)
    if scored:
        figures += scan_figures(scored, config.method, options.seed)
    return Results(
        name,
        str(data),
        figures,
        _settings(name, bench) | {"scans": len(scans)},
        weights,
        __version__,
        (
            f"convention: {SIMULATED[name]}",
            TRUTH[name],
            f"weights {model.path.name}: whether they were trained on these patients, their card"
            " says (denovox info)",
        ),
        tuple(facts),
    )


def _settings(name: str, bench: Bench) -> dict[str, Any]:
    """Everything that was chosen, and only what this protocol uses."""
    config, options = bench.config, bench.options
    told = {"method": config.method, "seed": options.seed, "window": options.tile}
    told["region"] = config.region or "auto"
    if name == "simulated-dose":
        low = config.dose.model_dump(mode="json")
        return told | {"low_dose": low, "photons": "of each scan's own noise (files), else these"}
    if name == "simulated-slab":
        return told | {"factor": config.factor, "profile": "box"}
    calibrated = {
        one.region: {"scans": one.scans, "method": one.method.model_dump(mode="json")}
        for one in bench.calibrations
    }
    lesions = config.lesions.model_dump(mode="json", exclude={"number", "tissues"})
    seeds = "crc32 of 'seed scan tissue'"
    return told | {"lesions": lesions, "lesion_seeds": seeds, "calibrations": calibrated}


def _facts(name: str, scan: Scan, bench: Bench) -> dict[str, Any]:
    """What is recorded of a scan, once it is known to be fit."""
    volume = scan.read(bench.options.say)
    least = 3 * bench.config.factor if name == "simulated-slab" else 2
    count, edge = volume.shape[2], 2 * SSIM_RADIUS + 1
    ensure(count >= least, f"the scan has {count} slices, and {name} needs {least} or more")
    told = f"slices of {volume.shape[0]} x {volume.shape[1]} voxels; {edge} x {edge} are the least"
    ensure(min(volume.shape[:2]) >= edge, told)
    if name == "simulated-slab":
        low, high = bench.model.config.spacing_mm
        mm = volume.spacing_mm[2]
        told = f"slices {mm:.3g} mm apart, and the model knows spacings from {low:g} to {high:g} mm"
        ensure(low * 0.999 <= mm <= high, told)
    return {
        "scan": str(scan.path),
        "patient": scan.patient,
        "region": scan.region or "auto",
        "sha256": sha256(scan.path, scan.series),
        "shape": list(volume.shape),
        "spacing_mm": [round(mm, 4) for mm in volume.spacing_mm],
    }


@contextmanager
def _about(scan: Scan) -> Iterator[None]:
    """Within the block an `InputError` says which scan it is about."""
    try:
        yield
    except InputError as error:
        if str(scan.path) in str(error):
            raise
        raise InputError(f"{scan.path}: {error}") from None
