"""How a model runs, as opposed to what it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

Say = Callable[[str], None]
Progress = Callable[[float], None]


@dataclass(frozen=True)
class RunOptions:
    """Options common to all tasks. Apart from rounding and the position of the seams between
    tiles, results depend on `seed` only.

    seed: of the noise; the same seed gives identical results on the same machine. tile: edge of
    the largest tile, in voxels; halve it if memory is short. batch: tiles evaluated at once.
    say: called with each decision the user should know about. progress: called with the fraction
    of the work that is done, from 0 to 1.
    """

    seed: int = 0
    tile: int = 64
    batch: int = 1
    say: Say = lambda line: None
    progress: Progress = lambda share: None

    def part(self, number: int, count: int) -> RunOptions:
        """Options for part `number` (from 0) of `count` equal parts of the work."""
        return self.between(number / count, (number + 1) / count)

    def between(self, start: float, stop: float) -> RunOptions:
        """Options for the part of the work from fraction `start` to fraction `stop`."""
        return replace(self, progress=lambda share: self.progress(start + share * (stop - start)))
