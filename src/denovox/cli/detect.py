"""Commands that look for what is not healthy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import (
    FILE,
    REGION_NAMES,
    loaded,
    reading_options,
    running_options,
    say,
    seed_option,
)

if TYPE_CHECKING:
    import numpy as np

    from ..core.volume import Volume


@click.command()
@click.argument("input", type=FILE)
@click.argument("output", type=FILE)
@click.option("--roi", type=FILE, help="A mask of the organ to look at; the whole body if not.")
@click.option(
    "--region", type=click.Choice(["auto", *REGION_NAMES]), default="auto", show_default=True
)
@click.option(
    "--calibration", type=FILE, multiple=True, help="Of denovox calibrate; bundled if not given."
)
@click.option("--report", type=FILE, help="Score and components, as JSON.")
@reading_options
@running_options
@seed_option
def detect(
    input: Path,
    output: Path,
    roi: Path | None,
    region: str,
    calibration: tuple[Path, ...],
    report: Path | None,
    series: str | None,
    straighten: bool,
    **run: Any,
) -> None:
    """A map of what differs from healthy scans: research, not a diagnosis.

    INPUT is as for denoise. OUTPUT is NIfTI on the scan's grid: signed z-scores, 0 where nothing
    was judged; below 0 is darker than the surroundings. --roi is best an organ: within it voxels
    are compared with each other. Components are pieces of |z| above 4.
    """
    from .. import __version__
    from ..inference.anomaly import calibration as of
    from ..inference.anomaly import detection, findings
    from ..io import formats, nifti
    from ..io import label_maps as masks
    from ..model.weights import describe

    nifti.check_writable(output, run["force"])
    if report is not None:
        findings.check_json(report, run["force"])
    calibrations = [of.read(path) for path in calibration] or of.bundled()
    volume = formats.read(input, series=series, straighten=straighten, say=say)
    mask = None if roi is None else masks.marked(roi, volume)
    with loaded(run, "detect") as (model, options):
        found = detection.detect(model, volume, calibrations, region, mask, options=options)
    if report is not None:
        settings = {"region": region, "roi": roi and str(roi), "seed": run["seed"]}
        told = {
            "scan": str(input),
            "weights": describe(model.path)[2],
            "settings": settings,
            "version": __version__,
        }
        findings.write_json(
            findings.findings(found, detection.THRESHOLD, told), report, run["force"]
        )
    findings.write_map(found.z, output, run["force"])
    say(findings.summary(found, detection.THRESHOLD))


@click.command()
@click.argument("scans", type=FILE, nargs=-1, required=True)
@click.option("--out", type=FILE, required=True, help="A folder for <region>.json.")
@click.option(
    "--lesions",
    type=(FILE, FILE),
    multiple=True,
    metavar="SCAN MASK",
    help="Leave the voxels of MASK out of SCAN.",
)
@click.option(
    "--region", type=click.Choice(["auto", *REGION_NAMES]), default="auto", show_default=True
)
@reading_options
@running_options
@seed_option
def calibrate(
    scans: tuple[Path, ...],
    out: Path,
    lesions: tuple[tuple[Path, Path], ...],
    region: str,
    series: str | None,
    straighten: bool,
    **run: Any,
) -> None:
    """What healthy SCANS show, for detect: one JSON a region, for these weights alone.

    SCANS are files or folders as for denoise, or a store (its cases' own regions count). Take
    patients that the model was trained on or others, but none that you want to judge.
    """
    from ..core.errors import ensure
    from ..inference.anomaly import calibration as of
    from ..inference.anomaly import detection

    strange = {scan for scan, _ in lesions} - set(scans)
    ensure(not strange, f"--lesions names {', '.join(map(str, strange))}, which is no scan here")
    ensure(not out.is_file(), f"{out} is a file; name a folder")
    ensure(out.absolute().parent.is_dir(), f"{out.absolute().parent} is not there; make it first")
    taken = sorted(out.glob("*.json")) if out.is_dir() and not run["force"] else []
    ensure(not taken, f"{taken and taken[0]} already exists; name another folder, or give --force")
    made: dict[str, list[of.Calibration]] = {}
    with loaded(run, "calibrate") as (model, options):
        for path in scans:
            masks = [mask for scan, mask in lesions if scan == path]
            for name, volume in _volumes(path, region, series, straighten):
                keep = ~_union(masks, volume) if masks else None
                for each in detection.calibrate(model, volume, of.Method(), name, keep, options):
                    made.setdefault(each.region, []).append(each)
    out.mkdir(exist_ok=True)
    for name, each_scan in sorted(made.items()):
        whole = of.merge(each_scan)
        of.write(whole, out / f"{name}.json")
        say(f"{out / name}.json: {whole.scans} scans, {sum(whole.millilitres) / 1000:.1f} L")


def _volumes(
    path: Path, region: str, series: str | None, straighten: bool
) -> Iterator[tuple[str, Volume]]:
    """(region, volume) of a scan, or of every case of a store."""
    import numpy as np

    from ..core.volume import Volume
    from ..datasets import manifest, store
    from ..io import formats

    if not (path / manifest.NAME).is_file():
        yield region, formats.read(path, series=series, straighten=straighten, say=say)
        return
    for case in store.cases(path):
        if region in ("auto", case.facts.region):
            hu = np.asarray(case.voxels()[:], np.float32)
            yield case.facts.region, Volume(hu, np.reshape(case.facts.affine, (4, 4)))


def _union(paths: list[Path], volume: Volume) -> np.ndarray:
    import numpy as np

    from ..io.label_maps import marked

    return np.any([marked(path, volume) for path in paths], 0)
