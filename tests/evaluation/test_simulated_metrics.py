"""Metrics of simulated protocols against numbers by hand; no model runs here."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.interpolate import interp1d

from denovox.core.errors import InputError
from denovox.core.labels import BODY, LUNG, OUTSIDE
from denovox.core.volume import Volume
from denovox.evaluation.simulated_metrics import (
    Scored,
    closeness,
    interpolations,
    planted_lesions,
    simulated_dose,
    simulated_slab,
)
from denovox.evaluation.tables import measured_figures, scan_figures
from denovox.metrics.bootstrap import bootstrap
from denovox.metrics.detection import auroc, average_precision, pro
from denovox.metrics.results import Measured, Value, gains

SHAPE = (24, 20, 12)


def scan(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """HU of an abdomen's window, and a body in the midst of it."""
    hu = np.random.default_rng(seed).uniform(0, 100, SHAPE).astype(np.float32)
    body = np.zeros(SHAPE, bool)
    body[4:20, 4:16] = True
    return hu, body


def of(values: tuple[Value, ...]) -> dict[str, float]:
    return {value.name: value.value for value in values}


def test_closeness_by_hand() -> None:
    hu, body = scan()
    found = of(closeness(hu, np.where(body, hu + 9, -900), body, "abdomen"))
    assert found["rmse"] == pytest.approx(9, abs=1e-4)  # voxels outside the body do not count
    assert found["psnr"] == pytest.approx(20 * math.log10(360 / 9), abs=1e-4)
    beyond = hu.copy()
    beyond[5, 5, 5] = 5000  # cut to the window's end, 240 HU
    error = 240 - hu[5, 5, 5]
    expected = 20 * math.log10(360 / math.sqrt(error**2 / body.sum()))
    assert of(closeness(hu, beyond, body, "abdomen"))["psnr"] == pytest.approx(expected, abs=1e-4)
    same = of(closeness(hu, hu, body, "chest"))
    assert (same["psnr"], same["ssim"], same["rmse"]) == (math.inf, 1, 0)
    wide = of(closeness(hu, hu + 9, body, "chest"))
    assert wide["psnr"] == pytest.approx(20 * math.log10(1800 / 9), abs=1e-4)


def test_closeness_needs_a_body() -> None:
    hu, body = scan()
    for inside in (np.zeros_like(body), body & (np.arange(24) < 5)[:, None, None]):
        with pytest.raises(InputError, match="too little of a body"):
            closeness(hu, hu, inside, "chest")
    with pytest.raises(InputError, match="too little of a body"):
        closeness(hu[:10], hu[:10], body[:10], "chest")


def test_bias_is_that_of_each_tissue() -> None:
    shape = (70, 40, 5)
    hu, labels = np.full(shape, -1000, np.float32), np.full(shape, OUTSIDE, np.uint8)
    hu[4:34, 4:36], labels[4:34, 4:36] = 50, BODY
    hu[36:66, 4:36], labels[36:66, 4:36] = -800, LUNG
    test = hu + np.where(labels == LUNG, np.float32(7), np.float32(-3))
    test[0] = 500
    truth = Volume(hu, np.eye(4))
    found = of(simulated_dose(truth, truth.with_hu(test), labels, labels != OUTSIDE, "chest"))
    assert found["bias lung"] == pytest.approx(7, abs=1e-4)
    assert found["bias muscle and organs"] == pytest.approx(-3, abs=1e-4)
    assert "bias bone" not in found
    count = np.count_nonzero
    square = (49 * count(labels == LUNG) + 9 * count(labels == BODY)) / count(labels != OUTSIDE)
    assert found["rmse"] == pytest.approx(math.sqrt(square), abs=1e-4)


def test_slab_by_hand() -> None:
    hu, body = scan()
    thick = hu.reshape(24, 20, 4, 3).mean(-1)
    test = hu.copy()
    test[..., :3] += 50  # the first and last slab count for averages alone
    test[..., 5] += 6
    found = of(simulated_slab(hu, test, thick, body, "abdomen"))
    assert found["rmse"] == pytest.approx(6 / math.sqrt(6), abs=1e-4)  # one of six slices
    assert found["averaged back, most"] == pytest.approx(50, abs=1e-4)
    expected = math.sqrt((50**2 + 2**2) / 4)
    assert found["averaged back, RMS"] == pytest.approx(expected, abs=1e-4)
    assert of(simulated_slab(hu, hu, thick, body, "abdomen"))["averaged back, most"] < 1e-4
    with pytest.raises(InputError, match="2 thick slices are too few"):
        simulated_slab(hu, hu, thick[..., :2], body, "abdomen")
    with pytest.raises(InputError, match="11 slices cannot be divided"):
        simulated_slab(hu[..., :11], hu[..., :11], thick, body[..., :11], "abdomen")


