"""`denovox evaluate pairs`: pairs of files, by a published protocol, to a table of figures.

The restored files may come from any method, denovox or another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import InputError, line
from ..core.version import __version__
from ..core.volume import Grid, Volume
from ..io import formats
from ..metrics.results import Figure, Results
from ..model.weights import describe, locate
from ..scan import gate
from ..scan.constant_fill import PADDING_HU
from . import published
from .inputs import Pair, Say, pairs_of, sha256
from .protocols import protocol
from .tables import detection_figures, slice_figures, volume_figures


def evaluate_pairs(
    name: str,
    data: Path,
    method: str = "denovox",
    seed: int = 0,
    weights: str | None = None,
    say: Say = lambda text: None,
) -> Results:
    """Measure all pairs of `data`, see `pairs_of`, by a published protocol.

    weights: that the files were computed with, if a model of denovox's was; the sha256 is recorded,
    and that it was so cannot be verified. seed: of the bootstrap. `InputError` where a pair is
    incomplete or cannot be measured.
    """
    row = protocol(name, "pairs")
    sha = None if weights is None else describe(locate(weights))[2]
    first, second = row.columns
    pairs = pairs_of(data, (first, second))
    figures = row.run(pairs, method, seed, say)
    notes: tuple[str, ...] = (
        f"data: {row.data}",
        f"convention: {row.convention}",
        f"source: {row.source}",
    )
    if weights is not None:
        notes += (f"that the files were computed with {weights} is stated by the user",)
    settings = {"method": method, "seed": seed, "pairs": len(pairs)}
    files = tuple(_facts(pair, (first, second)) for pair in pairs)
    return Results(row.name, str(data), figures, settings, sha, __version__, notes, files)


def _by_slice(
    measure: Callable[..., published.SliceScores],
    window: tuple[float, float],
    pairs: Sequence[Pair],
    method: str,
    seed: int,
    say: Say,
) -> tuple[Figure, ...]:
    scores = []
    for pair in pairs:
        reference, test = (_in_hu(path, window, say) for path in (pair.first, pair.second))
        test.grid.require(reference.grid, pair.second, pair.first)
        scores.append(measure(reference.hu, test.hu))
        say(f"{pair.second.name}: PSNR {scores[-1].psnr_db.mean():.2f} dB")
    return slice_figures(scores, [pair.patient for pair in pairs], method, seed)


def _in_hu(path: Path, window: tuple[float, float], say: Say) -> Volume:
    """A CT in HU, or one that was already cut to the window where the protocol cuts."""
    volume = formats.read(path, padding=PADDING_HU, say=say)
    gate.require_ct(volume, str(path), published.cut_to(volume.hu, *window), say)
    return volume


redcnn = partial(_by_slice, published.mayo16_redcnn, published.REDCNN_HU)
corediff = partial(_by_slice, published.mayo16_corediff, published.COREDIFF_HU)
founddiff = partial(_by_slice, published.mayo16_founddiff, published.FOUNDDIFF_HU)


def rplhr(pairs: Sequence[Pair], method: str, seed: int, say: Say) -> tuple[Figure, ...]:
    """Figures of volumes whose values are [0, 1], not HU."""
    scores = []
    for pair in pairs:
        reference, test = (
            formats.read(path, padding=0.0, say=say) for path in (pair.first, pair.second)
        )
        test.grid.require(reference.grid, pair.second, pair.first)
        scores.append(published.rplhr(reference.hu, test.hu))
    return volume_figures(scores, [pair.patient for pair in pairs], method, seed)


def bmad(pairs: Sequence[Pair], method: str, seed: int, say: Say) -> tuple[Figure, ...]:
    """Figures of anomaly maps and masks; scores of images count where the CSV has them."""
    maps, masks = [], []
    for pair in pairs:
        (found, found_grid), (mask, grid) = (
            _image(path, say) for path in (pair.first, pair.second)
        )
        if found_grid is not None and grid is not None:  # pictures and arrays have shapes alone
            grid.require(found_grid, pair.second, pair.first)
        maps.append(found)
        masks.append(mask)
    scores = [pair.score for pair in pairs if pair.score is not None]
    patients = [pair.patient for pair in pairs]
    return detection_figures(maps, masks, patients, method, seed, scores or None)


def _facts(pair: Pair, columns: tuple[str, str]) -> dict[str, Any]:
    """Which files were measured, by content."""
    facts: dict[str, Any] = {"patient": pair.patient}
    for name, path in zip(columns, (pair.first, pair.second), strict=True):
        facts |= {name: str(path), f"{name}_sha256": sha256(path)}
    return facts


def _image(path: Path, say: Say) -> tuple[np.ndarray, Grid | None]:
    """A map or mask: .npy, a volume with its grid, or a picture of one channel."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False), None
        if path.suffix.lower() in (".png", ".tif", ".tiff"):
            from skimage.io import imread

            image = imread(path)
            if image.ndim != 2:
                raise InputError(f"{path} has colours; give one channel")
            return np.asarray(image), None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({line(error)})") from None
    volume = formats.read(path, say=say)
    return volume.hu, volume.grid
