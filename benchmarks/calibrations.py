"""What belongs to the bundled weights besides the weights, fitted again after every change of them.

    python benchmarks/calibrations.py --store .denovox/store

writes, where denovox is installed:

weights/spread.json: what the SD of posterior samples is multiplied by in each region. Fitted to
crops of training patients, with white noise and at a quarter of the dose.

calibrations/REGION-PATIENT.json: healthy statistics for `denovox detect`, of a scan of every
patient, also of those that the base was trained on: held-out chests have a fifth fewer components
than with nine patients of a region. `evaluate` leaves the patient of a scan out. Scans that are
coarse in plane are not used, nor voxels that are marked as lesions.

Then it measures both on held-out patients: how many errors are within 1 and 2 SD, and how many
components the whole scans of these patients have, each calibrated on the others.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from denovox import load
from denovox.core.labels import OUTSIDE
from denovox.core.volume import Volume
from denovox.datasets.samples.choice import is_coarse
from denovox.datasets.store import Case, cases, split
from denovox.evaluation.evidence.noise import NOISES
from denovox.evaluation.evidence.study import central
from denovox.evaluation.lesions.hosts import read
from denovox.inference.anomaly import calibration as anomaly
from denovox.inference.anomaly.detection import calibrate
from denovox.inference.model import Model
from denovox.inference.options import RunOptions
from denovox.inference.posterior import SPREAD, Spread, factor, samples
from denovox.inference.scan_context import ScanContext
from denovox.io.atomic import write_file
from denovox.model.weights import describe

FOLDER = SPREAD.parent.parent / "calibrations"
CROP, SLICES, SAMPLES, PATIENTS = 64, 16, 8, 2  # voxels in plane; patients of a region


def quiet(line: str) -> None:
    """Say nothing."""


def first_of_each(some: Sequence[Case], count: int | None = None) -> Iterator[Case]:
    """A case of each patient, or of the first patients, of each region."""
    seen: dict[str, set[str]] = {}
    for case in some:
        patients = seen.setdefault(case.facts.region, set())
        if case.facts.patient not in patients and (count is None or len(patients) < count):
            patients.add(case.facts.patient)
            yield case


def errors(model: Model, some: Sequence[Case]) -> dict[str, np.ndarray]:
    """By region: error and SD (HU, not scaled) of the central crops of scans; rows of two."""
    rows: dict[str, list[np.ndarray]] = {}
    noises = itertools.cycle(("white-noise", "dose-0.25"))
    for case, noise in zip(first_of_each(some, PATIENTS), noises, strict=False):
        truth, region = central(read(case).volume, SLICES), case.facts.region
        noisy = NOISES[noise].add(truth, case.facts.id, 0, quiet)
        body = ScanContext(truth, region).coarse != OUTSIDE
        middle = [round(float(np.mean(at))) for at in np.nonzero(body)[:2]]
        x, y = (slice(max(0, at - CROP // 2), at + CROP // 2) for at in middle)
        crop = Volume(np.ascontiguousarray(noisy.hu[x, y]), noisy.affine)
        found = samples(model, ScanContext(crop, region), SAMPLES, RunOptions(), factors={})
        pair = np.stack([found.mean.hu - truth.hu[x, y], found.sd.hu])[:, body[x, y]]
        rows.setdefault(region, []).append(pair)
        print(
            f"{case.facts.id}, {noise}: factor {factor(pair[0], pair[1], SAMPLES):.2f}", flush=True
        )
    return {region: np.concatenate(each, 1) for region, each in rows.items()}


def spread(model: Model, training: Sequence[Case], held: Sequence[Case], path: Path) -> None:
    """Fit the factors, write them, and print what they achieve."""
    fitted = {
        region: round(factor(of[0], of[1], SAMPLES), 3)
        for region, of in errors(model, training).items()
    }
    sha = describe(model.path)[2]
    write_file(path, Spread(weights=sha, factors=fitted).model_dump_json() + "\n")
    print("\n| region | factor | within 1 SD, was | now | within 2 SD, was | now |")
    print("|---|---|---|---|---|---|")
    for region, (error, sd) in errors(model, held).items():
        times, inside = fitted.get(region, 1), sd > 0
        ratio = np.abs(error[inside]) / sd[inside]
        shares = [np.mean(ratio < k * by) for k in (1, 2) for by in (1, times)]
        print(f"| {region} | {times} |", " | ".join(f"{one:.2f}" for one in shares), "|")


def calibrations(model: Model, some: Sequence[Case], folder: Path) -> None:
    """Write the calibrations, a file for each region and patient, in place of those before."""
    parts: dict[tuple[str, str], list[anomaly.Calibration]] = {}
    for case in some:
        host = read(case)
        context, healthy = ScanContext(host.volume, case.facts.region), host.numbers == 0
        for one in calibrate(model, context, anomaly.AnomalyMethod(), healthy):
            parts.setdefault((one.region, case.facts.patient), []).append(one)
        print(f"{case.facts.id}: calibrated", flush=True)
    before = set(folder.glob("*.json"))
    for (region, patient), each in parts.items():
        path = folder / f"{region}-{patient}.json"
        anomaly.write(anomaly.merge(each).model_copy(update={"patient": patient}), path)
        before.discard(path)
    for path in before:
        path.unlink()


def components(model: Model, held: Sequence[Case], folder: Path) -> None:
    """Print how many components each scan has, calibrated on the other patients."""
    print("\n| scan | litres | components |\n|---|---|---|")
    for case in held:
        others = anomaly.bundled(case.facts.patient, folder)
        found = model.detect(read(case).volume, region=case.facts.region, calibrations=others)
        litres = np.count_nonzero(found.z.hu) * np.prod(found.z.spacing_mm) / 1e6
        print(f"| {case.facts.id} | {litres:.1f} | {len(found.components)} |", flush=True)


def main() -> None:
    """Fit, write and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--store", type=Path, default=Path(".denovox/store"))
    parser.add_argument("--weights", default="base")
    parser.add_argument("--only", choices=("spread", "calibrations", "components"))
    parser.add_argument("--out", type=Path, help="folder in place of the package's")
    given = parser.parse_args()
    model = load(given.weights)
    training, held = (
        [case for case in part if not is_coarse(case)] for part in split(cases(given.store), ())
    )
    folder, path = FOLDER, SPREAD
    if given.out:
        folder, path = given.out / FOLDER.name, given.out / SPREAD.name
        folder.mkdir(parents=True, exist_ok=True)
    if given.only in (None, "calibrations"):
        calibrations(model, [*held, *first_of_each(training)], folder)
    if given.only in (None, "spread"):
        spread(model, training, held, path)
    if given.only in (None, "components"):
        components(model, held, folder)


if __name__ == "__main__":
    main()
