"""Weights files: what goes in comes out, and what is broken is named."""

import json
import sys

import pytest
import torch

from denovox.core.condition import condition
from denovox.core.errors import InputError
from denovox.model import loading, weights
from denovox.model.controlnet import Control, ControlConfig
from denovox.model.expert import joined
from denovox.model.presets import PRESETS

CONFIG = weights.ModelConfig(net=PRESETS["tiny"], prediction="v")


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(3)
    net = CONFIG.build()
    state = {name: torch.randn_like(p) * 0.1 for name, p in net.named_parameters()}
    path = tmp_path / "mine.safetensors"
    weights.save(path, state, CONFIG, {"text": "a card", "sources": ["here"]})
    return path, state


def test_config_and_card_travel_inside(saved):
    path, _ = saved
    config, card, digest = weights.describe(path)
    assert config == CONFIG
    assert card == {"text": "a card", "sources": ["here"]}
    assert len(digest) == 64


def test_a_loaded_denoiser_computes_with_the_saved_numbers(saved):
    path, state = saved
    denoise, config = loading.load(path)
    net = CONFIG.build()
    net.load_state_dict({name: value.half().float() for name, value in state.items()})
    from denovox.model.denoiser import denoiser

    x = torch.randn(1, 1, 8, 8, 8)
    told = condition((8, 8, 8), (1.0, 1.0, 1.0), 2)
    with torch.no_grad():
        expected = denoiser(net.eval(), config.noise_schedule, "v")(x, 0.7, told)
        got = denoise(x, 0.7, told)
    # Another memory layout sums in another order; the answers are of size 1.
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert (got - x).abs().max() > 1e-2


def test_an_expert_answers_below_its_noise_level_alone(saved, tmp_path):
    path, state = saved
    torch.manual_seed(4)
    low = {name: torch.randn_like(p) * 0.1 for name, p in state.items()}
    config = CONFIG.model_copy(update={"expert_below": 0.4})
    both, alone = tmp_path / "both" / "both.safetensors", tmp_path / "low" / "low.safetensors"
    weights.save(both, joined(state, low), config, {})
    weights.save(alone, low, CONFIG, {})
    x, told = torch.randn(1, 1, 8, 8, 8), condition((8, 8, 8), (1.0, 1.0, 1.0), 2)
    answers = [loading.load(each)[0] for each in (both, path, alone)]
    for sigma, same in ((0.3999, 2), (0.4, 1), (7.0, 1)):
        got, *others = (answer(x, sigma, told) for answer in answers)
        assert torch.equal(got, others[same - 1])
        assert not torch.allclose(got, others[2 - same])
    assert weights.state_for(both, config).keys() == state.keys()
    for expert, want in ((False, path), (True, alone)):
        found = weights.state_for(both, config, expert)
        assert all(torch.equal(found[n], v) for n, v in weights.state_for(want, CONFIG).items())


def test_a_control_is_of_the_network_for_high_noise(saved, tmp_path):
    path, state = saved
    low = {name: torch.zeros_like(p) for name, p in state.items()}
    both = tmp_path / "both" / "both.safetensors"
    config = CONFIG.model_copy(update={"expert_below": 0.4})
    weights.save(both, joined(state, low), config, {})
    made = ControlConfig(kind="lesion", base=weights.sha256(both), width=8)
    control = tmp_path / "control" / "control.safetensors"
    base = CONFIG.build()
    base.load_state_dict(weights.state_for(both, config))
    weights.save(control, dict(Control(base, made).named_parameters()), made, {})
    x, told = torch.randn(1, 1, 8, 8, 8), condition((8, 8, 8), (1.0, 1.0, 1.0), 2)
    # A new control changes nothing: its outputs are zero until it is trained.
    steered, plain = loading.load(both, control=control)[0], loading.load(path)[0]
    torch.testing.assert_close(steered(x, 0.1, told), plain(x, 0.1, told), rtol=1e-4, atol=1e-4)


def test_half_precision_on_disk(saved):
    path, state = saved
    numbers = sum(p.numel() for p in state.values())
    assert path.stat().st_size < 2 * numbers + 40_000


def test_a_folder_with_one_file_is_that_file(saved, tmp_path):
    path, _ = saved
    assert weights.locate(tmp_path) == path
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="found 2"):
        weights.locate(tmp_path)


def test_failure_while_writing_leaves_the_old_file(saved, monkeypatch):
    path, state = saved
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(type(path), "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        weights.save(path, state, CONFIG, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_is_not_weights_is_named(tmp_path):
    from safetensors.torch import save_file

    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"\x00" * 20)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    newer = tmp_path / "newer.safetensors"
    told = json.loads(CONFIG.model_dump_json()) | {"from_the_future": 1}
    save_file({"a": torch.zeros(1)}, newer, {"denovox": json.dumps(told)})
    for path, says in (
        (torn, "not a readable safetensors"),
        (foreign, "have no denovox configuration"),
        (newer, "this version cannot read its configuration"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            loading.load(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="neither a file nor bundled"):
        weights.locate("nowhere")


@pytest.mark.slow
def test_the_sampler_never_hears_of_the_model():
    import subprocess

    code = "import sys, denovox.tasks; print('denovox.model' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
