"""When a study that is being written is complete: after a time in which nothing changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from .scans import Scan, state


class Quiet:
    """Knows how long each study has been as it is.

    seconds: of quiet after which a study is complete. Only what is observed counts: the time of a
    file may be that of its original.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._since: dict[str, tuple[str, float]] = {}

    def complete(self, scans: Iterable[Scan]) -> list[Scan]:
        """Those whose studies are complete."""
        studies: dict[str, list[Scan]] = {}
        for scan in scans:
            studies.setdefault(scan.study or scan.key, []).append(scan)
        return [
            one for study, members in studies.items() if self._is(study, members) for one in members
        ]

    def _is(self, study: str, members: Sequence[Scan]) -> bool:
        now = self._clock()
        seen = state(path for one in members for path in (*one.files, one.path))
        before, since = self._since.get(study, ("", now))
        if before != seen:
            since = now
        self._since[study] = seen, since
        return now - since >= self.seconds
