"""Conversion of arrays to the batches of one that networks and operators expect."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor


def tensor(
    array: Shaped[np.ndarray, "x y z"], device: torch.device | str = "cpu"
) -> Shaped[Tensor, "1 1 x y z"]:
    """A volume as a batch of one with one channel, in the array's dtype.

    On the CPU it shares the array's memory if that is contiguous. To a CUDA device it travels from
    pinned memory, while both sides go on computing.
    """
    batch = torch.from_numpy(np.ascontiguousarray(array))[None, None]
    pinned = torch.device(device).type == "cuda"
    return (batch.pin_memory() if pinned else batch).to(device, non_blocking=pinned)
