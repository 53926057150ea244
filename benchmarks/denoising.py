"""A quarter of the dose, and white noise, on two patients the model never saw: every method.

    python benchmarks/denoising.py --quick              # 8 central slices, one damage a scan
    python benchmarks/denoising.py --crop 24            # the published table
    python benchmarks/denoising.py --noise dose:soft white:27

One noisy volume in HU a case, made before anything is cut and the same for every method.
`dose:KERNEL`: noise inserted in the projection domain (simulate/dose.py) at the photons that the
scan's own noise tells, and a detector's of 10 photons on top. `white:HU`: white noise of that SD.
Competitors get the volume in model units, cut to [-1.6, 1.6], so that air and bone far beyond the
window do not trouble them, and the true SD in soft tissue (BM4D for coloured noise: its true
spectrum); their strengths are chosen for them with the clean volume at hand (`baselines.py`). Our
model gets the noisy volume and is told the region; "ours-told" is told the SD, too. All are
compared under the convention `window:<region>`: both volumes cut to the window, peak its width.
Biases are in flat tissue of the clean volume, structure is the correlation of what was taken with
detail (reports/faithfulness.py).
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
from baselines import COMPETITORS, bm4d_coloured

from denovox.core.labels import OUTSIDE
from denovox.core.regions import REGIONS
from denovox.core.volume import Volume
from denovox.metrics.fidelity import Fidelity, fidelity, named
from denovox.metrics.residual import residual
from denovox.reports.faithfulness import tissues
from denovox.scan import anatomy
from denovox.scan.noise import estimate
from denovox.simulate.dose import LowDoseConfig, photons_of, simulate_low_dose

OURS = {"ours": "mean", "ours-told": "mean", "ours-diffpir": "diffpir"}
METHODS = ("input", *COMPETITORS, "bm4d-coloured", *OURS)
DOSE = 0.25
SEED = 20250
CUT = 1.6  # model units
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Patient:
    """A validation scan, its region, and what is done to it: "dose:KERNEL" or "white:HU"."""

    file: str
    region: str
    noises: tuple[str, ...]


DOSES = ("dose:soft", "dose:sharp")
PATIENTS = (
    Patient("abdomen_CRLM-1006_ct.nii.gz", "abdomen", (*DOSES, "white:9", "white:27")),
    Patient("chest_ACRIN-013_ct.nii.gz", "chest", (*DOSES, "white:45", "white:90")),
)


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    patient: str
    noise: str
    method: str
    figures: Fidelity
    seconds: float
    setting: str
    biases: str
    structure: float | None

    def markdown(self) -> str:
        f = self.figures
        cells = [self.patient, self.noise, self.method]
        cells += [f"{f.psnr_db:.2f}", f"{f.ssim:.4f}", f"{f.rmse_hu:.2f}", self.biases]
        cells += ["" if self.structure is None else f"{self.structure:.2f}"]
        return "| " + " | ".join([*cells, f"{self.seconds:.1f}", self.setting]) + " |"


HEAD = """| scan | noise (soft tissue) | method | PSNR dB | SSIM | RMSE HU | bias HU | structure \
| s | setting |
|---|---|---|---:|---:|---:|---|---:|---:|---|"""


def read(path: Path) -> Volume:
    """A NIfTI file as x y z nearest to RAS, HU in float32."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    return Volume(np.asarray(image.dataobj, np.float32), image.affine)


def noised(volume: Volume, noise: str) -> Volume:
    """The scan with its noise, which depends on `SEED` and what is asked for alone."""
    kind, _, value = noise.partition(":")
    if kind == "dose":
        own = estimate(volume, anatomy.coarse(volume))
        config = LowDoseConfig(dose=DOSE, kernel=value, seed=SEED)  # type: ignore[arg-type]
        photons = photons_of(volume, own.sd_hu, config)
        return simulate_low_dose(volume, config.model_copy(update={"photons": photons}))
    rng = np.random.default_rng([SEED, round(float(value) * 1000)])
    return volume.with_hu(volume.hu + float(value) * rng.standard_normal(volume.shape, np.float32))


