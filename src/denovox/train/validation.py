"""Validation of a run: the same boxes from held-out patients, at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from ..datasets.samples.batch import Batch
from ..datasets.samples.choice import SampleConfig, in_turn
from ..datasets.samples.multilevel import sample
from ..datasets.store import Case
from .distributed import ALONE, Group
from .loss import Predict
from .previews import PreviewSample

COUNT = 48


def fixed_samples(cases: Sequence[Case], config: SampleConfig) -> list[PreviewSample]:
    """The same boxes, noise and noise levels at every step of every run, without augmentation."""
    plain = config.model_copy(
        update={"zoom": (1, 1), "shift_hu": 0, "gain": 0, "mirror": 0, "drop": 0}
    )
    fixed = []
    for n, case in enumerate(in_turn(cases, plain, COUNT)):
        one = sample(case, plain, np.random.default_rng([n]))
        # Noise levels at even quantiles rather than random: fewer samples give the same precision.
        one = replace(one, u=(n + 0.5) / COUNT)
        fixed.append(PreviewSample(one, case.facts.region))
    return fixed


def validation(
    fixed: Sequence[Batch], predict: Predict, group: Group = ALONE
) -> Callable[[], float]:
    """The mean loss over fixed samples; each process of a group evaluates its share."""
    mine = list(group.share(len(fixed)))
    # The same number for each process, as sharded calls are collective; extra ones count zero.
    mine += [-1] * (-(-len(fixed) // group.count) - len(mine))

    @torch.no_grad()
    def measure() -> float:
        total = group.number(0)
        for n in mine:
            loss = predict(fixed[max(n, 0)]).sum()
            total += loss if n >= 0 else 0 * loss
        return float(group.sum(total)) / len(fixed)

    return measure
