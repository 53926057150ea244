"""How fast an operation of training is: GPUs by their data sheets, this machine's CPU by trying.

A GPU takes what the roofline says (Williams et al. 2009): each operation its arithmetic or what it
moves, whichever is slower. What a data sheet promises is never reached; the shares are assumed.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .operations import Key, Op, Recorder, TensorSpec
from .optim.ema import Ema
from .run_state import adamw
from .trace import Work

Name = Literal["h200", "a100-80", "rtx3090", "cpu"]
NAMES: tuple[Name, ...] = ("h200", "a100-80", "rtx3090", "cpu")
ARITHMETIC, BANDWIDTH = 0.25, 0.7  # shares of the peak that are reached: assumed, not measured
LAUNCH_S = 6e-6  # of a GPU operation, from Python: assumed
# Passes over the trained parameters after backward: clipping 4, fused AdamW 7, the average 3.
UPDATE_PASSES = 14
GPU_OVERHEAD = 1.0e9  # bytes: CUDA's own and cuDNN's workspace, assumed
GPU_ALLOCATOR = 1.1  # memory that torch's allocator holds, over what lives in it: assumed
# The same of glibc's, and the most it keeps back: arrays over 32 MB it gives back at once. Measured
# (benchmarks/training_cost.py): 1.03 to 1.6; .1 to .4 GB.
CPU_ALLOCATOR, CPU_KEPT = 1.4, 0.4e9


@dataclass(frozen=True)
class Hardware:
    """One device. seconds: of forward and backward; update: of what follows once a step.

    memory: bytes. said: where the figures come from, for the reader of a table.
    """

    name: Name
    said: str
    memory: float
    gpu: bool
    bfloat16: bool
    seconds: Callable[[Work], float]
    update: Callable[[Work], float]

    @property
    def held(self) -> float:
        """Bytes that the allocator holds, at most, for each that lives at a step's peak."""
        return GPU_ALLOCATOR if self.gpu else CPU_ALLOCATOR

    def needs(self, work: Work) -> float:
        """Bytes that a step takes at its peak."""
        if self.gpu:
            return work.fixed + self.held * work.peak + GPU_OVERHEAD
        return work.fixed + min(self.held * work.peak, work.peak + CPU_KEPT) + CPU_OVERHEAD


CPU_OVERHEAD = 0.6e9  # bytes of a process with torch and MONAI loaded; measured by benchmarks


@dataclass(frozen=True)
class Sheet:
    """A GPU's data sheet, without sparsity. FLOP/s; bytes/s; bytes.

    tf32: of float32 convolutions, which torch lets round so; float32: of all other arithmetic.
    """

    float32: float
    tf32: float
    bfloat16: float
    bandwidth: float
    memory: float

    def rate(self, op: Op) -> float:
        """The peak for an operation: by its type, as the first of its tensors tells."""
        if "torch.bfloat16" in op.key:
            return self.bfloat16
        return self.tf32 if op.name.startswith("convolution") else self.float32

    def seconds(self, work: Work) -> float:
        """Of forward and backward, operation by operation."""
        return sum(
            max(
                op.flops / (ARITHMETIC * self.rate(op)),
                op.bytes / (BANDWIDTH * self.bandwidth),
                LAUNCH_S,
            )
            for op in work.ops
        )

    def update(self, work: Work) -> float:
        """Of clipping, AdamW and the average."""
        return UPDATE_PASSES * 4 * work.trained / (BANDWIDTH * self.bandwidth)


# NVIDIA's data sheets: H200 SXM; A100 80 GB SXM; GA102 whitepaper (tensor cores, float32 sums).
SHEETS: dict[str, Sheet] = {
    "h200": Sheet(67e12, 494.5e12, 989.5e12, 4.8e12, 141e9),
    "a100-80": Sheet(19.5e12, 156e12, 312e12, 2.039e12, 80e9),
    "rtx3090": Sheet(35.6e12, 35.6e12, 71e12, 0.936e12, 24e9),
}


def gpu(name: Name) -> Hardware:
    """A GPU of the table."""
    sheet = SHEETS[name]
    said = (
        f"data sheet, {100 * ARITHMETIC:.0f} % of its FLOP/s and {100 * BANDWIDTH:.0f} % of its"
        " bandwidth assumed; never checked on one"
    )
    return Hardware(name, said, sheet.memory, True, True, sheet.seconds, sheet.update)


# ---- this machine -------------------------------------------------------------------------------

FLOPS_LIMIT, BYTES_LIMIT = 16e9, 400e6  # of an operation that is tried
CACHE = 64_000_000  # bytes, more than most processors' last cache
LONG_S = 0.1  # what takes longer in sum is not tried once more
PARAMETERS = 4_000_000  # that the update is tried on, at most


