"""Run many jobs in parallel: in processes on this machine, or on a Ray cluster.

An engine takes a job and its inputs, and yields what each job returns, in order of completion.
Jobs leave their results on disk and can safely run twice.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar, runtime_checkable

from ..core.errors import InputError
from ..core.process import cpus

E = TypeVar("E")
R = TypeVar("R")
AHEAD = 2  # jobs queued per slot of a cluster: enough to keep it busy, few enough for a long list
POLL_S = 1.0  # how often to ask for entries that were not there before


@runtime_checkable
class Engine(Protocol):
    """Runs a job on every entry.

    entries: None stands for nothing at the moment; the iterator is asked again, and may wait for a
    second before it answers. lost: the result of a job whose worker died, and died again. An
    exception of a job is raised.
    """

    def __call__(
        self, job: Callable[[E], R], entries: Iterable[E | None], lost: Callable[[E], R]
    ) -> Generator[R, None, None]:
        """The results, in order of completion."""


def here(
    job: Callable[[E], R], entries: Iterable[E | None], lost: Callable[[E], R]
) -> Generator[R, None, None]:
    """One after another, in this process."""
    return (job(entry) for entry in entries if entry is not None)


# ---- processes ----------------------------------------------------------------------------------


def processes(workers: int | None = None, threads: int = 1) -> Engine:
    """On `workers` processes (None: one per core) of `threads` threads each.

    A worker that dies (the kernel kills processes that use too much memory) is replaced, and no
    other is affected. Its job runs once more when no other does, which leaves it all the memory.
    Workers live until the end, and end with this process.
    """
    count = workers or cpus()

    def run(
        job: Callable[[E], R], entries: Iterable[E | None], lost: Callable[[E], R]
    ) -> Generator[R, None, None]:
        ahead = iter(entries)
        idle: list[_Worker] = []
        busy: dict[_Worker, E] = {}
        again: list[E] = []
        last: E | None = None  # of `again`, in progress
        try:
            while True:
                todo, more = _take(ahead, count - len(busy))
                if not todo and not busy:
                    if again:
                        last = again.pop(0)
                        todo = [last]
                    elif not more:
                        return
                for entry in todo:
                    worker = idle.pop() if idle else _Worker(threads)
                    busy[worker] = entry
                    with suppress(OSError):  # it died while it was idle: seen below
                        worker.pipe.send((job, entry))
                waiting = more and len(busy) < count
                for worker in _ready(busy, POLL_S if waiting else None):
                    entry = busy[worker]
                    if (answer := worker.answer()) is not None:
                        idle.append(worker)
                        del busy[worker]
                        result, error = answer
                        if error is not None:
                            raise error
                        yield result
                    else:
                        worker.end()
                        del busy[worker]
                        if entry is last:
                            yield lost(entry)
                        else:
                            again.append(entry)
        finally:
            for worker in (*idle, *busy):
                worker.end(now=worker in busy)

    return run


class _Worker:
    """A process that does one job at a time."""

    def __init__(self, threads: int) -> None:
        # Spawn, not fork: threads of the parent (torch, zarr) do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,))
        with _threads(threads):
            self.process.start()
        theirs.close()

    def answer(self) -> tuple[Any, Exception | None] | None:
        """The result of its job, or the exception; None if it has died."""
        try:
            return self.pipe.recv() if self.pipe.poll() else None
        except (EOFError, OSError):
            return None

    def end(self, now: bool = False) -> None:
        """End it; now: also in the middle of a job."""
        if now:
            self.process.kill()
        self.pipe.close()  # an idle one ends itself
        self.process.join()


def _ready(busy: Iterable[_Worker], timeout: float | None) -> list[_Worker]:
    """Those that have an answer or have died, after at most so many seconds; none of none."""
    workers = list(busy)
    if not workers:
        return []
    found = wait([end for w in workers for end in (w.pipe, w.process.sentinel)], timeout)
    return [w for w in workers if w.pipe in found or w.process.sentinel in found]


def _serve(pipe: Connection) -> None:
    """The life of a worker: jobs, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job, entry = pipe.recv()
            answer: tuple[Any, Exception | None] = job(entry), None
        except EOFError:
            return
        except Exception as error:
            answer = None, _sendable(error)
        pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _sendable(error: Exception) -> Exception:
    """An exception that survives the way to another process, with its traceback as a note."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note("".join(traceback.format_exc()))
    return error


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Processes started within use so many threads each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


# ---- Ray ----------------------------------------------------------------------------------------


def ray_cluster(
    address: str | None = None,
    workers: int | None = None,
    threads: int | None = 1,
    gpus: bool = False,
) -> Engine:
    """On a Ray cluster: the one at `address` or RAY_ADDRESS, or a local one.

    workers: jobs at once; None: as many as there is room for. threads: CPUs of a job; None: the
    cluster's, divided between the workers, or those of its smallest node. gpus: a job takes a GPU
    where the cluster has any. Jobs on a lost node are run again elsewhere. Every node needs
    denovox, and must see inputs and results under the same paths.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'denovox[cluster]'") from None

    def run(
        job: Callable[[E], R], entries: Iterable[E | None], lost: Callable[[E], R]
    ) -> Generator[R, None, None]:
        started = not ray.is_initialized()
        if started:
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except ConnectionError as error:
                raise InputError(f"no Ray cluster at {address} ({error})") from None
        try:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1] or [1]
            each = threads or min(*cpus, max(1, sum(cpus) // (workers or len(cpus))))
            gpu = int(gpus and any(node.get("GPU", 0) >= 1 for node in nodes))
            most = workers or AHEAD * max(1, sum(cpus) // each)
            remote: Any = ray.remote(num_cpus=each, num_gpus=gpu, max_retries=5)(_call)
            ahead = iter(entries)
            waiting: dict[ray.ObjectRef, E] = {}
            while True:
                todo, more = _take(ahead, most - len(waiting))
                waiting |= {remote.remote(job, entry): entry for entry in todo}
                if not waiting:
                    if more:
                        continue
                    return
                pause = POLL_S if more and len(waiting) < most else None
                for ref in ray.wait(list(waiting), timeout=pause)[0]:
                    entry = waiting.pop(ref)
                    try:
                        yield ray.get(ref)
                    except ray.exceptions.RayTaskError:  # raised by the job
                        raise
                    except ray.exceptions.RayError:  # its worker was lost again and again
                        yield lost(entry)
        finally:
            if started:
                ray.shutdown()

    return run


def _call(job: Callable[[E], R], entry: E) -> R:
    return job(entry)


# ---- both ---------------------------------------------------------------------------------------


def _take(ahead: Iterator[E | None], room: int) -> tuple[list[E], bool]:
    """Up to `room` entries, those that are there now, and whether more may follow."""
    taken: list[E] = []
    while len(taken) < room:
        try:
            entry = next(ahead)
        except StopIteration:
            return taken, False
        if entry is None:
            break
        taken.append(entry)
    return taken, True
