"""Trials of lesions: how a judge that knows real ones takes those that a model makes (METHOD 4).

The judge is a small segmenter, trained on the real lesions of other patients. What it makes of
real lesions is the ceiling for made ones; what it makes of the same places without a lesion, the
ground. Everything that is drawn depends on the seed.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from ...core.errors import InputError, ensure
from ...datasets.store import Case
from ...inference.inpaint import around
from ...inference.options import RunOptions
from ...metrics.lesions import outlined
from ...metrics.results import Results, Value, gains
from ...model.segmenter import Segmenter
from .hosts import (
    Bench,
    Copy,
    LesionTrials,
    Make,
    Remove,
    Sick,
    cases_of,
    copy_of,
    cut_out,
    judge,
    made,
    outline,
    read,
)
from .results import LESION_TRIALS, WITH_MADE, Found, mean, results

Mask = Bool[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Fold:
    """A patient held out: the cases that are judged, and those that are trained on."""

    number: int
    patient: str
    judged: list[Case]
    train: list[Case]


def trial(
    name: str,
    data: str | Path,
    make: Make,
    remove: Remove,
    config: LesionTrials | None = None,
    options: RunOptions | None = None,
    weights: str | None = None,
) -> Results:
    """Run `lesion-generation` or `lesion-inpainting` on the cases of a store.

    make: (scan, numbers of the lesions, seed) -> the scan with lesions there. remove: (scan, hole,
    seed) -> the scan with the hole filled, no lesion in it. Lesions that they make again, or
    remove, are cut out of what they see. running: its seed, `say` and `done` count. weights: sha256
    of what makes lesions, recorded. `InputError` where fewer than two patients have lesions, none
    could be made, or `make` gives another grid.
    """
    ensure(name in LESION_TRIALS, f"'{name}' is none of {', '.join(LESION_TRIALS)}")
    config, options = config or LesionTrials(), options or RunOptions()
    sick, free = cases_of(data, config)
    hosts = [*sick, *free] if config.hosts == "all" and name == "lesion-generation" else sick
    folds = folds_of(hosts, config.folds, options.seed)
    found, count = Found(), itertools.count(1)
    parts = config.seeds * len(folds)
    parts = parts + len(folds) if name == "lesion-inpainting" else 2 * parts + len(hosts)
    with tempfile.TemporaryDirectory(prefix="denovox-") as folder:
        bench = Bench(config, options, Path(folder), lambda: options.progress(next(count) / parts))
        if name == "lesion-generation":
            copies = _copies(hosts, make, bench, found)
            for fold in folds:
                _generation(fold, copies, bench, found)
        else:
            for fold in folds:
                _inpainting(fold, make, remove, bench, found)
    return results(name, data, found, bench, weights)


def folds_of(cases: Sequence[Case], count: int, seed: int) -> list[Fold]:
    """Patients with lesions, `count` at most, drawn by the seed; the others are shared out to be
    held back with them, so that no scan both trains a judge and is judged by it."""
    sick = sorted({case.facts.patient for case in cases if case.facts.lesions})
    free = sorted({case.facts.patient for case in cases} - set(sick))
    chosen = sorted(map(str, np.random.default_rng(seed).permutation(sick)[:count]))
    folds = []
    for number, patient in enumerate(chosen):
        held = {patient, *free[number :: len(chosen)]}
        judged = [case for case in cases if case.facts.patient in held]
        train = [case for case in cases if case.facts.patient not in held]
        folds.append(Fold(number, patient, judged, train))
    return folds


# ---- lesions where there were none --------------------------------------------------------------


def _copies(hosts: Sequence[Case], make: Make, bench: Bench, found: Found) -> list[Copy]:
    """Copies of all scans with lesions made in them, as far as there is room."""
    pooled = [mm for case in hosts for mm in read(case).diameters_mm]
    copies: list[Copy] = []
    for case in hosts:
        bench.options.say(f"{case.facts.id}: lesions are made")
        host = read(case)
        if host.numbers.any():
            found.look("real", case, host.volume, host.numbers)
        for number in range(bench.config.copies):
            try:
                copy = copy_of(host, host.diameters_mm or pooled, number, make, bench)
            except InputError as error:
                bench.options.say(f"{case.facts.id}: no copy {number}, {error}")
                continue
            copies.append(copy)
            volume = read(copy.case).volume
            found.look("made", case, volume, copy.numbers, host.numbers > 0)
        bench.tick()
    return copies


def _generation(fold: Fold, copies: Sequence[Copy], bench: Bench, found: Found) -> None:
    """Judges of one fold, trained without made lesions and with them, and what they outline."""
    bench.options.say(f"{fold.patient} is held out")
    held = {case.facts.id for case in fold.judged}
    more = [copy for copy in copies if copy.host.facts.id not in held]
    both = [*fold.train, *(copy.case for copy in more)]
    seeds = range(bench.config.seeds)
    alone = [judge(fold.train, n, bench, f"{fold.number}-{n}-real") for n in seeds]
    besides = [judge(both, n, bench, f"{fold.number}-{n}-made") for n in seeds]
    real = [case.facts for case in fold.train if case.facts.lesions]
    told = {"real_scans": len(real), "real_lesions": sum(len(f.lesions) for f in real)}
    told |= {"made_scans": len(more), "made_lesions": sum(int(c.numbers.max()) for c in more)}
    found.facts.append({"held_out": fold.patient, "trained_on": told})
    for case in fold.judged:
        scan = read(case)
        own = [outline(net, scan.volume, case.facts.region) for net in alone]
        if scan.numbers.any():
            _real(scan, own, besides, found)
        for copy in copies:
            if copy.host.facts.id == case.facts.id:
                _made(scan, copy, own, alone, bench.config.method, found)


def _real(scan: Sick, own: Sequence[Mask], besides: Sequence[Segmenter], found: Found) -> None:
    """Rows of the real lesions of a scan, and what training with made ones gains on them."""
    case, mm = scan.case, scan.volume.spacing_mm
    masks = [outline(net, scan.volume, case.facts.region) for net in besides]
    alone, both = ([outlined(m, scan.numbers, mm) for m in each] for each in (own, masks))
    better = []
    for seed, (ours, others) in enumerate(zip(both, alone, strict=True)):
        better.append(
            tuple(
                gain
                for name in ("lesion Dice", "scan Dice")
                for gain in gains(ours, {"real alone": others}, name)
            )
        )
        found.gains.setdefault(seed, []).append(better[-1][0].value)
    found.row(case, "real", mean(alone))
    found.row(case, WITH_MADE, mean(both) + mean(better))


def _made(
    scan: Sick,
    copy: Copy,
    own: Sequence[Mask],
    alone: Sequence[Segmenter],
    method: str,
    found: Found,
) -> None:
    """Rows of lesions made in a scan, and of the same places before."""
    case, mm, others = scan.case, scan.volume.spacing_mm, scan.numbers > 0
    volume = read(copy.case).volume
    masks = [outline(net, volume, case.facts.region) for net in alone]
    found.row(case, method, mean([outlined(m, copy.numbers, mm, others) for m in masks]))
    ground = mean([outlined(m, copy.numbers, mm, others) for m in own])
    # What is outlined where nothing is, is wrong; elsewhere it is as of "real".
    found.row(case, "untouched", tuple(replace(v, better="lower") for v in ground[:3]))


# ---- lesions made again, and taken out ----------------------------------------------------------


def _inpainting(fold: Fold, make: Make, remove: Remove, bench: Bench, found: Found) -> None:
    """Judges of one fold, and what they outline of lesions made again and taken out."""
    bench.options.say(f"{fold.patient} is held out")
    nets = [judge(fold.train, n, bench, f"{fold.number}-{n}") for n in range(bench.config.seeds)]
    for case in fold.judged:
        _again(read(case), nets, make, remove, bench, found)
    bench.tick()


def _again(
    scan: Sick, nets: Sequence[Segmenter], make: Make, remove: Remove, bench: Bench, found: Found
) -> None:
    """Rows of one scan of the patient held out."""
    case, mm, lesion = scan.case, scan.volume.spacing_mm, scan.numbers > 0
    hole = around(lesion, mm)
    cut, seed = cut_out(scan.volume, hole), bench.seed(case.facts.id)
    again = made(cut, scan.numbers, seed, make)
    filled = made(cut, scan.numbers, seed, lambda volume, numbers, seed: remove(volume, hole, seed))
    for method, volume in (("real", scan.volume), (bench.config.method, again), ("cut out", cut)):
        masks = [outline(net, volume, case.facts.region) for net in nets]
        values = (*mean([outlined(m, scan.numbers, mm) for m in masks]), _left(masks, hole, lesion))
        if method != "real":
            off = np.abs(volume.hu - scan.volume.hu)
            parts = {"inside": lesion, "in the rim": hole & ~lesion}
            values += tuple(
                Value(f"MAE {part}", float(off[where].mean()), "HU", "lower")
                for part, where in parts.items()
            )
        found.row(case, method, values)
    masks = [outline(net, filled, case.facts.region) for net in nets]
    found.row(case, "removed", (_left(masks, hole, lesion),))
    found.look("real", case, scan.volume, scan.numbers)
    found.look("made", case, again, scan.numbers)


def _left(masks: Sequence[Mask], hole: Mask, lesion: Mask) -> Value:
    """What is outlined in the hole, as a share of the lesion; the mean over judges."""
    shares = [float((mask & hole).sum() / lesion.sum()) for mask in masks]
    return Value("left", float(np.mean(shares)), "", "lower")
