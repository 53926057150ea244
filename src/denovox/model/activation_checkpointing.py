"""Less memory in training: what is inside a block is computed again when its gradients are."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(net: nn.Module) -> None:
    """Change the network in place: of each residual block and attention only the input is kept.

    Answers and gradients are what they were, bit for bit (there is no dropout, so that nothing is
    drawn twice); a step takes up to a third more time (Chen et al. 2016, "Training Deep Nets with
    Sublinear Memory Cost").
    """
    from monai.networks.blocks.spatialattention import SpatialAttentionBlock
    from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock

    for module in net.modules():
        if isinstance(module, DiffusionUNetResnetBlock | SpatialAttentionBlock):
            kept = partial(checkpoint, module.forward, use_reentrant=False)
            module.forward = kept  # type: ignore[method-assign]
