"""What a command says when memory runs out."""

from __future__ import annotations

import errno

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from denovox.cli.commands import Group
from denovox.cli.options import model_options
from denovox.core.process import out_of_memory

CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you"
    " tried to allocate 4294967296000 bytes. Error code 12 (Cannot allocate memory)"
)
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def ended(error: Exception, *words: str) -> tuple[int, str]:
    """Exit code and output of a command that ends in an error."""

    @click.group(cls=Group)
    def main() -> None: ...

    @main.command()
    @model_options
    def work(**given: object) -> None:
        raise error

    result = CliRunner().invoke(main, ["work", *words])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    "error", [CPU, MemoryError(), MemoryError("std::bad_alloc"), OSError(errno.ENOMEM, "no")]
)
def test_main_memory(error: Exception) -> None:
    said = "denovox: this machine has too little memory; "
    tile = "use a smaller --tile (now 64; 32 is the smallest), or"
    smaller = " a smaller part of the input\n"
    assert ended(error) == (2, said + tile + smaller)
    assert ended(error, "--tile", "32") == (2, said + "use" + smaller)
    batch = "use a smaller --batch (now 4), or"
    assert ended(error, "--tile", "32", "--batch", "4") == (2, said + batch + smaller)


def test_memory_of_the_gpu() -> None:
    code, said = ended(CUDA)
    assert code == 2
    assert said.startswith("denovox: the GPU has too little memory; use a smaller --tile")
    assert "or --device cpu, or a smaller part" in said


def test_other_errors_are_not_taken_for_it() -> None:
    for error in (
        RuntimeError("shape mismatch"),
        ValueError("memory"),
        OSError(errno.EACCES, "no"),
    ):
        assert out_of_memory(error) is None


def test_numpys_and_torchs_own_errors_are_known() -> None:
    with pytest.raises(MemoryError) as numpys:
        np.empty(2**46, np.float64)
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(2**50)
    assert out_of_memory(numpys.value) == out_of_memory(torchs.value) == "main"
    assert out_of_memory(CUDA) == "GPU"
