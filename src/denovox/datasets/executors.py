"""Run many jobs in parallel: in processes on this machine, or on a Ray cluster.

An engine takes a job and its inputs, and yields the line each job returns, in order of completion.
Jobs leave their results in the store and can safely run twice.
"""

# mypy: allow-untyped-calls
# (some of Ray's functions are untyped)

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from ..core.errors import InputError
from .source_scans import Engine, Entry, Job

T = TypeVar("T")
AHEAD = 2  # jobs queued per worker: enough to keep it busy, few enough for a long list


def here(job: Job, entries: list[Entry]) -> Iterator[str]:
    """One after another, in this process."""
    return map(job, entries)


def processes(workers: int | None = None) -> Engine:
    """On `workers` processes (None: one per core), each with a single thread.

    A worker that dies (the kernel kills processes that use too much memory) does not affect other
    jobs: those in progress are run again one by one, and one that kills its worker again is left
    out.
    """
    count = workers or len(os.sched_getaffinity(0))

    def run(job: Job, entries: list[Entry]) -> Iterator[str]:
        with _one_thread():
            left = list(entries)
            try:
                with _pool(min(count, max(1, len(left)))) as pool:
                    waiting: dict[Future[str], Entry] = {}
                    ahead = iter(entries)
                    while True:
                        for entry in _take(ahead, count * AHEAD - len(waiting)):
                            waiting[pool.submit(job, entry)] = entry
                        if not waiting:
                            return
                        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                        for future in done:
                            line = future.result()
                            left.remove(waiting.pop(future))
                            yield line
            except BrokenProcessPool:
                yield "a worker died, most likely out of memory; continuing one scan at a time"
            for entry in left:
                try:
                    with _pool(1) as pool:
                        yield pool.submit(job, entry).result()
                except BrokenProcessPool:
                    yield f"{entry.id}: its worker died again; left out of this run"

    return run


def ray_cluster(address: str | None = None) -> Engine:
    """On a Ray cluster: the one at `address` or RAY_ADDRESS, or a local one.

    Jobs on a lost node are run again elsewhere. Every node needs denovox, and must see the source
    and the store under the same paths.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'denovox[cluster]'") from None

    def run(job: Job, entries: list[Entry]) -> Iterator[str]:
        started = not ray.is_initialized()
        if started:
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except ConnectionError as error:
                raise InputError(f"no Ray cluster at {address} ({error})") from None
        try:
            remote = ray.remote(num_cpus=1, max_retries=5)(_call)
            slots = max(1, int(ray.cluster_resources().get("CPU", 1)))
            waiting: list[ray.ObjectRef] = []
            ahead = iter(entries)
            while True:
                waiting += [
                    remote.remote(job, e) for e in _take(ahead, slots * AHEAD - len(waiting))
                ]
                if not waiting:
                    return
                done, waiting = ray.wait(waiting)
                for ref in done:
                    try:
                        yield ray.get(ref)
                    except (
                        ray.exceptions.RayTaskError
                    ):  # raised by the job, as in the other engines
                        raise
                    except ray.exceptions.RayError as error:
                        yield f"a worker was lost again ({type(error).__name__}): scan left out"
        finally:
            if started:
                ray.shutdown()

    return run


def _call(job: Job, entry: Entry) -> str:
    return job(entry)


def _take(ahead: Iterator[T], count: int) -> Sequence[T]:
    return [one for _, one in zip(range(count), ahead, strict=False)]


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawn, not fork: threads of the parent (torch, zarr) do not survive a fork.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes started within use one thread each: parallelism comes from the jobs."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
