"""How a model runs, as opposed to what it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral

from ..core.errors import ensure
from ..core.process import free_mb, megabytes, resident_mb

Say = Callable[[str], None]
Progress = Callable[[float], None]


@dataclass(frozen=True)
class RunOptions:
    """Options common to all tasks. Apart from rounding and the position of the seams between
    tiles, results depend on `seed` only.

    seed: of the noise; the same seed gives identical results on the same machine. tile: edge of the
    largest tile in voxels; blended ones have as many as a cube of 3/4 of it. batch: tiles evaluated
    at once; 0: one, or on a GPU as many as fit into its memory. memory: the most that the process
    should take, such as "4GB" or a number of bytes; None: half of what is free. It decides what is
    kept on disk meanwhile, and never changes a result; an `InputError` is raised where it does not
    suffice. accept_hu: process a scan whose values do not look like HU, which raises an
    `InputError` otherwise. say: called with each decision the user should know about. progress:
    called with the fraction of the work that is done, from 0 to 1. note: called with what is being
    done, such as "level 2 of 3, step 4 of 10", before `progress`.
    """

    seed: int = 0
    tile: int = 64
    batch: int = 0
    memory: str | float | None = None
    accept_hu: bool = False
    say: Say = lambda line: None
    progress: Progress = lambda share: None
    note: Say = lambda line: None

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("tile", 1), ("batch", 0)):
            value = getattr(self, name)
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            ensure(
                whole and value >= least, f"{name} is {value!r}; pass a whole number from {least}"
            )

        if self.memory is not None:
            megabytes(self.memory)

    def allowance_mb(self) -> float:
        """What the process may still allocate, MB."""
        if self.memory is None:
            return free_mb() / 2
        return megabytes(self.memory) - resident_mb()

    def part(self, number: int, count: int) -> RunOptions:
        """Options for part `number` (from 0) of `count` equal parts of the work."""
        return self.between(number / count, (number + 1) / count)

    def between(self, start: float, stop: float) -> RunOptions:
        """Options for the part of the work from fraction `start` to fraction `stop`."""
        return replace(self, progress=lambda share: self.progress(start + share * (stop - start)))

    def counting(self, name: str, steps: int) -> RunOptions:
        """Options for a part of the work, whose progress notes its name and the step."""

        def progress(share: float) -> None:
            self.note(f"{name}, step {min(int(share * steps) + 1, steps)} of {steps}")
            self.progress(share)

        return replace(self, progress=progress)
