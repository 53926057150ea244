"""Windows: what is local comes back exactly, and every window is told where it lies."""

from __future__ import annotations

import gc
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from denovox.core.box import Box, Tile, Tiling
from denovox.core.condition import Condition, condition
from denovox.sampling.windowed import Layers, NoiseLevels, layout, windowed

TILING = Tiling(size=24, overlap=8, multiple=4)
SMALLEST = Tiling(size=12, overlap=8, multiple=4)  # three windows meet in a voxel
SHAPES = [(31, 17, 45), (40, 3, 26), (5, 1, 7), (24, 48, 12), (25, 25, 2)]


def volume(shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(seed))


def told(shape: tuple[int, int, int]) -> Condition:
    generator = torch.Generator().manual_seed(1)
    anatomy = torch.randint(0, 118, shape, generator=generator, dtype=torch.uint8)
    return condition(shape, (0.8, 0.9, 2.5), region_id=3, anatomy=anatomy)


def blurred(x: Tensor, sigma: float, c: Condition) -> Tensor:
    """A denoiser that is not local, so that it matters where windows lie."""
    return F.avg_pool3d(x, 3, stride=1, padding=1) / (1 + sigma)


@pytest.mark.slow
@pytest.mark.parametrize("tiling", [TILING, SMALLEST, Tiling(8, 0, 4)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_pointwise_function_is_reproduced(shape, tiling, batch):
    x = volume(shape)
    denoise = windowed(lambda x, s, c: torch.tanh(x) * s, told(shape), tiling, batch)
    for sigma in (0.5, 3.0):  # the seams have moved at the second call
        got = denoise(x, sigma)
        assert got.shape == x.shape
        torch.testing.assert_close(got, torch.tanh(x) * sigma, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("tiling", [TILING, SMALLEST], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_windows_are_told_their_positions(shape, tiling, axis):
    c = told(shape)

    def answer(x: Tensor, sigma: float, seen: Condition) -> Tensor:
        view = [len(x), 1, 1, 1, 1]
        view[2 + axis] = -1
        return seen.position[axis].view(view).expand(x.shape)

    view = [1, 1, 1, 1, 1]
    view[2 + axis] = -1
    expected = c.position[axis].view(view).expand(1, 1, *shape)
    got = windowed(answer, c, tiling, batch=2)(volume(shape), 1.0)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_windows_are_told_their_labels_region_and_spacing(shape):
    c = told(shape)

    def answer(x: Tensor, sigma: float, seen: Condition) -> Tensor:
        assert seen.region.tolist() == [3] * len(x)
        torch.testing.assert_close(seen.spacing_mm, c.spacing_mm.expand(len(x), 3))
        assert sigma == 0.25
        return seen.anatomy[:, None].float()

    got = windowed(answer, c, TILING, batch=3)(volume(shape), 0.25)
    torch.testing.assert_close(got, c.anatomy[:, None].float(), rtol=1e-5, atol=1e-5)


def test_beyond_the_end_a_window_sees_the_mirror_image():
    shape = (6, 9, 11)
    x, seen = volume(shape), []

    def record(x: Tensor, sigma: float, c: Condition) -> Tensor:
        seen.append(x)
        return x

    windowed(record, told(shape), TILING)(x, 1.0)
    (window,) = seen
    expected = np.pad(x[0, 0].numpy(), [(0, 2), (0, 3), (0, 1)], mode="reflect")
    np.testing.assert_array_equal(window[0, 0], expected)


def test_a_volume_too_thin_to_mirror_goes_on_at_its_edge():
    shape = (2, 4, 4)
    x, seen = volume(shape), []

    def record(x: Tensor, sigma: float, c: Condition) -> Tensor:
        seen.append(x)
        return x

    windowed(record, told(shape), TILING)(x, 1.0)
    np.testing.assert_array_equal(
        seen[0][0, 0], np.pad(x[0, 0].numpy(), [(0, 2), (0, 0), (0, 0)], mode="edge")
    )


def test_windows_are_boxes_of_x():
    shape = (40, 24, 30)
    x = torch.arange(40 * 24 * 30, dtype=torch.float32).view(1, 1, *shape)
    found = []

    def record(x_seen: Tensor, sigma: float, c: Condition) -> Tensor:
        a = int(x_seen[0, 0, 0, 0, 0])
        at = (a // (24 * 30), a // 30 % 24, a % 30)
        size = tuple(min(n, m - b) for n, m, b in zip(x_seen.shape[2:], shape, at, strict=True))
        inside = x_seen[0, 0, : size[0], : size[1], : size[2]]
        assert torch.equal(inside, x[(0, 0, *Box(at, size).slices)])
        found.append(at)
        return x_seen

    windowed(record, told(shape), TILING)(x, 1.0)
    assert len(found) == len(set(found)) == 2 * 1 * 2


@pytest.mark.parametrize("shape", [(31, 17, 45), (50, 50, 9)], ids=str)
def test_how_many_windows_go_together_changes_only_rounding(shape):
    results = [
        windowed(blurred, told(shape), TILING, batch)(volume(shape), 1.0)
        for batch in (1, 2, 5, 100)
    ]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-6)
    whole = blurred(volume(shape), 1.0, told(shape))
    assert float((results[0] - whole).abs().max()) > 1e-3  # windows did matter


def test_seams_depend_on_the_seed_and_on_the_call_alone():
    shape, roomy = (60, 31, 45), Tiling(size=32, overlap=8, multiple=2)
    x, c = volume(shape), told(shape)

    def calls(seed: int | None) -> list[Tensor]:
        denoise = windowed(blurred, c, roomy, seed=seed)
        return [denoise(x, 1.0) for _ in range(3)]

    one, again, other, still = calls(4), calls(4), calls(5), calls(None)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[0], other[0])
    assert torch.equal(still[0], still[1])


def volumes_held() -> dict[int, int]:
    """Address -> numbers in it, of everything in memory that is shaped like volumes."""
    tensors = [one for one in gc.get_objects() if type(one) is Tensor and one.dim() in (4, 5)]
    storages = [one.untyped_storage() for one in tensors if one.dtype == torch.float32]
    return {storage.data_ptr(): storage.nbytes() // 4 for storage in storages}


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4])
def test_no_more_is_held_than_the_result_a_layer_and_a_batch_of_windows(batch):
    shape, sizes, peaks = (70, 50, 61), [], []
    x = volume(shape)
    before = volumes_held()

    def watch(x: Tensor, sigma: float, c: Condition) -> Tensor:
        assert len(x) <= batch
        assert len(c.anatomy) == len(x)
        assert all(n <= TILING.size for n in x.shape[2:])
        if len(sizes) % 4 == 0:
            held = volumes_held()
            peaks.append(sum(numbers for at, numbers in held.items() if at not in before))
        sizes.append(x.numel())
        return x.clone()

    torch.testing.assert_close(windowed(watch, told(shape), TILING, batch)(x, 1.0), x)
    # The result, a layer and what it shares with the next, the windows now asked about, and those
    # answered last.
    layer = shape[0] * shape[1] * (TILING.size + TILING.overlap)
    allowed = x.numel() + layer + 2 * max(sizes)
    assert max(peaks) <= allowed
    assert allowed < 0.8 * sum(sizes)  # all windows at once would take much more


@pytest.mark.parametrize("batch", [1, 3])
def test_done_rises_to_one_in_every_call(batch):
    shape, shares = (60, 31, 45), []
    denoise = windowed(blurred, told(shape), TILING, batch, done=shares.append)
    for _ in range(2):
        shares.clear()
        denoise(volume(shape), 1.0)
        assert len(shares) > 1
        assert shares == sorted(set(shares))
        assert shares[0] > 0
        assert shares[-1] == 1


def test_x_is_left_alone():
    x = volume((31, 17, 45))
    before = x.clone()
    windowed(lambda x, s, c: x.mul_(0), told((31, 17, 45)), TILING)(x, 1.0)
    assert torch.equal(x, before)


@pytest.mark.parametrize("tiling", [TILING, SMALLEST, Tiling(24, 5, 4)], ids=str)
def test_a_stream_of_slices_is_the_whole_bit_for_bit(tiling):
    shape = (31, 17, 45)
    x, c, asked = volume(shape), told(shape), []

    def some(z: slice) -> Tensor:
        asked.append((z.start, z.stop))
        return x[..., z].clone()

    parts = list(Layers(blurred, c, layout(shape, tiling, 3)).run(some, 0.5, shape[2]))
    assert [z.start for z, _ in parts] == [0, *(z.stop for z, _ in parts[:-1])]
    assert parts[-1][0].stop == shape[2]
    assert asked == [(t.start, min(t.stop, shape[2])) for t in tiling_of(tiling, shape)]
    joined = torch.cat([part for _, part in parts], -1)
    assert torch.equal(joined, windowed(blurred, c, tiling, seed=3)(x, 0.5))


def tiling_of(tiling: Tiling, shape: tuple[int, int, int]) -> list[Tile]:
    """The tiles along z of the first call with seed 3."""
    return tiling.tiles(shape[2], np.random.default_rng([3, 0]).uniform(-1, 1, 3)[2])


@pytest.mark.parametrize("batch", [1, 3])
def test_tiles_without_a_needed_voxel_are_skipped_and_the_rest_is_the_same(batch):
    shape, seen, shares = (60, 31, 45), [], []
    x, needed = volume(shape), torch.zeros(shape, dtype=torch.bool)
    needed[20:23, 3, 40], needed[59, 30, 0] = True, True

    def counted(x: Tensor, sigma: float, c: Condition) -> Tensor:
        seen.append(len(x))
        return blurred(x, sigma, c)

    whole = windowed(counted, told(shape), TILING, batch)(x, 1.0)
    every = sum(seen)
    seen.clear()
    some = windowed(
        counted, told(shape), TILING, batch, done=shares.append, needed=lambda z: needed[..., z]
    )(x, 1.0)
    axes = layout(shape, TILING, 0)
    wanted = [
        tiles
        for tiles in itertools.product(*axes)
        if needed[tuple(slice(t.start, t.stop) for t in tiles)].any()
    ]
    assert sum(seen) == len(wanted) < every / 2
    assert torch.equal(some[0, 0][needed], whole[0, 0][needed])
    assert shares[-1] == 1


@pytest.mark.parametrize("batch", [1, 3])
def test_a_noise_level_that_varies_is_interpolated_between_its_levels(batch):
    shape, sigmas, asked = (40, 31, 45), (0.1, 0.2, 0.5), []
    x, place = volume(shape), torch.linspace(0, 2, shape[0])[:, None, None].expand(shape)
    needed = (place < 1.5) & (torch.arange(shape[1])[None, :, None] > 3)

    def scaled(x: Tensor, sigma: float, c: Condition) -> Tensor:
        asked.append((sigma, len(x)))
        return sigma * x

    axes = layout(shape, TILING, 0)
    levels = NoiseLevels(sigmas, lambda z: place[None, None, ..., z])
    layers = Layers(scaled, told(shape), axes, batch)
    found = layers.run(lambda z: x[..., z], levels, shape[2], lambda z: needed[..., z])
    got = torch.cat([part for _, part in found], 4)
    want = x * torch.from_numpy(np.interp(place, [0, 1, 2], sigmas)).float()
    torch.testing.assert_close(got[0, 0][needed], want[0, 0][needed])
    # Each tile is evaluated at the levels that its needed voxels are between, and at no others.
    counts = dict.fromkeys(sigmas, 0)
    for tiles in itertools.product(*axes):
        at = tuple(slice(t.start, t.stop) for t in tiles)
        values = place[at][needed[at]]
        if len(values):
            for k in range(int(values.min()), math.ceil(values.max()) + 1):
                counts[sigmas[k]] += 1
    for sigma, count in counts.items():
        alike = sum(n for level, n in asked if level == sigma)
        assert alike == count if batch == 1 else alike >= count
