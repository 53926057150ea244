"""A kit trains where there is nothing but torch, and what comes back is gone on from here."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from bare_python import make_bare
from click.testing import CliRunner
from command_line import refuses, run
from packaging.version import Version
from skimage.io import imread
from tiny_store import RECIPE, make_store

from denovox.core.errors import InputError
from denovox.datasets import packed, store
from denovox.kit import pack, train, wheels
from denovox.model import weights
from denovox.model.presets import PRESETS
from denovox.train.config import read_recipe

PYTHON = f"3.{sys.version_info.minor}"
MORE = "samples = 2\nbatch = 2\nvalidate_every = 10\n"
# What a kit does not carry, and training must not ask for.
HEAVY = """pyarrow ray highdicom pydicom gdcm accelerate fsspec nibabel s3fs requests
tensorboard diffusers monai einops skimage""".split()


def recipe_in(folder: Path, steps: int = 20, start: str = "") -> Path:
    if not (folder / "store").exists():
        make_store(folder / "store")
    path = folder / "mine.toml"
    path.write_text(start + (RECIPE + MORE).format(store=folder / "store", steps=steps))
    return path


@pytest.fixture
def no_wheels(monkeypatch):
    """Takes the time out of packing for tests that look at something else."""
    monkeypatch.setattr(wheels, "collect", lambda *given: None)
    monkeypatch.setattr(wheels, "own_wheel", lambda folder: None)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return make_bare(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kit")
    result = run("pack", recipe_in(folder), "--out", folder / "kit", "--python", PYTHON)
    assert result.exit_code == 0, result.output
    return folder / "kit"


def apart(*command: object, **environment: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a network namespace that has no interface."""
    alone = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make a network namespace")
    known = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*alone, *map(str, command)], capture_output=True, text=True, check=False, timeout=600,
        env=known | {name: str(value) for name, value in environment.items()},
    )  # fmt: skip


@pytest.mark.slow
def test_a_kit_trains_alone_and_its_weights_are_gone_on_from(kit, bare, tmp_path):
    out = tmp_path / "out"
    done = apart(kit / "run.sh", "--state", PYTHON=bare, OUT=out, WORK=tmp_path / "work")
    assert done.returncode == 0, done.stderr
    assert "no CUDA: training on the CPU" in done.stderr
    names = {path.name for path in out.iterdir()}
    expected = {"mine.safetensors", "log.csv", "samples.png", "speeds.json", "checkpoint.pt"}
    assert names == expected
    assert weights.describe(out / "mine.safetensors")[1]["steps"] == 20
    told = json.loads((out / "speeds.json").read_text())
    assert (told["device"], told["steps"]) == ("cpu", 20)
    assert told["samples_per_s"] > 0
    assert told["seconds_to_first_step"] > 0
    assert told["validation"] > 0
    assert imread(out / "samples.png").shape[1] == 1600
    assert not (kit / "work").exists()  # as WORK was named
    # From its weights, and from its state.
    from_weights = recipe_in(tmp_path, 1, f'start = "{out / "mine.safetensors"}"\n')
    assert run("pretrain", from_weights, "--out", tmp_path / "next").exit_code == 0
    card = weights.describe(tmp_path / "next" / "mine.safetensors")[1]
    assert card["history"][0]["steps"] == 20
    result = run("pretrain", recipe_in(tmp_path, 22), "--out", out)
    assert result.exit_code == 0, result.output
    assert "step 22: " in result.stderr
    assert "step 20: " not in result.stderr


@pytest.mark.slow
def test_a_kit_goes_on_from_a_state(tmp_path, no_wheels):
    recipe = recipe_in(tmp_path, 3)
    assert run("pretrain", recipe, "--out", tmp_path / "run").exit_code == 0
    arguments = ("pack", recipe, "--out", tmp_path / "kit", "--python", PYTHON)
    result = run(*arguments, "--start", tmp_path / "run")
    assert result.exit_code == 0, result.output
    kept = torch.load(tmp_path / "kit" / "state" / "checkpoint.pt", weights_only=True)
    assert kept["step"] == 3
    # Weights instead of a state; and another network's are refused.
    file = tmp_path / "run" / "mine.safetensors"
    result = run(*arguments, "--start", file, "--force")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "kit" / "state").exists()
    mine = tmp_path / "kit" / "start.safetensors"
    assert mine.read_bytes() == file.read_bytes()
    refuses(run(*arguments, "--start", "base", "--force"), "a different network")
    assert mine.exists()  # the kit that was there stays
    recipe.write_text(recipe.read_text().replace('"tiny"', '"base"'))
    refuses(run(*arguments, "--start", tmp_path / "run", "--force"), "a different network")


