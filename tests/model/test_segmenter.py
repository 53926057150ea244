"""The judge's network: what it is shown, that it is small, and whole scans window by window."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from denovox.core.regions import REGIONS
from denovox.model.segmenter import PRIOR, Segmenter, SegmenterConfig, lesion_share

CHEST, ABDOMEN = REGIONS["chest"], REGIONS["abdomen"]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(3)
    return Segmenter(SegmenterConfig(channels=(4, 8)))


def test_it_is_small_and_the_seed_decides_its_weights():
    nets = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        nets.append(torch.cat([p.detach().ravel() for p in Segmenter().parameters()]))
    assert len(nets[0]) < 1e6
    assert torch.equal(nets[0], nets[1])
    assert not torch.equal(nets[0], nets[2])


def test_it_is_shown_the_crop_and_the_soft_tissue_window(net):
    seen = []
    handle = net.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    hu = torch.linspace(-1400, 400, 8**3).reshape(1, 1, 8, 8, 8)
    told = torch.tensor([CHEST.id, ABDOMEN.id])
    with torch.no_grad():
        net(torch.cat([CHEST.window.unit(hu), ABDOMEN.window.unit(hu).clamp(-1, 1)]), told)
    handle.remove()
    chest, abdomen = seen[0].reshape(2, 2, 8, 4, 4, 4)  # 2x2x2 voxels are 8 channels
    corner = hu[0, 0, ::2, ::2, ::2]
    torch.testing.assert_close(chest[0, 0], CHEST.window.unit(corner))
    soft = ((corner - 40) / 200).clamp(-1, 1)  # width 400, level 40
    torch.testing.assert_close(chest[1, 0], soft, atol=1e-5, rtol=0)
    shown = corner.clamp(-120, 240)  # the abdomen's window ends before
    torch.testing.assert_close(abdomen[1, 0], ((shown - 40) / 200).clamp(-1, 1))


def test_untrained_it_says_about_the_prior(net):
    share = lesion_share(net, np.zeros((24, 16, 16), np.float32), CHEST, 16)
    assert 0.2 * PRIOR < np.median(share) < 5 * PRIOR


def test_a_scan_in_windows_is_the_scan_at_once_away_from_their_borders(net):
    hu = np.random.default_rng(0).uniform(-900, 100, (70, 40, 30)).astype(np.float32)
    padded = np.pad(hu, [(0, 2), (0, 0), (0, 2)], mode="edge")
    x0 = torch.from_numpy(CHEST.window.unit(padded))[None, None]
    with torch.no_grad():
        whole = expit(net(x0, torch.tensor([CHEST.id]))[0, 0].numpy())[:70, :, :30]
    assert lesion_share(net, hu, CHEST, 80) == pytest.approx(whole, abs=1e-5)
    parts = lesion_share(net, hu, CHEST, 48)
    assert parts.shape == hu.shape
    assert np.abs(parts - whole)[:32].max() < 1e-6  # before the windows overlap
    assert np.abs(parts - whole).max() < 0.01
    assert np.abs(whole - whole.mean()).max() > 1e-4  # there is something to compare


def test_the_last_voxels_count(net):
    hu = np.full((17, 16, 16), -800, np.float32)
    lit = hu.copy()
    lit[16] = 40
    assert (lesion_share(net, lit, CHEST, 16) != lesion_share(net, hu, CHEST, 16))[16].all()
