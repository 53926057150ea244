"""Samples, drawn ahead of the step that needs them, by threads; in order, whatever they do."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from ..core.errors import InputError, line

Drawn = TypeVar("Drawn")
AHEAD = 3  # samples that each thread is in front
PAUSE_S, LONGEST_S = 0.5, 15.0  # between tries: twice as long from one to the next


def patiently(
    draw: Callable[[int], Drawn],
    wait_minutes: float,
    say: Callable[[str], None],
    stopped: Callable[[], bool],
) -> Callable[[int], Drawn]:
    """`draw`, tried again while the store is gone (`OSError`); `InputError` when that lasts, or
    when the run is stopped meanwhile.

    A sample is a function of its number, so that the run is the same as if nothing had been.
    """
    waiting, lock = set[int](), Lock()  # threads find out together; one sentence is enough

    def drawn(n: int) -> Drawn:
        began, pause = time.monotonic(), PAUSE_S
        while True:
            try:
                sample = draw(n)
                waiting.discard(n)
                return sample
            except OSError as error:
                waited = time.monotonic() - began
                if waited >= 60 * wait_minutes or stopped():
                    raise InputError(
                        f"sample {n} could not be read for {waited / 60:.1f} minutes"
                        f" ({line(error)}); bring the store back and run the same command again"
                    ) from None
                with lock:
                    first = not waiting
                    waiting.add(n)
                if first:
                    say(f"sample {n} cannot be read ({line(error)}); trying again")
            time.sleep(min(pause, max(0.0, 60 * wait_minutes - waited)))
            pause = min(2 * pause, LONGEST_S)

    return drawn


def ahead(
    draw: Callable[[int], Drawn], batches: Iterable[list[int]], workers: int
) -> Generator[list[Drawn], None, None]:
    """The samples of each batch of numbers, in order; up to `AHEAD` a thread are drawn before."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="samples")
    waiting: deque[list[Future[Drawn]]] = deque()
    try:
        for numbers in batches:
            waiting.append([pool.submit(draw, n) for n in numbers])
            while waiting and sum(map(len, waiting)) > AHEAD * workers + len(waiting[0]) - 1:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
