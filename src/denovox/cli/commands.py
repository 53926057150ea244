"""Commands and groups with sections in `--help` and one sentence for an error."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..core.errors import InputError

SECTIONS = ("Options", "Input", "Output", "Model", "Running")  # of --help, in this order
WIDEST = 30  # columns for an option's name; a longer one has a line of its own
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def as_sentence(error: click.UsageError, name: str) -> InputError:
    """A usage error as one sentence, which names the command's help. name: of the command."""
    text = " ".join(error.format_message().split()).rstrip(".")
    path = error.ctx.command_path if error.ctx else name
    return InputError(f"{text[:1].lower()}{text[1:]}; see {path} --help")


class Option(click.Option):
    """An option that is listed in the section `group` of `--help`."""

    def __init__(self, *args: Any, group: str = SECTIONS[0], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.group = group


def option(*names: str, group: str = SECTIONS[0], **settings: Any) -> Callable[..., Any]:
    """`click.option` in a section of `--help`."""
    return click.option(*names, cls=Option, group=group, **settings)


class Command(click.Command):
    """A command with its options in sections; a wrong argument is an `InputError`."""

    def make_context(self, *args: Any, **settings: Any) -> click.Context:
        """As click's, with an `InputError` in place of a usage message of three lines."""
        try:
            return super().make_context(*args, **settings)
        except click.UsageError as error:
            raise as_sentence(error, str(self.name)) from None

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
            rank = os.environ.get("RANK", "0")  # of several processes that train together
            who = "denovox" if rank == "0" else f"denovox, process {rank}"
            click.echo(f"{who}: {error}", err=True)
            ctx.exit(2)
