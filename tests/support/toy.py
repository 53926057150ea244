"""Samples for problems that are no network: numbers in the voxels of a cube."""

from __future__ import annotations

from torch import Tensor

from denovox.core.condition import condition
from denovox.datasets.samples.batch import Sample

KNOWN = condition((1, 1, 1), (1.0, 1.0, 1.0))


def toy(values: Tensor, case: str = "") -> Sample:
    """A sample of n^3 numbers."""
    edge = round(len(values) ** (1 / 3))
    x0 = values.view(1, 1, edge, edge, edge)
    return Sample(x0, x0, 0.5, KNOWN, 2, case=case)
