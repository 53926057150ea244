"""This process: the memory it uses and may use, how a lack of it is recognised, and its threads.

torch's threads do not survive a fork: in a child of a process that computed with several threads,
OpenMP waits for them for ever. One thread works, so a forked child gets one, in the library and in
all other code that uses torch.
"""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from .errors import ensure


def cpus() -> int:
    """CPUs that this process may use; all of the machine's where that is not reported."""
    own = getattr(os, "sched_getaffinity", None)  # Linux
    return len(own(0)) if own else os.cpu_count() or 1


def resident_mb() -> float:
    """Current resident memory of this process, MB; 0 where it is not reported (not Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb() -> float:
    """Largest resident memory since `reset_peak`, MB; 0 where it is not reported (not Linux)."""
    return _listed_mb("/proc/self/status", "VmHWM")


def _listed_mb(file: str, key: str) -> float:
    """An entry in kB of a file of the system; 0 where there is none."""
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB", Path(file).read_text(), re.M)
    except OSError:
        return 0.0
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def reset_peak() -> None:
    """Restart `peak_mb`, where the system can; otherwise since the process started."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


_UNITS = {"": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20}
_UNITS |= {"gib": 2**30, "tib": 2**40, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


def megabytes(amount: str | float) -> float:
    """An amount of memory, such as "4GB", "512 MiB" or a number of bytes, in MB (10^6 bytes).

    `InputError` for anything else.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([a-z]*)\s*", str(amount).lower())
    unit = _UNITS.get(found[2]) if found else None
    value = float(found[1]) * unit / 1e6 if found and unit else 0.0
    given = f"'{amount}' is not an amount of memory"
    ensure(0 < value < float("inf"), f"{given}; give one such as 4GB or 512MB")
    return value


def free_mb() -> float:
    """Memory that this process could still take, MB: what the system has available, within the
    limits of its control groups (containers, batch systems). 0 where neither is reported.
    """
    available = _listed_mb("/proc/meminfo", "MemAvailable")
    found = [each for each in (available, *_left_in_groups()) if each]
    return min(found, default=0.0)


def _left_in_groups(root: Path = Path("/sys/fs/cgroup"), own: Path | None = None) -> list[float]:
    """What each control group of this process (versions 1 and 2) has left, MB."""
    try:
        lines = (own or Path("/proc/self/cgroup")).read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        most, used = names if controllers else ("memory.max", "memory.current")
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):  # "max", or a group that is not visible in here
                limit, taken = (int((folder / name).read_text()) for name in (most, used))
                pages = re.search(
                    r"^inactive_file (\d+)", (folder / "memory.stat").read_text(), re.M
                )
                left.append(max(1.0, limit - taken + int(pages[1] if pages else 0)) / 1e6)
            if folder == top:
                break
    return left


def return_freed() -> None:
    """Return freed memory to the system, which glibc otherwise keeps (elsewhere: nothing)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def use_huge_pages() -> None:
    """Let torch, unless it has already allocated memory, ask Linux for huge pages.

    The maps of a network are allocated anew at every layer; page by page, that takes up to a third
    of its time.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


_GPU = re.compile(r"(CUDA|MPS|HIP|XPU)\b.*out of memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE)
_MAIN = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|std::bad_alloc"
    r"|failed to map segment|could not create a memory",
    re.IGNORECASE,
)


def out_of_memory(error: BaseException) -> str | None:
    """Which memory has run out, "GPU" or "main", according to an error; None for other errors.

    Known: numpy's and Python's, torch's on CPUs and GPUs, those of C++ libraries and of the system.
    """
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or _GPU.search(text):
        return "GPU"
    known = isinstance(error, (RuntimeError, ImportError, OSError)) and _MAIN.search(text)
    full = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return "main" if isinstance(error, MemoryError) or known or full else None


def use_one_thread() -> None:
    """Let torch, if it is imported, compute with one thread in this process."""
    set_threads = getattr(sys.modules.get("torch"), "set_num_threads", None)
    if set_threads is not None:
        set_threads(1)


def watch_forks() -> None:
    """From now on, every forked child of this process computes with one thread."""
    if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
        os.register_at_fork(after_in_child=use_one_thread)


def was_forked() -> bool:
    """Whether `multiprocessing` (or `concurrent.futures`) created this process by a fork."""
    if multiprocessing.parent_process() is None:
        return False
    own = getattr(multiprocessing.current_process(), "_start_method", None)
    return (own or multiprocessing.get_start_method(allow_none=True)) == "fork"
