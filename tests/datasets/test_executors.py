"""Engines: every job's line comes back, whoever dies on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import engine_jobs as jobs
import nibabel
import numpy as np
import pytest
import ray_nodes
from tiny_store import tree

from denovox.core.errors import InputError
from denovox.datasets.executors import here, processes, ray_cluster
from denovox.datasets.prepare import PrepareConfig, left_out, prepare
from denovox.datasets.source_scans import Entry

HERE = str(Path(jobs.__file__).parent)


def entries(count: int, scan: Path = Path("none")) -> list[Entry]:
    return [Entry(str(i), "p", scan) for i in range(count)]


def test_here_is_one_after_the_other():
    assert [line[0] for line in here(jobs.name, entries(4), left_out)] == list("0123")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_processes_do_every_job_on_one_thread_each(workers, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    lines = sorted(processes(workers)(jobs.name, entries(9), left_out))
    assert lines == [f"{i} on 1" for i in range(9)]
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_nothing_to_do_is_done():
    assert list(processes(2)(jobs.name, [], left_out)) == []


@pytest.mark.slow
def test_a_worker_that_dies_once_costs_nothing(tmp_path):
    lines = list(processes(2)(jobs.dies_once, entries(8, tmp_path / "first"), left_out))
    assert sorted(lines) == list("01234567")


@pytest.mark.slow
def test_a_job_that_kills_its_worker_again_is_named_and_the_others_done():
    lines = list(processes(2)(jobs.dies, entries(6), left_out))
    assert sorted(line for line in lines if len(line) == 1) == list("01245")
    assert [line for line in lines if line.startswith("3: its worker died again")]


@pytest.mark.slow
def test_an_error_of_a_job_is_the_runs():
    with pytest.raises(OSError, match="No space left"):
        list(processes(2)(jobs.fails, entries(3), left_out))


def test_without_ray_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"denovox\[cluster\]"):
        ray_cluster()


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes with one CPU each."""
    yield from ray_nodes.two(monkeypatch)


@pytest.mark.slow
def test_entries_may_come_later():
    """None: nothing yet; the workers go on, and what they finish is not kept back."""
    seen = []

    def later():
        yield from entries(2)
        while len(seen) < 2:
            time.sleep(0.01)
            yield None
        yield from entries(3)[2:]

    for line in processes(2)(jobs.name, later(), left_out):
        seen += line[:1]
    assert sorted(seen) == ["0", "1", "2"]


def worker_of(folder: Path) -> int:
    """The process that began `engine_jobs.sleeps` there."""
    while not (began := list(folder.glob("*.pid"))):
        time.sleep(0.01)
    return int(began[0].stem)


def ends(process: int) -> bool:
    for _ in range(1000):
        if not Path(f"/proc/{process}").exists():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path):
    """Which is killed, and cannot end them itself."""
    command = [sys.executable, jobs.__file__, str(tmp_path)]
    parent = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    worker = worker_of(tmp_path)
    parent.kill()
    parent.wait()
    assert ends(worker)


@pytest.mark.slow
def test_what_is_in_progress_ends_when_nobody_waits_for_it(tmp_path):
    results = processes(2)(jobs.first_then_sleeps, entries(2, tmp_path), left_out)
    assert next(results) == "0"
    worker = worker_of(tmp_path)
    results.close()
    assert ends(worker)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_ray_node_killed_half_way_loses_no_job_and_changes_no_store(cluster, tmp_path):
    nodes, second = cluster
    (tmp_path / "doomed").write_text(second.node_id)
    lines, lost = [], []
    for line in ray_cluster(nodes.address)(jobs.on_node, entries(8, tmp_path), left_out):
        lines.append(line)
        if len(lines) == 2:
            while not (lost := list(tmp_path.glob(f"*.began.{second.node_id}"))):
                time.sleep(0.01)
            nodes.remove_node(second, allow_graceful=False)
    assert sorted(lines) == [str(i) for i in range(8)]
    (job,) = lost  # what the lost node had begun was begun again, elsewhere
    assert len(list(tmp_path.glob(f"{job.name[0]}.began.*"))) == 2
    third = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    (tmp_path / "scans").mkdir()
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 36, 12)), indexing="ij")
    for i in range(8):
        hu = np.where(x**2 + y**2 < 0.7, 40 + i, -1000).astype(np.int16)
        image = nibabel.Nifti1Image(hu, np.diag([-4.0, -4.0, 5.0, 1.0]))
        image.to_filename(tmp_path / "scans" / f"p{i}.nii.gz")
    config = PrepareConfig()
    lines = []
    engine = ray_cluster(nodes.address)
    for line in prepare(tmp_path / "scans", tmp_path / "ray", config, engine, "folder"):
        lines.append(line)
        if len(lines) == 4:
            nodes.remove_node(third, allow_graceful=False)
    assert sum(line.startswith("p") for line in lines) == 8
    list(prepare(tmp_path / "scans", tmp_path / "here", config, here, "folder"))
    left = (".lock", ".tmp")  # what a lost worker had begun
    assert tree(tmp_path / "ray", left) == tree(tmp_path / "here")
