"""What every command that writes a result offers besides it: manifest, --json, --png, progress."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import click
import dicom_cases
import nibabel
import numpy as np
import pytest
from command_line import refuses, run

from denovox.cli.main import main
from denovox.cli.results.account import manifest_of
from denovox.cli.results.command import Cases, Result, Tables
from denovox.cli.results.run import Run
from denovox.core.labels import ID
from denovox.core.version import __version__
from denovox.datasets import executors
from denovox.evaluation import demo
from denovox.inference import model
from denovox.io import nifti
from denovox.reports import manifest as of

FOLDERS = {("calibrate",), ("augment",), ("demo",), ("prepare",)}  # which write to --out


def commands(
    group: click.Group = main, words: tuple[str, ...] = ()
) -> dict[tuple[str, ...], click.Command]:
    found: dict[tuple[str, ...], click.Command] = {}
    for name, command in group.commands.items():
        found[*words, name] = command
        if isinstance(command, click.Group):
            found |= commands(command, (*words, name))
    return found


@pytest.fixture
def scan(tmp_path):
    """scan.nii.gz, a cylinder of tissue in air, in a folder to write to."""
    folder = tmp_path / "Jane Doe"
    folder.mkdir()
    x, y, _ = np.meshgrid(*(np.arange(n) - n / 2 + 0.5 for n in (40, 40, 12)), indexing="ij")
    hu = np.where(np.hypot(x, y) < 16, 40.0, -1000.0)  # clear of the edges
    hu = (hu + 10 * np.random.default_rng(0).standard_normal(hu.shape)).round().astype(np.int16)
    path = folder / "scan.nii.gz"
    nibabel.Nifti1Image(hu, np.diag([-6.0, -6.0, 3.0, 1.0])).to_filename(path)
    return path


def thick(scan: Path, out: object, *more: object) -> tuple[object, ...]:
    return ("simulate", "thick-slices", scan, out, "--thickness", 6, *more)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ---- every command ------------------------------------------------------------------------------


def test_every_command_with_an_output_has_a_manifest_and_a_preview():
    seen = set()
    for words, command in commands().items():
        names = {param.name for param in command.params}
        if "output" in names and words[0] != "batch":
            assert isinstance(command, Result), words
            assert {"no_manifest", "as_json", "png", "progress"} <= names, words
            seen.add(words)
        if words in FOLDERS:
            assert isinstance(command, Tables), words
            assert {"no_manifest", "as_json", "progress"} <= names, words
            assert isinstance(command, Cases) == (words in {("augment",), ("prepare",)})
            seen.add(words)
    assert len(seen) >= 8 + len(FOLDERS)


# ---- what it states -----------------------------------------------------------------------------


def test_the_manifest_of_a_denoised_scan(scan, tiny):
    out, png = scan.with_name("out.nii.gz"), scan.with_name("out.png")
    result = run(
        *("denoise", scan, out, "--weights", tiny, "--region", "abdomen", "--noise-hu", 12),
        *("--seed", 3, "--json", "--png", png, "--progress", "plain", "--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    path = scan.with_name("out.nii.gz.json")
    assert json.loads(result.stdout) == json.loads(path.read_text("utf-8"))
    got = of.read(path)
    assert (got.format, got.command, got.seed) == (1, "denoise", 3)
    (given,) = got.inputs
    assert (given.argument, given.name, given.sha256) == ("INPUT", "scan.nii.gz", sha256(scan))
    affine = nifti.read(scan).affine
    assert given.geometry == of.Geometry.of((40, 40, 12), affine)
    assert (given.modality, given.series_uid) == (None, None)
    (made,) = got.decisions
    (region,) = made.regions
    assert (region.region, region.first_slice, region.last_slice) == ("abdomen", 0, 11)
    (noise,) = made.noise
    assert (noise.sd_hu, noise.estimated) == (12, False)
    assert made.working_grid == (40, 40, 12)
    assert got.settings["noise_hu"] == 12
    assert got.settings["region"] == "abdomen"
    assert not {"input", "output", "png", "weights", "as_json"} & set(got.settings)
    assert got.model is not None
    assert got.model.weights == of.Weights(name=tiny.name, sha256=sha256(tiny))
    assert (got.model.device, got.model.precision) == ("cpu", "float32")
    assert got.versions.denovox == __version__
    assert got.cost.seconds > 0
    assert [(one.name, one.sha256) for one in got.outputs] == [
        (name, sha256(scan.with_name(name))) for name in ("out.nii.gz", "out.png")
    ]
    assert got.outputs[0].geometry == given.geometry
    assert png.read_bytes().startswith(b"\x89PNG")
    said = result.stderr.splitlines()
    percents = [int(line.split()[0]) for line in said if line.endswith(" %")]
    assert percents == sorted(set(percents))
    assert (percents[0], percents[-1], said[-1]) == (0, 100, "100 %")
    assert list(got.notes) == [line for line in said if not line.endswith(" %")]
    assert "Jane" not in path.read_text()
    assert "tmp" not in path.read_text()


def test_the_manifest_is_valid_by_its_schema(scan):
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    result = run(*thick(scan, scan.with_name("out.nii.gz"), "--json"))
    content = json.loads(result.stdout)
    schema = validator(json.loads(of.schema()))
    assert not list(schema.iter_errors(content))
    assert not list(schema.iter_errors({**content, "of a later version": 1}))
    assert list(schema.iter_errors({**content, "command": 1}))


def test_a_dicom_folder_has_a_digest_and_its_series(tmp_path):
    """The digest as coreutils compute it; nothing else of the header."""
    folder = tmp_path / "Doe^Jane"
    shape = (40, 40, 12)
    x, y, _ = np.meshgrid(*(np.arange(n) - n / 2 + 0.5 for n in shape), indexing="ij")
    hu = np.where(np.hypot(x, y) < 16, 40, -1000).astype(np.int16)
    tags = {"PatientName": "Roe^Richard", "PatientID": "17-4711"}
    dicom_cases.series(folder, hu, spacing=(6.0, 6.0, 3.0), tags=tags)
    (folder / "sub").mkdir()
    (folder / "sub" / "note.txt").write_text("ä")
    result = run(*thick(folder, tmp_path / "out", "--json"))
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    for name, known in (("Doe^Jane", content["inputs"]), ("out", content["outputs"])):
        (one,) = known
        script = "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum"
        digest = subprocess.run(
            ["sh", "-c", f"{script} | sha256sum"],
            cwd=tmp_path / name, capture_output=True, text=True, check=True,
        ).stdout.split()[0]  # fmt: skip
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert (one["name"], one["sha256"], one["files"]) == (name, digest, len(files))
        assert one["geometry"]["spacing_mm"][2] == (3 if name == "Doe^Jane" else 6)
    import pydicom

    first = next(path for path in folder.iterdir() if path.is_file())
    assert content["inputs"][0]["series_uid"] == pydicom.dcmread(first).SeriesInstanceUID
    assert content["inputs"][0]["modality"] == "CT"
    written = pydicom.dcmread(next((tmp_path / "out").iterdir())).SeriesInstanceUID
    assert content["outputs"][0]["series_uid"] == written
    for secret in ("Roe", "4711", str(tmp_path)):
        assert secret not in result.stdout


def test_an_image_in_two_files_is_hashed_with_its_voxels(scan, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteImage(sitk.ReadImage(str(scan)), tmp_path / "scan.mhd")
    digests = []
    for _ in range(2):
        result = run(*thick(tmp_path / "scan.mhd", tmp_path / "o.nii.gz", "--json", "--force"))
        (one,) = json.loads(result.stdout)["inputs"]
        assert one["files"] == 2
        digests.append(one["sha256"])
        raw = next(tmp_path.glob("scan.*raw"))
        image = sitk.ReadImage(str(scan)) + 1
        sitk.WriteImage(image, tmp_path / "scan.mhd")
        assert raw.exists()
    assert digests[0] != digests[1]


def test_notes_and_settings_have_no_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "liver.nii.gz").touch()
    command = main.commands["lesion"]
    words = ["in/a b/ct.nii.gz", "out/ct.nii.gz", "--organ", str(tmp_path / "liver.nii.gz")]
    with command.make_context("lesion", words) as ctx:
        ctx.params = {k: v for k, v in ctx.params.items() if k not in ("no_manifest", "as_json")}
        known = Run(context=ctx, manifest=None, as_json=True, png=None, plain=False)
        known.notes += [
            "in/a b/ct.nii.gz: read",
            f"{tmp_path}/in/a b/ct.nii.gz/IM1: left out",
            "'/home/jane/x.dcm' (/a/y): 1/2 of a mg/mL, and/or 3 / 4",
        ]
        got = manifest_of(known)
    assert list(got.notes) == [
        "ct.nii.gz: read",
        "ct.nii.gz/IM1: left out",
        "'x.dcm' (y): 1/2 of a mg/mL, and/or 3 / 4",
    ]
    assert got.settings["organ"] == "liver.nii.gz"
    assert [one.argument for one in got.inputs] == ["INPUT", "--organ"]
    assert [one.sha256 is None for one in got.inputs] == [True, False]


# ---- where it is, and when it is not ------------------------------------------------------------


def test_no_manifest(scan):
    result = run(*thick(scan, scan.with_name("out.nii.gz"), "--no-manifest"))
    assert result.exit_code == 0, result.output
    assert left(scan.parent) == {"scan.nii.gz", "out.nii.gz"}
    result = run(*thick(scan, scan.with_name("b.nii.gz"), "--no-manifest", "--json"))
    assert json.loads(result.stdout)["command"] == "simulate thick-slices"
    assert left(scan.parent) == {"scan.nii.gz", "out.nii.gz", "b.nii.gz"}


def test_what_is_there_is_not_overwritten_and_refused_before_the_work(scan, monkeypatch):
    def work(*given: object, **more: object) -> None:
        raise AssertionError("read")

    kept = scan.with_name("out.nii.gz.json")
    kept.write_text("mine")
    out, png = scan.with_name("out.nii.gz"), scan.with_name("out.png")
    with monkeypatch.context() as patch:
        patch.setattr("denovox.scan.gate.read", work)
        refuses(run(*thick(scan, out)), "out.nii.gz.json already exists", "--force")
        refuses(run(*thick(scan, out, "--no-manifest", "--png", scan)), "--png is INPUT")
        jpeg = scan.with_name("out.jpg")
        refuses(run(*thick(scan, out, "--force", "--png", jpeg)), "must end in .png")
        inside = scan.with_name("series") / "a.png"
        words = thick(scan, inside.parent, "--png", inside)
        refuses(run(*words), "--png", "conflicts with OUTPUT")
        png.touch()
        refuses(run(*thick(scan, out, "--no-manifest", "--png", png)), "out.png already exists")
        report = scan.with_name("map.json")
        result = run("detect", scan, scan.with_name("map"), "--report", report)
        refuses(result, "its manifest", "conflicts with --report")
    assert kept.read_text() == "mine"
    assert left(scan.parent) == {"scan.nii.gz", "out.nii.gz.json", "out.png"}
    assert run(*thick(scan, out, "--force", "--png", png)).exit_code == 0
    assert of.read(kept).outputs[0].sha256 == sha256(out)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError(28, "No space")])
def test_a_command_that_fails_leaves_no_manifest_and_no_output(scan, error, monkeypatch):
    def fail(*given: object) -> None:
        raise error

    monkeypatch.setattr("denovox.reports.manifest.as_text", fail)  # all else has been done
    result = run(*thick(scan, scan.with_name("out.nii.gz"), "--png", scan.with_name("a.png")))
    assert result.exit_code != 0
    assert left(scan.parent) == {"scan.nii.gz"}


def test_an_input_that_goes_during_the_run_loses_nothing(scan, monkeypatch):
    digest = sha256(scan)
    real = nifti.write

    def write(*given: object) -> None:
        scan.unlink()
        real(*given)

    monkeypatch.setattr(nifti, "write", write)
    result = run(*thick(scan, scan.with_name("out.nii.gz"), "--json"))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["inputs"][0]["sha256"] == digest


def test_a_folder_has_its_manifest_beside_it(small_demo, tmp_path):
    """And only the manifest is on stdout."""
    (tmp_path / "demo").mkdir()  # files are moved into a folder that is there, one by one
    (tmp_path / "demo" / "mine.txt").touch()
    result = run("demo", "--out", tmp_path / "demo", "--json", "--progress", "plain")
    assert result.exit_code == 0, result.output
    assert left(tmp_path / "demo") == {*demo.FILES, "mine.txt"}
    content = json.loads(result.stdout)
    names = {one["name"]: one["sha256"] for one in content["outputs"]}
    assert names == {f"demo/{n}": sha256(tmp_path / "demo" / n) for n in demo.FILES}
    assert json.loads((tmp_path / "demo.json").read_text()) == content
    assert "PSNR" in result.stderr


@pytest.fixture
def small_demo(monkeypatch):
    """A quick demo: few voxels, and a denoiser that shrinks towards grey."""
    from denovox.model.presets import PRESETS
    from denovox.model.weights import ModelConfig

    config = ModelConfig(net=PRESETS["tiny"], spacing_mm=(0.7, 9.0))
    toy = model.Model(lambda x, s, told: 0.9 * x / (1 + s), config, Path("none"), "cpu")
    monkeypatch.setattr(model, "load", lambda *given: toy)
    monkeypatch.setattr(demo, "SHAPE", (24, 20, 12))
    monkeypatch.setattr(demo, "SPACING_MM", 8.0)
    monkeypatch.setattr(demo, "STEPS", 2)


def test_a_store_that_is_continued_replaces_its_own_manifest_only(scan, tmp_path, monkeypatch):
    def alone(*given: object, **more: object) -> object:
        return lambda job, entries, *lost: map(job, entries)

    monkeypatch.setattr(executors, "processes", alone)
    source = tmp_path / "source"
    shutil.copytree(scan.parent, source)
    words = ("prepare", source, "--layout", "folder", "--out", tmp_path / "store", "--json")
    for _ in range(2):
        result = run(*words)
        assert result.exit_code == 0, result.output
        got = of.read(tmp_path / "store.json")
        assert json.loads(result.stdout) == got.model_dump(mode="json")
        assert [(one.name, one.sha256) for one in got.inputs] == [("source", None)]
        listed = tmp_path / "store" / "manifest.parquet"
        assert of.Written(name="store/manifest.parquet", sha256=sha256(listed)) in got.outputs
        assert not got.notes  # which name the cases
    (tmp_path / "store.json").write_text('{"mine": 1}')
    refuses(run(*words), "store.json already exists")
    refuses(run(*words, "--dry-run"), "--dry-run", "leave out --json")


# ---- previews -----------------------------------------------------------------------------------


def test_previews_of_a_change_on_another_grid_and_of_a_single_volume(scan, tiny, tmp_path):
    labels = tmp_path / "labels.nii.gz"
    ids = np.full((24, 24, 16), ID["body"])
    nifti.write_labels(ids, np.diag([6.0, 6, 6, 1]), labels)
    out = tmp_path / "out.nii.gz"
    for words in (
        thick(scan, out),
        ("synthesize", out, "--region", "chest", "--anatomy", labels, "--steps", 2, "--weights",
         tiny),
    ):  # fmt: skip
        png = tmp_path / f"{words[0]}.png"
        result = run(*words, "--png", png, "--force")
        assert result.exit_code == 0, result.output
        assert png.read_bytes().startswith(b"\x89PNG")
        assert png.name in {one.name for one in of.read(tmp_path / "out.nii.gz.json").outputs}


def test_hashing_does_not_follow_the_output(tmp_path, scan, monkeypatch):
    """A folder that is read and written to: its digest is that before the run."""
    folder = tmp_path / "ct"
    hu = nifti.read(scan).hu.astype(np.int16)
    dicom_cases.series(folder, hu, spacing=(6.0, 6.0, 3.0))
    before, count = of.file_at(folder).sha256, len(os.listdir(folder))
    result = run(*thick(folder, folder / "out.nii.gz", "--json"))
    assert result.exit_code == 0, result.output
    (given,) = json.loads(result.stdout)["inputs"]
    assert (given["sha256"], given["files"]) == (before, count)
