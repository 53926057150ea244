"""The free numbers of denoising: where to start, lambda and zeta (METHOD 3), on validation crops.

    nice python benchmarks/sweep.py                # about 15 minutes on one core
    python benchmarks/sweep.py --kernels white     # white noise only

Crops, noise and model are those of `coloured.py`. Posterior mean: one evaluation at a factor times
the estimated sigma. DiffPIR: ten evaluations, `strength` is lambda, `zeta` the share of fresh
noise. What is best here was chosen on the patients it is reported on; a table of defaults, then,
not a figure of merit.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from coloured import HERE, KERNELS, PATIENTS, Case, cases, psd_of

import denovox
from denovox.core.random_field import field
from denovox.core.regions import REGIONS
from denovox.metrics.fidelity import fidelity, named
from denovox.sampling.sampler import Vol
from denovox.tasks import change, denoising, denoising_diffpir

FACTORS = (0.7, 0.85, 1.0, 1.15, 1.3)
STRENGTHS, ZETAS, STEPS = (1.0, 3.0, 10.0, 30.0), (0.0, 0.3, 1.0), 10


def mean(case: Case, factor: float) -> Vol:
    """The posterior mean, as if the noise were `factor` times what it is."""
    sigma = factor * psd_of(case, False)[0]
    return denoising(case.input(sigma), sigma).run(case.whole, field(0, case.clean.shape))


def diffpir(case: Case, strength: float, zeta: float) -> Vol:
    """Ten evaluations on the way down."""
    sigma = psd_of(case, False)[0]
    schedule = case.model.config.noise_schedule
    task = denoising_diffpir(case.input(sigma), sigma, schedule, STEPS, strength, zeta)
    return task.run(case.whole, field(0, case.clean.shape))


def psnr(case: Case, x0: Vol) -> float:
    """In the region's window, dB."""
    window = REGIONS[case.region].window
    added = change(case.unit, x0.clamp(-1, 1), case.sigma(case.noise.sd_hu))[0, 0].numpy()
    result = case.noisy.with_hu(case.noisy.hu + added * np.float32(window.width_hu / 2))
    return fidelity(case.clean, result, named(f"window:{case.region}")).psnr_db


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "ct")
    parser.add_argument("--weights", default="base")
    parser.add_argument("--kernels", default="white,soft", help="of " + ", ".join(KERNELS))
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    model = denovox.load(args.weights)
    made = cases(model, args.data, list(PATIENTS), args.kernels.split(","))
    names = [f"{c.region} {c.noise_hu:g} HU" for c in made]
    print("kernels: " + args.kernels)
    print("| | " + " | ".join(names) + " |\n|---|" + "---:|" * len(made), flush=True)
    with torch.inference_mode():
        for factor in FACTORS:
            cells = [f"{psnr(case, mean(case, factor)):.2f}" for case in made]
            print(f"| mean, {factor:g} sigma | " + " | ".join(cells) + " |", flush=True)
        for strength in STRENGTHS:
            for zeta in ZETAS:
                cells = [f"{psnr(case, diffpir(case, strength, zeta)):.2f}" for case in made]
                name = f"DiffPIR, lambda {strength:g}, zeta {zeta:g}"
                print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
