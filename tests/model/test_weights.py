"""Weights files: what goes in comes out, and what is broken is named."""

import json
import sys

import pytest
import torch

from denovox.core.condition import condition
from denovox.core.errors import InputError
from denovox.model import weights
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
    denoise, config = weights.load(path)
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
            weights.load(path)
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
