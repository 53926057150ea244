"""Batches drawn by threads ahead of the step that needs them, always in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from ..core.errors import InputError, line

Drawn = TypeVar("Drawn")
AHEAD = 3  # batches per thread to prefetch
PAUSE_S, LONGEST_S = 0.5, 15.0  # between attempts: doubled each time


def with_retries(
    draw: Callable[[Sequence[int]], Drawn],
    wait_minutes: float,
    say: Callable[[str], None],
    stopped: Callable[[], bool],
) -> Callable[[Sequence[int]], Drawn]:
    """Wrap `draw` to retry while the store is unavailable (`OSError`); `InputError` if that lasts,
    or if the run is stopped meanwhile.

    A sample is a function of its number, so the run is the same as without the interruption.
    """
    waiting, lock = set[int](), Lock()  # all threads notice at once; one message is enough

    def drawn(numbers: Sequence[int]) -> Drawn:
        began, pause, n = time.monotonic(), PAUSE_S, numbers[0]
        while True:
            try:
                batch = draw(numbers)
                waiting.discard(n)
                return batch
            except OSError as error:
                waited = time.monotonic() - began
                if waited >= 60 * wait_minutes or stopped():
                    raise InputError(
                        f"sample {n} could not be read for {waited / 60:.1f} minutes"
                        f" ({line(error)}); make the store available and run the same command again"
                    ) from None
                with lock:
                    first = not waiting
                    waiting.add(n)
                if first:
                    say(f"sample {n} cannot be read ({line(error)}); retrying")
            time.sleep(min(pause, max(0.0, 60 * wait_minutes - waited)))
            pause = min(2 * pause, LONGEST_S)

    return drawn


def prefetch(
    draw: Callable[[Sequence[int]], Drawn], batches: Iterable[Sequence[int]], workers: int
) -> Generator[Drawn, None, None]:
    """The batches with these numbers, in order; up to `AHEAD` per thread are drawn in advance."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="samples")
    waiting: deque[Future[Drawn]] = deque()
    try:
        for numbers in batches:
            waiting.append(pool.submit(draw, numbers))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
