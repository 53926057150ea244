"""The one error that users are meant to read, and helpers that phrase its message."""

import difflib
from collections.abc import Iterable, Sequence

_BREAK = "\n  "
# Packages that are imported only where they are needed, and the extra that installs each.
EXTRAS = {
    **dict.fromkeys(("zarr", "numcodecs", "fsspec", "pyarrow", "accelerate"), "train"),
    **dict.fromkeys(("highdicom", "gdcm"), "dicom"),
    **dict.fromkeys(("monai", "skimage"), "evaluate"),
    "huggingface_hub": "hub",
    "ipyniivue": "notebook",
    "mcp": "mcp",
    "ray": "cluster",
    "s3fs": "s3",
}


class InputError(Exception):
    """The input cannot be processed; the message is one clear sentence, printable (`shown`).

    The command line prints it on stderr and exits with code 2. A line break followed by two spaces
    begins a list and is kept.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


def printable(message: str) -> str:
    """A message with every name in it `shown`; a list in it keeps its lines."""
    return _BREAK.join(map(shown, str(message).split(_BREAK)))


def encodable(text: str) -> str:
    """A text that is valid Unicode: undecodable bytes of a file name become escapes, `\\xfc`."""
    return "".join(_escaped(c) if "\ud800" <= c <= "\udfff" else c for c in text)


def shown(text: object) -> str:
    """A text, such as a file name, that any file and terminal can take.

    Undecodable bytes of a name, control characters and invisible ones become escapes: `\\xfc`,
    `\\n`, `\\u202e`. Everything else stays, so that showing a text twice changes nothing.
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in str(text))


def _escaped(c: str) -> str:
    if "\udc80" <= c <= "\udcff":  # a byte that is not of the file system's encoding
        return f"\\x{ord(c) - 0xDC00:02x}"
    return c.encode("unicode_escape").decode("ascii")


def silent(_: str) -> None:
    """Ignore a message: the default wherever a function takes `say`."""


def ensure(condition: object, message: str) -> None:
    """Raise `InputError` with that message unless the condition holds."""
    if not condition:
        raise InputError(message)


def missing_extra(error: ImportError) -> str | None:
    """What to install, in words, where an import failed for want of a package of `EXTRAS`."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    return (
        f"this needs the package {package}, which is not installed: pip install 'denovox[{extra}]'"
    )


def line(error: object) -> str:
    """A message as one printable line, shortened if long and without its full stop."""
    text = " ".join(str(error).split()).rstrip(".")
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) < 160 else printable[:157] + "..."


def did_you_mean(name: object, among: Sequence[str]) -> str:
    """ " (did you mean 'liver'?)" with the closest of the known names; "" if none is close."""
    close = difflib.get_close_matches(str(name).lower().replace(" ", "_"), among, 1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def listed(names: Iterable[object], most: int, between: str = ", ") -> str:
    """The first `most` names, and how many more there are."""
    every = list(map(str, names))
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return between.join(every[:most]) + more


def one_of(value: object, among: Sequence[str], what: str) -> None:
    """Raise `InputError` unless a value is one of the names of a `what`."""
    known = isinstance(value, str) and value in among
    hint = did_you_mean(value, among)
    ensure(known, f"there is no {what} '{value}'{hint}; choose one of {', '.join(among)}")
