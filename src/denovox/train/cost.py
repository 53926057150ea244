"""What a training run costs, before it is started: FLOPs, memory, seconds a step, hours.

FLOPs and memory are counted: a step of the recipe's network runs on torch's fake tensors, which
have shapes and no numbers, so that a step for a large GPU is counted on any machine. Seconds are
measured on this machine's CPU, by one real step, and estimated for a GPU from its data sheet.
`benchmarks/training_cost.py` compares all of it with real runs on a CPU. Not counted: drawing
samples, which threads do meanwhile; validation; torch.compile; on GPUs the launch of kernels, which
bounds small batches, and communication.
"""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..core.condition import Condition, condition
from ..core.condition import batch as batch_of
from ..core.errors import InputError
from ..model.activation_checkpointing import recompute
from ..model.controlnet import Control, ControlConfig, Controlled
from ..model.cpu_kernels import use_fast_kernels
from ..model.denoiser import use_bfloat16
from ..model.unet import Net
from ..model.weights import channels_last
from .config import Recipe
from .optim.muon import is_kernel
from .run_state import RunState

Name = Literal["h200", "a100-80", "rtx3090", "cpu"]
Network = Net | Controlled
Inputs = tuple[Tensor, Tensor, Tensor, Condition]  # x, sigma, t, condition

# NVIDIA's data sheets (H200 SXM; A100 80 GB SXM; GA102 whitepaper, tensor cores, float32 sums), all
# without sparsity: FLOP/s of float32 convolutions (TensorFloat-32, torch's default), of bfloat16
# ones, and memory in bytes.
GPUS = {
    "h200": (494.5e12, 989.5e12, 141e9),
    "a100-80": (156e12, 312e12, 80e9),
    "rtx3090": (35.6e12, 71e12, 24e9),
}
EFFICIENCY = 0.15  # share of these FLOP/s that training reaches: assumed
TIMED_FLOPS = 3e11  # of the step that is timed on a CPU, at most: some seconds of one core
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


@dataclass(frozen=True)
class Cost:
    """A run on `gpus` devices of that name.

    source: where the seconds come from, for a reader. available: bytes of a device. batch_s:
    seconds of a batch, forward and backward; update_s: of what follows once a step.
    """

    recipe: Recipe
    name: Name
    source: str
    available: float
    gpus: int
    work: Work
    batch_s: float
    update_s: float

    @property
    def samples(self) -> int:
        """Of a step, on the device that has most of them."""
        return math.ceil(self.recipe.train.samples / self.gpus)

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return self.batch_s * self.samples / self.work.batch + self.update_s

    @property
    def steps(self) -> int:
        """The recipe's, or those that its minutes are enough for."""
        train = self.recipe.train
        in_time = int(60 * train.minutes / self.step_s) if train.minutes else train.steps
        return min(in_time, train.steps or in_time)

    def memory(self, of: Work) -> float:
        """Bytes on each device at the peak of a step of such batches."""
        return of.memory(self.name != "cpu", self.gpus if self.recipe.train.shard else 1)


def work(recipe: Recipe, gpu: bool, gpus: int = 1) -> Work:
    """A batch's work; `InputError` where the network or the processes cannot share it so."""
    train, patch = recipe.train, recipe.data.sample.patch
    if gpus > train.samples:
        raise InputError(
            f"{gpus} GPUs cannot share {train.samples} samples a step: take fewer, or raise"
            " train.samples"
        )
    multiple = recipe.model.net.multiple
    if patch % multiple:
        raise InputError(f"data.sample.patch = {patch} must be a multiple of {multiple}")
    bfloat16 = train.precision != "float32" if gpu else use_bfloat16(train.precision, "cpu")
    mine = math.ceil(train.samples / gpus)
    return count(recipe, min(train.batch or mine, mine), patch, bfloat16, gpu)


def cost(
    recipe: Recipe, name: Name, gpus: int = 1, clock: Callable[[], float] = time.perf_counter
) -> Cost:
    """What the recipe's run costs on `gpus` such devices; "cpu" takes some seconds.

    clock: as `time_step` has it. `InputError` as `work` has it, and for several CPUs.
    """
    if gpus > 1 and name == "cpu":
        raise InputError("--gpus is of GPUs; on a CPU a run is one process")
    one = work(recipe, name != "cpu", gpus)
    if name != "cpu":
        float32, bfloat16, memory = GPUS[name]
        seconds = one.flops / (EFFICIENCY * (bfloat16 if one.bfloat16 else float32))
        source = f"data sheet, {100 * EFFICIENCY:.0f} % of its FLOP/s assumed; never checked on one"
        return Cost(recipe, name, source, memory, gpus, one, seconds, 0.0)
    batch, patch = _timed_size(one, recipe.model.net.multiple)
    batch_s, update_s = time_step(recipe, batch, patch, clock)
    batch_s *= (one.batch / batch) * (one.patch / patch) ** 3
    source = f"a step of {batch} x {patch}^3 timed here, {torch.get_num_threads()} thread(s)"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Cost(recipe, name, source, memory, 1, one, batch_s, update_s)


