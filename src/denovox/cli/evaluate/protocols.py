"""`denovox evaluate`: a subcommand for each kind of protocol; their names are protocols.py's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ...core.errors import InputError, did_you_mean, ensure
from ...evaluation.protocols import KINDS, PROTOCOLS, Kind, Protocol, protocol
from ..commands import Command, Group, option
from ..options import (
    FILE,
    REGION_NAMES,
    accept_hu_option,
    force_option,
    loaded,
    model_options,
    seed_option,
    weights_option,
)
from ..progress import say


class Protocols(click.ParamType):
    """The name of a protocol of one kind, as its row; `InputError` for another name."""

    name = "protocol"

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def convert(self, value: Any, param: Any, ctx: Any) -> Protocol:
        """The row."""
        return value if isinstance(value, Protocol) else protocol(str(value), self.kind)


class Listing(Command):
    """A command whose help ends with the protocols of its kind, which is its name."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write data, convention and source of each protocol."""
        texts = {}
        for row in (one for one in PROTOCOLS if one.kind == self.name):
            source = "" if row.source == "denovox" else f" Source: {row.source}."
            texts[row.short or row.name] = f"{row.data}. Convention: {row.convention}.{source}"
        with formatter.section("Protocols"):
            formatter.write_dl(list(texts.items()))


class Evaluate(Group):
    """The group, whose help ends with all protocols."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with an `InputError` for a word that is not a kind."""
        word = args[0]
        for row in PROTOCOLS:
            full = f"{row.kind} {row.short or row.name}"
            ensure(word not in (row.name, row.short), f"use `denovox evaluate {full}`")
        if word not in self.commands and not word.startswith("-"):
            hint, kinds = did_you_mean(word, list(self.commands)), ", ".join(self.commands)
            raise InputError(f"'{word}' is not known{hint}; choose one of {kinds}")
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write all protocols, and the data that they take."""
        rows = [(f"{row.kind} {row.short or row.name}", row.data) for row in PROTOCOLS]
        with formatter.section("Protocols"):
            formatter.write_dl(rows)


@click.group(cls=Evaluate)
def evaluate() -> None:
    """Measure restored scans, a model or synthetic scans with a named protocol.

    Each protocol has its own published or stated convention. Every figure is reported with N and a
    bootstrap interval over patients, with settings and the hashes of weights and files, as JSON and
    as a Markdown table.
    """


out_option = option(
    "--out", type=FILE, required=True, group="Output", help="New folder for the figures."
)
method_option = option(
    "--method", group="Output", default="denovox", help="Name of the method in the table."
)
region_option = option(
    "--region",
    group="Input",
    type=click.Choice(["auto", *REGION_NAMES]),
    help="Region of scans for which the CSV states none.  [default: recognised along z]",
)


def command(kind: Kind, data: str) -> Callable[[Callable[..., None]], click.Command]:
    """The decorator of a kind's command: its arguments, and the options that all kinds share."""

    def decorate(function: Callable[..., None]) -> click.Command:
        for each in (
            seed_option,
            force_option,
            method_option,
            out_option,
            click.argument("data", type=FILE, metavar=data),
            click.argument("protocol", type=Protocols(kind), metavar="PROTOCOL"),
        ):
            function = each(function)
        return evaluate.command(kind, cls=Listing, short_help=KINDS[kind])(function)

    return decorate


@command("pairs", "PAIRS")
@option(
    "--weights", group="Model", help="Weights that the files were computed with, for the record."
)
def pairs(protocol: Protocol, data: Path, out: Path, force: bool, **given: Any) -> None:
    """Compare restored files, from any method, with their references.

    PAIRS is a CSV with the columns patient, reference and test (bmad-liver: patient, map, mask and
    optionally score), or a folder with reference/ and test/ (maps/ and masks/).
    """
    from ...evaluation.pairs import evaluate_pairs

    _check_out(data, out, force)
    method, seed, weights = (given[name] for name in ("method", "seed", "weights"))
    results = evaluate_pairs(protocol.name, data, method, seed, weights, say)
    _write(results, out, force)
    _show(results)


