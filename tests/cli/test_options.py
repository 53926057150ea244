"""Options that commands share: device, precision, tile, batch, their variables, and --help."""

import re

import click
import nibabel
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from denovox.cli.main import main
from denovox.inference import model

# Options of reading, running and writing that many commands have in common.
SHARED = {"device", "precision", "tile", "batch"} | {
    "series", "straighten", "accept_hu", "report", "like", "force",
    "no_manifest", "as_json", "png", "progress", "memory", "seed", "weights",
    "out", "form", "workers", "engine", "watch", "quiet_time",  # of every batch
}  # fmt: skip
VARIABLES = ("DEVICE", "PRECISION", "BATCH")


def run(*arguments, **env):
    return CliRunner(env=env).invoke(main, [str(a) for a in arguments])


def refuses(result, *says):
    """Exit code 2 and one sentence on stderr."""
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("denovox: ")
    for word in says:
        assert word in line
    assert not result.stdout


def commands(group=main, words=()):
    for name, command in group.commands.items():
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


COMMANDS = dict(commands())


class Fake:
    """In place of a model: keeps how it was loaded and asked, and changes nothing."""

    control = None

    def __init__(self):
        self.device = self.precision = self.options = None

    def load(self, name, device, precision, *control):
        self.device, self.precision = device, precision
        return self

    def denoise(self, volume, options, context):
        self.options = options
        return volume


@pytest.fixture
def fake(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(f"DENOVOX_{name}", raising=False)
    fake = Fake()
    monkeypatch.setattr(model, "load", fake.load)
    return fake


@pytest.fixture
def asked(tmp_path):
    """`denoise IN OUT --force --no-manifest` on a scan: `Fake` cannot be described."""
    path = tmp_path / "scan.nii.gz"
    hu = np.random.default_rng(0).normal(0, 200, (8, 8, 4)).astype(np.int16)
    nibabel.Nifti1Image(hu, np.diag([4.0, 4, 5, 1])).to_filename(path)
    return "denoise", path, tmp_path / "out.nii.gz", "--force", "--no-manifest"


def test_defaults(fake, asked):
    assert run(*asked).exit_code == 0
    assert (fake.device, fake.precision) == (None, "auto")
    assert (fake.options.tile, fake.options.batch, fake.options.seed) == (64, 0, 0)


def test_options_arrive(fake, asked):
    given = ("--device", "cpu", "--precision", "bfloat16", "--tile", 48, "--batch", 3, "--seed", 7)
    result = run(*asked, *given)
    assert result.exit_code == 0, result.output
    assert (fake.device, fake.precision) == ("cpu", "bfloat16")
    assert (fake.options.tile, fake.options.batch, fake.options.seed) == (48, 3, 7)


def test_variables_hold_where_no_option_is_given(fake, asked):
    env = {"DENOVOX_DEVICE": "cpu", "DENOVOX_PRECISION": "auto", "DENOVOX_BATCH": "4"}
    assert run(*asked, **env).exit_code == 0
    assert (fake.device, fake.precision, fake.options.batch) == ("cpu", "auto", 4)
    assert run(*asked, "--precision", "float32", "--batch", 2, **env).exit_code == 0
    assert (fake.device, fake.precision, fake.options.batch) == ("cpu", "float32", 2)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DENOVOX_DEVICE", "gpu", "no device 'gpu'"),
        ("DENOVOX_PRECISION", "half", "'float32', 'bfloat16', 'auto'"),
        ("DENOVOX_BATCH", "many", "DENOVOX_BATCH"),
    ],
)
def test_wrong_variables_are_one_sentence(fake, asked, name, value, says):
    refuses(run(*asked, **{name: value}), says)
    assert fake.options is None


@pytest.mark.parametrize("command", ["pretrain", "finetune", "adapt", "ablate"])
def test_training_takes_one_device(tmp_path, command):
    """Several are for tiles of a scan; several GPUs of a run need a launcher."""
    out = tmp_path / "out"
    refuses(run(command, "recipe", "--device", "cpu,cpu", "--out", out), "'cpu,cpu'", "torchrun")
    assert not out.exists()


