"""DICOM: the only place where slices become a CT volume and its axes are reoriented.

One series of CT slices, or an Enhanced CT, from a folder, a ZIP or a file: sorted by position, HU
from each slice's own rescale, LPS -> RAS, in the axes closest to RAS. Nothing is guessed: anything
but one upright, even stack is rejected with its figures, and so are slices that do not belong
together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

from ...core.errors import InputError, line, listed, shown, silent
from ...core.volume import Volume, spacing_of
from .files import Part, parts
from .geometry import ASIDE_MM, Stack, straightened
from .header import Facts
from .padding import Marks
from .pixels import planes_hu
from .planes import Plane
from .series import ALL, Series, found_in

__all__ = ["DicomSource", "Series", "read", "series_in"]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
WIDE = 1.5  # gaps of more steps than this were not sampled like the rest
LISTED, NOTED = 5, 10  # series in a message, in notes
_RAS = np.array([[0, 1], [1, 1], [2, 1]])


@dataclass(frozen=True)
class DicomSource:
    """What the files contained. notes: what was left out, repaired or assumed.

    tilt_degrees, gaps_mm (each distinct gap and its count): as scanned, before straightening.
    slice_axis: the axis of the Volume across the slices.
    """

    path: Path
    series_uid: str
    facts: Facts
    slices: int
    tilt_degrees: float
    gaps_mm: tuple[tuple[float, int], ...]
    straightened: bool
    notes: tuple[str, ...]
    slice_axis: int = 2

    @property
    def patient_id(self) -> str:
        """PatientID, used to split cases; names are not read."""
        return self.facts.patient_id


def series_in(path: str | Path) -> tuple[Series, ...]:
    """Every series under a folder, in a ZIP or of a file, without decoding pixels; `InputError`."""
    with parts(Path(path)) as (dicom, _):
        return found_in(dicom)


def read(
    path: str | Path,
    *,
    series: str | None = None,
    straighten: bool = False,
    say: Callable[[str], None] = silent,
) -> Volume:
    """Read the CT volume in a folder, a ZIP or an Enhanced CT file, with a `DicomSource`.

    series: which one, if there are several: its SeriesInstanceUID, or the end of it. straighten:
    resample a tilted or uneven stack (`geometry.straightened`). say: called with a note on anything
    left out. `hu` is float32. Raises `InputError` if there is not exactly one CT volume that can be
    read completely.
    """
    path = Path(path)
    with parts(path) as (dicom, others):
        if not dicom:
            raise InputError(_no_dicom(path, others))
        found = found_in(dicom)
        chosen = choose(path, found, series)
        stack = chosen.stack
        if stack is None or (chosen.fault and not (straighten and chosen.straightens)):
            hint = (
                "read it with --straighten, which resamples it onto an upright, even grid"
                if chosen.straightens
                else "export it again"
            )
            raise InputError(_sentence(path, chosen, f"{chosen.fault}; {hint}"))
        notes = [*left(found, chosen, others), *chosen.notes]
        try:
            hu, affine = _volume(chosen, stack, notes)
        except InputError as error:
            known = str(error).startswith(shown(path))  # it names the file
            raise error if known else InputError(_sentence(path, chosen, str(error))) from None
        except MemoryError:
            raise InputError(_sentence(path, chosen, "does not fit into memory")) from None
    source = DicomSource(
        path,
        chosen.uid,
        chosen.facts,
        chosen.count,
        stack.tilt_degrees,
        chosen.gaps_mm,
        bool(chosen.fault),
        tuple(notes),
        int(np.argmax(np.abs(stack.normal))),
    )
    for note in notes:
        say(f"{path}: {note}")
    return Volume(hu, affine, source)


# ---- which --------------------------------------------------------------------------------------


def choose(path: Path, found: Sequence[Series], wanted: str | None) -> Series:
    """The series to read; `InputError` unless there is exactly one."""
    usable = [one for one in found if not one.aside]
    joined = any(one.base == ALL for one in usable)
    if wanted is not None:
        named = [one for one in found if one.uid == wanted]
        named = named or [one for one in found if one.matches(wanted)]
        if len(named) == 1 and named[0].aside:
            raise InputError(_sentence(path, named[0], f"is not a CT volume: {named[0].aside}"))
        if len(named) == 1:
            return named[0]
        if named and len({one.base for one in named}) == 1:
            raise InputError(_interleaved(path, named))
        raise InputError(
            f"{path} holds {len(named) or 'no'} series matching {line(wanted)}: there are"
            f" {_words(usable or found)}; give the whole UID of one"
        )
    if len(usable) == 1 and joined:
        raise InputError(
            f"{path}: each slice has a SeriesInstanceUID of its own, but {usable[0].count} slices"
            f" form one stack of {_grid(usable[0])}; read them as one series with --series {ALL}"
        )
    if len(usable) == 1:
        return usable[0]
    if usable and usable[0].label and len({one.base for one in usable}) == 1:
        raise InputError(_interleaved(path, usable))
    if usable:
        raise InputError(
            f"{path} holds {len(usable)} CT series; choose one with --series: {_words(usable)}"
        )
    if not found:
        raise InputError(f"{path} holds only a DICOMDIR; give the folder with its images")
    if len(found) == 1 and found[0].count == 1 and not os.path.isdir(path):
        what = found[0].aside
        single = f"{path} is one file of a series ({what}); give the folder of the whole series"
        raise InputError(single)
    held = listed((f"{one.words()}: {one.aside}" for one in found), LISTED, "; ")
    raise InputError(f"{path} holds no CT volume, only {held}; give the folder of a CT series")


def _no_dicom(path: Path, others: Sequence[Part]) -> str:
    """A message for a folder without DICOM, naming what else could be read there."""
    volumes = [part.name for part in others if part.name.lower().endswith(VOLUMES)]
    if volumes:
        return f"{path} holds no DICOM, only files such as {volumes[0]}; give one of these directly"
    return f"{path} holds no DICOM ({len(others)} other files); give the folder of a CT series"


def _words(found: Sequence[Series]) -> str:
    return listed((one.words() for one in found), LISTED)


def _interleaved(path: Path, found: Sequence[Series]) -> str:
    """A message for passes of one series, with the figures of each."""
    spans = listed((one.span() for one in found), LISTED)
    choice = " or ".join(f"--series {one.uid}" for one in found[:2])
    what = f"{found[0].base} holds {len(found)} stacks of slices that interleave: {spans}"
    return f"{path}: series {what}; read one of them with {choice}"


def _grid(series: Series) -> str:
    """Voxels and spacing in words."""
    spacing = " x ".join(f"{mm:.3g}" for mm in series.spacing_mm or ())
    return f"{' x '.join(map(str, series.shape or ()))} voxels of {spacing} mm"


def _sentence(path: Path, series: Series, what: str) -> str:
    return f"{path}: series {series.words()} {what}"


def left(found: Sequence[Series], chosen: Series, others: Sequence[Part]) -> list[str]:
    """What else was there, in words."""
    own = chosen.base == ALL  # their series are no longer others
    rest = [one for one in found if one is not chosen and (one.base == ALL or not own)]
    notes = [f"left out: series {one.words()}, {one.aside or 'not chosen'}" for one in rest[:NOTED]]
    if len(rest) > NOTED:
        notes.append(f"left out: {len(rest) - NOTED} more series")
    if own:
        notes.append(f"{chosen.count} slices with a SeriesInstanceUID each were read as one series")
    if others:
        names = ", ".join(os.path.basename(part.name) for part in others[:3])
        names += ", ..." if len(others) > 3 else ""
        files = f"{len(others)} file{'s' * (len(others) > 1)}"
        notes.append(f"left out: {files}, not DICOM ({names})")
    return notes


# ---- pixels -------------------------------------------------------------------------------------


def _volume(
    series: Series, stack: Stack, notes: list[str]
) -> tuple[Float[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    """HU and affine in the axes closest to RAS; processing steps are added to `notes`."""
    shape = (*stack.size, len(stack.members))
    if series.fault:
        as_scanned = np.empty(shape, np.float32)
        _fill(series, stack, as_scanned, notes)
        upright, affine = straightened(as_scanned, stack)
        notes += _straightening(stack, series.fault, upright.shape[2], spacing_of(affine)[2])
        affine = _LPS_TO_RAS @ affine
        ornt = io_orientation(affine)
        hu = np.ascontiguousarray(apply_orientation(upright, ornt))
        return hu, affine @ inv_ornt_aff(ornt, upright.shape)
    affine = _LPS_TO_RAS @ stack.affine_lps()
    ornt = io_orientation(affine)
    to_file = ornt_transform(_RAS, ornt).astype(int)
    hu = np.empty([shape[axis] for axis in to_file[:, 0]], np.float32)
    _fill(series, stack, apply_orientation(hu, to_file), notes)  # a view: no second copy
    return hu, affine @ inv_ornt_aff(ornt, shape)


def _fill(
    series: Series, stack: Stack, out: Float[np.ndarray, "columns rows slices"], notes: list[str]
) -> None:
    """Decode every slice into its place; `InputError` if two at one place differ."""
    k_of = {series.planes[i]: k for k, group in enumerate(stack.members) for i in group}
    by_part: dict[Part, list[Plane]] = {}
    for plane in k_of:
        by_part.setdefault(plane.part, []).append(plane)
    done: dict[int, Plane] = {}
    marks = Marks()
    for part, planes in by_part.items():
        for plane, hu in planes_hu(part, planes, marks):
            first = done.setdefault(k_of[plane], plane)
            if first is plane:
                out[..., k_of[plane]] = hu
            elif (
                np.linalg.norm(plane.place - first.place) > ASIDE_MM
                or not np.array_equal(out[..., k_of[plane]], hu)  # there are no NaNs
            ):
                raise InputError(_conflict(series, first, plane))
    notes += marks.settle(out, k_of)
    if series.repeated:
        notes.append(f"dropped: {series.repeated} duplicate slice{'s' * (series.repeated > 1)}")


def _conflict(series: Series, one: Plane, other: Plane) -> str:
    """A message for two different images at one place: which tags distinguish them, if any."""
    keys = [key for key in one.tags if one.tags[key] != other.tags.get(key, one.tags[key])]
    apart = []
    for key in keys[:3]:
        values = list(dict.fromkeys(p.tags.get(key, "nothing") for p in series.planes))
        apart.append(f"{key} {', '.join(values[:5] + ['...'] * (len(values) > 5))}")
    names = (f"{os.path.basename(p.part.name)} (frame {p.frame + 1})" for p in (one, other))
    return (
        f"holds different images at one place, such as {' and '.join(names)}: {series.repeated}"
        f" more images than places, distinguished by {'; '.join(apart) or 'no tag'}; export"
        " one phase, acquisition or reconstruction as a separate series"
    )


def _straightening(stack: Stack, fault: str, slices: int, step_mm: float) -> list[str]:
    """What straightening did, in words."""
    notes = [
        f"{fault.removeprefix('has ')}: straightened, {len(stack.members)} slices onto {slices}"
        f" spaced {step_mm:.4g} mm apart"
    ]
    wide = [gap for gap in stack.gaps_mm if gap > WIDE * step_mm]
    if wide:
        one = len(wide) == 1
        gaps = f"{len(wide)} gap{'s' * (not one)} of up to {max(wide):.4g} mm"
        notes.append(f"{gaps} {'was' if one else 'were'} interpolated: nothing was measured there")
    return notes
