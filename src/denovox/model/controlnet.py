"""A ControlNet: a trainable copy of the encoder steers the base, which is frozen (Method 1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.condition import Condition, ControlKind
from ..core.config import Settings
from .backbone import Added, ControlEncoder
from .unet import GlobalEntry, Net


class ControlConfig(Settings):
    """What is needed to rebuild a control from its weights, besides its base.

    kind: its input: "lesion", a mask (0 or 1) of where lesions should be; "low-resolution", the
    thick slices interpolated to thin ones, in model units. base: sha256 of the weights that it was
    initialised from. width: channels of the first layer on the control.
    """

    kind: ControlKind
    base: str
    width: int = 16


class Control(nn.Module):
    """A ControlNet for a `Net`, initialised with the weights of its base (Zhang et al. 2023).

    The encoder and the middle block start as copies; the layers that connect them to the base, and
    the control to them, start at zero, so that initially the base's output is unchanged, bit for
    bit.
    """

    def __init__(self, base: Net, config: ControlConfig) -> None:
        super().__init__()
        shape = base.config.shape
        self.config = config
        voxels = 8 if base.config.stem == "unshuffle2" else 1
        self.controlnet = ControlEncoder(base.unet.in_channels, voxels, config.width, shape)
        self.controlnet.class_embedding = GlobalEntry(shape.width)
        state = self.controlnet.state_dict()
        shared = {name: value for name, value in base.unet.state_dict().items() if name in state}
        missing, _ = self.controlnet.load_state_dict(shared, strict=False)
        assert all(name.startswith("controlnet_") for name in missing), missing

    def forward(self, inputs: Tensor, t: Tensor, whole: Tensor, control: Tensor) -> Added:
        """What to add to each of the base's skip connections and to its middle block.

        inputs, whole: as for the base's U-Net; control: at the same size.
        """
        return self.controlnet(inputs, t, whole, control)


class Controlled(nn.Module):
    """A base and its control as one network with the interface of a `Net`."""

    def __init__(self, base: Net, control: Control) -> None:
        super().__init__()
        self.base = base
        self.control = control

    def forward(
        self,
        x: Float[Tensor, "b 1 x y z"],
        sigma: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        condition: Condition,
    ) -> Float[Tensor, "b 1 x y z"]:
        """As in `Net`; if `condition.control` is None, the base is evaluated alone."""
        if condition.control is None:
            return self.base(x, sigma, t, condition)
        inputs, whole = self.base.entry(x, sigma, condition)
        control = self.base.to_depth(condition.control).contiguous(
            memory_format=torch.channels_last_3d
        )
        added = self.control(inputs, t, whole, control)
        return self.base.answer(inputs, t, whole, added)
