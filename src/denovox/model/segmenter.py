"""A small network that segments lesions, to assess synthetic ones (Method 4); not for patients."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from jaxtyping import Float, Int64
from monai.networks.nets.unet import UNet
from pydantic import Field
from torch import Tensor, nn

from ..core.box import Tiling
from ..core.config import Settings
from ..core.regions import REGIONS, Region
from ..core.tensors import tensor
from ..core.volume import Window
from .unet import depth_to_space, space_to_depth

SOFT = Window(400, 40)  # soft-tissue window: shows contrasts of 10 HU, which the chest's hides
PRIOR = 0.01  # approximate share of lesion voxels in a crop, where training starts


class SegmenterConfig(Settings):
    """channels: per level of a U-Net that works on blocks of 2x2x2 voxels; the size halves from one
    level to the next."""

    channels: tuple[int, ...] = Field((16, 32, 64), min_length=2)

    @property
    def multiple(self) -> int:
        """Inputs must be multiples of this many voxels along each axis."""
        return 2 ** len(self.channels)


class Segmenter(nn.Module):
    """MONAI's U-Net (Kerfoot et al. 2018) on a crop in two windows, its region's and a soft one.

    No normalisation between layers: it would remove a crop's overall density and make the output at
    a voxel depend on the rest of the tile. Initial weights come from torch's global seed.
    """

    windows: Tensor

    def __init__(self, config: SegmenterConfig | None = None) -> None:
        super().__init__()
        self.config = config or SegmenterConfig()
        channels = self.config.channels
        self.unet = UNet(
            spatial_dims=3,
            in_channels=16,
            out_channels=8,
            channels=channels,
            strides=(1,) + (2,) * (len(channels) - 2),
            num_res_units=1,
            norm=None,  # type: ignore[arg-type]  # passed to the blocks, whose types allow None
        )
        self.bias = nn.Parameter(torch.tensor(float(np.log(PRIOR / (1 - PRIOR)))))
        windows = [[SOFT.level_hu, SOFT.width_hu / 2]] * (len(REGIONS) + 1)
        for each in REGIONS.values():
            windows[each.id] = [each.window.level_hu, each.window.width_hu / 2]
        self.register_buffer("windows", torch.tensor(windows), persistent=False)

    def forward(
        self, x0: Float[Tensor, "b 1 x y z"], region: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b 1 x y z"]:
        """Crops in the model units of the region with that id -> lesion logits."""
        level, half = self.windows[region].T.reshape(2, -1, 1, 1, 1, 1)
        soft = ((x0 * half + level - SOFT.level_hu) / (SOFT.width_hu / 2)).clamp(-1, 1)
        inputs = space_to_depth(torch.cat([x0, soft], 1))
        inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
        return depth_to_space(self.unet(inputs)) + self.bias


@torch.no_grad()
def lesion_share(
    net: Segmenter,
    hu: Float[np.ndarray, "x y z"],
    region: Region,
    edge: int = 64,
) -> Float[np.ndarray, "x y z"]:
    """The probability of lesion in each voxel of a scan, from overlapping, blended tiles.

    edge: of a tile, in voxels: a multiple of `config.multiple`, at least four times it. Past the
    end of the scan, its last voxels are repeated.
    """
    multiple = net.config.multiple
    tiling = Tiling(edge, 2 * multiple, multiple)
    unit = np.clip(region.window.unit(hu), -1, 1).astype(np.float32)
    pads = [(0, -n % multiple) for n in hu.shape]
    x = tensor(np.pad(unit, pads, mode="edge"))
    region_id = torch.tensor([region.id])
    out = torch.zeros(x.shape[2:])
    for tiles in itertools.product(*(tiling.tiles(n) for n in x.shape[2:])):
        i, j, k = (slice(tile.start, tile.stop) for tile in tiles)
        share = torch.sigmoid(net(x[..., i, j, k], region_id))[0, 0]
        weights = (torch.from_numpy(tile.weight) for tile in tiles)
        out[i, j, k] += torch.einsum("xyz,x,y,z->xyz", share, *weights)
    return out[tuple(slice(0, n) for n in hu.shape)].numpy()
