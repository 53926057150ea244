"""What one step of a training run takes: FLOPs and memory counted, seconds measured on this CPU.

A step of the recipe's network runs on torch's fake tensors, which have shapes and no numbers, so
that a step for a large GPU is counted on any machine.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ...core.condition import Condition, condition
from ...core.condition import batch as batch_of
from ...model.activation_checkpointing import recompute
from ...model.controlnet import Control, ControlConfig, Controlled
from ...model.cpu_kernels import use_fast_kernels
from ...model.denoiser import use_bfloat16
from ...model.devices import channels_last
from ...model.unet import Net
from ..config import Recipe
from ..optim.muon import is_kernel
from ..run_state import RunState

Network = Net | Controlled
Inputs = tuple[Tensor, Tensor, Tensor, Condition]  # x, sigma, t, condition

# Bytes held beside the tensors. GPU: CUDA and cuDNN's workspace, and the share that torch's
# allocator adds; assumed. CPU: a process with torch and MONAI, and what glibc's allocator adds,
# which caches no array over 32 MB; measured (benchmarks/results/2026-11-21-training.md).
GPU_OVERHEAD, GPU_ALLOCATOR = 1.0e9, 1.1
CPU_OVERHEAD, CPU_ALLOCATOR, CPU_CACHED = 0.6e9, 1.4, 0.4e9

FLASH = "_scaled_dot_product_flash_attention"
FORMULAS: dict[Any, Any] = dict(flop_registry)
for _end in ("", "_backward"):  # torch has no formula for a CPU's attention, the same as CUDA's
    _like = flop_registry[getattr(torch.ops.aten, f"{FLASH}{_end}")]
    FORMULAS[getattr(torch.ops.aten, f"{FLASH}_for_cpu{_end}")] = _like


@dataclass(frozen=True)
class Work:
    """One batch, forward and backward.

    batch: samples; patch: edge in voxels. parameters: all; trained: those that learn. forward,
    backward: FLOPs, a multiplication and an addition being two; what is computed again counts as
    backward. In bytes: saved: activations kept for backward; fixed: parameters, gradients,
    optimizer state and average; peak: the most alive at one moment besides `fixed`.
    """

    batch: int
    patch: int
    bfloat16: bool
    parameters: int
    trained: int
    forward: int
    backward: int
    saved: int
    peak: int
    fixed: int

    @property
    def flops(self) -> int:
        """In both directions."""
        return self.forward + self.backward

    def memory(self, gpu: bool, shards: int = 1) -> float:
        """Bytes of a process at the peak of a step; shards: processes that divide `fixed`."""
        if gpu:
            return self.fixed / shards + GPU_ALLOCATOR * self.peak + GPU_OVERHEAD
        return self.fixed + min(CPU_ALLOCATOR * self.peak, self.peak + CPU_CACHED) + CPU_OVERHEAD


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """FLOPs of the operations in the block, and the most bytes of its tensors at one moment.

    torch's `FlopCounterMode` has the same FLOPs, but holds on to the graph, which spoils the peak.
    """

    def __init__(self, known: set[int]) -> None:
        """known: storages that exist before."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops, self.peak, self._now, self._alive = 0, 0, 0, set(known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (formula := FORMULAS.get(func.overloadpacket)) is not None:
            self.flops += int(formula(*args, **(kwargs or {}), out_val=result))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and _storage(tensor) not in self._alive:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._alive.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._now -= size


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def count(
    recipe: Recipe, batch: int, patch: int, bfloat16: bool = False, gpu: bool = False
) -> Work:
    """The work of a batch of the recipe's network. batch: samples; patch: edge in voxels.

    bfloat16: under autocast. gpu: by autocast's rules for CUDA, where group norms are float32.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.random.fork_rng(devices=[]):
        net, data = network(recipe, fast=not gpu), inputs(recipe, batch, patch)
        for module in net.modules():
            if gpu and bfloat16 and isinstance(module, nn.GroupNorm):
                module.register_forward_pre_hook(lambda _, given: tuple(x.float() for x in given))
        every = list(net.parameters())
        trained = [p for p in every if p.requires_grad]
        for parameter in trained:  # allocated beforehand, gradients are no part of the peak
            parameter.grad = torch.empty_like(parameter)
        forward, backward, saved, peak = _measure(net, data, bfloat16)
    muon = recipe.train.optimizer == "muon"
    # Of those trained also gradient and average; Muon's momentum, or AdamW's two moments.
    states = sum(p.numel() * (3 if muon and is_kernel(p) else 4) for p in trained)
    all_, some = (sum(p.numel() for p in of) for of in (every, trained))
    fixed = 4 * (all_ + states)  # in float32
    return Work(batch, patch, bfloat16, all_, some, forward, backward, saved, peak, fixed)


def _measure(net: Network, data: Inputs, bfloat16: bool) -> tuple[int, int, int, int]:
    """FLOPs forward and backward; bytes saved for backward and at the peak."""
    own = {_storage(tensor) for tensor in (*net.parameters(), *net.buffers())}
    gradients = {_storage(p.grad) for p in net.parameters() if p.grad is not None}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            saved[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with _Meter(own | gradients | {_storage(tensor) for tensor in data[:3]}) as meter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = loss_of(net, data, bfloat16)
        forward = meter.flops
        torch.autograd.backward(loss)
    return forward, meter.flops - forward, sum(saved.values()), meter.peak


def network(recipe: Recipe, fast: bool) -> Network:
    """What the recipe trains, with random weights; fast: with our kernels for CPUs."""
    base = recipe.model.build()
    net: Network = base
    if (control := recipe.data.sample.control) is not None:
        config = ControlConfig(kind=control.kind, base="", width=recipe.width)
        net = Controlled(base.requires_grad_(False), Control(base, config))
    if fast:
        use_fast_kernels(net)
    if recipe.train.checkpointing:
        recompute(net)
    return channels_last(net)


def inputs(recipe: Recipe, batch: int, patch: int) -> Inputs:
    """Random images, sigmas and timesteps of 1, and a condition in which all is unknown."""
    x = torch.randn(batch, 1, patch, patch, patch)
    given = batch_of([condition((patch, patch, patch), (1.0, 1.0, 1.0))] * batch)
    if recipe.data.sample.control is not None:
        given = replace(given, control=torch.zeros_like(x))
    return x, torch.ones(batch), torch.ones(batch), given


def loss_of(net: Network, data: Inputs, bfloat16: bool) -> Tensor:
    """An L1 loss; training's differs from it by little arithmetic."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        answer = net(*data)
    return (answer.float() - data[0]).abs().mean()


def time_step(
    recipe: Recipe, batch: int, patch: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Seconds of a real step on this CPU, after one to warm up: (of the batch, of the update).

    batch: samples; patch: edge in voxels. clock: in seconds; `time.process_time` where other
    programs run, with one thread.
    """
    bfloat16 = use_bfloat16(recipe.train.precision, "cpu")
    with torch.random.fork_rng(devices=[]):
        net, data = network(recipe, fast=True), inputs(recipe, batch, patch)
        state = RunState({n: p for n, p in net.named_parameters() if p.requires_grad}, recipe.train)
        for _ in range(2):
            state.zero_grad()
            began = clock()
            torch.autograd.backward(loss_of(net, data, bfloat16))
            between = clock()
            torch.nn.utils.clip_grad_norm_(state.parameters.values(), recipe.train.clip)
            state.update(recipe.train.lr, torch.zeros(()))
            state.ema.update(1)
            ended = clock()
    return between - began, ended - between
