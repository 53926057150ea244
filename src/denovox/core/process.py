"""This process: the memory it uses, how running out of memory is recognised, and its threads.

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
from pathlib import Path


def resident_mb() -> float:
    """Current resident memory of this process, MB; 0 where it is not reported (not Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def return_freed() -> None:
    """Return freed memory to the system, which glibc otherwise keeps (elsewhere: nothing)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


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
