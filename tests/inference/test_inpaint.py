"""Parts of a scan made anew: what changes, what never does, and what the model is told there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from denovox.core.errors import InputError
from denovox.core.labels import BODY, LUNG
from denovox.core.volume import Volume
from denovox.inference import lesions
from denovox.inference.inpaint import CONTEXT, Edit, Levels, around, boxes, edit
from denovox.inference.model import (
    Model,
)
from denovox.inference.options import RunOptions
from denovox.inference.scan_context import ScanContext
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig
from denovox.simulate.lesion_density import DensityRequest

CONFIG = ModelConfig(net=PRESETS["tiny"], spacing_mm=(0.7, 6.0))
CHEST = 1800 / 2, -500  # half width and level of the chest's window


def model(denoise, control="lesion", config=CONFIG):
    return Model(denoise, config, Path("none"), "cpu", control)


def by_control(x, sigma, told):
    """-500 + 450 HU in lesions, -500 - 180 HU elsewhere (chest)."""
    marked = torch.zeros_like(x) if told.control is None else told.control
    return -0.2 + 0.7 * marked


def thorax(shape=(60, 56, 30), spacing=(3.0, 3.0, 4.0)):
    """Water with two lungs and a bone rod, and noise."""
    rng = np.random.default_rng(0)
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.8, 40.0, -1000.0)
    hu[np.hypot(np.abs(x) - 0.4, y) < 0.3] = -850
    hu[np.hypot(x, y + 0.6) < 0.12] = 900
    hu += 20 * rng.standard_normal(shape)
    return Volume(hu.astype(np.float32), np.diag([*spacing, 1.0]))


def ball(volume, centre, radius_mm):
    index = np.indices(volume.shape).astype(float)
    off = [(i - c) * mm for i, c, mm in zip(index, centre, volume.spacing_mm, strict=True)]
    return np.sqrt(sum(o**2 for o in off)) <= radius_mm


IN_LUNG = (42, 28, 15)


def test_the_hole_is_the_models_and_all_else_the_scans_bit_for_bit():
    volume = thorax()
    lesion = ball(volume, IN_LUNG, 9)
    hole = around(lesion, volume.spacing_mm)
    got = edit(model(by_control), ScanContext(volume, "chest"), Edit(hole, lesion))
    assert np.array_equal(got.hu[~hole], volume.hu[~hole])
    np.testing.assert_allclose(got.hu[lesion], -500 + 0.5 * 900, atol=1e-3)
    np.testing.assert_allclose(got.hu[hole & ~lesion], -500 - 0.2 * 900, atol=1e-3)
    assert got.affine is volume.affine


def test_without_a_lesion_what_was_there_is_gone():
    volume = thorax()
    hole = ball(volume, IN_LUNG, 9)
    heard = []

    def listens(x, sigma, told):
        heard.append(told.control)
        return torch.full_like(x, -0.3)

    got = edit(model(listens, None), ScanContext(volume, "chest"), Edit(hole))
    np.testing.assert_allclose(got.hu[hole], -500 - 0.3 * 900, atol=1e-3)
    assert np.array_equal(got.hu[~hole], volume.hu[~hole])
    assert heard == [None] * len(heard)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "spacing", "centre", "radius_mm"),
    [
        ((240, 220, 20), (0.5, 0.6, 3.0), (170, 110, 10), 9),
        ((60, 56, 30), (3.0, 3.0, 9.0), IN_LUNG, 24),
    ],
)
def test_on_a_grid_that_the_model_does_not_know(shape, spacing, centre, radius_mm):
    volume = thorax(shape, spacing)
    lesion = ball(volume, centre, radius_mm)
    hole = around(lesion, spacing)
    got = edit(model(by_control), ScanContext(volume, "chest"), Edit(hole, lesion))
    assert np.array_equal(got.hu[~hole], volume.hu[~hole])
    # The lesion's border is blurred by the change of grid; its middle is not.
    core = ndimage.distance_transform_edt(lesion, spacing) > 2 * max(spacing[2], 6) - 6
    assert core.any()
    np.testing.assert_allclose(got.hu[core], -50, atol=1)
    assert got.hu[hole].min() > -680.01
    assert got.hu[hole].max() < -49.99


def test_what_lies_beyond_the_window_stays_where_the_model_says_beyond():
    volume = thorax()
    hole = ball(volume, (30, 10, 15), 15)  # across the rod of 900 HU, in the abdomen's window
    got = edit(
        model(lambda x, sigma, told: torch.ones_like(x)), ScanContext(volume, "abdomen"), Edit(hole)
    )
    beyond = hole & (volume.hu > 240)
    assert beyond.any()
    assert np.array_equal(got.hu[beyond], volume.hu[beyond])
    np.testing.assert_allclose(got.hu[hole & ~beyond], 240, atol=1e-3)


def test_the_model_is_told_the_anatomy_without_what_was_there():
    volume = thorax()
    old = ball(volume, IN_LUNG, 8)
    volume = volume.with_hu(np.where(old, 40, volume.hu))  # a nodule, which is there already
    told = {}

    def listens(x, sigma, condition):
        told["anatomy"], told["control"] = condition.anatomy[0].numpy(), condition.control
        return torch.zeros_like(x)

    hole = around(old, volume.spacing_mm)
    edit(model(listens), ScanContext(volume, "chest"), Edit(hole))
    assert (told["anatomy"] == LUNG).any()
    middle = tuple(n // 2 for n in told["anatomy"].shape)
    start = [max(0, int(s.start) - CONTEXT) for s in ndimage.find_objects(hole.astype(int))[0]]
    there = tuple(c - s for c, s in zip(IN_LUNG, start, strict=True))
    assert told["anatomy"][there] == LUNG
    edit(model(listens), ScanContext(volume, "chest"), Edit(hole, old))
    assert told["anatomy"][there] == BODY  # what a map made of a scan with a nodule says
    assert told["control"][0, 0][there] == 1
    assert told["control"].sum() == old.sum()
    assert middle


def test_where_in_the_body_it_is_told_as_in_training():
    volume = thorax()
    told = {}

    def listens(x, sigma, condition):
        told["position"], told["region"] = condition.position, int(condition.region)
        told["spacing"] = condition.spacing_mm[0].tolist()
        return torch.zeros_like(x)

    hole = ball(volume, IN_LUNG, 6)
    edit(model(listens), ScanContext(volume, "chest"), Edit(hole))
    first = ndimage.find_objects(hole.astype(int))[0]
    for axis, (position, n) in enumerate(zip(told["position"], volume.shape, strict=True)):
        start = max(0, first[axis].start - CONTEXT)
        assert float(position[0, 0]) == pytest.approx(2 * (start + 0.5) / n - 1, abs=1e-6)
    assert told["spacing"] == [3.0, 3.0, 4.0]
    assert told["region"] == 2


@pytest.mark.slow
def test_one_lesion_does_not_depend_on_another_far_away():
    volume = thorax((120, 56, 20))
    near, far = ball(volume, (20, 28, 10), 8), ball(volume, (100, 28, 10), 8)

    def shows_noise(x, sigma, told):
        return torch.tanh(x / sigma)

    one = edit(model(shows_noise), ScanContext(volume, "chest"), Edit(near, near))
    both = edit(model(shows_noise), ScanContext(volume, "chest"), Edit(near | far, near | far))
    assert np.array_equal(one.hu[near], both.hu[near])
    assert np.std(one.hu[near]) > 1
    other = edit(
        model(shows_noise), ScanContext(volume, "chest"), Edit(near, near), RunOptions(seed=1)
    )
    assert not np.array_equal(one.hu[near], other.hu[near])


def test_what_noise_a_voxel_sees_does_not_depend_on_the_box():
    volume = thorax((120, 56, 20))
    small = ball(volume, (50, 28, 10), 6)
    wide = small | ball(volume, (30, 28, 10), 6)  # near enough to share a box with it

    def shows_noise(x, sigma, told):
        return torch.tanh(x / sigma)

    one = edit(model(shows_noise), ScanContext(volume, "chest"), Edit(small))
    both = edit(model(shows_noise), ScanContext(volume, "chest"), Edit(wide))
    assert len(boxes(wide, wide.shape)) == 1
    np.testing.assert_allclose(one.hu[small], both.hu[small], atol=1e-3)


def test_boxes_hold_the_hole_and_its_context_and_meet_nowhere():
    hole = np.zeros((200, 60, 40), bool)
    hole[10:14, 20:30, 5:8] = hole[40:44, 20:30, 5:8] = True  # 26 apart: their contexts meet
    hole[150:155, 2:4, 30:33] = True
    found = boxes(hole, hole.shape)
    assert sorted(b.start[0] for b in found) == [0, 134]
    covered = np.zeros_like(hole, int)
    for box in found:
        covered[box.slices] += 1
    assert covered.max() == 1
    wide = ndimage.binary_dilation(hole, np.ones((3, 3, 3)), iterations=CONTEXT)
    assert (covered[wide] == 1).all()


def test_the_hole_around_a_lesion_is_four_millimetres_wider():
    spacing = (1.0, 2.0, 5.0)
    lesion = np.zeros((40, 30, 12), bool)
    lesion[18:22, 12:15, 5:7] = True
    lesion[3, 3, 1] = True
    expected = ndimage.distance_transform_edt(~lesion, spacing) <= 4.0
    expected |= ndimage.binary_dilation(lesion)  # a slice of 5 mm is more than 4 mm
    assert np.array_equal(around(lesion, spacing), expected)


def test_bad_input_is_one_sentence():
    volume = thorax()
    hole = ball(volume, IN_LUNG, 9)
    nothing = np.zeros_like(hole)
    air = np.zeros_like(hole)
    air[:3, :3] = True
    cases = [
        (Edit(nothing), "hole mask is empty"),
        (Edit(hole[:-1]), r"shape \(59, 56, 30\), the scan \(60, 56, 30\)"),
        (Edit(air), "100% of the hole mask lies outside the body"),
        (Edit(hole, air), "outside the body"),
        (Edit(hole, around(hole, volume.spacing_mm)), "outside the hole"),
    ]
    for what, says in cases:
        with pytest.raises(InputError, match=says):
            edit(model(by_control), ScanContext(volume), what)
    with pytest.raises(InputError, match="--control lesion"):
        edit(model(by_control, None), ScanContext(volume), Edit(hole, hole))


def dome(x, sigma, told):
    """Lesions that are too dark, darker outwards, and grainy."""
    _, _, *shape = x.shape
    grain = torch.linspace(0, 60, x.numel()).reshape(x.shape).sin()
    depth = ndimage.distance_transform_edt(told.control[0, 0].numpy())
    return -0.9 + 0.1 * torch.from_numpy(depth.astype(np.float32)).view(1, 1, *shape) + 0.05 * grain


def test_a_lesion_is_as_dense_as_requested_with_the_models_grain():
    volume = thorax()
    lesion = ball(volume, IN_LUNG, 13)
    hole = around(lesion, volume.spacing_mm)
    levels = Levels(lesion.astype(np.uint16), {1: (-850.0, 30.0)})
    context = ScanContext(volume, "chest")
    free, held = (
        edit(model(dome), context, Edit(hole, lesion, levels=each)).hu for each in (None, levels)
    )
    assert np.array_equal(held[~lesion], free[~lesion])
    layer = ndimage.distance_transform_cdt(lesion, "taxicab")
    assert free[layer > 1].mean() < -300
    for deep in (layer == 2, layer > 2):
        np.testing.assert_allclose(held[deep].mean(), 30, atol=0.01)
        # A constant in each layer at last, where the noise is low: the texture is the model's.
        assert np.corrcoef(held[deep], free[deep])[0, 1] > 0.99
    border = ndimage.gaussian_filter(lesion.astype(float), 0.5)[layer == 1].mean()
    np.testing.assert_allclose(held[layer == 1].mean(), -850 + 880 * border, atol=0.1)


def test_a_part_solid_lesion_has_a_solid_part():
    volume = thorax()
    lesion = ball(volume, IN_LUNG, 16)
    context = ScanContext(volume, "chest")
    plan = lesions.in_mask(volume, lesion, 3)
    plan = lesions.with_levels(context, plan, 3, DensityRequest("part-solid"))
    solid = plan.levels.zones > 256
    assert solid.sum() == pytest.approx(lesion.sum() / 8, rel=0.3)  # half of the diameter
    (around_hu, glass), (beside, core) = (plan.levels.hu[zone] for zone in (1, 257))
    assert around_hu == pytest.approx(-850, abs=5)
    assert beside == glass
    got = lesions.add(model(dome), context, plan, RunOptions())
    layer = ndimage.distance_transform_cdt(solid, "taxicab")
    np.testing.assert_allclose(got.volume.hu[layer > 1].mean(), core, atol=0.01)
    rest = (ndimage.distance_transform_cdt(lesion, "taxicab") > 1) & ~solid
    np.testing.assert_allclose(got.volume.hu[rest].mean(), glass, atol=0.01)
    assert lesions.describe(got.placed[0], got.levels).endswith(f"{glass:.0f} and {core:.0f} HU")


def test_how_dense_a_lesion_becomes_depends_on_the_seed_and_its_surroundings():
    volume = thorax()
    two = ball(volume, IN_LUNG, 6) | ball(volume, (30, 46, 15), 6)
    context = ScanContext(volume, "chest")
    plan = lesions.in_mask(volume, two, 0)
    hu = [lesions.with_levels(context, plan, seed).levels.hu for seed in (0, 0, 1)]
    assert hu[0] == hu[1] != hu[2]
    away = lesions.with_levels(context, plan, 0, DensityRequest(contrast_hu=-60)).levels.hu
    assert sorted(away.values()) == [(o, o - 60) for o in sorted(one for one, _ in away.values())]
    assert [o for o, _ in sorted(away.values())] == pytest.approx([-850, 40], abs=6)
    with pytest.raises(InputError, match="HU around it; give a contrast instead"):
        lesions.with_levels(context, plan, 0, DensityRequest("solid"))
