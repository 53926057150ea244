"""Arrays as batches of one."""

from __future__ import annotations

import numpy as np
import pytest

from denovox.core.tensors import tensor


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint8, bool])
def test_a_volume_is_a_batch_of_one_of_its_own_type(kind):
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    for each in (array, array[::-1], array.T):
        batch = tensor(each)
        assert batch.shape == (1, 1, *each.shape)
        assert batch.numpy().dtype == kind
        assert np.array_equal(batch[0, 0].numpy(), each)