def soft_sd(clean: Volume, noisy: Volume) -> float:
    """SD of the noise in soft tissue, HU."""
    return float((noisy.hu - clean.hu)[(clean.hu > -100) & (clean.hu < 200)].std())


def central(volume: Volume, slices: int | None) -> Volume:
    """The central axial slices on their place in space; all of them when None."""
    first = 0 if slices is None else max((volume.shape[2] - slices) // 2, 0)
    last = None if slices is None else first + slices
    affine = volume.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    return Volume(volume.hu[:, :, first:last], affine)


def restored(
    method: str, clean: Volume, noisy: Volume, region: str, model: object
) -> tuple[Volume, float, str]:
    """What a method makes of the noisy volume, its seconds, and its setting."""
    window, noise_hu = REGIONS[region].window, soft_sd(clean, noisy)
    if method == "input":
        return noisy, 0.0, ""
    if method in OURS:
        start = time.perf_counter()
        told = noise_hu if method == "ours-told" else None
        result = model.denoise(noisy, region, told, OURS[method])  # type: ignore[attr-defined]
        setting = "SD given" if told else "nothing given"
        return result, time.perf_counter() - start, setting
    unit = np.clip(window.unit(noisy.hu), -CUT, CUT).astype(np.float32)
    reference = window.unit(clean.hu)
    if method == "bm4d-coloured":
        noise = window.unit(noisy.hu) - reference
        best = bm4d_coloured(unit, noise, window.sigma(noise_hu), reference)
    else:
        best = COMPETITORS[method](unit, window.sigma(noise_hu), reference)
    return noisy.with_hu(window.hu(best.unit)), best.seconds, best.setting


def line(
    name: str, noise: str, clean: Volume, noisy: Volume, region: str, method: str, model: object
) -> Line:
    """A method's line."""
    volume, seconds, setting = restored(method, clean, noisy, region, model)
    labels = anatomy.coarse(clean)
    # What sticks out of the window is not what is compared; a competitor has cut it off.
    shown = volume.with_hu(np.clip(volume.hu, -1024, REGIONS[region].window.high_hu))
    found = tissues(noisy, shown, labels, clean)
    keep = {"fat": "fat", "muscle and organs": "muscle", "liver": "liver"}
    if region == "chest":  # elsewhere lung lies below the window
        keep = {"lung": "lung", **keep}
    biases = ", ".join(f"{keep[t.name]} {t.bias_hu:+.1f}" for t in found if t.name in keep)
    left = residual(noisy.hu, volume.hu, labels != OUTSIDE, clean.spacing_mm)
    figures = fidelity(clean, volume, named(f"window:{region}"))
    noise = f"{noise} ({soft_sd(clean, noisy):.1f} HU)"
    return Line(name, noise, method, figures, seconds, setting, biases, left.structure)


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
        "Competitors know the true SD (bm4d-coloured: the spectrum); NLM and TV are the best of a\n"
        "sweep by PSNR against the clean volume, timed for the winning run only. PSNR and SSIM in\n"
        "the region's window (`window:<region>`). Made by `benchmarks/denoising.py`."
    )
    table = "\n".join([HEAD, *(line.markdown() for line in lines)])
    title = f"# Denoising of a quarter of the dose and of white noise, {scope}"
    return f"{title}\n\n{header}\n\n{notes}\n\n{table}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, help="a .safetensors file; bundled by default")
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "ct")
    parser.add_argument("--out", type=Path, help="default: results/<date>-denoising.md")
    parser.add_argument("--crop", type=int, metavar="N", help="only the N central axial slices")
    parser.add_argument("--quick", action="store_true", help="--crop 8, one noise of each scan")
    parser.add_argument("--noise", nargs="*", help="only these: dose:soft, white:27, ...")
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
        scan = patient.file.removesuffix("_ct.nii.gz")
        for noise in args.noise or patient.noises[: 1 if args.quick else None]:
            noisy = central(noised(whole, noise), crop)
            for method in methods:
                if method == "bm4d-coloured" and noise.startswith("white"):
                    continue
                lines.append(line(scan, noise, clean, noisy, patient.region, method, model))
                print(lines[-1].markdown(), flush=True)
                out.write_text(report(lines, header, scope))  # a long run leaves what it has
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
