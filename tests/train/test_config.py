"""Recipes: resolved, frozen, and strict."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from denovox.core.errors import InputError
from denovox.model.presets import PRESETS
from denovox.train.config import read_recipe

GOOD = """
name = "mine"
[data]
store = "there"
[model]
net = "tiny"
[train]
steps = 3
"""
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


def read(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return read_recipe(path)


def test_a_preset_by_name_and_the_papers_defaults(tmp_path):
    recipe = read(tmp_path, GOOD)
    assert recipe.model.net == PRESETS["tiny"]
    assert (recipe.train.lr, recipe.train.samples, recipe.train.loss) == (1e-4, 4, "l1")
    with pytest.raises(ValidationError, match="frozen"):
        recipe.train.lr = 1.0


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("steps = 3", "steps = 3\nstep_size = 1", "train.step_size: extra inputs"),
        ("steps = 3", "steps = -3", "train.steps: input should be greater than or equal to 0"),
        ("steps = 3", "", "train: value error, give steps or minutes"),
        ("steps = 3", "steps = 0\nminutes = 0", "train: value error, give steps or minutes"),
        ('net = "tiny"', 'net = "huge"', "model.net 'huge' is not a preset"),
        ('name = "mine"', "name = ", "not valid TOML"),
        ("[train]\nsteps = 3", "", "train: field required"),
        (
            "[train]",
            '[distill]\nteacher = "base"\nsteps = 0\n[train]',
            "distill.steps: input should be greater than 0",
        ),
        ("[train]", "[distill]\n[train]", "distill.teacher: field required"),
        ('net = "tiny"', 'net = "tiny"\ndistilled_steps = 4', "only learn from their teacher"),
        ("[train]", "[expert]\n[train]", "an expert serves given weights; name them as start"),
        ("[train]", "[expert]\nbelow = 0\n[train]", "expert.below: input should be greater than 0"),
        (
            "[model]",
            '[data.sample.control]\nkind = "lesion"\n[distill]\nteacher = "base"\n[model]',
            "a control cannot be distilled",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, old, new, says):
    with pytest.raises(InputError) as caught:
        read(tmp_path, GOOD.replace(old, new))
    assert says in str(caught.value)
    assert "recipe.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_recipe(tmp_path):
    with pytest.raises(InputError, match="no such recipe"):
        read_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_of_ours_is_valid(path):
    assert read_recipe(path).name == path.stem
