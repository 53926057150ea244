"""`denovox evaluate lesions`: how a segmenter trained on real lesions takes synthetic ones
(Method 4).

The segmenter is small and trained on the real lesions of other patients. Its figures on real
lesions are the ceiling for synthetic ones; those at the same places without a lesion are the
floor. All random draws depend on the seed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from ...core.errors import InputError
from ...datasets.store import Case
from ...inference.inpaint import around
from ...inference.options import RunOptions
from ...metrics.lesions import segmentation_scores
from ...metrics.results import Results, Value, gains
from ...model.segmenter import Segmenter
from ..protocols import protocol
from .hosts import (
    Add,
    AugmentedCase,
    LesionCase,
    LesionStudyConfig,
    Remove,
    StudyContext,
    augmented_case,
    cases_of,
    cut_out,
    outline,
    read,
    synthesized,
    trained_segmenter,
)
from .results import WITH_SYNTHETIC, StudyRows, mean, results

Mask = Bool[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Fold:
    """A patient held out: the cases that are segmented, and those that are trained on."""

    number: int
    patient: str
    test: list[Case]
    train: list[Case]


def evaluate_lesions(
    name: str,
    data: str | Path,
    add: Add,
    remove: Remove,
    config: LesionStudyConfig | None = None,
    options: RunOptions | None = None,
    weights: str | None = None,
) -> Results:
    """Run `lesion-generation` or `lesion-inpainting` on the cases of a store.

    add: (scan, numbers of the lesions, seed) -> the scan with lesions there. remove: (scan, hole,
    seed) -> the scan with the hole filled, without a lesion. Lesions that they synthesize again or
    remove are cut out of their input. options: seed, `say` and `progress` count. weights: sha256 of
    the model that synthesizes, recorded. `InputError` where fewer than two patients have lesions,
    none could be synthesized, or `add` returns another grid.
    """
    row = protocol(name, "lesions")
    config, options = config or LesionStudyConfig(), options or RunOptions()
    cases, free = cases_of(data, config)
    with tempfile.TemporaryDirectory(prefix="denovox-") as folder:
        study = StudyContext(config, options, Path(folder), lambda: None)
        rows = row.run(cases, free, add, remove, study)
    return results(row, data, rows, study, weights)


def folds_of(cases: Sequence[Case], count: int, seed: int) -> list[Fold]:
    """Patients with lesions, `count` at most, drawn by the seed: the store's validation patients if
    any of them has lesions. Patients without are divided among the folds and held out too, so that
    no scan is both trained on and segmented."""
    sick = [case for case in cases if case.facts.lesions]
    free = sorted({case.facts.patient for case in cases} - {case.facts.patient for case in sick})
    unseen = [case for case in sick if case.facts.split == "validation"] or sick
    patients = sorted({case.facts.patient for case in unseen})
    chosen = sorted(map(str, np.random.default_rng(seed).permutation(patients)[:count]))
    folds = []
    for number, patient in enumerate(chosen):
        held = {patient, *free[number :: len(chosen)]}
        test = [case for case in cases if case.facts.patient in held]
        train = [case for case in cases if case.facts.patient not in held]
        folds.append(Fold(number, patient, test, train))
    return folds


# ---- lesions where there were none --------------------------------------------------------------


def generation(
    cases: Sequence[Case], free: Sequence[Case], add: Add, remove: Remove, study: StudyContext
) -> StudyRows:
    """Lesions added to scans, and segmenters trained without them and with them."""
    hosts = [*cases, *free] if study.config.hosts == "all" else list(cases)
    folds = folds_of(hosts, study.config.folds, study.options.seed)
    study = study.with_parts(2 * study.config.seeds * len(folds) + len(hosts))
    rows = StudyRows()
    copies = _copies(hosts, add, study, rows)
    for fold in folds:
        _generation(fold, copies, study, rows)
    return rows


def _copies(
    hosts: Sequence[Case], add: Add, study: StudyContext, rows: StudyRows
) -> list[AugmentedCase]:
    """Copies of all scans with lesions added, as far as there is room."""
    pooled = [mm for case in hosts for mm in read(case).diameters_mm]
    copies: list[AugmentedCase] = []
    for case in hosts:
        study.options.say(f"{case.facts.id}: adding lesions")
        host = read(case)
        if host.numbers.any():
            rows.add_lesions("real", case, host.volume, host.numbers)
        for number in range(study.config.copies):
            try:
                copy = augmented_case(host, host.diameters_mm or pooled, number, add, study)
            except InputError as error:
                study.options.say(f"{case.facts.id}: copy {number} is left out, {error}")
                continue
            copies.append(copy)
            volume = read(copy.case).volume
            rows.add_lesions("synthetic", case, volume, copy.numbers, host.numbers > 0)
        study.tick()
    return copies


def _generation(
    fold: Fold, copies: Sequence[AugmentedCase], study: StudyContext, rows: StudyRows
) -> None:
    """Segmenters of one fold, trained without synthetic lesions and with them, and their masks."""
    study.options.say(f"{fold.patient} is held out")
    held = {case.facts.id for case in fold.test}
    more = [copy for copy in copies if copy.host.facts.id not in held]
    both = [*fold.train, *(copy.case for copy in more)]
    names = [f"{fold.number}-{seed}" for seed in range(study.config.seeds)]
    alone = [trained_segmenter(fold.train, n, study, f"{x}-real") for n, x in enumerate(names)]
    mixed = [trained_segmenter(both, n, study, f"{x}-synthetic") for n, x in enumerate(names)]
    real = [case.facts for case in fold.train if case.facts.lesions]
    counts = {"real_scans": len(real), "real_lesions": sum(len(f.lesions) for f in real)}
    counts["synthetic_scans"] = len(more)
    counts["synthetic_lesions"] = sum(int(c.numbers.max()) for c in more)
    rows.facts.append({"held_out": fold.patient, "trained_on": counts})
    for case in fold.test:
        scan = read(case)
        own = [outline(net, scan.volume, case.facts.region) for net in alone]
        if scan.numbers.any():
            _real(scan, own, mixed, rows)
        for copy in copies:
            if copy.host.facts.id == case.facts.id:
                _synthetic(scan, copy, own, alone, study.config.method, rows)


def _real(
    scan: LesionCase, own: Sequence[Mask], mixed: Sequence[Segmenter], rows: StudyRows
) -> None:
    """Figures of the real lesions of a scan, and the gain of training with synthetic ones."""
    case, mm = scan.case, scan.volume.spacing_mm
    masks = [outline(net, scan.volume, case.facts.region) for net in mixed]
    alone, both = (
        [segmentation_scores(m, scan.numbers, mm) for m in each] for each in (own, masks)
    )
    better = []
    for seed, (ours, others) in enumerate(zip(both, alone, strict=True)):
        better.append(
            tuple(
                gain
                for name in ("lesion Dice", "scan Dice")
                for gain in gains(ours, {"real": others}, name)
            )
        )
        rows.gains.setdefault(seed, []).append(better[-1][0].value)
    rows.add_figures(case, "real", mean(alone))
    rows.add_figures(case, WITH_SYNTHETIC, mean(both) + mean(better))


def _synthetic(
    scan: LesionCase,
    copy: AugmentedCase,
    own: Sequence[Mask],
    alone: Sequence[Segmenter],
    method: str,
    rows: StudyRows,
) -> None:
    """Figures of lesions added to a scan, and of the same places before."""
    case, mm, others = scan.case, scan.volume.spacing_mm, scan.numbers > 0
    volume = read(copy.case).volume
    masks = [outline(net, volume, case.facts.region) for net in alone]
    figures = mean([segmentation_scores(m, copy.numbers, mm, others) for m in masks])
    rows.add_figures(case, method, figures)
    floor = mean([segmentation_scores(m, copy.numbers, mm, others) for m in own])
    # An outline at a place without a lesion is wrong; elsewhere figures are those of "real".
    rows.add_figures(case, "untouched", tuple(replace(v, better="lower") for v in floor[:3]))


# ---- lesions cut out, and synthesized again or removed ------------------------------------------


def inpainting(
    cases: Sequence[Case], free: Sequence[Case], add: Add, remove: Remove, study: StudyContext
) -> StudyRows:
    """Real lesions cut out, then synthesized again or removed, and segmented."""
    folds = folds_of(cases, study.config.folds, study.options.seed)
    study = study.with_parts((study.config.seeds + 1) * len(folds))
    rows = StudyRows()
    for fold in folds:
        study.options.say(f"{fold.patient} is held out")
        nets = [
            trained_segmenter(fold.train, n, study, f"{fold.number}-{n}")
            for n in range(study.config.seeds)
        ]
        for case in fold.test:
            _inpainted(read(case), nets, add, remove, study, rows)
        study.tick()
    return rows


def _inpainted(
    scan: LesionCase,
    nets: Sequence[Segmenter],
    add: Add,
    remove: Remove,
    study: StudyContext,
    rows: StudyRows,
) -> None:
    """Figures of one scan of the patient held out."""
    case, mm, lesion = scan.case, scan.volume.spacing_mm, scan.numbers > 0
    hole = around(lesion, mm)
    cut, seed = cut_out(scan.volume, hole), study.seed(case.facts.id)
    again = synthesized(cut, scan.numbers, seed, add)
    filled = synthesized(
        cut, scan.numbers, seed, lambda volume, _, seed: remove(volume, hole, seed)
    )
    for method, volume in (("real", scan.volume), (study.config.method, again), ("cut out", cut)):
        masks = [outline(net, volume, case.facts.region) for net in nets]
        values = (
            *mean([segmentation_scores(m, scan.numbers, mm) for m in masks]),
            _left(masks, hole, lesion),
        )
        if method != "real":
            off = np.abs(volume.hu - scan.volume.hu)
            parts = {"inside": lesion, "in the rim": hole & ~lesion}
            values += tuple(
                Value(f"MAE {part}", float(off[where].mean()), "HU", "lower")
                for part, where in parts.items()
            )
        rows.add_figures(case, method, values)
    masks = [outline(net, filled, case.facts.region) for net in nets]
    rows.add_figures(case, "removed", (_left(masks, hole, lesion),))
    rows.add_lesions("real", case, scan.volume, scan.numbers)
    rows.add_lesions("synthetic", case, again, scan.numbers)


def _left(masks: Sequence[Mask], hole: Mask, lesion: Mask) -> Value:
    """What is segmented in the hole, as a share of the lesion; the mean over segmenters."""
    shares = [float((mask & hole).sum() / lesion.sum()) for mask in masks]
    return Value("left", float(np.mean(shares)), "", "lower")
