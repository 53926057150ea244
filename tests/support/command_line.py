"""Commands as a user types them, in this process."""

from __future__ import annotations

import click
from click.testing import CliRunner, Result

from denovox.cli.main import main


def run(*words: object) -> Result:
    """`denovox WORDS`."""
    return CliRunner().invoke(main, [str(word) for word in words])


def refuses(result: Result, *says: str) -> None:
    """Exit code 2, and one sentence on stderr, which has these words in it."""
    assert result.exit_code == 2, result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("denovox: ")
    for word in says:
        assert word in last, last
    assert "Traceback" not in result.stderr


def parse(command: click.Command, name: str, words: list[str]) -> click.Context:
    """What click reads from the words. Below the main command, since click keeps the names of the
    option for help (-h, --help) from the first context of a command."""
    above = click.Context(main, **main.context_settings)
    return command.make_context(name, words, parent=above)
