"""Distributed training: processes started by torchrun, accelerate launch or MPI, or just one.

accelerate detects the launcher and the device, and joins the processes; parallelism itself is from
torch: replicas (DistributedDataParallel) or shards (fully_shard). accelerate's own wrapping is not
used, as it does not support shards on a CPU, where we test.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ..core.errors import InputError
from ..model.devices import device_named

TIMEOUT = timedelta(hours=6)  # one process may first add a whole data set to the store
# Variables set by torchrun, and their equivalents in Open MPI and in MPICH, Intel MPI and PMI.
LAUNCHED = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
MPIS = (
    tuple(f"OMPI_COMM_WORLD_{word}" for word in ("SIZE", "RANK", "LOCAL_RANK", "LOCAL_SIZE")),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Group:
    """One of `count` processes; rank 0 prints and writes. All make the same calls, in order."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def share(self, samples: int) -> range:
        """The samples of a step that belong to this process: every `count`-th."""
        return range(self.rank, samples, self.count)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process."""
        return flag if self.count == 1 else bool(self.sum(self.number(flag)) > 0)

    def number(self, value: float) -> Tensor:
        """A number as a tensor that can be summed over processes."""
        return torch.tensor(float(value), dtype=torch.float64, device=self.device)

    def broadcast(self, value: Value) -> Value:
        """Broadcast the value of the main process to all."""
        if self.count == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, 0)
        return box[0]

    @contextmanager
    def first(self) -> Iterator[bool]:
        """A block that the main process completes before the others enter it."""
        if not self.main:
            self.broadcast(None)
        yield self.main
        if self.main:
            self.broadcast(None)


ALONE = Group()


def joined(device: str | None = None) -> Group:
    """Join the group this process was launched in; a group of one without a launcher.

    device: "cpu", "cuda", ...; None: a GPU if there is one. With several GPUs, each process gets
    one.
    """
    device = device_named(device)
    _set_torchrun_variables()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Group(device=device)
    from accelerate import PartialState
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    # Unless threads are set explicitly: as many as each process has cores.
    threads = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    cpu = device == "cpu"
    if not cpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, count = next(rendezvous("env://", timeout=TIMEOUT))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(count):
        # torchrun's store outlives a restart, along with the addresses of dead processes (pytorch
        # issue 135712). Each node counts its own restarts, so this works on one node; several
        # need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 (docs/how-to/train.md).
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"restart-{restart}", store)
    torch.distributed.init_process_group(
        "gloo" if cpu else "cuda:nccl,cpu:gloo",
        store=store,
        rank=rank,
        world_size=count,
        timeout=TIMEOUT,
    )
    state = PartialState(cpu=cpu)
    return Group(state.process_index, state.num_processes, str(state.device))


def device_memory(device: str) -> float:
    """Bytes available to a process: those of its GPU, or its share of main memory."""
    if device.startswith("cuda"):
        return float(torch.cuda.get_device_properties(device).total_memory)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / processes
    except (AttributeError, ValueError):  # not available on Windows
        return 8e9 / processes


def _set_torchrun_variables() -> None:
    """Set torchrun's variables under MPI (`mpirun`; `accelerate launch` on CPUs)."""
    for words in MPIS:
        if "WORLD_SIZE" in os.environ or words[0] not in os.environ:
            continue
        pairs = zip(LAUNCHED, words, strict=True)
        found = {name: os.environ[word] for name, word in pairs if word in os.environ}
        spread = found["WORLD_SIZE"] not in ("1", found.get("LOCAL_WORLD_SIZE"))
        if spread and "MASTER_ADDR" not in os.environ:
            raise InputError(
                "processes on several nodes meet at the first: set MASTER_ADDR to its name on all"
            )
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"} | os.environ | found)


def distributed(net: nn.Module, group: Group, shard: bool) -> nn.Module:
    """Wrap the network for training by all processes of a group; unchanged for one process.

    shard: shard its parameters, changing `net` in place; look them up by name in `net` afterwards.
    """
    if group.count == 1:
        return net
    if not shard:
        from torch.nn.parallel import DistributedDataParallel

        # No module here has buffers that training changes; newer torch renamed the option.
        new = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
        constant: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
        return DistributedDataParallel(net, **constant)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for parameter in net.parameters():  # channels-last weights cannot be sharded yet
        parameter.data = parameter.data.contiguous()
    device = next(net.parameters()).device.type
    mesh = init_device_mesh(device, (group.count,))
    for module in blocks(net):
        fully_shard(module, mesh=mesh)
    # The root must reshard after forward too: validation runs a forward with other weights and no
    # backward, and the next step would still see those weights.
    return cast(nn.Module, fully_shard(net, mesh=mesh, reshard_after_forward=True))


def blocks(net: nn.Module) -> list[nn.Module]:
    """The levels of all U-Nets in a network, each a callable module."""
    found: list[nn.Module] = []
    for module in net.modules():
        for name in ("down_blocks", "up_blocks"):
            found.extend(getattr(module, name, ()))
    return found


@contextmanager
def quiet(net: nn.Module | None, silent: bool) -> Iterator[None]:
    """A block without gradient synchronisation: for all batches of a step but the last."""
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    if silent and isinstance(net, DistributedDataParallel):
        with net.no_sync():
            yield
        return
    if isinstance(net, FSDPModule):
        net.set_requires_gradient_sync(not silent)
    yield


# ---- sharded and full tensors -------------------------------------------------------------------


def whole(value: Tensor) -> Tensor:
    """The full tensor of a sharded one; a collective call."""
    from torch.distributed.tensor import DTensor

    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, model: Tensor) -> Tensor:
    """A full tensor, sharded like `model`, or with the same memory layout.

    Fused AdamW goes through a parameter and its moments in memory order, silently ignoring strides;
    states written from shards are not channels-last.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(model, DTensor):
        return torch.empty_like(model, dtype=value.dtype).copy_(value)
    return distribute_tensor(value.to(model.device), model.device_mesh, model.placements)


def mapped(state: dict[str, Any], change: Callable[[Tensor, int], Tensor]) -> dict[str, Any]:
    """An optimizer's state with `change(tensor, parameter index)` applied to its averages."""
    moments = {
        number: {
            name: change(value, number) if isinstance(value, Tensor) and value.dim() else value
            for name, value in of.items()
        }
        for number, of in state["state"].items()
    }
    return {**state, "state": moments}
