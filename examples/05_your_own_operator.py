"""Restore from a measurement of your own: a linear operator with its prox, and nothing else.

Here two of three slices are missing. An operator is a measurement (A), its adjoint (At) and
argmin |y - A x|^2 + rho |x - x0|^2 (prox); DiffPIR does the rest with any model. Under a minute.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

import denovox
from denovox.core.condition import condition
from denovox.core.random_field import field
from denovox.core.regions import REGIONS
from denovox.sampling.corrections import clip, prox, then
from denovox.sampling.sampler import diffpir
from denovox.simulate.phantom import chest
from denovox.tasks import Task


@dataclass(frozen=True)
class EveryThirdSlice:
    """Slices 0, 3, 6, ... of `count` are measured."""

    count: int

    def A(self, x: Tensor) -> Tensor:
        return x[..., ::3]

    def At(self, y: Tensor) -> Tensor:
        return y @ torch.eye(self.count)[::3]  # each at its place, 0 elsewhere

    def prox(self, x0: Tensor, y: Tensor, rho: float) -> Tensor:
        return x0 + self.At(y - self.A(x0)) / (1 + rho)  # A At = 1


def main(steps: int = 8, slices: int = 32) -> None:
    body, chosen = chest((64, 48, slices), 4.0), REGIONS["chest"]
    truth = chosen.window.unit(torch.from_numpy(body.ct.hu))[None, None].clamp(-1, 1)
    operator = EveryThirdSlice(slices)
    y = operator.A(truth)
    held = y.repeat_interleave(3, dim=-1)[..., :slices]  # each slice repeated: the baseline

    model = denovox.load()
    noise = field(0, body.ct.shape, model.device)
    sigmas = model.config.noise_schedule.descend(steps, start=0.5, stop=0.03)
    data = then(clip, prox(operator, y, sigma_noise=0.0))
    task = Task(held + sigmas[0] * noise(0), sigmas, data, diffpir(1.0), blend=False)
    where = condition(body.ct.shape, body.ct.spacing_mm, chosen.id, torch.from_numpy(body.labels))
    x0 = model.run(task, where, noise, denovox.RunOptions())
    for name, result in (("repeated slices", held), ("with the prior", x0)):
        error = float((result - truth).square().mean().sqrt()) * chosen.window.width_hu / 2
        print(f"{name:<16} RMSE {error:.0f} HU")


if __name__ == "__main__":
    main()
