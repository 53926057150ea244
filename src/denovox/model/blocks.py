"""The layers of the U-Net and of a control (Method 1).

Parameters have the names and order of MONAI's DiffusionModelUNet, and initial weights are those
that MONAI draws from the same seed. The arithmetic is MONAI's, operation by operation, until
`cpu_inference.py` prepares a network for less of it, with the same result up to rounding.
Upsampling to fewer channels alone is ours, where a network asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .cpu_kernels import convolution


@dataclass(frozen=True)
class Shape:
    """channels, attention: per level; the spatial size halves from one to the next. blocks:
    residual blocks per level. head: channels of an attention head. narrow: whether upsampling
    ends at the channels of the level above, not at its own."""

    channels: Sequence[int]
    attention: Sequence[bool]
    blocks: int
    groups: int
    head: int
    narrow: bool = False

    @property
    def width(self) -> int:
        """Of the embedding of the timestep."""
        return 4 * self.channels[0]


class Conv(nn.Module):
    """A convolution named "conv", with as much zero padding as keeps the size at stride 1."""

    def __init__(self, inputs: int, outputs: int, edge: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, edge, stride, edge // 2)

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b d u v w"]:
        """The convolution of x."""
        return self.conv(x)


def zero(module: Conv) -> Conv:
    """The module with all parameters zero."""
    for parameter in module.parameters():
        parameter.detach().zero_()
    return module


def norm(channels: int, groups: int) -> nn.GroupNorm:
    """Group norm as everywhere in these networks."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; the embedding is added between them."""

    prepared = False

    def __init__(self, inputs: int, outputs: int, shape: Shape) -> None:
        super().__init__()
        self.norm1 = norm(inputs, shape.groups)
        self.conv1 = Conv(inputs, outputs)
        self.time_emb_proj = nn.Linear(shape.width, outputs)
        self.norm2 = norm(outputs, shape.groups)
        self.conv2 = zero(Conv(outputs, outputs))
        same = inputs == outputs
        self.skip_connection = nn.Identity() if same else Conv(inputs, outputs, 1)

    def forward(
        self, x: Float[Tensor, "b c x y z"], emb: Float[Tensor, "#b w"]
    ) -> Float[Tensor, "b d x y z"]:
        """emb: of the timestep and of what holds for the whole box; one row may stand for all."""
        shift = self.time_emb_proj(F.silu(emb))
        if self.prepared:
            return self._prepared(x, shift)
        h = self.conv1(F.silu(self.norm1(x))) + shift[:, :, None, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        skip: Tensor = self.skip_connection(x)
        return skip + h

    def _prepared(self, x: Tensor, shift: Tensor) -> Tensor:
        """The same with fewer passes over memory."""
        layer, one = self.conv1.conv, len(shift) == 1
        assert layer.bias is not None
        h = F.silu(self.norm1(x), inplace=True)
        h = convolution(layer, h, (layer.bias + shift[0]).to(h.dtype) if one else layer.bias)
        if not one:
            h.add_(shift[:, :, None, None, None])
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h.add_(self.skip_connection(x))


class SelfAttention(nn.Module):
    """Multi-head attention over the voxels."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.out_proj = nn.Linear(channels, channels)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """x: voxels in rows."""
        q, k, v = (
            of(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for of in (self.to_q, self.to_k, self.to_v)
        )
        x = F.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class AttentionBlock(nn.Module):
    """Attention between all voxels of a map, beside a shortcut."""

    prepared = False

    def __init__(self, channels: int, shape: Shape) -> None:
        super().__init__()
        if channels % shape.head:
            raise ValueError(f"{channels} channels cannot be split into heads of {shape.head}")
        self.norm = norm(channels, shape.groups)
        self.attn = SelfAttention(channels, channels // shape.head)

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c x y z"]:
        """A map of the same size."""
        rows = self.norm(x).reshape(*x.shape[:2], -1).transpose(1, 2)
        mixed: Tensor = self.attn(rows).transpose(1, 2).reshape(x.shape)
        return mixed + x if self.prepared else (mixed + x).contiguous()


class Downsample(nn.Module):
    """Half the size, by a convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = Conv(channels, channels, stride=2)

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c x//2 y//2 z//2"]:
        """Sizes are even."""
        return self.op(x)


class Upsample(nn.Module):
    """Twice the size by repetition, then a convolution.

    kernel: of a transposed convolution that does both at once; set by `cpu_inference.py`.
    """

    kernel: Tensor | None

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.postconv = Conv(inputs, outputs)
        self.register_buffer("kernel", None, persistent=False)

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b d 2*x 2*y 2*z"]:
        """With `kernel`, 8/27 of the multiplications."""
        if self.kernel is not None:
            return F.conv_transpose3d(x, self.kernel, self.postconv.conv.bias, 2, 1)
        return self.postconv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
