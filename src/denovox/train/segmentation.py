"""The loss of a segmenter: Dice and cross-entropy, so that it goes through the one loop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..datasets.samples.batch import Batch
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

    `ValueError` where samples have no control.
    """

    def predict(samples: Batch) -> Float[Tensor, " b"]:
        masks = samples.condition.control
        if masks is None:
            raise ValueError("a segmenter learns from samples with a lesion mask as their control")
        return loss_of(net(samples.x0, samples.condition.region), masks)

    return predict
