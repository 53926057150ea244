"""`denovox detect` and `denovox calibrate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .commands import option
from .options import (
    FILE,
    loaded,
    memory_option,
    read_ct,
    reading_options,
    region_option,
    running_options,
    seed_option,
    write_view,
)
from .outputs import Output, like_option
from .progress import say
from .results.command import Result, Tables

if TYPE_CHECKING:
    import numpy as np

    from ..core.volume import Volume


@click.command(cls=Result)
@click.argument("input", type=FILE)
@click.argument("output", type=FILE)
@option(
    "--calibration",
    type=FILE,
    multiple=True,
    group="Model",
    help="JSON file of denovox calibrate; one per region.  [default: the bundled ones]",
)
@option(
    "--roi",
    type=FILE,
    group="Input",
    help="Mask of an organ, on the grid of INPUT.  [default: the whole body]",
)
@region_option
@reading_options
@option(
    "--report",
    type=FILE,
    group="Output",
    help="JSON file for the score and the components, or new folder for a page that shows them.",
)
@like_option
@running_options
@memory_option
@seed_option
def detect(
    input: Path,
    output: Path,
    roi: Path | None,
    region: str,
    calibration: tuple[Path, ...],
    report: Path | None,
    like: Path | None,
    **run: Any,
) -> None:
    """Map anomalies: where a CT scan differs from healthy ones.

    For research, not for diagnosis.

    INPUT is a CT scan in HU, in any format that `denovox denoise` reads. OUTPUT is NIfTI on the
    grid of the scan: signed z-scores, negative where the scan is darker than its surroundings, 0
    outside the body, the ROI and the calibrated regions. Within an ROI, preferably an organ, voxels
    are compared with each other. The ROI can be NIfTI, NRRD or MetaImage.

    If OUTPUT is a .zip or a folder, it receives three DICOM objects: the z-scores (Parametric Map);
    the components, which are compact groups of voxels with |z| above 3 (SEG); and the score of the
    scan, with volume, z-scores and HU of each component (SR, TID 1500).

    --report writes the score and the components to a file whose name ends in .json, or to a folder:
    index.html, a page that shows the scan, its z-scores and a list of the components.
    """
    from ..core.version import __version__
    from ..inference.anomaly import calibration as calibrations
    from ..inference.anomaly import findings
    from ..inference.views import of_detection
    from ..io.atomic import together
    from ..io.label_maps import marked
    from ..model.weights import describe

    inputs = {"INPUT": input, "--roi": roi, **{f"--calibration {one}": one for one in calibration}}
    as_json = report is not None and report.suffix != ""
    target = Output(output, run["force"], like, None if as_json else report)
    target.check(inputs, {"--report": report} if report is not None and as_json else None)
    if report is not None and as_json:
        findings.check_json(report, run["force"])
    chosen = [calibrations.read(path) for path in calibration] or calibrations.bundled()
    volume = read_ct(input, run)
    target.check_findings(volume)
    mask = None if roi is None else marked(roi, volume, say)
    with loaded(run, "detect") as (model, options):
        result = model.detect(volume, mask, region, chosen, options=options)
    with together():
        if report is not None:
            about = {
                "scan": str(input),
                "weights": describe(model.path)[2],
                "settings": {"region": region, "roi": roi and str(roi), "seed": run["seed"]},
                "version": __version__,
            }
            content = findings.findings(result, about)
            if as_json:
                findings.write_json(content, report, run["force"])
            else:
                write_view(report, of_detection(volume, result), model, content)
        target.write_findings(result, model, volume)
    say(findings.summary(result))


@click.command(cls=Tables)
@click.argument("scans", type=FILE, nargs=-1, required=True)
@option(
    "--lesions",
    type=(FILE, FILE),
    multiple=True,
    metavar="SCAN MASK",
    group="Input",
    help="Exclude the voxels of MASK in SCAN.",
)
@region_option
@reading_options
@option(
    "--out", type=FILE, required=True, group="Output", help="Folder for one JSON file per region."
)
@running_options
@seed_option
def calibrate(
    scans: tuple[Path, ...],
    out: Path,
    lesions: tuple[tuple[Path, Path], ...],
    region: str,
    **run: Any,
) -> None:
    """Calibrate `denovox detect` on healthy SCANS.

    SCANS are CT scans in HU, in any format that `denovox denoise` reads, or stores of `denovox
    prepare`, whose cases state their region. They must not include patients to be evaluated, and
    should not include patients that the model was trained on.

    The results are headneck.json, chest.json and abdomen.json in --out, for the regions that SCANS
    show. They are valid for these weights only.
    """
    from ..core.errors import ensure
    from ..inference.anomaly import calibration as of
    from ..inference.anomaly import detection
    from ..inference.scan_context import ScanContext
    from ..io.atomic import check_folder, open_folder
    from ..io.outputs import check_apart

    unknown = ", ".join(map(str, sorted({scan for scan, _ in lesions} - set(scans))))
    ensure(not unknown, f"--lesions names {unknown}, which is not among SCANS; list it there, too")
    check_apart({"--out": out}, {f"SCANS: {path}": path for path in scans})
    check_folder(out, force=True)
    existing = sorted(out.glob("*.json")) if not run["force"] else []
    ensure(
        not existing,
        f"{existing and existing[0]} already exists; choose another folder or give --force",
    )
    by_region: dict[str, list[of.Calibration]] = {}
    with loaded(run, "calibrate") as (model, options):
        for path in scans:
            masks = [mask for scan, mask in lesions if scan == path]
            for name, volume in _volumes(path, region, run):
                healthy = ~_union(masks, volume) if masks else None
                context = ScanContext(volume, name, say=options.say)
                for each in detection.calibrate(
                    model, context, of.AnomalyMethod(), healthy, options
                ):
                    by_region.setdefault(each.region, []).append(each)
    merged = {name: of.merge(each_scan) for name, each_scan in sorted(by_region.items())}
    with open_folder(out, force=True) as new:
        for name, one in merged.items():
            of.write(one, new / f"{name}.json")
    for name, one in merged.items():
        many = f"{one.scans} scan{'' if one.scans == 1 else 's'}"
        say(f"{out / name}.json: {many}, {sum(one.millilitres) / 1000:.1f} L")


def _volumes(path: Path, region: str, given: dict[str, Any]) -> Iterator[tuple[str, Volume]]:
    """(region, volume) of a scan, or of every case of a store."""
    import numpy as np

    from ..core.volume import Volume
    from ..datasets import manifest, store

    if not (path / manifest.NAME).is_file():
        yield region, read_ct(path, given)
        return
    for case in store.cases(path):
        if region in ("auto", case.facts.region):
            hu = np.asarray(case.voxels()[:], np.float32)
            yield case.facts.region, Volume(hu, np.reshape(case.facts.affine, (4, 4)))


def _union(paths: list[Path], volume: Volume) -> np.ndarray:
    import numpy as np

    from ..io.label_maps import marked

    return np.any([marked(path, volume, say) for path in paths], 0)
