"""Speed of whole-volume evaluation: our windows against MONAI's SlidingWindowInferer.

    python benchmarks/windows.py --count     # voxels evaluated per voxel of real scans, no network
    python benchmarks/windows.py --tiles     # which tiles and overlaps: PSNR on training patients

Both sides use the same weights and the same task, DiffPIR denoising in 20 evaluations, on the same
noisy volume; each runs in a process of its own, so that peak memory can be read off. Theirs is what
a user gets who writes it with MONAI's defaults: the network as MONAI builds it (contiguous, fp32),
windows of 64^3, overlap 0.5, Gaussian weights, one window at a time.

    python benchmarks/windows.py --out benchmarks/results/...

The volume is 160 x 192 x 192 voxels of 1.5 mm. Time and memory are measured there over
`--evaluations` evaluations (each costs the same); quality over all 20 on its central
`--quality` voxels, against the clean volume.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

SHAPE = (160, 192, 192)
NOISE_HU = 27.0


def volume(data: Path, shape: tuple[int, ...]) -> torch.Tensor:
    """The middle of a torso at 1.5 mm, in units of the abdomen's window (1 1 x y z)."""
    from denovox.core.regions import region
    from denovox.core.resample import resize
    from denovox.core.tensors import tensor
    from denovox.io import nifti

    scan = nifti.read(data / "torso_CCTH-A01_ct.nii.gz")
    grid = [round(n * mm / 1.5) for n, mm in zip(scan.shape, scan.spacing_mm, strict=True)]
    fine = resize(scan.hu, grid)
    start = [(n - m) // 2 for n, m in zip(grid, shape, strict=True)]
    cut = fine[tuple(slice(a, a + m) for a, m in zip(start, shape, strict=True))]
    unit = region("abdomen").window.unit(cut).clip(-1, 1)
    return tensor(unit.astype(np.float32))


def side(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Run one side once; a dict of seconds, megabytes and decibels."""
    from denovox.core.box import Tiling, tilings
    from denovox.core.condition import condition
    from denovox.core.random_field import field
    from denovox.core.regions import region
    from denovox.model import loading, weights
    from denovox.model.denoiser import denoiser
    from denovox.sampling.windowed import windowed
    from denovox.tasks import denoising_diffpir

    path = weights.locate(options.weights)
    ours, config = loading.load(path)
    schedule = config.noise_schedule
    chosen = region("abdomen")
    clean = volume(options.data, options.shape)
    shape = tuple(clean.shape[2:])
    sigma = chosen.window.sigma(NOISE_HU)
    y = clean + sigma * field(7, shape)(0)
    told = condition(shape, (1.5, 1.5, 1.5), chosen.id)

    if name == "ours":
        edge, overlap, multiple = options.window, options.overlap, config.net.multiple
        tiling = tilings(shape, edge, overlap, multiple) if overlap else Tiling(edge, 0, multiple)
        denoise = windowed(ours, told, tiling)
    else:
        from monai.inferers import SlidingWindowInferer
        from safetensors.torch import load_file

        net = config.build()
        net.load_state_dict({k: v.float() for k, v in load_file(path).items()})
        plain = denoiser(net.eval().requires_grad_(False), schedule, config.prediction)
        inferer = SlidingWindowInferer((64, 64, 64), 1, overlap=0.5, mode="gaussian")
        # The position map and the labels ride along as channels, as MONAI would have it.
        maps = torch.meshgrid(*(p[0] for p in told.position), indexing="ij")
        extra = torch.stack([*maps, told.anatomy[0].float()])[None]

        def patch(seen: torch.Tensor, s: float) -> torch.Tensor:
            x, px, py, pz, labels = seen.split(1, 1)
            from dataclasses import replace

            here = replace(
                told,
                anatomy=labels[:, 0].to(torch.uint8),
                position_x=px[:, 0, :, 0, 0],
                position_y=py[:, 0, 0, :, 0],
                position_z=pz[:, 0, 0, 0, :],
            )
            return plain(x, s, here)

        def denoise(x: torch.Tensor, s: float) -> torch.Tensor:
            return inferer(torch.cat([x, extra], 1), patch, s)

    with torch.inference_mode():
        task = denoising_diffpir(y, sigma, schedule, 20)
        if options.evaluations:
            task = type(task)(y, task.sigmas[: options.evaluations + 1], task.correct, task.fresh)
        begun = time.perf_counter()
        result = task.run(denoise, field(1, shape))
        seconds = time.perf_counter() - begun
    error = float(((result.clamp(-1, 1) - clean) ** 2).mean())
    return {
        "seconds": seconds / task.evaluations,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "psnr": 10 * np.log10(4 / error),
    }


SCANS = {
    "chest_ACRIN-013_ct": "chest",
    "chest_TSaorta_ct": "chest",
    "chest_RIDER-0117_ct": "chest",
    "abdomen_CRLM-1006_ct": "abdomen",
    "abdomen_ACRIN-001_ct": "abdomen",
    "torso_CCTH-A01_ct": "abdomen",
    "headneck_CERR-ex1_defaced_ct": "headneck",
    "head_InVesalius-0051_defaced_ct": "headneck",
    "headneck_ACRIN-001_defaced_ct": "headneck",
}


def count(data: Path) -> None:
    """Print, as Markdown, what one evaluation of a posterior mean costs on real scans.

    Before: cubes of at most 64 that overlap by 16, all of them evaluated. Tiles: as they are now.
    Evaluated: without those that have no voxel in the window of the region (noise 2 % of it).
    """
    import math

    from denovox.core.regions import region
    from denovox.inference.cost.commands import Noise, Scan, denoising
    from denovox.inference.model import load
    from denovox.inference.options import RunOptions
    from denovox.io import nifti
    from denovox.scan import anatomy
    from denovox.scan.body_regions import RegionSpan

    def before(n: int) -> int:
        end = math.ceil(n / 8) * 8
        return end + 16 * (max(1, math.ceil((end - 16) / 48)) - 1)

    model = load("base", "cpu")
    print(
        "| scan | voxels | before | tiles | evaluated | before / now |\n|---|---|---|---|---|---|"
    )
    for name, of in SCANS.items():
        scan = nifti.read(data / f"{name}.nii.gz")
        noise = (Noise(0.02 * region(of).window.width_hu),)
        span = (RegionSpan(of, 0, scan.shape[2], ""),)
        edge, voxels = RunOptions.tile, math.prod(scan.shape)
        known = Scan(scan, anatomy.coarse(scan), span, noise)
        work = denoising(model, known, "mean", edge).plan.voxels
        tiles = model.tilings(scan.shape, edge)
        every = math.prod(each.total(n) for each, n in zip(tiles, scan.shape, strict=True))
        old = math.prod(map(before, scan.shape))
        ratios = " | ".join(f"{each / voxels:.2f}" for each in (old, every, work))
        size = " x ".join(map(str, scan.shape))
        print(f"| {name} ({of}) | {size} | {ratios} | {old / work:.2f} |")


TILES = {"48, 4": (0.75, 4), "64, 4": (1.0, 4), "48, 8": (0.75, 8)}
CROP, PATIENTS, NOISES_HU = (112, 96, 48), 4, {"headneck": 27.0, "chest": 45.0, "abdomen": 27.0}
RAMP = ((0.0, 0.05, 0.1, 0.2, 0.33), (0.05, 0.5, 1.0, 0.4, 0.05), 0.2)  # of coloured noise


def tiles(path: Path, weights: str, regions: list[str]) -> None:
    """Print the PSNR of posterior means by the edge of tiles and their overlap.

    The middle of scans of training patients, `PATIENTS` a region, with white or coloured noise of a
    known spectrum; in the region's window. Behind the mean: its difference to the first tiles, with
    a 95 % interval over patients.
    """
    from denovox.core.operators.coloured_noise import WHITE, Spectrum, dct
    from denovox.core.random_field import normal
    from denovox.core.regions import region
    from denovox.core.volume import Volume
    from denovox.datasets import store
    from denovox.datasets.samples.choice import is_coarse
    from denovox.inference import engine
    from denovox.inference.model import load
    from denovox.inference.options import RunOptions
    from denovox.inference.scan_context import ScanContext
    from denovox.metrics.bootstrap import bootstrap
    from denovox.scan.noise import RegionNoise

    def denoised(context: ScanContext, blended: float, overlap: int) -> np.ndarray:
        engine.BLENDED, engine.OVERLAP = blended, overlap
        options = RunOptions(accept_hu=True)
        return model.denoise(context.volume, options=options, context=context).hu

    model, rows = load(weights), []
    for name, sd in ((name, NOISES_HU[name]) for name in regions):
        cases = [
            case for case in store.split(store.cases(path), ())[0] if case.facts.region == name
        ]
        cases = list(
            {case.facts.patient: case for case in sorted(cases, key=is_coarse)[::-1]}.values()
        )
        for case in cases[::-1][:PATIENTS]:
            shape, mm = case.facts.shape, case.facts.spacing_mm
            size = [min(n, m) for n, m in zip(shape, CROP, strict=True)]
            at = tuple(
                slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(shape, size, strict=True)
            )
            clean = np.asarray(case.voxels("ct")[at]).astype(np.float32)
            window = region(name).window
            for kind, spectrum in (("white", WHITE), ("coloured", Spectrum(*RAMP))):
                noise = (
                    dct(normal(9, 0, clean.shape), (2, 3, 4)) * spectrum.on(clean.shape, mm).sqrt()
                )
                noise = dct(noise, (2, 3, 4), back=True)[0, 0].numpy()
                scan = Volume((clean + sd * noise).astype(np.float32), np.diag([*mm, 1.0]))
                context = ScanContext(scan, name, sd)
                context.__dict__["noise"] = (RegionNoise(name, 0, clean.shape[2], sd, spectrum),)

                made = {}
                for tiling, how in TILES.items():
                    hu = denoised(context, *how)
                    wrong = (window.unit(hu).clip(-1, 1) - window.unit(clean).clip(-1, 1)) ** 2
                    made[tiling] = float(10 * np.log10(4 / wrong.mean()))
                rows.append((name, case.facts.patient, kind, made))
                print(name, case.facts.patient, kind, made, flush=True, file=sys.stderr)
    print("| noise, region | " + " | ".join(TILES) + " |\n|---" + "|---" * len(TILES) + "|")
    for kind in ("white", "coloured"):
        for name in ("all", *regions):
            some = [row for row in rows if row[2] == kind and name in ("all", row[0])]
            of = [f"{row[0]} {row[1]}" if name != "all" else row[1] for row in some]
            first, cells = np.array([row[3]["48, 4"] for row in some]), []
            for tiling in TILES:
                values = np.array([row[3][tiling] for row in some])
                off = values - first
                span = bootstrap(of, lambda drawn, off=off: float(off[drawn].mean()))
                gain = f", {off.mean():+.3f} [{span.low:+.3f}, {span.high:+.3f}]"
                cells.append(f"{values.mean():.2f} dB{gain if off.any() else ''}")
            print(f"| {kind}, {name} (N {len(set(of))}) | " + " | ".join(cells) + " |")


def main() -> None:
    """Run both sides, print a Markdown table of figures and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="base")
    parser.add_argument("--data", type=Path, default=Path("../shared/ct"))
    parser.add_argument("--evaluations", type=int, default=2, help="0: all 20")
    parser.add_argument("--quality", type=int, nargs=3, default=(96, 128, 128))
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--overlap", type=int, default=0)
    parser.add_argument("--side", choices=["ours", "monai"], help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--tiles", action="store_true")
    parser.add_argument("--regions", nargs="+", default=list(NOISES_HU), choices=list(NOISES_HU))
    parser.add_argument("--store", type=Path, default=Path(".denovox/store"))
    options = parser.parse_args()
    if options.count:
        count(options.data)
        return
    if options.tiles:
        tiles(options.store, options.weights, options.regions)
        return
    if options.side:
        print(json.dumps(side(options.side, options)))
        return

    def ask(name: str, *more: object) -> dict[str, float]:
        command = [sys.executable, __file__, *sys.argv[1:], "--side", name, *map(str, more)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return json.loads(out.splitlines()[-1])

    lines = [
        f"windows of {options.window}, overlap {options.overlap}, seams moving;"
        f" {options.evaluations or 20} evaluations for time and memory, 20 for quality on"
        f" {' x '.join(map(str, options.quality))}",
        "",
        "| side | seconds an evaluation | peak memory (MB) | PSNR (dB) |",
        "|---|---|---|---|",
    ]
    rows = {}
    for name in ("monai", "ours"):
        fast = ask(name)
        good = ask(name, "--evaluations", 0, "--shape", *options.quality)
        rows[name] = fast | {"psnr": good["psnr"]}
        lines.append(
            "| {} | {seconds:.1f} | {megabytes:.0f} | {psnr:.2f} |".format(name, **rows[name])
        )
    a, b = rows["monai"], rows["ours"]
    lines.append(
        f"| ours / MONAI | {a['seconds'] / b['seconds']:.2f} times faster |"
        f" {b['megabytes'] / a['megabytes']:.2f} | {b['psnr'] - a['psnr']:+.2f} dB |"
    )
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        with options.out.open("a") as file:
            file.write(text)


if __name__ == "__main__":
    main()
