"""How close a set of synthetic scans is to a set of real ones, and to the training scans.

Two distances between sets of feature vectors (from `texture.py`, or from a network), their floor
(the distance between two sets of real patients), and how close each sample is to the training set.

- `frechet` (Dowson and Landau 1982; Heusel et al. 2017) compares means and covariances. It is
  biased: the smaller two sets from the same distribution are, the further apart they are.
- `mmd` (Gretton et al. 2012, eq. 3) is unbiased at any N, so it may fall below 0. Its kernel is
  KID's polynomial (Binkowski et al. 2018), not an RBF: the median heuristic takes its width from
  the data, so a figure and its floor, or two runs, would be measured with different rulers.

A percentile bootstrap would mislead for both: a patient who is drawn twice is a pair of identical
scans, which no real set contains. `floor` is reported instead: halves of the real patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from ..core.errors import InputError, ensure
from .detection import auroc

SPLITS, TRIES = 20, 50
NEAR = 0.05  # of held-out scans are closer to training than the limit of `memorised`
BLOCK = 2048  # rows of a kernel at once: 2048 x 2048 float64 are 32 MiB

Distance = Callable[[Float[np.ndarray, "n f"], Float[np.ndarray, "m f"]], float]
Rows = Int64[np.ndarray, " _"]


@dataclass(frozen=True)
class Features:
    """A set of scans as vectors. scans, patients: of each row; rows may be slices of a scan."""

    values: Float64[np.ndarray, "n f"]
    scans: tuple[str, ...]
    patients: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.values)
        if not count == len(self.scans) == len(self.patients):
            raise ValueError(
                f"{count} rows, but {len(self.scans)} scans and {len(self.patients)} patients"
            )


# -- distances ------------------------------------------------------------------------------------


def frechet(real: Float[np.ndarray, "n f"], synthetic: Float[np.ndarray, "m f"]) -> float:
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2), in units of the features squared.

    With centred rows A, B over sqrt(n - 1), sqrt(m - 1), S1 = A'A and S2 = B'B, the last trace is
    the sum of the singular values of A B'. So no root of a covariance is taken: a singular one
    (n <= f) is not a special case, nothing becomes imaginary, and no root amplifies rounding.
    `InputError` where a set has fewer than two rows or is not finite.
    """
    first, second = _checked(real), _checked(synthetic)
    apart = first.mean(0) - second.mean(0)
    a, b = _root(first), _root(second)
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(max(apart @ apart + (a**2).sum() + (b**2).sum() - 2 * shared, 0.0))


