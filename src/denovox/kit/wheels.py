"""Wheels for a machine without a network: of denovox, and of the packages it lacks for training.

Most are built from the files installed here, which needs no network either; only packages compiled
for a different Python are downloaded, in the versions installed here.
"""

from __future__ import annotations

import base64
import hashlib
import platform
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.resources import files
from itertools import product
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from ..core.errors import InputError, ensure, line
from ..core.version import __version__
from ..io.tables import text_of

# What a run imports. Scan readers, Parquet, clusters and trackers are not needed.
NEEDED = ("torch", "numpy", "scipy", "pillow", "zarr", "pydantic", "click", "jaxtyping",
          "safetensors", "filelock", "rich")  # fmt: skip
THERE = ("torch", "numpy", "scipy", "pillow")  # unless a list is given
NEVER = ("torch", "numpy", "scipy")  # too large to include, and torch depends on the machine's CUDA
LEFT_OUT = ("weights", "calibrations")  # not needed for training
# Minor versions whose wheels a target is assumed to support.
GLIBC = (5, 12, 17, 24, 27, 28, 31, 34)
Has = dict[str, Version | None]


def read_has(path: Path) -> Has:
    """The packages of a target: one `name` or `name==version` per line. `InputError` otherwise."""
    ensure(path.exists(), f"{path}: no such list of packages")
    has: Has = {}
    for number, text in enumerate(text_of(path).splitlines(), 1):
        text = text.partition("#")[0].partition(" @ ")[0].strip()
        if not text:
            continue
        name, _, version = text.partition("==")
        try:
            has[canonicalize_name(Requirement(name).name)] = Version(version) if version else None
        except (InvalidRequirement, InvalidVersion):
            raise InputError(
                f"{path}, line {number}: '{text[:40]}' is not the name of a package; `python3 -m"
                " pip list --format=freeze` on the target writes such a list"
            ) from None
    return has


def missing(has: Has, python: str) -> list[Distribution]:
    """The packages to include for a target with this Python: those for `NEEDED` not in `has`.

    A package is also included if the target's version is too old for another included one. Raises
    `InputError` if the target lacks one that kits never include.
    """
    lacking = [name for name in NEVER if name not in has]
    if lacking:
        raise InputError(f"the target has no {lacking[0]}, which kits do not include")
    carried: dict[str, Distribution] = {}
    wanted = [Requirement(name) for name in NEEDED]
    while wanted:
        of = wanted.pop()
        name = canonicalize_name(of.name)
        own = has.get(name)
        if name in NEVER or name in carried:
            continue
        if name in has and (own is None or of.specifier.contains(own, prereleases=True)):
            continue
        try:
            carried[name] = distribution(name)
        except PackageNotFoundError:
            raise InputError(f"{name} is needed for training, but is not installed here") from None
        wanted += _required(carried[name], python)
    return [carried[name] for name in sorted(carried)]


def _required(of: Distribution, python: str) -> Iterator[Requirement]:
    here = {name: str(value) for name, value in default_environment().items()}
    here |= {"python_version": python, "python_full_version": f"{python}.0"}
    for text in of.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({**here, "extra": ""}):
            yield requirement


def collect(
    packages: Iterable[Distribution], python: str, folder: Path, given: Path | None
) -> None:
    """Write a wheel of each package to `folder`: from `given`, from installed files, or by pip.

    Raises `InputError` if one is not available.
    """
    fits, left = set(tags(python)), list[str]()
    for package in packages:
        found = _given(package, given, fits)
        if found is not None:
            (folder / found.name).write_bytes(found.read_bytes())
        elif fits & set(_tags_of(package)):
            _from_installed(package, folder)
        else:
            left.append(f"{package.name}=={package.version}")
    if left:
        _download(left, python, folder)


