"""Anomaly maps on real lesions and planted ones: what is found, and does a local mean do better?

    python benchmarks/lesion_detection.py --store .denovox/store      (2 cores: about 15 minutes)

real: every fine scan of the store with a mask of lesions; planted: every fine scan of a chest or an
abdomen, with nodules in the lung or lesions in the liver and in muscle (three of each, as many as
there is room for). Whole scans, as `denovox detect` treats them, calibrated on other patients.

A component is of a lesion if a quarter of it or more lies within 3 mm of it, and it finds the
lesion if it also covers a tenth of it; all others are elsewhere. The score of a voxel is |z|; the
rivals are local means over 8, 15 and 25 mm, which are not calibrated by tissue. Over the body in
the slices of the region: AUROC, average precision, PRO.

The base has seen most of these scans in training, their lesions included.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator
from pathlib import Path

import lesion_data
import numpy as np

from denovox import load
from denovox.core.errors import InputError
from denovox.core.morphology import dilate_mm
from denovox.core.volume import Volume
from denovox.datasets.samples.choice import is_coarse
from denovox.datasets.store import cases, split
from denovox.evaluation.evidence.parts import REACHES_MM
from denovox.evaluation.evidence.rivals import local_mean_difference
from denovox.evaluation.lesions.hosts import LesionCase, entry_of, read
from denovox.evaluation.simulated_metrics import planted_lesions
from denovox.evaluation.simulated_tasks import scored_voxels
from denovox.inference.anomaly import calibration as anomaly
from denovox.inference.anomaly.components import numbered
from denovox.inference.model import Model
from denovox.metrics.bootstrap import bootstrap
from denovox.scan import anatomy
from denovox.scan.body_regions import RegionSpan
from denovox.simulate.planted_lesions import plant

OURS, CROP = "denovox", "_1mm-crop"
NEAR_MM, OF_COMPONENT, OF_LESION = 3.0, 0.25, 0.1
TISSUES = {"chest": ("lung", "muscle"), "abdomen": ("liver", "muscle")}
KINDS = {kind.tissues[0]: kind for kind in lesion_data.KINDS}
Figures = dict[str, dict[str, float]]  # of each method
Sick = tuple[str, Volume, np.ndarray]  # kind of lesion, the scan with them, their numbers


def planted(host: LesionCase) -> Iterator[Sick]:
    """A scan with as many lesions of each kind as there is room for."""
    labels = anatomy.coarse(host.volume)
    for name in TISSUES[host.case.facts.region]:
        kind = KINDS[name]
        for count in range(kind.number, 0, -1):
            seed = zlib.crc32(f"{host.case.facts.id} {name}".encode())
            config = kind.model_copy(update={"number": count})
            try:
                volume, numbers, _ = plant(host.volume, labels, config, seed)
            except InputError:
                continue
            yield f"{name}, planted", volume, numbers
            break


def found(numbers: np.ndarray, lesions: np.ndarray, near: np.ndarray) -> tuple[int, list[int]]:
    """How many lesions are found; the numbers of the components that are of one."""
    size = np.bincount(numbers.ravel())
    inside = np.bincount(numbers[near], minlength=len(size))
    of_one = np.flatnonzero(inside >= np.maximum(OF_COMPONENT * size, 1))
    of_one = of_one[of_one > 0]
    hits = 0
    for lesion in range(1, int(lesions.max()) + 1):
        own = numbers[lesions == lesion]
        share = [np.mean(own == number) for number in of_one]
        hits += max(share, default=0) >= OF_LESION
    return hits, of_one.tolist()


def measure(model: Model, host: LesionCase, sick: Sick, held: bool) -> tuple[list[int], Figures]:
    """Lesions, found ones and components elsewhere of one scan, and its figures; prints a row."""
    facts, (kind, volume, lesions) = host.case.facts, sick
    lesion = lesions > 0
    others = anomaly.bundled(facts.patient)
    result = model.detect(volume, region=facts.region, calibrations=others)
    whole = RegionSpan(facts.region, 0, volume.shape[2], "whole")
    scored = scored_voxels(anatomy.coarse(volume), whole)
    scores = {OURS: np.abs(result.z.hu)} | {
        f"local mean, {mm} mm": local_mean_difference(volume, scored, facts.region, mm)
        for mm in REACHES_MM
    }
    near = dilate_mm(lesion, NEAR_MM, volume.spacing_mm)
    hits, own = found(numbered(result.z, result.limits), lesions, near)
    count, total = len(result.components), int(lesions.max())
    ml = lesion.sum() * np.prod(volume.spacing_mm) / 1000
    print(
        f"| {facts.id} | {'held out' if held else 'training'} | {kind} | {total} | {ml:.1f} |"
        f" {hits} | {min(own, default='-')} | {count - len(own)} |",
        flush=True,
    )
    figures = {
        name: {value.name: value.value for value in planted_lesions(score, lesion, scored)}
        for name, score in scores.items()
    }
    return [total, hits, count - len(own)], figures


def table(rows: list[tuple[str, list[int], Figures]]) -> None:
    """Sums over scans; means over scans, and ours less each with its interval over patients."""
    patients = [patient for patient, _, _ in rows]
    total, hits, elsewhere = np.sum([counts for _, counts, _ in rows], 0)
    print(f"found: {hits} of {total} lesions; elsewhere: {elsewhere / len(rows):.1f} a scan\n")
    print("| figure | method | value | ours less it |\n|---|---|---|---|")
    for figure in rows[0][2][OURS]:
        ours = np.array([row[OURS][figure] for _, _, row in rows])
        print(f"| {figure} | {OURS} | {ours.mean():.3f} | |")
        for name in list(rows[0][2])[1:]:
            theirs = np.array([row[name][figure] for _, _, row in rows])
            off = ours - theirs
            span = bootstrap(patients, lambda drawn, off=off: float(off[drawn].mean()))
            low, high = (np.nan if end is None else end for end in (span.low, span.high))
            ends = f"{off.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
            print(f"| {figure} | {name} | {theirs.mean():.3f} | {ends} |", flush=True)


def main() -> None:
    """Measure every scan, then print a table for each region and kind of lesion."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--store", type=Path, default=Path(".denovox/store"))
    given = parser.parse_args()
    model = load("base")
    held = {case.facts.id for case in split(cases(given.store), ())[1]}
    print("| scan | | lesions | of them | mL | found | first component | elsewhere |")
    print("|---|---|---|---|---|---|---|---|")
    groups: dict[str, list[tuple[str, list[int], Figures]]] = {}
    for case in cases(given.store):
        facts = case.facts
        if facts.region not in TISSUES or is_coarse(case) or entry_of(case).endswith(CROP):
            continue
        host, out = read(case), facts.id in held
        real = [("real", host.volume, host.numbers)] if facts.lesions else []
        for sick in (*real, *planted(host)):
            counts, figures = measure(model, host, sick, out)
            whose = "held out" if out else "training"
            group = f"{facts.region}, {sick[0]}, {whose}"
            groups.setdefault(group, []).append((facts.patient, counts, figures))
    for group, rows in sorted(groups.items()):
        print(
            f"\n{group}: N {len({patient for patient, _, _ in rows})}, {len(rows)} scans;", end=" "
        )
        table(rows)


if __name__ == "__main__":
    main()
