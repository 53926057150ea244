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
from packaging.requirements import Requirement

from denovox.core.errors import EXTRAS
from denovox.io import nifti
from denovox.simulate.phantom import chest

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


# ---- optional packages --------------------------------------------------------------------------

WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from denovox.cli.main import main
main({words!r})
"""


def without(*words: str) -> subprocess.CompletedProcess:
    """A command where no optional package is installed."""
    script = WITHOUT.format(packages=set(EXTRAS), words=list(words))
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )


def test_what_is_optional_is_in_the_extra_that_messages_name():
    extras = PROJECT["optional-dependencies"]
    packages = {"gdcm": "python-gdcm", "numcodecs": "zarr"}  # the second comes with the first
    for package, extra in EXTRAS.items():
        names = {Requirement(each).name for each in extras[extra]}
        assert packages.get(package, package) in names
    core = {Requirement(each).name for each in PROJECT["dependencies"]}
    assert not core & (EXTRAS.keys() | packages.values())


def test_a_missing_package_is_one_sentence(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text((ROOT / "recipes" / "tiny-cpu.toml").read_text())
    (tmp_path / "data").mkdir()
    out = without("prepare", str(tmp_path / "data"), "--out", str(tmp_path / "store"))
    assert out.returncode == 2, out.stderr
    (sentence,) = out.stderr.strip().splitlines()[-1:]
    assert re.fullmatch(
        r"denovox: this needs the package \w+, which is not installed:"
        r" pip install 'denovox\[train\]'",
        sentence,
    )


def test_scans_are_denoised_without_any_extra(tmp_path, tiny):
    phantom = chest((24, 24, 16), 4.0)
    scan, clean = tmp_path / "scan.nii.gz", tmp_path / "clean.nii.gz"
    nifti.write(phantom.ct, scan)
    words = ("--region", "chest", "--noise-hu", "20", "--weights", str(tiny))
    out = without("denoise", str(scan), str(clean), *words)
    assert out.returncode == 0, out.stderr
    assert clean.exists()
    size = ("--region", "chest", "--shape", "16x16x16", "--spacing", "4", "--steps", "2")
    series = without("synthesize", str(tmp_path / "series"), *size, "--weights", str(tiny))
    assert series.returncode == 0, series.stderr  # DICOM, too