def tags(python: str) -> Iterator[Tag]:
    """The wheel tags that run on this type of processor under Linux with `python`."""
    major, minor = (int(part) for part in python.split("."))
    machine = platform.machine()
    systems = ["any", f"linux_{machine}", *(f"manylinux_2_{n}_{machine}" for n in GLIBC)]
    systems += [f"manylinux{year}_{machine}" for year in (1, 2010, 2014)]
    own = f"cp{major}{minor}"
    kinds = [(own, own), (own, "none"), *((f"cp3{n}", "abi3") for n in range(2, minor + 1))]
    kinds += [(f"py{major}", "none"), *((f"py3{n}", "none") for n in range(minor + 1))]
    for (interpreter, abi), system in product(kinds, systems):
        yield Tag(interpreter, abi, system)


def _tags_of(package: Distribution) -> list[Tag]:
    lines = (package.read_text("WHEEL") or "").splitlines()
    values = [text.partition(":")[2].strip() for text in lines if text.startswith("Tag:")]
    return [Tag(*text.split("-", 2)) for text in values]


def _given(package: Distribution, folder: Path | None, fits: set[Tag]) -> Path | None:
    for path in sorted(folder.glob("*.whl")) if folder else ():
        try:
            name, version, _, made_for = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        own = canonicalize_name(package.name), Version(package.version)
        if (name, version) == own and fits & made_for:
            return path
    return None


def _from_installed(package: Distribution, folder: Path) -> None:
    inner = {
        str(file): Path(str(file.locate())).read_bytes()
        for file in package.files or ()
        if ".." not in file.parts and "__pycache__" not in file.parts
        if file.name not in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
        or not file.parts[0].endswith(".dist-info")
    }
    _zip(package.name, package.version, _joined(_tags_of(package)), inner, folder)


def _joined(made_for: list[Tag]) -> str:
    """Tags as in the file name of a wheel."""
    parts = (
        {tag.interpreter for tag in made_for},
        {tag.abi for tag in made_for},
        {tag.platform for tag in made_for},
    )
    return "-".join(".".join(sorted(part)) for part in parts)


def own_wheel(folder: Path) -> None:
    """Write a wheel of denovox as it runs here, however it was installed, without weights."""
    root = Path(str(files("denovox")))
    inner = {
        f"denovox/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
        if path.relative_to(root).parts[0] not in LEFT_OUT
    }
    info = f"denovox-{__version__}.dist-info"
    inner[f"{info}/METADATA"] = (distribution("denovox").read_text("METADATA") or "").encode()
    inner[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: denovox\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    inner[f"{info}/entry_points.txt"] = b"[console_scripts]\ndenovox = denovox.cli.main:main\n"
    _zip("denovox", __version__, "py3-none-any", inner, folder)


def _zip(name: str, version: str, made_for: str, inner: dict[str, bytes], folder: Path) -> None:
    """Write a wheel: a ZIP with a RECORD of its contents."""
    stem = f"{canonicalize_name(name).replace('-', '_')}-{version}"
    info = next(str(Path(p).parts[0]) for p in inner if p.endswith(".dist-info/METADATA"))
    rows = [f"{info}/RECORD,,"]
    with zipfile.ZipFile(folder / f"{stem}-{made_for}.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, data in inner.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append(f'"{path}",sha256={digest},{len(data)}')
            wheel.writestr(path, data)
        wheel.writestr(f"{info}/RECORD", "\n".join(rows) + "\n")


def _download(names: list[str], python: str, folder: Path) -> None:
    systems = [tag.platform for tag in tags(python) if tag.platform.startswith("manylinux")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    for system in dict.fromkeys(systems):
        command += ["--platform", system]
    done = subprocess.run(
        [*command, "--dest", str(folder), *names], capture_output=True, text=True, check=False
    )
    if done.returncode:
        errors = [text for text in done.stderr.splitlines() if "ERROR" in text] or [done.stderr]
        raise InputError(
            f"the wheels of {', '.join(names)} for Python {python} could not be downloaded"
            f" ({line(errors[-1])}); put them into a folder and name it with --wheels"
        )
