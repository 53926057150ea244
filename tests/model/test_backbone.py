"""Our U-Net and control encoder against MONAI's: names, initial weights, answers, gradients."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets.controlnet import ControlNet
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from denovox.core.condition import batch, condition
from denovox.core.schedule import Schedule
from denovox.model.backbone import ControlEncoder, UNet
from denovox.model.blocks import Shape, Upsample
from denovox.model.cpu_inference import prepare, upsampling_kernel
from denovox.model.denoiser import denoiser
from denovox.model.presets import PRESETS
from denovox.model.unet import Net

LAST = torch.channels_last_3d
SHAPES = {
    "tiny": Shape((8, 16), (False, True), 1, 4, 8),
    "base": Shape((16, 32, 64, 96), (False, False, False, True), 1, 16, 32),
    "deep": Shape((8, 8, 16), (True, False, True), 2, 4, 4),
}


def options(shape):
    return {
        "spatial_dims": 3,
        "in_channels": 5,
        "num_res_blocks": shape.blocks,
        "channels": shape.channels,
        "attention_levels": shape.attention,
        "norm_num_groups": shape.groups,
        "num_head_channels": shape.head,
        "num_class_embeds": 1,
        "use_flash_attention": True,
    }


class Whole(nn.Module):
    """What holds for the whole box, in place of the class embedding."""

    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(3, width)

    def forward(self, whole):
        return self.linear(whole)


def pair(shape, control=False):
    """(ours, MONAI's), built from the same seed, then moved away from their zeros alike."""
    nets = []
    for ours in (True, False):
        torch.manual_seed(7)
        if ours:
            net = ControlEncoder(5, 1, 6, shape) if control else UNet(5, 2, shape)
        elif control:
            given = {
                "conditioning_embedding_in_channels": 1,
                "conditioning_embedding_num_channels": (6,),
            }
            net = ControlNet(**options(shape), **given)
        else:
            net = DiffusionModelUNet(out_channels=2, **options(shape))
        net.add_module("class_embedding", Whole(shape.width))
        nets.append(net)
    return nets


def wake(*nets):
    for net in nets:
        torch.manual_seed(8)
        for parameter in net.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)


def inputs(edge=16):
    torch.manual_seed(9)
    x = torch.randn(2, 5, edge, edge, edge).contiguous(memory_format=LAST)
    return x, torch.tensor([3.0, 900.5]), torch.randn(2, 3)


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("name", list(SHAPES))
def test_names_order_and_initial_weights_are_monais(name, control):
    ours, theirs = (net.state_dict() for net in pair(SHAPES[name], control))
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert any(value.any() for value in ours.values())


def same_gradients(ours, theirs):
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
        assert a.grad.abs().max() > 0, name


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("name", list(SHAPES))
def test_answers_and_gradients_are_monais_bit_for_bit(name, bfloat16):
    ours, theirs = pair(SHAPES[name])
    wake(ours, theirs)
    # Two planes at the deepest level would do, but not for oneDNN in bfloat16 (cpu_kernels.py).
    x, t, whole = inputs({"tiny": 16, "deep": 16, "base": 32}[name])
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        a, b = ours(x, t, whole), theirs(x, t, class_labels=whole)
    assert torch.equal(a, b)
    for answer in (a, b):
        torch.autograd.backward(answer.float().square().mean())
    same_gradients(ours, theirs)


@pytest.mark.parametrize("name", list(SHAPES))
def test_a_controlled_answer_and_its_gradients_are_monais_bit_for_bit(name):
    nets, controls = pair(SHAPES[name]), pair(SHAPES[name], control=True)
    wake(*nets)
    wake(*controls)
    x, t, whole = inputs(8 if name == "deep" else 16)
    control = (torch.rand(2, 1, *x.shape[2:]) > 0.5).float().contiguous(memory_format=LAST)
    a = nets[0](x, t, whole, controls[0](x, t, whole, control))
    down, middle = controls[1](x, t, control, class_labels=whole)
    b = nets[1](
        x,
        t,
        class_labels=whole,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    )
    assert torch.equal(a, b)
    for answer in (a, b):
        torch.autograd.backward(answer.square().mean())
    same_gradients(*controls)


