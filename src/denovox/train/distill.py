"""Distillation: a student that draws in a few steps what its teacher draws in many.

Progressive distillation (Salimans and Ho 2022, arXiv 2202.00512, algorithm 2), in one stage: from
each noise level of the student, the teacher follows its ODE to the next one, with its guidance. The
student learns, at these levels alone, the x0 with which one DDIM step arrives at the same point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..core.condition import Condition
from ..core.errors import ensure
from ..core.schedule import Schedule
from ..model import loading, weights
from ..sampling.guidance import Guidance, guided
from ..sampling.windowed import PatchDenoise
from ..tasks import Task
from .config import Recipe


@dataclass(frozen=True)
class Teacher:
    """sigmas: of the student's steps, from the highest to 0. substeps: of the teacher, for each."""

    denoise: PatchDenoise
    sigmas: Sequence[float]
    substeps: int

    def number(self, u: float) -> int:
        """The step that a sample with this uniform number teaches: each equally often."""
        steps = len(self.sigmas) - 1
        return min(int(u * steps), steps - 1)

    def sigma(self, u: float) -> float:
        """The noise level at which that step begins."""
        return self.sigmas[self.number(u)]

    @torch.no_grad()
    def targets(
        self, x: Float[Tensor, "b 1 x y z"], u: Float64[np.ndarray, " b"], condition: Condition
    ) -> Float[Tensor, "b 1 x y z"]:
        """The student's x0 for each x, which is at the noise level of its u; model units."""
        x0, numbers = torch.empty_like(x), [self.number(one) for one in u]
        for number in set(numbers):
            rows = torch.tensor([i for i, one in enumerate(numbers) if one == number])
            rows = rows.to(x.device)
            begun, known = x[rows], condition.rows(rows)

            def ask(x: Tensor, sigma: float, known: Condition = known) -> Tensor:
                return self.denoise(x, sigma, known)

            ratio = self.sigmas[number + 1] / self.sigmas[number]
            reached = Task(begun, self._path(number), order=2).run(ask, noise=lambda stream: x)
            x0[rows] = (reached - ratio * begun) / (1 - ratio)
        return x0

    def _path(self, number: int) -> list[float]:
        """The teacher's sigmas from one of the student's to the next."""
        start, stop = self.sigmas[number : number + 2]
        if stop:
            return Schedule().descend(self.substeps + 1, start=start, stop=stop)[:-1]
        return Schedule().descend(self.substeps, start=start)


def teacher_of(recipe: Recipe, device: str) -> Teacher | None:
    """The teacher that a recipe names, if any; `InputError` if it is missing or cannot teach."""
    wanted = recipe.distill
    if wanted is None:
        return None
    path = weights.locate(wanted.teacher)
    config, card, _ = weights.describe(path)
    ensure(
        not config.distilled_steps,
        f"the teacher {path.name} is itself distilled, to {config.distilled_steps} steps; name the"
        " weights that it learned from",
    )
    ensure(
        wanted.guidance == 1 or weights.drops_conditions(card),
        f"the teacher {path.name} was not trained with dropped conditions, which guidance needs;"
        " set distill.guidance = 1",
    )
    denoise = loading.load(path, device, recipe.train.precision)[0]
    sigmas = config.noise_schedule.from_noise(wanted.steps)
    return Teacher(guided(denoise, Guidance(wanted.guidance)), sigmas, wanted.substeps)
