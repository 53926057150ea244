"""The network's entry: stem, conditions, what it is told and how."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from denovox.core.condition import condition
from denovox.core.labels import ID, NAMES
from denovox.model.presets import PRESETS
from denovox.model.unet import (
    AnatomyEntry,
    Net,
    NetConfig,
    PositionEntry,
    depth_to_space,
    detail,
    space_to_depth,
)
from denovox.model.weights import BUNDLED, describe, locate


def awake(config: NetConfig) -> Net:
    """A network whose last layer is not zero, as it is at birth."""
    torch.manual_seed(0)
    net = Net(config).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return net


def test_space_to_depth_is_exact_and_takes_each_block_of_eight():
    x = torch.arange(2 * 4 * 6 * 2, dtype=torch.float32).view(1, 2, 4, 6, 2)
    deep = space_to_depth(x)
    assert deep.shape == (1, 16, 2, 3, 1)
    assert torch.equal(deep[0, :8, 1, 2, 0], x[0, 0, 2:4, 4:6, 0:2].reshape(-1))
    assert torch.equal(depth_to_space(deep), x)


def test_detail_of_a_ramp_is_nothing_inside_and_of_noise_is_noise():
    ramp = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(1, 1, 8, 8, 8)
    assert detail(ramp, torch.tensor([1.0]))[..., 1:-1, :, :].abs().max() < 1e-6
    noise = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    # x minus the mean of 27, itself among them: variance 1 - 1/27.
    seen = detail(3.0 * noise, torch.tensor([3.0]))[..., 1:-1, 1:-1, 1:-1]
    assert float(seen.var()) == pytest.approx(1 - 1 / 27, rel=0.02)


def test_a_class_is_embedded_as_the_sum_along_its_path():
    entry = AnatomyEntry(5)
    assert not entry.table.any()  # a class never seen in training is as its parent
    table = torch.nn.init.normal_(entry.table).detach()
    labels = torch.tensor([[[[ID["vertebrae_L1"], ID["bone"], 0]]]], dtype=torch.uint8)
    fine, coarse, unknown = entry(labels).detach()[0, :, 0, 0].T
    bone = table[ID["bone"]] + table[ID["body"]]
    torch.testing.assert_close(coarse, bone)
    torch.testing.assert_close(fine, bone + table[ID["vertebrae"]] + table[ID["vertebrae_L1"]])
    torch.testing.assert_close(unknown, table[0])
    assert len(table) == len(NAMES)


def test_position_map_equals_the_written_out_sinusoids():
    torch.manual_seed(1)
    entry = PositionEntry(4, 3).double()
    axes = tuple(torch.linspace(-1, 1, n, dtype=torch.float64)[None] for n in (3, 4, 5))
    got = entry(axes)[0]
    grid = torch.stack(torch.meshgrid(*(a[0] for a in axes), indexing="ij"), -1)
    expected = torch.zeros(3, 4, 5, 4, dtype=torch.float64)
    for axis, linear in enumerate(entry.axes):
        u = grid[..., axis]
        features = [u, *(torch.sin(2**k * np.pi * u) for k in range(3))]
        features += [torch.cos(2**k * np.pi * u) for k in range(3)]
        expected += torch.stack(features, -1) @ linear.weight.T + linear.bias
    # The octaves are kept in float32.
    torch.testing.assert_close(got, expected.permute(3, 0, 1, 2).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stem", ["plain", "unshuffle2"])
@pytest.mark.parametrize("with_detail", [False, True])
def test_a_new_network_answers_zero_and_the_right_shape(stem, with_detail):
    config = PRESETS["tiny"].model_copy(update={"stem": stem, "detail": with_detail})
    torch.manual_seed(0)
    net = Net(config)
    x = torch.randn(1, 1, 8, 12, 16)
    out = net(x, torch.ones(1), torch.tensor([500.0]), condition((8, 12, 16), (1, 1, 1)))
    assert out.shape == x.shape
    assert not out.any()


@pytest.mark.parametrize(
    "changed",
    [
        {"region_id": 2},
        {"spacing_mm": (1.0, 1.0, 5.0)},
        {"anatomy": torch.full((8, 8, 8), 5, dtype=torch.uint8)},
    ],
)
def test_every_condition_is_heard(changed):
    net = awake(PRESETS["tiny"])
    x = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    told = {"shape": (8, 8, 8), "spacing_mm": (1.0, 1.0, 1.0), "region_id": 1}
    ask = [condition(**told), condition(**{**told, **changed})]
    a, b = (net(x, torch.ones(1), torch.tensor([300.0]), c) for c in ask)
    assert (a - b).abs().max() > 1e-4


def test_position_is_heard():
    from denovox.core.box import Box

    net = awake(PRESETS["tiny"])
    x = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = condition((32, 32, 32), (1.0, 1.0, 1.0))
    places = [whole.crop(Box(start, (8, 8, 8))) for start in ((0, 0, 0), (0, 0, 24))]
    a, b = (net(x, torch.ones(1), torch.tensor([300.0]), c) for c in places)
    assert (a - b).abs().max() > 1e-4


def test_presets_keep_their_promises():
    torch.manual_seed(0)
    base = sum(p.numel() for p in Net(PRESETS["base"]).parameters())
    assert base <= 12e6
    assert PRESETS["paper"].channels[0] == 32  # Method 1
    assert PRESETS["paper"].stem == "plain"
    assert not PRESETS["paper"].narrow
    # Attention at 16^3 of a patch of 128^3, and only there.
    sizes = [128 // 2**level for level, on in enumerate(PRESETS["paper"].attention) if on]
    assert sizes == [16]


def test_levels_must_agree():
    with pytest.raises(ValidationError, match="same number of levels"):
        NetConfig(channels=(8, 16), attention=(True,))


def two_places(net: Net) -> float:
    """How much an answer changes with where the same voxels lie."""
    from denovox.core.box import Box

    x = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = condition((32, 32, 32), (1.0, 1.0, 1.0))
    places = [whole.crop(Box(start, (8, 8, 8))) for start in ((0, 0, 0), (0, 0, 24))]
    a, b = (net(x, torch.ones(1), torch.tensor([300.0]), c) for c in places)
    return float((a - b).detach().abs().max())


def test_position_can_be_left_out():
    net = awake(PRESETS["tiny"].model_copy(update={"position": "none"}))
    assert two_places(net) == 0
    assert not [name for name, _ in net.named_parameters() if name.startswith("position")]


def test_coordinates_alone_are_one_linear_layer():
    net = awake(PRESETS["tiny"].model_copy(update={"position": "coordinates"}))
    assert two_places(net) > 1e-4
    axes = tuple(torch.linspace(-1, 1, n)[None] for n in (3, 4, 5))
    got = net.position(axes)[0].detach()
    grid = torch.stack(torch.meshgrid(*(a[0] for a in axes), indexing="ij"), -1)
    weight = torch.cat([linear.weight for linear in net.position.axes], 1).detach()
    bias = sum(linear.bias.detach() for linear in net.position.axes)
    torch.testing.assert_close(got, (grid @ weight.T + bias).permute(3, 0, 1, 2))


def test_a_configuration_from_before_position_and_narrow_means_the_same():
    told = PRESETS["small"].model_dump()
    del told["position"], told["narrow"]
    assert NetConfig(**told) == PRESETS["small"]
    assert PRESETS["small"].position == "embedding"
    assert not PRESETS["small"].narrow


def test_the_bundled_weights_are_of_the_small_preset():
    assert describe(locate(BUNDLED))[0].net == PRESETS["small"]
