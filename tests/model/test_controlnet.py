"""A control: nothing at birth, steers when tuned, belongs to one base."""

from dataclasses import replace

import pytest
import torch

from denovox.core.condition import condition
from denovox.core.errors import InputError
from denovox.model import loading, weights
from denovox.model.controlnet import Control, ControlConfig, Controlled
from denovox.model.denoiser import denoiser
from denovox.model.presets import PRESETS
from denovox.model.unet import Net

SHAPE = (8, 8, 8)
TINY = PRESETS["tiny"]
CONFIG = weights.ModelConfig(net=TINY, prediction="v")


def base(seed: int = 1, stem: str = "plain") -> Net:
    torch.manual_seed(seed)
    net = Net(TINY.model_copy(update={"stem": stem, "detail": True}))
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return net.eval().requires_grad_(False)


def told(control: torch.Tensor | None):
    return replace(condition(SHAPE, (1.0, 1.0, 2.0), 2), control=control)


def mask(seed: int = 0) -> torch.Tensor:
    return (torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(seed)) > 0.5).float()


@pytest.mark.parametrize("stem", ["plain", "unshuffle2"])
def test_at_birth_the_answer_is_the_bases_bit_for_bit(stem):
    net = base(stem=stem)
    control = Control(net, ControlConfig(kind="lesion", base="x"))
    x, sigma, t = torch.randn(1, 1, *SHAPE), torch.tensor([0.7]), torch.tensor([300.0])
    with torch.no_grad():
        alone = net(x, sigma, t, told(None))
        steered = Controlled(net, control)(x, sigma, t, told(mask()))
    assert torch.equal(alone, steered)
    assert alone.abs().max() > 0.1


def test_at_birth_what_goes_down_is_the_bases_own():
    net = base()
    control = Control(net, ControlConfig(kind="lesion", base="x")).controlnet
    for name, value in net.unet.state_dict().items():
        if name.startswith(("conv_in", "time_embed", "class_embedding", "down_", "middle")):
            assert torch.equal(control.state_dict()[name], value), name


@pytest.mark.parametrize("stem", ["plain", "unshuffle2"])
def test_once_tuned_it_steers_by_what_it_is_told_and_only_then(stem):
    net = base(stem=stem)
    whole = Controlled(net, Control(net, ControlConfig(kind="lesion", base="x")))
    torch.manual_seed(2)
    for parameter in whole.control.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    x, sigma, t = torch.randn(1, 1, *SHAPE), torch.tensor([0.7]), torch.tensor([300.0])
    with torch.no_grad():
        one, other = (whole(x, sigma, t, told(mask(seed))) for seed in (0, 1))
        alone = whole(x, sigma, t, told(None))
        expected = net(x, sigma, t, told(None))
    assert (one - other).abs().max() > 1e-3
    assert (one - alone).abs().max() > 1e-3
    assert torch.equal(alone, expected)


@pytest.fixture
def files(tmp_path):
    """(base, control) on disk, the control with numbers of its own."""
    net = base()
    path = tmp_path / "mine.safetensors"
    config = CONFIG.model_copy(update={"net": net.config})
    weights.save(path, dict(net.named_parameters()), config, {"text": "a base"})
    steer = Control(net, ControlConfig(kind="lesion", base=weights.sha256(path), width=4))
    state = {n: torch.randn_like(p) * 0.1 for n, p in steer.named_parameters()}
    control = tmp_path / "steer.safetensors"
    weights.save(control, state, steer.config, {"text": "a control", "base": "mine"})
    return path, control


def test_a_control_on_disk_computes_with_its_numbers(files):
    path, control = files
    denoise, config = loading.load(path, control=control)
    net = weights.ModelConfig.build(config)
    net.load_state_dict(weights.state_for(path, config))
    steer = Control(net, weights.describe_control(control)[0])
    from safetensors.torch import load_file

    steer.load_state_dict({n: v.float() for n, v in load_file(control).items()})
    x = torch.randn(1, 1, *SHAPE)
    with torch.no_grad():
        whole = Controlled(net, steer).eval()
        expected = denoiser(whole, config.noise_schedule, "v")(x, 0.7, told(mask()))
        got = denoise(x, 0.7, told(mask()))
        plain = loading.load(path)[0](x, 0.7, told(None))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert (got - plain).abs().max() > 1e-2


def test_another_base_is_refused_by_its_hash(files, tmp_path):
    path, control = files
    other = tmp_path / "other.safetensors"
    config = weights.describe(path)[0]
    weights.save(other, dict(base(5).named_parameters()), config, {})
    with pytest.raises(
        InputError, match=r"belongs to a base with sha256 .* \(mine\), not to other"
    ):
        loading.load(other, control=control)


def test_what_is_what_is_told_from_the_file(files):
    path, control = files
    assert weights.is_control(control)
    assert not weights.is_control(path)
    config, card, digest = weights.describe_control(control)
    assert (config.kind, config.width, config.base) == ("lesion", 4, weights.sha256(path))
    assert card["text"] == "a control"
    assert digest == weights.sha256(control)
    with pytest.raises(InputError, match="is a control, not a base"):
        weights.describe(control)
    with pytest.raises(InputError, match="not the weights of a control"):
        weights.describe_control(path)


def test_a_control_finds_its_base_beside_it_and_names_what_is_missing(files, tmp_path):
    path, control = files
    assert weights.resolve([control]) == (path, control)
    assert weights.resolve([control, path]) == weights.resolve([path, control]) == (path, control)
    assert weights.resolve([path]) == (path, None)
    assert weights.resolve([]) == (weights.locate("base"), None)
    for two in ([path, path], [control, control]):
        with pytest.raises(InputError, match="one base, one control, or one of each"):
            weights.resolve(two)
    away = tmp_path / "away"
    away.mkdir()
    alone = control.rename(away / control.name)
    with pytest.raises(InputError, match=r"\(mine, sha256 .*neither bundled nor in its folder"):
        weights.resolve([alone])
