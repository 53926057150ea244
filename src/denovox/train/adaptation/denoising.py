"""How well a network denoises scans: crops with simulated noise, in one evaluation each.

An x0 error on small boxes says little about denoising: it can fall while denoising gets worse
(docs/explain/log.md, adaptation).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ...core.condition import condition
from ...core.errors import InputError
from ...core.random_field import normal
from ...core.regions import REGIONS
from ...core.tensors import tensor
from ...core.volume import Volume
from ...datasets.store import Case
from ...model.denoiser import Denoiser
from ...scan import anatomy
from ...scan.noise import estimate
from ...scan.noise_level import estimate_noise_hu
from ...simulate.dose import LowDoseConfig, photons_of, simulate_low_dose
from ...tasks import change, noisy_input

CROP, INNER = (112, 96, 16), slice(2, 14)  # voxels; slices that are measured
MULTIPLE = 16  # of voxels, along each axis
WHITE_HU = {"headneck": 27.0, "chest": 45.0, "abdomen": 27.0}
OWN_NOISE_HU = 12.0  # of the full dose, in soft tissue: what the lower doses are counted from
DOSES = (0.25, 0.1)


@dataclass(frozen=True)
class Crop:
    """A crop of a scan, and the same with noise.

    kind: white, or the share of the dose. labels: by thresholds of the clean crop. noise_hu: SD of
    the noise, estimated from the noisy crop.
    """

    patient: str
    region: str
    kind: str
    clean: Volume
    noisy: Volume
    labels: UInt8[np.ndarray, "x y z"]
    noise_hu: float


def crops(cases: Iterable[Case]) -> Iterator[Crop]:
    """The middle of each case, with each kind of noise; of cases of 16 slices or more with enough
    soft tissue to estimate noise in.

    White noise has the SD of `WHITE_HU`; a lower dose is simulated in projections.
    """
    for case in cases:
        try:
            yield from _crops(case)
        except InputError:
            continue


def _crops(case: Case) -> list[Crop]:
    shape, mm = case.facts.shape, case.facts.spacing_mm
    size = [min(n, c) // MULTIPLE * MULTIPLE for n, c in zip(shape, CROP, strict=True)]
    if not all(size):
        return []
    starts = [(n - m) // 2 for n, m in zip(shape, size, strict=True)]
    x, y, z = (slice(a, a + m) for a, m in zip(starts, size, strict=True))
    # The dose is simulated on whole slices: rays cross the whole body.
    slab = np.asarray(case.voxels("ct")[:, :, z]).astype(np.float32)
    square = Volume(slab, np.diag([mm[0], mm[0], mm[2], 1.0]))
    white = normal(9, 0, (slab.shape[0], slab.shape[1], slab.shape[2]))[0, 0].numpy()
    kinds = {"white": slab + WHITE_HU[case.facts.region] * white}
    config = LowDoseConfig()
    config = config.model_copy(update={"photons": photons_of(square, OWN_NOISE_HU, config)})
    for dose in DOSES:
        low = config.model_copy(update={"dose": dose})
        kinds[f"dose {dose:g}"] = simulate_low_dose(square, low).hu

    def cut(hu: np.ndarray) -> Volume:
        return Volume(np.ascontiguousarray(hu[x, y], np.float32), np.diag([*mm, 1.0]))

    clean = cut(slab)
    labels = anatomy.coarse(clean)
    found = []
    for kind, hu in kinds.items():
        noisy = cut(hu)
        is_white = kind == "white"
        sd = estimate_noise_hu(noisy, labels) if is_white else estimate(noisy, labels).sd_hu
        found.append(Crop(case.facts.patient, case.facts.region, kind, clean, noisy, labels, sd))
    return found


@torch.no_grad()
def psnr(ask: Denoiser, of: Crop) -> tuple[float, float]:
    """PSNR before and after, in dB, of the inner slices in the window of the region."""
    region = REGIONS[of.region]
    sigma, unit = region.window.sigma(of.noise_hu), tensor(region.window.unit(of.noisy.hu))
    shape = (unit.shape[2], unit.shape[3], unit.shape[4])
    known = condition(shape, of.clean.spacing_mm, region.id, torch.from_numpy(of.labels))
    x = noisy_input(unit, sigma, lambda stream: normal(5, stream, shape))
    restored = unit + change(unit, ask(x, sigma, known).clamp(-1, 1), sigma)
    truth = torch.from_numpy(region.window.unit(of.clean.hu)).clamp(-1, 1)[..., INNER]

    def decibel(made: Float[Tensor, "1 1 x y z"]) -> float:
        wrong = made[0, 0].clamp(-1, 1)[..., INNER] - truth
        return float(20 * torch.log10(2 / wrong.square().mean().sqrt()))

    return decibel(unit), decibel(restored)
