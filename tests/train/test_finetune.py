"""`denovox finetune`: a control from a store, resumed exactly, kept where it was best."""

import numpy as np
import pytest
import torch
from command_line import run
from safetensors.torch import load_file
from tiny_store import make_store

from denovox.core.errors import InputError
from denovox.core.volume import Volume
from denovox.inference.model import (
    Model,
)
from denovox.inference.options import RunOptions
from denovox.inference.superres import superres
from denovox.model import weights
from denovox.train import run as pretrain
from denovox.train.adaptation.adapt import Wanted, recipe_for
from denovox.train.config import read_recipe

RECIPE = """
name = "steer"
start = "{base}"
width = 4
card = "a test"
[data]
store = "{store}"
validation_patients = ["c"]
[data.sample]
patch = 16
control = {{ kind = "{kind}" }}
[train]
steps = {steps}
samples = 2
batch = 2
precision = "float32"
validate_every = 2
"""


def refuses(result, says):
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    said = result.stderr.strip().splitlines()
    assert said[-1].startswith("denovox: ")
    assert sum("denovox:" in line for line in said) == 1


@pytest.fixture
def recipe(tmp_path, tiny):
    """steps, kind, more lines of [train] -> a recipe's path."""

    def write(steps=4, kind="lesion", more=""):
        make_store(tmp_path / "store", lesions=True) if not (tmp_path / "store").exists() else None
        path = tmp_path / f"{kind}.toml"
        told = RECIPE.format(base=tiny, store=tmp_path / "store", kind=kind, steps=steps)
        path.write_text(told + more)
        return path

    return write


