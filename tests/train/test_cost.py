"""The cost of training: FLOPs against hand counts, memory against real tensors, and the sums."""

import functools
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from denovox.core.errors import InputError
from denovox.datasets.samples.choice import SampleConfig
from denovox.datasets.samples.control_inputs import ControlConfig
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig
from denovox.train.config import DataConfig, Recipe, TrainConfig
from denovox.train.cost import counting, estimate
from denovox.train.cost.counting import Work
from denovox.train.cost.estimate import Cost
from denovox.train.run_state import RunState

LESION = ControlConfig(kind="lesion")
WORK = Work(2, 16, True, 10, 10, 100, 200, 50, 60, 70)


def recipe(patch=16, control=None, **train):
    settings = {"steps": 3600, "samples": 4, "batch": 2, "precision": "float32"} | train
    return Recipe(
        name="toy",
        data=DataConfig(sample=SampleConfig(patch=patch, control=control)),
        model=ModelConfig(net=PRESETS["tiny"], patch=patch),
        train=TrainConfig(**settings),
        start=None if control is None else "base",
        width=4,
    )


@functools.cache
def counted(patch=16, batch=2, bfloat16=False, gpu=False, control=None, **train):
    return counting.count(recipe(patch, control, **train), batch, patch, bfloat16, gpu)


def metered(net, x):
    """FLOPs (forward, backward)."""
    with counting._Meter(set()) as meter:
        y = net(x)
        forward = meter.flops
        y.sum().backward()
    return forward, meter.flops - forward


