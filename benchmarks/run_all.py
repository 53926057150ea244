"""Simulated protocols on all validation patients, and competitors on the same inputs.

    nice python benchmarks/run_all.py                         # everything, whole scans: a night
    nice python benchmarks/run_all.py --slices 24             # the central 24 slices of each scan
    python benchmarks/run_all.py --slices 10 --most 1 --only dose --competitors nlm,tv

The scans are those of a folder's index.json with `use: validate`. `dose`, `slab` and
`planted-lesions` run as `denovox evaluate simulated PROTOCOL --save` does; competitors get what it
saved. `white` adds white noise of one SD. NLM, TV and BM4D are given the true SD and have their
best strength chosen by the reference (`competitors.py`); denovox is given the region alone. The
local mean is compared by its map of the whole body, without the calibration by tissue that denovox
has, so that its figures are a lower bound; results/2026-11-21-planted.md compares both within one
organ, where the calibration changed the local mean by less than .01.

Writes one Markdown table, with N and bootstrap intervals over patients.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import platform
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import competitors
import numpy as np
import torch

import denovox
from denovox.core.volume import Volume
from denovox.evaluation.inputs import Scan, saved_scans, scans_of
from denovox.evaluation.simulated import evaluate_simulated
from denovox.evaluation.simulated_metrics import Scored, planted_lesions
from denovox.evaluation.simulated_tasks import SimulatedConfig, dose_rows, scored_voxels
from denovox.evaluation.tables import measured_figures, scan_figures
from denovox.inference.anomaly.detection import scan_score
from denovox.inference.options import RunOptions
from denovox.inference.scan_context import spans_in
from denovox.io import nifti
from denovox.metrics.results import Figure, Measured
from denovox.model.weights import describe
from denovox.scan import anatomy
from denovox.simulate.dose import LowDoseConfig

HERE = Path(__file__).resolve().parent
REACHES_MM = (8, 15, 25)  # of the local mean
HEAD = """| protocol | method | figure | value [95 % interval over patients] | patients | scans |
|---|---|---|---|---:|---:|"""


@dataclass(frozen=True)
class Run:
    """What is the same for every protocol. names: of competitors. used: their best settings."""

    model: denovox.Model
    options: RunOptions
    folder: Path
    names: Sequence[str]
    config: SimulatedConfig
    white_hu: float
    used: Counter[str] = field(default_factory=Counter)

    @property
    def scans(self) -> list[Scan]:
        """The scans that `prepared` wrote."""
        return scans_of(self.folder / "scans")

    def saved(self, protocol: str, what: str, name: str) -> Volume:
        """A scan that a protocol saved."""
        return nifti.read(self.folder / protocol / what / f"{name}.nii.gz")


def prepared(data: Path, folder: Path, slices: int | None, most: int | None) -> None:
    """The validation scans of an index.json, or their central slices, as a folder of its own."""
    rows = json.loads((data / "index.json").read_text("utf-8"))
    rows = [row for row in rows if row.get("use") == "validate"][:most]
    folder.mkdir()
    for row in rows:
        volume = denovox.read(data / row["file"])
        count = min(slices or volume.shape[2], volume.shape[2])
        first = (volume.shape[2] - count) // 2
        path = folder / f"{row['id']}.nii.gz"
        nifti.write(volume.slices(slice(first, first + count)), path)
        known = {name: row[name] for name in ("id", "patient", "region") if name in row}
        row.clear()
        row.update(known, file=path.name)
    (folder / "index.json").write_text(json.dumps(rows))


def evaluated(run: Run, protocol: str, fits: Callable[[Volume], bool]) -> tuple[Figure, ...]:
    """The figures of `evaluate simulated`, on the scans that it can use."""
    lines = [
        f"{scan.patient},{scan.path.name},{scan.region or 'auto'}"
        for scan in run.scans
        if fits(scan.read())
    ]
    if not lines:
        return ()
    table = run.folder / "scans" / f"{protocol}.csv"
    table.write_text("\n".join(["patient,scan,region", *lines]), "utf-8")
    with saved_scans(run.folder / protocol) as save:
        return evaluate_simulated(
            protocol, table, run.model, run.config, None, run.options, save
        ).figures


def others(run: Run, scan: Scan, truth: Volume, noisy: Volume, ours: Volume, first: str,
           coloured: bool) -> list[Measured]:  # fmt: skip
    """Figures of the input, of all competitors and of denovox, with its gains."""
    labels = anatomy.coarse(truth)
    spans = spans_in(truth, labels, scan.region, lambda line: None)
    volumes = {first: noisy}
    for name in run.names:
        if name == "bm4d-coloured" and not coloured:
            continue
        volumes[name], settings = competitors.denoised(name, noisy, truth, spans)
        run.used.update(f"{name}, {setting}" for setting in settings)
        run.options.say(f"{scan.id}: {name}")
    return dose_rows(scan, truth, labels, {**volumes, "denovox": ours})


def dose(run: Run) -> tuple[Figure, ...]:
    """A quarter of the dose, denoised."""
    figures = evaluated(run, "simulated-dose", lambda volume: True)
    rows = []
    for scan in run.scans:
        truth, noisy, ours = (
            run.saved("simulated-dose", what, scan.id) for what in ("reference", "input", "test")
        )
        rows += others(run, scan, truth, noisy, ours, "low dose", True)
    return joined(figures, measured_figures(rows, run.options.seed))


def white(run: Run) -> tuple[Figure, ...]:
    """White noise of one SD, denoised."""
    rows = []
    for scan in run.scans:
        truth = scan.read()
        rng = np.random.default_rng(zlib.crc32(f"{run.options.seed} {scan.id}".encode()))
        noise = np.float32(run.white_hu) * rng.standard_normal(truth.shape, np.float32)
        noisy = truth.with_hu(truth.hu.astype(np.float32) + noise)
        ours = run.model.denoise(noisy, scan.region, options=run.options)
        rows += others(run, scan, truth, noisy, ours, "white noise", False)
    return measured_figures(rows, run.options.seed)


def slab(run: Run) -> tuple[Figure, ...]:
    """Thick slices, made thin again."""
    low, high = run.model.config.spacing_mm
    factor = run.config.factor

    def fits(volume: Volume) -> bool:
        return low <= volume.spacing_mm[2] <= high and volume.shape[2] >= 3 * factor

    return evaluated(run, "simulated-slab", fits)


def planted(run: Run) -> tuple[Figure, ...]:
    """Lesions, detected; the local mean is given the slices of the region."""
    figures = evaluated(run, "planted-lesions", lambda volume: True)
    measured: list[Measured] = []
    scores: dict[str, list[Scored]] = {}
    for scan in run.scans:
        files = sorted((run.folder / "planted-lesions" / "masks").glob(f"{scan.id}_*.nii.gz"))
        tissues = [path.name.removesuffix(".nii.gz")[len(scan.id) + 1 :] for path in files]
        healthy = scan.read()
        labels = anatomy.coarse(healthy)
        spans = spans_in(healthy, labels, scan.region, lambda line: None) if tissues else ()
        for span, reach in itertools.product(spans, REACHES_MM):
            name, scored = f"local mean, {reach} mm", scored_voxels(labels, span)
            for tissue in tissues:
                image, mask = (
                    run.saved("planted-lesions", what, f"{scan.id}_{tissue}")
                    for what in ("input", "masks")
                )
                lesion = mask.hu > 0
                if not (lesion & scored).any():
                    continue
                before, after = (
                    competitors.local_mean_difference(each, scored, span.region, reach)
                    for each in (healthy, image)
                )
                values = planted_lesions(after, lesion, scored)
                measured.append(Measured(scan.patient, f"{span.region} {tissue}", name, values))
                both = (scan_score(each, healthy.spacing_mm) for each in (before, after))
                pair = Scored(scan.patient, f"{scan.id} {span.region}", *both)
                scores.setdefault(name, []).append(pair)
    figures += measured_figures(measured, run.options.seed) if measured else ()
    for name, pairs in scores.items():
        figures += scan_figures(pairs, name, run.options.seed)
    return figures


def joined(first: Sequence[Figure], second: Sequence[Figure]) -> tuple[Figure, ...]:
    """The figures of both, each once."""
    known = {(figure.name, figure.method) for figure in first}
    return (*first, *(each for each in second if (each.name, each.method) not in known))


def lines_of(protocol: str, figures: Sequence[Figure]) -> str:
    """Lines of the table."""
    return "\n".join(
        f"| {protocol} | {one.method} | {one.name}{f' ({one.unit})' if one.unit else ''} |"
        f" {one.shown} | {one.patients} | {one.scans} |"
        for one in figures
    )


def circumstances(model: denovox.Model, seed: int) -> str:
    """CPU, threads, device, versions, date and weights, in one line."""
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.exists() else []
    cpu = next((s.split(":", 1)[1].strip() for s in names if s.startswith("model name")), "")
    return (
        f"{cpu or platform.machine()}, {torch.get_num_threads()} threads, on {model.device}; torch"
        f" {torch.__version__}, numpy {np.__version__}, denovox {denovox.__version__};"
        f" {datetime.date.today().isoformat()}; weights {model.path.name} sha256"
        f" {describe(model.path)[2][:16]}; seed {seed}"
    )


PROTOCOLS = {"dose": dose, "white": white, "slab": slab, "planted-lesions": planted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "ct")
    parser.add_argument("--weights", default="base")
    parser.add_argument("--out", type=Path, help="default: results/<date>-simulated.md")
    parser.add_argument("--slices", type=int, help="central slices of each scan; default: all")
    parser.add_argument("--most", type=int, help="scans, the first of the index; default: all")
    parser.add_argument("--only", nargs="*", choices=[*PROTOCOLS], default=[*PROTOCOLS])
    parser.add_argument("--competitors", help="by commas; default: all that are installed")
    parser.add_argument("--white", type=float, default=27, metavar="HU", help="SD of the noise")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    here = competitors.available(coloured=True)
    names = here if asked.competitors is None else asked.competitors.split(",")
    if strange := sorted(set(names) - set(here)):
        parser.error(f"not known or not installed: {', '.join(strange)}; choose {', '.join(here)}")
    model = denovox.load(asked.weights)
    head = circumstances(model, asked.seed)
    out = asked.out or HERE / "results" / f"{datetime.date.today().isoformat()}-simulated.md"
    scope = "whole scans" if asked.slices is None else f"{asked.slices} central slices of each scan"
    title = f"# Simulated protocols on the validation patients, {scope}\n\n{head}\n"
    with tempfile.TemporaryDirectory() as folder:
        prepared(asked.data, Path(folder) / "scans", asked.slices, asked.most)
        options = RunOptions(asked.seed, say=lambda line: print(line, flush=True))
        config = SimulatedConfig(dose=LowDoseConfig(seed=asked.seed))
        run = Run(model, options, Path(folder), names, config, asked.white)
        table = HEAD
        for protocol in asked.only:
            table += "\n" + lines_of(protocol, PROTOCOLS[protocol](run))
            used = ", ".join(f"{name} ({count})" for name, count in sorted(run.used.items()))
            doc = "\n\n".join(__doc__.split("\n\n")[2:-1])
            out.write_text(f"{title}\n{doc}\n\nBest settings (times): {used}.\n\n{table}\n")
    print(f"\n{table}\n\nwritten to {out}")


if __name__ == "__main__":
    main()
