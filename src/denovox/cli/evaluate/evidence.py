"""`denovox evaluate all`: every protocol that a store allows, with rivals, on one page."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from ...core.errors import one_of
from ..commands import Command, option
from ..options import FILE, loaded, model_options, seed_option, weights_option
from .protocols import evaluate, out_option


@evaluate.command("all", cls=Command, short_help="Run every protocol on held-out scans.")
@click.argument("store", type=FILE)
@out_option
@option(
    "--only",
    multiple=True,
    metavar="PART",
    help="Run only this part; repeat the option for more.  [default: all]",
)
@option(
    "--slices",
    type=click.IntRange(8),
    help="Central slices of each scan; lesions are measured on whole scans.  [default: all]",
)
@option(
    "--most",
    type=click.IntRange(1),
    help="Limit on the number of scans; for lesions, of patients.  [default: none; lesions: 3]",
)
@option(
    "--rivals",
    help="Denoisers to compare with, separated by commas: nlm, tv, bm4d, bm4d-coloured, red-cnn; or"
    " none.  [default: all that are installed, without red-cnn, which has to be trained]",
)
@option(
    "--red-cnn-minutes",
    type=click.FloatRange(0, min_open=True),
    default=10,
    help="Minutes of training for red-cnn, on the training patients of the store; the network is"
    " kept in --out, as red-cnn.safetensors, and used again.",
)
@weights_option
@option(
    "--lesion-control",
    group="Model",
    default="lesion",
    help="Control for lesions, of the same base.",
)
@seed_option
@model_options
def every(store: Path, out: Path, only: tuple[str, ...], **given: Any) -> None:
    """Run every protocol that the data allow, on the held-out scans, beside other methods.

    STORE is written by `denovox prepare`. --out receives a folder with figures for each part, and
    evidence.md, a page with all of them. The same command continues a run that was
    stopped, or adds parts; on whole scans it takes a night.
    """
    from ...evaluation.evidence import page, parts, rivals
    from ...evaluation.evidence.red_cnn import NAME
    from ...evaluation.evidence.study import EvidenceConfig, study_of
    from ...inference.model import load
    from ...io.atomic import check_folder
    from ...model.weights import locate, sha256

    known = rivals.available()
    listed = given["rivals"]
    chosen = known if listed is None else [name for name in listed.split(",") if name != "none"]
    for name in chosen:
        one_of(name, [*known, NAME], "rival")
    for name in only:
        one_of(name, list(parts.PARTS), "part")
    check_folder(out, force=True, parents=True)
    config = EvidenceConfig(
        slices=given["slices"],
        most=given["most"],
        rivals=tuple(chosen),
        red_cnn_minutes=given["red_cnn_minutes"],
    )
    with loaded(given, "evaluate all") as (model, options), tempfile.TemporaryDirectory() as folder:

        def lesion_model() -> Any:
            return load(
                given["weights"], given["device"], given["precision"], given["lesion_control"]
            )

        models = model, lesion_model, sha256(locate(given["lesion_control"]))
        study = study_of(store, Path(folder), models, config, options, out)
        click.echo(page.run(study, out, only or parts.PARTS).read_text("utf-8"), nl=False)
