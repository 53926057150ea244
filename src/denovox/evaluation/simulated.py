"""`denovox evaluate simulated`: degrade scans, restore them with a model, compare.

The metrics are those of `evaluation/simulated_metrics.py`; the results record scans, settings and
weights. Seeds are fixed, so that a run can be repeated to the bit on one machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.errors import InputError, ensure, shown
from ..core.version import __version__
from ..core.volume import within
from ..inference.anomaly.calibration import Calibration, bundled
from ..inference.model import Model
from ..inference.options import RunOptions
from ..metrics.fidelity import SSIM_RADIUS
from ..metrics.results import Measured, Results
from ..model.weights import describe
from .inputs import Save, Scan, scans_of, sha256
from .protocols import protocol
from .simulated_metrics import Scored
from .simulated_tasks import RunContext, SimulatedConfig
from .tables import measured_figures, scan_figures

EMPTY = {  # why a protocol may measure nothing, though every scan can be used
    "simulated-slab": "no scan has three thick slices of one region; give longer ones, or --region",
    "planted-lesions": "no lesion could be added: no scan has a region with a calibration and"
    " healthy tissue with room for the smallest; give scans that show more, or --region",
}
REFERENCE = {
    "simulated-dose": "the reference is the original scan with its own noise: to come closer to it"
    " than 10 log10(1 / dose) dB above the input, a method would have to guess noise",
    "simulated-slab": "the reference is the original scan with its own noise",
    "planted-lesions": "the original scan counts as healthy, whatever it shows; its patient is left"
    " out of the bundled calibrations",
}


def evaluate_simulated(
    name: str,
    data: Path,
    model: Model,
    config: SimulatedConfig,
    calibrations: Sequence[Calibration] | None = None,
    options: RunOptions | None = None,
    save: Save = lambda what, scan, volume: None,
) -> Results:
    """Run a simulated protocol on all scans of `data`; only `save` writes anything.

    data: a scan, a folder of scans or a CSV, see `scans_of`. calibrations: of planted-lesions, see
    `detect`; None: those that come with denovox, without the patient of each scan. save: called
    with reference, input and test (planted-lesions: input, maps and masks) of every scan. All scans
    are read and checked before the first is processed. `InputError` names the scan that cannot be
    used.
    """
    row = protocol(name, "simulated")
    options = options or RunOptions()
    sha = describe(model.path)[2]
    cross_fitted = row.name == "planted-lesions" and calibrations is None
    if cross_fitted:
        calibrations = _bundled(sha)
        ensure(
            calibrations,
            f"no calibration of the weights {model.path.name} comes with denovox; use --weights"
            " base, or denovox.evaluation.simulated with your own",
        )
    context = RunContext(model, config, tuple(calibrations or ()), options, save)
    scans, facts = scans_of(data, config.region, options.say), []
    for scan in scans:
        with _naming(scan):
            facts.append(_checked(row.name, scan, context))
    measured: list[Measured] = []
    scored: list[Scored] = []
    for number, scan in enumerate(scans):
        options.say(f"{scan.id}: {number + 1} of {len(scans)}")
        of_scan = replace(context, options=options.part(number, len(scans)))
        if cross_fitted:
            of_scan = replace(of_scan, calibrations=_bundled(sha, scan.patient))
        with _naming(scan):
            result = row.run(scan, scan.read(accept_hu=options.accept_hu), of_scan)
        measured += result.measured
        scored += result.scored
        facts[number] |= result.facts
    ensure(measured, EMPTY.get(row.name, ""))
    figures = measured_figures(measured, options.seed)
    if scored:
        figures += scan_figures(scored, config.method, options.seed)
    notes = (
        f"convention: {row.convention}",
        REFERENCE[row.name],
        f"weights {model.path.name}: `denovox info` shows what they were trained on",
    )
    settings = _settings(row.name, context) | {"scans": len(scans)}
    return Results(row.name, str(data), figures, settings, sha, __version__, notes, tuple(facts))


def _bundled(sha: str, without: str = "") -> tuple[Calibration, ...]:
    return tuple(one for one in bundled(without) if one.weights == sha)


def _settings(name: str, context: RunContext) -> dict[str, Any]:
    """Everything that was chosen, as far as this protocol uses it."""
    config, options = context.config, context.options
    common = {"method": config.method, "seed": options.seed, "tile": options.tile}
    common["region"] = config.region or "auto"
    if name == "simulated-dose":
        low = config.dose.model_dump(mode="json")
        return common | {"low_dose": low, "photons": "of each scan's own noise (files), else these"}
    if name == "simulated-slab":
        return common | {"factor": config.factor, "profile": "box"}
    calibrated = {
        one.region: {"scans": one.scans, "method": one.method.model_dump(mode="json")}
        for one in context.calibrations
    }
    lesions = config.lesions.model_dump(mode="json", exclude={"number", "tissues"})
    seeds = "crc32 of 'seed scan tissue'"
    return common | {"lesions": lesions, "lesion_seeds": seeds, "calibrations": calibrated}


def _checked(name: str, scan: Scan, context: RunContext) -> dict[str, Any]:
    """The record of a scan that can be used; `InputError` of one that cannot."""
    volume = scan.read(context.options.say, context.options.accept_hu)
    least = 3 * context.config.factor if name == "simulated-slab" else 2
    count, edge = volume.shape[2], 2 * SSIM_RADIUS + 1
    ensure(count >= least, f"the scan has {count} slices, and {name} needs {least} or more")
    small = f"slices of {volume.shape[0]} x {volume.shape[1]} voxels; {edge} x {edge} are the least"
    ensure(min(volume.shape[:2]) >= edge, small)
    if name == "simulated-slab":
        low, high = context.model.config.spacing_mm
        mm = volume.spacing_mm[2]
        beyond = f"slices {mm:.3g} mm apart; the model works from {low:g} to {high:g} mm"
        ensure(within(mm, low, high), beyond)
    return {
        "scan": str(scan.path),
        "patient": scan.patient,
        "region": scan.region or "auto",
        "sha256": sha256(scan.path, scan.series),
        "shape": list(volume.shape),
        "spacing_mm": [round(mm, 4) for mm in volume.spacing_mm],
    }


@contextmanager
def _naming(scan: Scan) -> Iterator[None]:
    """Within the block an `InputError` names the scan."""
    try:
        yield
    except InputError as error:
        if shown(scan.path) in str(error):
            raise
        raise InputError(f"{scan.path}: {error}") from None
