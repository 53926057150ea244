"""Commands that measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import FILE, REGION_NAMES, loaded, say

ALSO = {"region": "simulated protocols and radiomic", "save": "simulated protocols"}
OF = {"dose": "simulated-dose", "factor": "simulated-slab"}  # option -> the protocol it belongs to


@click.command()
@click.argument("protocol")
@click.argument("data", type=FILE)
@click.option("--out", type=FILE, required=True, help="A new folder for the figures.")
@click.option("--method", default="denovox", show_default=True, help="Whose output this is.")
@click.option(
    "--weights",
    help="Of the model that runs (default: base); of pairs: that made them, recorded; of a FID: the"
    " network of its features (.pt, .pth or hub:OWNER/REPO:ENTRY).",
)
@click.option(
    "--region",
    type=click.Choice(["auto", *REGION_NAMES]),
    help="Of all scans (simulated protocols, radiomic); else as DATA say, else found along z.",
)
@click.option(
    "--dose",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="For simulated-dose: the part that is left.  [default: 0.25]",
)
@click.option(
    "--factor",
    type=click.IntRange(2),
    help="For simulated-slab: slices averaged to one.  [default: 5]",
)
@click.option("--save", type=FILE, help="A new folder for a simulated protocol's scans.")
@click.option(
    "--window",
    default=64,
    show_default=True,
    type=click.IntRange(32),
    help="Edge of the largest window, in voxels; halve it if memory is short.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Of the bootstrap, and of all that is simulated.",
)
@click.option("--force", is_flag=True, help="Overwrite earlier figures.")
def evaluate(protocol: str, data: Path, out: Path, force: bool, **told: Any) -> None:
    """Measure by a PROTOCOL, with its own convention: restored scans, or a model.

    Published protocols judge files, whoever made them: mayo16-redcnn, mayo16-corediff,
    mayo16-founddiff, rplhr or bmad-liver. DATA is a CSV with columns patient, reference, test
    (bmad-liver: patient, map, mask), or a folder with reference/ and test/ (maps/ and masks/).

    Simulated protocols run the model on any CT: simulated-dose lowers the dose and denoises,
    simulated-slab averages slices and makes them thin again, planted-lesions plants lesions and
    looks for them. DATA is a scan, a folder of scans, or a CSV with columns patient, scan and maybe
    region. With --save, reference/, input/ and test/ (planted-lesions: input/, maps/, masks/) stay:
    give input/ to another method, put what it makes in test/, and judge that as pairs. `denovox
    simulate` makes such input too (the JSON has the photons of each scan; --electronic 0).

    Realism compares sets that are no pairs: radiomic (no network), fid25d-maisi and
    fid3d-medicalnet (features of --weights, which do not come with denovox). DATA is a folder with
    reference/ (real), test/ (made) and maybe training/, or a CSV with columns patient, set (real,
    made or training), scan. The floor, real against real by patient, stands beside each distance.

    Lesion protocols run a control for lesions (--weights, default: lesion): lesion-generation,
    lesion-inpainting. DATA is a store; segmenters are trained in the run, patient by patient.

    Every figure comes with N and a bootstrap interval over patients, settings, the weights' hash
    and the files', as JSON and as a Markdown table.
    """
    from ..core.errors import InputError
    from ..evaluation.pairs import evaluate as judge
    from ..evaluation.published import protocol as known
    from ..evaluation.realism_figures import REALISM
    from ..evaluation.simulated_metrics import LESION_PROTOCOLS, SIMULATED
    from ..io.new_folder import check_folder
    from ..metrics.results import as_markdown, write

    if protocol not in (*SIMULATED, *LESION_PROTOCOLS, *REALISM):
        known(protocol)
    for name, of in OF.items():
        if told[name] is not None and protocol != of:
            raise InputError(f"--{name} is of {of} alone; leave it out")
    if protocol not in SIMULATED:
        for name in ("region", "save"):
            if told[name] is not None and (protocol, name) != ("radiomic", "region"):
                raise InputError(f"--{name} is of {ALSO[name]} alone; leave it out")
        if protocol in REALISM:
            _realism(protocol, data, out, force, told)
            return
        if protocol in LESION_PROTOCOLS:
            _lesions(protocol, data, out, force, told)
            return
        method, seed, weights = (told[name] for name in ("method", "seed", "weights"))
        click.echo(as_markdown(judge(protocol, data, out, method, seed, weights, force, say)))
        return
    check_folder(out, force)
    from ..evaluation.inputs import keeping
    from ..evaluation.simulated import trial
    from ..evaluation.simulated_tasks import TrialConfig

    given = {name: told[name] for name in ("factor", "region") if told[name] is not None}
    config = TrialConfig(method=told["method"], **given)
    dose = {"seed": told["seed"], "dose": told["dose"] or config.dose.dose}
    config = config.model_copy(update={"dose": config.dose.model_copy(update=dose)})
    run = {"weights": told["weights"] or "base", "window": told["window"], "seed": told["seed"]}
    with (
        keeping(told["save"], force) as keep,
        loaded(run, protocol) as (model, options),
    ):
        results = trial(protocol, data, model, config, None, options, keep)
        write(results, out, force)
    click.echo(as_markdown(results))


def _realism(protocol: str, data: Path, out: Path, force: bool, told: dict[str, Any]) -> None:
    from ..evaluation import realism
    from ..metrics.results import as_markdown

    given = {name: told[name] for name in ("method", "seed", "region")}
    config = realism.RealismConfig(network=told["weights"], **given)
    click.echo(as_markdown(realism.evaluate(protocol, data, out, config, force, say)))


def _lesions(protocol: str, data: Path, out: Path, force: bool, told: dict[str, Any]) -> None:
    from ..evaluation.lesions.hosts import LesionTrials
    from ..evaluation.lesions.study import trial
    from ..inference import lesions
    from ..io.new_folder import check_folder
    from ..metrics.results import as_markdown, write

    check_folder(out, force)
    run = {"weights": told["weights"] or "lesion", "window": told["window"], "seed": told["seed"]}
    with loaded(run, protocol, "lesion") as (model, options):
        config = LesionTrials(method=told["method"])
        make, remove = (of(model, options) for of in (lesions.maker, lesions.remover))
        sha = lesions.by(model)["control"]
        results = trial(protocol, data, make, remove, config, options, sha)
        write(results, out, force)
    click.echo(as_markdown(results))
