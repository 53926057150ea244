"""The faithfulness report on a made body, where what was done wrong is known."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from denovox.core.errors import InputError
from denovox.core.labels import BODY, BONE, ID, LUNG, OUTSIDE
from denovox.core.operators.coloured_noise import Spectrum
from denovox.core.volume import Volume
from denovox.metrics.residual import (
    autocorrelation,
    expected_autocorrelation,
    residual,
    sd_along,
    whitened,
)
from denovox.reports.faithfulness import as_json, report, write_report
from denovox.reports.types import Check, Given, Report
from denovox.scan.noise import RegionNoise

WHITE = Spectrum((0.0, 1.0), (1.0, 1.0))
NOISE_HU = 20.0
SHAPE = (100, 92, 6)


@cache
def body() -> tuple[Volume, np.ndarray, Volume]:
    """A disc of muscle within fat, with lungs, a bone, and bars of contrast; and it with noise."""
    x, y = np.meshgrid(np.arange(100) - 50.0, np.arange(92) - 46.0, indexing="ij")
    hu = np.full(SHAPE[:2], -1000.0)
    labels = np.full(SHAPE[:2], OUTSIDE, np.uint8)

    def put(where: np.ndarray, value: float, label: int) -> None:
        hu[where], labels[where] = value, label

    put(np.hypot(x / 46, y / 42) < 1, -100, BODY)
    put(np.hypot(x / 26, y / 22) < 1, 50, BODY)
    put(np.hypot((x - 12) / 12, y / 17) < 1, -850, LUNG)
    put(np.hypot(x + 4, y - 14) < 6, 600, BONE)
    put((x < -8) & (x > -24) & (np.abs(y) < 12) & (np.floor(x / 3) % 2 == 0), 100, BODY)
    clean = np.repeat(hu[:, :, None], SHAPE[2], 2).astype(np.float32)
    noise = np.random.default_rng(1).normal(0, NOISE_HU, SHAPE).astype(np.float32)
    affine = np.diag([0.8, 0.8, 3.0, 1.0])
    label_map = np.repeat(labels[:, :, None], SHAPE[2], 2)
    return Volume(clean, affine), label_map, Volume(clean + noise, affine)


def slab(spectrum: Spectrum, sd_hu: float = NOISE_HU, stop: int = SHAPE[2]) -> tuple[RegionNoise]:
    return (RegionNoise("abdomen", 0, stop, sd_hu, spectrum),)


def given(**more: object) -> Given:
    return replace(Given(noise=slab(WHITE), labels=body()[1]), **more)


def named(done: Report, name: str) -> Check:
    return next(check for check in done.checks if check.name == name)


def looks(done: Report) -> set[str]:
    return {check.name for check in done.checks if check.verdict == "look"}


def blurred(sigma: float) -> Volume:
    noisy = body()[2]
    return noisy.with_hu(ndimage.gaussian_filter(noisy.hu, (sigma, sigma, 0)))


def test_the_truth_passes_every_check() -> None:
    clean, _, noisy = body()
    done = report(noisy, clean, given(reference=clean, data_consistency_hu=0.2))
    assert looks(done) == set()
    assert named(done, "sd_coverage").verdict == "not evaluated"
    assert named(done, "edge_ratio").value == pytest.approx(1, abs=0.1)
    assert named(done, "structure").value == pytest.approx(0, abs=0.08)
    assert named(done, "removed_ratio").value == pytest.approx(1, abs=0.02)
    assert done.residual.excess == pytest.approx(0, abs=0.05)
    assert done.errors is not None
    assert done.errors.rmse_after_hu == 0
    assert "All 6 checks that could be run are fine. 1 of 7" in done.summary


def test_a_blur_is_seen_without_a_reference() -> None:
    done = report(body()[2], blurred(1), given())
    assert {"edge_ratio", "structure", "residual_correlation", "removed_ratio"} <= looks(done)
    assert "edges were softened" in done.summary


def test_half_of_the_noise_removed_is_honest() -> None:
    clean, _, noisy = body()
    done = report(noisy, noisy.with_hu((noisy.hu + clean.hu) / 2), given())
    assert looks(done) == set()
    assert named(done, "removed_ratio").value == pytest.approx(0.5, abs=0.01)


def test_a_shift_of_one_tissue_is_named() -> None:
    clean, labels, noisy = body()
    shifted = clean.with_hu(np.where(clean.hu == -100, np.float32(-95), clean.hu))
    for reference in (clean, None):
        done = report(noisy, shifted, given(reference=reference))
        fat = next(t for t in done.tissues if t.name == "fat")
        assert fat.bias_hu == pytest.approx(5, abs=fat.error_hu + 1e-9)
        assert "the mean of fat is at least" in named(done, "hu_bias").sentence
        assert named(done, "hu_bias").verdict == "look"
    assert {t.name for t in done.tissues} >= {"fat", "lung", "muscle and organs"}
    # The liver's own label makes it a tissue; 50 HU elsewhere is no liver.
    liver = np.where((labels == BODY) & (clean.hu == 50), np.uint8(ID["liver"]), labels)
    done = report(noisy, clean, given(labels=liver, reference=clean))
    assert {t.name for t in done.tissues} >= {"liver", "muscle and organs"}
    assert all(t.name != "liver" for t in report(noisy, clean, given()).tissues)


def test_bias_within_its_error_is_no_bias() -> None:
    clean, _, noisy = body()
    done = report(noisy, noisy.with_hu(noisy.hu + np.float32(3)), given())
    assert named(done, "hu_bias").verdict == "look"
    assert named(done, "hu_bias").value == pytest.approx(3, abs=1e-4)
    tiny = report(noisy, clean, given(reference=clean))
    assert all(abs(t.bias_hu) == 0 for t in tiny.tissues)
    wild = noisy.with_hu(noisy.hu + np.random.default_rng(3).normal(0, 400, SHAPE).astype("f4"))
    found = report(noisy, wild, given())
    assert max(abs(t.bias_hu) for t in found.tissues) > 2, "chance alone, in the smallest tissue"
    assert named(found, "hu_bias").verdict == "fine"


def test_data_consistency_and_sd() -> None:
    clean, _, noisy = body()
    off = np.random.default_rng(2).normal(0, 5, SHAPE).astype(np.float32)
    after = clean.with_hu(clean.hu + off)
    sd = np.full(SHAPE, 5, np.float32)
    done = report(noisy, after, given(reference=clean, sd_hu=sd, data_consistency_hu=1.5))
    assert done.spread is not None
    assert done.spread.coverage == pytest.approx(0.954, abs=0.01)
    assert done.spread.mean_hu == done.spread.p95_hu == 5
    assert looks(done) == {"data_consistency"}
    sure = report(noisy, after, given(reference=clean, sd_hu=sd / 2, data_consistency_hu=0.5))
    assert sure.spread is not None
    assert sure.spread.coverage == pytest.approx(0.683, abs=0.02)
    assert looks(sure) == {"sd_coverage"}
    assert done.errors is not None
    assert done.errors.rmse_after_hu == pytest.approx(5, abs=0.1)


def test_nothing_changed_is_nothing_to_judge() -> None:
    noisy = body()[2]
    done = report(noisy, noisy, Given(labels=body()[1]))
    assert (done.change.rms_hu, done.change.untouched, done.residual.voxels) == (0, 1, 0)
    assert {c.name for c in done.checks if c.verdict != "not evaluated"} == {"hu_bias"}


def test_change_is_of_the_body_alone() -> None:
    clean, labels, _ = body()
    after = clean.with_hu(clean.hu + np.where(labels == OUTSIDE, 500, 4).astype(np.float32))
    change = report(clean, after, given()).change
    assert (change.mean_hu, change.largest_hu, change.untouched) == pytest.approx((4, 4, 0))


# The residual --------------------------------------------------------------------------------


def test_autocorrelation_of_a_moving_average() -> None:
    white = np.random.default_rng(0).normal(0, 1, (160, 160, 8))
    smooth = white[1:] + white[:-1]  # along x: 1/2 at one voxel, 0 beyond
    where = np.random.default_rng(1).random(smooth.shape) < 0.7  # any mask will do
    found = autocorrelation(smooth, where)
    assert found["x"] == pytest.approx([0.5, 0, 0, 0], abs=0.015)
    assert found["y"] == pytest.approx([0, 0, 0, 0], abs=0.015)
    assert found["z"] == pytest.approx([0], abs=0.015)


def test_expected_autocorrelation_is_that_of_drawn_noise() -> None:
    spectrum = Spectrum((0.0, 0.25, 0.7), (0.05, 1.0, 0.1), 0.3)
    mm = (0.8, 0.8, 2.0)
    rng = np.random.default_rng(0)
    frequency = np.fft.fftfreq(128, 0.8)
    power = np.interp(np.hypot(frequency[:, None], frequency), spectrum.per_mm, spectrum.power)
    white = np.fft.fft2(rng.normal(size=(128, 128, 40)), axes=(0, 1))
    drawn = np.fft.ifft2(white * np.sqrt(power)[..., None], axes=(0, 1)).real
    found = autocorrelation(drawn, np.ones(drawn.shape, bool))
    expected = expected_autocorrelation(spectrum, mm)
    for axis in "xy":
        assert found[axis] == pytest.approx(expected[axis], abs=0.02)
    assert abs(expected["x"][0]) > 0.1
    assert expected["z"] == pytest.approx([0.3])
    zero = np.zeros((128, 128, 40), np.float32)
    everywhere = np.ones(zero.shape, bool)
    told = slab(replace(spectrum, along_z=0), stop=40)
    coloured = residual(drawn.astype("f4"), zero, everywhere, mm, told)
    assert coloured.excess == pytest.approx(0, abs=0.02)
    as_white = residual(drawn.astype("f4"), zero, everywhere, mm, slab(WHITE, stop=40))
    assert as_white.excess is not None
    assert as_white.excess > 0.1


def filtered_noise(spectrum: Spectrum, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """SD 1, spacing 1 mm."""
    axes = (np.fft.fftfreq(n) for n in shape[:2])
    per_mm = np.hypot(*np.meshgrid(*axes, indexing="ij"))
    power = np.interp(per_mm, spectrum.per_mm, spectrum.power)
    white = np.fft.fft2(np.random.default_rng(seed).normal(size=shape), axes=(0, 1))
    gain = np.sqrt(power / power.mean())[..., None]
    return np.fft.ifft2(white * gain, axes=(0, 1)).real.astype(np.float32)


RAMP = Spectrum((0.0, 0.2, 0.5), (0.2, 1.0, 0.2))


def test_whitened_noise_is_white_and_each_slab_has_its_own_spectrum_and_level() -> None:
    shape = (160, 150, 24)
    noise = (
        RegionNoise("chest", 0, 10, 30.0, RAMP),
        RegionNoise("abdomen", 10, 24, 5.0, WHITE),
    )
    lower, upper = 30 * filtered_noise(RAMP, shape, 0), 5 * filtered_noise(WHITE, shape, 1)
    drawn = np.concatenate([lower[..., :10], upper[..., 10:]], axis=2)
    assert list(sd_along(noise, 24)) == [30] * 10 + [5] * 14
    inside = np.ones(shape, bool)
    seen = residual(drawn, np.zeros(shape, np.float32), inside, (1, 1, 1), noise)
    assert seen.of_noise == pytest.approx(1, abs=0.01)
    assert seen.rms_hu == pytest.approx(np.sqrt((900 * 10 + 25 * 14) / 24), rel=0.02)
    assert seen.autocorrelation is not None
    assert seen.expected is not None
    for axis in "xy":
        assert seen.autocorrelation[axis] == pytest.approx([0, 0, 0, 0], abs=0.02)
        assert seen.expected[axis] == pytest.approx([0, 0, 0, 0], abs=1e-3)
    # In numbers: of white noise, whitening changes nothing.
    white = whitened(drawn[..., 10:], slab(WHITE, stop=14), (1, 1, 1))
    np.testing.assert_allclose(white, drawn[..., 10:], rtol=0, atol=1e-4)


def test_what_has_no_power_is_not_made_white_and_that_is_expected() -> None:
    steep = Spectrum((0.0, 0.1, 0.25), (1.0, 1.0, 0.0))
    drawn = 10 * filtered_noise(steep, (160, 160, 12), 2)
    inside = np.ones(drawn.shape, bool)
    noise = slab(steep, 10, 12)
    seen = residual(drawn, np.zeros(drawn.shape, np.float32), inside, (1, 1, 1), noise)
    assert seen.expected is not None
    assert seen.expected["x"][0] > 0.5
    assert seen.excess == pytest.approx(0, abs=0.03)


def test_anatomy_in_coloured_noise_is_seen_once_it_is_white() -> None:
    """A tenth of the variance, but at frequencies where the noise has next to nothing."""
    shape = (160, 160, 12)
    ramp = Spectrum((0.0, 0.3, 0.5), (0.02, 1.0, 1.0))
    shapes = ndimage.gaussian_filter(np.random.default_rng(5).normal(size=shape), (5, 5, 0))
    shapes *= 10 * 0.1**0.5 / shapes.std()
    drawn = 10 * filtered_noise(ramp, shape, 3) + shapes.astype(np.float32)
    zero, inside = np.zeros(shape, np.float32), np.ones(shape, bool)
    seen = residual(drawn, zero, inside, (1, 1, 1), slab(ramp, 10, 12))
    plain = autocorrelation(drawn, inside)["x"] - expected_autocorrelation(ramp, (1, 1, 1))["x"]
    assert seen.excess is not None
    assert seen.excess > 0.15 > plain.max()


def test_detail_that_was_to_be_added_is_not_asked_whether_it_is_noise() -> None:
    done = report(body()[2], blurred(1), given(adds_detail=True, data_consistency_hu=0.1))
    for name in ("removed_ratio", "edge_ratio", "structure", "residual_correlation"):
        assert named(done, name).verdict == "not evaluated"
        assert "meant to add detail" in named(done, name).sentence
    assert named(done, "data_consistency").verdict == "fine"
    assert named(done, "hu_bias").verdict != "not evaluated"
    assert done.residual.excess is not None


def test_the_noise_is_in_the_json_slab_by_slab() -> None:
    clean, _, noisy = body()
    noise = (RegionNoise("chest", 0, 3, 30.0, RAMP), RegionNoise("abdomen", 3, 6, 40.0, WHITE))
    done = report(noisy, clean, given(noise=noise))
    assert done.noise_hu == pytest.approx(np.sqrt((30**2 + 40**2) / 2))
    told = json.loads(as_json(done))["noise"]
    assert [(each["region"], each["stop"], each["sd_hu"]) for each in told] == [
        ("chest", 3, 30),
        ("abdomen", 6, 40),
    ]
    assert told[0]["spectrum"]["power"] == [0.2, 1, 0.2]
    assert report(noisy, clean, given(noise=())).noise_hu is None


def test_untouched_voxels_do_not_dilute() -> None:
    clean, labels, noisy = body()
    partly = noisy.with_hu(np.where(clean.hu < -500, noisy.hu, clean.hu))
    found = residual(noisy.hu, partly.hu, labels != OUTSIDE, (1, 1, 1))
    assert found.rms_hu == pytest.approx(NOISE_HU, abs=0.5)
    assert found.voxels == np.count_nonzero((labels != OUTSIDE) & (clean.hu > -500))


# The files -----------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page asks a browser to fetch, and whether its tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "data", "action")]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_folder_has_json_and_one_self_contained_page(tmp_path: Path) -> None:
    clean, _, noisy = body()
    sd = np.full(SHAPE, 5, np.float32)
    settings = {"region": "<abdomen>", "limit": float("nan")}
    more = given(reference=clean, sd_hu=sd, weights="ab12", settings=settings)
    done = write_report(tmp_path / "out", noisy, clean, more, "a <b> & c")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"report.json", "index.html"}
    told = json.loads((tmp_path / "out/report.json").read_text())
    assert set(told) == {
        "change", "residual", "tissues", "data_consistency_hu", "noise_hu", "noise", "spread",
        "errors", "checks", "summary", "thresholds", "weights", "settings", "version", "format",
    }  # fmt: skip
    assert [check["name"] for check in told["checks"]] == [
        "hu_bias", "removed_ratio", "edge_ratio", "structure", "residual_correlation",
        "data_consistency", "sd_coverage",
    ]  # fmt: skip
    assert told["settings"] == {"region": "<abdomen>", "limit": None}
    assert told["summary"] == done.summary
    text = (tmp_path / "out/index.html").read_text()
    page = Page(text)
    assert page.open == []
    (still,) = page.fetched
    picture = still.removeprefix("data:image/png;base64,")
    assert base64.b64decode(picture, validate=True).startswith(b"\x89PNG")
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.S)  # NiiVue's comments name sites
    assert "://" not in own
    assert "url(" not in own
    (content,) = re.findall(r'id="view">(.*?)</script>', text)
    overlays = [layer["name"] for layer in json.loads(content)["images"][1]]
    assert overlays == ["after", "change", "reference", "error", "SD of the samples"]
    assert "a &lt;b&gt; &amp; c" in text
    assert "<abdomen>" not in text


def test_the_same_scan_gives_the_same_json() -> None:
    clean, _, noisy = body()
    assert as_json(report(noisy, clean, given())) == as_json(report(noisy, clean, given()))


def test_a_folder_that_is_taken_is_refused_before_any_work(tmp_path: Path) -> None:
    clean, _, noisy = body()
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match="already contains files"):
        write_report(tmp_path, noisy, clean, given(sd_hu=np.zeros((1, 1, 1))))


def test_grids_must_agree() -> None:
    clean, _, noisy = body()
    for name, more in {
        "the SD map": given(sd_hu=np.zeros((2, 3, 4), np.float32)),
    }.items():
        with pytest.raises(InputError, match=f"{name} is \\(2, 3, 4\\)"):
            report(noisy, clean, more)
    small = Volume(np.zeros((2, 3, 4), np.float32), clean.affine)
    with pytest.raises(InputError, match="the reference is not on the grid of the input: it has 2"):
        report(noisy, clean, given(reference=small))
    aside = clean.affine + 5 * np.eye(4, k=3)
    with pytest.raises(InputError, match="restored volume is not on the grid of the input"):
        report(noisy, Volume(clean.hu, aside), given())
    with pytest.raises(InputError, match="restored volume has voxels that are NaN"):
        report(noisy, clean.with_hu(clean.hu * np.float32(np.nan)), given())
    with pytest.raises(InputError, match="needs 500 voxels within the body, but the scan has 0"):
        report(noisy, clean, given(labels=np.full(SHAPE, OUTSIDE, np.uint8)))
