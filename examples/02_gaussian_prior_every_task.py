"""Every task with a prior that fits on one page: a Gaussian, whose denoiser is a closed form.

    python examples/02_gaussian_prior_every_task.py

The samplers know a model only as `denoise(x, sigma) -> x0`. Here that is no network but a Wiener
filter, so each task's result can be checked by hand. A few seconds, no weights.
"""

import torch

from denovox import tasks
from denovox.core.operators.slab_average import SlabAverage
from denovox.core.operators.slice_profile import slab_matrix
from denovox.core.random_field import field
from denovox.core.schedule import Schedule

SHAPE = (24, 24, 24)
# A stationary prior is diagonal in Fourier space: smooth volumes of SD 0.3.
frequency = torch.stack(torch.meshgrid(*map(torch.fft.fftfreq, SHAPE), indexing="ij")).norm(dim=0)
power = torch.exp(-0.5 * (frequency / 0.06) ** 2) + 1e-4
power *= 0.3**2 / power.mean()


def filtered(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return torch.fft.ifftn(torch.fft.fftn(x, dim=(2, 3, 4)) * gain, dim=(2, 3, 4)).real


def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """E[x0 | x] for x = x0 + sigma n: the Wiener filter."""
    return filtered(x, power / (power + sigma**2))


def main() -> None:
    noise, schedule = field(1, SHAPE, "cpu"), Schedule()
    truth = filtered(field(0, SHAPE, "cpu")(0), power.sqrt())

    sample = tasks.synthesis(noise, schedule.from_noise(40)).run(denoise, noise)
    print(f"synthesis        SD {float(sample.std()):.3f}, the prior's {float(truth.std()):.3f}")

    def rmse(a: torch.Tensor, b: torch.Tensor = truth) -> float:
        return float((a - b).square().mean().sqrt())

    y = truth + 0.2 * noise(0)
    clean = tasks.denoising(y, 0.2).run(denoise, noise)
    print(f"denoising        RMSE {rmse(y):.3f} -> {rmse(clean):.3f}")

    thick = SlabAverage(slab_matrix(24, 1.0, 4.0, 4.0))
    up = thick.A(truth).repeat_interleave(4, dim=4)
    thin = tasks.super_resolution(thick.A(truth), thick, up, noise, schedule).run(denoise, noise)
    print(f"super-resolution RMSE {rmse(up):.3f} -> {rmse(thin):.3f}")

    known = torch.ones(1, 1, *SHAPE, dtype=torch.bool)
    known[..., 10:14, 10:14, 10:14] = False
    filled = tasks.inpainting(truth, known, noise, schedule).run(denoise, noise)
    print(f"inpainting       RMSE in the hole {rmse(filled[~known], truth[~known]):.3f}")


if __name__ == "__main__":
    main()