@pytest.mark.slow
def test_a_control_comes_out_and_the_base_stays_as_it_was(recipe, tmp_path, tiny):
    before = tiny.read_bytes()
    result = run("finetune", recipe(), "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    path = tmp_path / "run" / "steer.safetensors"
    config, card, _ = weights.describe_control(path)
    assert (config.kind, config.base, config.width) == ("lesion", weights.sha256(tiny), 4)
    assert card["base"] == str(tiny)
    assert card["steps"] == 4
    assert tiny.read_bytes() == before
    control = load_file(path)
    born = weights.describe(tiny)[0].build()
    names = {name for name, _ in born.named_parameters()}
    assert not names & set(control)  # of the base nothing is in the file
    zeros = [n for n in control if n.startswith("controlnet.controlnet_down_blocks")]
    assert any(control[n].any() for n in zeros)  # what began at zero has learnt something


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(recipe, tmp_path):
    plan = read_recipe(recipe(6))
    list(pretrain.run(plan, tmp_path / "whole"))
    for stop in (2, 3):
        steps = pretrain.run(plan, tmp_path / "parts")
        for news in steps:
            if not isinstance(news, str) and news.step >= stop:
                break
        steps.close()
    list(pretrain.run(plan, tmp_path / "parts"))
    a, b = (load_file(tmp_path / n / "steer.safetensors") for n in ("whole", "parts"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_with_patience_the_best_is_what_is_kept(recipe, tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 2.0, 0.5])
    monkeypatch.setattr(pretrain, "validation", lambda *_: lambda: next(losses))
    result = run("finetune", recipe(20, more="patience = 2\n"), "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "after step 4, the best (validation 1.0000)" in result.stderr
    card = weights.describe_control(tmp_path / "run" / "steer.safetensors")[1]
    assert (card["steps"], card["validated_at_step"], card["validation_loss"]) == (4, 4, 1.0)


@pytest.mark.slow
def test_stopped_before_a_validation_there_is_a_file_all_the_same(recipe, tmp_path):
    steps = pretrain.run(read_recipe(recipe(9, more="patience = 2\n")), tmp_path / "run")
    for news in steps:
        if not isinstance(news, str):
            break
    steps.close()
    told = list(pretrain.run(read_recipe(recipe(1, more="patience = 2\n")), tmp_path / "one"))
    assert "after step 1" in told[-1]
    assert (tmp_path / "one" / "steer.safetensors").exists()


def test_what_makes_no_sense_is_one_sentence(recipe, tmp_path, tiny):
    control = recipe()
    refuses(run("pretrain", control), f"use `denovox finetune {control}`")
    plain = tmp_path / "plain.toml"
    lines = control.read_text().splitlines()
    plain.write_text("\n".join(x for x in lines if not x.startswith("control")))
    refuses(run("finetune", plain), "has no [data.sample.control]")
    orphan = tmp_path / "orphan.toml"
    own = (
        control.read_text()
        .replace(f'start = "{tiny}"', "")
        .replace("[train]", '[model]\nnet = "tiny"\n[train]')
    )
    orphan.write_text(own)
    refuses(run("finetune", orphan), "give the weights of that base as start")
    make_store(tmp_path / "healthy", lesions=False)
    healthy = tmp_path / "healthy.toml"
    healthy.write_text(
        control.read_text().replace(str(tmp_path / "store"), str(tmp_path / "healthy"))
    )
    refuses(run("finetune", healthy, "--out", tmp_path / "none"), "has a lesion; add masks")


@pytest.mark.slow
def test_an_expert_is_written_beside_the_network_that_it_serves(recipe, tmp_path, tiny):
    kept = [x for x in recipe().read_text().splitlines() if not x.startswith(("control", "width"))]
    path = tmp_path / "expert.toml"
    path.write_text("\n".join([*kept, "[expert]", "below = 0.3"]))
    result = run("pretrain", path, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    both = tmp_path / "run" / "steer.safetensors"
    config, card, _ = weights.describe(both)
    assert config.expert_below == 0.3
    assert card["history"][0]["sha256"] == weights.sha256(tiny)
    before, high = (weights.state_for(each, config) for each in (tiny, both))
    assert all(torch.equal(before[name], high[name]) for name in before)
    low = weights.state_for(both, config, expert=True)
    assert any(not torch.equal(before[name], low[name]) for name in before)
    again = tmp_path / "again.toml"  # without [expert]: the network for high noise goes on alone
    again.write_text("\n".join(kept).replace(str(tiny), str(both)))
    run_of = read_recipe(again)
    list(pretrain.run(run_of, tmp_path / "next"))
    config = weights.describe(tmp_path / "next" / "steer.safetensors")[0]
    assert config.expert_below == 0
    own = recipe_for(Wanted(tmp_path, str(both), 1), tmp_path, ())
    assert own.expert is not None
    assert own.expert.below == 0.3


@pytest.fixture
def distilling(recipe, tmp_path, tiny):
    """[distill] and its values -> the path of a recipe."""

    def write(**distill):
        kept = [
            line
            for line in recipe().read_text().splitlines()
            if not line.startswith(("control", "start", "width"))
        ]
        rows = {"teacher": f'"{tiny}"', "steps": 2, "substeps": 1, "guidance": 1} | distill
        path = tmp_path / "distill.toml"
        path.write_text(
            "\n".join([*kept, "[distill]", *(f"{key} = {value}" for key, value in rows.items())])
        )
        return path

    return write


@pytest.mark.slow
def test_a_student_resumes_and_knows_its_steps(distilling, tmp_path, tiny):
    plan = read_recipe(distilling())
    list(pretrain.run(plan, tmp_path / "whole"))
    steps = pretrain.run(plan, tmp_path / "parts")
    for news in steps:
        if not isinstance(news, str) and news.step == 2:
            break
    steps.close()
    list(pretrain.run(plan, tmp_path / "parts"))
    path, other = (tmp_path / n / "steer.safetensors" for n in ("whole", "parts"))
    a, b = load_file(path), load_file(other)
    assert all(torch.equal(a[name], b[name]) for name in a)
    teacher = load_file(tiny)  # where the student began
    assert 0 < max(float((a[name] - teacher[name]).abs().max()) for name in a) < 0.05
    config, card, _ = weights.describe(path)
    assert config.distilled_steps == 2
    assert card["recipe"]["distill"]["guidance"] == 1
    assert card["history"][0]["sha256"] == weights.sha256(tiny)
    again = tmp_path / "again.toml"
    again.write_text(distilling(teacher=f'"{path}"').read_text())
    refuses(run("pretrain", again, "--out", tmp_path / "none"), "itself distilled, to 2 steps")
    with pytest.raises(InputError, match="cannot be adapted"):
        recipe_for(Wanted(tmp_path, str(path), 1), tmp_path, ())


def test_a_teacher_that_cannot_teach_is_one_sentence(distilling, tmp_path):
    out = "--out", tmp_path / "none"
    refuses(run("pretrain", distilling(teacher='"gone"'), *out), "weights 'gone' are neither")
    refuses(run("pretrain", distilling(guidance=2), *out), "set distill.guidance = 1")
    assert not (tmp_path / "none").exists()


def test_thin_slices_hear_their_control_and_average_back_all_the_same(tiny, tiny_superres):
    from denovox.inference.model import load

    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (24, 20, 6)), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.7 - 0.2 * z, 60, -1000) + 20 * rng.standard_normal((24, 20, 6))
    volume = Volume(hu.astype(np.float32), np.diag([4.0, 4.0, 6.0, 1.0]))
    asked = {"factor": 2.0, "region": "abdomen", "options": RunOptions(tile=32)}
    alone = superres(load(tiny), volume, **asked)
    steered = superres(load(tiny, control=tiny_superres), volume, **asked)
    consistency = steered.consistency
    assert consistency.max_hu < 0.01
    assert np.abs(alone.hu - steered.hu).max() > 0.1
    told = []

    def listens(x, sigma, condition):
        told.append(condition.control)
        return x / (1 + sigma)

    model = Model(listens, weights.describe(tiny)[0], tiny, "cpu", "low-resolution")
    superres(model, volume, **asked)
    base = superres(model, volume, evaluations=0, factor=2.0, region="abdomen")
    shown = np.clip((base.hu - 60) / 180, -1, 1)
    assert told[0].shape == (1, 1, *base.shape)
    np.testing.assert_allclose(told[0][0, 0].numpy(), shown, atol=1e-6)
