"""What a command notes about itself while it runs, for its manifest.

Without a `recording` block, as in the Python API, nothing is noted. Cheap to import.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Recorder:
    """notes: lines printed for the user. decisions: by scan, in the order in which they were read;
    each maps the name of a kind to what was decided, without repetitions."""

    notes: list[str] = field(default_factory=list)
    decisions: list[tuple[str | None, dict[str, list[Any]]]] = field(default_factory=list)

    def begin_scan(self, name: str | None) -> None:
        """From now on, decisions are about the scan of this name."""
        self.decisions.append((name, {}))


_current: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Within the block, notes and decisions go to this recorder."""
    before = _current.set(recorder)
    try:
        yield
    finally:
        _current.reset(before)


def current() -> Recorder | None:
    """The recorder of the command that is running, if any."""
    return _current.get()


def decided(kind: str, values: Sequence[Any]) -> None:
    """Note decisions of a kind about the present scan."""
    if (recorder := current()) is None:
        return
    if not recorder.decisions:
        recorder.begin_scan(None)
    known = recorder.decisions[-1][1].setdefault(kind, [])
    known.extend(value for value in values if value not in known)
