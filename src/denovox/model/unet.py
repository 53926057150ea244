"""The network: entries for the conditions, then the U-Net of `backbone.py` (Method 1)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from ..core.condition import Condition
from ..core.config import Settings
from ..core.labels import NAMES, path_matrix
from ..core.regions import REGIONS
from .backbone import Added, UNet
from .blocks import Shape


class NetConfig(Settings):
    """The shape of a network; `presets.py` has the named ones.

    channels: per level; the spatial size halves from one to the next.
    attention: which levels have attention.
    narrow: whether upsampling ends at the channels of the level above. In MONAI's network it ends
        at its own, which costs more the faster channels grow with the level.
    stem: "plain", or "unshuffle2": 2x2x2 space-to-depth before the U-Net and its inverse after it.
    detail: in addition to x, input x minus its 3^3 mean, in units of sigma. At low noise, a network
        has to resolve differences the size of sigma beside structure of size 1; this presents them
        at the right scale (ours).
    anatomy_channels, position_channels: widths of the two condition maps.
    frequencies: octaves of the position embedding's sinusoids.
    position: the network's input on where its voxels lie: nothing, their coordinates, or
        coordinates and their sinusoids (the paper's ablation, Method 1).
    """

    channels: tuple[int, ...] = (32, 32, 64, 96, 128)
    attention: tuple[bool, ...] = (False, False, False, True, True)
    res_blocks: int = 1
    groups: int = 16
    head_channels: int = 32
    narrow: bool = False
    stem: Literal["plain", "unshuffle2"] = "plain"
    detail: bool = False
    anatomy_channels: int = 8
    position_channels: int = 8
    frequencies: int = 6
    position: Literal["none", "coordinates", "embedding"] = "embedding"

    @model_validator(mode="after")
    def _levels_agree(self) -> NetConfig:
        if len(self.channels) != len(self.attention):
            raise ValueError("channels and attention must have the same number of levels")
        return self

    @property
    def shape(self) -> Shape:
        """That of the U-Net."""
        sizes = self.res_blocks, self.groups, self.head_channels
        return Shape(self.channels, self.attention, *sizes, self.narrow)

    @property
    def multiple(self) -> int:
        """Inputs must be multiples of this many voxels along each axis."""
        return 2 ** (len(self.channels) - 1) * (2 if self.stem == "unshuffle2" else 1)


def space_to_depth(x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b 8*c x//2 y//2 z//2"]:
    """Every 2x2x2 block becomes 8 channels; linear, exact, undone by `depth_to_space`."""
    b, c, nx, ny, nz = x.shape
    x = x.reshape(b, c, nx // 2, 2, ny // 2, 2, nz // 2, 2)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, 8 * c, nx // 2, ny // 2, nz // 2)


def depth_to_space(x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c//8 2*x 2*y 2*z"]:
    """The inverse of `space_to_depth`."""
    b, c, nx, ny, nz = x.shape
    x = x.reshape(b, c // 8, 2, 2, 2, nx, ny, nz).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, c // 8, 2 * nx, 2 * ny, 2 * nz)


def detail(x: Float[Tensor, "b 1 x y z"], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b 1 x y z"]:
    """x minus its 3x3x3 mean, in units of sigma (with a floor where noise is below CT's own)."""
    mean = F.avg_pool3d(F.pad(x, (1,) * 6, mode="replicate"), 3, 1)
    return (x - mean) / torch.sqrt(sigma**2 + 0.05**2).view(-1, 1, 1, 1, 1)


class AnatomyEntry(nn.Module):
    """Label map -> condition map; a class's embedding is the sum along its path (Method 1)."""

    paths: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("paths", torch.from_numpy(path_matrix()), persistent=False)
        # Zeros: a class that never occurs in training is embedded as the coarser one above it.
        self.table = nn.Parameter(torch.zeros(len(NAMES), channels))

    def forward(self, anatomy: Tensor) -> Float[Tensor, "b c x y z"]:
        """anatomy: label ids, b x y z."""
        embedded = F.embedding(anatomy.int(), self.paths @ self.table)
        return embedded.permute(0, 4, 1, 2, 3)


class PositionEntry(nn.Module):
    """Coordinates -> condition map: NeRF's sinusoids, then one linear layer (Method 1). Without
    octaves it is linear in the coordinates alone.

    Each sinusoid depends on one axis alone, so the linear layer is applied to the three axes and
    the results are summed by broadcasting: the full map of sinusoids is never materialised.
    """

    octaves: Tensor

    def __init__(self, channels: int, frequencies: int) -> None:
        super().__init__()
        octaves = 2.0 ** torch.arange(frequencies) * math.pi
        self.register_buffer("octaves", octaves, persistent=False)
        self.axes = nn.ModuleList(nn.Linear(1 + 2 * frequencies, channels) for _ in range(3))

    def forward(self, position: tuple[Tensor, Tensor, Tensor]) -> Float[Tensor, "b c x y z"]:
        """position: coordinates of the voxels along x, y, z, each b n."""
        maps = []
        for axis, (linear, u) in enumerate(zip(self.axes, position, strict=True)):
            angles = u[..., None] * self.octaves
            features = torch.cat([u[..., None], angles.sin(), angles.cos()], -1)
            shape = [1, 1, 1]
            shape[axis] = u.shape[1]
            maps.append(linear(features).transpose(1, 2).reshape(len(u), -1, *shape))
        return maps[0] + maps[1] + maps[2]


class GlobalEntry(nn.Module):
    """Region and voxel size -> a vector added to the timestep's embedding.

    It takes the place of the class embedding in MONAI's network.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.region = nn.Embedding(len(REGIONS) + 1, width)
        self.spacing = nn.Linear(3, width)

    def forward(self, whole: Float[Tensor, "b 4"]) -> Float[Tensor, "b width"]:
        """whole: region id, then the log of the voxel size in mm along x, y, z."""
        return self.region(whole[:, 0].long()) + self.spacing(whole[:, 1:])


class Net(nn.Module):
    """(x, sigma, t, condition) -> the network's raw output, which `denoiser.py` interprets."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        voxels = 8 if config.stem == "unshuffle2" else 1
        condition_channels = config.anatomy_channels
        self.anatomy = AnatomyEntry(config.anatomy_channels)
        if config.position != "none":  # without a map: unused parameters would never be trained
            condition_channels += config.position_channels
            octaves = config.frequencies if config.position == "embedding" else 0
            self.position = PositionEntry(config.position_channels, octaves)
        inputs = voxels * (1 + config.detail) + condition_channels
        self.unet = UNet(inputs, voxels, config.shape)
        self.unet.class_embedding = GlobalEntry(config.shape.width)

    def forward(
        self,
        x: Float[Tensor, "b 1 x y z"],
        sigma: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        condition: Condition,
    ) -> Float[Tensor, "b 1 x y z"]:
        """x = x0 + sigma * noise in model units; t: the schedule's timestep for sigma.

        Sizes along x, y, z must be multiples of `config.multiple`.
        """
        inputs, whole = self.entry(x, sigma, condition)
        return self.answer(inputs, t, whole)

    def entry(
        self, x: Float[Tensor, "b 1 x y z"], sigma: Float[Tensor, " b"], condition: Condition
    ) -> tuple[Float[Tensor, "b c u v w"], Float[Tensor, "b 4"]]:
        """(maps, values that hold for the whole box): the inputs of the U-Net."""
        scaled = x * torch.rsqrt(1 + sigma**2).view(-1, 1, 1, 1, 1)  # the VP form: sqrt(abar) x
        image = torch.cat([scaled, detail(x, sigma)], 1) if self.config.detail else scaled
        maps = [self.anatomy(condition.anatomy)]
        if self.config.position != "none":
            maps.append(self.position(condition.position).expand(-1, -1, *x.shape[2:]))
        if self.config.stem == "unshuffle2":
            maps = [F.avg_pool3d(each, 2) for each in maps]
        # Joined with channels last in memory, and in the type of the weights: one pass, not four.
        parts = [each.movedim(1, -1).to(self.unet.dtype) for each in (self.to_depth(image), *maps)]
        whole = torch.cat([condition.region[:, None], condition.spacing_mm.log()], 1)
        return torch.cat(parts, -1).movedim(-1, 1), whole

    def answer(
        self,
        inputs: Float[Tensor, "b c u v w"],
        t: Float[Tensor, " b"],
        whole: Float[Tensor, "b 4"],
        added: Added | None = None,
    ) -> Float[Tensor, "b 1 x y z"]:
        """The U-Net's output; added: by a control to its skip connections and middle block."""
        answer: Tensor = self.unet(inputs, t, whole, added)
        return depth_to_space(answer) if self.config.stem == "unshuffle2" else answer

    def to_depth(self, maps: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c2 u v w"]:
        """Maps at the size on which the U-Net works."""
        return space_to_depth(maps) if self.config.stem == "unshuffle2" else maps
