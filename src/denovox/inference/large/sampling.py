"""The sampling loop on a volume that is larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float

from ...core.condition import Condition
from ...core.tensors import tensor
from ...sampling.sampler import Noise, Vol, sample
from ...sampling.windowed import Slices
from ...tasks import Task
from ..engine import Engine, Evaluation
from ..memory import Room, slabs
from ..options import RunOptions

TaskOf = Callable[[slice, Noise], Task]
NoiseOf = Callable[[slice], Noise]


def sampled(
    engine: Engine,
    task_of: TaskOf,
    noise_of: NoiseOf,
    condition: Condition,
    control: Slices | None,
    options: RunOptions,
    room: Room,
) -> Float[np.ndarray, "x y z"]:
    """`Engine.run` for a task that draws all noise afresh and whose correction treats rows of a
    volume (voxels along y, with all of x and z) separately: one array, whatever the task.

    task_of: rows, and their noise -> the task on them. noise_of: rows -> their noise. control: as
    in `Engine.stream`.
    """
    _, x, y, z = condition.anatomy.shape
    values, device = room.zeros((x, y, z)), engine.device
    rows = list(slabs(y))
    for some in rows:
        task = task_of(some, noise_of(some))
        values[:, some] = task.x[0, 0].cpu().numpy()
        room.release()
    for number, (sigma, following) in enumerate(pairwise(task.sigmas)):
        if following and task.fresh(sigma, following) != 1:
            raise ValueError("what a step keeps of its start is overwritten")
        of, share = Evaluation(sigma, number, task.blend), options.part(number, task.evaluations)
        current: Slices = lambda at: tensor(values[..., at], device)  # noqa: E731
        # Finished slices are not looked at again in this step.
        for at, x0 in engine.stream(current, of, condition, share, control=control):
            values[..., at] = x0[0, 0].cpu().numpy()
            room.release()
        for some in rows:
            denoised = tensor(values[:, some], device)
            values[:, some] = _step(denoised, task_of, some, noise_of(some), number, task.sigmas)
            room.release()
    return values


def no_noise(stream: int) -> Float[torch.Tensor, ""]:
    """In place of noise, where the start of a task is not needed; a number fits any device."""
    return torch.zeros(())


def _step(
    x0: Vol, task_of: TaskOf, rows: slice, noise: Noise, number: int, sigmas: Sequence[float]
) -> Float[np.ndarray, "x y z"]:
    """Move `number` of the sampler for rows whose denoised voxels are x0."""
    task = task_of(rows, no_noise)
    with torch.inference_mode():
        moved = sample(
            lambda x, sigma: x0,
            x0,
            sigmas[number : number + 2],
            correct=task.correct,
            fresh=task.fresh,
            noise=lambda stream: noise(number + stream),
        )
    return moved[0, 0].cpu().numpy()
