"""The processes that train together: started by torchrun, accelerate launch or MPI, or one alone.

accelerate finds out how it was launched, on which device, and joins the processes; what is shared
between them is torch's: a copy on each (DistributedDataParallel), or shards (fully_shard).
accelerate's own wrapping is not used, as it has no shards on a CPU, where we test.
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

TIMEOUT = timedelta(hours=6)  # one process may bring a whole data set into the store first
# What torchrun tells its processes, and in which words Open MPI does, and MPICH, Intel's and PMI.
LAUNCHED = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
MPIS = (
    tuple(f"OMPI_COMM_WORLD_{word}" for word in ("SIZE", "RANK", "LOCAL_RANK", "LOCAL_SIZE")),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Group:
    """One of `count` processes; rank 0 speaks and writes. All call the same, in the same order."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def main(self) -> bool:
        """Whether this process speaks and writes."""
        return self.rank == 0

    def share(self, samples: int) -> range:
        """Which of a step's samples are this process's: every `count`-th."""
        return range(self.rank, samples, self.count)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it holds for one of the processes at least."""
        return flag if self.count == 1 else bool(self.sum(self.number(flag)) > 0)

    def number(self, value: float) -> Tensor:
        """A number where it can be summed."""
        return torch.tensor(float(value), dtype=torch.float64, device=self.device)

    def told(self, value: Value) -> Value:
        """What the main process has, on all."""
        if self.count == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, 0)
        return box[0]

    @contextmanager
    def first(self) -> Iterator[bool]:
        """A block that the main process goes through before the others."""
        if not self.main:
            self.told(None)
        yield self.main
        if self.main:
            self.told(None)


ALONE = Group()


def joined(device: str | None = None) -> Group:
    """This process among those it was launched with; one alone if by none.

    device: "cpu", "cuda", ...; None: a GPU if there is one. Of several GPUs each process has its
    own.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _as_torchrun_says()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Group(device=device)
    from accelerate import PartialState
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    # Silent where threads are set by nobody: as many as the cores that each process has.
    threads = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    cpu = device == "cpu"
    if not cpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, count = next(rendezvous("env://", timeout=TIMEOUT))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(count):
        # torchrun's store outlives a restart, and with it the addresses of processes that are dead
        # (pytorch issue 135712). Nodes count restarts each for itself, so this helps one node;
        # several want TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 (docs/training.md).
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
    """Bytes that a process may count on: a GPU's, or its share of the machine's."""
    if device.startswith("cuda"):
        return float(torch.cuda.get_device_properties(device).total_memory)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / processes
    except (AttributeError, ValueError):  # Windows has none of these
        return 8e9 / processes


def _as_torchrun_says() -> None:
    """Its variables for the processes of an MPI (`mpirun`; `accelerate launch` on CPUs)."""
    for words in MPIS:
        if "WORLD_SIZE" in os.environ or words[0] not in os.environ:
            continue
        pairs = zip(LAUNCHED, words, strict=True)
        told = {name: os.environ[word] for name, word in pairs if word in os.environ}
        spread = told["WORLD_SIZE"] not in ("1", told.get("LOCAL_WORLD_SIZE"))
        if spread and "MASTER_ADDR" not in os.environ:
            raise InputError(
                "processes on several nodes meet at the first: set MASTER_ADDR to its name for all"
            )
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"} | os.environ | told)


def distributed(net: nn.Module, group: Group, shard: bool) -> nn.Module:
    """The network as all processes of a group train it together; alone, itself.

    shard: its parameters in parts, `net` changed in place. Its parameters are to be asked for by
    name afterwards, from `net`.
    """
    if group.count == 1:
        return net
    if not shard:
        from torch.nn.parallel import DistributedDataParallel

        # No module here has buffers that training changes; newer torch has another name for it.
        new = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
        constant: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
        return DistributedDataParallel(net, **constant)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for parameter in net.parameters():  # shards of channels-last weights there are not yet
        parameter.data = parameter.data.contiguous()
    device = next(net.parameters()).device.type
    mesh = init_device_mesh(device, (group.count,))
    for module in blocks(net):
        fully_shard(module, mesh=mesh)
    # Also the rest of the network gives up its whole weights after a forward: validation is one
    # with other weights and no backward behind it; the next step would still see them.
    return cast(nn.Module, fully_shard(net, mesh=mesh, reshard_after_forward=True))


def blocks(net: nn.Module) -> list[nn.Module]:
    """The levels of all U-Nets in a network, each a module that is called."""
    found: list[nn.Module] = []
    for module in net.modules():
        for name in ("down_blocks", "up_blocks"):
            found.extend(getattr(module, name, ()))
    return found


@contextmanager
def quiet(net: nn.Module | None, silent: bool) -> Iterator[None]:
    """A block whose gradients are not shared yet: all batches of a step but the last."""
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    if silent and isinstance(net, DistributedDataParallel):
        with net.no_sync():
            yield
        return
    if isinstance(net, FSDPModule):
        net.set_requires_gradient_sync(not silent)
    yield


# ---- shards and wholes --------------------------------------------------------------------------


def whole(value: Tensor) -> Tensor:
    """A tensor without shards; all processes ask for it together."""
    from torch.distributed.tensor import DTensor

    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, in shards as `model` is, or laid out in memory as it is.

    Fused AdamW goes through a parameter and its moments in the order of their memory, whatever
    their strides are, and says nothing; states that shards wrote are not channels-last.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(model, DTensor):
        return torch.empty_like(model, dtype=value.dtype).copy_(value)
    return distribute_tensor(value.to(model.device), model.device_mesh, model.placements)


def mapped(state: dict[str, Any], change: Callable[[Tensor, int], Tensor]) -> dict[str, Any]:
    """An optimizer's state with `change(tensor, number of its parameter)` for its averages."""
    moments = {
        number: {
            name: change(value, number) if isinstance(value, Tensor) and value.dim() else value
            for name, value in of.items()
        }
        for number, of in state["state"].items()
    }
    return {**state, "state": moments}
