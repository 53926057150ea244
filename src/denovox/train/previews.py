"""What the weights of a run can draw so far: a sheet of samples, always from the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..core.condition import Condition
from ..core.random_field import field
from ..core.regions import REGIONS
from ..core.volume import Volume
from ..datasets.samples.batch import Sample
from ..model.denoiser import Denoiser, denoiser
from ..model.weights import ModelConfig
from ..reports.preview import Band, preview
from ..tasks import synthesis

STEPS = 10  # evaluations of a sample


@dataclass(frozen=True)
class Sitter:
    """A real sample, and the region that it is of; its conditions are what is drawn from."""

    sample: Sample
    region: str


def sitters(every: Sequence[Sitter]) -> list[Sitter]:
    """One of each region: the first of those that show most of the body."""
    chosen: dict[str, Sitter] = {}
    for one in sorted(every, key=lambda sitter: sitter.sample.level):
        chosen.setdefault(one.region, one)
    return [chosen[name] for name in REGIONS if name in chosen]


def draw(
    net: nn.Module, model: ModelConfig, of: Sequence[Sitter], path: Path, title: str, device: str
) -> None:
    """Write a PNG: each sitter, and what the network draws from its conditions and noise of seed 0.

    `OSError` where it cannot be written.
    """
    ask, bands = denoiser(net, model.noise_schedule, model.prediction), []
    with torch.inference_mode():
        for sitter in of:
            sample, region = sitter.sample, REGIONS[sitter.region]
            shape = (sample.x0.shape[2], sample.x0.shape[3], sample.x0.shape[4])
            told, noise = sample.condition.to(device), field(0, shape, device)
            task = synthesis(noise, model.noise_schedule, STEPS)
            drawn = task.run(partial(_asked, ask, told), noise).cpu()
            mm = told.spacing_mm[0].tolist()
            real, made = (
                Volume(region.window.hu(one[0, 0].clamp(-1, 1).numpy()), np.diag([*mm, 1.0]))
                for one in (sample.x0, drawn)
            )
            title_of = f"{sitter.region}, voxels of {mm[0]:.1f} x {mm[1]:.1f} x {mm[2]:.1f} mm"
            bands.append(Band(title_of, {"real": real, "sampled": made}, region.window))
    path.parent.mkdir(parents=True, exist_ok=True)
    preview(bands, path, title)


def _asked(ask: Denoiser, told: Condition, x: Tensor, sigma: float) -> Tensor:
    return ask(x, sigma, told)
