"""A model by the contract of deepinv's denoisers, (x, sigma) -> x, for its reconstruction loops.

The same contract serves any loop that calls `denoise(x, sigma)`, such as the samplers of
k-diffusion (EDM). deepinv itself is not needed: where it is installed, `Denoiser` is one of its.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ..core.condition import condition
from ..core.errors import ensure, one_of
from ..core.regions import region as region_named
from ..core.volume import within
from ..inference.engine import Engine
from ..inference.frame import Spacing
from ..inference.options import RunOptions
from ..sampling.windowed import windowed

if TYPE_CHECKING:
    Base = nn.Module
else:
    try:
        from deepinv.models import Denoiser as Base
    except ModuleNotFoundError as error:
        if error.name != "deepinv":
            raise
        Base = nn.Module


class Denoiser(Base):  # a deepinv.models.Denoiser where deepinv is installed
    """The posterior mean of a volume in white noise, E[x0 | x0 + sigma n], as a function of both.

    model: from `denovox.load`, which also decides the device. region: headneck, chest or abdomen;
    its HU window is [0, 1] in x, and sigma has the unit of x: `from_hu`, `to_hu`, `sigma_of_hu`
    convert. Values of x beyond the window are pulled into it, as in training. spacing_mm: voxel
    size along x, y, z. anatomy: label ids of docs/reference/labels.md, axes x, y, z; None: unknown
    everywhere. axes: of a volume after batch and channel: "xyz", or "zyx", which is depth, height,
    width; x, y, z point to the patient's Right, Anterior, Superior. options: its `tile`, `batch`
    and `seed` apply. `InputError` for an unknown region, or for a spacing outside the model's.

    The same x and sigma always give the same result: seams between tiles stay in place.
    """

    def __init__(
        self,
        model: Engine,
        region: str,
        spacing_mm: Spacing,
        anatomy: UInt8[np.ndarray, "x y z"] | None = None,
        axes: str = "xyz",
        options: RunOptions | None = None,
    ) -> None:
        super().__init__()
        one_of(axes, ("xyz", "zyx"), "order of axes")
        low, high = model.config.spacing_mm
        fits = all(within(mm, low, high) for mm in spacing_mm)
        size = " x ".join(f"{mm:g}" for mm in spacing_mm)
        limits = f"the {low:g} to {high:g} mm that the model supports"
        ensure(fits, f"voxels of {size} mm are outside {limits}; reconstruct on another grid")
        self.model = model
        self.region = region_named(region)
        self.spacing_mm = spacing_mm
        self.anatomy = None if anatomy is None else torch.from_numpy(anatomy)
        self.axes = axes
        self.options = options or RunOptions()

    def from_hu(self, hu: Any) -> Any:
        """HU (array or tensor) -> the range of x, not clipped."""
        return (self.region.window.unit(hu) + 1) / 2

    def to_hu(self, x: Any) -> Any:
        """The inverse of `from_hu`."""
        return self.region.window.hu(2 * x - 1)

    def sigma_of_hu(self, noise_hu: float) -> float:
        """A standard deviation in HU -> sigma."""
        return self.region.window.sigma(noise_hu) / 2

    def forward(
        self, x: Float[Tensor, "b 1 u v w"], sigma: float | Sequence[float] | Tensor
    ) -> Float[Tensor, "b 1 u v w"]:
        """The denoised volumes, on x's device and of its dtype; differentiable in x.

        sigma: SD of the noise; one for all volumes, or one for each (any shape with b elements).
        `ValueError` for another number of them, or one below 0; `InputError` unless the anatomy has
        the shape of x. Gradients keep the activations of every tile in memory.
        """
        each = self._sigmas(x, sigma)
        turned = x if self.axes == "xyz" else x.transpose(2, 4)
        unit = 2 * turned.to(self.model.device, torch.float32) - 1
        # Without gradients the network takes a faster path.
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            x0 = [self._mean(one[None], 2 * s) for one, s in zip(unit, each, strict=True)]
        out = ((torch.cat(x0) + 1) / 2).to(x)
        return out if self.axes == "xyz" else out.transpose(2, 4)

    def score(self, x: Float[Tensor, "b 1 u v w"], sigma: Any) -> Float[Tensor, "b 1 u v w"]:
        """The gradient of log p(x) at noise level sigma > 0, (D(x, sigma) - x) / sigma^2.

        Tweedie's formula (Efron 2011, eq. 1.4).
        """
        each = torch.tensor(self._sigmas(x, sigma)).to(x)
        if not bool((each > 0).all()):
            raise ValueError("the score exists for a sigma above 0 only")
        return (self(x, sigma) - x) / each.view(-1, 1, 1, 1, 1) ** 2

    def _sigmas(self, x: Tensor, sigma: Any) -> list[float]:
        """One for each volume."""
        if x.dim() != 5 or x.shape[1] != 1 or not x.numel():
            raise ValueError(f"x has the shape {tuple(x.shape)}; pass (batch, 1, and three axes)")
        flat = torch.as_tensor(sigma, dtype=torch.float64).flatten().tolist()
        if len(flat) not in (1, len(x)):
            raise ValueError(
                f"there are {len(flat)} sigmas for {len(x)} volumes; pass one, or one for each"
            )
        if not all(0 <= s < math.inf for s in flat):
            raise ValueError(f"sigma is {sigma}; pass a number of 0 or more")
        return flat * (len(x) // len(flat))

    def _mean(self, x: Float[Tensor, "1 1 x y z"], sigma: float) -> Float[Tensor, "1 1 x y z"]:
        """x0 of one volume, model units."""
        if sigma == 0:
            return x
        u, v, w = x.shape[2:]
        own = None if self.anatomy is None else tuple(self.anatomy.shape)
        fits = own in (None, (u, v, w))
        ensure(fits, f"the anatomy has the shape {own}, and the volume {(u, v, w)}, as x, y, z")
        known = condition((u, v, w), self.spacing_mm, self.region.id, self.anatomy)
        tilings = self.model.tilings((u, v, w), self.options.tile)
        whole = windowed(
            self.model.denoiser,
            known.to(self.model.device),
            tilings,
            self.options.batch or 1,
            self.options.seed,
        )
        return whole(x, sigma)
