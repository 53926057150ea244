"""The healthy estimate of a scan: noise is added up to sigma*, and removed by the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ...core.box import Box, bounding_box
from ...core.condition import Condition
from ...core.regions import region as region_named
from ...core.tensors import tensor
from ...core.volume import Volume
from ...reports.recorder import decided
from ...sampling.sampler import Noise, Vol
from ...tasks import Task, anomaly
from ..engine import Engine, Evaluation
from ..frame import Frame, working_grid
from ..large.sampling import no_noise
from ..memory import Room
from ..options import RunOptions
from .calibration import AnomalyMethod

CONTEXT_MM = 18.0  # around the region of interest: the network sees it, its output is discarded

Mask = Bool[np.ndarray, "x y z"]
Labels = UInt8[np.ndarray, "x y z"]
Few = Callable[[slice], Float[np.ndarray, "x y n"]]  # a few slices of a volume


@dataclass(frozen=True)
class Wanted:
    """What maps are computed of: slices z of a volume, which form a region, within the ROI."""

    volume: Volume
    coarse: Labels
    region: str
    roi: Mask
    z: slice
    method: AnomalyMethod

    @cached_property
    def box(self) -> Box:
        """The ROI's bounding box in slices z plus `CONTEXT_MM` around it, in the volume."""
        around = [round(CONTEXT_MM / mm) for mm in self.volume.spacing_mm]
        found = bounding_box(self.roi[..., self.z], around)
        x, y, z = found.start
        return Box((x, y, z + self.z.start), found.size)

    def frame(self, limits_mm: tuple[float, float]) -> Frame:
        """The box as the network sees it; limits_mm: spacings that it supports."""
        grid = working_grid(self.volume, limits_mm)
        return Frame.of_box(self.volume, grid, region_named(self.region), self.box, self.z)


def residual_of(
    engine: Engine,
    wanted: Wanted,
    scan: Few,
    options: RunOptions,
    room: Room,
) -> Few:
    """The scan in the box of `wanted`, minus its healthy estimate within the ROI; model units."""
    volume, method, box = wanted.volume, wanted.method, wanted.box
    frame = wanted.frame(engine.config.spacing_mm)
    decided("working grid", [frame.grid])
    condition = frame.condition(wanted.coarse if method.anatomy else None)
    if frame.own_grid:
        seen = Seen(frame, scan, lambda at: wanted.roi[(*box.slices[:2], _moved(at, box.start[2]))])
        total = _estimate(engine, seen, condition, method, options, room)
        count = np.float32(method.seeds)

        def residual(at: slice) -> Float[np.ndarray, "x y n"]:
            found = scan(at) - total[..., at] / count
            room.release()
            return found

        return residual
    clipped = np.clip(frame.region.window.unit(volume.hu.astype(np.float32)), -1, 1)
    on_grid, roi = frame.to_grid(clipped), frame.labels(wanted.roi)
    seen = Seen(frame, lambda at: on_grid[..., at], lambda at: roi[..., at])
    total = _estimate(engine, seen, condition, method, options, room)
    # Resample the residual, not the estimate: detail lost on a coarser grid is not an anomaly.
    whole = frame.from_grid(on_grid - total / np.float32(method.seeds), box.slices)
    return lambda at: whole[..., at]


@dataclass(frozen=True)
class Seen:
    """What the network sees, in a few slices of a frame: the scan, model units, and the ROI."""

    frame: Frame
    scan: Few
    roi: Callable[[slice], Mask]

    def task(self, method: AnomalyMethod, z: slice, noise: Noise, device: str) -> Task:
        """The task on slices z."""
        y, known = tensor(self.scan(z), device), tensor(~self.roi(z), device)
        return anomaly(y, method.sigma_star, method.steps, known, noise)

    def noise(self, number: int, seed: int, z: slice, device: str) -> Noise:
        """The noise of estimate `number`, in pairs of opposite sign: first-order effects of the
        noise on the estimate cancel."""
        (i, j, k), (u, v, _) = self.frame.box.start, self.frame.box.size
        box = Box((i, j, k + z.start), (u, v, z.stop - z.start))
        drawn = replace(self.frame, box=box).noise(seed + number // 2, device)
        return (lambda stream: -drawn(stream)) if number % 2 else drawn


def _estimate(
    engine: Engine,
    seen: Seen,
    condition: Condition,
    method: AnomalyMethod,
    options: RunOptions,
    room: Room,
) -> Float[np.ndarray, "u v w"]:
    """The sum of all healthy estimates; outside the ROI, of as many copies of the scan."""
    size, device = seen.frame.box.size, engine.device
    total = room.zeros(size)
    for number in range(method.seeds):
        share = options.part(number, method.seeds)

        def start(z: slice, number: int = number) -> Vol:
            return seen.task(method, z, seen.noise(number, options.seed, z, device), device).x

        if method.steps > 1:
            every = slice(0, size[2])
            noise = seen.noise(number, options.seed, every, device)
            x0 = engine.run(seen.task(method, every, noise, device), condition, noise, share)
            total += x0[0, 0].cpu().numpy()
            continue
        found = engine.stream(
            start,
            Evaluation(method.sigma_star),
            condition,
            share,
            lambda z: tensor(seen.roi(z), device)[0, 0],
        )
        for z, x0 in found:
            task = seen.task(method, z, no_noise, device)
            total[..., z] += task.correct(x0, method.sigma_star)[0, 0].cpu().numpy()
            room.release()
    return total


def _moved(along: slice, by: int) -> slice:
    return slice(along.start + by, along.stop + by)
