"""The devices of this machine, and whether this process can use them."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from ..core.errors import InputError, ensure
from .cpu_kernels import LAST, use_fast_kernels

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def devices() -> list[str]:
    """Names of the devices of this machine."""
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *(["cuda", *gpus] if gpus else []), *mps]


def device_named(device: Any = None) -> str:
    """The name of a device: a name, a `torch.device`, or the number of a GPU.

    None: a GPU if there is one, else the CPU. `InputError`, with the devices that are there, for
    any other; also for a GPU in a forked process whose parent has used it.
    """
    if device is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    elif isinstance(device, int) and not isinstance(device, bool):
        name = f"cuda:{device}"
    else:
        name = str(device)
    name = "cpu" if name == "cpu:0" else name
    here = devices()
    if name not in here:
        given = f"cuda:{device}" if name == f"cuda:{device}" else device
        raise InputError(f"there is no device '{given}' on this machine; choose {', '.join(here)}")
    check_process(name)
    return name


def devices_named(device: Any = None) -> tuple[str, ...]:
    """The names in a list such as "cuda:0,cuda:1", which share the work; otherwise one name.

    `InputError` as in `device_named`, or for a GPU that is named twice.
    """
    if not isinstance(device, str):
        return (device_named(device),)
    names = tuple(device_named(each.strip()) for each in device.split(","))
    twice = {each for each in names if each != "cpu" and names.count(each) > 1}
    ensure(not twice, f"'{device}' names {', '.join(sorted(twice))} twice; name each GPU once")
    return names


def place(net: ModuleT, device: str) -> ModuleT:
    """The network on a device, in its fastest form there."""
    if device == "cpu":
        use_fast_kernels(net)
    return channels_last(net.to(device))


def channels_last(net: ModuleT) -> ModuleT:
    """The network in the memory layout in which 3D convolutions are fastest."""
    for parameter in net.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=LAST)
    return net


def check_process(device: str) -> None:
    """`InputError` where this process cannot use its GPU because it was forked."""
    if device.startswith("cuda") and torch.cuda._is_in_bad_fork():
        raise InputError(
            "this process was forked after the GPU had been used, which CUDA does not support;"
            " start workers with multiprocessing.get_context('spawn'), to which models can be sent"
        )
