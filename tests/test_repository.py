"""What surrounds the package: workflows, the image, shell completion."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_runs_exists(path):
    makefile = (ROOT / "Makefile").read_text()
    jobs = yaml.safe_load(path.read_text())["jobs"]
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    words = [shlex.split(line) for line in lines]
    assert path.stem == "release" or words
    for command, *rest in words:
        if command == "make":
            assert all(re.search(rf"^{target}:", makefile, re.M) for target in rest), rest
        elif "/" in command:
            assert os.access(ROOT / command, os.X_OK), command
        else:
            assert command in ("pip", "pytest", "sudo", "test"), command
    for job in jobs.values():
        for extra in re.findall(r"\.\[(\w+)\]", str(job)):
            assert extra in PROJECT["optional-dependencies"]


def test_every_python_that_is_promised_is_tested():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    tested = jobs["fast"]["strategy"]["matrix"]["python"]
    said = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: 3." in line]
    assert tested == said
    assert PROJECT["requires-python"] == f">={tested[0]}"


def test_the_image_is_built_from_files_that_travel_to_docker():
    allowed = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    names = [name for line in copies for name in line.split()]
    assert names
    for name in names:
        assert (ROOT / name).exists(), name
        assert name.split("/")[0] in allowed, name


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("denovox den", ["denoise"]),
        ("denovox denoise --reg", ["--region"]),
        ("denovox denoise --region c", ["chest"]),
        ("denovox evaluate pa", ["pairs"]),
    ],
)
def test_the_shell_completes(typed, offered):
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    out = subprocess.run(
        [Path(sys.executable).with_name("denovox")],
        env={**os.environ, **words, "_DENOVOX_COMPLETE": "bash_complete"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line.split(",")[1] for line in out.stdout.splitlines()] == offered, out.stderr
