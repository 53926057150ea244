"""Commands and groups with sections in `--help` and one sentence for an error."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import click

from ..core.errors import InputError, line, missing_extra, shown
from ..core.process import out_of_memory
from .progress import terminable

SECTIONS = ("Options", "Input", "Output", "Model", "Running")  # of --help, in this order
LEAST_TILE = 32  # edge in voxels
WIDEST = 30  # columns for an option's name; a longer one has a line of its own
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def as_sentence(error: click.UsageError, name: str, words: Sequence[str] = ()) -> InputError:
    """A usage error as one sentence, which names the command's help.

    name: of the command. words: its arguments; a file among them that begins with a dash was taken
    for options.
    """
    text = " ".join(error.format_message().split()).rstrip(".")
    path = error.ctx.command_path if error.ctx else name
    file = next((word for word in words if word.startswith("-") and os.path.exists(word)), None)
    hint = "" if file is None else f"; give the file {file} as ./{file}"
    return InputError(f"{text[:1].lower()}{text[1:]}{hint}; see {path} --help")


class Option(click.Option):
    """An option that `--help` lists in the section `group`, with its default, unless that is None
    or a flag's, and its environment variable."""

    def __init__(self, *args: Any, group: str = SECTIONS[0], **settings: Any) -> None:
        has_default = settings.get("default") is not None and not settings.get("is_flag")
        given = {"show_default": has_default, "show_envvar": True, **settings}
        super().__init__(*args, **given)
        self.group = group


def option(*names: str, group: str = SECTIONS[0], **settings: Any) -> Callable[..., Any]:
    """`click.option` in a section of `--help`."""
    return click.option(*names, cls=Option, group=group, **settings)


class Command(click.Command):
    """A command with its options in sections; a wrong argument is an `InputError`."""

    def make_context(
        self, info_name: str | None, args: list[str], *more: Any, **settings: Any
    ) -> click.Context:
        """As click's, with an `InputError` in place of a usage message of three lines."""
        words = list(args)
        try:
            return super().make_context(info_name, args, *more, **settings)
        except click.UsageError as error:
            raise as_sentence(error, str(self.name), words) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; an `InputError` with what to do if memory runs out."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            memory = out_of_memory(error)
            if memory is None:
                raise
            raise InputError(_shortage(memory, ctx.params)) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section, with their descriptions aligned."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in SECTIONS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                sections.setdefault(getattr(param, "group", SECTIONS[0]), []).append(record)
        names = [name for records in sections.values() for name, _ in records]
        width = min(WIDEST, max(map(len, names), default=0))
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl([(name.ljust(width), text) for name, text in records])


class Group(click.Group):
    """A group of commands in sections; an `InputError` is one line on stderr and exit code 2."""

    command_class = Command

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.sections: dict[str, list[str]] = {}

    def add(self, section: str, *commands: click.Command) -> None:
        """Add commands in a section of `--help`."""
        for command in commands:
            self.add_command(command)
            self.sections.setdefault(section, []).append(str(command.name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, section by section."""
        if not self.sections:
            super().format_commands(ctx, formatter)
        width = max(map(len, self.commands), default=0)
        for title, names in self.sections.items():
            rows = [
                (name.ljust(width), self.commands[name].get_short_help_str(formatter.width))
                for name in names
            ]
            with formatter.section(title):
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with an `InputError` for an unknown command."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise as_sentence(error, str(self.name)) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            _refuse(ctx, str(error))
        except ModuleNotFoundError as error:
            sentence = missing_extra(error)
            if sentence is None:
                raise
            _refuse(ctx, sentence)
        except OSError as error:  # a full disk, a folder that may not be read, ...
            if error.errno in (None, errno.EPIPE):
                raise
            _refuse(ctx, system_sentence(error))


def system_sentence(error: OSError) -> str:
    """An error of the system in words."""
    what = error.strerror or line(error)
    return what if error.filename is None else f"{shown(error.filename)}: {what}"


class Main(Group):
    """The command line as a whole: no name can end it in an encoding error, and no signal leaves
    anything unfinished behind."""

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run it."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        with terminable():
            return super().main(*args, **settings)


def _shortage(memory: str, params: dict[str, Any]) -> str:
    """The sentence for a lack of "GPU" or "main" memory in a command with these parameters."""
    less = []
    if (tile := params.get("tile")) is not None and tile > LEAST_TILE:
        less.append(f"a smaller --tile (now {tile}; {LEAST_TILE} is the smallest)")
    less += [
        f"a smaller --{name} (now {number})"
        for name in ("batch", "workers")
        if isinstance(number := params.get(name), int) and number > 1
    ]
    if memory == "GPU" and "device" in params:
        less.append("--device cpu")
    if memory == "main" and "memory" in params:
        less.append("a --memory below what is free, so that more is kept on disk")
    where = "the GPU" if memory == "GPU" else "this machine"
    less.append("a smaller part of the input")
    return f"{where} has too little memory; use {', or '.join(less)}"


def _refuse(ctx: click.Context, sentence: str) -> NoReturn:
    """Print one line on stderr and exit with code 2."""
    rank = os.environ.get("RANK", "0")  # of several processes that train together
    who = "denovox" if rank == "0" else f"denovox, process {rank}"
    click.echo(f"{who}: {sentence}", err=True)
    ctx.exit(2)
