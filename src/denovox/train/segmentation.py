"""Training of small segmenters: Dice and cross-entropy, in the same loop as the denoiser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..datasets.samples.batch import Batch, Sample, batches
from ..model.segmenter import Segmenter, SegmenterConfig
from .config import TrainConfig
from .loop import train
from .loss import Predict

SMOOTH = 1.0  # voxels: makes the cost of false voxels gradual in crops without a lesion


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
    """samples -> loss of each; their controls are lesion masks, 0 or 1 (Method 4).

    `ValueError` if samples have no control.
    """

    def predict(samples: Batch) -> Float[Tensor, " b"]:
        masks = samples.condition.control
        if masks is None:
            raise ValueError(
                "a segmenter is trained on samples with a lesion mask as their control"
            )
        return loss_of(net(samples.x0, samples.condition.region), masks)

    return predict


def train_segmenter(
    config: SegmenterConfig,
    draw: Callable[[int], Sample],
    folder: Path,
    seed: int,
    steps: int,
    batch: int,
    lr: float = 5e-3,
) -> Segmenter:
    """Train a new segmenter for `steps` steps of `batch` samples; has averaged, frozen weights.

    draw: n -> sample n, with a mask as its control. folder: where the run's state is kept; an
    interrupted run resumes from there. seed: of the initial weights.
    """
    settings = TrainConfig(
        steps=steps,
        samples=batch,
        batch=batch,
        lr=lr,
        warmup=min(20, steps),
        decay=0.4,
        weight_decay=0.01,
        ema=max(1.0, steps / 20),
    )
    torch.manual_seed(seed)
    net = Segmenter(config)
    parameters = dict(net.named_parameters())
    for step in train(predictor(net), parameters, batches(draw), settings, folder):
        average = step.average
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(average[name])
    return net.eval().requires_grad_(False)
