"""The tasks, as rows of METHOD 2's table: a start, a list of sigmas, a correction, fresh noise.

All volumes here are in model units; the window has been applied and nothing is known of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .core.operators.base import Identity, Operator
from .core.operators.coloured_noise import Coloured
from .core.schedule import Schedule
from .sampling.corrections import clip, paste, prox, then
from .sampling.interleaved import topped_up
from .sampling.sampler import (
    Correct,
    Denoise,
    Fresh,
    Noise,
    Vol,
    ddim,
    ddpm,
    diffpir,
    sample,
    with_jumps,
)

Solver = Literal["dpm++", "ddim", "ddpm"]
_SOLVERS: dict[str, tuple[Fresh, int]] = {"dpm++": (ddim, 2), "ddim": (ddim, 1), "ddpm": (ddpm, 1)}


@dataclass(frozen=True)
class Task:
    """A row of the table.

    x: the start, at sigmas[0]. blend: whether windows need to overlap; where data hold the result
    at every step, moving seams average out by themselves (benchmarks/results). split: whether
    every second voxel in the slices is to be denoised on its own (sampling/interleaved.py).
    """

    x: Vol
    sigmas: Sequence[float]
    correct: Correct = clip
    fresh: Fresh = ddim
    order: int = 1
    blend: bool = True
    split: bool = False

    @property
    def evaluations(self) -> int:
        """How often the denoiser will be asked."""
        return sum(b < a for a, b in zip(self.sigmas, self.sigmas[1:], strict=False))

    def run(self, denoise: Denoise, noise: Noise) -> Vol:
        """The result, x0."""
        return sample(
            denoise,
            self.x,
            self.sigmas,
            correct=self.correct,
            fresh=self.fresh,
            order=self.order,
            noise=noise,
        )


def synthesis(noise: Noise, schedule: Schedule, steps: int = 20, solver: Solver = "dpm++") -> Task:
    """From noise, all the way down, in `steps` evaluations."""
    fresh, order = _SOLVERS[solver]
    sigmas = schedule.descend(steps)
    return Task(sigmas[0] * noise(0), sigmas, clip, fresh, order)


def denoising(y: Vol, sigma: float) -> Task:
    """The posterior mean: the denoiser asked once, at the noise's own level."""
    return Task(y, [sigma, 0.0])


COLOUR = 1.2  # mean square of a spectrum of mean 1, from which on noise is not taken for white
AGAIN = 0.2  # of the noise's sigma: what is still left where three answers were averaged


def denoising_coloured(
    y: Vol, sigma: float, psd: Float[Tensor, "x y w"], noise: Noise
) -> tuple[Task, ...]:
    """The posterior mean for coloured noise, from a denoiser that knows white noise: three tasks
    whose results are to be averaged, then `denoising` at `AGAIN` of sigma. One, if it is white.

    Each of the three errs in a way of its own: as it is, what is correlated is taken for anatomy;
    split, fine detail is lost; topped up, what the added noise hid (benchmarks/coloured.py).
    psd: of the noise, mean 1 (`Spectrum.on`).
    """
    if float(psd.square().mean()) < COLOUR:
        return (denoising(y, sigma),)
    more, level = topped_up(y, sigma, psd, noise(1))
    return denoising(y, sigma), Task(y, [sigma, 0.0], split=True), denoising(more, level)


def denoising_diffpir(
    y: Vol,
    sigma: float,
    schedule: Schedule,
    steps: int = 10,
    strength: float = 10.0,
    zeta: float = 0.3,
) -> Task:
    """A restoration on the sampler's way down, DiffPIR (Zhu et al. 2023; METHOD 2 and 3).

    y: the noisy scan, which already lies at its own sigma and so needs no noise to start from.
    strength: lambda of METHOD 3. zeta: share of fresh noise.
    """
    sigmas = schedule.descend(steps, "logsnr", start=sigma, stop=min(0.02, sigma / 2))
    correct = then(clip, prox(Identity(), y, sigma, strength))
    return Task(y, sigmas, correct, diffpir(zeta), blend=False)


SAMPLE_STEPS = 10  # evaluations of one sample


