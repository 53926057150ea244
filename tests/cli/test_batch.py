"""`denovox batch`: the single command for many scans, whatever happens on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import click
import dicom_cases as dc
import nibabel
import numpy as np
import pydicom
import pytest
import ray_nodes
from command_line import refuses, run

from denovox.cli.batch import command, settings, work
from denovox.cli.main import main
from denovox.core import process
from denovox.datasets.executors import here
from denovox.inference import model

ASKED = ("--noise-hu", 20, "--region", "abdomen")


def hu_of(seed, shape=(36, 32, 8)):
    """A round section of soft tissue that changes along z."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.7 - 0.2 * z, 60, -1000) + 0.0
    hu += 20 * np.random.default_rng(seed).standard_normal(shape)
    return np.maximum(hu.round(), -1024).astype(np.int16)


def scan(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(hu_of(seed), np.diag([-4.0, -4.0, 5.0, 1.0])).to_filename(path)
    return path


@pytest.fixture
def scans(tmp_path):
    for number in range(3):
        scan(tmp_path / f"in/p{number}/ct.nii.gz", number)
    return tmp_path / "in"


@pytest.fixture
def batch(monkeypatch, tmp_path, tiny):
    """Runs a batch in this process."""
    monkeypatch.setattr(command, "_engine", lambda given: here)
    work._load.cache_clear()

    def call(*words, name="denoise", out="out", asked=ASKED):
        return run("batch", name, *words, "--out", tmp_path / out, "--weights", tiny, *asked)

    return call


def rows(out):
    return {
        row["id"]: row for row in map(json.loads, (out / "manifest.jsonl").read_text().splitlines())
    }


def files(out):
    every = (p for p in sorted(out.rglob("*.nii.gz")) if p.is_file())
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in every}


def test_the_results_are_those_of_the_single_command(scans, batch, tmp_path, tiny):
    result = batch(scans)
    assert result.exit_code == 0, result.output
    assert "3 scans: 3 to process, 0 already done" in result.stderr
    assert "3 done; see" in result.stderr
    book = rows(tmp_path / "out")
    assert [*book] == ["p0/ct", "p1/ct", "p2/ct"]
    for number, row in book.items():
        single = tmp_path / "single.nii.gz"
        done = run("denoise", scans / f"{number}.nii.gz", single, "--weights", tiny, *ASKED)
        assert done.exit_code == 0
        assert (tmp_path / "out" / row["output"]).read_bytes() == single.read_bytes()
        assert (row["status"], row["input"]) == ("done", str(scans / f"{number}.nii.gz"))
        assert row["seconds"] > 0
        assert re.fullmatch("[0-9a-f]{64}", row["settings_sha256"])
        for each in tmp_path.glob("single*"):
            each.unlink()


def test_one_model_is_loaded_for_all_scans(scans, batch, monkeypatch):
    real, loaded = model.load, []
    monkeypatch.setattr(model, "load", lambda *given: loaded.append(given) or real(*given))
    assert batch(scans).exit_code == 0
    assert len(loaded) == 1


def test_a_second_run_only_does_what_is_left(scans, batch, tmp_path):
    batch(scans)
    before = files(tmp_path / "out")
    times = {p: (tmp_path / "out" / p).stat().st_mtime_ns for p in before}
    scan(scans / "p3/ct.nii.gz", 3)
    scan(scans / "p1/ct.nii.gz", 11)  # changed
    (tmp_path / "out/p2/ct.nii.gz").unlink()
    result = batch(scans)
    assert "4 scans: 3 to process, 1 already done" in result.stderr
    after = files(tmp_path / "out")
    assert (tmp_path / "out/p0/ct.nii.gz").stat().st_mtime_ns == times["p0/ct.nii.gz"]
    assert after["p1/ct.nii.gz"] != before["p1/ct.nii.gz"]
    assert after["p2/ct.nii.gz"] == before["p2/ct.nii.gz"]
    assert {row["status"] for row in rows(tmp_path / "out").values()} == {"done"}


def test_other_settings_need_force(scans, batch, tmp_path):
    batch(scans)
    before = files(tmp_path / "out")
    other = ("--noise-hu", 40, "--region", "abdomen")
    refuses(batch(scans, asked=other), "noise_hu 20.0, now 40.0", "--force")
    assert files(tmp_path / "out") == before
    result = batch(scans, "--force", asked=other)
    assert "3 to process" in result.stderr
    assert all(files(tmp_path / "out")[name] != content for name, content in before.items())
    assert "0 to process, 3 already done" in batch(scans, "--workers", 2, asked=other).stderr


