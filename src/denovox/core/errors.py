"""The one error a user is meant to read, and how its sentence is made."""

import difflib
from collections.abc import Sequence


class InputError(Exception):
    """What came in cannot be worked on; the message is one clear sentence.

    The command line prints it on stderr and exits with code 2.
    """


def ensure(fine: object, message: str) -> None:
    """`InputError` with that message, unless it is fine."""
    if not fine:
        raise InputError(message)


def line(error: object) -> str:
    """A message in one line that a terminal can print, without its full stop."""
    text = " ".join(str(error).split()).rstrip(".")
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) < 160 else printable[:157] + "..."


def did_you_mean(name: object, among: Sequence[str]) -> str:
    """ " (did you mean 'liver'?)" for the closest of the known names; "" where none is close."""
    close = difflib.get_close_matches(str(name).lower().replace(" ", "_"), among, 1)
    return f" (did you mean '{close[0]}'?)" if close else ""
