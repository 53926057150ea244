"""Losses by level and noise."""

import pytest
import torch

from denovox.data.levels import Sample
from denovox.train.ledger import Ledger


class Told(Sample):
    """A sample of which only that is there which the ledger asks for."""

    def __init__(self, level, u):
        self.__dict__.update(level=level, u=u)


def test_means_by_level_and_by_band():
    losses = iter([torch.tensor([1.0, 2.0, 6.0]), torch.tensor([3.0])])
    ledger = Ledger(lambda u: 10 * u)
    predict = ledger.watched(lambda samples: next(losses))
    assert predict([Told(0, 0.001), Told(2, 0.02), Told(2, 0.3)]).tolist() == [1, 2, 6]
    predict([Told(2, 0.05)])  # sigma .5 belongs to the band that begins there
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
    predict = ledger.watched(lambda samples: torch.ones(len(samples)))
    with torch.no_grad():
        predict([Told(1, 0.5)])
    assert ledger.close() == {}
