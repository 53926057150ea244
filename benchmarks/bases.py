"""Bases against each other on all validation patients, in one evaluation: x0 error and denoising.

    nice python benchmarks/bases.py base runs/white/arm.safetensors runs/grain/arm.safetensors

With --patients A,B,C: on these patients, whether they were trained on or not.

x0: RMSE in model units on boxes of every validation patient, at each noise level, white noise. The
boxes are drawn as training draws them (region, fine or coarse, patient in turn). Denoising: the
central crop of each fine patient with noise of a lower dose (simulated in projections: the noise is
coloured), or white noise; PSNR in the region's window over the central 12 of 16 slices. "network":
one evaluation of the whole crop, given the SD that is estimated from the noisy crop and the anatomy
by thresholds of the clean crop; values outside of the window are left alone. "denoise": what a user
gets, `Model.denoise`, given the region: in tiles, with local noise levels, and with the local means
of the scan restored, which takes out much of a network's bias.

Behind a figure: the 95 % interval over patients of its difference to the first weights' (bootstrap
of patients, paired), and N, the number of patients.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from denovox import load
from denovox.core.regions import REGIONS
from denovox.datasets import store
from denovox.datasets.samples.batch import Sample
from denovox.datasets.samples.choice import SampleConfig, in_turn, is_coarse
from denovox.datasets.samples.multilevel import sample
from denovox.inference.model import Model
from denovox.metrics.bootstrap import bootstrap
from denovox.model import loading, weights
from denovox.model.denoiser import Denoiser
from denovox.train.adaptation.denoising import INNER, Crop, crops, psnr

SIGMAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass
class Column:
    """A figure of each patient, for each weights; better: 1 where more is, else -1."""

    name: str
    patients: list[str]
    values: list[list[float]]

    def cells(self) -> list[str]:
        """The means, and the intervals of the differences to the first."""
        first, *rest = (np.array(row) for row in self.values)
        cells = [f"{first.mean():.4g} (N {len(set(self.patients))})"]
        for row in rest:
            off = row - first
            span = bootstrap(self.patients, lambda drawn, off=off: float(off[drawn].mean()))
            low, high = (np.nan if end is None else end for end in (span.low, span.high))
            cells.append(f"{row.mean():.4g} ({off.mean():+.3g} [{low:+.3g}, {high:+.3g}])")
        return cells


def boxes(held: list[store.Case], count: int, patch: int) -> tuple[list[Sample], list[str]]:
    """Boxes of all levels, and whose each is."""
    config = SampleConfig(patch=patch, levels=(0.2, 0.3, 0.5), mirror=0, drop=0)
    cases = in_turn(held, config, count)
    drawn = [sample(case, config, np.random.default_rng([77, n])) for n, case in enumerate(cases)]
    return drawn, [case.facts.patient for case in cases]


@torch.no_grad()
def x0_errors(ask: Denoiser, some: list[Sample], sigma: float) -> list[float]:
    """The root mean square error of each box."""
    found = []
    for one in some:
        x0 = ask(one.x0 + sigma * one.noise, sigma, one.condition).clamp(-1, 1)
        found.append(float((x0 - one.x0).square().mean().sqrt()))
    return found


def denoised(model: Model, of: Crop) -> float:
    """PSNR of what a user gets, in dB, as `psnr` measures it."""
    window = REGIONS[of.region].window
    made, truth = (
        window.unit(volume.hu[..., INNER]).clip(-1, 1)
        for volume in (model.denoise(of.noisy, of.region), of.clean)
    )
    return float(20 * np.log10(2 / np.sqrt(np.square(made - truth).mean())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--store", default=".denovox/store")
    parser.add_argument("--boxes", type=int, default=96)
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--patients", type=lambda names: names.split(","), default=[])
    parser.add_argument("--no-denoising", action="store_true")
    given = parser.parse_args()
    _, held = store.split(store.cases(given.store), tuple(given.patients))
    asked = [loading.load(weights.locate(name), precision="auto")[0] for name in given.weights]
    models = [load(name) for name in given.weights]
    some, whose = boxes(held, given.boxes, given.patch)
    columns = [
        Column(f"x0 RMSE, sigma {sigma:g}", whose, [x0_errors(ask, some, sigma) for ask in asked])
        for sigma in SIGMAS
    ]
    fine = [case for case in held if given.patients or not is_coarse(case)]
    noisy = [] if given.no_denoising else list(crops(fine))
    before: dict[str, float] = {}
    for kind in dict.fromkeys(crop.kind for crop in noisy):
        mine = [crop for crop in noisy if crop.kind == kind]
        pairs = [[psnr(ask, crop) for crop in mine] for ask in asked]
        before[kind] = float(np.mean([a for a, _ in pairs[0]]))
        rows = {
            "network": [[after for _, after in row] for row in pairs],
            "denoise": [[denoised(model, crop) for crop in mine] for model in models],
        }
        for how, after in rows.items():
            columns.append(Column(f"{kind}, {how}, dB", [crop.patient for crop in mine], after))
            for region in sorted({crop.region for crop in mine}):
                which = [i for i, crop in enumerate(mine) if crop.region == region]
                some_of = [[row[i] for i in which] for row in after]
                columns.append(Column(f"  {region}", [mine[i].patient for i in which], some_of))
    print("input, dB: " + ", ".join(f"{kind} {value:.2f}" for kind, value in before.items()))
    names = [Path(name).parent.name + "/" + Path(name).stem for name in given.weights]
    print("\n| figure | " + " | ".join(names) + " |\n|---" * 1 + "|---" * len(names) + "|")
    for column in columns:
        print(f"| {column.name} | " + " | ".join(column.cells()) + " |", flush=True)


if __name__ == "__main__":
    main()
