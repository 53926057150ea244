"""Who a process is among those it was launched with; what torchrun does is in test_together."""

import os
import socket
import subprocess
import sys

import pytest

from denovox.core.errors import InputError
from denovox.train.distributed import LAUNCHED, MPIS, _set_torchrun_variables

OURS = (*LAUNCHED, "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def launched(monkeypatch):
    """Set what a launcher would; give what we make of it."""
    for name in (*OURS, *(word for words in MPIS for word in words)):
        monkeypatch.setenv(name, "")  # so that it is put back after the test
        monkeypatch.delenv(name)

    def by(**told):
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        _set_torchrun_variables()
        return {name: os.environ[name] for name in OURS if name in os.environ}

    return by


@pytest.mark.parametrize("words", MPIS)
def test_an_mpi_is_understood(launched, words):
    found = launched(**dict(zip(words, ("4", "3", "3", "4"), strict=True)))
    assert [found[name] for name in LAUNCHED] == ["4", "3", "3", "4"]
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("127.0.0.1", "29500")


@pytest.mark.parametrize("words", MPIS)
def test_several_nodes_must_be_told_where_they_meet(launched, words):
    told = dict(zip(words, ("4", "3", "1", "2"), strict=True))
    with pytest.raises(InputError, match="set MASTER_ADDR"):
        launched(**told)
    assert launched(MASTER_ADDR="node1", **told)["MASTER_ADDR"] == "node1"


def test_torchrun_goes_before_an_mpi_and_none_is_one_alone(launched):
    assert launched() == {}
    found = launched(WORLD_SIZE="2", RANK="1", OMPI_COMM_WORLD_SIZE="8", OMPI_COMM_WORLD_RANK="7")
    assert found == {"WORLD_SIZE": "2", "RANK": "1"}


def test_one_process_of_srun_needs_no_meeting(launched):
    assert launched(PMI_SIZE="1", PMI_RANK="0")["WORLD_SIZE"] == "1"  # it says no more than that


MEET = """
import torch
from denovox.train.distributed import joined
group = joined("cpu")
print(group.rank, group.count, float(group.sum(torch.tensor([1.0 + group.rank]))))
"""


@pytest.mark.slow
def test_processes_of_an_mpi_meet(launched):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = {"MASTER_PORT": str(free.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    pair = []
    for rank in "01":
        told = dict(zip(MPIS[0], ("2", rank, rank, "2"), strict=True))
        environment = os.environ | port | told
        pair.append(
            subprocess.Popen(
                [sys.executable, "-c", MEET], env=environment, stdout=subprocess.PIPE, text=True
            )
        )
    said = [process.communicate(timeout=120)[0].split() for process in pair]
    assert said == [["0", "2", "3.0"], ["1", "2", "3.0"]]
