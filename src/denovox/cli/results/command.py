"""Commands that write a result: all of it or nothing, with a manifest beside it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click

from ...core.errors import ensure
from ...core.process import reset_peak
from ...reports.recorder import recording
from ..commands import Command, Option
from . import arguments
from .run import Run

_NAMES = ("no_manifest", "as_json", "png", "progress")


class Result(Command):
    """A command with OUTPUT, or a folder in --out.

    Its manifest, and what else belongs to any result, are options of every such command, which the
    function of the command never sees. pictures: whether there is an image for --png.
    """

    pictures = True
    continues = False

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params += _options(self.pictures)

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; what it writes appears when it has ended, and the manifest last."""
        from ...io.atomic import together

        given = {name: ctx.params.pop(name, None) for name in _NAMES}
        if ctx.params.get("dry_run"):
            ensure(not given["as_json"], "with --dry-run there is no manifest; leave out --json")
            return super().invoke(ctx)
        run = _run(ctx, given, self.continues)
        whole: AbstractContextManager[None] = nullcontext() if self.continues else together()
        reset_peak()
        with recording(run), whole:
            value = super().invoke(ctx)
            text = _finish(run)
        if run.as_json:
            click.echo(text, nl=False)
        if run.plain:
            click.echo("100 %", err=True)
        return value


class Tables(Result):
    """A result without an image."""

    pictures = False


class Cases(Tables):
    """A command that fills a folder, case by case, and continues where an earlier run stopped."""

    continues = True


def _run(ctx: click.Context, given: dict[str, Any], continues: bool) -> Run:
    from ...reports import manifest as of

    return Run(
        context=ctx,
        manifest=None if given["no_manifest"] else of.beside(arguments.target(ctx)),
        as_json=bool(given["as_json"]),
        png=given["png"],
        plain=given["progress"] == "plain",
        continues=continues,
    )


def _finish(run: Run) -> str:
    """Write the manifest; its text, for --json."""
    from ...io.atomic import user_output, write_file
    from ...reports import manifest as of
    from .account import manifest_of

    run.check()
    if run.manifest is None and not run.as_json:
        return ""
    text = of.as_text(manifest_of(run))
    if run.manifest is not None:
        with user_output(run.manifest):
            write_file(run.manifest, text)
    return text


def _options(pictures: bool) -> list[click.Parameter]:
    manifest = "Do not write OUTPUT.json, the manifest of the run (docs/how-to/scripting.md)."
    text = "Print the manifest, and nothing else, to stdout."
    preview = "PNG file for a picture of the result in three planes."
    progress = "auto: a bar on a terminal; plain: lines such as `42 %` on stderr."
    kinds = click.Choice(["auto", "plain"])
    file = click.Path(path_type=Path)
    every = [
        Option(["--no-manifest"], group="Output", is_flag=True, help=manifest),
        Option(["--json", "as_json"], group="Output", is_flag=True, help=text),
        Option(["--png"], group="Output", type=file, metavar="FILE", help=preview),
        Option(["--progress"], group="Running", type=kinds, default="auto", help=progress),
    ]
    return [each for each in every if pictures or each.name != "png"]