def test_planted_by_hand_and_as_the_figures_alone() -> None:
    lesion, scored = np.zeros((6, 5, 4), bool), np.ones((6, 5, 4), bool)
    lesion[1, 1, 1] = lesion[4, 3:5, 2] = True
    score = np.zeros((6, 5, 4), np.float32)
    score[lesion], score[0] = 2, 3  # 20 healthy voxels of 117 lie above
    found = of(planted_lesions(score, lesion, scored))
    assert found["voxel AUROC"] == pytest.approx(97 / 117)
    assert found["voxel AP"] == pytest.approx(3 / 23)
    assert found["PRO at FPR 0.3"] == pytest.approx((0.3 - 20 / 117) / 0.3)
    scored[0] = False
    assert set(of(planted_lesions(score, lesion, scored)).values()) == {1.0}
    noisy = np.random.default_rng(0).normal(lesion, 1).astype(np.float32)
    found = of(planted_lesions(noisy, lesion, np.ones_like(scored)))
    assert found["PRO at FPR 0.3"] == pytest.approx(pro([lesion], [noisy]))
    flat = lesion.ravel(), noisy.ravel()
    assert (found["voxel AUROC"], found["voxel AP"]) == (auroc(*flat), average_precision(*flat))
    with pytest.raises(InputError, match="abnormal"):
        planted_lesions(score, np.zeros_like(lesion), scored)


def test_interpolations_agree_with_scipy_and_keep_what_they_must() -> None:
    hu = np.random.default_rng(0).normal(0, 100, (3, 2, 6))
    ways = interpolations(6, 4)
    at = (np.arange(24) + 0.5) / 4 - 0.5
    linear = interp1d(np.arange(6), hu, axis=2)(np.clip(at, 0, 5))
    np.testing.assert_allclose(hu @ ways["linear"], linear, atol=1e-9)
    for name, way in ways.items():
        assert way.shape == (6, 24)
        np.testing.assert_allclose(way.sum(0), 1, atol=1e-12, err_msg=name)  # a constant stays
        line = np.arange(6) @ way  # so does a line, away from the ends; nearly, with Lanczos
        off = 0.02 if name == "Lanczos-3" else 1e-2
        np.testing.assert_allclose(line[10:14], at[10:14], atol=off, err_msg=name)
    odd = interpolations(9, 3)  # every third thin slice has its centre where a thick one has
    for name, way in odd.items():
        np.testing.assert_allclose(way[:, 1::3], np.eye(9), atol=1e-9, err_msg=name)
    wave = np.sin(np.arange(20) / 2)
    error = {n: np.abs(wave @ w - np.sin(((np.arange(60) + 0.5) / 3 - 0.5) / 2))[15:45].max()
             for n, w in interpolations(20, 3).items()}  # fmt: skip
    assert error["cubic"] < 0.1 * error["linear"]
    assert error["Lanczos-3"] < error["linear"]
    with pytest.raises(InputError, match="2 or more"):
        interpolations(6, 1)


def test_gains_are_differences() -> None:
    ours = (Value("psnr", 30.0, "dB"), Value("ssim", 0.9))
    others = {"linear": (Value("psnr", 28.5, "dB"),), "cubic": (Value("psnr", 31.0, "dB"),)}
    assert gains(ours, others) == (
        Value("psnr gain over linear", 1.5, "dB"),
        Value("psnr gain over cubic", -1.0, "dB"),
    )


def test_figures_are_means_over_parts_of_one_region() -> None:
    def row(patient: str, region: str, method: str, value: float) -> Measured:
        return Measured(patient, region, method, (Value("bias fat", value, "HU", "zero"),))

    rows = [row("a", "chest", "x", 1.0), row("a", "abdomen", "x", 7.0), row("b", "chest", "x", 2.0),
            row("b", "chest", "x", 6.0), row("b", "chest", "y", 9.0)]  # fmt: skip
    figures = measured_figures(rows, seed=3)
    told = [(f.name, f.method, f.value, f.patients, f.scans) for f in figures]
    assert told == [
        ("chest bias fat", "x", 3.0, 2, 3),
        ("abdomen bias fat", "x", 7.0, 1, 1),
        ("chest bias fat", "y", 9.0, 1, 1),
    ]
    assert (figures[0].unit, figures[0].better) == ("HU", "zero")
    assert (figures[0].interval.low, figures[0].interval.high) == (1, 4)  # a alone, b alone
    with pytest.raises(InputError, match="no scan"):
        measured_figures([])


def test_an_original_counts_once() -> None:
    rows = [Scored("p", "1", 5.0, 6.0), Scored("p", "1", 5.0, 4.0), Scored("q", "2", 1.0, 5.5)]
    area, detected = scan_figures(rows, "ours", seed=1)
    # 6, 4, 5.5 against 5 and 1: of six pairs only (4, 5) is the wrong way round.
    assert area.value == pytest.approx(5 / 6)
    assert detected.value == pytest.approx(2 / 3)
    assert (area.patients, area.scans, area.method) == (2, 3, "ours")

    def slow(drawn: np.ndarray) -> float:
        sick = np.array([6.0, 4.0, 5.5])[drawn]
        well = np.array([5.0, 5.0, 1.0])[drawn]
        weight = np.array([0.5, 0.5, 1.0])[drawn]
        above = np.sign(sick[:, None] - well) / 2 + 0.5
        return float((above @ weight).sum() / len(sick) / weight.sum())

    expected = bootstrap(["p", "p", "q"], slow, seed=1)
    assert (area.interval.low, area.interval.high) == pytest.approx((expected.low, expected.high))
