"""Counter-based noise: (seed, stream, voxel) -> a standard normal number.

The noise in a voxel depends on nothing else: not on tiles, batches, the device or earlier draws.
Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns
counters into bits, and the Box-Muller transform turns bits into normals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from .box import Box, Shape

_MASK = 0xFFFFFFFF
# Voxels drawn at a time: as many as fit in a core's cache or, on a GPU, in its memory.
_SLAB, _GPU_SLAB = 1 << 16, 1 << 24


def _philox(
    counter: Int64[Tensor, " n"], stream: int, seed: int | Int64[Tensor, "b 1"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words for each counter, in int64 tensors (torch has no uint64 arithmetic)."""
    first, second = counter & _MASK, (counter >> 32) & _MASK
    third, fourth = (torch.full_like(counter, part & _MASK) for part in (stream, stream >> 32))
    low, high = seed & _MASK, (seed >> 32) & _MASK
    if isinstance(seed, Tensor):  # separate words for each seed
        first, second, third, fourth = (
            word.expand(len(seed), -1).clone() for word in (first, second, third, fourth)
        )
    for _ in range(10):
        # The product may overflow into a negative int64, but its 64 bits are still correct.
        a, b = first.mul_(0xD2511F53), third.mul_(0xCD9E8D57)
        low_a, low_b = a & _MASK, b & _MASK
        # In place: on a CPU, memory access takes most of the time.
        first = b.bitwise_right_shift_(32).bitwise_and_(_MASK)
        first.bitwise_xor_(second).bitwise_xor_(low)
        third = a.bitwise_right_shift_(32).bitwise_and_(_MASK)
        third.bitwise_xor_(fourth).bitwise_xor_(high)
        second, fourth = low_b, low_a
        low, high = (low + 0x9E3779B9) & _MASK, (high + 0xBB67AE85) & _MASK
    return first, second, third, fourth


def _normals(
    counter: Int64[Tensor, " n"], stream: int, seed: int | Int64[Tensor, "b 1"]
) -> Float[Tensor, "*b n 4"]:
    """Four normals per counter, float32 (computed in float64, so that devices agree closely)."""
    words = _philox(counter, stream, seed)
    out = []
    for a, b in (words[:2], words[2:]):
        radius = torch.sqrt(-2 * torch.log((a.double() + 0.5) / 2**32))
        angle = b.double() * (2 * math.pi / 2**32)
        out += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return torch.stack(out, -1).float()


def normal(
    seed: int, stream: int, shape: Shape, box: Box | None = None, device: str = "cpu"
) -> Float[Tensor, "1 1 x y z"]:
    """Standard normal noise in a box (default: all) of a volume of `shape` voxels.

    stream: which draw, e.g. the sampler step. The noise in a box is a crop of the volume's noise.
    """
    if box is None:
        flat = torch.empty(math.prod(shape), device=device)
        slab = _SLAB if flat.is_cpu else _GPU_SLAB
        for first in range(0, flat.numel(), slab):
            last = min(first + slab, flat.numel())
            counter = torch.arange(first // 4, math.ceil(last / 4), device=device)
            flat[first:last] = _normals(counter, stream, seed).view(-1)[: last - first]
        return flat.view(1, 1, *shape)
    (x, y, z), (_, _, length) = box.start, box.size
    rows = torch.arange(x, box.stop[0], device=device)[:, None] * shape[1]
    rows = ((rows + torch.arange(y, box.stop[1], device=device)) * shape[2] + z).view(-1, 1)
    out = torch.empty(len(rows), length, device=device)
    words = torch.arange(length // 4 + 2, device=device)  # a row may begin within a counter's four
    step = max(1, (_SLAB if out.is_cpu else _GPU_SLAB) // (4 * len(words)))
    for first in range(0, len(rows), step):
        start = rows[first : first + step]
        drawn = _normals((start // 4 + words).view(-1), stream, seed).view(len(start), -1)
        along = start % 4 + torch.arange(length, device=device)
        out[first : first + step] = drawn.gather(1, along)
    return out.view(1, 1, *box.size)


def normals(seeds: Sequence[int], shape: Shape, device: str = "cpu") -> Float[Tensor, "b 1 x y z"]:
    """`normal` for several seeds at once, one volume each; stream 0."""
    if device == "cpu":
        return torch.cat([normal(seed, 0, shape) for seed in seeds])
    voxels = math.prod(shape)
    counter = torch.arange(math.ceil(voxels / 4), device=device)
    keys = torch.tensor(seeds, dtype=torch.int64).to(device, non_blocking=True)[:, None]
    return _normals(counter, 0, keys).flatten(1)[:, :voxels].reshape(-1, 1, *shape)


def field(
    seed: int, shape: Shape, device: str = "cpu"
) -> Callable[[int], Float[Tensor, "1 1 x y z"]]:
    """stream -> the noise in a whole volume, as samplers request it at each step."""
    return lambda stream: normal(seed, stream, shape, device=device)
