"""`denovox plan`: a recipe in, a table out."""

from typing import get_args

import pytest
from click.testing import CliRunner

from denovox.cli.main import main
from denovox.cli.pack import plan as command
from denovox.train.cost.estimate import GPUS, Name

RECIPE = """
name = "mine"
start = "base"
[data]
store = "nowhere"
[data.sample]
patch = 16
control = { kind = "lesion" }
[model]
net = "tiny"
patch = 16
[train]
steps = 10
samples = 4
batch = 2
"""


def plan(tmp_path, *options):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return CliRunner().invoke(main, ["plan", str(path), *options])


def test_it_prints_a_table_without_a_store_or_a_gpu(tmp_path):
    result = plan(tmp_path, "--gpu", "rtx3090", "--gpus", "2")
    assert result.exit_code == 0, result.output
    rows = {line[:16].strip(): line[16:] for line in result.stdout.splitlines()}
    assert rows["hardware"].startswith("rtx3090 x 2: data sheet")
    assert "never checked" in rows["hardware"]
    assert rows["batch"].startswith("2 x 16^3, bfloat16")
    assert rows["memory"].endswith("of 24")
    assert rows["hours"].endswith("for 10 steps")
    assert "too little" not in rows
    count, trained = (float(rows["parameters"].split()[n]) for n in (0, 4))
    assert 0 < trained < count  # of a control the base learns nothing


def test_every_device_can_be_named():
    choices = {option.name: option.type for option in command.params}["gpu"].choices
    assert tuple(choices) == get_args(Name)
    assert {*GPUS, "cpu"} == {*choices}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpus", "2"), "a run is a single process"),
        (("--gpu", "h200", "--gpus", "5"), "cannot share"),
    ],
)
def test_an_error_is_one_sentence(tmp_path, options, message):
    result = plan(tmp_path, *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("denovox: ")
    assert message in result.stderr
    assert not result.stdout
