"""Convert a data set, or a folder of scans, to a store. Every scan becomes cases or is reported.

One scan is one job, and jobs are independent: an engine (datasets/executors.py) may run them in any
order, on any number of processes or machines, and the same command completes a killed run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from ..core import labels
from ..core.errors import InputError, printable, shown
from ..core.regions import REGIONS
from ..core.resample import nearest, resize
from ..core.volume import Volume, spacing_of, within
from ..io.atomic import write_file
from ..io.space import TIGHTEST, check_space, locked, size_of
from ..scan import anatomy, gate
from ..scan.body_regions import RegionSpan, region_spans
from ..scan.constant_fill import constant_fill
from . import label_sets, layouts, store, totalsegmentator
from .executors import Engine
from .manifest import CaseFacts, split_of
from .noise import noise_hu
from .prepare_config import PrepareConfig
from .source_scans import Entry

LEAST_MM = 30.0  # less of a region along z is too little to learn from
LOWEST_HU, HIGHEST_HU = -1024, 32767  # padding becomes air


def prepare(
    source: Path,
    target: Path,
    config: PrepareConfig,
    engine: Engine,
    layout: str | None = None,
    retry: bool = False,
    patients: Path | None = None,
) -> Iterator[str]:
    """Add every scan in `source` to the store `target`; yields a line per scan, and a summary.

    layout: a name from datasets/layouts.py; recognised if None. patients: see `layouts.survey`.
    Complete entries are left alone; with `retry`, those set aside are tried again. Raises
    `InputError` if the store was made with other settings, if another run is writing to it, or if
    scans are missing at the end.
    """
    if config.segment:
        totalsegmentator.require()
    survey = layouts.survey(source, layout, patients)
    entries = list(survey.entries)
    yield from survey.notes()
    busy = f"another `denovox prepare` is writing to {target}; wait for it"
    try:
        with locked(target, busy):
            store.sweep(target)
            _same_settings(target, config)
            if retry:
                store.forget_aside(target)
            left = [one for one in entries if not store.is_done(target, one.id)]
            there = len(entries) - len(left)
            yield f"{len(entries)} scans ({survey.layout}), {there} of them already in the store"
            if config.spacing_mm is None:  # otherwise the scans' own sizes say little
                check_space({target: _least_bytes(left)})
            job = partial(bring, source=source, target=target, config=config)
            yield from engine(job, left, left_out)
            rows = store.index(target)
    except OSError as error:  # in writing: a scan that cannot be read is set aside
        raise InputError(
            f"{target} could not be written ({error.strerror or error}); once that is fixed, the"
            " same command continues from here"
        ) from error
    yield _summary(rows)
    lost = [one.id for one in left if not store.is_done(target, one.id)]
    if lost:
        raise InputError(
            f"{len(lost)} of {len(entries)} scans are not in the store ({', '.join(lost[:5])}):"
            " their workers died, most likely out of memory; run the same command again, with"
            " fewer workers"
        )


def _least_bytes(entries: Iterable[Entry]) -> int:
    """Bytes that the store of these scans takes at the very least."""
    scans = {entry.scan for entry in entries}
    # gzip may hold float64, of which a store keeps a quarter before it packs that.
    return sum(size_of(one) // (2 * TIGHTEST if one.suffix == ".gz" else TIGHTEST) for one in scans)


def bring(entry: Entry, source: Path, target: Path, config: PrepareConfig) -> str:
    """The job for one scan: read, label, split by region, resample, write. Returns a log line."""
    try:
        with store.entry(target, entry.id) as folder:
            rows = list(_cases(entry, source, folder, config))
            store.finish(folder, rows)
    except MemoryError:
        return f"{entry.id}: not added, out of memory"
    if rows[0].aside:
        return f"{entry.id}: excluded, {rows[0].aside}"
    return f"{entry.id}: " + ", ".join(
        f"{row.region} {'x'.join(map(str, row.shape))}" for row in rows
    )


def left_out(entry: Entry) -> str:
    """The log line of a scan whose worker died twice."""
    return f"{entry.id}: its worker died again; left out of this run"


def _cases(entry: Entry, source: Path, folder: Path, config: PrepareConfig) -> Iterator[CaseFacts]:
    notes = list(entry.notes)

    def say(note: str) -> None:
        notes.append(printable(note))

    known = CaseFacts(
        id=entry.id,
        patient=entry.patient,
        split=entry.split or split_of(entry.patient),
        source=entry.source,
        licence=entry.licence,
        file=shown(entry.scan.relative_to(source).as_posix()),
        settings=config.model_dump_json(),
    )

    def aside(why: str) -> CaseFacts:
        return known.model_copy(update={"aside": why, "notes": tuple(notes)})

    unknown = set(entry.regions or ()) - set(REGIONS)
    if unknown:
        yield aside(f"region '{unknown.pop()}' is not one of the model's")
        return
    try:
        try:
            known = known.model_copy(update={"sha256": digest(entry.scan, entry.series or "")})
        except OSError as error:  # of the source; any other is one of writing
            raise InputError(f"{entry.scan} cannot be read ({error.strerror or error})") from error
        volume = gate.read(
            entry.scan,
            series=entry.series,
            straighten=config.straighten,
            accept_hu=config.accept_hu,
            say=say,
        )
        volume = replace(volume, source=None)  # the stored values are no longer needed, and large
        coarse = anatomy.coarse(volume)
        named, covers, lesion = _masks(entry, volume, config, say)
    except InputError as error:
        yield aside(str(error))
        return
    whole = label_sets.combine(named, coarse)
    blank = constant_fill(volume.hu) & (named == labels.UNKNOWN)
    if blank.any():
        whole[blank] = labels.UNKNOWN
        notes.append(f"{blank.mean():.0%} is blank (one constant value): labelled unknown")
    spans = _spans(entry, volume, coarse)
    long = [s for s in spans if within((s.stop - s.start) * volume.spacing_mm[2], LEAST_MM)]
    notes += [f"{s.region}, slices {s.start} to {s.stop}: too thin" for s in spans if s not in long]
    if not long:
        yield aside(f"it shows less than {LEAST_MM:.0f} mm of any region along z")
    for span in long:
        cut = slice(span.start, span.stop)
        part = volume.slices(cut)
        ct, ids, affine = on_grid(part.hu, whole[..., cut], part.affine, config)
        lesion_part = nearest(lesion[..., cut], ids.shape)
        row = known.model_copy(
            update={
                "id": f"{entry.id}/{span.region}",
                "region": span.region,
                "region_why": span.reason,
                "shape": ct.shape,
                "spacing_mm": spacing_of(affine),
                "affine": tuple(affine.ravel().tolist()),
                "covers": covers,
                "labelled": round(float((named[..., cut] != labels.UNKNOWN).mean()), 6),
                "noise_hu": round(noise_hu(ct, affine), 2),
                "notes": tuple(notes),
            }
        )
        row = store.with_lesion(row, lesion_part)
        store.write_case(folder / span.region, ct, ids, lesion_part if row.lesions else None)
        yield row


def _spans(
    entry: Entry, volume: Volume, coarse: UInt8[np.ndarray, "x y z"]
) -> tuple[RegionSpan, ...]:
    if entry.regions is None:
        return region_spans(volume, coarse)
    # A data set that states its region shows nothing else.
    return tuple(RegionSpan(r, 0, volume.shape[2], "stated by the data set") for r in entry.regions)


def _masks(
    entry: Entry, volume: Volume, config: PrepareConfig, say: Callable[[str], None]
) -> tuple[UInt8[np.ndarray, "x y z"], tuple[str, ...], UInt8[np.ndarray, "x y z"]]:
    """(label ids, 0 where unlabelled; names of the classes the masks cover; 1 in lesions)."""
    ids, lesion = np.zeros((2, *volume.shape), np.uint8)
    covers: set[str] = set()
    for mask in entry.masks:
        own, marks, classes = label_sets.read(mask.path, mask.bridge, volume, say)
        ids = labels.overlay(ids, own)
        lesion |= marks
        covers |= set(classes)
    if config.segment and not entry.masks:
        ids = totalsegmentator.segment(volume)
        covers = set(labels.TOTALSEGMENTATOR_V2)
    return ids, tuple(sorted(covers)), lesion


def on_grid(
    hu: Float[np.ndarray, "x y z"],
    ids: UInt8[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    config: PrepareConfig,
) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, "4 4"]]:
    """(int16 HU, ids, affine) as kept in a store: resampled if the settings ask for it.

    The field of view is kept, so spacings are as close to the requested one as whole voxels allow.
    HU are averaged when downsampling (anti-aliased) and interpolated when upsampling.
    """
    if config.spacing_mm is not None:
        old = np.array(hu.shape)
        new = np.maximum(1, np.rint(old * spacing_of(affine) / config.spacing_mm)).astype(int)
        grid = (int(new[0]), int(new[1]), int(new[2]))
        hu, ids = resize(hu, grid), nearest(ids, grid)
        to_old = np.diag([*(old / new), 1.0])
        to_old[:3, 3] = (old / new - 1) / 2  # centres of the first voxels
        affine = affine @ to_old
    ct = np.clip(np.rint(hu), LOWEST_HU, HIGHEST_HU).astype(np.int16)
    return ct, ids, affine


def digest(path: Path, series: str = "") -> str:
    """SHA-256 of a file, or of a folder's files in order of name, and of a series UID."""
    total = hashlib.sha256(series.encode())
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with open(file, "rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def _summary(rows: Iterable[CaseFacts]) -> str:
    rows = list(rows)
    kept = [row for row in rows if not row.aside]
    parts = ", ".join(
        f"{len({row.patient for row in kept if row.split == part})} {part}"
        for part in ("train", "validation", "test")
    )
    return (
        f"{len(kept)} cases; patients: {parts}; {len(rows) - len(kept)} excluded"
        " (see manifest.parquet for reasons)"
    )


def _same_settings(target: Path, config: PrepareConfig) -> None:
    """`InputError` if the store was made with other settings; otherwise record them."""
    path = target / "settings.json"
    settings = config.model_dump_json()
    if path.is_file() and PrepareConfig.model_validate_json(path.read_text()) != config:
        raise InputError(
            f"{target} was prepared with {path.read_text()}, not {settings}; choose another --out"
        )
    write_file(path, settings)