def test_a_scan_that_fails_is_named_and_the_others_are_done(scans, batch, tmp_path):
    (scans / "p1/ct.nii.gz").write_bytes(b"nothing")
    result = batch(scans)
    assert result.exit_code == 2
    assert "p1/ct: refused" in result.stderr
    book = rows(tmp_path / "out")
    assert [row["status"] for row in book.values()] == ["done", "refused", "done"]
    assert "is not a NIfTI file" in book["p1/ct"]["message"]
    assert book["p1/ct"]["output"] == ""
    scan(scans / "p1/ct.nii.gz", 1)
    assert batch(scans).exit_code == 0


def test_an_error_of_the_program_or_the_system_is_a_failed_scan(
    scans, batch, tmp_path, monkeypatch
):
    errors = iter([ZeroDivisionError("oh"), OSError(28, "No space left on device", "x")])

    def fails(volume, **options):
        raise next(errors)

    real = work._load
    monkeypatch.setattr(work, "_load", lambda *given: Broken(real(*given), fails))
    shutil.rmtree(scans / "p2")
    result = batch(scans)
    assert result.exit_code == 1, result.output
    first, second = rows(tmp_path / "out").values()
    assert (first["status"], second["status"]) == ("failed", "failed")
    assert "ZeroDivisionError: oh" in first["message"]
    assert second["message"] == "x: No space left on device"


class Broken:
    """A model whose task fails."""

    def __init__(self, whole, denoise):
        self.whole, self.denoise = whole, denoise

    def __getattr__(self, name):
        return getattr(self.whole, name)


def test_a_worker_that_died_is_a_failed_scan(scans, batch, tmp_path, monkeypatch):
    def engine(job, entries, lost):
        return (lost(one) if "p1" in one.row.id else job(one) for one in entries)

    monkeypatch.setattr(command, "_engine", lambda given: engine)
    result = batch(scans)
    assert result.exit_code == 1
    book = rows(tmp_path / "out")
    assert [row["status"] for row in book.values()] == ["done", "failed", "done"]
    assert "its worker died twice, most likely because memory ran out" in book["p1/ct"]["message"]


@pytest.mark.parametrize("after", [False, True])
def test_a_stop_at_any_moment_neither_repeats_nor_loses_a_scan(
    scans, batch, tmp_path, monkeypatch, after
):
    """Stopped after the first scan, before or after its result is there."""

    def stops(job, entries, lost):
        (first, *_) = entries
        if after:
            job(first)
        raise KeyboardInterrupt
        yield  # a generator

    monkeypatch.setattr(command, "_engine", lambda given: stops)
    result = batch(scans)
    assert result.exit_code == 1
    assert "the same command continues with the 3 scans" in result.stderr
    assert {row["status"] for row in rows(tmp_path / "out").values()} == {"pending"}
    leftover = tmp_path / "out/p1" / f".{'0' * 32}.part"
    leftover.parent.mkdir(exist_ok=True)
    leftover.write_bytes(b"half")
    monkeypatch.setattr(command, "_engine", lambda given: here)
    result = batch(scans)
    assert f"{3 - after} to process, {int(after)} already done" in result.stderr
    assert {row["status"] for row in rows(tmp_path / "out").values()} == {"done"}
    assert not leftover.exists()


def test_a_table_with_options_of_single_scans(scans, batch, tmp_path, tiny):
    table = tmp_path / "scans.csv"
    table.write_text(
        "id,path,Noise-HU,reader\none,in/p0/ct.nii.gz,5,Ada\ntwo,in/p0/ct.nii.gz,,Ada\n"
        "three,in/p1/ct.nii.gz,loud,Ada\n"
    )
    result = batch(table)
    assert result.exit_code == 2
    assert "column 'reader' is not an option of denovox denoise and is not used" in result.stderr
    book = rows(tmp_path / "out")
    assert [book[name]["status"] for name in ("one", "two", "three")] == ["done", "done", "refused"]
    assert f"{table}, line 4:" in book["three"]["message"]
    assert "'loud' is not a valid float" in book["three"]["message"]
    assert book["one"]["settings_sha256"] != book["two"]["settings_sha256"]
    single = tmp_path / "single.nii.gz"
    run("denoise", scans / "p0/ct.nii.gz", single, "--weights", tiny, "--noise-hu", 5, *ASKED[2:])
    assert (tmp_path / "out/one.nii.gz").read_bytes() == single.read_bytes()
    table.write_text(table.read_text().replace("loud", "").replace(",5,", ",6,"))
    assert "2 to process, 1 already done" in batch(table).stderr
    table.write_text("path,samples_\nin/p0/ct.nii.gz,1\n")
    refuses(batch(table, out="other"), "column 'samples_'", "did you mean 'samples'", "rename it")


