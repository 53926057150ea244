"""`denovox evaluate all`: held-out cases alone, each part once, reasons for what is missing."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import command_line
import numpy as np
import pytest
from command_line import refuses

from denovox.core.regions import REGIONS
from denovox.datasets import store
from denovox.evaluation.evidence import parts, rivals, study
from denovox.evaluation.evidence.page import section
from denovox.evaluation.evidence.study import central
from denovox.inference.model import Model
from denovox.metrics.bootstrap import Interval
from denovox.metrics.results import Figure, Results, as_json
from denovox.scan.body_regions import RegionSpan
from denovox.simulate import phantom

run = partial(command_line.run, "evaluate", "all")
SPACING = (3.0, 3.0, 2.0)


@pytest.fixture
def prepared(tmp_path) -> Path:
    """A store of three procedural chests: ann trains, bob and cid are held out."""
    folder = tmp_path / "store"
    for seed, patient in enumerate(("ann", "bob", "cid")):
        drawn = phantom.chest((104, 80, 30), SPACING, seed)
        noisy = phantom.add_noise(drawn.ct, 8, seed)
        facts = store.CaseFacts(
            id=patient,
            patient=patient,
            region="chest",
            spacing_mm=SPACING,
            affine=tuple(np.diag([*SPACING, 1]).ravel()),
            split="train" if patient == "ann" else "validation",
            sha256=patient,
        )
        store.add(folder, facts, np.rint(noisy.hu).astype(np.int16), drawn.labels)
    store.index(folder)
    return folder


def figures(folder: Path) -> dict:
    return json.loads((folder / "figures.json").read_text())


@pytest.mark.slow
def test_every_part_runs_on_held_out_cases_alone_and_a_second_run_adds_what_is_missing(
    prepared, tiny, tmp_path, monkeypatch
):
    out = tmp_path / "deep" / "out"
    monkeypatch.setattr(study, "TRAINING", study.TRAINING.model_copy(update={"steps": 2}))
    given = [prepared, "--out", out, "--weights", tiny, "--rivals", "tv,red-cnn", "--slices", 16]
    first = run(*given, "--only", "dose-0.25", "--only", "planted-lesions")
    assert first.exit_code == 0, first.output
    page = (out / "evidence.md").read_text()
    assert first.stdout == page
    assert "--slices 16 --rivals tv,red-cnn --only dose-0.25 --only planted-lesions" in page
    assert "red-cnn: the published network, trained on 1 scans of other patients" in page
    assert "- planted-lesions: no calibration of the weights" in page  # of these, none comes along
    told = figures(out / "dose-0.25")
    assert {fact["patient"] for fact in told["files"]} == {"bob", "cid"}
    methods = {one["method"] for one in told["figures"]}
    assert methods == {"0.25 of the dose", "tv", "red-cnn", "denovox"}
    assert all(one["patients"] == 2 for one in told["figures"] if "psnr" in one["name"])
    (gain,) = [
        one for one in told["figures"] if one["name"] == "chest psnr gain over 0.25 of the dose"
    ]
    by_method = {
        one["method"]: one["value"] for one in told["figures"] if one["name"] == "chest psnr"
    }
    assert gain["value"] == pytest.approx(by_method["denovox"] - by_method["0.25 of the dose"])

    monkeypatch.setitem(parts.PARTS, "dose-0.25", None)  # would fail if it were run again

    def synthesize(self, region, shape, spacing_mm, anatomy, options):  # by no random network
        assert anatomy.shape == shape
        return phantom.add_noise(phantom.chest(shape, spacing_mm, 7).ct, 8, 7)

    monkeypatch.setattr(Model, "synthesize", synthesize)
    more = ("dose-0.25", "realism", "simulated-slab", "simulated-slab-2")
    second = run(*given, *(word for name in more for word in ("--only", name)))
    assert second.exit_code == 0, second.output
    page = second.stdout
    assert "Not measured" not in page, page
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        f"## {name}" for name in more
    ]
    weights = {figures(out / name)["weights"] for name in more}
    assert weights == {figures(out / "dose-0.25")["settings"]["evidence"]["weights"]}
    kinds = {(fact["set"], fact["patient"]) for fact in figures(out / "realism")["files"]}
    held = {(kind, patient) for kind in ("real", "synthetic") for patient in ("bob", "cid")}
    assert kinds == held | {("training", "ann")}


def test_other_settings_are_another_measurement(prepared, tiny, tmp_path, monkeypatch):
    times = []

    def part(study):
        times.append(1)
        return study.results("counted", (), (f"run {len(times)}",))

    monkeypatch.setattr(parts, "PARTS", {"counted": part})
    monkeypatch.setattr("denovox.evaluation.evidence.page.PARTS", parts.PARTS)
    given = [prepared, "--out", tmp_path / "out", "--weights", tiny, "--rivals", "none"]
    for more, count in (([], 1), ([], 1), (["--most", 1], 2), (["--most", 1], 2), ([], 3)):
        result = run(*given, *more)
        assert result.exit_code == 0, result.output
        assert len(times) == count
        assert f"- run {count}" in result.stdout


def test_another_control_is_another_measurement_of_lesions_alone(
    prepared, tiny, tmp_path, monkeypatch
):
    ran = []

    def part(name, study):
        ran.append(name)
        return study.results(name, (), ())

    counted = {name: partial(part, name) for name in ("counted", "lesion-counted")}
    monkeypatch.setattr("denovox.evaluation.evidence.page.PARTS", counted)
    monkeypatch.setattr(parts, "PARTS", counted)
    control = tmp_path / "control.safetensors"
    given = [prepared, "--out", tmp_path / "out", "--weights", tiny, "--rivals", "none"]
    for content, new in (
        ("a", ["counted", "lesion-counted"]),
        ("a", []),
        ("b", ["lesion-counted"]),
    ):
        control.write_text(content)
        ran.clear()
        result = run(*given, "--lesion-control", control)
        assert result.exit_code == 0, result.output
        assert ran == new


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--only", "dose-0.2"], "there is no part 'dose-0.2' (did you mean 'dose-0.25'?)"),
        (["--rivals", "tv,median"], "there is no rival 'median'"),
        (["--slices", 4], "--slices"),
    ],
)
def test_bad_options(prepared, tmp_path, given, says):
    refuses(run(prepared, "--out", tmp_path / "out", *given), says)
    assert not (tmp_path / "out").exists()


def test_a_store_without_held_out_cases(prepared, tiny, tmp_path):
    for case in store.cases(prepared):
        rows = [case.facts.model_copy(update={"split": "train"})]
        store.finish(prepared / case.facts.patient, rows)
    store.index(prepared)
    result = run(prepared, "--out", tmp_path / "out", "--weights", tiny)
    refuses(result, "held-out")


def test_a_table_has_methods_as_columns_figures_as_rows_and_gains_under_the_other_method():
    def figure(name, method, value, low, unit="dB", better="higher", scans=2):
        interval = Interval(low, None if low is None else low + 2, 9)
        return Figure(name, value, interval, 2, scans, unit, method, better)

    figures = (
        figure("chest psnr", "noisy", 30, 29),
        figure("chest bias fat", "noisy", 0.5, 0, "HU", "zero"),
        figure("chest psnr", "denovox", 33.456, 32),
        figure("chest psnr gain over noisy", "denovox", 3.456, 3),
        figure("all time", "denovox", 2, 1, "s", "lower", scans=3),
        figure("abdomen ssim", "denovox", math.nan, None, "", scans=3),
        figure("chest a|b (0: a copy)", "noisy", 0.1234, None, ""),
    )
    told = json.loads(as_json(Results("p", "d", figures, {"slices": 16}, "abc", "1", ("a note",))))
    page = section("p", told)
    assert [line for line in page.splitlines() if line.startswith("| ")] == [
        "| figure | N | noisy | denovox |",
        "| --- | --- | --- | --- |",
        "| chest psnr (dB ↑) | 2 | 30.00 [29.00, 31.00] | 33.46 [32.00, 34.00] |",
        "| chest psnr: gain of denovox (dB ↑) | 2 | 3.46 [3.00, 5.00] |  |",
        "| chest bias fat (HU → 0) | 2 | 0.50 [0.00, 2.00] |  |",
        "| chest a\\|b (0: a copy) (↑) | 2 | 0.123 |  |",
        "| abdomen ssim (↑) | 2 (3) |  | - |",
        "| all time (s ↓) | 2 (3) |  | 2.00 [1.00, 3.00] |",
    ]
    assert "- a note\n- weights sha256 abc, denovox 1\n" in page
    assert "&quot;slices&quot;: 16" in page


def test_central_slices():
    volume = phantom.chest((16, 16, 10), 5.0).ct
    some = central(volume, 4)
    np.testing.assert_array_equal(some.hu, volume.hu[..., 3:7])
    assert some.affine[2, 3] == pytest.approx(volume.affine[2, 3] + 15)
    assert central(volume, None).shape == central(volume, 99).shape == volume.shape


def test_rivals_remove_noise_of_the_region_alone():
    truth = phantom.chest((48, 40, 12), 4.0).ct
    noisy = phantom.add_noise(truth, 40, 0)
    window = REGIONS["chest"].window
    for name in ("nlm", "tv"):
        result, seconds, settings = rivals.denoised(
            name, noisy, truth, [RegionSpan("chest", 2, 8, "given")]
        )
        assert seconds > 0
        assert len(settings) == 1
        outside = np.r_[0:2, 8:12]
        np.testing.assert_array_equal(result.hu[..., outside], noisy.hu[..., outside])
        wrong, before = (
            np.square(np.clip(window.unit(each.hu) - window.unit(truth.hu), -1, 1)[..., 2:8]).mean()
            for each in (result, noisy)
        )
        assert wrong < before / 2, name


def test_a_rivals_scan_score_is_the_mean_of_its_top():
    score = np.arange(200, dtype=np.float32).reshape(10, 10, 2)
    assert rivals.scan_score(score, (5, 5, 3)) == pytest.approx((199 + 198 + 197 + 196) / 4)
    assert rivals.scan_score(score, (20, 20, 20)) == 199
