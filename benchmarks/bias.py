"""Bias of denoising by tissue, and what structure is in what it removes, at several noise levels.

    python benchmarks/bias.py [STORE] [--weights base] [--sd 13 27 45 90] [--well-inside .05]

White noise of each SD (HU), and a quarter and a tenth of the dose, in the central 16 slices of the
held-out scans that are fine in plane (default store: .denovox/store). bias: mean error (HU) in each
tissue of the coarse anatomy, figures as in `denovox evaluate all`. structure: correlation, at the
strongest edges, of the removed noise with the detail of the result (metrics/residual.py); 0 for
noise alone. --well-inside: `tasks.WELL_INSIDE`; 9 is the rule of before. Prints means over scans
with their 95 % intervals over patients.
"""

from __future__ import annotations

import argparse

from denovox import tasks
from denovox.core.labels import OUTSIDE
from denovox.datasets import store
from denovox.datasets.samples.choice import is_coarse
from denovox.evaluation.evidence.noise import NOISES, white
from denovox.evaluation.evidence.study import central
from denovox.evaluation.lesions.hosts import read
from denovox.evaluation.simulated_metrics import simulated_dose
from denovox.evaluation.tables import measured_figures
from denovox.inference.model import load
from denovox.metrics.residual import residual
from denovox.metrics.results import Measured, Value
from denovox.scan import anatomy

SLICES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store", nargs="?", default=".denovox/store")
    parser.add_argument("--weights", default="base")
    parser.add_argument("--sd", nargs="+", type=float, default=[13, 27, 45, 90])
    parser.add_argument("--well-inside", type=float, default=tasks.WELL_INSIDE)
    given = parser.parse_args()
    tasks.WELL_INSIDE = given.well_inside
    noises = {f"white, {sd:g} HU": white(sd) for sd in given.sd}
    noises |= {dose: NOISES[dose] for dose in ("dose-0.25", "dose-0.1")}
    model = load(given.weights)
    _, held = store.split(store.cases(given.store), ())
    rows: dict[str, list[Measured]] = {}
    for case in held:
        if is_coarse(case):
            continue
        truth, facts = central(read(case).volume, SLICES), case.facts
        labels = anatomy.coarse(truth)
        inside = labels != OUTSIDE
        for what, noise in noises.items():
            scan = noise.add(truth, facts.id, 0, lambda line: None)
            result = model.denoise(scan, facts.region)
            figures = simulated_dose(truth, result, labels, inside, facts.region)
            kept = [one for one in figures if one.name.startswith(("bias", "psnr"))]
            removed = residual(scan.hu, result.hu, inside, truth.spacing_mm)
            if removed.structure is not None:
                kept.append(Value("structure at edges", removed.structure, "", "zero"))
            rows.setdefault(what, []).append(
                Measured(facts.patient, facts.region, what, tuple(kept))
            )
    print("| noise | figure | N | mean |\n|---|---|---|---|")
    for what, measured in rows.items():
        for one in measured_figures(measured, 0):
            print(f"| {what} | {one.name} | {one.patients} | {one.shown} |")


if __name__ == "__main__":
    main()