def test_a_head_must_fit():
    with pytest.raises(ValueError, match="8 channels cannot be split into heads of 3"):
        UNet(5, 2, Shape((8, 8), (False, True), 1, 4, 3))


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 5)])
def test_repetition_and_a_convolution_are_one_transposed_convolution(size):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 3, *size), torch.randn(4, 3, 3, 3, 3), torch.randn(4)
    x, weight, bias = x.double(), weight.double(), bias.double()
    expected = F.conv3d(F.interpolate(x, scale_factor=2.0), weight, bias, padding=1)
    got = F.conv_transpose3d(x, upsampling_kernel(weight), bias, 2, 1)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def narrow(shape):
    return replace(shape, narrow=True)


def test_upsampling_repeats_then_convolves_to_as_many_channels_as_asked():
    torch.manual_seed(0)
    layer, x = Upsample(6, 4), torch.randn(2, 6, 3, 2, 5)
    large = x.numpy()
    for axis in (2, 3, 4):
        large = np.repeat(large, 2, axis)
    conv = layer.postconv.conv
    expected = F.conv3d(torch.from_numpy(large), conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("name", list(SHAPES))
def test_a_narrow_network_differs_from_monais_in_its_decoder_alone(name, control):
    ours, _ = pair(narrow(SHAPES[name]), control)
    _, theirs = pair(SHAPES[name], control)
    a, b = ours.state_dict(), theirs.state_dict()
    own = ("up_blocks", "class_embedding")  # the latter is drawn after the decoder
    shared = [key for key in b if not key.startswith(own)]
    assert [key for key in a if not key.startswith(own)] == shared
    assert all(torch.equal(a[key], b[key]) for key in shared)
    assert list(a) == list(b)
    channels = SHAPES[name].channels
    found = [layer.postconv.conv for layer in ours.modules() if isinstance(layer, Upsample)]
    above = [(conv.in_channels, conv.out_channels) for conv in found]
    assert above == ([] if control else list(zip(channels[:0:-1], channels[-2::-1], strict=True)))


@pytest.mark.parametrize("name", list(SHAPES))
def test_a_narrow_network_answers_and_every_parameter_learns(name):
    net, _ = pair(narrow(SHAPES[name]))
    control, _ = pair(narrow(SHAPES[name]), control=True)
    wake(net, control)
    x, t, whole = inputs()
    answer = net(x, t, whole, control(x, t, whole, torch.rand(2, 1, *x.shape[2:])))
    assert answer.shape == (2, 2, *x.shape[2:])
    answer.square().mean().backward()
    for part in (net, control):
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())


def flops(shape):
    with FlopCounterMode(display=False) as counter:
        pair(shape)[0](*inputs(32))
    return counter.get_total_flops()


def test_narrow_upsampling_costs_less():
    assert flops(narrow(SHAPES["base"])) < 0.8 * flops(SHAPES["base"])


def prepared(bfloat16, name):
    """(a preset, the same prepared)."""
    torch.manual_seed(0)
    net = Net(PRESETS[name]).eval().requires_grad_(False)
    wake(net)
    ready = copy.deepcopy(net)
    prepare(ready, bfloat16)
    return net, ready


def answers(nets, given, boxes=2):
    x = torch.randn(boxes, 1, 16, 16, 24, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return [
            net(x, torch.full((boxes,), 0.5), torch.full((boxes,), 300.0), given) for net in nets
        ]


def of_boxes(*regions):
    return batch([condition((16, 16, 24), (1.0, 1.0, 2.0), region) for region in regions])


@pytest.mark.parametrize("name", ["small", "base"])
@pytest.mark.parametrize("regions", [(1,), (2, 2), (1, 2)])
def test_prepared_in_float32_the_answer_differs_by_rounding(regions, name):
    plain, ready = answers(prepared(False, name), of_boxes(*regions), len(regions))
    assert ready.dtype == torch.float32
    assert float((ready - plain).std() / plain.std()) < 1e-5
    assert float((ready - plain).abs().max() / plain.std()) < 1e-4


@pytest.mark.parametrize("name", ["small", "base"])
def test_prepared_in_bfloat16_it_is_as_near_as_autocast_is(name):
    net, ready = prepared(True, name)
    given = of_boxes(2, 2)
    exact, quick = answers([net, ready], given)
    with torch.autocast("cpu", torch.bfloat16):
        (cast,) = answers([net], given)
    assert quick.dtype == torch.bfloat16
    assert float((quick.float() - exact).std()) < 1.1 * float((cast.float() - exact).std())


def test_prepared_a_denoiser_returns_the_type_that_it_was_given():
    _, ready = prepared(True, "base")
    x = torch.randn(1, 1, 16, 16, 24)
    assert denoiser(ready, Schedule(), "v")(x, 0.5, of_boxes(1)).dtype == torch.float32
