"""One sampling loop for every task (Method 2).

Everything here is in the variance-exploding form, x = x0 + sigma * noise, and a model is only
known as `Denoise`: (x, sigma) -> x0. DDPM, DDIM and DiffPIR differ in the share of the new noise
that is drawn afresh; DPM-Solver++(2M) is DDIM with an x0 extrapolated from the last two; RePaint is
a list of sigmas that also increases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

Vol = Float[Tensor, "b 1 x y z"]
Denoise = Callable[[Vol, float], Vol]
Correct = Callable[[Vol, float], Vol]
Fresh = Callable[[float, float], float]
Noise = Callable[[int], Vol]


def ddim(sigma: float, following: float) -> float:
    """No fresh noise: the probability-flow ODE's Euler step (Song et al. 2021, eta = 0)."""
    return 0.0


def ddpm(sigma: float, following: float) -> float:
    """Ancestral sampling: the posterior's share of fresh noise (Ho et al. 2020, eq. 7)."""
    return 1 - (following / sigma) ** 2


def diffpir(zeta: float) -> Fresh:
    """A constant share of fresh noise (Zhu et al. 2023, algorithm 1)."""
    return lambda sigma, following: zeta


def keep(x0: Vol, sigma: float) -> Vol:
    """No correction."""
    return x0


def start(estimate: Vol, sigma: float, noise: Noise) -> Vol:
    """x at sigma from an estimate of x0 (zeros for synthesis); uses stream 0 of the noise."""
    return estimate + sigma * noise(0)


def sample(
    denoise: Denoise,
    x: Vol,
    sigmas: Sequence[float],
    *,
    correct: Correct = keep,
    fresh: Fresh = ddpm,
    order: int = 1,
    noise: Noise,
) -> Vol:
    """Follow `sigmas` from x at sigmas[0] to the last one.

    A decrease of sigma is a step, x' = x0 + s' (sqrt(1-f) (x - x0)/s + sqrt(f) n); an increase adds
    noise, x' = x + sqrt(s'^2 - s^2) n. correct: (x0, sigma) -> x0, e.g. a prox. order 2:
    DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), in lambda = -log sigma; use it with `ddim`.
    noise: stream -> standard normal noise; move k, from 0, uses stream k+1.
    """
    before: tuple[Vol, float] | None = None  # the last x0, and the step in lambda that followed it
    for move, (sigma, following) in enumerate(pairwise(sigmas), start=1):
        if following > sigma:
            x = x + math.sqrt(following**2 - sigma**2) * noise(move)
            before = None
        else:
            x0 = target = correct(denoise(x, sigma), sigma)
            step = math.log(sigma / following) if following else math.inf
            if order == 2 and before is not None and following:
                target = x0 + (x0 - before[0]) * (step / before[1] / 2)
            before = (x0, step)
            share = fresh(sigma, following)
            x = target + following * math.sqrt(1 - share) / sigma * (x - target)
            if share and following:
                x = x + following * math.sqrt(share) * noise(move)
    return x


def with_jumps(sigmas: Sequence[float], length: int, times: int) -> list[float]:
    """RePaint's path (Lugmayr et al. 2022, section 4.2): every `length` steps are taken `times`
    times, going back up in between, but never from sigma 0."""
    path = [sigmas[0]]
    for first in range(0, len(sigmas) - 1, length):
        block = list(sigmas[first : first + length + 1])
        path += block[1:]
        if block[-1]:
            path += block * (times - 1)
    return path