def test_files_of_a_table_are_beside_it_and_count_as_input(scans, batch, tmp_path):
    roi = tmp_path / "masks/p0.nii.gz"
    roi.parent.mkdir()
    inside = (hu_of(0) > -100).astype(np.uint8)
    nibabel.Nifti1Image(inside, np.diag([-4.0, -4.0, 5.0, 1.0])).to_filename(roi)
    table = tmp_path / "scans.csv"
    table.write_text("path,roi\nin/p0/ct.nii.gz,masks/p0.nii.gz\nin/p1/ct.nii.gz,masks/p1.nii.gz\n")
    result = batch(table, name="detect", asked=())
    book = rows(tmp_path / "out")
    assert all(row["status"] == "refused" for row in book.values()), result.output
    assert "calibrat" in book["p0/ct"]["message"]  # not of these weights: all else was right
    assert "masks/p1.nii.gz" in book["p1/ct"]["message"]
    state = book["p0/ct"]["state"]
    os.utime(roi, ns=(5, 5))
    batch(table, name="detect", asked=())
    assert rows(tmp_path / "out")["p0/ct"]["state"] != state


def test_a_mask_is_asked_for(scans, batch, tmp_path):
    result = batch(scans, name="inpaint", asked=())
    assert result.exit_code == 2
    message = rows(tmp_path / "out")["p0/ct"]["message"]
    assert message.endswith("--mask is not given; add a column 'mask' to a table of the scans")


def archive(root):
    for study, series in ((1, 11), (1, 12), (2, 21)):
        tags = {
            "SeriesInstanceUID": f"{dc.ROOT}.{series}",
            "StudyInstanceUID": f"{dc.ROOT}.{study}",
        }
        made = dc.images(hu_of(series), spacing=(4, 4, 5), tags=tags)
        dc.save(root / f"study{study}" / f"s{series}", made)
    tags = {"SeriesInstanceUID": f"{dc.ROOT}.13", "Modality": "MR"}
    dc.save(root / "study1/mr", dc.images(hu_of(0), spacing=(4, 4, 5), tags=tags))
    return root


def test_an_archive_becomes_one(batch, tmp_path):
    root = archive(tmp_path / "archive")
    result = batch(root, "--format", "dicom")
    assert result.exit_code == 0, result.output
    assert "1 skipped (MR, not CT): study1/mr" in result.stderr
    book = rows(tmp_path / "out")
    done = {name: row["output"] for name, row in book.items() if row["status"] == "done"}
    assert sorted(done) == ["study1/s11", "study1/s12", "study2/s21"]
    for name, output in done.items():
        source, _, number = name.partition("/s")
        made = list((tmp_path / "out" / output).glob("*.dcm"))
        assert len(made) == 8
        first = pydicom.dcmread(made[0])
        assert first.StudyInstanceUID == f"{dc.ROOT}.{source[-1]}"
        assert first.SeriesInstanceUID != f"{dc.ROOT}.{number}"
    before = sorted((tmp_path / "out/study1/s11").iterdir())
    shutil.rmtree(root / "study1/s11")
    tags = {"SeriesInstanceUID": f"{dc.ROOT}.11", "StudyInstanceUID": f"{dc.ROOT}.1"}
    dc.save(root / "study1/s11", dc.images(hu_of(99), spacing=(4, 4, 5), tags=tags))
    assert "1 to process, 2 already done" in batch(root, "--format", "dicom").stderr
    after = sorted((tmp_path / "out/study1/s11").iterdir())
    assert len(after) == 8  # the slices of the earlier result are gone
    assert {p.name for p in before}.isdisjoint(p.name for p in after)


def test_the_result_of_a_series_survives_a_second_try_that_fails(batch, tmp_path):
    root = archive(tmp_path / "archive")
    batch(root, "--format", "dicom")
    before = sorted((tmp_path / "out/study1/s11").iterdir())
    for path in (root / "study1/s11").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    assert batch(root, "--format", "dicom").exit_code == 2
    assert rows(tmp_path / "out")["study1/s11"]["status"] == "refused"
    assert sorted((tmp_path / "out/study1/s11").iterdir()) == before


def test_reports_are_beside_the_results(scans, batch, tmp_path):
    assert batch(scans, "--report").exit_code == 0
    for number in range(3):
        folder = tmp_path / f"out/p{number}/ct_report"
        assert {"index.html", "report.json"} <= {path.name for path in folder.iterdir()}