def denoising_sample(
    y: Vol,
    sigma: float,
    psd: Float[Tensor, "x y w"],
    noise: Noise,
    schedule: Schedule,
    steps: int = SAMPLE_STEPS,
    strength: float = 3.0,
) -> Task:
    """A draw from what the scan may be without its noise: p(x0 | y), as the model has it.

    A scan with white noise is its own diffusion state, so ancestral steps from there down draw from
    the posterior itself (Kawar et al. 2021), and need no data step. Coloured noise is first made
    white, which forgets some of y; the prox of the noise as it was brings that back. psd: as in
    `denoising_coloured`. strength: lambda of METHOD 3. Few steps draw too narrowly: r of the SD
    where the prior says little, r being the ratio of neighbouring sigmas (.8 from .15 in ten
    steps), and nothing of detail finer than the last (tests/inference/test_posterior.py).
    """
    correct: Correct = clip
    x, level = y, sigma
    if float(psd.square().mean()) >= COLOUR:
        # A stream of its own: the steps ask for those from 1 on.
        x, level = topped_up(y, sigma, psd, noise(steps + 1))
        correct = then(clip, prox(Coloured(psd), y, sigma, strength))
    sigmas = schedule.descend(steps, "logsnr", start=level, stop=min(0.02, level / 2))
    return Task(x, sigmas, correct, ddpm)


def super_resolution(
    y: Float[Tensor, "b 1 x y z2"],
    operator: Operator,
    estimate: Vol,
    noise: Noise,
    schedule: Schedule,
    steps: int = 5,
    start: float = 0.3,
    stop: float = 0.03,
    zeta: float = 1.0,
    sigma: float = 0.0,
    strength: float = 1.0,
) -> Task:
    """Thin slices from thick ones y = A x, zero-shot (METHOD 2 and 3).

    estimate: an interpolation of y, to which noise of sigma `start` is added. It lies much nearer
    to the truth than that, but noise that hides its stairs lets the model draw the edges anew.
    zeta: share of fresh noise; all of it was best wherever it was tried (docs/log.md): what
    the interpolation got wrong is then forgotten soonest. sigma: SD of y's own noise; with 0 every
    estimate has y's averages exactly. strength: lambda of METHOD 3.
    """
    sigmas = schedule.descend(steps, "logsnr", start=start, stop=stop)
    correct = then(clip, prox(operator, y, sigma, strength))
    return Task(estimate + start * noise(0), sigmas, correct, diffpir(zeta), blend=False)


def inpainting(
    y: Vol,
    known: Bool[Tensor, "b 1 x y z"],
    noise: Noise,
    schedule: Schedule,
    steps: int = 20,
    jumps: tuple[int, int] = (2, 2),
) -> Task:
    """What may stand where nothing is known: RePaint (Lugmayr et al. 2022; METHOD 2).

    The known voxels of y are pasted into every estimate. jumps: (length, times) of `with_jumps`;
    the paper's own are (10, 10) at 250 steps. A lesion comes in as the condition's control.
    """
    sigmas = schedule.descend(steps)
    start = torch.where(known, y, 0) + sigmas[0] * noise(0)
    return Task(start, with_jumps(sigmas, *jumps), then(clip, paste(known, y)), ddpm)


def anomaly(
    y: Vol, sigma_star: float, steps: int, known: Bool[Tensor, "1 1 x y z"], noise: Noise
) -> Task:
    """What the scan would be if it were healthy: noise to sigma*, and back by DDIM (METHOD 2).

    known: outside the region of interest, where the scan is pasted back. steps: 1 asks once, for
    the posterior mean at sigma*; more follow the ODE, evenly in log sigma.
    """
    sigmas = [sigma_star]
    if steps > 1:
        last = min(0.02, sigma_star / 2)
        sigmas = [sigma_star * (last / sigma_star) ** (k / (steps - 1)) for k in range(steps)]
    y = y.clamp(-1, 1)
    return Task(y + sigma_star * noise(0), [*sigmas, 0.0], then(clip, paste(known, y)), ddim)


def noisy_input(unit: Vol, sigma: float, noise: Noise) -> Vol:
    """A measured volume as the denoiser has learnt to see it: clipped truth plus noise of sigma.

    Within reach of the noise (3 sigma) a value outside the window may stem from a truth inside:
    it stays. Farther out the truth is certainly clipped, to -1 or 1: there it is that, plus noise.
    """
    beyond = unit.abs() > 1 + 3 * sigma
    return torch.where(beyond, unit.clamp(-1, 1) + sigma * noise(0), unit)


def change(unit: Vol, restored: Vol, sigma: float) -> Vol:
    """What to add to the measured volume (METHOD 3: y + (f(clip y) - clip y), and its refinement).

    Farther than 3 sigma outside the window nothing changes. Nearer, the part that sticks out
    comes back (it may be bone), unless the restored value lies well inside (it was noise).
    """
    clipped = unit.clamp(-1, 1)
    inside = ((1 - restored.abs()) / max(sigma, 1e-6)).clamp(0, 1)
    added = restored - clipped - inside * (unit - clipped)
    return torch.where(unit.abs() > 1 + 3 * sigma, 0, added)
