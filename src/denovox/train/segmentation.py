"""The loss of a segmenter: Dice and cross-entropy, so that it goes through the one loop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..data.levels import Sample
from ..model.segmenter import Segmenter
from .loss import Predict

SMOOTH = 1.0  # voxels: in crops without a lesion, what makes a false voxel cost little by little


def loss_of(
    logits: Float[Tensor, "b 1 x y z"], lesion: Float[Tensor, "b 1 x y z"]
) -> Float[Tensor, " b"]:
    """Cross-entropy plus 1 - soft Dice of each crop (Isensee et al. 2021, equations of 2018)."""
    axes = (1, 2, 3, 4)
    entropy = F.binary_cross_entropy_with_logits(logits, lesion, reduction="none").mean(axes)
    share = torch.sigmoid(logits)
    both, all_of = (share * lesion).sum(axes), share.sum(axes) + lesion.sum(axes)
    return entropy + 1 - (2 * both + SMOOTH) / (all_of + SMOOTH)


def predictor(net: Segmenter) -> Predict:
    """samples -> loss of each; their controls are lesion masks, 0 or 1 (METHOD 4).

    `ValueError` where a sample has no control.
    """

    def predict(samples: list[Sample]) -> Float[Tensor, " b"]:
        masks = [s.condition.control for s in samples if s.condition.control is not None]
        if len(masks) < len(samples):
            raise ValueError("a segmenter learns from samples with a lesion mask as their control")
        x0 = torch.cat([s.x0 for s in samples])
        region = torch.cat([s.condition.region for s in samples])
        return loss_of(net(x0, region), torch.cat(masks))

    return predict
