"""What a command writes is checked before the work, and appears as a whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pydicom
import pytest
from command_line import refuses, run
from round_body import SHAPE, save, scans
from tiny_store import RECIPE, make_store

from denovox.datasets import store
from denovox.inference import lesions, model, posterior

Usage = namedtuple("Usage", "total used free")
ODD = os.fsdecode(b"M\xfcl\nler \t\xe2\x80\xae.nii.gz")


@pytest.fixture
def scan(tmp_path):
    """A folder to write to, with scan.nii.gz, mask.nii.gz and the same as DICOM, ct."""
    return scans(tmp_path) / "scan.nii.gz"


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What follows `denovox`, with OUT for the output; all in the folder of the scan.
COMMANDS = {
    "denoise": "denoise scan.nii.gz OUT.nii.gz",
    "superres": "superres scan.nii.gz OUT.nii.gz --factor 2",
    "detect": "detect scan.nii.gz OUT.nii.gz",
    "lesion": "lesion scan.nii.gz OUT.nii.gz --mask mask.nii.gz",
    "inpaint": "inpaint scan.nii.gz OUT.nii.gz --mask mask.nii.gz",
    "synthesize": "synthesize OUT.nii.gz --region chest --shape 16x32x32 --spacing 4",
    "low dose": "simulate low-dose scan.nii.gz OUT.nii.gz",
    "thick slices": "simulate thick-slices scan.nii.gz OUT.nii.gz --thickness 10",
    "calibrate": "calibrate scan.nii.gz --out OUT",
    "evaluate": "evaluate simulated dose scan.nii.gz --out OUT",
    "save": "evaluate simulated dose scan.nii.gz --out figures --save OUT",
    "pairs": "evaluate pairs mayo16-redcnn ct --out OUT",
    "report": "denoise scan.nii.gz fine.nii.gz --report OUT",
    "JSON": "detect scan.nii.gz fine.nii.gz --report OUT.json",
    "SD": "denoise scan.nii.gz OUT.nii.gz --samples 2",
}
PLACES = {
    "x" * 256: "File name too long (2",
    "file/out": "file is a file, not a folder",
    "none/out": "none does not exist; create it first",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_that_cannot_be_written_is_refused_before_the_work(
    command, place, scan, idle, monkeypatch
):
    monkeypatch.chdir(scan.parent)
    Path("file").touch()
    before = left(scan.parent)
    refuses(run(*COMMANDS[command].replace("OUT", place).split()), PLACES[place])
    assert left(scan.parent) == before


@pytest.mark.parametrize("command", ["SD", "lesion"])
def test_names_of_the_files_that_go_with_the_output_have_to_fit_too(command, scan, idle):
    out = scan.with_name("x" * 248)  # with .nii.gz this is the longest name
    words = COMMANDS[command].replace("scan.", f"{scan.parent}/scan.").replace("OUT", str(out))
    refuses(run(*words.replace(" mask", f" {scan.parent}/mask").split()), "File name too long (2")


WAYS = {
    "denoise scan.nii.gz scan.nii.gz": "OUTPUT is INPUT itself (scan.nii.gz)",
    "denoise scan.nii.gz ct/../scan.nii.gz": "OUTPUT is INPUT itself (scan.nii.gz)",
    "denoise scan.nii.gz new/out.nii.gz --report new": "OUTPUT (new/out.nii.gz) conflicts with",
    "denoise ct out.nii.gz --report ct": "--report is INPUT itself (ct)",
    "superres scan.nii.gz scan.nii.gz --factor 2": "OUTPUT is INPUT itself",
    "detect scan.nii.gz mask.nii.gz --roi mask.nii.gz": "OUTPUT is --roi itself (mask.nii.gz)",
    "lesion scan.nii.gz mask.nii.gz --mask mask.nii.gz": "OUTPUT is --mask itself (mask.nii.gz)",
    "lesion scan.nii.gz x.nii.gz --mask x_mask.nii.gz": "its mask is --mask itself",
    "inpaint scan.nii.gz mask.nii.gz --mask mask.nii.gz": "OUTPUT is --mask itself",
    "synthesize mask.nii.gz --region chest --anatomy mask.nii.gz": "OUTPUT is --anatomy itself",
    "simulate low-dose scan.nii.gz scan.nii.gz": "OUTPUT is INPUT itself",
    "simulate thick-slices scan.nii.gz scan.nii.gz --thickness 10": "OUTPUT is INPUT itself",
    "evaluate simulated dose ct --out new --save new": "(new) conflicts with",
    "evaluate simulated dose ct --out ct": "--out is the data itself (ct)",
}


@pytest.mark.parametrize("words", WAYS)
def test_no_output_overwrites_an_input_or_another_output(words, scan, idle, monkeypatch):
    monkeypatch.chdir(scan.parent)
    shutil.copy("mask.nii.gz", "x_mask.nii.gz")
    Path("new").mkdir()
    before = {path: path.read_bytes() for path in scan.parent.glob("*.nii.gz")}
    refuses(run(*words.split(), "--force"), WAYS[words])
    assert {path: path.read_bytes() for path in scan.parent.glob("*.nii.gz")} == before


@pytest.mark.parametrize(
    "command",
    ["denoise", "superres", "detect", "lesion", "inpaint", "synthesize", "low dose", "SD"],
)
def test_a_result_that_cannot_fit_on_the_disk_is_refused_before_the_work(
    command, scan, idle, monkeypatch
):
    monkeypatch.chdir(scan.parent)
    before = left(scan.parent)
    name = "out" if command != "detect" else "out.nii #"  # a map is packed to nothing
    words = COMMANDS[command].replace("OUT", name).partition("#")[0].split()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 1000))
    refuses(run(*words), "out.nii", "MB free; free some space")
    assert left(scan.parent) == before


@pytest.mark.parametrize(
    "words",
    [
        "prepare scans --layout folder --out OUT",
        "pretrain recipe.toml --out OUT",
        "pack recipe.toml --out OUT --wheels wheels",
        "augment store --out OUT",
    ],
)
def test_what_runs_for_hours_asks_for_its_disk_space_first(words, scan, idle, monkeypatch):
    monkeypatch.chdir(scan.parent)
    make_store(Path("store"), lesions=True)
    Path("recipe.toml").write_text(RECIPE.format(store="store", steps=4))
    Path("wheels").mkdir()
    Path("scans").mkdir()
    scan.rename("scans/a.nii.gz")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 1000))
    out = "new/folder" if words[:3] in ("pre", "pac") and "prepare" not in words else "out"
    result = run(*words.replace("OUT", out).split())
    refuses(result, f"{out}", "MB are needed", f"{scan.parent} has 0.0 MB free; free some space")
    written = [path for path in Path(out).rglob("*") if path.is_file()]
    assert all(path.name.startswith(".") or path.suffix == ".json" for path in written), written


def test_a_report_of_too_little_body_is_refused_before_the_work(scan, idle, monkeypatch):
    monkeypatch.setattr("denovox.reports.faithfulness.LEAST", 10**6)
    report = ("--report", scan.with_name("report"), "--region", "abdomen")
    result = run("denoise", scan, scan.with_name("out.nii.gz"), *report)
    refuses(result, "a report needs 1000000 voxels within the body, but the scan has")


# ---- what is said about the files that it reads -------------------------------------------------


def twice(source: Path, target: Path) -> None:
    """A mask of liver whose header states the voxel size twice, .1 % apart; and as NRRD."""
    image = nibabel.load(source)
    mask = np.asarray(image.dataobj)
    image.header.set_qform(image.affine @ np.diag([1.001, 1.001, 1.001, 1]), 1)
    image.header.set_sform(image.affine, 1)
    names = b'<Label Key="1" Red="1"><![CDATA[liver]]></Label>'
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, names))
    image.to_filename(target)
    head = (
        f"NRRD0004\ntype: uint8\ndimension: 3\nspace: RAS\nsizes: {' '.join(map(str, SHAPE))}\n"
        "space directions: (-4,0,0) (0,-4,0) (0,0,5)\nspacings: 4.004 4.004 5.005\n"
        "space origin: (0,0,0)\nencoding: raw\nSegment0_LabelValue:=1\nSegment0_Name:=liver\n\n"
    )
    target.with_name("noted.nrrd").write_bytes(head.encode() + mask.astype("u1").tobytes("F"))


NOTED = {
    "lesion scan.nii.gz out.nii.gz --mask MASK": "MASK",
    "lesion scan.nii.gz out.nii.gz --organ liver.nii.gz": "liver.nii.gz",
    "inpaint scan.nii.gz out.nii.gz --mask MASK": "MASK",
    "inpaint scan.nii.gz out.nii.gz --mask mask.nii.gz --with-lesion MASK": "MASK",
    "detect scan.nii.gz out.nii.gz --roi MASK": "MASK",
    "synthesize out.nii.gz --region chest --anatomy MASK": "MASK",
    "synthesize out.nii.gz --region chest --anatomy mask.nii.gz --lesions MASK": "MASK",
    "view scan.nii.gz --mask MASK --out out.html": "MASK",
    "calibrate scan.nii.gz --lesions scan.nii.gz MASK --out out": "MASK",
}


@pytest.mark.parametrize("mask", ["noted.nii.gz", "noted.nrrd", "noted.nii.gz:liver"])
@pytest.mark.parametrize("words", NOTED)
def test_a_mask_that_states_its_geometry_twice_is_noted(words, mask, scan, monkeypatch):
    """As for a scan: by sform (used) and qform (.1 % off), or by directions and spacings."""
    monkeypatch.chdir(scan.parent)
    stub = SimpleNamespace(control=None, path=scan)
    monkeypatch.setattr(model, "load", lambda *given: stub)
    for of in ("denovox.inference.anomaly.detection.calibrate", "denovox.inference.lesions.add"):
        monkeypatch.setattr(of, lambda *given: [])
    twice(Path("mask.nii.gz"), Path("noted.nii.gz"))
    shutil.copy("noted.nii.gz", "liver.nii.gz")
    result = run(*words.replace("MASK", mask).split())
    lines = [line for line in result.stderr.splitlines() if "voxels are 4" in line]
    file = NOTED[words].replace("MASK", mask).removesuffix(":liver")
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"{file}: voxels are 4 x 4 x 5 mm by its ")


def test_a_mask_in_a_store_has_its_notes_in_the_manifest(scan, monkeypatch):
    monkeypatch.chdir(scan.parent)
    Path("scans").mkdir()
    twice(Path("mask.nii.gz"), Path("scans/a_seg.nii.gz"))
    Path("scans/noted.nrrd").unlink()
    scan.rename("scans/a.nii.gz")
    result = run("prepare", "scans", "--layout", "folder", "--out", "store", "--workers", 1)
    assert result.exit_code == 0, result.output
    (case, *_) = store.cases("store")
    assert any("a_seg.nii.gz: voxels are 4 x 4 x 5 mm by its sform" in x for x in case.facts.notes)


@pytest.mark.parametrize("command", ["denoise", "lesion", "detect"])
def test_notes_on_the_series_of_like_are_given_once(command, scan, idle, monkeypatch):
    monkeypatch.chdir(scan.parent)
    Path("ct/report.pdf").write_bytes(b"%PDF")
    words = COMMANDS[command].replace("OUT.nii.gz", "out")
    result = run(*words.split(), "--like", "ct")
    assert isinstance(result.exception, AssertionError)  # it came to the model
    assert result.stderr.count("ct: left out: 1 file, not DICOM (report.pdf)") == 1


# ---- all or none --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 1, 2, 3, 4])
def test_a_lesion_has_all_of_its_files_or_none(at, scan, tiny_lesion, monkeypatch):
    """`at`: of the mask, the list, the DICOM SEG, the scan and the manifest, the one that cannot be
    renamed."""
    monkeypatch.setattr(
        lesions, "add", lambda engine, context, plan, options: lesions.Edited(
            context.volume, plan.numbers, plan.placed
        )
    )  # fmt: skip
    dicom = scan.with_name("ct")
    for path in dicom.iterdir():
        found = pydicom.dcmread(path)
        del found.FrameOfReferenceUID
        found.save_as(path)
    mask = save(np.asarray(nibabel.load(scan.with_name("mask.nii.gz")).dataobj),
                scan.with_name("mask.nii.gz"))  # fmt: skip
    words = ("lesion", dicom, scan.with_name("out.nii.gz"), "--mask", mask,
             "--weights", tiny_lesion)  # fmt: skip
    before = left(scan.parent)
    names = ["out_mask.nii.gz", "out_lesions.json", "out_mask.dcm", "out.nii.gz"]
    names.append("out.nii.gz.json")
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target).name == names[at] and Path(source).name != names[at]:
            raise OSError(5, "Input/output error")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        result = run(*words)
    refuses(result, f"{names[at]} could not be written (Input/output error); check the disk")
    assert left(scan.parent) == before
    assert "there is no valid FrameOfReferenceUID" in result.stderr
    result = run(*words)  # nothing is in the way of the next try
    assert result.exit_code == 0, result.output
    assert set(left(scan.parent)) - set(before) == set(names)


@pytest.mark.slow
def test_a_denoised_scan_has_its_sd_map_and_report_or_nothing(scan, tiny, monkeypatch):
    def fail(*given: object) -> None:
        raise KeyboardInterrupt

    words = ("denoise", scan, scan.with_name("out.nii.gz"), "--samples", 2, "--weights", tiny,
             "--region", "abdomen", "--noise-hu", 15,
             "--report", scan.with_name("report"))  # fmt: skip
    monkeypatch.setattr(posterior, "samples", unchanged)
    before = left(scan.parent)
    with monkeypatch.context() as patch:
        patch.setattr("denovox.io.nifti_bytes.atomic.user_output", fail)
        assert run(*words).exit_code == 1
    assert left(scan.parent) == before
    with monkeypatch.context() as patch:
        full = OSError(28, "No space left on device")
        fsync, calls = os.fsync, []

        def sync(number: int) -> None:
            calls.append(number)
            if len(calls) == 2:  # of the SD map and the scan
                raise full
            fsync(number)

        patch.setattr(os, "fsync", sync)
        refuses(run(*words), "out.nii.gz could not be written (No space left on device); free some")
    assert left(scan.parent) == before
    result = run(*words)
    assert result.exit_code == 0, result.output
    new = {"out.nii.gz", "out_sd.nii.gz", "report", "out.nii.gz.json"}
    assert set(left(scan.parent)) - set(before) == new


def unchanged(engine, context, n, options):
    """In place of samples of the model: the scan itself, with an SD of 1 HU."""
    volume = context.volume
    return posterior.Posterior(volume, volume.with_hu(np.ones_like(volume.hu)), 1)


STOPPED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup and & ignore these two
signal.signal(signal.SIGHUP, signal.SIG_DFL)
import numpy as np
from denovox.inference import posterior
from denovox.io import nifti
def unchanged(engine, context, n, options):
    volume = context.volume
    return posterior.Posterior(volume, volume.with_hu(np.ones_like(volume.hu)), 1)
posterior.samples = unchanged
real = nifti.write
def write(volume, path, force):
    real(volume, path, force)
    print("written", flush=True)
    time.sleep(60)
nifti.write = write
from denovox.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_between_two_files_leaves_neither(scan, tiny, number):
    before = left(scan.parent)
    words = ("denoise", scan, scan.with_name("out.nii.gz"), "--samples", 2, "--weights", tiny,
             "--region", "abdomen", "--noise-hu", 15)  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, *map(str, words)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "written\n"  # the SD map
        assert len(left(scan.parent)) == len(before) + 1  # under a hidden name
        time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(60) == (1 if number == signal.SIGINT else 128 + number)
    assert left(scan.parent) == before


# ---- names --------------------------------------------------------------------------------------


def test_names_of_any_bytes_go_in_and_out(scan, tiny, monkeypatch):
    """And are text that any reader takes in the report."""
    monkeypatch.chdir(scan.parent)
    shutil.copy(scan, ODD)
    report = Path(os.fsdecode(b"\xff report"))
    words = ("--weights", tiny, "--noise-hu", 15, "--region", "abdomen", "--report", report)
    result = run("denoise", ODD, f"out {ODD}", *words)
    assert result.exit_code == 0, result.output
    assert Path(f"out {ODD}").exists()
    page = (report / "index.html").read_text("utf-8")
    assert r"M\xfcl\nler \t\u202e.nii.gz" in page
    result = run("detect", ODD, "map.nii.gz", "--weights", tiny, "--report", "map.json",
                 "--roi", "no" + ODD)  # fmt: skip
    refuses(result, r"noM\xfcl\nler \t\u202e.nii.gz does not exist")
    Path("-x.nii.gz").touch()
    refuses(run("denoise", "-x.nii.gz", "out.nii.gz"), "give the file -x.nii.gz as ./-x.nii.gz")
    figures = run("evaluate", "pairs", "mayo16-redcnn", listed(scan), "--out", "figures")
    assert figures.exit_code == 0, figures.output
    text = json.loads(Path("figures/figures.json").read_text())
    assert text["files"][0]["test"] == f"{scan.parent}/M\\xfcller.nii.gz"
    assert r"M\xfcl" in Path("figures/figures.md").read_text("utf-8")


def listed(scan: Path) -> Path:
    """A list as Excel saves it, of files from a ZIP that was made on Windows."""
    shutil.copy(scan, scan.with_name(os.fsdecode(b"M\xfcller.nii.gz")))
    table = scan.with_name(os.fsdecode(b"M\xfcller.csv"))
    rows = "patient;reference;test\r\nMüller, J.;scan.nii.gz;.\\Müller.nii.gz\r\n"
    table.write_bytes(rows.encode("cp1252"))
    return table


ONE_AFTER_ANOTHER = """
import sys
from denovox.cli.main import main
from denovox.inference.cost import timing
timed = timing.time_tile
timing.time_tile = lambda model: timed(model, 32, 0.01)
for encoding in ("ascii", "latin-1", "utf-8"):
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding=encoding, errors="strict")
    for code, *words in ((0, "doctor"), (0, "doctor", "--json"), (2, "denoise", sys.argv[1])):
        try:
            main([*words, sys.argv[1]])
        except SystemExit as end:
            assert end.code == code, words
"""


@pytest.mark.slow
def test_no_encoding_of_the_terminal_ends_in_a_traceback(scan):
    shutil.copy(scan, scan.with_name(ODD))
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_ANOTHER, ODD], cwd=scan.parent, capture_output=True,
        env={**os.environ, **env}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout.count(rb"M\xfcl\nler") >= 3  # once in each encoding
    assert done.stdout.count(rb"M\\xfcl\\nler") >= 3  # in JSON
    assert done.stderr.count(rb"M\xfcl\nler") >= 3
