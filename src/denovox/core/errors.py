"""The one error that users are meant to read, and helpers that phrase its message."""

import difflib
from collections.abc import Sequence


class InputError(Exception):
    """The input cannot be processed; the message is one clear sentence.

    The command line prints it on stderr and exits with code 2.
    """


def ensure(condition: object, message: str) -> None:
    """Raise `InputError` with that message unless the condition holds."""
    if not condition:
        raise InputError(message)


def line(error: object) -> str:
    """A message as one printable line, shortened if long and without its full stop."""
    text = " ".join(str(error).split()).rstrip(".")
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) < 160 else printable[:157] + "..."


def did_you_mean(name: object, among: Sequence[str]) -> str:
    """ " (did you mean 'liver'?)" with the closest of the known names; "" if none is close."""
    close = difflib.get_close_matches(str(name).lower().replace(" ", "_"), among, 1)
    return f" (did you mean '{close[0]}'?)" if close else ""