@command("simulated", "SCANS")
@weights_option
@region_option
@option(
    "--dose",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="For dose: fraction of the dose that remains.  [default: 0.25]",
)
@accept_hu_option
@option(
    "--factor", type=click.IntRange(2), help="For slab: slices averaged into one.  [default: 5]"
)
@option("--save", type=FILE, group="Output", help="New folder for the scans.")
@model_options
def simulated(protocol: Protocol, data: Path, out: Path, force: bool, **given: Any) -> None:
    """Run a model on scans with simulated noise, thick slices or lesions.

    SCANS is a scan, a folder of scans, or a CSV with the columns patient, scan and optionally
    region. dose lowers the dose and denoises; slab averages slices and makes them thin again;
    planted-lesions adds lesions and searches for them.

    --save keeps reference/, input/ and test/ (planted-lesions: input/, maps/, masks/). To compare
    another method, run it on input/, put its results into test/ and use `evaluate pairs`. `denovox
    simulate` writes such input too (the JSON has the photons of each scan; --electronic 0).
    """
    from ...evaluation.inputs import saved_scans
    from ...evaluation.simulated import evaluate_simulated
    from ...evaluation.simulated_tasks import SimulatedConfig
    from ...io.atomic import together

    _check_options(protocol, given, "dose", "factor")
    _check_out(data, out, force, given["save"])
    set_by_user = {name: given[name] for name in ("factor", "region") if given[name] is not None}
    config = SimulatedConfig(method=given["method"], **set_by_user)
    dose = {"seed": given["seed"], "dose": given["dose"] or config.dose.dose}
    config = config.model_copy(update={"dose": config.dose.model_copy(update=dose)})
    with loaded(given, protocol.name) as (model, options), together():
        with saved_scans(given["save"], force) as save:
            results = evaluate_simulated(protocol.name, data, model, config, None, options, save)
        _write(results, out, force)
    _show(results)


@command("realism", "SETS")
@option(
    "--weights",
    group="Model",
    help="For FIDs: the network whose features are compared (.pt, .pth or hub:OWNER/REPO:ENTRY);"
    " it does not come with denovox.",
)
@region_option
@accept_hu_option
def realism(protocol: Protocol, data: Path, out: Path, force: bool, **given: Any) -> None:
    """Compare a set of synthetic scans with a set of real ones.

    SETS is a folder with reference/ (real), test/ (synthetic) and optionally training/, or a CSV
    with the columns patient, set (real, synthetic or training), scan and optionally region and
    anatomy (the label map it was generated from). Beside each distance is its floor, that of real
    scans from other real scans, divided by patient. Seams, second bodies and broken spines are
    reported and, with a training set, scans that may be copies. --region is for radiomic.
    """
    from ...evaluation.realism import RealismConfig, evaluate_realism

    _check_options(protocol, given, "weights", "region")
    _check_out(data, out, force)
    config = RealismConfig(
        method=given["method"],
        seed=given["seed"],
        network=given["weights"],
        region=given["region"],
        accept_hu=given["accept_hu"],
    )
    results = evaluate_realism(protocol.name, data, config, say)
    _write(results, out, force)
    _show(results)


@command("lesions", "STORE")
@option("--weights", group="Model", default="lesion", help="A control for lesions.")
@model_options
def lesions(protocol: Protocol, data: Path, out: Path, force: bool, **given: Any) -> None:
    """Measure a control for lesions with segmenters trained on real lesions.

    STORE is written by `denovox prepare`. The segmenters are trained during the run, each without
    the patient whose scans it segments.
    """
    from ...evaluation.lesions.hosts import LesionStudyConfig
    from ...evaluation.lesions.study import evaluate_lesions
    from ...inference import lesions

    _check_out(data, out, force)
    with loaded(given, protocol.name, "lesion") as (model, options):
        config = LesionStudyConfig(method=given["method"])
        add, remove = (of(model, options) for of in (lesions.maker, lesions.remover))
        sha = lesions.provenance(model)["control"]
        results = evaluate_lesions(protocol.name, data, add, remove, config, options, sha)
    _write(results, out, force)
    _show(results)


def _check_options(protocol: Protocol, given: dict[str, Any], *names: str) -> None:
    """`InputError` for an option that the protocol does not use."""
    for name in names:
        unused = given[name] is not None and name not in protocol.options
        ensure(not unused, f"{protocol.name} does not use --{name}; leave it out")


def _check_out(data: Path, out: Path, force: bool, save: Path | None = None) -> None:
    """`InputError` where figures (--out) or scans (--save) could not be written."""
    from ...io.atomic import check_folder
    from ...io.outputs import check_apart

    check_apart({"--out": out, "--save": save}, {"the data": data})
    for folder in (out, save):
        if folder is not None:
            check_folder(folder, force)


def _write(results: Any, out: Path, force: bool) -> None:
    from ...metrics.results import write

    write(results, out, force)


def _show(results: Any) -> None:
    from ...metrics.results import as_markdown

    click.echo(as_markdown(results))
