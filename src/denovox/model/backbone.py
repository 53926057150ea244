"""The U-Net, MONAI's DiffusionModelUNet, and the encoder of a control, its ControlNet (Method 1).

Of `blocks.py`, which says in what they agree with MONAI's.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import AttentionBlock, Conv, Downsample, ResidualBlock, Shape, Upsample, norm, zero

Added = tuple[list[Tensor], Tensor]  # to the skip connections and the middle block


def timestep_embedding(t: Float[Tensor, " b"], width: int) -> Float[Tensor, "b width"]:
    """Ho et al. 2020: cosines, then sines, of geometrically spaced frequencies; width is even."""
    half = width // 2
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t[:, None].float() * torch.exp(exponent / half)[None]
    return torch.cat([angles.cos(), angles.sin()], -1)


class DownBlock(nn.Module):
    """A level of the encoder."""

    def __init__(self, level: int, shape: Shape) -> None:
        super().__init__()
        inputs, outputs = shape.channels[max(level - 1, 0)], shape.channels[level]
        if shape.attention[level]:
            self.attentions = nn.ModuleList()
        self.resnets = nn.ModuleList()
        for number in range(shape.blocks):
            self.resnets.append(ResidualBlock(outputs if number else inputs, outputs, shape))
            if shape.attention[level]:
                self.attentions.append(AttentionBlock(outputs, shape))
        last = level == len(shape.channels) - 1
        self.downsampler = None if last else Downsample(outputs)

    def forward(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """Every map of the level; the last is what the next level receives."""
        maps = []
        for number, block in enumerate(self.resnets):
            x = block(x, emb)
            if hasattr(self, "attentions"):
                x = self.attentions[number](x)
            maps.append(x)
        if self.downsampler is not None:
            maps.append(self.downsampler(x))
        return maps


class UpBlock(nn.Module):
    """A level of the decoder; every block takes one map of the encoder."""

    def __init__(self, level: int, shape: Shape) -> None:
        super().__init__()
        outputs, above = shape.channels[level], shape.channels[max(level - 1, 0)]
        last = len(shape.channels) - 1
        below = outputs if shape.narrow else shape.channels[min(level + 1, last)]
        self.resnets = nn.ModuleList()
        if shape.attention[level]:
            self.attentions = nn.ModuleList()
        for number in range(shape.blocks + 1):
            inputs = outputs if number else below
            skip = above if number == shape.blocks else outputs
            self.resnets.append(ResidualBlock(inputs + skip, outputs, shape))
            if shape.attention[level]:
                self.attentions.append(AttentionBlock(outputs, shape))
        self.upsampler = Upsample(outputs, above if shape.narrow else outputs) if level else None

    def forward(self, x: Tensor, maps: list[Tensor], emb: Tensor) -> Tensor:
        """maps: of the encoder at this level, from the last."""
        for number, block in enumerate(self.resnets):
            x = block(torch.cat([x, maps[number]], 1), emb)
            if hasattr(self, "attentions"):
                x = self.attentions[number](x)
        return x if self.upsampler is None else self.upsampler(x)


class MiddleBlock(nn.Module):
    """Two residual blocks around attention, at the smallest size."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        channels = shape.channels[-1]
        self.resnet_1 = ResidualBlock(channels, channels, shape)
        self.attention = AttentionBlock(channels, shape)
        self.resnet_2 = ResidualBlock(channels, channels, shape)

    def forward(self, x: Float[Tensor, "b c x y z"], emb: Tensor) -> Float[Tensor, "b c x y z"]:
        """A map of the same size."""
        return self.resnet_2(self.attention(self.resnet_1(x, emb)), emb)


