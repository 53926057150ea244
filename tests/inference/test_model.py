"""The model's contract with volumes: grid, window, determinism, geometry (METHOD 3)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from denovox.core.errors import InputError
from denovox.core.labels import ID
from denovox.core.resample import noise_gain
from denovox.core.schedule import Schedule
from denovox.core.volume import Volume
from denovox.inference import scan_context
from denovox.inference.frame import working_grid
from denovox.inference.model import (
    Model,
)
from denovox.inference.options import RunOptions
from denovox.inference.scan_context import ScanContext
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig
from denovox.scan.body_regions import RegionSpan

CONFIG = ModelConfig(net=PRESETS["tiny"], spacing_mm=(0.7, 6.0))


def body(shape=(40, 36, 20), spacing=(3.0, 3.0, 5.0), seed=0):
    """Water in air with a bone rod, and noise."""
    rng = np.random.default_rng(seed)
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.6, 40.0, -1000.0)
    hu[np.hypot(x, y + 0.4) < 0.15] = 900
    hu += 20 * rng.standard_normal(shape)
    return Volume(hu.astype(np.float32), np.diag([*spacing, 1.0]))


def model(denoise=None, config=CONFIG):
    """A model around a function (x, sigma, condition) -> x0."""
    return Model(denoise or (lambda x, sigma, told: x * 0.5), config, Path("none"), "cpu")


def learnt():
    """The tiny network with weights that are not zero."""
    from denovox.model.denoiser import denoiser

    torch.manual_seed(0)
    net = CONFIG.build().eval().requires_grad_(False)
    for parameter in net.parameters():
        if not parameter.any():
            parameter.normal_(std=0.05)
    return model(denoiser(net, Schedule(), "noise"))


def test_inside_the_window_the_result_is_the_denoisers():
    volume = body()
    got = model().denoise(volume, "abdomen", 20.0)
    inside = np.abs(volume.hu - 60) < 180  # the abdomen's window, 360 wide around 60
    np.testing.assert_allclose(
        got.hu[inside], 60 + 0.5 * (volume.hu[inside] - 60), rtol=0, atol=1e-3
    )


def test_far_outside_the_window_nothing_changes_bit_for_bit():
    volume = body()
    got = model().denoise(volume, "abdomen", 20.0)
    far = np.abs(volume.hu - 60) > 180 + 3 * 20
    assert far.mean() > 0.3
    assert np.array_equal(got.hu[far], volume.hu[far])
    assert got.affine is volume.affine


def test_same_seed_same_bits_and_the_noise_level_is_heard():
    heard = []

    def listens(x, sigma, told):
        heard.append(sigma)
        return x * 0.9

    a = model(listens).denoise(body(), "abdomen", 18.0, options=RunOptions(seed=4))
    b = model(listens).denoise(body(), "abdomen", 18.0, options=RunOptions(seed=4))
    assert np.array_equal(a.hu, b.hu)
    before, heard[:] = heard[:], []
    model(listens).denoise(body(), "abdomen", 36.0, options=RunOptions(seed=4))
    assert min(before) <= 0.1 <= max(before)  # 18 HU of a window 360 wide
    assert sorted(set(heard)) == pytest.approx([2 * sigma for sigma in sorted(set(before))])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mean", "diffpir"])
def test_window_batch_changes_no_more_than_rounding(method):
    net = learnt()
    one, many = (
        net.denoise(body(), "abdomen", 20.0, method, RunOptions(tile=32, batch=together)).hu
        for together in (1, 3)
    )
    assert not np.array_equal(one, body().hu)
    np.testing.assert_allclose(one, many, rtol=0, atol=0.01)  # HU


@pytest.mark.slow
def test_synthesis_is_the_same_whatever_the_batch_and_differs_by_seed():
    net = learnt()
    size, mm = (24, 40, 16), (2.0, 2.0, 2.0)
    a, b, c = (
        net.synthesize("chest", size, mm, steps=3, options=RunOptions(seed, 32, together)).hu
        for seed, together in ((1, 1), (1, 4), (2, 1))
    )
    np.testing.assert_allclose(a, b, rtol=0, atol=0.5)  # HU, of a window 1800 wide
    assert np.abs(a - c).max() > 10
    assert a.min() >= -1400
    assert a.max() <= 400


def test_synthesis_centres_its_grid_and_paints_air_outside():
    anatomy = np.full((16, 16, 16), ID["outside"], np.uint8)
    anatomy[4:12, 4:12, 4:12] = ID["liver"]
    got = model(lambda x, s, told: -torch.ones_like(x)).synthesize(
        "abdomen", (16, 16, 16), (2.0, 3.0, 4.0), anatomy, steps=2
    )
    assert got.spacing_mm == (2.0, 3.0, 4.0)
    centre = got.affine @ [7.5, 7.5, 7.5, 1]
    assert centre[:3] == pytest.approx([0, 0, 0])
    assert got.hu[0, 0, 0] == -1000
    assert got.hu[8, 8, 8] == pytest.approx(-120)


def test_the_network_is_told_region_anatomy_and_spacing():
    told = []

    def listens(x, sigma, condition):
        told.append(condition)
        return x

    model(listens).denoise(body(), "headneck", 20.0)
    assert told[0].region.tolist() == [1]
    assert told[0].spacing_mm.tolist() == [[3.0, 3.0, 5.0]]
    assert {ID["outside"], ID["body"]} <= set(np.unique(told[0].anatomy))


@pytest.mark.parametrize("shape", [(5, 7, 3), (33, 40, 9), (97, 8, 8)])
def test_small_and_odd_volumes(shape):
    got = model().denoise(body(shape), "abdomen", 20.0)
    assert got.shape == shape


def test_working_grid_leaves_known_spacings_alone():
    volume = body((100, 100, 10), (0.35, 1.0, 9.0))
    assert working_grid(volume, (0.7, 6.0)) == (50, 100, 15)
    assert working_grid(body(), (0.7, 6.0)) == body().shape
    rounded = body((2000, 8, 1600), (0.6997, 1.0, 6.001))  # as a header gives 0.7 and 6
    assert working_grid(rounded, (0.7, 6.0)) == rounded.shape


def test_a_fine_grid_is_worked_on_coarser_and_only_the_change_comes_back():
    volume = body((80, 72, 10), (0.35, 0.35, 5.0))
    heard = {}

    def listens(x, sigma, told):
        heard.update(sigma=sigma, shape=x.shape[2:], spacing=told.spacing_mm)
        return x

    got = model(listens).denoise(volume, "abdomen", 18.0)
    assert np.allclose(heard["spacing"], [[0.7, 0.7, 5.0]])
    # Noise that coarsening has averaged out is no longer told.
    assert heard["sigma"] == pytest.approx(0.1 * noise_gain((80, 72, 10), (40, 36, 10)))
    assert heard["sigma"] < 0.06
    # A denoiser that changes nothing changes nothing, although the grid was another.
    near = np.abs(volume.hu - 60) < 150
    np.testing.assert_allclose(got.hu[near], volume.hu[near], rtol=0, atol=1e-3)


def test_what_is_not_told_is_found_and_said():
    said = []
    model().denoise(body(), options=RunOptions(say=said.append))
    assert any(line.startswith("region: ") and "slices 0 to 19 (" in line for line in said)
    noise = next(line for line in said if line.startswith("noise:"))
    assert float(noise.split()[1]) == pytest.approx(20, rel=0.05)


def test_done_reaches_one():
    shares = []
    model().denoise(body(), "abdomen", 20.0, "diffpir", RunOptions(tile=32, progress=shares.append))
    assert shares[-1] == pytest.approx(1)
    assert shares == sorted(shares)


@pytest.mark.parametrize("noise", [0.0, -3.0, float("nan"), float("inf")])
def test_noise_must_be_positive(noise):
    with pytest.raises(InputError, match="cannot be removed"):
        model().denoise(body(), "abdomen", noise)


def test_synthesis_refuses_what_it_cannot_do():
    with pytest.raises(InputError, match=r"outside the 0\.7 to 6 mm that the model supports"):
        model().synthesize("chest", (8, 8, 8), (0.1, 1, 1))
    with pytest.raises(InputError, match="the anatomy's grid"):
        model().synthesize("chest", (8, 8, 8), (1, 1, 1), np.zeros((8, 8, 9), np.uint8))
    with pytest.raises(InputError, match="choose one of headneck, chest, abdomen"):
        model().synthesize("limb", (8, 8, 8), (1, 1, 1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("method", ["mean", "diffpir"])
def test_cuda_agrees_with_the_cpu(method):
    from dataclasses import replace

    from denovox.model.denoiser import denoiser
    from denovox.model.devices import place

    torch.manual_seed(0)
    net = CONFIG.build().eval().requires_grad_(False)
    both = []
    for device in ("cpu", "cuda"):
        one = model(denoiser(place(net, device), Schedule(), "noise"))
        both.append(replace(one, device=device).denoise(body(), "abdomen", 20.0, method).hu)
    np.testing.assert_allclose(*both, rtol=0, atol=0.5)  # HU; TF32 is allowed to round


def test_far_outside_nothing_changes_on_a_coarser_working_grid_either():
    volume = body((80, 72, 10), (0.35, 0.35, 5.0))
    got = model().denoise(volume, "abdomen", 20.0)
    far = np.abs(volume.hu - 60) > 180 + 3 * 20
    assert np.array_equal(got.hu[far], volume.hu[far])
    assert not np.array_equal(got.hu, volume.hu)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mean", "diffpir"])
@pytest.mark.parametrize("z_mm", [5.0, 0.5])  # 0.5 mm is worked on at 0.7
def test_a_scan_of_one_region_is_as_if_it_had_been_named(z_mm, method, monkeypatch):
    net, scan = learnt(), body((24, 24, 16), (5.0, 5.0, z_mm))
    monkeypatch.setattr(
        scan_context, "region_spans", lambda volume, coarse: (RegionSpan("chest", 0, 16, ""),)
    )
    auto, named = (net.denoise(scan, region, None, method).hu for region in ("auto", "chest"))
    assert np.array_equal(auto, named)
    assert not np.array_equal(named, scan.hu)
    if method == "mean":
        assert np.array_equal(net.denoise(scan).hu, named)


def blurring():
    """A model whose result depends on neighbours, as a network's does."""
    return model(lambda x, sigma, told: torch.nn.functional.avg_pool3d(x, 5, 1, 2))


