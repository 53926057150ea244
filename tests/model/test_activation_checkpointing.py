"""Activations computed again: less kept, the same numbers."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from denovox.core.condition import condition
from denovox.model.activation_checkpointing import recompute
from denovox.model.presets import PRESETS
from denovox.model.unet import Net


def learnt(again):
    """(gradients, answer, bytes kept for the gradients) of one backward."""
    torch.manual_seed(0)
    net = Net(PRESETS["tiny"])
    if again:
        recompute(net)
    x = torch.randn(1, 1, 16, 16, 16)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        said = net(x, torch.ones(1), torch.ones(1), condition((16, 16, 16), (2.0, 2.0, 2.0), 1))
        at_rest = sum(kept.values())
        torch.autograd.backward(said.square().mean())
    return {name: p.grad for name, p in net.named_parameters()}, said, at_rest


def test_gradients_are_the_same_bit_for_bit_and_less_is_kept():
    plain, answer, kept = learnt(False)
    again, same, less = learnt(True)
    assert torch.equal(answer, same)
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert less < 0.6 * kept


def test_names_of_parameters_stay():
    net = Net(PRESETS["tiny"])
    before = list(net.state_dict())
    recompute(net)
    assert list(net.state_dict()) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_peak_memory_falls_on_a_gpu():
    net = Net(PRESETS["base"]).cuda()
    x = torch.randn(1, 1, 64, 64, 64, device="cuda")
    told = condition((64, 64, 64), (2.0, 2.0, 2.0), 1).to("cuda")
    one = torch.ones(1, device="cuda")

    def peak():
        torch.cuda.reset_peak_memory_stats()
        torch.autograd.backward(net(x, one, one, told).square().mean())
        net.zero_grad(set_to_none=True)
        return torch.cuda.max_memory_allocated()

    before = peak()
    recompute(net)
    assert peak() < before
