"""Conversion of arrays to the batches of one that networks and operators expect."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor


def tensor(array: Shaped[np.ndarray, "x y z"]) -> Shaped[Tensor, "1 1 x y z"]:
    """A volume as a batch of one with one channel, on the CPU, in the array's dtype.

    It shares the array's memory if that is contiguous.
    """
    return torch.from_numpy(np.ascontiguousarray(array))[None, None]
