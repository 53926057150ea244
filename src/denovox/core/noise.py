"""Counter-based noise: (seed, stream, voxel) -> a standard normal number.

What a voxel sees depends on nothing else: not on windows, batches, device, or on what was drawn
before. Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
turns counters into bits, Box and Muller's transform turns bits into normals.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from .box import Box, Shape

_MASK = 0xFFFFFFFF
_SLAB = 1 << 20  # voxels drawn at a time: bounds the memory of the 64-bit counters


def _philox(
    counter: Int64[Tensor, " n"], stream: int, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words for each counter, in int64 tensors (torch has no uint64 arithmetic)."""
    words = [counter & _MASK, (counter >> 32) & _MASK]
    words += [torch.full_like(counter, part & _MASK) for part in (stream, stream >> 32)]
    key = [seed & _MASK, (seed >> 32) & _MASK]
    for _ in range(10):
        # The product's high bit may turn the int64 negative; its 64 bits are right all the same.
        a, b = words[0] * 0xD2511F53, words[2] * 0xCD9E8D57
        words = [
            ((b >> 32) & _MASK) ^ words[1] ^ key[0],
            b & _MASK,
            ((a >> 32) & _MASK) ^ words[3] ^ key[1],
            a & _MASK,
        ]
        key = [(key[0] + 0x9E3779B9) & _MASK, (key[1] + 0xBB67AE85) & _MASK]
    return words[0], words[1], words[2], words[3]


def _normals(counter: Int64[Tensor, " n"], stream: int, seed: int) -> Float[Tensor, "n 4"]:
    """Four normals a counter, float32 (computed in float64, so that devices agree closely)."""
    words = _philox(counter, stream, seed)
    out = []
    for a, b in (words[:2], words[2:]):
        radius = torch.sqrt(-2 * torch.log((a.double() + 0.5) / 2**32))
        angle = b.double() * (2 * math.pi / 2**32)
        out += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return torch.stack(out, 1).float()


def normal(
    seed: int, stream: int, shape: Shape, box: Box | None = None, device: str = "cpu"
) -> Float[Tensor, "1 1 x y z"]:
    """Standard normal noise of a box (default: all) of a volume of `shape` voxels.

    stream: which draw, e.g. the step of a sampler. The noise of a box is the box of the noise.
    """
    if box is None:
        flat = torch.empty(math.prod(shape), device=device)
        for first in range(0, flat.numel(), _SLAB):
            last = min(first + _SLAB, flat.numel())
            counter = torch.arange(first // 4, math.ceil(last / 4), device=device)
            flat[first:last] = _normals(counter, stream, seed).view(-1)[: last - first]
        return flat.view(1, 1, *shape)
    axes = [torch.arange(a, b, device=device) for a, b in zip(box.start, box.stop, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    index = ((x * shape[1] + y) * shape[2] + z).reshape(-1)
    drawn = _normals(index // 4, stream, seed).gather(1, (index % 4)[:, None])
    return drawn.view(1, 1, *box.size)


def field(
    seed: int, shape: Shape, device: str = "cpu"
) -> Callable[[int], Float[Tensor, "1 1 x y z"]]:
    """stream -> the noise of a whole volume: what a sampler asks for at each step."""
    return lambda stream: normal(seed, stream, shape, device=device)
