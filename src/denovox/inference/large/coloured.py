"""Coloured noise with a denoiser trained on white noise, for volumes larger than memory.

The posterior mean for coloured noise is the mean of three results: each has its own errors.
Unchanged, correlated noise is taken for anatomy; of every second voxel alone, fine detail is lost;
with noise added until it is white, detail is hidden (docs/explain/log.md). A last evaluation, at
`RESIDUAL` times sigma, removes what noise remains.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from ...core.condition import Condition
from ...core.operators.coloured_noise import Spectrum, dct
from ...core.tensors import tensor
from ...sampling.interleaved import STEP, lacking, phase, white_level
from ...sampling.sampler import Vol
from ...sampling.windowed import Needed, Slices
from ...tasks import RESIDUAL
from ..engine import Engine
from ..frame import Frame
from ..memory import Room, slabs
from ..options import RunOptions

Means = Iterator[tuple[slice, Vol]]
TASKS = 3


@dataclass(frozen=True)
class Measured:
    """A scan with coloured noise, as functions of a few slices: the scan, where it may change, and
    white noise of SD 1. sigma: of the noise, model units."""

    noisy: Slices
    needed: Needed
    white: Slices
    sigma: float
    spectrum: Spectrum


def means(
    engine: Engine,
    frame: Frame,
    measured: Measured,
    condition: Condition,
    options: RunOptions,
    room: Room,
) -> Means:
    """The posterior mean of a scan, as finished slices in order, model units."""
    size, device, sigma = frame.box.size, engine.device, measured.sigma
    y, mean = room.zeros(size), room.zeros(size)

    def held(values: np.ndarray) -> Slices:
        return lambda z: tensor(values[..., z]).to(device)

    def add(into: np.ndarray, found: Means) -> None:
        for z, x0 in found:
            into[..., z] += (x0[0, 0] / TASKS).cpu().numpy()
            room.release()

    for z in slabs(size[2]):
        y[..., z] = measured.noisy(z)[0, 0].cpu().numpy()
        room.release()
    reach = engine.reach(measured.needed, size, options)
    share = [options.part(number, TASKS + 1) for number in range(TASKS + 1)]
    add(mean, engine.means(held(y), sigma, condition, share[0], reach))
    for number, (i, j) in enumerate(itertools.product(range(STEP), repeat=2)):

        def near(z: slice, i: int = i, j: int = j) -> torch.Tensor:
            return reach(z)[i::STEP, j::STEP]

        part, own = share[1].part(number, STEP**2), phase(condition, i, j)
        x = held(y[i::STEP, j::STEP])
        add(mean[i::STEP, j::STEP], engine.means(x, sigma, own, part, near))
    level = _top_up(y, measured, frame, device, room)
    add(mean, engine.means(held(y), level, condition, share[2], reach))
    del y
    last = RESIDUAL * sigma
    yield from engine.means(held(mean), last, condition, share[3], measured.needed)


def _top_up(
    values: Float[np.ndarray, "x y z"], measured: Measured, frame: Frame, device: str, room: Room
) -> float:
    """Replace values by the scan with white noise, as `sampling.interleaved.topped_up`; its level.

    The transform passes through memory a few slices, or rows, at a time.
    """
    (u, v, w), sigma = frame.box.size, measured.sigma
    plane, along = measured.spectrum.factors((u, v, w), frame.spacing_mm)
    level = white_level(sigma, float(plane.max() * along.max()))

    def each(
        parts: Iterator[tuple[slice, slice]], step: Callable[[Vol, slice, slice], Vol]
    ) -> None:
        for y, z in parts:
            done = step(tensor(values[:, y, z]).to(device), y, z)
            values[:, y, z] = done[0, 0].cpu().numpy()
            room.release()

    def of_slices() -> Iterator[tuple[slice, slice]]:
        return ((slice(0, v), z) for z in slabs(w))

    def of_rows() -> Iterator[tuple[slice, slice]]:
        return ((y, slice(0, w)) for y in slabs(v))

    def gained(x: Vol, y: slice, z: slice) -> Vol:
        psd = plane[:, y] * along[..., z if len(along[0, 0]) > 1 else slice(None)]
        return x * lacking(sigma, psd, level).to(x)

    axes, flat = (2, 3), len(along[0, 0]) == 1
    each(of_slices(), lambda x, y, z: dct(measured.white(z), axes))
    if flat:
        each(of_slices(), lambda x, y, z: dct(gained(x, y, z), axes, back=True))
    else:
        each(of_rows(), lambda x, y, z: gained(dct(x, (4,)), y, z))
        each(of_slices(), lambda x, y, z: dct(x, axes, back=True))
        each(of_rows(), lambda x, y, z: dct(x, (4,), back=True))
    each(of_slices(), lambda x, y, z: measured.noisy(z) + x)
    return level
