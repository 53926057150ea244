"""RED-CNN (Chen et al., IEEE Trans Med Imaging 2017), a learned rival, trained on our patients.

The network is the published one, and so are Adam, the mean squared error, initial weights of SD
0.01 and patches of 55 x 55 pixels. Different here: one network for all noise of the evidence, as
denovox is; flips in place of rotations and scales; and minutes of a CPU, which is little.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from ...core.condition import condition
from ...core.errors import InputError, ensure, silent
from ...core.regions import REGIONS
from ...core.tensors import tensor
from ...core.volume import Volume
from ...datasets.samples.batch import Batch, Sample, batches
from ...datasets.store import Case
from ...inference.options import Say
from ...io.atomic import write_file
from ...model.denoiser import use_bfloat16
from ...model.weights import sha256
from ...train.config import TrainConfig
from ...train.loop import Session, train
from ..lesions.hosts import read
from .noise import NOISES

NAME = "red-cnn"
FILE = f"{NAME}.safetensors"
CHANNELS, PATCH = 96, 55
SLICES = 3  # of each scan and noise, evenly spaced: more than minutes of a CPU can use
CUT = 1.6  # model units: air and bone far outside the window do not disturb a rival
TRAINING = TrainConfig(minutes=10, samples=8, batch=8, lr=1e-4, decay=1, ema=1)

Pair = Float32[np.ndarray, "2 x y slices"]  # without noise and with it, 0 to 1


class RedCnn(nn.Module):
    """Initial weights come from torch's global seed. Slices are at least 21 pixels wide."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(CHANNELS if n else 1, CHANNELS, 5) for n in range(5))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(CHANNELS, CHANNELS if n < 4 else 1, 5) for n in range(5)
        )
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0, 0.01 if parameter.dim() > 1 else 0)  # biases are 0

    def forward(self, x: Float[Tensor, "b 1 x y"]) -> Float[Tensor, "b 1 x y"]:
        """Noisy slices, 0 to 1 -> denoised ones."""
        kept = [x]
        for layer in self.down:
            kept.append(layer(kept[-1]).relu())
        x = kept[5]
        for n, layer in enumerate(self.up):
            x = (layer(x) if n % 2 else layer(x) + kept[4 - n]).relu()
        return x


@dataclass(frozen=True)
class Trained:
    """A trained network. card: how and on whom it was trained. sha256: of its file."""

    net: RedCnn
    card: dict[str, Any]
    sha256: str

    @torch.no_grad()
    def __call__(self, unit: Float32[np.ndarray, "x y z"]) -> Float32[np.ndarray, "x y z"]:
        """A scan in model units, denoised slice by slice."""
        out = np.empty_like(unit)
        for k in range(unit.shape[2]):
            out[..., k] = _run(self.net, tensor(_grey(unit[..., k, None]))[..., 0])[0, 0].numpy()
        return out * (2 * CUT) - CUT

    @property
    def note(self) -> str:
        """How it was trained, for the page."""
        return (
            "{name}: the published network, trained on {scans} scans of other patients for"
            " {minutes:.1f} minutes ({cpu_minutes:.1f} of a CPU core; {steps} steps of {samples}"
            " patches), one for all noise; this is little, so its figures are a lower bound"
        ).format(name=NAME, scans=len(self.card["cases"]), **self.card)


def trained(
    file: Path,
    cases: tuple[Sequence[Case], Sequence[Case]],
    config: TrainConfig,
    folder: Path,
    say: Say,
) -> Trained:
    """The network of a file; if it does not exist, it is trained first, and written there.

    cases: those to train on, and those to measure. folder: for the state of the training.
    `InputError` where a network has seen a patient it is measured on, or there is nothing to train
    on.
    """
    training, held = cases
    if not file.exists():
        _write(file, training, config, folder, say)
    net, card = _read(file)
    seen = sorted({case.facts.patient for case in held} & set(card["patients"]))
    ensure(not seen, f"{file} was trained on {', '.join(seen)}, which it would be measured on;"
                     " remove the file, and it is trained again")  # fmt: skip
    return Trained(net, card, sha256(file))


