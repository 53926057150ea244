"""White noise on two patients the model never saw: PSNR, SSIM and seconds of every method.

    python benchmarks/denoising.py --quick              # 8 central slices, the lowest noise
    nice python benchmarks/denoising.py                 # whole volumes: the published table

One noisy volume in HU a case, made before anything is cut and the same for every method.
Competitors get it in model units, cut to [-1.6, 1.6], so that air and bone far beyond the window
do not trouble them, and the true sigma; their strengths are chosen for them with the clean
volume at hand (`baselines.py`). Our model gets the noisy volume and the noise in HU. All are
compared under the convention `window:<region>`: both volumes cut to the window, peak its width.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.resources
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from baselines import COMPETITORS

from denovox.core.regions import REGIONS
from denovox.core.volume import Volume
from denovox.evaluate.fidelity import Fidelity, fidelity, named

OURS = {"ours": "mean", "ours-diffpir": "diffpir"}
METHODS = ("input", *COMPETITORS, *OURS)
SEED = 20250
CUT = 1.6  # model units
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Patient:
    """A validation scan, its region, and the standard deviations of the noise put on it, HU."""

    file: str
    region: str
    noises_hu: tuple[float, ...]


PATIENTS = (
    Patient("abdomen_CRLM-1006_ct.nii.gz", "abdomen", (9, 27)),
    Patient("chest_ACRIN-013_ct.nii.gz", "chest", (45, 90, 135)),
)


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    patient: str
    noise_hu: float
    method: str
    figures: Fidelity
    seconds: float
    setting: str

    def markdown(self) -> str:
        f = self.figures
        cells = [self.patient, f.convention, f"{self.noise_hu:g}", self.method]
        cells += [f"{f.psnr_db:.2f}", f"{f.ssim:.4f}", f"{f.rmse_hu:.2f}", f"{self.seconds:.1f}"]
        return "| " + " | ".join([*cells, self.setting]) + " |"


HEAD = """| scan | convention | noise HU | method | PSNR dB | SSIM | RMSE HU | seconds | setting |
|---|---|---:|---|---:|---:|---:|---:|---|"""


def read(path: Path) -> Volume:
    """A NIfTI file as x y z nearest to RAS, HU in float32."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    return Volume(np.asarray(image.dataobj, np.float32), image.affine)


def noised(volume: Volume, noise_hu: float) -> Volume:
    """White Gaussian noise on every voxel; which noise depends on `SEED` and its level alone."""
    rng = np.random.default_rng([SEED, round(noise_hu * 1000)])
    return volume.with_hu(volume.hu + noise_hu * rng.standard_normal(volume.shape, np.float32))


def central(volume: Volume, slices: int | None) -> Volume:
    """The central axial slices on their place in space; all of them when None."""
    first = 0 if slices is None else max((volume.shape[2] - slices) // 2, 0)
    last = None if slices is None else first + slices
    affine = volume.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    return Volume(volume.hu[:, :, first:last], affine)


def restored(
    method: str, clean: Volume, noisy: Volume, patient: Patient, noise_hu: float, model: object
) -> tuple[Volume, float, str]:
    """What a method makes of the noisy volume, its seconds, and its setting."""
    window = REGIONS[patient.region].window
    if method == "input":
        return noisy, 0.0, ""
    if method in OURS:
        start = time.perf_counter()
        result = model.denoise(noisy, patient.region, noise_hu, OURS[method])  # type: ignore[attr-defined]
        setting = "one evaluation" if method == "ours" else "ten evaluations"
        return result, time.perf_counter() - start, setting
    unit = np.clip(window.unit(noisy.hu), -CUT, CUT).astype(np.float32)
    best = COMPETITORS[method](unit, window.sigma(noise_hu), window.unit(clean.hu))
    return noisy.with_hu(window.hu(best.unit)), best.seconds, best.setting


def weights_file(given: Path | None) -> Path | None:
    """The file whose hash is printed: the given one, or the only one that is bundled."""
    if given is not None:
        return given
    folder = Path(str(importlib.resources.files("denovox"))) / "weights"
    bundled = sorted(folder.glob("*.safetensors"))
    return bundled[0] if len(bundled) == 1 else None


def circumstances(weights: Path | None) -> str:
    """CPU, cores, versions, date and weights, in one line."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        cpu = models[0].split(":", 1)[1].strip() if models else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if weights is None:
        model = "none"
    else:
        model = f"{weights.name} sha256 {hashlib.sha256(weights.read_bytes()).hexdigest()[:16]}"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    # Seconds mean little on a busy machine, so how busy it was is told with them.
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return (
        f"{cpu}, {cores} cores ({torch.get_num_threads()} torch threads{load}), {device}; "
        f"torch {torch.__version__}, numpy {np.__version__}; "
        f"{datetime.date.today().isoformat()}; weights: {model}; noise seed {SEED}"
    )


def report(lines: list[Line], header: str, scope: str) -> str:
    """The whole file, in Markdown."""
    notes = (
        "Competitors know the true sigma; NLM and TV are the best of a sweep by PSNR against the\n"
        "clean volume, timed for the winning run only. Made by `benchmarks/denoising.py`."
    )
    table = "\n".join([HEAD, *(line.markdown() for line in lines)])
    return f"# Denoising of white noise, {scope}\n\n{header}\n\n{notes}\n\n{table}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, help="a .safetensors file; bundled by default")
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "ct")
    parser.add_argument("--out", type=Path, help="default: results/<date>-denoising.md")
    parser.add_argument("--crop", type=int, metavar="N", help="only the N central axial slices")
    parser.add_argument("--quick", action="store_true", help="--crop 8, lowest noise of each scan")
    parser.add_argument("--noise", type=float, nargs="*", help="only these, HU")
    parser.add_argument("--methods", default=",".join(METHODS), help="of these, by commas")
    args = parser.parse_args()
    methods = args.methods.split(",")
    if strange := sorted(set(methods) - set(METHODS)):
        parser.error(f"no such method: {', '.join(strange)}; known: {', '.join(METHODS)}")
    if args.crop is not None and args.crop < 1:
        parser.error("--crop takes a number of slices, 1 or more")
    for patient in PATIENTS:
        if not (args.data / patient.file).exists():
            parser.error(f"{args.data / patient.file} is missing; say where with --data")
    crop = args.crop or (8 if args.quick else None)

    model = weights = None
    if set(OURS) & set(methods):
        import denovox

        weights = weights_file(args.weights)
        model = denovox.load(args.weights) if args.weights else denovox.load()
    scope = "whole volumes" if crop is None else f"{crop} central slices (not the published run)"
    name = f"{datetime.date.today().isoformat()}-denoising{'' if crop is None else '-quick'}.md"
    out = args.out or HERE / "results" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    header = circumstances(weights)
    print(f"{header}\n\n{HEAD}", flush=True)

    lines: list[Line] = []
    for patient in PATIENTS:
        whole = read(args.data / patient.file)
        clean = central(whole, crop)
        convention = named(f"window:{patient.region}")
        for noise_hu in patient.noises_hu[: 1 if args.quick else None]:
            if args.noise and noise_hu not in args.noise:
                continue
            noisy = central(noised(whole, noise_hu), crop)
            for method in methods:
                volume, seconds, setting = restored(method, clean, noisy, patient, noise_hu, model)
                figures = fidelity(clean, volume, convention)
                scan = patient.file.removesuffix("_ct.nii.gz")
                lines.append(Line(scan, noise_hu, method, figures, seconds, setting))
                print(lines[-1].markdown(), flush=True)
                out.write_text(report(lines, header, scope))  # a long run leaves what it has
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