def test_where_results_cannot_be(scans, batch, tmp_path):
    refuses(batch(scans, out="in"), "--out is SCANS itself")
    refuses(batch(scans, out="."), "SCANS", "inside --out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("")
    refuses(batch(scans, out="mine"), "already contains files")
    (tmp_path / "empty").mkdir()
    refuses(batch(tmp_path / "empty"), "no CT scan was found in SCANS; check the path")
    refuses(batch(tmp_path / "nowhere"), "nowhere does not exist")


def test_every_option_of_the_single_command_is_there_or_a_column():
    group = main.commands["batch"]
    assert isinstance(group, click.Group)
    for name, single in work.SINGLE.items():
        there = {param.name for param in group.commands[name].params}
        own = {param.name for param in single.params} - there
        assert own <= {"input", "output", "as_json", "progress", *settings.OWN_COLUMNS}, name
        assert "weights" in there


def test_cores_are_shared(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "12")
    assert settings.cores() == 12
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert settings.cores() == len(os.sched_getaffinity(0))


def test_memory_is_shared(monkeypatch):
    monkeypatch.setattr(process, "free_mb", lambda: 8000.0)
    assert settings._share("6GB", 3) == "2000MB"
    assert settings._share(None, 2) == "2000MB"
    assert settings._share("6GB", 1) == "6GB"
    assert settings._share(None, 1) is None


# ---- in processes -------------------------------------------------------------------------------


def start(*words):
    line = [sys.executable, "-m", "denovox", "batch", "denoise", *map(str, words)]
    path = os.pathsep.join(sys.path)
    return subprocess.Popen(
        line, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )


def until(running, condition):
    """Wait until a condition holds, while a process runs."""
    while not condition():
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.02)


def done(out):
    path = out / "manifest.jsonl"
    return sum(row["status"] == "done" for row in rows(out).values()) if path.exists() else 0


@pytest.mark.slow
def test_a_batch_that_is_killed_is_completed(tmp_path, tiny):
    for number in range(6):
        scan(tmp_path / f"in/{number}.nii.gz", number)
    out = tmp_path / "out"
    words = (tmp_path / "in", "--out", out, "--weights", tiny, *ASKED, "--workers", 2)
    with start(*words) as first:
        until(first, lambda: done(out) >= 2)
        first.kill()
    time.sleep(1)  # its workers end
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    assert len(before) < 6
    second = start(*words)
    _, said = second.communicate()
    assert second.returncode == 0, said
    assert f"{len(before)} already done" in said
    assert done(out) == 6
    for path, when in before.items():
        assert path.stat().st_mtime_ns == when
    assert not list(out.rglob(".*.part"))


@pytest.mark.slow
def test_a_folder_that_fills_is_watched(tmp_path, tiny):
    out = tmp_path / "out"
    (tmp_path / "in").mkdir()
    watched = start(
        *(tmp_path / "in", "--out", out, "--weights", tiny, *ASKED, "--watch", "--quiet-time", 1)
    )
    scan(tmp_path / "1.nii.gz", 1).rename(tmp_path / "in/1.nii.gz")
    until(watched, lambda: done(out) == 1)
    whole = (tmp_path / "in/1.nii.gz").read_bytes()
    with open(tmp_path / "in/2.nii.gz", "wb") as arriving:
        for part in range(4):
            arriving.write(whole[part * len(whole) // 4 : (part + 1) * len(whole) // 4])
            arriving.flush()
            assert "2" not in rows(out)
            time.sleep(0.5)
    until(watched, lambda: done(out) == 2)
    watched.send_signal(signal.SIGTERM)
    _, said = watched.communicate(timeout=60)
    assert watched.returncode == 0, said
    assert "2 done; see" in said
    assert rows(out)["2"]["status"] == "done"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_ray_node_killed_half_way_costs_no_scan(tmp_path, tiny, monkeypatch, cluster):
    nodes, second = cluster
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    for number in range(6):
        scan(tmp_path / f"in/{number}.nii.gz", number)
    real, finished = command.Run.finished, []

    def noted(self, row):
        real(self, row)
        finished.append(row.id)
        if len(finished) == 2:
            nodes.remove_node(second, allow_graceful=False)

    monkeypatch.setattr(command.Run, "finished", noted)
    asked = ("--weights", tiny, *ASKED, "--engine", "ray")
    result = run("batch", "denoise", tmp_path / "in", "--out", tmp_path / "out", *asked)
    assert result.exit_code == 0, result.output
    assert sorted(finished) == [str(number) for number in range(6)]
    monkeypatch.setattr(command, "_engine", lambda given: here)
    run("batch", "denoise", tmp_path / "in", "--out", tmp_path / "here", *asked[:-2])
    assert files(tmp_path / "out") == files(tmp_path / "here")


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes with one CPU each."""
    yield from ray_nodes.two(monkeypatch)
