"""A small network that outlines lesions: the judge of made lesions (METHOD 4), not for patients."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from ..core.box import Tiling
from ..core.config import Settings
from ..core.regions import REGIONS, Region
from ..core.volume import Window
from .unet import depth_to_space, space_to_depth

SOFT = Window(400, 40)  # the soft-tissue window: what the chest's leaves 10 HU of, it shows
PRIOR = 0.01  # about the share of lesion among the voxels of a crop: where training begins


class SegmenterConfig(Settings):
    """channels: of each level of a U-Net that works on 2x2x2 voxels at once; the size halves from
    one level to the next."""

    channels: tuple[int, ...] = Field((16, 32, 64), min_length=2)

    @property
    def multiple(self) -> int:
        """Inputs must be multiples of this many voxels along each axis."""
        return 2 ** len(self.channels)


class Segmenter(nn.Module):
    """MONAI's U-Net (Kerfoot et al. 2018) on a crop in two windows, its region's and a soft one.

    No normalisation between layers: it would take from a crop how dense it is, and make the answer
    at a voxel depend on what else is in the window. Fresh weights are of torch's global seed.
    """

    windows: Tensor

    def __init__(self, config: SegmenterConfig | None = None) -> None:
        super().__init__()
        from monai.networks.nets.unet import UNet  # slow to import

        self.config = config or SegmenterConfig()
        channels = self.config.channels
        self.unet = UNet(
            spatial_dims=3,
            in_channels=16,
            out_channels=8,
            channels=channels,
            strides=(1,) + (2,) * (len(channels) - 2),
            num_res_units=1,
            norm=None,  # type: ignore[arg-type]  # of each block, whose own type allows it
        )
        self.bias = nn.Parameter(torch.tensor(float(np.log(PRIOR / (1 - PRIOR)))))
        windows = [[SOFT.level_hu, SOFT.width_hu / 2]] * (len(REGIONS) + 1)
        for each in REGIONS.values():
            windows[each.id] = [each.window.level_hu, each.window.width_hu / 2]
        self.register_buffer("windows", torch.tensor(windows), persistent=False)

    def forward(
        self, x0: Float[Tensor, "b 1 x y z"], region: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b 1 x y z"]:
        """Crops in model units of the region with that id -> logits of lesion."""
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
    window: int = 64,
) -> Float[np.ndarray, "x y z"]:
    """How likely each voxel of a scan is one of a lesion, 0 to 1: windows that overlap, blended.

    window: their edge in voxels, a multiple of `config.multiple`, at least four times it. Past the
    end of the scan its last voxels go on.
    """
    multiple = net.config.multiple
    tiling = Tiling(window, 2 * multiple, multiple)
    unit = np.clip(region.window.unit(hu), -1, 1).astype(np.float32)
    pads = [(0, -n % multiple) for n in hu.shape]
    x = torch.from_numpy(np.pad(unit, pads, mode="edge"))[None, None]
    told = torch.tensor([region.id])
    out = torch.zeros(x.shape[2:])
    for tiles in itertools.product(*(tiling.tiles(n) for n in x.shape[2:])):
        i, j, k = (slice(tile.start, tile.stop) for tile in tiles)
        share = torch.sigmoid(net(x[..., i, j, k], told))[0, 0]
        weights = (torch.from_numpy(tile.weight) for tile in tiles)
        out[i, j, k] += torch.einsum("xyz,x,y,z->xyz", share, *weights)
    return out[tuple(slice(0, n) for n in hu.shape)].numpy()
