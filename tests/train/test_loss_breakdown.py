"""Losses by level and noise."""

from dataclasses import replace

import pytest
import torch
from toy import toy

from denovox.datasets.samples.batch import collate
from denovox.train.loss_breakdown import Ledger


def told(*each):
    """A batch of samples of these levels and u."""
    one = toy(torch.zeros(1))
    return collate([replace(one, level=level, u=u) for level, u in each])


def test_means_by_level_and_by_band():
    losses = iter([torch.tensor([1.0, 2.0, 6.0]), torch.tensor([3.0])])
    ledger = Ledger(lambda u: 10 * u)
    predict = ledger.watched(lambda samples: next(losses))
    assert predict(told((0, 0.001), (2, 0.02), (2, 0.3))).tolist() == [1, 2, 6]
    predict(told((2, 0.05)))  # sigma .5 belongs to the band that begins there
    assert ledger.close() == {
        "whole": 1,
        "crop": pytest.approx(11 / 3),
        "sigma<.1": 1,
        "sigma .1-.5": 2,
        "sigma .5-2": 3,
        "sigma>2": 6,
    }
    assert ledger.close() == {}


def test_validation_is_not_in_the_ledger():
    ledger = Ledger(lambda u: u)
    predict = ledger.watched(lambda samples: torch.ones(len(samples.u)))
    with torch.no_grad():
        predict(told((1, 0.5)))
    assert ledger.close() == {}