def test_flops_of_convolution_and_linear_in_closed_form():
    b, n = 2, 4
    net = nn.Sequential(
        nn.Conv3d(3, 5, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(5 * n**3, 7, bias=False)
    )
    convolution, linear = 2 * 27 * 3 * 5 * n**3 * b, 2 * 5 * n**3 * 7 * b
    # The input needs no gradient.
    expected = (convolution + linear, convolution + 2 * linear)
    assert metered(net, torch.zeros(b, 3, n, n, n)) == expected


def test_flops_of_attention_in_closed_form():
    b, heads, tokens, width = 2, 3, 10, 4
    q = torch.zeros(b, heads, tokens, width, requires_grad=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    product = 2 * b * heads * tokens**2 * width
    # Backward: scores again, and the gradients of values, weights, q, k.
    assert metered(lambda x: attend(x, x, x), q) == (2 * product, 5 * product)


def test_the_peak_is_of_one_moment_and_views_take_nothing():
    known = torch.zeros(9000)
    with counting._Meter({counting._storage(known)}) as meter:
        a = torch.zeros(1000)
        b = a + known.view(9, 1000)[0]
        b.view(10, 100).t()
        del a
        c = b + 1
        del b
    assert meter.peak == 8000
    assert len(c) == 1000


def real_step(again):
    """(convolutions and products by hand, torch's FLOPs of all, both less attention; saved)."""
    of = recipe(checkpointing=again)
    net, data = counting.network(of, fast=True), counting.inputs(of, 2, 16)
    own = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
    products, saved = [], {}

    def weigh(module, inputs, output):
        positions = output.numel() // output.shape[1 if output.dim() == 5 else -1]
        products.append(2 * module.weight.numel() * positions)

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, or its place is reused
        return tensor

    for module in net.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            module.register_forward_hook(weigh)
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = counting.loss_of(net, data, bfloat16=False)
        by_hand = sum(products) + 2 * net.anatomy.paths.numel() * of.model.net.anatomy_channels
        loss.backward()
    flops = counter.get_flop_counts()["Global"]
    plain = sum(n for op, n in flops.items() if "attention" not in str(op))
    return by_hand, plain, sum(size for size, _ in saved.values())


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_a_step_is_counted_as_real_tensors_have_it(again):
    work, (by_hand, plain, saved) = counted(checkpointing=again), real_step(again)
    blocks = sum(PRESETS["tiny"].attention) * (2 * PRESETS["tiny"].res_blocks + 1) + 1
    product = 2 * 2 * (8**3) ** 2 * PRESETS["tiny"].channels[-1]  # of two samples
    assert work.saved == saved
    assert work.forward == by_hand + 2 * blocks * product
    assert work.flops == plain + (9 if again else 7) * blocks * product


def test_computing_again_costs_arithmetic_and_spares_memory():
    plain, again = counted(checkpointing=False), counted(checkpointing=True)
    assert again.forward == plain.forward
    assert plain.backward < again.backward <= plain.backward + plain.forward
    assert again.saved < 0.5 * plain.saved
    assert again.saved < again.peak < plain.peak


@pytest.mark.slow
def test_bfloat16_halves_much_and_a_gpu_keeps_its_norms_in_float32():
    whole, half, on_gpu = counted(), counted(bfloat16=True), counted(bfloat16=True, gpu=True)
    assert half.forward == whole.forward == on_gpu.forward
    assert half.saved < on_gpu.saved < whole.saved


def test_a_large_step_needs_no_memory_and_leaves_the_random_numbers():
    before = torch.random.get_rng_state()
    assert counted(patch=128, batch=64).peak > 50e9
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("control", "optimizer"), [(None, "adamw"), (LESION, "muon")])
def test_what_is_fixed_is_what_a_real_state_holds(control, optimizer):
    of = recipe(control=control, optimizer=optimizer)
    every = dict(counting.network(of, fast=False).named_parameters())
    trained = {name: p for name, p in every.items() if p.requires_grad}
    state = RunState(trained, of.train)
    for parameter in trained.values():
        parameter.grad = torch.ones_like(parameter)
    state.update(1e-3, torch.zeros(()))
    held = [*every.values(), *(p.grad for p in trained.values()), *state.ema.average.values()]
    for each in state.optimizers.values():
        held += [x for values in each.state.values() for x in values.values() if x.dim()]
    work = counted(control=control, optimizer=optimizer)
    assert work.fixed == sum(x.nbytes for x in held)
    assert work.trained == sum(p.numel() for p in trained.values())
    assert (work.trained < work.parameters) is (control is not None)


# ---- seconds and a run --------------------------------------------------------------------------


def test_a_cpu_is_timed_by_a_smaller_step_if_need_be(monkeypatch):
    monkeypatch.setattr(estimate, "count", lambda *more: replace(WORK, batch=6, forward=2 * 10**12))
    ticks = itertools.count()
    of = recipe(control=LESION, samples=6, batch=6, precision="bfloat16", optimizer="muon")
    timed = estimate.cost(of, "cpu", clock=lambda: float(next(ticks)))
    assert timed.source.startswith("a step of 2 x 8^3 timed here")
    assert (timed.batch_s, timed.update_s) == (3 * 8, 1)


def test_a_gpu_is_a_share_of_its_data_sheet(monkeypatch):
    monkeypatch.setattr(estimate, "count", lambda recipe, *more: replace(WORK, bfloat16=more[2]))
    for precision, peak in (("float32", 156e12), ("bfloat16", 312e12)):
        of = estimate.cost(recipe(precision=precision), "a100-80")
        assert of.batch_s == pytest.approx(300 / (estimate.EFFICIENCY * peak))
        assert "never checked" in of.source


def run_of(gpus=1, available=80e9, **train):
    return Cost(recipe(**train), "a100-80", "assumed", available, gpus, WORK, 1.0, 0.5)


def test_steps_samples_and_hours():
    assert run_of().step_s == 2 * 1.0 + 0.5
    assert run_of(gpus=3).step_s == 1.5  # one of them has two samples
    assert estimate.table(run_of())[-3:] == [
        "samples/s       1.60",
        "seconds a step  2.50 (4 samples on each device)",
        "hours           2.50 for 3600 steps",
    ]
    assert run_of(steps=0, minutes=10).steps == 240
    assert run_of(steps=100, minutes=10).steps == 100
    assert run_of(steps=1000, minutes=10).steps == 240


def test_a_batch_is_each_devices_share(monkeypatch):
    monkeypatch.setattr(estimate, "count", lambda recipe, batch, *more: replace(WORK, batch=batch))
    given = ((0, 1), (0, 2), (0, 3), (9, 1), (2, 2))
    batches = [estimate.work(recipe(samples=7, batch=b), gpu=True, gpus=n).batch for b, n in given]
    assert batches == [7, 4, 3, 7, 2]


def test_shards_share_what_is_fixed():
    plain, shared = (run_of(gpus=2, shard=shard).memory(WORK) for shard in (False, True))
    assert plain - shared == WORK.fixed / 2


def test_errors():
    with pytest.raises(InputError, match="5 GPUs cannot share 4 samples"):
        estimate.cost(recipe(), "h200", gpus=5)
    with pytest.raises(InputError, match="multiple of 2"):
        estimate.cost(recipe(patch=15), "h200")
    with pytest.raises(InputError, match="a single process"):
        estimate.cost(recipe(), "cpu", gpus=2)


def proportional(recipe, batch, patch, *more):
    """Activations of 10 kB a voxel, of 3 where they are computed again."""
    peak = batch * patch**3 * (3000 if recipe.train.checkpointing else 10000)
    return replace(WORK, batch=batch, patch=patch, peak=peak)


def changed(plan, words):
    settings = dict(word.split(" = ") for word in words.split(" and "))
    again = "train.checkpointing" in settings
    batch = int(settings.get("train.batch", plan.train.batch))
    edge = int(settings.get("data.sample.patch", plan.data.sample.patch))
    return recipe(edge, samples=8, batch=batch, checkpointing=again)


def test_what_is_advised_fits(monkeypatch):
    monkeypatch.setattr(estimate, "count", proportional)
    plan, seen = recipe(patch=64, samples=8, batch=8), []
    for memory in (15e9, 3e9, 1.5e9):
        monkeypatch.setitem(estimate.GPUS, "h200", (1.0, 1.0, memory))
        ways = estimate.advice(estimate.cost(plan, "h200"))
        assert estimate.summary(plan, "h200")[-1].endswith("Set " + "; or ".join(ways))
        for words in ways:
            smaller = estimate.cost(changed(plan, words), "h200")
            assert smaller.memory(smaller.work) <= memory, words
        seen.append(ways)
    assert seen[0] == ["train.batch = 4", "train.checkpointing = true"]
    assert "data.sample.patch = 32" in seen[2][0]
    monkeypatch.setitem(estimate.GPUS, "h200", (1.0, 1.0, 1e6))
    assert "a smaller network" in estimate.summary(plan, "h200")[-1]
