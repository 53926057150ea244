"""`denovox plan` and `pack`, `push` and `export`: a training run, or a model, for elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .commands import Command, Group, option
from .options import FILE, force_option, weights_option
from .progress import say

if TYPE_CHECKING:
    from ..train.cost.estimate import Name

licence_option = option(
    "--license",
    "licence",
    help="Licence of the weights, such as cc-by-4.0.  [default: apache-2.0 for bundled weights]",
)


@click.command(cls=Command)
@click.argument("recipe", type=FILE)
@option(
    "--gpu",
    default="cpu",
    type=click.Choice(["h200", "a100-80", "rtx3090", "cpu"]),
    help="GPU to train on, or the CPU of this machine, which is timed for a few seconds.",
)
@option("--gpus", default=1, type=click.IntRange(1), help="Number of GPUs.")
def plan(recipe: Path, gpu: Name, gpus: int) -> None:
    """Estimate the cost of training: FLOPs, memory, samples per second, hours.

    RECIPE is TOML (docs/reference/recipes.md). FLOPs and memory are counted on its network, forward
    and backward, without running it; if memory is not enough, the last line suggests what to
    change. Times on a CPU are those of one real step; those on GPUs are estimated from data sheets
    and were never checked on one. The time for samples and validation is not included.
    """
    from ..train.config import read_recipe
    from ..train.cost.estimate import summary

    for line in summary(read_recipe(recipe), gpu, gpus):
        click.echo(line)


@click.command(cls=Command)
@click.argument("recipe", type=FILE)
@option(
    "--start",
    group="Input",
    help="Weights to start from, or the folder of a run to continue.  [default: RECIPE's]",
)
@option("--wheels", type=FILE, group="Input", help="Folder of wheels to use instead of downloads.")
@option("--out", type=FILE, required=True, group="Output", help="Folder of the kit.")
@option(
    "--store-mb",
    default=40.0,
    type=click.FloatRange(min=0, min_open=True),
    group="Output",
    help="Largest size of the packed store in MB.",
)
@force_option
@option(
    "--target-has",
    type=FILE,
    group="Target machine",
    help="List of the packages installed there, one per line.  [default: torch, numpy, scipy,"
    " Pillow]",
)
@option("--python", default="3.12", group="Target machine", help="Python version there.")
def pack(
    recipe: Path,
    out: Path,
    start: str | None,
    target_has: Path | None,
    wheels: Path | None,
    python: str,
    store_mb: float,
    force: bool,
) -> None:
    """Pack a training run for a machine without a network connection.

    The kit in --out contains RECIPE (TOML), its store and all packages. Its run.sh trains and
    collects the results; see docs/how-to/kit.md. If the store is too large, HU are rounded, and
    then cases are resampled to coarser voxels; each change is listed on stderr. A kit contains
    patient data.
    """
    from ..kit import pack as of

    of.pack(recipe, out, of.Target(python, target_has, wheels, store_mb), start, force, say)


@click.command(cls=Command)
@click.argument("weights", metavar="WEIGHTS")
@click.argument("repository", metavar="OWNER/NAME")
@option("--revision", help="Branch to push to, created if it does not exist.  [default: main]")
@option(
    "--private/--public",
    default=None,
    help="Who can read the repository.  [default: public; must be given for weights whose card"
    " names patients]",
)
@licence_option
@option(
    "--figures",
    type=FILE,
    multiple=True,
    help="Folder written by `denovox evaluate` with these weights, for the model card.",
)
@option("--dry-run", type=FILE, metavar="DIR", help="Write the files to this folder instead.")
def push(
    weights: str,
    repository: str,
    revision: str | None,
    private: bool | None,
    licence: str | None,
    figures: tuple[Path, ...],
    dry_run: Path | None,
) -> None:
    """Push weights to the Hugging Face Hub.

    WEIGHTS is a bundled name, a file, or the folder of a run. OWNER/NAME is a repository, created
    if it does not exist: it receives model.safetensors, config.json and README.md, a model card
    written from the card in the weights. Log in first with `hf auth login`, or set HF_TOKEN. The
    new commit, which can be loaded as hf://OWNER/NAME@COMMIT, is printed to stdout.
    """
    from ..core.errors import ensure
    from ..integrations import hub
    from ..io.atomic import check_folder, write_folder

    to = repository if revision is None else f"{repository}@{revision}"
    if dry_run is not None:
        check_folder(dry_run)
    content = hub.repository(weights, to, licence, figures)
    if dry_run is not None:
        write_folder(dry_run, content)
        return
    named = hub.patients_named(weights) if private is None else []
    ensure(
        not named,
        f"the card in {weights} names patients ({', '.join(named)}); push with --private, or with"
        " --public if everyone may read that",
    )
    click.echo(hub.push(content, to, bool(private), say))


@click.group(cls=Group)
def export() -> None:
    """Write a model in the format of another package."""


@export.command("monai-bundle")
@click.argument("folder", type=FILE, metavar="DIR")
@weights_option
@licence_option
@force_option
def monai_bundle(folder: Path, weights: str, licence: str | None, force: bool) -> None:
    """Write a MONAI bundle that denoises CT scans.

    DIR receives the weights of a base, the configurations of inference and of further training,
    metadata and a description. `python -m monai.bundle run` (with the extra `monai`) denoises with
    the same result as `denovox denoise`; see docs/how-to/monai.md.
    """
    from ..integrations import monai_bundle as of
    from ..io.atomic import check_folder, write_folder

    check_folder(folder, force)
    write_folder(folder, of.bundle(weights, licence), force)
