"""Jobs for tests/datasets/test_executors.py: workers of other processes import them from here."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from denovox.datasets.source_scans import Entry


def name(entry: Entry) -> str:
    return f"{entry.id} on {os.environ.get('OMP_NUM_THREADS')}"


def dies_once(entry: Entry) -> str:
    """Kills its worker the first time; scan is a file that tells whether it is the first."""
    if entry.id == "3" and not entry.scan.exists():
        entry.scan.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return entry.id


def dies(entry: Entry) -> str:
    if entry.id == "3":
        os.kill(os.getpid(), signal.SIGKILL)
    return entry.id


def on_node(entry: Entry) -> str:
    """Leaves a file that names its Ray node; on the node that is doomed it never ends."""
    import ray

    folder, node = Path(entry.scan), ray.get_runtime_context().get_node_id()
    (folder / f"{entry.id}.began.{node}").touch()
    time.sleep(600 if node == (folder / "doomed").read_text() else 0.1)
    return entry.id


def fails(entry: Entry) -> str:
    raise OSError(28, "No space left on device")


def sleeps(entry: Entry) -> str:
    """Never ends; leaves a file that names its process in the folder that is its scan."""
    Path(entry.scan, f"{os.getpid()}.pid").touch()
    time.sleep(600)
    return entry.id


def first_then_sleeps(entry: Entry) -> str:
    return entry.id if entry.id == "0" else sleeps(entry)


if __name__ == "__main__":  # a process that can be killed while its worker is busy
    import sys

    import engine_jobs

    from denovox.datasets.executors import processes

    list(processes(1)(engine_jobs.sleeps, [Entry("0", "p", Path(sys.argv[1]))], str))
