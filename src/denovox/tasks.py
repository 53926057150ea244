"""The tasks as rows of Method 2's table: a start, a list of sigmas, a correction, fresh noise.

All volumes here are in model units: the window has been applied, and files play no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .core.operators.base import Identity, Operator
from .core.operators.coloured_noise import Coloured, topped_up
from .core.schedule import Schedule
from .sampling.corrections import clip, paste, prox, then
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

    x: the start, at sigmas[0]. blend: whether tiles need to overlap; where the data constrain the
    result at every step, moving seams average out by themselves (benchmarks/results).
    """

    x: Vol
    sigmas: Sequence[float]
    correct: Correct = clip
    fresh: Fresh = ddim
    order: int = 1
    blend: bool = True

    @property
    def evaluations(self) -> int:
        """How often the denoiser will be evaluated."""
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


def synthesis(noise: Noise, sigmas: Sequence[float], solver: Solver = "dpm++") -> Task:
    """From pure noise all the way down, by these sigmas (`Schedule.from_noise`)."""
    fresh, order = _SOLVERS[solver]
    return Task(sigmas[0] * noise(0), sigmas, clip, fresh, order)


def refinement(
    y: Float[Tensor, "b 1 u v w"],
    operator: Operator,
    estimate: Vol,
    noise: Noise,
    sigmas: Sequence[float],
    solver: Solver = "dpm++",
    sigma: float = 0.0,
) -> Task:
    """A finer level of a synthesis from a coarser one y = A x (Method 6).

    estimate: an interpolation of y, to which noise of sigmas[0] is added: what is coarser than that
    remains, what is finer is drawn. sigma: how far the averages of the result may be from y, as an
    SD; with 0 every estimate has exactly those of y, unless they lead out of the window.
    """
    fresh, order = _SOLVERS[solver]
    correct = then(clip, prox(operator, y, sigma), clip)  # the averages may lead out of the window
    return Task(estimate + sigmas[0] * noise(0), sigmas, correct, fresh, order, blend=False)


def denoising(y: Vol, sigma: float) -> Task:
    """The posterior mean: one evaluation of the denoiser, at the noise level of y."""
    return Task(y, [sigma, 0.0])


COLOUR = 1.2  # noise counts as coloured from this mean square of its spectrum (of mean 1)


def denoising_diffpir(
    y: Vol,
    sigma: float,
    schedule: Schedule,
    steps: int = 10,
    strength: float = 10.0,
    zeta: float = 0.3,
) -> Task:
    """Restoration during sampling: DiffPIR (Zhu et al. 2023; Method 2 and 3).

    y: the noisy scan, which is already at its own sigma, so no noise is added at the start.
    strength: lambda of Method 3. zeta: share of fresh noise.
    """
    sigmas = schedule.descend(steps, "logsnr", start=sigma, stop=min(0.02, sigma / 2))
    correct = then(clip, prox(Identity(), y, sigma, strength))
    return Task(y, sigmas, correct, diffpir(zeta), blend=False)


SAMPLE_STEPS = 10  # evaluations per sample
WELL_INSIDE = (
    0.05  # from a window's end, model units; chosen on training scans (docs/explain/log.md)
)


def denoising_sample(
    y: Vol,
    sigma: float,
    psd: Float[Tensor, "x y w"],
    noise: Noise,
    schedule: Schedule,
    steps: int = SAMPLE_STEPS,
    strength: float = 3.0,
) -> Task:
    """A draw from the model's posterior p(x0 | y) of the scan without its noise.

    A scan with white noise is a diffusion state in itself, so ancestral steps down from it draw
    from the posterior (Kawar et al. 2021) and need no data step. Coloured noise is first whitened,
    which loses some of y; the prox with the original noise brings it back. psd: spectrum of the
    noise, mean 1 (`Spectrum.on`). strength: lambda of Method 3. Few steps draw too narrowly: with r
    times the SD where the prior says little, r being the ratio of neighbouring sigmas (.8 from .15
    in ten steps), and without detail finer than the last one (tests/inference/test_posterior.py).
    """
    correct: Correct = clip
    x, level = y, sigma
    if float(psd.square().mean()) >= COLOUR:
        # A separate stream: the steps use those from 1 on.
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
    """Thin slices from thick ones y = A x, zero-shot (Method 2 and 3).

    estimate: an interpolation of y, to which noise of sigma `start` is added. It is much closer to
    the truth than that, but noise that hides its stair-step artefacts lets the model redraw the
    edges. zeta: share of fresh noise; 1 was best wherever it was tested (docs/explain/log.md),
    because it forgets errors of the interpolation soonest. sigma: SD of the noise in y; with 0,
    every estimate has exactly the averages of y. strength: lambda of Method 3.
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
    level: Correct = clip,
) -> Task:
    """Plausible content where nothing is known: RePaint (Lugmayr et al. 2022; Method 2).

    The known voxels of y are pasted into every estimate. jumps: (length, times) for `with_jumps`;
    the paper uses (10, 10) at 250 steps. A lesion is given as the condition's control;
    level: a correction that holds how dense it is.
    """
    sigmas = schedule.descend(steps)
    start = torch.where(known, y, 0) + sigmas[0] * noise(0)
    return Task(start, with_jumps(sigmas, *jumps), then(clip, level, clip, paste(known, y)), ddpm)


def anomaly(
    y: Vol, sigma_star: float, steps: int, known: Bool[Tensor, "1 1 x y z"], noise: Noise
) -> Task:
    """The scan as it would be if healthy: noise up to sigma*, and back by DDIM (Method 2).

    known: outside the region of interest, where the scan is pasted back. steps: 1 evaluates once,
    the posterior mean at sigma*; more follow the ODE, evenly spaced in log sigma.
    """
    sigmas = [sigma_star]
    if steps > 1:
        last = min(0.02, sigma_star / 2)
        sigmas = [sigma_star * (last / sigma_star) ** (k / (steps - 1)) for k in range(steps)]
    y = y.clamp(-1, 1)
    return Task(y + sigma_star * noise(0), [*sigmas, 0.0], then(clip, paste(known, y)), ddim)


def noisy_input(unit: Vol, sigma: float, noise: Noise) -> Vol:
    """A measured volume in the form that the denoiser was trained on: clipped truth plus noise.

    Within 3 sigma of the window, a value outside it may come from a true value inside and is kept.
    Farther out, the true value is certainly clipped to -1 or 1 and is replaced by that plus noise.
    """
    beyond = unit.abs() > 1 + 3 * sigma
    return torch.where(beyond, unit.clamp(-1, 1) + sigma * noise(0), unit)


def change(unit: Vol, restored: Vol, sigma: float) -> Vol:
    """What to add to the measured volume (Method 3: y + (f(clip y) - clip y), with a refinement).

    More than 3 sigma outside the window, nothing changes. Closer, the excess over the window is
    kept (it may be bone) unless the restored value lies well inside (then it was noise): by sigma
    or, since a restored value is far more certain than a measured one, by `WELL_INSIDE`.
    """
    clipped = unit.clamp(-1, 1)
    inside = ((1 - restored.abs()) / min(max(sigma, 1e-6), WELL_INSIDE)).clamp(0, 1)
    added = restored - clipped - inside * (unit - clipped)
    return torch.where(unit.abs() > 1 + 3 * sigma, 0, added)