@dataclass(frozen=True)
class Probe:
    """Seconds per FLOP, or per byte where there is no arithmetic, of each kind of operation.

    call: seconds that any operation takes in training, however small. update: seconds a trained
    parameter.
    """

    rates: dict[Key, float]
    call: float
    update: float

    def of(self, op: Op) -> float:
        """Seconds of an operation; one that was not tried is as fast as others of its name."""
        rate = self.rates.get(op.key)
        if rate is None:
            known = [r for key, r in self.rates.items() if key[0] == op.name]
            rate = sum(known) / len(known) if known else 0.0
        return self.call + rate * (op.flops or op.bytes)

    def seconds(self, work: Work) -> float:
        """Of forward and backward."""
        return sum(map(self.of, work.ops))


def cpu(works: Iterable[Work], clock: Callable[[], float] = time.perf_counter) -> Hardware:
    """This machine's CPU, with as many threads as torch has now.

    works: of one network, from the batch in question downwards; of each kind of operation the
    largest is tried that is not too large. It is called with the shapes it has in training, as
    torch chooses another algorithm for small ones. clock: seconds; `time.process_time` where other
    programs disturb, with one thread.
    """
    chosen: dict[Key, Op] = {}
    trained, bfloat16 = 0, False
    for work in works:
        trained, bfloat16 = work.trained, work.bfloat16
        here: dict[Key, Op] = {}
        for op in work.ops:
            if op.key not in chosen and _small(op):
                best = here.get(op.key, op)
                here[op.key] = max(op, best, key=lambda each: (each.flops, each.bytes))
        chosen |= here
        if all(op.key in chosen for op in work.ops):
            break
    # In training a tensor is seldom in a cache when it is read: other things were there since.
    others = torch.zeros(CACHE // 4)
    call = tried(lambda: torch.ones(1), clock)
    rates = {}
    for key, op in chosen.items():
        took = tried(_again(op), clock, others.zero_ if op.bytes > CACHE / 64 else lambda: None)
        rates[key] = max(0.0, took - call) / max(1, op.flops or op.bytes)
    overhead = _overhead(bfloat16, clock)
    probe = Probe(rates, overhead, _update(min(trained, PARAMETERS), clock))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = f"tried on this machine, {torch.get_num_threads()} thread(s)"
    return Hardware(
        "cpu", said, memory, False, False, probe.seconds, lambda work: probe.update * work.trained
    )


def _small(op: Op) -> bool:
    return op.flops <= FLOPS_LIMIT and op.bytes <= BYTES_LIMIT


def tried(
    call: Callable[[], Any],
    clock: Callable[[], float],
    between: Callable[[], Any] = lambda: None,
) -> float:
    """Seconds of a call: the median of three after a first; of the first alone if that is long."""
    took: list[float] = []
    while len(took) < 4 and sum(took) < LONG_S:
        between()
        began = clock()
        call()
        took.append(clock() - began)
    return statistics.median(took[1:] or took)


def _overhead(bfloat16: bool, clock: Callable[[], float]) -> float:
    """Seconds of an operation that has nothing to do: what Python and autograd take of a step."""
    block = (nn.Conv3d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU())
    net, x = nn.Sequential(*block * 4), torch.zeros(2, 4, 4, 4, 4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            said = net(x)
        torch.autograd.backward(said.float().mean())

    with Recorder(set()) as recorder:
        step()

    def steps() -> None:
        for _ in range(5):
            step()

    return tried(steps, clock) / (5 * len(recorder.ops))


def _again(op: Op) -> Callable[[], Any]:
    """The operation, on numbers drawn at random."""
    arguments, named = _drawn(op.arguments), {key: _drawn(value) for key, value in op.named}
    if op.name == "native_group_norm_backward":
        # torch's fake tensors err here: means and deviations are of the weight's type.
        arguments[2:4] = [each.to(arguments[4].dtype) for each in arguments[2:4]]

    def call() -> Any:
        with torch.no_grad():
            return op.call(*arguments, **named)

    return call


def _drawn(tree: Any) -> Any:
    if isinstance(tree, TensorSpec):
        return _tensor(tree)
    if isinstance(tree, tuple):
        return [_drawn(branch) for branch in tree]
    return tree


def _tensor(spec: TensorSpec) -> Tensor:
    """Numbers of that layout; zeros where they are integers, which may be indices."""
    steps = zip(spec.shape, spec.stride, strict=True)
    count = 1 + sum((n - 1) * step for n, step in steps) if 0 not in spec.shape else 0
    flat = torch.zeros(count, dtype=spec.dtype)
    if spec.dtype.is_floating_point:
        flat = torch.randn(count).to(spec.dtype)
    return flat.as_strided(spec.shape, spec.stride)


def _update(count: int, clock: Callable[[], float]) -> float:
    """Seconds a parameter of clipping, AdamW and the average."""
    parameters = {str(n): nn.Parameter(torch.randn(count // 16 + 1)) for n in range(16)}
    average = Ema(parameters, 100)
    optimizer = adamw(parameters.values(), 1e-4)
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        average.update(1)

    return tried(step, clock) / (16 * (count // 16 + 1))
