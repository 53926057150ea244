"""Commands that measure."""

from __future__ import annotations

from pathlib import Path

import click

from ..terminal import FILE, say


@click.command()
@click.argument("protocol")
@click.argument("data", type=FILE)
@click.option("--out", type=FILE, required=True, help="A new folder for the figures.")
@click.option("--method", default="denovox", show_default=True, help="Whose output this is.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the bootstrap."
)
@click.option("--force", is_flag=True, help="Overwrite earlier figures.")
def evaluate(protocol: str, data: Path, out: Path, method: str, seed: int, force: bool) -> None:
    """Judge restored scans by a published PROTOCOL, with its own convention.

    PROTOCOL is mayo16-redcnn, mayo16-corediff, mayo16-founddiff, rplhr or bmad-liver. DATA is a CSV
    with columns patient, reference, test (bmad-liver: patient, map, mask), or a folder with
    reference/ and test/ (maps/ and masks/). Every figure comes with N and a bootstrap interval over
    patients, as JSON and as a Markdown table.
    """
    from ...evaluate.figures import as_markdown
    from ..judge import evaluate as run

    click.echo(as_markdown(run(protocol, data, out, method, seed, force, say)))
