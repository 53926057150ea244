"""What is computed in pieces is what the whole volume would give."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from denovox.core.box import Box
from denovox.core.operators.coloured_noise import Spectrum
from denovox.core.operators.slab_average import SlabAverage
from denovox.core.operators.slice_profile import slab_matrix
from denovox.core.random_field import normal
from denovox.core.regions import region
from denovox.core.volume import Volume
from denovox.inference.frame import Frame
from denovox.inference.large.sampling import sampled
from denovox.inference.memory import Room
from denovox.inference.model import Model
from denovox.inference.options import RunOptions
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig
from denovox.tasks import super_resolution

CONFIG = ModelConfig(net=PRESETS["tiny"], spacing_mm=(0.7, 6.0))
OPTIONS = RunOptions(tile=32)
SHAPE = (40, 36, 44)


def smooth(x, sigma, condition):
    """A denoiser that is not local, so that it matters where tiles lie."""
    return 0.5 * x.roll(1, 2) + 0.2 * x.roll(1, 4) + 0.1 * sigma


def frame() -> Frame:
    volume = Volume(np.zeros(SHAPE, np.float32), np.diag([1.0, 1.1, 1.2, 1.0]))
    return Frame.of_slices(volume, SHAPE, region("chest"), slice(0, SHAPE[2]))


def test_a_task_in_one_array_is_the_same_task() -> None:
    operator = SlabAverage(slab_matrix(SHAPE[2], 1.2, 4.8, 4.8, "box"))
    of, engine = frame(), Model(smooth, CONFIG, Path("none"), "cpu")
    estimate = 0.5 * normal(3, 0, SHAPE)
    y, schedule = operator.A(estimate), CONFIG.noise_schedule

    def noise_of(rows: slice):
        box = Box((0, rows.start, 0), (SHAPE[0], rows.stop - rows.start, SHAPE[2]))
        return replace(of, box=box).noise(5, "cpu")

    def task_of(rows, noise):
        return super_resolution(
            y[:, :, :, rows], operator, estimate[:, :, :, rows], noise, schedule, 3
        )

    got = sampled(engine, task_of, noise_of, of.condition(), None, OPTIONS, Room(1e6, print))
    every = slice(0, SHAPE[1])
    whole = task_of(every, noise_of(every))
    want = engine.run(whole, of.condition(), noise_of(every), OPTIONS)[0, 0].numpy()
    np.testing.assert_allclose(got, want, atol=2e-6)
    assert np.abs(got - estimate[0, 0].numpy()).max() > 0.1


def test_what_a_step_keeps_must_not_be_overwritten() -> None:
    of, engine = frame(), Model(smooth, CONFIG, Path("none"), "cpu")
    operator = SlabAverage(slab_matrix(SHAPE[2], 1.2, 4.8, 4.8, "box"))
    x = torch.zeros(1, 1, *SHAPE)

    def task_of(rows, noise):
        part = x[:, :, :, rows]
        some = operator.A(part)
        return super_resolution(some, operator, part, noise, CONFIG.noise_schedule, 2, zeta=0.5)

    with pytest.raises(ValueError, match="what a step keeps of its start"):
        sampled(
            engine, task_of, lambda rows: lambda k: torch.zeros(1, 1, 1, 1, 1), of.condition(),
            None, OPTIONS, Room(1e6, print),
        )  # fmt: skip


@pytest.mark.parametrize("along_z", [0.0, -0.3])
def test_the_factors_of_a_spectrum(along_z: float) -> None:
    spectrum = Spectrum((0.0, 0.1, 0.3), (0.2, 1.0, 0.0), along_z)
    plane, along = spectrum.factors(SHAPE, (0.8, 0.9, 2.0))
    torch.testing.assert_close(plane * along, spectrum.on(SHAPE, (0.8, 0.9, 2.0)))
    for each in (plane, along):
        assert float(each.mean()) == pytest.approx(1)
    assert list(itertools.chain(plane.shape[:2], along.shape[2:])) == [
        *SHAPE[:2],
        SHAPE[2] if along_z else 1,
    ]
