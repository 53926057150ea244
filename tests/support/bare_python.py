"""A Python as a GPU server has it: torch, numpy, scipy, Pillow, and no more."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOTS = ("torch", "numpy", "scipy", "pillow")


def make_bare(folder: Path) -> Path:
    """A virtual environment of this Python in which only those can be imported; its python."""
    venv, shown = folder / "venv", folder / "shown"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    shown.mkdir()
    for name in closure():
        package = distribution(name)
        for top in {file.parts[0] for file in package.files or () if file.parts[0] != ".."}:
            if top != "__pycache__":
                (shown / top).symlink_to(Path(str(package.locate_file(top))))
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "shown.pth").write_text(f"{shown}\n")
    return venv / "bin" / "python"


def closure() -> set[str]:
    """The packages of `ROOTS` and all that they need and is installed here."""
    found: set[str] = set()
    left = list(ROOTS)
    while left:
        name = canonicalize_name(left.pop())
        if name in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        found.add(name)
        for text in package.requires or ():
            of = Requirement(text)
            if of.marker is None or of.marker.evaluate({"extra": ""}):
                left.append(of.name)
    return found
