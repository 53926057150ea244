"""`denovox plan`: a recipe in, a table out."""

import pytest
from click.testing import CliRunner

from denovox.cli.main import main

RECIPE = """
name = "mine"
[data]
store = "nowhere"
[data.sample]
patch = 16
{control}
[model]
net = "tiny"
patch = 16
[train]
steps = 10
samples = 4
batch = 2
"""


def plan(tmp_path, *options, control=""):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(control=control))
    if control:
        path.write_text('start = "base"\n' + path.read_text())
    return CliRunner().invoke(main, ["plan", str(path), *options])


def rows(result):
    assert result.exit_code == 0, result.output
    return {line[:16].strip(): line[16:] for line in result.stdout.splitlines()}


def test_it_prints_a_table_without_a_store_or_a_gpu(tmp_path):
    told = rows(plan(tmp_path, "--gpu", "rtx3090", "--gpus", "2"))
    assert told["hardware"].startswith("rtx3090 x 2: data sheet")
    assert told["batch"].startswith("2 x 16^3, bfloat16")
    assert told["memory"].endswith("of 24")
    assert told["hours"].endswith("for 10 steps")


def test_every_device_of_the_table_can_be_named():
    from denovox.cli.plan import plan as command
    from denovox.train.hardware import NAMES

    choices = {option.name: option.type for option in command.params}
    assert tuple(choices["gpu"].choices) == NAMES


def test_a_control_is_more_than_its_base_and_trains_less(tmp_path):
    base = rows(plan(tmp_path, "--gpu", "h200"))
    steered = rows(plan(tmp_path, "--gpu", "h200", control='control = { kind = "lesion" }'))
    forward = [float(told["TFLOP a sample"].split("(")[1].split()[0]) for told in (base, steered)]
    assert forward[1] > forward[0]  # its way down and its middle are there twice
    count, trained = (steered["parameters"].split()[n] for n in (0, 4))
    assert float(trained) < float(count)


@pytest.mark.parametrize(
    ("options", "says"),
    [(("--gpus", "2"), "a run is one process"), (("--gpu", "h200", "--gpus", "5"), "cannot share")],
)
def test_what_cannot_be_is_one_sentence(tmp_path, options, says):
    result = plan(tmp_path, *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("denovox: ")
    assert says in result.stderr
    assert not result.stdout