def _root(rows: Float64[np.ndarray, "n f"]) -> Float64[np.ndarray, "_ f"]:
    """A with A'A the covariance (over n - 1), and no more rows than necessary."""
    centred = (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(rows) > rows.shape[1] else centred


def mmd(real: Float[np.ndarray, "n f"], synthetic: Float[np.ndarray, "m f"]) -> float:
    """The unbiased estimate of the squared MMD with k(a, b) = (a.b / f + 1)^3; it may be negative.

    `InputError` where a set has fewer than two rows or is not finite.
    """
    first, second = _checked(real), _checked(synthetic)
    within = sum(
        (_kernel_sum(rows, rows) - _kernel(np.einsum("nf,nf->n", rows, rows), rows).sum())
        / (len(rows) * (len(rows) - 1))
        for rows in (first, second)
    )
    return float(within - 2 * _kernel_sum(first, second) / (len(first) * len(second)))


def _kernel(product: Float64[np.ndarray, "*_"], rows: np.ndarray) -> Float64[np.ndarray, "*_"]:
    return (product / rows.shape[1] + 1) ** 3


def _kernel_sum(a: Float64[np.ndarray, "n f"], b: Float64[np.ndarray, "m f"]) -> float:
    """The sum over all pairs, block by block."""
    starts = [(i, j) for i in range(0, len(a), BLOCK) for j in range(0, len(b), BLOCK)]
    sums = (_kernel(a[i : i + BLOCK] @ b[j : j + BLOCK].T, a).sum() for i, j in starts)
    return float(sum(sums))


def _checked(rows: Float[np.ndarray, "n f"]) -> Float64[np.ndarray, "n f"]:
    ensure(
        len(rows) >= 2, f"a set of {len(rows)} has no spread; give at least two scans of each kind"
    )
    ensure(np.isfinite(rows).all(), "a feature is NaN or infinite; look for a broken scan")
    return rows.astype(np.float64)


# -- the floor ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Rows of two real parts without shared patients, and of as many synthetic patients."""

    first: Rows
    second: Rows
    synthetic: Rows


@dataclass(frozen=True)
class Floor:
    """Distances at one set size: real to real, and the same real ones to synthetic ones.

    real, synthetic: for every split. sizes: patients in the first part, and in the set it is
    compared with. scans: maximum number in the latter, real and synthetic.
    """

    real: Float64[np.ndarray, " splits"]
    synthetic: Float64[np.ndarray, " splits"]
    sizes: tuple[int, int]
    scans: tuple[int, int]

    @property
    def above(self) -> float:
        """Share of the splits where synthetic scans are further away than real ones; ties are half.

        About 1/2 where synthetic scans cannot be distinguished from real ones.
        """
        return float(np.mean((self.synthetic > self.real) + (self.synthetic == self.real) / 2))


def splits_of(
    real: Sequence[str], synthetic: Sequence[str], count: int = SPLITS, seed: int = 0
) -> tuple[list[Split], tuple[int, int]]:
    """Random halves of the real patients, the second reduced to the number of synthetic ones.

    real, synthetic: the patient of each row. Synthetic scans of a patient in the first half (such
    as from their anatomy) would be closer to it than the second half can be. They are not drawn,
    and the second half is reduced accordingly. Halves that leave fewer, or a part with one row, are
    drawn again, up to TRIES times the count: the list may be short or empty. Also returns the
    numbers of patients in the first and in the second part.
    """
    rng = np.random.default_rng(seed)
    ours, theirs = np.array(sorted(set(real))), np.array(sorted(set(synthetic)))
    half = len(ours) // 2
    shared = int(np.isin(theirs, ours).sum())
    size = min(half, len(theirs), max(2, len(theirs) - min(half, shared)))
    found: list[Split] = []
    for _ in range(TRIES * count):
        order, drawn = rng.permutation(ours), rng.permutation(theirs)
        drawn = drawn[~np.isin(drawn, order[:half])][:size]
        if len(drawn) < size:
            continue
        parts = ((order[:half], real), (order[half : half + size], real), (drawn, synthetic))
        split = Split(*(np.flatnonzero(np.isin(rows, names)) for names, rows in parts))
        if min(len(split.first), len(split.second), len(split.synthetic)) >= 2:
            found.append(split)
        if len(found) == count:
            break
    return found, (half, size)


def floor(
    distance: Distance, real: Features, synthetic: Features, count: int = SPLITS, seed: int = 0
) -> Floor | None:
    """`distance` between real patients, and from the same ones to as many synthetic ones.

    A distance of all scans must not be compared with this floor, whose sets are half as large
    (Frechet's bias alone would separate them); `Floor.synthetic` may. None where there are too few
    real patients to halve.
    """
    splits, sizes = splits_of(real.patients, synthetic.patients, count, seed)
    if not splits:
        return None
    between = [distance(real.values[s.first], real.values[s.second]) for s in splits]
    to_synthetic = [distance(real.values[s.first], synthetic.values[s.synthetic]) for s in splits]
    scans = (
        max(len({real.scans[i] for i in split.second}) for split in splits),
        max(len({synthetic.scans[i] for i in split.synthetic}) for split in splits),
    )
    return Floor(np.array(between), np.array(to_synthetic), sizes, scans)


# -- features of different units ------------------------------------------------------------------


def scale_of(real: Float[np.ndarray, "n f"]) -> Float64[np.ndarray, " f"]:
    """SD of each feature over the real set; 0 where it is constant, up to rounding."""
    rows = _checked(real)
    spread = rows.std(0, ddof=1)
    spread[spread <= 1e-9 * np.abs(rows).max(0)] = 0
    return spread


def standardised(
    rows: Float[np.ndarray, "n f"], real: Float[np.ndarray, "m f"]
) -> Float64[np.ndarray, "n g"]:
    """In SDs of the real set, from its mean, so that no unit dominates; features that vary."""
    spread = scale_of(real)
    kept = spread > 0
    mean = _checked(real).mean(0)[kept]
    return (rows.astype(np.float64)[:, kept] - mean) / spread[kept]


# -- memorisation ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memorised:
    """Distances of synthetic and of held-out real scans to their nearest training scans.

    synthetic, held_out: Euclidean, one per scan; scans, nearest: names of the synthetic scans and
    of their nearest training scans. limit: the NEAR quantile of `held_out` (its minimum, below 20).
    """

    synthetic: Float64[np.ndarray, " synthetic"]
    held_out: Float64[np.ndarray, " held"]
    scans: tuple[str, ...]
    nearest: tuple[str, ...]
    limit: float

    @property
    def near(self) -> Float64[np.ndarray, " synthetic"]:
        """1 for each synthetic scan closer than the limit, else 0."""
        return (self.synthetic < self.limit).astype(np.float64)

    def auroc(self, drawn: Int64[np.ndarray, " drawn"] | None = None) -> float:
        """Chance that a synthetic scan is closer to training than a held-out one; 1/2: no sign."""
        synthetic = self.synthetic if drawn is None else self.synthetic[drawn]
        ours = np.r_[np.ones(len(synthetic)), np.zeros(len(self.held_out))].astype(bool)
        return auroc(ours, -np.concatenate([synthetic, self.held_out]))

    def closest(self, count: int = 5) -> list[tuple[str, str, float]]:
        """(synthetic scan, training scan, distance) of the closest pairs, the closest first."""
        order = np.argsort(self.synthetic, kind="stable")[:count]
        return [(self.scans[i], self.nearest[i], float(self.synthetic[i])) for i in order]


def memorised(synthetic: Features, held_out: Features, training: Features) -> Memorised:
    """Distances of synthetic scans to training, beside those of real patients not trained on.

    One row per scan in each (see `by_scan`). Samples of a model that copies are closer to its
    training scans than new patients are. `InputError` where a patient is both held out and trained
    on, or a set is empty.
    """
    both = sorted(set(held_out.patients) & set(training.patients))
    if both:
        raise InputError(
            f"{', '.join(both[:5])} is in training and among the real scans held out from it;"
            " each patient may be in only one of them"
        )
    for name, rows in (("synthetic", synthetic), ("real", held_out), ("training", training)):
        ensure(len(rows.values), f"there is no {name} scan; the search for copies needs some")
    to_synthetic, which = _nearest(synthetic.values, training.values)
    to_real, _ = _nearest(held_out.values, training.values)
    names = tuple(training.scans[i] for i in which)
    return Memorised(to_synthetic, to_real, synthetic.scans, names, limit_of(to_real))


def limit_of(held_out: Float64[np.ndarray, " held"]) -> float:
    """The NEAR quantile of the distances of held-out scans; the smallest of fewer than 20."""
    return float(np.quantile(held_out, NEAR, method="lower"))


def _nearest(
    rows: Float64[np.ndarray, "n f"], among: Float64[np.ndarray, "m f"]
) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    # From differences, not from |a|^2 + |b|^2 - 2ab: a copy must be at exactly 0.
    apart = [np.linalg.norm(among - row, axis=1) for row in rows]
    return np.array([one.min() for one in apart]), np.array([one.argmin() for one in apart])


def by_scan(views: Sequence[Features]) -> Features:
    """One row per scan: the mean over its rows in each view, the views side by side.

    views: planes of the same scans; `ValueError` if they are not of the same scans.
    """
    scans = tuple(dict.fromkeys(views[0].scans))
    if any(tuple(dict.fromkeys(view.scans)) != scans for view in views):
        raise ValueError("the views are not of the same scans")
    patients = dict(zip(views[0].scans, views[0].patients, strict=True))
    means = [
        [view.values[np.array([s == scan for s in view.scans])].mean(0) for scan in scans]
        for view in views
    ]
    return Features(np.hstack(means), scans, tuple(patients[scan] for scan in scans))
