"""The parts of the evidence: a function for each, from a `Study` to a table of results."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ...core.errors import ensure
from ...core.volume import Volume, within
from ...datasets.store import Case
from ...inference import lesions
from ...inference.scan_context import spans_in
from ...io import nifti
from ...metrics.results import Figure, Measured, Results, Value
from ...model.weights import describe
from ...scan import anatomy
from ..inputs import Save, Scan, saved_scans
from ..lesions.hosts import LesionStudyConfig
from ..lesions.study import evaluate_lesions
from ..realism import RealismConfig, evaluate_realism
from ..simulated import evaluate_simulated
from ..simulated_metrics import Scored, planted_lesions
from ..simulated_tasks import SimulatedConfig, dose_rows, scored_voxels
from ..tables import measured_figures, scan_figures
from . import rivals
from .noise import NOISES, Noise
from .study import Study

Labels = UInt8[np.ndarray, "x y z"]
THICKEST_MM = 10.0  # of slices that are made thin
REACHES_MM = (8, 15, 25)  # of the local mean
SYNTHETIC_MM, LONGEST_MM = 2.5, 160.0  # of synthetic scans: voxels, and length along z
RIVALS = (
    "NLM, TV and BM4D are given the true SD of the noise, bm4d-coloured its spectrum as well, and"
    " the strength of each is the best by the reference; denovox is given the region alone"
)


def _noisy(name: str, study: Study) -> Results:
    noise, rows, seed = NOISES[name], [], study.options.seed
    for number, scan in enumerate(study.scans):
        truth = scan.read()
        noisy = noise.add(truth, scan.id, seed, study.options.say)
        rows += _denoised(study, number, (truth, noisy), noise)
    notes = [noise.note, *([RIVALS] if study.config.rivals else ()), *study.notes]
    return study.results(name, measured_figures(rows, seed), notes)


def _denoised(
    study: Study, number: int, pair: tuple[Volume, Volume], noise: Noise
) -> list[Measured]:
    """Figures of the noisy scan, of all rivals and of denovox, with its gains and seconds."""
    (truth, noisy), scan = pair, study.scans[number]
    labels = anatomy.coarse(truth)
    spans = spans_in(truth, labels, scan.region, lambda line: None)
    volumes, seconds = {noise.method: noisy}, {}
    for rival in study.config.rivals:
        if rival == rivals.COLOURED and not noise.coloured:
            continue
        study.options.say(f"{scan.id}: {rival}")
        volumes[rival], seconds[rival], settings = rivals.denoised(
            rival, noisy, truth, spans, study.red_cnn
        )
        study.used.update(f"{rival}, {setting}" for setting in settings)
    study.options.say(f"{scan.id}: denovox")
    started = time.monotonic()
    options = study.options.part(number, len(study.scans))
    volumes["denovox"] = study.model.denoise(noisy, scan.region, options=options)
    seconds["denovox"] = time.monotonic() - started
    rows = dose_rows(scan, truth, labels, volumes)
    million = truth.hu.size / 1e6
    return rows + [
        Measured(scan.patient, "all", method, (Value("time", of / million, "s/Mvoxel", "lower"),))
        for method, of in seconds.items()
    ]


def _protocol(
    study: Study, name: str, fits: Callable[[Scan], bool], config: SimulatedConfig, save: Save
) -> Results:
    """`evaluate simulated` of the scans that fit."""
    lines = [f"{one.patient},{one.path.name},{one.region}" for one in study.scans if fits(one)]
    ensure(lines, "no held-out scan has slices that it can use")
    table = study.folder / f"{name}.csv"
    table.write_text("\n".join(["patient,scan,region", *lines]), "utf-8")
    return evaluate_simulated(name, table, study.model, config, None, study.options, save)


def _slab(factor: int, study: Study) -> Results:
    low, high = study.model.config.spacing_mm

    def fits(scan: Scan) -> bool:
        volume = scan.read()
        mm, count = volume.spacing_mm[2], volume.shape[2]
        return within(mm, low, min(high, THICKEST_MM / factor)) and count >= 3 * factor

    config = SimulatedConfig(factor=factor)
    return _protocol(study, "simulated-slab", fits, config, lambda what, name, volume: None)


def _planted(study: Study) -> Results:
    """Planted lesions, with the local mean as a rival, which is given the slices of the region."""
    measured: list[Measured] = []
    scores: dict[str, list[Scored]] = {}
    folder = study.folder / "planted-lesions"
    with saved_scans(folder) as save:
        config = SimulatedConfig()
        results = _protocol(study, "planted-lesions", lambda scan: True, config, save)
    for scan in study.scans:
        files = sorted((folder / "masks").glob(f"{scan.id}_*.nii.gz"))
        healthy = scan.read()
        labels = anatomy.coarse(healthy)
        spans = spans_in(healthy, labels, scan.region, lambda line: None) if files else ()
        for file, span, reach in itertools.product(files, spans, REACHES_MM):
            image, mask = nifti.read(folder / "input" / file.name), nifti.read(file)
            name, scored = f"local mean, {reach} mm", scored_voxels(labels, span)
            if not ((mask.hu > 0) & scored).any():
                continue
            before, after = (
                rivals.local_mean_difference(each, scored, span.region, reach)
                for each in (healthy, image)
            )
            tissue = file.name.removesuffix(".nii.gz")[len(scan.id) + 1 :]
            values = planted_lesions(after, mask.hu > 0, scored)
            measured.append(Measured(scan.patient, f"{span.region} {tissue}", name, values))
            both = (rivals.scan_score(each, healthy.spacing_mm) for each in (before, after))
            scored_scan = Scored(scan.patient, f"{scan.id} {span.region}", *both)
            scores.setdefault(name, []).append(scored_scan)
    figures: tuple[Figure, ...] = results.figures
    seed = study.options.seed
    figures += measured_figures(measured, seed) if measured else ()
    for name, pairs in scores.items():
        figures += scan_figures(pairs, name, seed)
    note = (
        "the local mean is not calibrated by tissue, as denovox is: its figures are a lower bound"
    )
    return replace(results, figures=figures, notes=(*results.notes, note))


def _realism(study: Study) -> Results:
    """Scans synthesized from the label maps of the held-out ones, against these."""
    lines = ["patient,set,scan,region"]
    folder = study.folder / "realism"
    folder.mkdir()
    for number, case in enumerate(study.held):
        real, ids = coarser(case)
        options = study.options.part(number, len(study.held))
        study.options.say(f"{case.facts.id}: synthesis")
        made = study.model.synthesize(
            case.facts.region, real.shape, real.spacing_mm, ids, options=options
        )
        for kind, volume in (("real", real), ("synthetic", real.with_hu(made.hu))):
            lines.append(_written(volume, case, folder, kind))
    lines += [_written(coarser(case)[0], case, folder, "training") for case in study.training]
    table = folder / "sets.csv"
    table.write_text("\n".join(lines), "utf-8")
    # However bad a sample is, it is measured.
    config = RealismConfig(seed=study.options.seed, accept_hu=True)
    results = evaluate_realism("radiomic", table, config, study.options.say)
    note = f"each synthetic scan has the label map of a real one, at {SYNTHETIC_MM:g} mm or coarser"
    weights = describe(study.model.path)[2]
    return replace(results, protocol="realism", weights=weights, notes=(*results.notes, note))


def _written(volume: Volume, case: Case, folder: Path, kind: str) -> str:
    name = f"{case.facts.id.replace('/', '_')}_{kind}.nii.gz"
    nifti.write(volume, folder / name)
    return f"{case.facts.patient},{kind},{name},{case.facts.region}"


def coarser(case: Case) -> tuple[Volume, Labels]:
    """The central part of a case and its label ids, in voxels of `SYNTHETIC_MM` or more."""
    x, y, z = case.facts.shape
    spacing = np.array(case.facts.spacing_mm)
    size = np.array([x, y, min(z, round(LONGEST_MM / spacing[2]))])
    nx, ny, nz = (int(n) for n in np.rint(size * spacing / np.maximum(spacing, SYNTHETIC_MM)))
    start = ((x, y, z) - size) // 2
    hu, ids = case.read(start.tolist(), size.tolist(), (nx, ny, nz))
    return Volume(hu, np.diag([*size * spacing / (nx, ny, nz), 1.0])), ids


def _lesions(name: str, study: Study) -> Results:
    model = study.lesion_model()
    add, remove = (of(model, study.options) for of in (lesions.maker, lesions.remover))
    sha = lesions.provenance(model)["control"]
    default = LesionStudyConfig()
    config = default.model_copy(update={"folds": min(default.folds, study.config.most or 255)})
    return evaluate_lesions(name, study.store, add, remove, config, study.options, sha)


PARTS: Mapping[str, Callable[[Study], Results]] = {
    **{name: partial(_noisy, name) for name in NOISES},
    "simulated-slab": partial(_slab, 5),
    "simulated-slab-2": partial(_slab, 2),
    "planted-lesions": _planted,
    "realism": _realism,
    "lesion-generation": partial(_lesions, "lesion-generation"),
    "lesion-inpainting": partial(_lesions, "lesion-inpainting"),
}
