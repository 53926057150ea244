"""Synthesis: levels, guidance, regions of a label map, and what is refused."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

from denovox.core.condition import condition
from denovox.core.errors import InputError
from denovox.core.labels import AIRWAY, BODY, ID, LUNG, OUTSIDE
from denovox.core.random_field import field
from denovox.core.regions import REGIONS
from denovox.core.volume import Volume
from denovox.inference.model import Model
from denovox.inference.options import RunOptions
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig, save
from denovox.reports.recorder import Recorder, recording
from denovox.sampling.guidance import Guidance
from denovox.tasks import synthesis

CONFIG = ModelConfig(net=PRESETS["tiny"], spacing_mm=(0.7, 6.0), patch=16)
MM = (3.0, 3.0, 5.0)


def shrink(x, sigma, told):
    """The denoiser of a normal prior of SD .3."""
    return x * (0.09 / (0.09 + sigma**2))


def model(denoise=shrink, path=Path("none")):
    return Model(denoise, CONFIG, path, "cpu")


def body(shape=(24, 20, 16)):
    ids = np.full(shape, OUTSIDE, np.uint8)
    ids[3:-3, 3:-3] = BODY
    ids[6:-6, 6:-6, 2:-2] = ID["liver"]
    return ids


def weights_with(drop, tmp_path):
    """A file whose card says that conditions were dropped this often."""
    card = {} if drop is None else {"recipe": {"data": {"sample": {"drop": drop}}}}
    save(tmp_path / "net.safetensors", {"x": torch.zeros(1)}, CONFIG, card)
    return tmp_path / "net.safetensors"


def test_one_level_without_guidance_is_the_sampler_alone_bit_for_bit():
    ids, shape = body(), (24, 20, 16)
    got = model().synthesize("abdomen", shape, MM, ids, steps=7, options=RunOptions(3))
    noise = field(3, shape)
    task = synthesis(noise, CONFIG.noise_schedule.from_noise(7))
    told = condition(shape, MM, 3, torch.from_numpy(ids))
    x0 = task.run(lambda x, s: shrink(x, s, told), noise)[0, 0].numpy()
    expected = REGIONS["abdomen"].window.hu(x0)
    inside = ids != OUTSIDE
    assert np.array_equal(got.hu[inside], expected[inside])


def test_levels_are_conditioned_as_in_training():
    seen = []

    def watch(x, sigma, told):
        seen.append((tuple(x.shape[2:]), sigma, told))
        return shrink(x, sigma, told)

    ids = body((40, 32, 16))
    got = model(watch).synthesize("abdomen", ids.shape, MM, ids, levels=2, steps=4)
    assert got.shape == (40, 32, 16)
    _, _, first = seen[0]
    np.testing.assert_allclose(first.spacing_mm[0], [3 * 40 / 24, 3 * 32 / 24, 5.0])
    assert first.position_x[0, 0] == pytest.approx(-1 + 1 / 24)  # of the whole volume
    assert set(first.anatomy.unique().tolist()) == {OUTSIDE, BODY, ID["liver"]}
    assert seen[0][1] == pytest.approx(80)
    fine = [(sigma, told) for _, sigma, told in seen[4:]]
    assert max(sigma for sigma, _ in fine) == pytest.approx(3.0)
    assert all(told.spacing_mm[0].tolist() == list(MM) for _, told in fine)


def test_a_finer_level_keeps_what_the_coarser_one_drew():
    """The whole is a draw of the first level: here its sign, which is all that is random."""

    def either(x, sigma, told):
        if told.spacing_mm[0, 0] > 3:  # the first level: the whole is bright or dark
            return torch.full_like(x, 0.8 if float(x.mean()) > 0 else -0.8)
        return x * (0.09 / (0.09 + sigma**2))

    ids = body((40, 32, 16))
    for seed in range(4):
        got = model(either).synthesize(
            "abdomen", ids.shape, MM, ids, levels=2, options=RunOptions(seed)
        )
        bright = float(field(seed, (24, 24, 16))(1 << 20).mean()) > 0
        assert (got.hu[ids != OUTSIDE].mean() > 60) == bright  # the window's centre
        unit = REGIONS["abdomen"].window.unit(got.hu)
        assert abs(unit[ids != OUTSIDE].mean()) > 0.2


def test_labels_allow_a_larger_whole_than_a_scan_without_any():
    """A patch and a half; without labels, the size at which training shows a whole."""
    for ids, coarsest in ((body((60, 48, 32)), "24x24x24"), (None, "16x16x16")):
        said = []
        model().synthesize(
            "abdomen", (60, 48, 32), MM, ids, levels=2, options=RunOptions(say=said.append)
        )
        assert said[-1].startswith(f"abdomen: 2 levels ({coarsest}, 60x48x32 voxels)")


def test_a_finest_level_without_guidance_asks_once(tmp_path, monkeypatch):
    """Where the budget does not suffice for two guided evaluations of it."""
    asked = []

    def watch(x, sigma, told):
        asked.append((float(told.spacing_mm[0, 0]) > MM[0], len(x)))
        return told_or_not(x, sigma, told)

    monkeypatch.setattr("denovox.sampling.levels.TILES", 8)
    net, ids = model(watch, weights_with(0.2, tmp_path)), body((40, 32, 16))
    options = RunOptions(tile=32)
    net.synthesize("abdomen", ids.shape, MM, ids, levels=2, steps=4, options=options)
    assert {count for coarse, count in asked if coarse} == {1, 2}
    assert {count for coarse, count in asked if not coarse} == {1}


def test_levels_by_themselves():
    said = []
    ids, options = body(), RunOptions(say=said.append)
    model().synthesize("abdomen", ids.shape, MM, ids, options=options)
    assert said[-1] == "abdomen: 1 level (24x20x16 voxels), 5 steps, 5 evaluations of tiles"
    model().synthesize("abdomen", ids.shape, MM, options=options)  # nothing fixes the whole
    assert said[-1].startswith("abdomen: 2 levels (16x16x16, 24x20x16 voxels), 5+5 steps, ")
    with pytest.raises(InputError, match="1 level at most"):
        model().synthesize("abdomen", ids.shape, MM, ids, levels=3)


def test_progress_names_level_and_step():
    notes, shares = [], []
    options = RunOptions(note=notes.append, progress=shares.append)
    model().synthesize("chest", (24, 20, 16), MM, steps=3, options=options)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert notes[0].startswith("level 1 of 2, step ")
    assert notes[-1] == "level 2 of 2, step 3 of 3"


@pytest.mark.parametrize("levels", [1, 2])
def test_the_manifest_learns_where_tiles_of_the_last_evaluation_meet(levels):
    """Each tile draws its own value at the end, so a border is where voxels differ."""
    values = iter(np.linspace(-0.9, 0.9, 1000))

    def each(x, sigma, told):
        return torch.full_like(x, next(values))

    notes, shape = Recorder(), (60, 40, 24)
    with recording(notes):
        got = model(each).synthesize(
            "chest", shape, MM, steps=4, levels=levels, options=RunOptions(5, tile=24)
        )
    assert [span.region for span in notes.decisions[-1][1]["regions"]] == ["chest"]
    (borders,) = notes.decisions[-1][1]["tile borders"]
    assert borders[0]
    for axis, planes in enumerate(borders):
        steps = np.abs(np.diff(got.hu, axis=axis)).mean(tuple({0, 1, 2} - {axis}))
        away = [i for i in range(len(steps)) if all(abs(i - plane) > 2 for plane in planes)]
        assert steps[away].max(initial=0) < 1e-3
        assert all(steps[plane] > 0.05 for plane in planes)


# Guidance -------------------------------------------------------------------------------------


def told_or_not(x, sigma, told):
    """.4 where an anatomy is given, .1 where it is not."""
    given = (told.anatomy != 0)[:, None].float()
    return 0.1 + 0.3 * given.expand(x.shape)


def unit(volume):
    return REGIONS["abdomen"].window.unit(volume.hu)[10, 10, 8]


@pytest.mark.parametrize("drop", [0.0, None])
def test_weights_without_dropped_conditions_are_not_guided(tmp_path, drop):
    path, ids = weights_with(drop, tmp_path), body()
    got = model(told_or_not, path).synthesize("abdomen", ids.shape, MM, ids)
    assert unit(got) == pytest.approx(0.4)
    model(told_or_not, path).synthesize("abdomen", ids.shape, MM, ids, guidance=1)
    with pytest.raises(InputError, match="not trained with dropped conditions"):
        model(told_or_not, path).synthesize("abdomen", ids.shape, MM, ids, guidance=2)


def test_weights_with_dropped_conditions_are_guided_within_the_interval(tmp_path):
    answers = []

    def watch(x, sigma, told):
        answers.append((sigma, len(x)))
        return told_or_not(x, sigma, told)

    ids = body()
    net = model(watch, weights_with(0.2, tmp_path))
    net.synthesize("abdomen", ids.shape, MM, ids)
    guided = [sigma for sigma, count in answers if count == 2]
    assert guided
    assert min(guided) >= Guidance().low
    assert max(guided) <= Guidance().high
    answers.clear()
    net.synthesize("abdomen", ids.shape, MM, ids, guidance=1)
    assert {count for _, count in answers} == {1}


def test_a_weaker_guide_needs_no_dropped_conditions():
    ids = body()

    weaker = model(lambda x, sigma, told: torch.full_like(x, 0.2))
    how = Guidance(2.0, 0.0, 99.0)
    got = model(told_or_not).synthesize("abdomen", ids.shape, MM, ids, guidance=how, guide=weaker)
    assert unit(got) == pytest.approx(0.2 + 2 * (0.4 - 0.2))


# Distilled weights ----------------------------------------------------------------------------


def student(denoise=shrink, steps=4):
    return Model(denoise, CONFIG.model_copy(update={"distilled_steps": steps}), Path("few"), "cpu")


@pytest.mark.parametrize("levels", [1, 2])
def test_distilled_weights_are_asked_at_the_noise_levels_that_they_know(levels):
    asked = []

    def watch(x, sigma, told):
        asked.append(sigma)
        return shrink(x, sigma, told)

    student(watch).synthesize("abdomen", (40, 32, 16), MM, body((40, 32, 16)), levels=levels)
    known = CONFIG.noise_schedule.from_noise(4)[:-1]
    expected = known if levels == 1 else known + known[2:]  # a finer level begins near 3
    assert [sigma for sigma, _ in groupby(asked)] == expected


def test_distilled_weights_take_one_ddim_step_from_level_to_level():
    """The ODE of N(0, .3^2) without error, if each x0 leads exactly to the next level."""
    sigmas = CONFIG.noise_schedule.from_noise(4)

    def exact(x, sigma, told):
        following = sigmas[sigmas.index(sigma) + 1]
        ratio = following / sigma
        reached = x * ((0.09 + following**2) / (0.09 + sigma**2)) ** 0.5
        return (reached - ratio * x) / (1 - ratio)

    shape = (24, 20, 16)
    got = student(exact).synthesize("abdomen", shape, MM, body(), options=RunOptions(3))
    drawn = REGIONS["abdomen"].window.unit(got.hu)[body() != OUTSIDE]
    expected = (80 * field(3, shape)(0)[0, 0].numpy() * 0.3 / (0.09 + 80**2) ** 0.5).clip(-1, 1)
    expected = expected[body() != OUTSIDE]
    inside = np.abs(expected) < 0.9  # clipping on the way changes the others
    np.testing.assert_allclose(drawn[inside], expected[inside], atol=1e-4)


def test_distilled_weights_do_nothing_else():
    ids, net = body(), student()
    for other in ({"steps": 5}, {"guidance": 2}, {"guide": model()}):
        with pytest.raises(InputError, match="distilled to 4 steps and include"):
            net.synthesize("abdomen", ids.shape, MM, ids, **other)
    net.synthesize("abdomen", ids.shape, MM, ids, steps=4, guidance=1)
    hu = np.where(ids == OUTSIDE, -1000, 40 + np.arange(24)[:, None, None])
    scan = Volume(hu.astype(np.float32), np.diag([*MM, 1.0]))
    with pytest.raises(InputError, match="few are distilled to generate scans in 4 steps"):
        net.denoise(scan, "abdomen", 20.0)


# Regions --------------------------------------------------------------------------------------


def whole_body():
    ids = np.full((16, 16, 60), OUTSIDE, np.uint8)
    ids[2:-2, 2:-2] = BODY
    ids[4:8, 4:-4, 20:40] = LUNG
    ids[9:11, 7:9, 30:55] = AIRWAY
    return ids


def test_a_label_map_of_several_regions_is_drawn_region_by_region_on_one_grid():
    asked, said = set(), []

    def watch(x, sigma, told):
        asked.add((int(told.region[0]), float(told.spacing_mm[0, 2])))
        return torch.full_like(x, 0.5)

    ids = whole_body()
    got = model(watch).synthesize("auto", ids.shape, MM, ids, options=RunOptions(say=said.append))
    assert asked == {(1, 5.0), (2, 5.0), (3, 5.0)}
    assert [line.split(",")[0] for line in said[:3]] == [
        "region: abdomen", "region: chest", "region: headneck",
    ]  # fmt: skip
    values = {name: REGIONS[name].window.hu(np.float32(0.5)) for name in REGIONS}
    column = got.hu[3, 3]
    assert column[0] == pytest.approx(values["abdomen"])
    assert column[30] == pytest.approx(values["chest"])
    assert column[59] == pytest.approx(values["headneck"])
    # From one to the other within 20 mm, monotonically.
    near = column[16:24]
    assert (np.diff(near) * np.sign(values["chest"] - values["abdomen"]) >= -1e-3).all()
    assert column[17] == pytest.approx(values["abdomen"])
    assert column[22] == pytest.approx(values["chest"])


@pytest.mark.parametrize("hu", [-850.0, -400.0, 40.0, 380.0])
def test_models_that_are_right_within_their_windows_hand_over_what_is_right(hu):
    """Lung and bone keep their HU wherever the chest's window counts, clipped on neither side."""

    def right(x, sigma, told):
        window = next(r.window for r in REGIONS.values() if r.id == int(told.region[0]))
        return torch.full_like(x, window.unit(np.clip(hu, window.low_hu, window.high_hu)))

    ids = whole_body()
    column = model(right).synthesize("auto", ids.shape, MM, ids).hu[3, 3]
    reach = round(10 / MM[2])  # slices on either side of a border where both regions count
    np.testing.assert_allclose(column[20 - reach : 40 + reach], hu, atol=1e-2)
    for end, name in ((0, "abdomen"), (59, "headneck")):
        window = REGIONS[name].window
        assert column[end] == pytest.approx(np.clip(hu, window.low_hu, window.high_hu), abs=1e-2)


