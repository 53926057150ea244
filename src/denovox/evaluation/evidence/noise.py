"""The noise that the evidence adds, to measure denoisers on and to train RED-CNN with."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ...core.volume import Volume
from ...inference.options import Say
from ...scan import anatomy
from ...simulate.dose import LowDoseConfig, simulate_low_dose
from ..simulated import REFERENCE
from ..simulated_tasks import own_dose


@dataclass(frozen=True)
class Noise:
    """add: (scan, its name, seed, say) -> the scan with the noise. method: name of the result in
    tables. note: what a reader must know."""

    add: Callable[[Volume, str, int, Say], Volume]
    method: str
    note: str
    coloured: bool


def _lower(dose: float) -> Noise:
    def add(truth: Volume, name: str, seed: int, say: Say) -> Volume:
        config = LowDoseConfig(seed=seed, dose=dose)
        config, _ = own_dose(truth, anatomy.coarse(truth), config, say)
        return simulate_low_dose(truth, config)

    return Noise(add, f"{dose:g} of the dose", REFERENCE["simulated-dose"], coloured=True)


def white(sd_hu: float) -> Noise:
    """White noise of this SD (HU)."""

    def add(truth: Volume, name: str, seed: int, say: Say) -> Volume:
        rng = np.random.default_rng(zlib.crc32(f"{seed} {name}".encode()))
        noise = np.float32(sd_hu) * rng.standard_normal(truth.shape, np.float32)
        return truth.with_hu(truth.hu.astype(np.float32) + noise)

    return Noise(add, "white noise", f"white noise, SD {sd_hu:g} HU", coloured=False)


NOISES: Mapping[str, Noise] = {  # by the part of the evidence
    "dose-0.25": _lower(0.25),
    "dose-0.1": _lower(0.1),
    "white-noise": white(27),
}
