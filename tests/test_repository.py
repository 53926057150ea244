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
from packaging.utils import canonicalize_name

from denovox.core import process
from denovox.core.errors import EXTRAS
from denovox.io import nifti
from denovox.simulate.phantom import chest

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_no_source_file_is_long_and_no_folder_is_full():
    source = ROOT / "src" / "denovox"
    files = sorted(source.rglob("*.py"))
    assert {f: n for f in files if (n := len(f.read_text().splitlines())) > 300} == {}
    for folder in {file.parent for file in files}:
        assert len(list(folder.glob("*.py"))) <= 17, folder


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
            assert command in ("git", "pip", "pytest", "sudo", "test"), command
    for job in jobs.values():
        for extra in re.findall(r"\.\[(\w+)\]", str(job)):
            assert extra in PROJECT["optional-dependencies"]


def test_every_python_that_is_promised_is_tested():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    tested = jobs["fast"]["strategy"]["matrix"]["python"]
    said = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: 3." in line]
    assert tested == said
    assert PROJECT["requires-python"] == f">={tested[0]}"


def test_the_lockfile_has_a_version_of_every_dependency():
    lock = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            pinned = Requirement(line)
            (one,) = pinned.specifier
            assert one.operator == "==", line
            lock.setdefault(canonicalize_name(pinned.name), []).append(one.version)
    extras = PROJECT["optional-dependencies"].values()
    for text in {*PROJECT["dependencies"], *(each for extra in extras for each in extra)}:
        wanted = Requirement(text)
        if wanted.name != "denovox":
            versions = lock[canonicalize_name(wanted.name)]
            assert all(map(wanted.specifier.contains, versions)), (text, versions)


def test_every_file_of_the_package_travels_in_its_wheel():
    package = ROOT / "src" / "denovox"
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = data["package-data"]["denovox"]
    inside = [path for pattern in patterns for path in package.glob(pattern)]
    every = {path for path in package.rglob("*") if path.is_file() and path.suffix != ".py"}
    left_out = {path for path in every if "__pycache__" not in path.parts} - set(inside)
    assert not left_out


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


# ---- other systems ------------------------------------------------------------------------------

WINDOWS = """
import os, signal, sys
for module, names in {{os: ["sched_getaffinity", "sysconf", "posix_fallocate"],
                      signal: ["SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2"]}}.items():
    for name in names:
        vars(module).pop(name, None)
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "pwd", "grp", "termios"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
import torch, scipy.ndimage, nibabel, click, pydicom, filelock, multiprocessing  # may need them
sys.meta_path.insert(0, Missing())
from denovox.cli.main import main
main({words!r})
"""


def test_scans_are_denoised_without_what_only_posix_has(tmp_path, tiny):
    scan, clean = tmp_path / "scan.nii.gz", tmp_path / "clean.nii.gz"
    nifti.write(chest((24, 24, 16), 4.0).ct, scan)
    options = ["--region", "chest", "--noise-hu", "20", "--weights", str(tiny)]
    script = WINDOWS.format(words=["denoise", str(scan), str(clean), *options])
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stderr
    assert clean.exists()


def test_cpus_are_counted_where_a_process_has_no_set_of_its_own(monkeypatch):
    assert process.cpus() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert process.cpus() == os.cpu_count()


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


NEEDS = r"denovox: this needs the package \w+, which is not installed: pip install 'denovox\[{}\]'"


def without(*words: str) -> subprocess.CompletedProcess:
    """A command where no optional package is installed."""
    script = WITHOUT.format(packages=set(EXTRAS), words=list(words))
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )


def test_what_is_optional_is_in_the_extra_that_messages_name():
    extras = PROJECT["optional-dependencies"]
    # numcodecs comes with zarr
    packages = {"gdcm": "python-gdcm", "numcodecs": "zarr", "skimage": "scikit-image"}
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
    assert re.fullmatch(NEEDS.format("train"), out.stderr.strip().splitlines()[-1])


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("evaluate", "simulate low-dose SCAN OUT.nii.gz"),
        ("train", "pack RECIPE --out OUT"),
    ],
)
def test_a_missing_package_is_named_before_the_scan_is_read(extra, words, tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(b"nothing")
    recipe = str(ROOT / "recipes" / "tiny-cpu.toml")
    places = {"SCAN": str(tmp_path / "scan.nii.gz"), "RECIPE": recipe, "OUT": str(tmp_path / "out")}
    for name, place in places.items():
        words = words.replace(name, place)
    out = without(*words.split())
    assert out.returncode == 2
    assert re.fullmatch(NEEDS.format(extra), out.stderr.strip()), out.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


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
