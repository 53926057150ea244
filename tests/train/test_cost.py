"""The cost of training: FLOPs against hand counts, memory against real tensors, and the sums."""

import functools
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from denovox.core.condition import batch, condition
from denovox.core.errors import InputError
from denovox.datasets.samples.choice import SampleConfig
from denovox.datasets.samples.control_inputs import ControlConfig
from denovox.model.activation_checkpointing import recompute
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig
from denovox.train import cost, hardware
from denovox.train.config import DataConfig, Recipe, TrainConfig
from denovox.train.operations import Op, Recorder
from denovox.train.trace import Work, trace


def recipe(patch=16, control=None, **train):
    told = {"steps": 3600, "samples": 4, "batch": 2, "precision": "float32"} | train
    return Recipe(
        name="toy",
        data=DataConfig(sample=SampleConfig(patch=patch, control=control)),
        model=ModelConfig(net=PRESETS["tiny"], patch=patch),
        train=TrainConfig(**told),
        start=None if control is None else "base",
        width=4,
    )


def counted(net, x, recorder):
    with recorder:
        said = net(x)
        recorder.forward = False
        said.sum().backward()
    sums = [sum(op.flops for op in recorder.ops if op.forward is f) for f in (True, False)]
    return tuple(sums)


# ---- operations ---------------------------------------------------------------------------------


