"""The regions that a model knows, each with a class id and an HU window (Method 1)."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InputError
from .volume import Window


@dataclass(frozen=True)
class Region:
    """One row of the table. `id` 0 is reserved for "unknown", the dropped condition."""

    name: str
    id: int
    window: Window


UNKNOWN_REGION = 0
REGIONS = {
    region.name: region
    for region in (
        Region("headneck", 1, Window(400, 50)),
        Region("chest", 2, Window(1800, -500)),
        Region("abdomen", 3, Window(360, 60)),
    )
}


def region(name: str) -> Region:
    """The row with that name; `InputError` lists the known ones."""
    if name not in REGIONS:
        raise InputError(f"region '{name}' is not known; choose one of {', '.join(REGIONS)}")
    return REGIONS[name]