def test_neighbouring_regions_start_from_the_same_noise():
    seen = {}

    def watch(x, sigma, told):
        if sigma > 70:
            seen[int(told.region[0])] = x[0, 0, 3, 3].clone() / 80
        return torch.zeros_like(x)

    model(watch).synthesize("auto", (16, 16, 60), MM, whole_body())
    whole = field(0, (16, 16, 60))(0)[0, 0, 3, 3]
    torch.testing.assert_close(seen[3], whole[: len(seen[3])], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        seen[1][: 60 - 30], whole[60 - len(seen[1]) :][:30], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("unit", [-1.0, -0.75])  # samples do not reach the end of the window
def test_gas_becomes_air_where_the_window_ends(unit):
    ids = whole_body()
    got = model(lambda x, s, told: torch.full_like(x, unit)).synthesize("auto", ids.shape, MM, ids)
    assert got.hu[0, 0, 0] == -1000
    assert got.hu[9, 7, 50] == -1000  # the trachea, in the window of head and neck
    assert got.hu[0, 0, 30] == -1000  # of the chest, whose window contains air
    windows = {name: one.window.hu(np.float32(unit)) for name, one in REGIONS.items()}
    assert got.hu[3, 3, 59] == pytest.approx(windows["headneck"])


def test_air_around_a_chest_is_air_though_samples_miss_it_by_hundreds_of_hu():
    ids = whole_body()
    window = REGIONS["chest"].window
    for hu, expected in ((-780, -1000), (-501, -1000), (-499, -499), (40, 40)):
        unit = float(window.unit(np.float32(hu)))
        drawn = model(lambda x, s, told, unit=unit: torch.full_like(x, unit))
        got = drawn.synthesize("chest", ids.shape, MM, ids).hu
        np.testing.assert_allclose(got[ids == OUTSIDE], expected, atol=1e-2)
        np.testing.assert_allclose(got[ids == LUNG], hu, atol=1e-2)  # lungs are no gas


def test_what_is_bright_stays_where_labels_say_air():
    ids = whole_body()
    got = model(lambda x, s, told: torch.zeros_like(x)).synthesize("auto", ids.shape, MM, ids)
    assert got.hu[0, 0, 0] == pytest.approx(REGIONS["abdomen"].window.hu(np.float32(0)))


def test_voxel_sizes_that_a_file_rounded_are_not_refused():
    mm = (float(np.float32(0.7)), 0.7, 6.0002)
    assert model().synthesize("chest", (8, 8, 8), mm).spacing_mm == pytest.approx(mm)


# Refusals -------------------------------------------------------------------------------------


def test_what_cannot_be_drawn_is_refused_before_the_network_runs():
    def never(x, sigma, told):
        raise AssertionError("the network was evaluated")

    net, ids = model(never), body()
    with pytest.raises(InputError, match="without an anatomy the region is not known"):
        net.synthesize(None, ids.shape, MM)
    with pytest.raises(InputError, match="shows no body"):
        net.synthesize("chest", ids.shape, MM, np.zeros_like(ids))
    two = np.concatenate([ids, ids])
    with pytest.raises(InputError, match="2 separate bodies"):
        net.synthesize("abdomen", two.shape, MM, two)
    with pytest.raises(InputError, match=r"chest: 48 x 48 x 1500 mm is larger"):
        net.synthesize("chest", (8, 8, 250), (6.0, 6.0, 6.0))
    with pytest.raises(InputError, match=r"voxels of 3 x 3 x 12 mm are outside the 0.7 to 6 mm"):
        net.synthesize("chest", (8, 8, 8), (3.0, 3.0, 12.0))
    with pytest.raises(InputError, match="distilled weights cannot guide"):
        net.synthesize("abdomen", ids.shape, MM, ids, guide=student(never))
    with pytest.raises(InputError, match=r"drawing 24 x 20 x 16 voxels takes about .* GB"):
        net.synthesize("abdomen", ids.shape, MM, ids, options=RunOptions(memory="1MB"))
    for steps in (0, -3):
        with pytest.raises(InputError, match="steps"):
            net.synthesize("chest", (8, 8, 8), MM, steps=steps)