def framed(volume, fill, width=6):
    """The volume in a frame of one value: three sides, and whole slices at the bottom."""
    hu = np.pad(volume.hu, ((width, width), (0, width), (4, 0)), constant_values=fill)
    return Volume(hu, volume.affine)


@pytest.mark.parametrize("fill", [0.0, 50.0])
@pytest.mark.parametrize("region", ["abdomen", "chest", None])
def test_a_frame_of_tissue_is_air_to_the_model_and_returned_unchanged(region, fill):
    volume = framed(body(), fill)
    got, air = (blurring().denoise(v, region, 20.0) for v in (volume, framed(body(), -1024.0)))
    inside = framed(Volume(np.ones_like(body().hu), np.eye(4)), 0).hu > 0
    assert np.array_equal(got.hu[inside], air.hu[inside])
    assert not np.array_equal(got.hu[inside], volume.hu[inside])
    assert (got.hu[~inside] == fill).all()


def test_noise_and_regions_do_not_see_a_frame():
    filled, air = (ScanContext(framed(body(), fill)) for fill in (0.0, -1024.0))
    assert filled.spans == air.spans
    assert filled.noise == air.noise
    assert np.array_equal(filled.coarse, air.coarse)
    assert air.filled is None
    assert air.measured.hu is air.volume.hu


def test_a_hole_is_filled_as_if_a_frame_were_air():
    hole = np.zeros(framed(body(), 0.0).shape, bool)
    hole[14:20, 10:16, 8:14] = True
    got, air = (
        blurring().inpaint(framed(body(), fill), hole, region="abdomen", steps=2)
        for fill in (0.0, -1024.0)
    )
    assert np.array_equal(got.hu[hole], air.hu[hole])
    assert np.array_equal(got.hu[~hole], framed(body(), 0.0).hu[~hole])
