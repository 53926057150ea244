"""Conditions: the whole's own, crops (past the end and of one another) and batches."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from denovox.core.box import Box, coordinates
from denovox.core.condition import Condition, batch, condition

SHAPE = (6, 7, 8)


def told(seed: int = 0) -> Condition:
    generator = torch.Generator().manual_seed(seed)
    anatomy = torch.randint(0, 118, SHAPE, generator=generator, dtype=torch.uint8)
    whole = condition(SHAPE, (1, 1, 2.5), region_id=2, anatomy=anatomy)
    return replace(whole, control=torch.rand(1, 2, *SHAPE, generator=generator))


def same(a: Condition, b: Condition) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Condition))


def test_the_condition_of_a_whole_volume():
    c = told()
    assert c.region.tolist() == [2]
    assert c.spacing_mm.tolist() == [[1, 1, 2.5]]
    for axis, n in zip(c.position, SHAPE, strict=True):
        assert axis.shape == (1, n)
        torch.testing.assert_close(axis[0], torch.from_numpy(coordinates(0, n, n, n)))


def test_unknown_until_told():
    c = condition(SHAPE, (1, 1, 1))  # whole millimetres are as good as fractions
    assert c.spacing_mm.dtype == torch.float32
    assert c.region.tolist() == [0]
    assert c.anatomy.shape == (1, *SHAPE)
    assert not c.anatomy.any()
    assert c.control is None
    box = Box((1, 1, 1), (2, 3, 4))
    assert batch([c.crop(box)] * 2).to("cpu").control is None


def test_a_crop_is_a_crop_of_everything():
    c, box = told(), Box((1, 2, 3), (3, 4, 5))
    crop = c.crop(box)
    assert torch.equal(crop.anatomy, c.anatomy[:, 1:4, 2:6, 3:8])
    for got, all_of_it, cut in zip(crop.position, c.position, box.slices, strict=True):
        assert torch.equal(got, all_of_it[:, cut])
    assert torch.equal(crop.control, c.control[..., 1:4, 2:6, 3:8])
    assert torch.equal(crop.region, c.region)
    assert torch.equal(crop.spacing_mm, c.spacing_mm)


def test_a_crop_past_the_end_sees_positions_and_the_edge_go_on():
    c = told()
    crop = c.crop(Box((4, 0, 5), (4, 8, 3)))
    assert crop.anatomy.shape == (1, 4, 8, 3)
    torch.testing.assert_close(crop.position_x[0], 2 * (torch.arange(4, 8) + 0.5) / 6 - 1)
    torch.testing.assert_close(crop.position_y[0], 2 * (torch.arange(8) + 0.5) / 7 - 1)
    assert torch.equal(crop.position_z, c.position_z[:, 5:])
    edge = c.anatomy[:, [4, 5, 5, 5]][:, :, [0, 1, 2, 3, 4, 5, 6, 6]][..., 5:]
    assert torch.equal(crop.anatomy, edge)
    picks = c.control[:, :, [4, 5, 5, 5]][:, :, :, [0, 1, 2, 3, 4, 5, 6, 6]][..., 5:]
    assert torch.equal(crop.control, picks)


def test_a_crop_of_a_crop_is_a_crop():
    c = told()
    once = c.crop(Box((2, 3, 4), (2, 3, 3)))
    twice = c.crop(Box((1, 2, 3), (4, 5, 5))).crop(Box((1, 1, 1), (2, 3, 3)))
    assert same(once, twice)


def test_positions_go_on_past_the_end_of_a_crop_as_in_the_whole():
    c = told()
    beyond = c.crop(Box((0, 0, 2), (6, 7, 2))).crop(Box((0, 0, 1), (6, 7, 4)))
    torch.testing.assert_close(beyond.position_z, c.position_z[:, 3:7])


def test_a_batch_keeps_each_in_its_row():
    cs = [told(seed) for seed in range(3)]
    crops = [c.crop(Box((i, 0, 0), (2, 2, 2))) for i, c in enumerate(cs)]
    together = batch(crops)
    assert together.anatomy.shape == (3, 2, 2, 2)
    for i, one in enumerate(crops):
        row = Condition(*(getattr(together, f.name)[i : i + 1] for f in fields(Condition)))
        assert same(row, one)


def test_to_a_device_and_back():
    c = told()
    assert same(c.to("cpu"), c)
    assert c.to("meta").position_x.device.type == "meta"
    assert c.to("meta").anatomy.device.type == "meta"


def test_boxes_of_two_shapes_are_no_batch():
    with pytest.raises(RuntimeError):
        batch([told(), told().crop(Box((0, 0, 0), (2, 2, 2)))])
