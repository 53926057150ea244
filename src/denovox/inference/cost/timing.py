"""What one tile of the real network takes: seconds and memory."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace

import torch

from ...core.box import Shape
from ...core.condition import Condition, condition
from ...core.process import resident_mb
from ..engine import Engine
from ..options import RunOptions


@dataclass(frozen=True)
class TileTiming:
    """Time and memory of one tile of a model.

    resident_mb: of the process before, with the model and no scan. grown_mb: added by the tile.
    """

    model: Engine
    tile: Shape
    seconds: float
    resident_mb: float
    grown_mb: float

    @property
    def on_gpu(self) -> bool:
        """Whether the network runs outside the memory of the process."""
        return self.model.device.startswith("cuda")


def time_tile(model: Engine, edge: int = RunOptions.tile, seconds: float = 1.0) -> TileTiming:
    """Evaluate one tile, a cube of side `edge`, for about `seconds` after a warm-up.

    The speed is the median after the warm-up. Call this before reading a scan: memory that was
    freed earlier would hide what the tile takes.
    """
    tile = (edge, edge, edge)
    conditioning = condition(tile, (1.0, 1.0, 1.0), 1).to(model.device)
    x = torch.zeros(1, 1, *tile, device=model.device)

    def once() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            model.denoiser(x, 0.5, conditioning).cpu()  # waits for the device
        return time.perf_counter() - began

    resident = resident_mb()
    if model.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(model.device)
    with _Watch() as watch:  # throughout: freed memory is not all returned, so it adds up
        once()
        times = [once()]
        while sum(times) < seconds:
            times.append(once())
    grown = watch.highest_mb - resident
    if model.device.startswith("cuda"):
        grown = torch.cuda.max_memory_allocated(model.device) / 1e6
    without = replace(model, denoiser=_timed)  # the caller may drop the network
    return TileTiming(without, tile, sorted(times)[len(times) // 2], resident, max(0.0, grown))


def _timed(x: torch.Tensor, sigma: float, condition: Condition) -> torch.Tensor:
    raise ValueError("a timing has no network; use the model that was timed")


class _Watch:
    """Peak memory of the process within the block, sampled every 2 ms."""

    def __enter__(self) -> _Watch:
        self.highest_mb = resident_mb()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.002):
            self.highest_mb = max(self.highest_mb, resident_mb())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.highest_mb = max(self.highest_mb, resident_mb())
