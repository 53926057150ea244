"""Tiles shared out among devices, and as many at once as the memory of a GPU holds."""

from __future__ import annotations

import multiprocessing
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields, replace
from functools import cached_property
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from ...core.condition import Condition
from ...core.errors import InputError
from ...core.process import out_of_memory
from ...model.denoiser import Denoiser

Call = tuple[Tensor, float, Condition]
AHEAD = 2  # calls for each device that wait or are computed


@dataclass(frozen=True, eq=False)
class Shared:
    """A `Denoiser` on several devices: each takes the next batch of tiles as soon as it is free.

    denoisers: one for each of `devices`. GPUs are driven by threads. Several CPUs are processes,
    which load the weights themselves; the cores are divided among them.
    """

    denoisers: Sequence[Denoiser]
    devices: tuple[str, ...]

    def __call__(self, x: Tensor, sigma: float, condition: Condition) -> Tensor:
        """x0, on the first device."""
        return self.denoisers[0](x, sigma, condition)

    def each(self, calls: Iterable[Call]) -> Iterator[Tensor]:
        """x0 for each of the calls, in order. `InputError` where a process has ended."""
        waiting: deque[Future[Any]] = deque()
        try:
            for call in calls:
                waiting.append(self._submit(call))
                if len(waiting) >= AHEAD * len(self.devices):
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        except BrokenProcessPool:
            raise InputError(
                f"a worker of --device {','.join(self.devices)} was ended by the system, perhaps"
                " for lack of memory; name fewer devices"
            ) from None
        finally:
            for each in waiting:
                each.cancel()

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Shared, (self.denoisers, self.devices)

    def _submit(self, call: Call) -> Future[Any]:
        if isinstance(self._pool, ProcessPoolExecutor):
            return self._pool.submit(_in_process, pickle.dumps(call))
        return self._pool.submit(self._in_thread, call)

    @cached_property
    def _pool(self) -> Executor:
        count = len(self.devices)
        if set(self.devices) == {"cpu"}:
            threads = max(1, torch.get_num_threads() // count)
            start = (pickle.dumps(self.denoisers[0]), threads)
            spawn = multiprocessing.get_context("spawn")
            return ProcessPoolExecutor(count, spawn, _start, start)
        return ThreadPoolExecutor(count)

    @cached_property
    def _free(self) -> SimpleQueue[tuple[Denoiser, str]]:
        queue: SimpleQueue[tuple[Denoiser, str]] = SimpleQueue()
        for each in zip(self.denoisers, self.devices, strict=True):
            queue.put(each)
        return queue

    def _in_thread(self, call: Call) -> Tensor:
        x, sigma, condition = call
        denoise, device = own = self._free.get()
        try:
            with torch.inference_mode():
                return denoise(x.to(device), sigma, condition.to(device)).to(x.device)
        finally:
            self._free.put(own)


_own: list[Denoiser] = []  # of a process of `Shared`


def _start(denoiser: bytes, threads: int) -> None:
    torch.set_num_threads(threads)
    _own.append(pickle.loads(denoiser))


def _in_process(call: bytes) -> bytes:
    with torch.inference_mode():
        return pickle.dumps(_own[0](*pickle.loads(call)))


def _result(future: Future[Any]) -> Tensor:
    found = future.result()
    tensor: Tensor = pickle.loads(found) if isinstance(found, bytes) else found
    return tensor


@dataclass(eq=False)
class Fitting:
    """A `Denoiser` on a GPU that takes fewer tiles at a time once its memory has run out.

    most: tiles at a time; None: as many as there are.
    """

    denoise: Denoiser
    most: int | None = None
    forget: Callable[[], None] = torch.cuda.empty_cache

    def __call__(self, x: Tensor, sigma: float, condition: Condition) -> Tensor:
        """x0."""
        done: list[Tensor] = []
        count = 0
        while count < len(x):
            size = min(self.most or len(x), len(x) - count)
            some = slice(count, count + size)
            try:
                done.append(self.denoise(x[some], sigma, _some(condition, some)))
            except RuntimeError as error:
                if size == 1 or out_of_memory(error) != "GPU":
                    raise
            else:
                count += size
                continue
            # Outside the except block: the error's traceback keeps tensors alive.
            self.most = size // 2
            self.forget()
        return done[0] if len(done) == 1 else torch.cat(done)


def _some(condition: Condition, some: slice) -> Condition:
    """The conditions of a part of a batch."""
    values = {each.name: getattr(condition, each.name) for each in fields(condition)}
    return replace(condition, **{k: v[some] for k, v in values.items() if v is not None})
