"""MAISI's slices against MONAI's own transforms, with 512 as a smaller number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from denovox.core.volume import Volume
from denovox.metrics import slices25d as s


def volume(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Volume:
    hu = np.random.default_rng(0).uniform(-1500, 2500, shape).astype(np.float32)
    return Volume(hu, np.diag([*spacing, 1.0]))


def theirs(scan: Volume, size: int) -> torch.Tensor:
    """1 x y z, by the transforms that their script names."""
    from monai import transforms
    from monai.data import MetaTensor

    steps = transforms.Compose(
        [
            transforms.Spacing(pixdim=(1, 1, 1), mode="bilinear"),
            transforms.SpatialPad((size,) * 3, mode="constant", value=-1000),
            transforms.CenterSpatialCrop((size,) * 3),
            transforms.ScaleIntensityRange(-1000, 1000, -1000, 1000, clip=True),
        ]
    )
    return steps(MetaTensor(torch.from_numpy(scan.hu)[None], torch.from_numpy(scan.affine)))


CASES = [
    ((20, 14, 9), (1.5, 1.5, 3.0), 16),  # cropped, cropped, cropped
    ((20, 9, 5), (1.0, 0.7, 2.5), 20),  # as it is, padded, padded
    ((31, 12, 3), (1.0, 0.5, 1.0), 21),  # cropped, padded, padded so that end slices are air
    ((40, 45, 50), (1.0, 1.0, 1.0), 25),  # nothing padded: the range is the scan's own
]


@pytest.mark.parametrize(("shape", "spacing", "size"), CASES)
def test_slices_are_those_of_monais_transforms(shape, spacing, size):
    scan = volume(shape, spacing)
    image = torch.as_tensor(theirs(scan, size))[None].repeat(1, 3, 1, 1, 1)
    first, last = int((1.0 - 0.4) / 2.0 * size), int((1.0 + 0.4) / 2.0 * size)
    box = s.prepare(scan, size)
    assert max(box.shape) <= size
    for plane, dim in (("xy", 4), ("yz", 2), ("zx", 3)):
        cut = torch.stack(torch.unbind(image.narrow(dim, first, last - first), dim), 1)[0]
        cut = (cut - cut.min()) / (cut.max() - cut.min() + 1e-10)
        cut = cut - torch.tensor([0.406, 0.456, 0.485])[None, :, None, None]
        ours = np.stack(list(s.slices_of(box, plane, size)))
        assert ours.shape == tuple(cut.shape)
        assert np.abs(ours - cut.numpy()).max() < 2e-5, plane


def test_the_middle_of_512_is_205_slices():
    scan = volume((3, 3, 3), (1.0, 1.0, 1.0))
    seen: list[int] = []

    def count(batch: np.ndarray) -> np.ndarray:
        assert batch.shape[1:] == (3, 512, 512)
        seen.append(len(batch))
        return batch[:, :, 255:258, 255:258].reshape(len(batch), -1).astype(np.float64)

    box = s.prepare(scan)
    assert box.shape == (3, 3, 3), "padding is made slice by slice"
    assert sum(len(rows) for rows in s._fed(box, "xy", count, 512)) == 205
    assert sum(seen) == 205
    assert max(seen) == s.TOGETHER


def test_rows_are_slices_of_each_plane():
    scan = volume((12, 11, 10), (1.0, 1.0, 1.0))

    def network(batch: np.ndarray) -> np.ndarray:
        return batch.mean(axis=(2, 3)).astype(np.float64)

    found = s.features(scan, network, 10)
    assert {name: rows.shape for name, rows in found.items()} == dict.fromkeys(s.PLANES, (4, 3))
    box = s.prepare(scan, 10)
    middle = box[3:7]
    expected = (middle.mean(axis=(1, 2)) - middle.min()) / (middle.max() - middle.min())
    assert found["yz"][:, 0] == pytest.approx(expected - 0.406, abs=1e-5)