class Encoder(nn.Module):
    """What the U-Net and a control have in common.

    class_embedding: what holds for a whole box -> a vector added to the embedding of the timestep.
    """

    prepared = False

    def __init__(self, inputs: int, shape: Shape) -> None:
        super().__init__()
        self.in_channels, self.shape = inputs, shape
        first, width = shape.channels[0], shape.width
        self.conv_in = Conv(inputs, first)
        self.time_embed = nn.Sequential(nn.Linear(first, width), nn.SiLU(), nn.Linear(width, width))
        self.class_embedding: nn.Module = nn.Embedding(1, width)  # drawn, as MONAI does; replaced

    def _add_blocks(self) -> None:
        levels = range(len(self.shape.channels))
        self.down_blocks = nn.ModuleList(DownBlock(level, self.shape) for level in levels)
        self.middle_block = MiddleBlock(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """In which the convolutions compute."""
        return self.conv_in.conv.weight.dtype

    def start(self, x: Tensor, t: Tensor, whole: Tensor) -> tuple[Tensor, Float[Tensor, "#b w"]]:
        """The first map, and the embedding that every residual block receives."""
        if self.prepared and bool((t == t[0]).all() and (whole == whole[0]).all()):
            t, whole = t[:1], whole[:1]  # the tiles of a scan differ in neither
        embedding = timestep_embedding(t, self.shape.channels[0])
        dtype = next(self.time_embed.parameters()).dtype
        emb: Tensor = self.time_embed(embedding.to(dtype)) + self.class_embedding(whole).to(dtype)
        return self.conv_in(x.to(self.dtype)), emb

    def down(self, h: Tensor, emb: Tensor) -> list[Tensor]:
        """Every map of the encoder, from the first."""
        maps = [h]
        for block in self.down_blocks:
            maps += block(maps[-1], emb)
        return maps


class UNet(Encoder):
    """MONAI's DiffusionModelUNet with three spatial dimensions, unless its shape is narrow."""

    def __init__(self, inputs: int, outputs: int, shape: Shape) -> None:
        super().__init__(inputs, shape)
        self._add_blocks()
        levels = reversed(range(len(shape.channels)))
        self.up_blocks = nn.ModuleList(UpBlock(level, shape) for level in levels)
        first = shape.channels[0]
        self.out = nn.Sequential(norm(first, shape.groups), nn.SiLU(), zero(Conv(first, outputs)))

    def forward(
        self,
        x: Float[Tensor, "b c x y z"],
        t: Float[Tensor, " b"],
        whole: Tensor,
        added: Added | None = None,
    ) -> Float[Tensor, "b d x y z"]:
        """t: timesteps. whole: for the class embedding. added: by a control."""
        h, emb = self.start(x, t, whole)
        maps = self.down(h, emb)
        h = maps[-1]
        if added is not None:
            maps = [own + more for own, more in zip(maps, added[0], strict=True)]
        h = self.middle_block(h, emb)
        if added is not None:
            h = h + added[1]
        for block in self.up_blocks:
            own = [maps.pop() for _ in range(self.shape.blocks + 1)]
            h = block(h, own, emb)
        return self.out(h)


class ControlEmbedding(nn.Module):
    """The control's own input -> as many channels as the first level has."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.conv_in = Conv(inputs, width)
        self.conv_out = zero(Conv(width, outputs))

    def forward(self, control: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b d x y z"]:
        """A map of the same size."""
        h = self.conv_in(control)
        return self.conv_out(h * torch.sigmoid(h))


class ControlEncoder(Encoder):
    """MONAI's ControlNet with three spatial dimensions and one layer on the control."""

    def __init__(self, inputs: int, control: int, width: int, shape: Shape) -> None:
        super().__init__(inputs, shape)
        first, last = shape.channels[0], len(shape.channels) - 1
        self.controlnet_cond_embedding = ControlEmbedding(control, width, first)
        start = zero(Conv(first, first, 1)).conv  # the only one whose name lacks "conv"
        self.down_blocks = nn.ModuleList()
        self.controlnet_down_blocks = nn.ModuleList([start])
        for level, channels in enumerate(shape.channels):
            self.down_blocks.append(DownBlock(level, shape))
            for _ in range(shape.blocks + (level < last)):
                self.controlnet_down_blocks.append(zero(Conv(channels, channels, 1)))
        self.middle_block = MiddleBlock(shape)
        self.controlnet_mid_block = zero(Conv(shape.channels[-1], shape.channels[-1], 1))

    def forward(self, x: Tensor, t: Tensor, whole: Tensor, control: Tensor) -> Added:
        """What to add to each of the base's skip connections and to its middle block."""
        h, emb = self.start(x, t, whole)
        maps = self.down(h + self.controlnet_cond_embedding(control.to(h.dtype)), emb)
        middle = self.controlnet_mid_block(self.middle_block(maps[-1], emb))
        down = [layer(h) for layer, h in zip(self.controlnet_down_blocks, maps, strict=True)]
        return down, middle
