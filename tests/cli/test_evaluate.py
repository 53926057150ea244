"""`denovox evaluate` at the command line: its groups, their help, and the old spelling."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner, Result

from denovox import tasks
from denovox.cli.main import main
from denovox.evaluation.lesions import study
from denovox.evaluation.protocols import KINDS, PROTOCOLS
from denovox.inference import inpaint
from denovox.metrics.results import Results
from denovox.model import weights
from denovox.simulate import phantom


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def refuses(result: Result, *says: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("denovox: ")
    for word in says:
        assert word in line, line


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder with one pair of scans."""
    hu = np.random.default_rng(0).uniform(-100, 100, (14, 12, 3))
    hu[0] = -1000
    for name in ("reference", "test"):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        image = nibabel.Nifti1Image((hu + 4 * (name == "test")).astype(np.float32), np.eye(4))
        image.to_filename(tmp_path / "pairs" / name / "a.nii.gz")
    return tmp_path / "pairs"


def test_help_lists_all_protocols_and_each_group_its_own():
    text = " ".join(run("--help").stdout.split())
    for row in PROTOCOLS:
        assert f"{row.kind} {row.short or row.name} " in text
    for kind in KINDS:
        lines = run(kind, "--help").stdout.splitlines()
        names = {line.split()[0] for line in lines if line.startswith("  ") and line.split()}
        for row in PROTOCOLS:
            assert ((row.short or row.name) in names) == (row.kind == kind), (kind, row.name)


def test_unknown_words_get_one_sentence(pairs, tmp_path):
    out = ("--out", tmp_path / "out")
    refuses(run("rplhr", pairs, *out), "use `denovox evaluate pairs rplhr`")
    refuses(run("simulated-dose", pairs, *out), "use `denovox evaluate simulated dose`")
    refuses(run("pears", "rplhr", pairs, *out), "'pears' is not known (did you mean 'pairs'?)")
    refuses(run("mayo16", pairs, *out), "'mayo16' is not known", "pairs, simulated, realism")
    refuses(run("pairs", "rplhrr", pairs, *out), "(did you mean 'rplhr'?)")
    refuses(run("pairs", "dose", pairs, *out), "`denovox evaluate simulated`, not of pairs")
    refuses(run("pairs", "radiomic", pairs, *out), "`denovox evaluate realism`")
    assert not (tmp_path / "out").exists()


def test_a_group_has_its_own_options_alone(pairs, tmp_path):
    out = ("--out", tmp_path / "out")
    for given, option in (
        (("pairs", "rplhr", pairs, "--dose", 0.5), "--dose"),
        (("pairs", "rplhr", pairs, "--save", tmp_path / "kept"), "--save"),
        (("realism", "radiomic", pairs, "--dose", 0.5), "--dose"),
        (("realism", "radiomic", pairs, "--weights", "x"), "radiomic does not use --weights"),
        (("simulated", "slab", pairs, "--dose", 0.5), "simulated-slab does not use --dose"),
        (("simulated", "dose", pairs, "--factor", 3), "simulated-dose does not use --factor"),
        (("lesions", "generation", pairs, "--region", "chest"), "--region"),
        (("pairs", "rplhr", pairs, "--region", "chest"), "--region"),
    ):
        result = run(*given, *out)
        assert result.exit_code == 2, result.output
        assert option in result.stderr.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs"]


@pytest.mark.slow
def test_lesion_protocols_get_the_control(tmp_path, tiny, tiny_lesion, monkeypatch):
    chest = phantom.chest((64, 56, 40), 5.0)
    received = {}

    def short(y, known, noise, schedule, steps, jumps, *level):
        return tasks.inpainting(y, known, noise, schedule, 3, jumps, *level)

    def fake(name, data, add, remove, config, options, sha):
        numbers = np.zeros(chest.ct.shape, np.uint8)
        numbers[30:33, 30:33, 20:22] = 1
        hole = inpaint.around(numbers > 0, chest.ct.spacing_mm)
        for result in (add(chest.ct, numbers, 3), remove(chest.ct, hole, 3)):
            assert np.array_equal(result.hu[~hole], chest.ct.hu[~hole])
            assert not np.array_equal(result.hu[hole], chest.ct.hu[hole])
        received.update(name=name, data=data, method=config.method, seed=options.seed, sha=sha)
        return Results(name, str(data), (), {}, sha, "0", (), ())

    monkeypatch.setattr(inpaint, "inpainting", short)
    monkeypatch.setattr(study, "evaluate_lesions", fake)
    given = ("--out", tmp_path / "out", "--weights", tiny_lesion, "--tile", 32, "--seed", 4)
    result = run("lesions", "inpainting", tmp_path / "store", *given, "--method", "ours")
    assert result.exit_code == 0, result.output
    assert received == {
        "name": "lesion-inpainting", "data": tmp_path / "store", "method": "ours", "seed": 4,
        "sha": weights.sha256(tiny_lesion),
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "figures.json").read_text())["weights"] == received["sha"]
    refuses(run("lesions", "generation", tmp_path / "store", *given), "--force")
