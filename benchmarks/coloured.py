"""Coloured noise, as FBP leaves it, on crops of two patients the model never saw.

    nice python benchmarks/coloured.py                       # all: about 10 minutes on one core
    nice python benchmarks/coloured.py --kernels soft --methods input,one,both

White noise is filtered to the spectrum of a ramp times a kernel's roll-off, f exp(-f^2 / (2 p^2)),
with its peak p at .3 (soft) or .7 (sharp) of the crop's Nyquist frequency; slices are independent.
It is drawn on a larger grid by DFT, so that its rim is as real noise's is. NLM and TV know the
true SD and have their best strength chosen with the clean volume at hand; ours estimate SD and
spectrum from the noisy crop, but for those with "true" in their name.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel
import numpy as np
import torch
from baselines import COMPETITORS

import denovox
from denovox.core.condition import Condition, condition
from denovox.core.operators.coloured_noise import Coloured, Spectrum
from denovox.core.random_field import field
from denovox.core.regions import REGIONS
from denovox.core.volume import Volume
from denovox.inference.model import Model
from denovox.metrics.fidelity import fidelity, named
from denovox.sampling.corrections import clip, prox, then
from denovox.sampling.interleaved import interleaved, phase, topped_up
from denovox.sampling.sampler import Denoise, Vol, diffpir, sample
from denovox.sampling.windowed import windowed
from denovox.scan import anatomy
from denovox.scan.noise import NoiseModel, estimate
from denovox.scan.noise_level import estimate_noise_hu
from denovox.tasks import change, noisy_input

HERE = Path(__file__).resolve().parent
PATIENTS = {
    "abdomen": ("abdomen_CRLM-1006_ct.nii.gz", (13.0, 27.0)),
    "chest": ("chest_ACRIN-013_ct.nii.gz", (45.0, 90.0)),
}
KERNELS = {"white": None, "soft": 0.3, "medium": 0.45, "sharp": 0.7}
CROP, RIM, CUT, SEED = (128, 112, 16), 32, 1.6, 20251
HEAD = """| scan | kernel | noise HU | method | PSNR dB | SSIM | RMSE HU |
|---|---|---:|---|---:|---:|---:|"""


def kernel(peak: float | None, spacing_mm: float) -> Spectrum:
    """Ramp times Gaussian roll-off, most at `peak` of the Nyquist frequency, 2 % of it at zero."""
    if peak is None:
        return Spectrum((0.0,), (1.0,))
    f = np.linspace(0, 1.5, 91)
    power = f / peak * np.exp((1 - (f / peak) ** 2) / 2) + 0.02
    return Spectrum(tuple(f / (2 * spacing_mm)), tuple(power))


def grain(spectrum: Spectrum, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Noise of SD 1 on the crop."""
    big = [n + 2 * RIM for n in CROP[:2]]
    axes = (np.fft.fftfreq(n, mm) for n, mm in zip(big, spacing_mm, strict=False))
    f = np.hypot(*np.meshgrid(*axes, indexing="ij"))
    power = np.interp(f, spectrum.per_mm, spectrum.power)
    white = np.random.default_rng(SEED).standard_normal((*big, CROP[2]))
    gain = np.sqrt(power / power.mean())[..., None]
    full = np.fft.ifft2(np.fft.fft2(white, axes=(0, 1)) * gain, axes=(0, 1)).real
    return full[RIM:-RIM, RIM:-RIM].astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A crop with noise on it, and what denoising needs to know."""

    model: Model
    region: str
    clean: Volume
    noisy: Volume
    labels: np.ndarray
    noise_hu: float
    truth: Spectrum

    @cached_property
    def unit(self) -> Vol:
        """The noisy crop in model units."""
        return torch.from_numpy(REGIONS[self.region].window.unit(self.noisy.hu))[None, None]

    @cached_property
    def noise(self) -> NoiseModel:
        """As estimated from the noisy crop."""
        return estimate(self.noisy, anatomy.coarse(self.noisy))

    def sigma(self, noise_hu: float) -> float:
        """In model units."""
        return REGIONS[self.region].window.sigma(noise_hu)

    def input(self, sigma: float) -> Vol:
        """What the denoiser is shown."""
        return noisy_input(self.unit, sigma, field(0, CROP))

    @cached_property
    def whole(self) -> Denoise:
        """One evaluation, all voxels at once."""
        return self._denoise(self._told)

    @cached_property
    def phases(self) -> Denoise:
        """One evaluation, every second voxel in the slices at a time."""
        return interleaved(lambda i, j: self._denoise(phase(self._told, i, j)))

    @cached_property
    def _told(self) -> Condition:
        ids = torch.from_numpy(np.ascontiguousarray(self.labels))
        return condition(CROP, self.clean.spacing_mm, REGIONS[self.region].id, ids)

    def _denoise(self, told: Condition) -> Denoise:
        return windowed(self.model.denoiser, told, self.model.tiling(64, True))


def psd_of(case: Case, true: bool) -> tuple[float, torch.Tensor]:
    """Sigma and spectrum on the crop: the true ones, or as estimated."""
    noise_hu, spectrum = (
        (case.noise_hu, case.truth) if true else (case.noise.sd_hu, case.noise.spectrum)
    )
    return case.sigma(noise_hu), spectrum.on(CROP, case.clean.spacing_mm).float()


def one(factor: float, true: bool = False) -> Callable[[Case], Vol]:
    """One evaluation at `factor` of the sigma."""

    def run(case: Case) -> Vol:
        sigma = psd_of(case, true)[0] * factor
        return case.whole(case.input(sigma), sigma)

    return run


def today(case: Case) -> Vol:
    """One evaluation at the sigma of the diagonal differences."""
    sigma = case.sigma(estimate_noise_hu(case.noisy, anatomy.coarse(case.noisy)))
    return case.whole(case.input(sigma), sigma)


def topped(share: float, rho: float = np.inf, true: bool = False) -> Callable[[Case], Vol]:
    """Noise added until white, one evaluation; then the prox towards y, if rho is finite."""

    def run(case: Case) -> Vol:
        sigma, psd = psd_of(case, true)
        y = case.input(sigma)
        x0 = case.whole(*topped_up(y, sigma, psd, field(0, CROP)(1), share)).clamp(-1, 1)
        return x0 if rho == np.inf else Coloured(psd).prox(x0, y.clamp(-1, 1), rho)

    return run


def split(case: Case) -> Vol:
    """Every second voxel at a time."""
    sigma = psd_of(case, False)[0]
    return case.phases(case.input(sigma), sigma)


def mean(*methods: Callable[[Case], Vol], again: float = 0.0) -> Callable[[Case], Vol]:
    """The mean of several, and perhaps one more evaluation at a share of the sigma."""

    def run(case: Case) -> Vol:
        x = sum((method(case) for method in methods), torch.zeros(())) / len(methods)
        sigma = again * psd_of(case, False)[0]
        return case.whole(x, sigma) if again else x

    return run


def coloured_diffpir(case: Case) -> Vol:
    """Three steps from the topped-up scan down, with the prox of the coloured noise."""
    sigma, psd = psd_of(case, False)
    y = case.input(sigma)
    x, level = topped_up(y, sigma, psd, field(0, CROP)(1))
    correct = then(clip, prox(Coloured(psd), y.clamp(-1, 1), sigma, 3.0))
    sigmas = [level, 0.6 * level, 0.3 * level, 0.0]
    noise = field(7, CROP)
    return sample(case.whole, x, sigmas, correct=correct, fresh=diffpir(1.0), noise=noise)


OURS: dict[str, Callable[[Case], Vol]] = {
    "today": today,
    **{f"one x{m:g}": one(m) for m in (0.7, 0.85, 1, 1.2, 1.4)},
    "one true": one(1, true=True),
    **{f"topped {q:g}": topped(q) for q in (1, 0.9, 0.8, 0.7)},
    "topped 0.8 true": topped(0.8, true=True),
    **{f"topped 0.8 prox {rho:g}": topped(0.8, rho) for rho in (4, 16)},
    "split": split,
    "split + topped": mean(split, topped(0.8)),
    "three": mean(one(1), split, topped(0.8)),
    "three again": mean(one(1), split, topped(0.8), again=0.2),
    "diffpir coloured": coloured_diffpir,
}


def cases(model: Model, data: Path, regions: list[str], kernels: list[str]) -> list[Case]:
    """Every patient, kernel and level."""
    made = []
    for region in regions:
        file, levels_hu = PATIENTS[region]
        image = nibabel.as_closest_canonical(nibabel.load(data / file))
        scan = Volume(np.asarray(image.dataobj, np.float32), image.affine)
        labels = anatomy.coarse(scan)
        where = np.argwhere(scan.hu[..., scan.shape[2] // 2] > -300).mean(0).astype(int)
        middle = (*where, scan.shape[2] // 2)
        starts = [
            min(max(0, m - n // 2), s - n) for m, n, s in zip(middle, CROP, scan.shape, strict=True)
        ]
        box = tuple(slice(a, a + n) for a, n in zip(starts, CROP, strict=True))
        clean = Volume(np.ascontiguousarray(scan.hu[box]), scan.affine)
        for name in kernels:
            truth = kernel(KERNELS[name], scan.spacing_mm[0])
            unit = grain(truth, scan.spacing_mm)
            for noise_hu in levels_hu:
                noisy = clean.with_hu(clean.hu + np.float32(noise_hu) * unit)
                made.append(Case(model, region, clean, noisy, labels[box], noise_hu, truth))
    return made


def restored(case: Case, method: str) -> Volume:
    """What a method makes of the crop."""
    window = REGIONS[case.region].window
    if method == "input":
        return case.noisy
    if method in OURS:
        with torch.inference_mode():
            x0 = OURS[method](case).clamp(-1, 1)
            added = change(case.unit, x0, case.sigma(case.noise.sd_hu))[0, 0].numpy()
        return case.noisy.with_hu(case.noisy.hu + added * np.float32(window.width_hu / 2))
    unit = np.clip(window.unit(case.noisy.hu), -CUT, CUT).astype(np.float32)
    best = COMPETITORS[method](unit, case.sigma(case.noise_hu), window.unit(case.clean.hu))
    return case.noisy.with_hu(window.hu(best.unit).astype(np.float32))


def main() -> None:
    competitors = [m for m in COMPETITORS if m != "bm4d" or importlib.util.find_spec("bm4d")]
    methods = ["input", *competitors, *OURS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "ct")
    parser.add_argument("--methods", default=",".join(methods), help="of these, by commas")
    parser.add_argument("--kernels", default="soft,medium,sharp", help=",".join(KERNELS))
    parser.add_argument("--regions", default=",".join(PATIENTS))
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print(HEAD, flush=True)
    for case in cases(denovox.load(), args.data, args.regions.split(","), args.kernels.split(",")):
        kernel_name = next(
            k for k, p in KERNELS.items() if case.truth == kernel(p, case.clean.spacing_mm[0])
        )
        found = f"estimated {case.noise.sd_hu:.1f}"
        for method in args.methods.split(","):
            f = fidelity(case.clean, restored(case, method), named(f"window:{case.region}"))
            cells = [case.region, kernel_name, f"{case.noise_hu:g} ({found})", method]
            cells += [f"{f.psnr_db:.2f}", f"{f.ssim:.4f}", f"{f.rmse_hu:.2f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
