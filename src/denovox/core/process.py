"""Memory use of this process."""

from __future__ import annotations

import os
from pathlib import Path


def resident_mb() -> float:
    """Current resident memory of this process, MB; 0 where it is not reported (not Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