@pytest.mark.parametrize("name", ["gpu", "cuda:7", "CPU", ""])
def test_a_device_that_is_absent_or_misspelt(fake, asked, monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    refuses(
        run(*asked, "--device", name),
        f"'{name}'",
        "choose cpu, cuda, cuda:0, cuda:1",
    )
    assert fake.options is None
    assert run(*asked, "--device", "cuda:1").exit_code == 0
    assert fake.device == "cuda:1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    refuses(run(*asked, "--device", "cuda"), "choose cpu")


def names(command):
    return {param.name for param in command.params if isinstance(param, click.Option)}


def test_every_command_that_runs_a_model_has_the_options_of_a_run():
    running = {words for words, command in COMMANDS.items() if "tile" in names(command)}
    generating = {"synthesize", "lesion", "inpaint", "augment", "demo"}
    assert running >= {(name,) for name in {"denoise", "superres", "detect"} | generating}
    for words in running:
        assert names(COMMANDS[words]) >= {"device", "precision", "batch"}, words
    assert names(main.commands["doctor"]) >= {"device", "precision"}
    for name in ("pretrain", "finetune", "ablate"):
        assert "device" in names(main.commands[name])


@pytest.mark.parametrize("name", ["pretrain", "finetune", "ablate"])
def test_training_checks_its_device_first(name, tmp_path):
    refuses(run(name, tmp_path / "none.toml", "--out", tmp_path, "--device", "tpu"), "'tpu'")
    refuses(run(name, tmp_path / "none.toml", "--out", tmp_path, DENOVOX_DEVICE="tpu"), "'tpu'")


def test_doctor_checks_its_device_first(tmp_path):
    refuses(run("doctor", tmp_path / "none.nii", "--device", "tpu"), "'tpu'")


# ---- --help, and errors in arguments ------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("denoise", "a.nii"), ("missing argument 'OUTPUT'", "see denovox denoise --help")),
        (("denoise", "a", "b", "--region", "knee"), ("'knee'", "'chest'")),
        (("denoise", "a", "b", "--nothing"), ("--nothing",)),
        (("simulate", "low-dose", "a"), ("see denovox simulate low-dose --help",)),
        (("denois", "a"), ("no such command 'denois'", "see denovox --help")),
    ],
)
def test_wrong_arguments_are_one_sentence(words, says):
    refuses(CliRunner().invoke(main, words, prog_name="denovox"), *says)


def sections(text):
    """Title -> what is listed in a --help, by its first word."""
    found, title = {}, None
    for line in text.splitlines():
        if match := re.fullmatch(r"(\w[\w ]*):", line):
            title = found.setdefault(match[1], [])
        elif title is not None and (match := re.match(r"  (\S+)", line)) and line[2] != " ":
            title.append(match[1].rstrip(","))
    return found


def test_options_are_listed_in_sections():
    listed = sections(run("denoise", "--help").stdout)
    assert listed == {
        "Options": ["--noise-hu", "--samples", "-h"],
        "Input": ["--region", "--series", "--straighten", "--accept-hu"],
        "Output": ["--report", "--like", "--force", "--no-manifest", "--json", "--png"],
        "Model": ["--weights"],
        "Running": [
            *("--device", "--precision", "--tile", "--batch", "--memory", "--seed", "--progress")
        ],
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_option_is_lost_in_sections(words):
    command = COMMANDS[words]
    shown = CliRunner().invoke(main, [*words, "--help"]).stdout
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            assert param.opts[0] in shown
            assert param.help, param.opts


def test_commands_are_listed_in_sections():
    listed = sections(run("--help").stdout)
    assert [*listed] == [
        *("Options", "Restore", "Detect", "Generate", "Many scans"),
        *("Data", "Train", "Evaluate", "Share", "Other"),
    ]
    shown = [name for title, names in listed.items() if title != "Options" for name in names]
    assert sorted(shown) == sorted(main.commands)
    assert all(command.help for command in COMMANDS.values())


def test_at_most_ten_options_besides_shared_ones():
    for words, command in COMMANDS.items():
        assert len(names(command) - SHARED) <= 10, words