def test_flops_of_convolution_and_linear_by_hand():
    b, n = 2, 4
    net = nn.Sequential(
        nn.Conv3d(3, 5, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(5 * n**3, 7, bias=False)
    )
    forward, backward = counted(net, torch.zeros(b, 3, n, n, n), Recorder(set()))
    convolution = 2 * 27 * 3 * 5 * n**3 * b
    linear = 2 * 5 * n**3 * 7 * b
    assert forward == convolution + linear
    assert backward == convolution + 2 * linear  # nobody asks for the gradient of the input


def test_flops_of_attention_by_hand():
    b, heads, tokens, width = 2, 3, 10, 4
    q = torch.zeros(b, heads, tokens, width, requires_grad=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    forward, backward = counted(lambda x: attend(x, x, x), q, Recorder(set()))
    product = 2 * b * heads * tokens**2 * width
    assert forward == 2 * product  # q k, and what it weighs
    assert backward == 5 * product  # scores again; and the gradients of values, weights, q, k


def test_the_peak_is_what_lives_at_one_moment_and_gradients_are_left_out():
    recorder = Recorder(set())
    with recorder:
        a = torch.zeros(1000)
        b = a + 1
        b.view(10, 100).t()  # a view takes no memory
        del a
        c = b + 1
        del b
        kept = torch.zeros(500)
    assert recorder.peak(set()) == 8000
    assert recorder.peak({c.untyped_storage()._cdata}) == 8000  # before c was
    with recorder:
        more = [torch.zeros(1000) for _ in range(2)]
    assert recorder.peak(set()) == 4000 + 2000 + 8000
    assert recorder.peak({more[0].untyped_storage()._cdata}) == 10000
    assert len(kept) == 500
    assert [op.name for op in recorder.ops] == ["zeros", "add", "add", "zeros", "zeros", "zeros"]


# ---- a network ----------------------------------------------------------------------------------


def test_flops_of_the_network_by_its_modules():
    net = PRESETS["tiny"]
    model = ModelConfig(net=net).build()
    found = []

    def weigh(module, inputs, output):
        positions = output.numel() // output.shape[1 if output.dim() == 5 else -1]
        found.append(2 * module.weight.numel() * positions)

    for module in model.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            module.register_forward_hook(weigh)
    told = batch([condition((16,) * 3, (1.0, 1.0, 1.0), 1)] * 2)
    model(torch.zeros(2, 1, 16, 16, 16), torch.ones(2), torch.ones(2), told)
    blocks = sum(type(m).__name__ == "SABlock" for m in model.modules())
    attention = blocks * 4 * 2 * (8**3) ** 2 * net.channels[-1]  # two products, of two samples
    table = 2 * model.anatomy.paths.numel() * net.anatomy_channels
    assert blocks > 0
    assert trace(recipe(), 2, 16).flops(forward=True) == sum(found) + attention + table


def saved_for_real(again):
    model = ModelConfig(net=PRESETS["tiny"]).build()
    if again:
        recompute(model)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that it stays there
        return tensor

    told = batch([condition((16,) * 3, (1.0, 1.0, 1.0), 1)] * 2)
    x = torch.zeros(2, 1, 16, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        (model(x, torch.ones(2), torch.ones(2), told) - x).abs().mean()
    return sum(size for size, _ in saved.values())


@pytest.mark.parametrize("again", [False, True])
def test_what_is_kept_for_backward_is_what_real_tensors_keep(again):
    assert trace(recipe(), 2, 16, checkpointing=again).saved == saved_for_real(again)


def test_computing_again_costs_arithmetic_and_spares_memory():
    plain, again = (trace(recipe(), 2, 16, checkpointing=c) for c in (False, True))
    assert again.flops(True) == plain.flops(True)
    assert plain.flops(False) < again.flops(False) <= plain.flops(False) + plain.flops(True)
    assert again.saved < 0.5 * plain.saved
    assert again.peak < plain.peak
    assert again.saved < again.peak


def test_work_grows_with_the_batch_alone():
    two, three, four = (trace(recipe(), b, 16) for b in (2, 3, 4))
    for of in (Work.flops, lambda work, forward: work.saved):
        step = of(three, True) - of(two, True)
        assert step > 0
        assert of(four, True) - of(three, True) == step
    assert two.fixed == four.fixed == 20 * two.parameters
    assert two.trained == two.parameters


def test_bfloat16_halves_much_and_a_gpu_keeps_its_norms_in_float32():
    whole, half = trace(recipe(), 2, 16), trace(recipe(), 2, 16, bfloat16=True)
    on_gpu = trace(recipe(), 2, 16, bfloat16=True, gpu=True)
    assert half.flops(True) == whole.flops(True) == on_gpu.flops(True)
    assert half.saved < on_gpu.saved < whole.saved


def test_of_a_control_the_base_learns_nothing():
    work = trace(recipe(control=ControlConfig(kind="lesion")), 1, 16)
    base = trace(recipe(), 1, 16)
    assert work.parameters == base.parameters + work.trained
    assert work.fixed == 4 * base.parameters + 20 * work.trained
    assert work.flops(True) > base.flops(True)


def test_a_gpus_network_needs_no_memory_and_leaves_the_random_numbers():
    before = torch.random.get_rng_state()
    work = trace(recipe(), 64, 128)  # a hundred gigabytes
    assert work.peak > 50e9
    assert torch.equal(torch.random.get_rng_state(), before)


# ---- hardware -----------------------------------------------------------------------------------


def op(name="convolution", flops=0, moved=0, kind="torch.float32"):
    return Op(name, True, int(flops), int(moved), (name, kind), print, (), ())


def work_of(*ops, trained=0):
    return Work(1, 16, False, trained, trained, ops, 0, 0)


def test_a_gpu_takes_the_slower_of_arithmetic_and_bytes():
    sheet = hardware.Sheet(1e12, 2e12, 4e12, 1e11, 1e9)
    share, reach = hardware.ARITHMETIC, hardware.BANDWIDTH
    for given, seconds in (
        (op(flops=2e12, moved=1), 1 / share),  # a float32 convolution, rounded to TF32
        (op("mm", flops=2e12), 2 / share),
        (op("mm", flops=2e12, kind="torch.bfloat16"), 0.5 / share),
        (op(flops=1, moved=1e11), 1 / reach),
        (op("add"), hardware.LAUNCH_S),
    ):
        assert sheet.seconds(work_of(given)) == pytest.approx(seconds, rel=1e-12)
        assert sheet.seconds(work_of(given, given)) == pytest.approx(2 * seconds, rel=1e-12)


def test_the_table_is_whole():
    assert set(hardware.NAMES) == {*hardware.SHEETS, "cpu"}
    for name in hardware.SHEETS:
        device = hardware.gpu(name)
        assert "never checked" in device.said
        assert device.gpu


def test_a_probe_scales_what_was_tried():
    rates = {("convolution", "a"): 1e-9, ("convolution", "b"): 3e-9, ("add",): 1e-6}
    probe = hardware.Probe(rates, call=0.5, update=1e-9)
    tried = Op("convolution", True, 10**9, 7, ("convolution", "a"), print, (), ())
    like = replace(tried, key=("convolution", "c"))
    moved = Op("add", True, 0, 10**6, ("add",), print, (), ())
    unknown = Op("cat", True, 0, 10**6, ("cat",), print, (), ())
    assert [probe.of(o) for o in (tried, like, moved, unknown)] == [1.5, 2.5, 1.5, 0.5]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_operation_of_a_step_can_be_tried(precision):
    ticks = itertools.count()
    plan = recipe(patch=8, precision=precision, control=ControlConfig(kind="lesion"))
    device = cost.hardware(plan, "cpu", lambda: float(next(ticks)))
    work = cost.work(plan, on_gpu=False)
    assert work.bfloat16 is (precision == "bfloat16")
    assert device.seconds(work) > 0
    assert math.isfinite(device.seconds(work))
    assert not device.gpu


# ---- a run --------------------------------------------------------------------------------------


def device(memory=80e9, batch_s=1.0, update_s=0.5):
    return replace(
        hardware.gpu("a100-80"),
        memory=memory,
        seconds=lambda work: batch_s,
        update=lambda work: update_s,
    )


def test_steps_samples_and_hours():
    of = cost.cost(recipe(samples=4, batch=2), device())
    assert of.step_s == 2 * 1.0 + 0.5
    assert of.hours == 2.5
    assert of.samples_per_s == 4 / 2.5
    several = cost.cost(recipe(samples=4, batch=2), device(), gpus=3)
    assert several.step_s == 1.5  # one of them has two samples
    alone = cost.cost(recipe(samples=4, batch=8), device())
    assert alone.work.batch == 4


def test_all_at_once_is_each_devices_share(monkeypatch):
    seen = []
    monkeypatch.setattr(cost, "trace", lambda of, size, *more: seen.append(size) or work_of())
    for size, gpus in ((0, 1), (0, 2), (0, 3), (9, 1), (2, 2)):
        cost.work(recipe(samples=7, batch=size), on_gpu=True, gpus=gpus)
    assert seen == [7, 4, 3, 7, 2]


def test_the_steps_of_a_run_of_minutes():
    by_time = cost.cost(recipe(steps=0, minutes=10), device())  # of 2.5 s
    assert (by_time.steps, by_time.hours) == (240, pytest.approx(1 / 6))
    assert "0.167 for 240 steps" in cost.table(by_time)[-1]
    assert cost.cost(recipe(steps=100, minutes=10), device()).steps == 100
    assert cost.cost(recipe(steps=1000, minutes=10), device()).steps == 240
    assert cost.cost(recipe(steps=1000), device()).steps == 1000


def test_shards_share_what_is_fixed():
    plain = cost.cost(recipe(), device(), gpus=2)
    shared = cost.cost(recipe(shard=True), device(), gpus=2)
    assert plain.memory - shared.memory == plain.work.fixed / 2
    assert shared.update_s == plain.update_s / 2


def test_what_cannot_be_is_said():
    with pytest.raises(InputError, match="5 GPUs cannot share 4 samples"):
        cost.cost(recipe(), device(), gpus=5)
    with pytest.raises(InputError, match="multiple of 2"):
        cost.cost(recipe(patch=15), device())
    with pytest.raises(InputError, match="one process"):
        cost.summary(recipe(), "cpu", gpus=2)


def changed(plan, words):
    """The recipe, changed as the words say."""
    sample, train = plan.data.sample, plan.train
    for word in words.split(" and "):
        name, value = word.split(" = ")
        part, last = name.rsplit(".", 1)
        told = {last: {"true": True}.get(value) or int(value)}
        if part == "train":
            train = train.model_copy(update=told)
        else:
            sample = sample.model_copy(update=told)
    data = plan.data.model_copy(update={"sample": sample})
    return plan.model_copy(update={"train": train, "data": data})


def test_what_is_advised_fits(monkeypatch):
    known = functools.cache(lambda *told: trace(recipe(), *told))  # one network, few shapes
    monkeypatch.setattr(cost, "trace", lambda of, *told: known(*told))
    plan = recipe(patch=64, samples=8, batch=8)
    enough = cost.cost(plan, device()).memory
    said = set()
    for memory in (0.7 * enough, 0.56 * enough, 1.1e9):
        small = device(memory=memory)
        of = cost.cost(plan, small)
        assert not of.fits
        for words in cost.advice(of):
            said.add(words)
            assert cost.cost(changed(plan, words), small).fits, words
        assert cost.advice(of)
        assert "memory does not suffice" in cost.table(of)[-1]
    for part in ("train.batch", "checkpointing", "data.sample.patch"):
        assert any(part in words for words in said), (part, said)
    nothing = cost.cost(plan, device(memory=1e6))
    assert cost.advice(nothing) == []
    assert "a smaller network" in cost.table(nothing)[-1]


def test_the_table_says_what_is_not_known():
    lines = cost.summary(recipe(), "h200", gpus=2)
    told = {line[:16].strip(): line[16:] for line in lines}
    assert "never checked" in told["hardware"]
    assert told["hours"].endswith("for 3600 steps")
    assert "too little" not in told
