"""One version, wherever it is asked for."""

import tomllib
from pathlib import Path

import denovox
from denovox.core.version import __version__


def test_the_package_and_its_metadata_have_one_version():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert __version__ == denovox.__version__ == project["version"]
