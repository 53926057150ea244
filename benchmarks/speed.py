"""The time of `denovox denoise` as a user sees it, beside another version of it and other methods.

    python benchmarks/speed.py --millions 2 10 --before OTHER/src

A chest phantom of so many million voxels of 1.5 mm with 27 HU of white noise, with noise of that SD
with the spectrum of a soft kernel, or with white noise that varies eightfold about that SD. Each
command runs by itself, from its start to the file that it writes, on all cores; the sides take
turns, and medians are shown. BM4D (pip install bm4d; free for non-commercial use), non-local means
and total variation (scikit-image) are given the SD of the white noise, the latter two with one
strength for all; denovox is given nothing. PSNR: in the window of the
chest.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import denovox
from denovox.core.regions import REGIONS
from denovox.core.volume import Volume
from denovox.io import nifti
from denovox.simulate.phantom import chest

SD_HU, MM = 27.0, 1.5
KINDS = ("white", "coloured", "varying")
SCRIPT = """
import sys, nibabel, numpy as np
from {package} import {function}
image = nibabel.load(sys.argv[1])
x = np.asarray(image.dataobj, np.float32) / {sd}
y = {sd} * {function}(x, {settings})
nibabel.Nifti1Image(y.astype(np.float32), image.affine).to_filename(sys.argv[2])
"""
RIVALS = {
    "BM4D": ("bm4d", "bm4d", "1.0"),
    "NLM": (
        "skimage.restoration",
        "denoise_nl_means",
        "patch_size=3, patch_distance=5, h=0.4, sigma=1, fast_mode=True",
    ),
    "TV": ("skimage.restoration", "denoise_tv_chambolle", "weight=0.8"),
}


@dataclass
class Side:
    """A command with its environment, and what its runs took."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    psnr_db: float = float("nan")

    def run(self, scan: Path, out: Path, truth: Volume) -> None:
        """Run it once."""
        out.unlink(missing_ok=True)
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        words = [str(scan) if w == "IN" else str(out) if w == "OUT" else w for w in self.command]
        subprocess.run(
            words, env={**os.environ, **self.environment}, check=True, capture_output=True
        )
        self.wall_s.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu_s.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        window = REGIONS["chest"].window
        found = nifti.read(out).hu
        wrong = np.clip(window.unit(found), -1, 1) - np.clip(window.unit(truth.hu), -1, 1)
        self.psnr_db = float(20 * np.log10(2 / np.sqrt(np.mean(np.square(wrong)))))


def noise_of(shape: tuple[int, ...], coloured: bool) -> np.ndarray:
    """Noise in HU."""
    white = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    if not coloured:
        return SD_HU * white
    u, v = (
        np.fft.fftfreq(n)[:, None] if k == 0 else np.fft.fftfreq(n) for k, n in enumerate(shape[:2])
    )
    radius = np.hypot(u, v)
    gain = np.sqrt(radius) * np.exp(-((radius / 0.25) ** 2))  # a ramp and a soft kernel
    gain /= np.sqrt(np.mean(gain**2))
    shaped = np.fft.ifft2(np.fft.fft2(white, axes=(0, 1)) * gain[..., None], axes=(0, 1)).real
    return (SD_HU * shaped).astype(np.float32)


def noisy_chest(edge: int, kind: str) -> tuple[Volume, Volume]:
    """A chest phantom of edge x edge x .6 edge voxels, and the same with noise of a kind."""
    body = chest((edge, edge, round(0.6 * edge)), 310 / edge * 1.2)
    # A phantom at the size asked for, with voxels of 1.5 mm whatever its body measures.
    truth = Volume(body.ct.hu, np.diag([MM, MM, MM, 1.0]))
    noise = noise_of(truth.shape, kind == "coloured")
    if kind == "varying":  # eightfold, along x and z
        x, _, z = np.indices(truth.shape) / np.reshape(truth.shape, (3, 1, 1, 1)) - 0.5
        noise *= 2 ** (2 * x + z)
    return truth, truth.with_hu(truth.hu + noise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--millions", type=float, nargs="+", default=[2.0])
    parser.add_argument("--before", type=Path, help="source folder of another version")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=["BM4D"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--most", type=float, default=3, help="million voxels for a rival")
    given = parser.parse_args()
    print(f"denovox {denovox.__version__}, {os.cpu_count()} cores, {given.rounds} rounds\n")
    print(
        "| voxels | noise | | wall s | CPU s | voxels/s | PSNR dB |\n|---|---|---|---|---|---|---|"
    )
    for millions in given.millions:
        edge = round((millions * 1e6 / 0.6) ** (1 / 3))
        for kind in given.kinds:
            truth, noisy = noisy_chest(edge, kind)
            with tempfile.TemporaryDirectory() as folder:
                scan, out = Path(folder) / "scan.nii.gz", Path(folder) / "out.nii.gz"
                nifti.write(noisy, scan)
                denoise = [
                    sys.executable,
                    "-m",
                    "denovox",
                    "denoise",
                    "--force",
                    "IN",
                    "OUT",
                    "--region",
                    "chest",
                ]
                sides = [Side("denovox", denoise)]
                if given.before:
                    old = {"PYTHONPATH": str(given.before)}
                    sides.append(Side("before", denoise, old))
                for name in given.rivals if millions <= given.most and kind == "white" else ():
                    package, function, settings = RIVALS[name]
                    code = SCRIPT.format(
                        package=package, function=function, settings=settings, sd=SD_HU
                    )
                    sides.append(Side(name, [sys.executable, "-c", code, "IN", "OUT"]))
                for _ in range(given.rounds):
                    for side in sides:
                        side.run(scan, out, truth)
                for side in sides:
                    wall, cpu = statistics.median(side.wall_s), statistics.median(side.cpu_s)
                    print(
                        f"| {truth.hu.size / 1e6:.1f} M | {kind} | {side.name} | {wall:.1f} |"
                        f" {cpu:.1f} | {truth.hu.size / wall:.3g} | {side.psnr_db:.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