@pytest.mark.slow
def test_training_imports_nothing_heavy(tmp_path):
    recipe = recipe_in(tmp_path, 2)
    cases = store.cases(tmp_path / "store")
    packed.pack(cases, tmp_path / "packed", read_recipe(recipe).data.sample, 1)
    recipe.write_text(recipe.read_text().replace("/store", "/packed"))
    code = f"""
import sys
sys.modules.update(dict.fromkeys({HEAVY}))
from denovox.cli.main import main
main(["pretrain", {str(recipe)!r}, "--out", {str(tmp_path / "run")!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("run/samples/*.png"))


def test_wheels_are_whole_and_denovox_comes_without_its_weights(kit):
    every = {path.name.partition("-")[0]: path for path in kit.glob("wheels/*.whl")}
    assert not every.keys() & {"torch", "numpy", "scipy", *HEAVY}
    assert {"denovox", "zarr", "pydantic", "pydantic_core"} <= every.keys()
    for name in ("denovox", "pydantic_core"):
        with zipfile.ZipFile(every[name]) as wheel:
            inner = set(wheel.namelist())
            record = next(one for one in inner if one.endswith("/RECORD"))
            rows = wheel.read(record).decode().splitlines()
        assert {row.rpartition(",sha256=")[0].strip('"') for row in rows[1:]} == inner - {record}
    with zipfile.ZipFile(every["denovox"]) as wheel:
        inner = set(wheel.namelist())
    assert {"denovox/datasets/label_sets.toml", "denovox/kit/run.sh"} <= inner
    assert not [one for one in inner if one.endswith(".safetensors")]


@pytest.mark.slow
def test_pip_takes_the_wheels(kit, tmp_path):
    every = sorted(kit.glob("wheels/*.whl"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*command, "--target", tmp_path / "site", *every],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_the_target_has_is_not_carried_unless_it_is_too_old(tmp_path):
    bare = dict.fromkeys(wheels.THERE)
    names = [package.name for package in wheels.missing(bare, "3.12")]
    assert {"zarr", "rich", "Pygments"} <= set(names)
    listed = tmp_path / "has.txt"
    listed.write_text("\n".join([*wheels.THERE, "Rich", "typing_extensions==3.7  # old", ""]))
    has = wheels.read_has(listed)
    assert has["typing-extensions"] == Version("3.7")
    fewer = [package.name for package in wheels.missing(has, "3.12")]
    assert sorted(names) == sorted([*fewer, "rich", "Pygments", "markdown-it-py", "mdurl"])
    assert "typing_extensions" in fewer


def test_wheels_that_are_given_are_taken_and_others_named(tmp_path, monkeypatch):
    given, out = tmp_path / "given", tmp_path / "out"
    given.mkdir()
    out.mkdir()
    core = distribution("pydantic_core")
    other = "3.12" if PYTHON != "3.12" else "3.13"
    tag = f"cp{other.replace('.', '')}"
    file = given / f"pydantic_core-{core.version}-{tag}-{tag}-manylinux_2_17_x86_64.whl"
    file.write_bytes(b"as it is")
    monkeypatch.setattr(wheels.platform, "machine", lambda: "x86_64")
    wheels.collect([core], other, out, given)
    assert [path.name for path in out.iterdir()] == [file.name]
    file.unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(given))
    with pytest.raises(InputError, match=r"could not be downloaded .* name it with --wheels"):
        wheels.collect([core], other, out, given)


@pytest.mark.parametrize(
    ("text", "says"),
    [("torch\n<html>", "line 2: '<html>' is not the name"), ("numpy\nscipy\n", "has no torch"),
     ("torch==x.y.z", "line 1"), (b"\xff\xfe\x00", "is not a text file"), (None, "no such")],
)  # fmt: skip
def test_a_target_list_that_cannot_be_read_is_one_sentence(tmp_path, text, says):
    listed, recipe = tmp_path / "has.txt", recipe_in(tmp_path)
    if text is not None:
        listed.write_bytes(text if isinstance(text, bytes) else text.encode())
    there = sorted(tmp_path.iterdir())
    result = run("pack", recipe, "--out", tmp_path / "kit", "--target-has", listed)
    refuses(result, "has.txt" if "has no" not in says else "", says)
    assert sorted(tmp_path.iterdir()) == there


def test_other_kits_that_cannot_be_made_leave_nothing(tmp_path, no_wheels, monkeypatch):
    recipe, out = recipe_in(tmp_path), tmp_path / "kit"
    there = sorted(tmp_path.iterdir())
    refuses(run("pack", recipe, "--out", out, "--store-mb", 0.001), "MB at its coarsest")
    refuses(
        run("pack", recipe, "--out", out, "--python", "2.7"),
        "kits for Python '2.7' are not supported",
    )
    refuses(run("pack", recipe, "--out", out, "--start", "nowhere"), "neither a file nor bundled")

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(packed.manifest, "write_packed", full)
        refuses(run("pack", recipe, "--out", out), "kit could not be written (No space left")
    assert sorted(tmp_path.iterdir()) == there
    out.mkdir()
    (out / "precious").touch()
    refuses(run("pack", recipe, "--out", out), "already exists")
    refuses(run("pack", recipe, "--out", out, "--force"), "is not a kit")
    assert [path.name for path in out.iterdir()] == ["precious"]
    (out / "kit.json").touch()
    (out / "work" / "run").mkdir(parents=True)
    refuses(run("pack", recipe, "--out", out, "--force"), "holds a run")
    assert (out / "precious").exists()


def test_a_recipe_comes_through_toml_as_it_was(tmp_path, no_wheels):
    recipe = recipe_in(tmp_path)
    card = 'a "card"\n\twith \\ \x7f and \N{SNOWMAN}, \N{PILE OF POO}'
    plan = read_recipe(recipe).model_copy(update={"card": card})
    told = plan.model_dump(mode="json", exclude_none=True)
    assert tomllib.loads(pack.toml(told)) == told
    for path in sorted((Path(__file__).parents[2] / "recipes").glob("*.toml")):
        told = read_recipe(path).model_dump(mode="json", exclude_none=True)
        assert tomllib.loads(pack.toml(told)) == told


def test_files_come_in_parts_that_join(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "PART", 1000)
    data, out = os.urandom(3999), tmp_path / "out"
    out.mkdir()
    (tmp_path / "x").write_bytes(data)
    names = train.parts(tmp_path / "x", out, "x")
    assert names == ["x.part001", "x.part002", "x.part003", "x.part004"]
    assert b"".join((out / name).read_bytes() for name in sorted(names)) == data
    (tmp_path / "x").write_bytes(data[:1000])
    assert train.parts(tmp_path / "x", out, "x") == ["x"]
    assert [path.name for path in out.iterdir()] == ["x"]  # no part of what was there before


def done_run(folder: Path) -> Path:
    """A kit whose training writes its files at once."""
    (folder / "work" / "run" / "samples").mkdir(parents=True)
    (folder / "kit.json").write_text('{"command": "pretrain", "python": "3.11"}')
    weights.save(
        folder / "work" / "run" / "mine.safetensors", {"a": torch.zeros(3)},
        weights.ModelConfig(net=PRESETS["tiny"]), {"steps": 33},
    )  # fmt: skip
    for name in ("samples/0000001.png", "samples/0000002.png"):
        (folder / "work" / "run" / name).write_bytes(name.encode())
    (folder / "work" / "run" / "log.csv").write_text(
        "step,loss,validation,samples_per_s,waiting,memory_mb\n"
        "10,3,,1,0.9,100\n20,2,0.5,8,0.1,300\n30,1,0.7,9,0.2,200\n"
    )
    return folder


def started(folder: Path, out: Path):
    arguments = [folder, folder / "work", out, "--began", 0]
    return CliRunner().invoke(train.main, [str(a) for a in arguments])


def test_what_comes_back_is_the_last_sheet_and_the_speeds(tmp_path, monkeypatch):
    folder, out = done_run(tmp_path), tmp_path / "out"
    monkeypatch.setattr(train, "_trained", lambda *given: (0, 5.0))
    assert started(folder, out).exit_code == 0
    assert (out / "samples.png").read_bytes() == b"samples/0000002.png"
    told = json.loads((out / "speeds.json").read_text())
    assert {name: told[name] for name in ("steps", "loss", "validation", "best_validation")} == {
        "steps": 33, "loss": 1, "validation": 0.7, "best_validation": 0.5,
    }  # fmt: skip
    assert told["samples_per_s"] == 9
    assert told["share_waiting_for_samples"] == 0.2
    assert told["peak_memory_mb"] == 300
    assert told["seconds_to_first_step"] == 5


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_full_out_is_one_sentence_and_half_a_file_is_never_there(tmp_path, monkeypatch, at):
    folder, out = done_run(tmp_path), tmp_path / "out"
    monkeypatch.setattr(train, "_trained", lambda *given: (0, 5.0))
    asked = itertools.count()

    def fsync(file):
        if next(asked) == at:
            os.ftruncate(file, os.fstat(file).st_size // 2)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    result = started(folder, out)
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert "No space left on device" in last
    assert ("the results are in" in last) == (at > 0)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert len(list(out.iterdir())) == max(0, at - 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [((), {"OUT": ""}, "set OUT to a folder"), (("--quick",), {}, "unknown option '--quick'"),
     (("--minutes",), {}, "--minutes needs a number"), ((), {"PYTHON": "none"}, "no none here"),
     ((), {"WORK": "/proc/none"}, "/proc/none cannot be written"),
     ((), {"OUT": "/proc/none"}, "/proc/none cannot be written")],
)  # fmt: skip
def test_run_sh_refuses_in_one_sentence(kit, tmp_path, arguments, environment, says):
    known = {"PATH": os.environ["PATH"], "OUT": str(tmp_path / "out"), "PYTHON": sys.executable}
    known["WORK"] = str(tmp_path / "work")
    done = subprocess.run(
        [kit / "run.sh", *arguments], env=known | environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_another_python_is_refused(kit, tmp_path):
    copied = tmp_path / "kit"
    copied.mkdir()
    for name in ("run.sh", "kit.json"):
        (copied / name).write_bytes((kit / name).read_bytes())
    (copied / "run.sh").chmod(0o755)
    (copied / "kit.json").write_text('{"python": "3.10"}')
    known = {"PATH": os.environ["PATH"], "OUT": str(tmp_path / "out"), "PYTHON": sys.executable}
    done = subprocess.run(
        [copied / "run.sh"], env=known, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "this kit is for Python 3.10" in done.stderr


def test_a_target_without_torch_is_named(kit, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    known = {"PATH": os.environ["PATH"], "OUT": str(tmp_path), "WORK": str(tmp_path / "work")}
    known["PYTHON"] = str(tmp_path / "venv" / "bin" / "python")
    done = subprocess.run([kit / "run.sh"], env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has no torch, which kits do not include" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_start_that_a_recipe_names_is_carried(tmp_path, no_wheels):
    recipe = recipe_in(tmp_path, 1)
    assert run("pretrain", recipe, "--out", tmp_path / "run").exit_code == 0
    before = tmp_path / "run" / "mine.safetensors"
    begun = recipe_in(tmp_path, 1, f'start = "{before}"\n')
    assert run("pack", begun, "--out", tmp_path / "kit", "--python", PYTHON).exit_code == 0
    told = tomllib.loads((tmp_path / "kit" / "recipe.toml").read_text())
    assert told["start"] == "start.safetensors"
    assert (tmp_path / "kit" / "start.safetensors").read_bytes() == before.read_bytes()


@pytest.mark.parametrize(
    ("table", "other"),
    [
        ("[expert]\nbelow = 0.3\n", None),
        ("[distill]\nteacher = '{}'\n", None),
        ("[distill]\nteacher = '{}'\n", "start = '{}'\n"),
    ],
)
def test_a_kit_trains_an_expert_or_a_student(tmp_path, no_wheels, monkeypatch, table, other):
    assert run("pretrain", recipe_in(tmp_path, 1), "--out", tmp_path / "run").exit_code == 0
    before = tmp_path / "run" / "mine.safetensors"
    start = f"start = '{before}'\n"
    if other is not None:
        shutil.copyfile(before, tmp_path / "other.safetensors")
        start = other.format(tmp_path / "other.safetensors")
    recipe = recipe_in(tmp_path, 1, start)
    with recipe.open("a") as file:
        file.write(table.format(before))
    assert run("pack", recipe, "--out", tmp_path / "kit", "--python", PYTHON).exit_code == 0
    shutil.rmtree(tmp_path / "run")
    monkeypatch.chdir(tmp_path / "kit")
    done = run("pretrain", "recipe.toml", "--out", tmp_path / "next")
    assert done.exit_code == 0, done.output
    config, card, _ = weights.describe(tmp_path / "next" / "mine.safetensors")
    assert (config.expert_below, config.distilled_steps) == ((0.3, 0) if "exp" in table else (0, 4))
    assert card["history"]
    assert (tmp_path / "kit" / pack.TEACHER).exists() == (other is not None)