def _write(
    file: Path, training: Sequence[Case], config: TrainConfig, folder: Path, say: Say
) -> None:
    from safetensors.torch import save

    fits = [case for case in training if min(case.facts.shape[:2]) >= PATCH]
    ensure(fits, f"no scan to train {NAME} on: none has slices of {PATCH} pixels")
    say(f"{NAME}: noise for {len(fits)} scans of other patients")
    pairs = [pair for case in fits for pair in _pairs(case, config.seed + 1)]
    torch.manual_seed(config.seed)
    net, steps = RedCnn(), 0
    file.parent.mkdir(parents=True, exist_ok=True)
    began, used = time.monotonic(), time.process_time()

    def predict(samples: Batch) -> Float[Tensor, " b"]:
        clean = samples.x0[..., 0]
        return (_run(net, clean + samples.noise[..., 0]) - clean).square().mean((1, 2, 3))

    draw = batches(lambda n: _patch(pairs, np.random.default_rng([config.seed, n])))
    parameters = dict(net.named_parameters())
    for step in train(predict, parameters, draw, config, folder, session=Session(say=say)):
        steps = step.step
    card = {
        **{"steps": steps, "samples": config.samples, "lr": config.lr, "seed": config.seed},
        "minutes": (time.monotonic() - began) / 60,
        "cpu_minutes": (time.process_time() - used) / 60,
        "patients": sorted({case.facts.patient for case in fits}),
        "cases": {case.facts.id: case.facts.sha256 for case in fits},
    }
    write_file(file, save(dict(net.state_dict()), {"card": json.dumps(card)}))


def _read(file: Path) -> tuple[RedCnn, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    net = RedCnn()
    try:
        with safe_open(file, "pt") as opened:
            card = json.loads(opened.metadata()["card"])
            net.load_state_dict({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, LookupError, TypeError, RuntimeError) as error:
        raise InputError(f"{file} is not a {NAME} of denovox ({error}); remove it") from None
    return net.eval().requires_grad_(False), card


def _pairs(case: Case, seed: int) -> list[Pair]:
    """A scan and each noise: `SLICES` slices."""
    whole, window = read(case).volume, REGIONS[case.facts.region].window
    at = np.linspace(0, whole.shape[2] - 1, SLICES + 2)[1:-1].round().astype(int)
    truth = Volume(np.ascontiguousarray(whole.hu[..., np.unique(at)]), whole.affine)
    noisy = [one.add(truth, case.facts.id, seed, silent) for one in NOISES.values()]
    return [np.stack([_grey(window.unit(each.hu)) for each in (truth, one)]) for one in noisy]


def _grey(unit: Float[np.ndarray, "x y z"]) -> Float32[np.ndarray, "x y z"]:
    return ((np.clip(unit, -CUT, CUT) + CUT) / (2 * CUT)).astype(np.float32)


def _patch(pairs: Sequence[Pair], rng: np.random.Generator) -> Sample:
    """A random patch, perhaps mirrored: x0 without noise, and its noise."""
    pair, shape = pairs[int(rng.integers(len(pairs)))], (PATCH, PATCH, 1)
    first = [int(rng.integers(n - m + 1)) for n, m in zip(pair.shape[1:], shape, strict=True)]
    where = tuple(slice(a, a + m) for a, m in zip(first, shape, strict=True))
    mirrored = np.flip(pair[:, *where], tuple(axis for axis in (1, 2) if rng.integers(2)))
    x0, noisy = (tensor(each) for each in np.ascontiguousarray(mirrored))
    return Sample(x0, noisy - x0, 0.5, condition(shape, (1, 1, 1)), 2)


def _run(net: RedCnn, noisy: Float[Tensor, "b 1 x y"]) -> Float[Tensor, "b 1 x y"]:
    """The network, in bfloat16 where the hardware has that: four times as fast."""
    with torch.autocast("cpu", torch.bfloat16, enabled=use_bfloat16("auto", "cpu")):
        denoised: Tensor = net(noisy)
    return denoised.float()
