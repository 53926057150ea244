"""Several processes train as one would: the same curve, restarts, checkpoints in both directions.

They are real ones, started by torchrun, on gloo; what one process alone comes to is the oracle.
"""

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from tiny_store import RECIPE, make_store

from denovox.core.errors import InputError
from denovox.train import checkpoint, run
from denovox.train.config import TrainConfig, read_recipe
from denovox.train.distributed import Group
from denovox.train.loop import Session, train

MORE = """
samples = 3
batch = 1
lr = 0.01
ema = 3
validate_every = 1
{more}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    make_store(folder / "store")

    def written(steps, more=""):
        path = folder / f"{steps}-{len(more)}.toml"
        path.write_text((RECIPE + MORE).format(store=folder / "store", steps=steps, more=more))
        return path

    return written


def alone(path, out, **session):
    return list(run.run(read_recipe(path), out, Session(**session)))


@pytest.fixture(scope="module")
def single(recipe, tmp_path_factory):
    """Six steps by one process."""
    out = tmp_path_factory.mktemp("single")
    alone(recipe(6), out)
    return out


def torchrun(path, out, *options):
    """Two processes, on one core each."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *options]
    ports = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    work = ["-m", "denovox", "pretrain", str(path), "--out", str(out)]
    told = os.environ | {"DENOVOX_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "TMPDIR": str(out.parent)}
    return subprocess.Popen([*launcher, *ports, *work], env=told, stderr=subprocess.PIPE, text=True)


def curve(out):
    rows = list(csv.DictReader((out / "log.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    return [[float(row["loss"]), float(row["validation"])] for row in rows]


def agree(a, b):
    """The same curve and the same weights, but for the order in which processes are summed.

    In six steps of .01 a weight goes up to .06; Adam makes steps of that size of the smallest
    gradients, too, so that a last bit can be seen in a weight.
    """
    np.testing.assert_allclose(curve(a), curve(b), rtol=2e-4)
    ours, theirs = (load_file(out / "mine.safetensors") for out in (a, b))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=2e-3, atol=1e-4)


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused(recipe, single):
    before = {path: path.read_bytes() for path in single.rglob("*") if path.is_file()}
    with (
        FileLock(single / ".lock"),
        pytest.raises(InputError, match=f"another run is training in {single}; use a different"),
    ):
        alone(recipe(7), single)
    assert {path: path.read_bytes() for path in single.rglob("*") if path.is_file()} == before


def test_where_there_are_no_locks_a_run_goes_on_without(tmp_path, monkeypatch):
    def refuse(self, timeout):
        raise OSError("no locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with checkpoint.only_run(tmp_path / "run"), checkpoint.only_run(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def children(pid):
    """The processes that one has started."""
    found = []
    for path in os.scandir("/proc"):
        if path.name.isdigit():
            try:
                with open(f"/proc/{path.name}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found.append(int(path.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds the processes in /proc")
def test_two_processes_are_one_even_if_one_of_them_is_killed(recipe, single, tmp_path):
    out = tmp_path / "run"
    path = recipe(6, "checkpoint_minutes = 1e-9")  # a state, and a sheet, after every step
    launched = torchrun(path, out, "--max-restarts=2", "--monitor-interval=0.1")
    while not (out / checkpoint.BEFORE).exists():  # two steps are done
        assert launched.poll() is None, launched.stderr.read()
        time.sleep(0.02)
    os.kill(children(launched.pid)[-1], signal.SIGKILL)
    _, said = launched.communicate(timeout=300)
    assert launched.returncode == 0, said
    assert "on 2 processes" in said
    assert said.count("held out") == 2  # it was started twice, and one process speaks
    agree(single, out)


@pytest.mark.slow
def test_shards_go_on_from_one_process_and_one_process_from_shards(recipe, single, tmp_path):
    out = tmp_path / "run"
    alone(recipe(3), out)
    before = checkpoint.load(out)[0]
    launched = torchrun(recipe(5, "shard = true\ncheckpointing = true"), out)
    _, said = launched.communicate(timeout=300)
    assert launched.returncode == 0, said
    state = checkpoint.load(out)[0]
    assert state["step"] == 5
    assert {n: v.shape for n, v in state["parameters"].items()} == {
        n: v.shape for n, v in before["parameters"].items()
    }
    alone(recipe(6), out)
    agree(single, out)


MUON = 'optimizer = "muon"\n'


@pytest.fixture(scope="module")
def single_muon(recipe, tmp_path_factory):
    """Six steps by one process, kernels by Muon."""
    out = tmp_path_factory.mktemp("muon")
    alone(recipe(6, MUON), out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", "shard = true\n"])
def test_two_processes_are_one_whose_kernels_go_by_muon(
    recipe, single, single_muon, tmp_path, more
):
    out = tmp_path / "run"
    alone(recipe(2, MUON), out)
    launched = torchrun(recipe(6, MUON + more), out)
    _, said = launched.communicate(timeout=300)
    assert launched.returncode == 0, said
    agree(single_muon, out)
    ours, theirs = (checkpoint.load(folder)[0]["muon"] for folder in (single_muon, out))
    assert ours["state"].keys() == theirs["state"].keys()
    for number, of in ours["state"].items():
        assert of["momentum"].shape == theirs["state"][number]["momentum"].shape
    assert not np.allclose(curve(single_muon), curve(single), rtol=2e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_compiled_and_computing_again_comes_near_the_cpu(recipe, single, tmp_path):
    path = recipe(6, "compile = true\ncheckpointing = true")
    alone(path, tmp_path, group=Group(device="cuda"))
    np.testing.assert_allclose(curve(tmp_path), curve(single), rtol=0.02)


def test_more_processes_than_samples_is_one_sentence(tmp_path):
    config = TrainConfig(steps=1, samples=3)
    session = Session(group=Group(0, 4))
    with pytest.raises(InputError, match="4 processes cannot share 3 samples per step"):
        next(train(lambda samples: None, {}, lambda n: None, config, tmp_path, session=session))
