"""`denovox mcp`: commands as tools of a server of the Model Context Protocol."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import data, detect, info, restore, synthesize
from .commands import Command, option
from .options import FILE

if TYPE_CHECKING:
    from ..integrations.mcp_server import Tool

_GROUPS = ("Options", "Input", "Output")  # of options that a tool has, besides `_MORE`
_MORE = ("seed", "weights")
# Given by the server, or of no use to a program.
_NOT = ("like", "as_json", "no_manifest")
_JSON = {
    click.types.IntParamType: "integer",
    click.types.FloatParamType: "number",
    click.types.BoolParamType: "boolean",
}


@click.command(cls=Command)
@option("--root", type=FILE, required=True, group="Input", help="Folder of all inputs and outputs.")
def mcp(root: Path) -> None:
    """Serve doctor, denoise, superres, detect, synthesize and info as MCP tools.

    A client starts this command and speaks the Model Context Protocol (MCP) over its stdin and
    stdout. Each tool returns the manifest of its result. Paths are relative to --root; a path that
    leads outside it, even through a link, is refused. See docs/how-to/mcp.md.
    """
    from ..integrations.mcp_server import serve

    serve(root, tools())


def tools() -> list[Tool]:
    """The tools, from the commands themselves."""
    return [
        _tool("inspect", data.doctor, ("doctor", "--json")),
        *(
            _tool(str(command.name), command, (str(command.name), "--json", "--progress=plain"))
            for command in (restore.denoise, restore.superres, detect.detect, synthesize.synthesize)
        ),
        _tool("info", info.info, ("info", "--json")),
    ]


def _tool(name: str, command: click.Command, words: tuple[str, ...]) -> Tool:
    from ..integrations.mcp_server import Field, Tool

    fields = tuple(
        Field(
            str(param.name),
            param.opts[0] if isinstance(param, click.Option) else "",
            _schema(param),
            isinstance(param.type, click.Path),
            param.required,
        )
        for param in command.params
        if _offered(param)
    )
    writes = any(field.name == "output" for field in fields)
    return Tool(name, inspect.cleandoc(command.help or ""), words, fields, writes)


def _offered(param: click.Parameter) -> bool:
    """Whether a program may give a parameter: those that run the model are the server's."""
    if not isinstance(param, click.Option):
        return True
    group = getattr(param, "group", "")
    return param.name in _MORE or (group in _GROUPS and param.name not in _NOT and not param.hidden)


def _schema(param: click.Parameter) -> dict[str, Any]:
    """The JSON schema of the values of a parameter."""
    numbers = (name for kind, name in _JSON.items() if isinstance(param.type, kind))
    one: dict[str, Any] = {"type": next(numbers, "string")}
    if isinstance(param.type, click.Choice):
        one["enum"] = list(param.type.choices)
    if isinstance(param.type, click.IntRange) and param.type.min is not None:
        one["minimum"] = param.type.min
    about = getattr(param, "help", None)
    if param.name == "weights":  # a program cannot give a file of its own
        one["enum"], about = _bundled(), "Names of bundled weights."
    if param.nargs == -1 or param.multiple:
        one = {"type": "array", "items": one, "minItems": int(param.required)}
    return one if about is None else {**one, "description": about}


def _bundled() -> list[str]:
    """Names of the bundled weights."""
    folder = Path(__file__).parents[1] / "weights"
    return sorted(path.stem for path in folder.glob("*.safetensors"))
