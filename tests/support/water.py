"""Bodies of water for detection, and a model that thinks that everything is water."""

import numpy as np
import torch

from denovox.core.volume import Volume
from denovox.inference.anomaly.calibration import AnomalyMethod
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig

CONFIG = ModelConfig(net=PRESETS["tiny"], spacing_mm=(0.7, 6.0))
METHOD = AnomalyMethod(sigma_star=0.5, seeds=1, smooth_mm=3.0)
SPOT = (slice(24, 29), slice(24, 29), slice(10, 13))


def body(seed=0, spot_hu=0.0, mm=(3.0, 3.0, 5.0), shape=(48, 48, 24)):
    """A cylinder of water with noise, and perhaps a spot in it."""
    rng = np.random.default_rng(seed)
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.7, 60.0, -1000.0) + 10 * rng.standard_normal(shape)
    hu[SPOT] += spot_hu
    affine = np.diag([*mm, 1.0])
    affine[:3, 3] = (-70, -60, 100)
    return Volume(hu.astype(np.float32), affine)


def water(x, sigma, told):
    """Thinks that everything is water, 60 HU: 0 in the abdomen's window."""
    return torch.zeros_like(x)
