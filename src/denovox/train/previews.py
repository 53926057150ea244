"""Preview of a run: a sheet of samples from its weights, always from the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.condition import Condition
from ..core.random_field import field
from ..core.regions import REGIONS
from ..core.volume import Volume
from ..datasets.samples.batch import Sample
from ..model.denoiser import Denoiser
from ..model.weights import ModelConfig
from ..reports.figure_sheet import Row, sheet
from ..tasks import Solver, synthesis

STEPS = 5  # network evaluations per sample, unless the weights are distilled to others


@dataclass(frozen=True)
class PreviewSample:
    """A real sample and its region; its conditions are used to sample."""

    sample: Sample
    region: str


def preview_samples(every: Sequence[PreviewSample]) -> list[PreviewSample]:
    """One per region: the first of those that show most of the body."""
    chosen: dict[str, PreviewSample] = {}
    for one in sorted(every, key=lambda one: one.sample.level):
        chosen.setdefault(one.region, one)
    return [chosen[name] for name in REGIONS if name in chosen]


def draw(
    ask: Denoiser,
    model: ModelConfig,
    of: Sequence[PreviewSample],
    path: Path,
    title: str,
    device: str,
) -> None:
    """Write a PNG: each real sample, next to one generated from its conditions and noise of seed 0.

    `OSError` if it cannot be written.
    """
    schedule, few = model.noise_schedule, model.distilled_steps
    sigmas = schedule.from_noise(few or STEPS)
    solver: Solver = "ddim" if few else "dpm++"
    rows = []
    with torch.inference_mode():
        for one in of:
            sample, region = one.sample, REGIONS[one.region]
            shape = (sample.x0.shape[2], sample.x0.shape[3], sample.x0.shape[4])
            condition, noise = sample.condition.to(device), field(0, shape, device)
            task = synthesis(noise, sigmas, solver)
            drawn = task.run(partial(_asked, ask, condition), noise).cpu()
            mm = condition.spacing_mm[0].tolist()
            real, sampled = (
                Volume(region.window.hu(x0[0, 0].clamp(-1, 1).numpy()), np.diag([*mm, 1.0]))
                for x0 in (sample.x0, drawn)
            )
            title_of = f"{one.region}, voxels of {mm[0]:.1f} x {mm[1]:.1f} x {mm[2]:.1f} mm"
            names = ("real", "", "sampled")
            rows.append(Row(title_of, real, None, region.window, "", sampled, names))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows, path, title)


def _asked(ask: Denoiser, condition: Condition, x: Tensor, sigma: float) -> Tensor:
    return ask(x, sigma, condition)
