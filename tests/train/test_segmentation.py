"""A segmenter's loss against MONAI's and by hand, and its training."""

import numpy as np
import pytest
import torch

from denovox.core.condition import condition
from denovox.core.regions import REGIONS
from denovox.datasets.samples.batch import Sample, collate
from denovox.model.segmenter import Segmenter, SegmenterConfig
from denovox.train import segmentation
from denovox.train.segmentation import loss_of, predictor, train_segmenter

CHEST = REGIONS["chest"]


def crop(seed, sick=True, told=True):
    """A ball of soft tissue in lung, with noise; without `sick` there is none."""
    rng = np.random.default_rng(seed)
    at = rng.uniform(5, 11, (3, 1, 1, 1))
    away = np.linalg.norm(np.indices((16, 16, 16)) - at, axis=0)
    lesion = (away < rng.uniform(3, 5)) & sick
    hu = np.where(lesion, 30, -850) + rng.normal(0, 30, lesion.shape)
    x0 = torch.from_numpy(CHEST.window.unit(hu).clip(-1, 1).astype(np.float32))[None, None]
    mask = torch.from_numpy(lesion.astype(np.float32))[None, None]
    known = condition((16, 16, 16), (1.0, 1.0, 1.0), CHEST.id)
    known = known if not told else type(known)(**{**vars(known), "control": mask})
    return Sample(x0, torch.zeros_like(x0), 0.5, known, 2)


def test_the_loss_is_monais():
    from monai.losses import DiceCELoss

    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 4, 5, 6, generator=rng)
    lesion = (torch.rand(logits.shape, generator=rng) < 0.2).float()
    oracle = DiceCELoss(sigmoid=True, smooth_nr=1, smooth_dr=1)
    expected = [oracle(logits[n : n + 1], lesion[n : n + 1]) for n in range(3)]
    torch.testing.assert_close(loss_of(logits, lesion), torch.stack(expected))


def test_by_hand():
    logits, lesion = torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)
    lesion[0, 0, 0] = 1  # 4 of 8 voxels; every share is a half
    expected = np.log(2) + 1 - (2 * 2 + 1) / (4 + 4 + 1)
    assert float(loss_of(logits, lesion)) == pytest.approx(expected)
    sure = torch.where(lesion > 0, 50.0, -50.0)
    assert float(loss_of(sure, lesion)) == pytest.approx(0, abs=1e-6)
    none = torch.zeros_like(lesion)
    assert float(loss_of(sure * 0 - 50, none)) == pytest.approx(0, abs=1e-6)


def test_samples_without_a_mask_are_refused():
    predict = predictor(Segmenter(SegmenterConfig(channels=(4, 8))))
    assert predict(collate([crop(0), crop(1, sick=False)])).shape == (2,)
    with pytest.raises(ValueError, match="lesion mask"):
        predict(collate([crop(0, told=False), crop(1, told=False)]))


def test_training_teaches_it_balls(tmp_path):
    config = SegmenterConfig(channels=(8, 16))
    net = train_segmenter(config, lambda n: crop(n, n % 4 > 0), tmp_path, 0, 60, 4, 1e-2)
    for seed in range(1000, 1004):
        one = crop(seed)
        mask = net(one.x0, one.condition.region) > 0
        truth = one.condition.control > 0
        assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.85
    healthy = crop(2000, sick=False)
    assert int((net(healthy.x0, healthy.condition.region) > 0).sum()) == 0


def test_the_weights_are_averages(tmp_path, monkeypatch):
    steps, train = [], segmentation.train

    def watched(*given):
        for step in train(*given):
            steps.append(step)
            yield step

    monkeypatch.setattr(segmentation, "train", watched)
    net = train_segmenter(SegmenterConfig(channels=(4, 8)), crop, tmp_path, 0, 4, 2)
    assert len(steps) == 4
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, steps[-1].average[name])


def test_the_same_seed_and_samples_give_the_same_weights(tmp_path):
    def trained(name, seed):
        config = SegmenterConfig(channels=(4, 8))
        net = train_segmenter(config, crop, tmp_path / name, seed, 3, 2)
        assert not net.training
        assert not any(parameter.requires_grad for parameter in net.parameters())
        return torch.cat([parameter.flatten() for parameter in net.parameters()])

    assert torch.equal(trained("a", 1), trained("b", 1))
    assert not torch.equal(trained("c", 1), trained("d", 2))
