"""What a run has learnt goes on whatever layout in memory it was written from."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from torch.nn import Parameter

from denovox.core.errors import InputError
from denovox.train import checkpoint
from denovox.train.config import TrainConfig
from denovox.train.distributed import ALONE, mapped
from denovox.train.run import require_space
from denovox.train.run_state import RunState, adamw, state_bytes

SHAPE, LAST = (6, 5, 3, 3, 3), torch.channels_last_3d


def learning(layout=LAST):
    torch.manual_seed(0)
    weight = Parameter(torch.randn(SHAPE).contiguous(memory_format=layout))
    return RunState({"weight": weight}, TrainConfig(steps=9, lr=0.01, weight_decay=0.1))


def stepped(state, seeds):
    (weight,) = state.parameters.values()
    for seed in seeds:
        grad = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
        weight.grad = grad.contiguous(memory_format=LAST) if weight.stride(1) == 1 else grad
        state.optimizers["optimizer"].step()
        state.ema.update(seed)
        state.step += 1
    return weight.detach().clone()


def test_a_state_that_is_laid_out_otherwise_goes_on_the_same(tmp_path):
    state = learning()
    stepped(state, (1, 2))
    state.save(tmp_path, ALONE)
    written = checkpoint.load(tmp_path)[0]
    for tensor in (*written["parameters"].values(), *written["average"].values()):
        tensor.data = tensor.contiguous()  # as shards write it
    written["optimizer"] = mapped(written["optimizer"], lambda value, _: value.contiguous())
    checkpoint.save(tmp_path / "shards", written)
    again = learning()
    again.resume(tmp_path / "shards")
    assert torch.equal(stepped(again, (3, 4)), stepped(state, (3, 4)))
    assert torch.equal(again.ema.average["weight"], state.ema.average["weight"])


def test_a_state_of_the_optimizer_before_goes_on(tmp_path):
    """denovox 0.1 wrote them with `fused` unset."""
    state = learning()
    stepped(state, (1, 2))
    state.save(tmp_path, ALONE)
    written = checkpoint.load(tmp_path)[0]
    written["optimizer"]["param_groups"][0]["fused"] = None
    checkpoint.save(tmp_path, written)
    again = learning()
    again.resume(tmp_path)
    assert again.optimizers["optimizer"].param_groups[0]["fused"] is True
    assert torch.equal(stepped(again, (3,)), stepped(state, (3,)))


def test_the_optimizer_is_adamw():
    ours = learning()
    plain = learning(torch.contiguous_format)
    plain.optimizers["optimizer"] = torch.optim.AdamW(
        plain.parameters.values(), lr=0.01, weight_decay=0.1, fused=False
    )
    torch.testing.assert_close(
        stepped(ours, range(9)), stepped(plain, range(9)), rtol=1e-5, atol=1e-6
    )
    assert adamw([Parameter(torch.ones(2))], 0.5).param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_size_of_a_saved_state_is_known_before(optimizer, tmp_path):
    weights = {"kernel": Parameter(torch.ones(64, 32, 3, 3, 3)), "bias": Parameter(torch.ones(64))}
    config = TrainConfig(steps=9, optimizer=optimizer)
    state = RunState(weights, config)
    for one in weights.values():
        one.grad = torch.ones_like(one)
    for each in state.optimizers.values():
        each.step()
    state.save(tmp_path, ALONE)
    size = (tmp_path / checkpoint.NAME).stat().st_size
    assert state_bytes(weights.values(), config) == pytest.approx(size, rel=0.03)


def test_a_run_needs_room_for_three_states_less_those_that_are_there(tmp_path, monkeypatch):
    net = torch.nn.Linear(100, 99)  # 9999 parameters, or 160 kB a state
    train = TrainConfig(steps=9)
    free = [0]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[0]))
    run = tmp_path / "new" / "run"
    free[0] = 13 * 4 * 9999
    require_space(train, run, net)
    free[0] -= 1
    with pytest.raises(InputError, match=r"at least 0\.5 MB are needed, and .* has 0\.5 MB free"):
        require_space(train, run, net)
    run.mkdir(parents=True)
    for name in (checkpoint.NAME, checkpoint.BEFORE):
        (run / name).write_bytes(bytes(4 * 4 * 9999))
    free[0] = 5 * 4 * 9999
    require_space(train, run, net)
    free[0] -= 1
    with pytest.raises(InputError, match="at least"):
        require_space(train, run, net)