def _timed_size(one: Work, multiple: int) -> tuple[int, int]:
    """(samples, patch) of a step that is short enough to be timed.

    Two samples at least where there are more: torch may compute one by another algorithm.
    """
    batch, patch = one.batch, one.patch
    per_voxel = one.flops / (batch * patch**3)
    while per_voxel * batch * patch**3 > TIMED_FLOPS:
        if batch > 2:
            batch = max(2, batch // 2)
        elif patch % (2 * multiple) == 0 and patch > 2 * multiple:
            patch //= 2
        else:
            break
    return batch, patch


def advice(of: Cost) -> list[str]:
    """What to change so that memory suffices, the least first; empty where nothing we know does."""
    ways = []
    for checkpointing in sorted({of.recipe.train.checkpointing, True}):
        for patch in (of.work.patch, of.work.patch // 2, of.work.patch // 4):
            batch = _batch_that_fits(of, checkpointing, patch)
            changes = {
                f"data.sample.patch = {patch}": patch != of.work.patch,
                f"train.batch = {batch}": batch != of.work.batch,
                "train.checkpointing = true": checkpointing > of.recipe.train.checkpointing,
            }
            if batch:
                ways.append(" and ".join(words for words, is_new in changes.items() if is_new))
                break
    return ways


def _batch_that_fits(of: Cost, checkpointing: bool, patch: int) -> int:
    """Samples at a time, at most those of the recipe; 0 where not one fits."""
    multiple, gpu = of.recipe.model.net.multiple, of.name != "cpu"
    if patch < 2 * multiple or patch % multiple:
        return 0
    train = of.recipe.train.model_copy(update={"checkpointing": checkpointing})
    recipe = of.recipe.model_copy(update={"train": train})
    one = count(recipe, 1, patch, of.work.bfloat16, gpu)
    room = of.available - of.memory(one)
    # A sample more is a peak more, with the allocator's share and a tenth to spare.
    each = 1.1 * one.peak * (GPU_ALLOCATOR if gpu else CPU_ALLOCATOR)
    return min(of.work.batch, 1 + int(room / each)) if room >= 0 else 0


def summary(recipe: Recipe, name: Name, gpus: int = 1) -> list[str]:
    """`table` of the run's cost, which `cost` finds, with its errors."""
    return table(cost(recipe, name, gpus))


def table(of: Cost) -> list[str]:
    """Lines of plain text; the last says what to change where memory does not suffice."""
    one, memory = of.work, of.memory(of.work)
    forward, backward = (flops / one.batch / 1e12 for flops in (one.forward, one.backward))
    precision = "bfloat16 where autocast lets it" if one.bfloat16 else "float32"
    again = ", activations computed again" if of.recipe.train.checkpointing else ""
    several = f" x {of.gpus}" if of.gpus > 1 else ""
    parameters, trained = (f"{n / 1e6:.2f} M" for n in (one.parameters, one.trained))
    rows = {
        "recipe": of.recipe.name,
        "hardware": f"{of.name}{several}: {of.source}",
        "parameters": f"{parameters}, of which {trained} are trained",
        "batch": f"{one.batch} x {one.patch}^3, {precision}{again}",
        "TFLOP a sample": f"{_3(forward + backward)} ({_3(forward)} forward)",
        "GB a sample": f"{_3(one.saved / one.batch / 1e9)} of activations",
        "memory": f"{_3(memory / 1e9)} GB at the peak, of {of.available / 1e9:.0f}",
        "samples/s": _3(of.recipe.train.samples / of.step_s),
        "seconds a step": f"{_3(of.step_s)} ({of.samples} samples on each device)",
        "hours": f"{_3(of.steps * of.step_s / 3600)} for {of.steps} steps",
    }
    if memory > of.available:
        ways = "; or ".join(advice(of)) or "a smaller network; nothing else is small enough"
        rows["too little"] = f"memory does not suffice. Set {ways}"
    return [f"{label:<16}{text}" for label, text in rows.items()]


def _3(value: float) -> str:
    """Three digits, without an exponent."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f}"
