"""The arguments of a command, sorted for its manifest: what is read, what is written, the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ...core.errors import shown

TARGETS = ("output", "out")  # the parameters that name a result
# Parts of the manifest of their own, or without influence on the result.
APART = ("seed", "weights", "device", "force")


def target(ctx: click.Context) -> Path:
    """OUTPUT, or the folder of --out."""
    return next(Path(ctx.params[name]) for name in TARGETS if name in ctx.params)


def written(ctx: click.Context) -> dict[str, Path | None]:
    """(label -> path) of what a command writes besides its manifest and preview."""
    return {
        _label(param): path
        for param, value in _given(ctx)
        if _is_written(param)
        for path in paths_in(value)
    }


def read(ctx: click.Context) -> Iterator[tuple[str, Path]]:
    """(label, path) of what a command reads, except for weights and calibrations."""
    for param, value in _given(ctx):
        if _is_written(param) or _group(param) == "Model":
            continue
        if isinstance(value, str) and Path(value).suffix and os.path.isfile(value):
            value = Path(value)  # --organ takes a name or a file
        yield from ((_label(param), path) for path in paths_in(value))


def settings(ctx: click.Context) -> dict[str, Any]:
    """The other parameters, ready for JSON."""
    return {
        str(param.name): plain(value)
        for param, value in sorted(_given(ctx), key=lambda each: str(each[0].name))
        if param.name not in APART and not _takes_paths(param.type)
    }


def paths_in(value: Any) -> list[Path]:
    """The paths in the value of a parameter."""
    if isinstance(value, tuple | list):
        return [path for each in value for path in paths_in(each)]
    return [value] if isinstance(value, Path) else []


def plain(value: Any) -> Any:
    """A value ready for JSON; of a path, only its name, since it may travel further."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return shown(os.path.basename(str(value)) if os.sep in str(value) else value)


def _given(ctx: click.Context) -> Iterator[tuple[click.Parameter, Any]]:
    for param in ctx.command.params:
        if param.name in ctx.params:
            yield param, ctx.params[param.name]


def _label(param: click.Parameter) -> str:
    """What users call a parameter: INPUT, --mask."""
    return param.opts[0] if isinstance(param, click.Option) else str(param.name).upper()


def _group(param: click.Parameter) -> str:
    return str(getattr(param, "group", ""))


def _is_written(param: click.Parameter) -> bool:
    return param.name in TARGETS or (_group(param) == "Output" and param.name != "like")


def _takes_paths(kind: click.ParamType) -> bool:
    several = kind.types if isinstance(kind, click.Tuple) else [kind]
    return any(isinstance(one, click.Path) for one in several)
