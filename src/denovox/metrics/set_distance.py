"""How near a set of made scans is to a set of real ones, by features of each; and to training.

Two distances between sets of feature vectors (of `texture.py`, or of a network), the floor that two
sets of real patients have between them, and how near every sample lies to what was trained on.

- `frechet` (Dowson and Landau 1982; Heusel et al. 2017) compares means and covariances. It is
  biased: two sets of one distribution are further apart the fewer they are.
- `mmd` (Gretton et al. 2012, eq. 3) is unbiased at any number, so it may fall below 0. Its kernel
  is KID's polynomial (Binkowski et al. 2018), not an RBF: the median heuristic takes its width from
  the data, so that a figure and its floor, or two runs, would be measured with different rulers.

A percentile bootstrap would mislead for both: a patient who is drawn twice is a pair of equal
scans, which no set has. What stands beside a figure is `floor`: halves of the real patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from ..core.errors import InputError, ensure
from .detection import auroc

SPLITS, TRIES = 20, 50
NEAR = 0.05  # of held-out scans are nearer to training than the limit of `memorised`
BLOCK = 2048  # rows of a kernel at once: 2048 x 2048 float64 are 32 MiB

Distance = Callable[[Float[np.ndarray, "n f"], Float[np.ndarray, "m f"]], float]
Rows = Int64[np.ndarray, " _"]


@dataclass(frozen=True)
class Features:
    """A set of scans as vectors. scans, patients: of each row; slices of one scan are rows too."""

    values: Float64[np.ndarray, "n f"]
    scans: tuple[str, ...]
    patients: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.values)
        if not count == len(self.scans) == len(self.patients):
            raise ValueError(f"{count} rows of {len(self.scans)} scans, {len(self.patients)} names")


# -- distances ------------------------------------------------------------------------------------


def frechet(real: Float[np.ndarray, "n f"], made: Float[np.ndarray, "m f"]) -> float:
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2), in units of the features squared.

    With centred rows A, B over sqrt(n - 1), sqrt(m - 1), S1 = A'A and S2 = B'B, the last trace is
    the sum of the singular values of A B'. So no root of a covariance is taken: a singular one
    (n <= f) is no special case, nothing turns imaginary, and rounding is not magnified by a root.
    `InputError` where a set has less than two rows or is not finite.
    """
    first, second = _checked(real), _checked(made)
    apart = first.mean(0) - second.mean(0)
    a, b = _root(first), _root(second)
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(max(apart @ apart + (a**2).sum() + (b**2).sum() - 2 * shared, 0.0))


def _root(rows: Float64[np.ndarray, "n f"]) -> Float64[np.ndarray, "_ f"]:
    """A with A'A the covariance (of n - 1), and no more rows than it needs."""
    centred = (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(rows) > rows.shape[1] else centred


def mmd(real: Float[np.ndarray, "n f"], made: Float[np.ndarray, "m f"]) -> float:
    """The unbiased estimate of the squared MMD with k(a, b) = (a.b / f + 1)^3; it may be negative.

    `InputError` where a set has less than two rows or is not finite.
    """
    first, second = _checked(real), _checked(made)
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
    ensure(len(rows) >= 2, f"a set of {len(rows)} has no spread; give two scans or more of each")
    ensure(np.isfinite(rows).all(), "a feature is NaN or infinite; look for a broken scan")
    return rows.astype(np.float64)


# -- the floor ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Rows of two parts of the real set that share no patient, and of as many made patients."""

    first: Rows
    second: Rows
    made: Rows


@dataclass(frozen=True)
class Floor:
    """Distances at one size of set: real against real, and the same real against made.

    real, made: of every split. sizes: patients of the first part, and of what it is held against.
    scans: of what it is held against, real and made, at most.
    """

    real: Float64[np.ndarray, " splits"]
    made: Float64[np.ndarray, " splits"]
    sizes: tuple[int, int]
    scans: tuple[int, int]

    @property
    def above(self) -> float:
        """Share of the splits in which made scans are further away than real ones; ties are half.

        About 1/2 where made scans cannot be told from real ones.
        """
        return float(np.mean((self.made > self.real) + (self.made == self.real) / 2))


def splits_of(
    real: Sequence[str], made: Sequence[str], count: int = SPLITS, seed: int = 0
) -> tuple[list[Split], tuple[int, int]]:
    """Random halves of the real patients, the second cut to as many as there are made ones.

    real, made: the patient of each row. Made scans of a patient in the first half (of an anatomy of
    theirs, say) would be nearer to it than the second half can be. They are not drawn, and the
    second half is cut to what is left. Halves that leave less, or a part with one row, are drawn
    again, up to TRIES times the count: the list may be short or empty. Also gives how many patients
    are in the first and in the second part.
    """
    rng = np.random.default_rng(seed)
    ours, theirs = np.array(sorted(set(real))), np.array(sorted(set(made)))
    half = len(ours) // 2
    shared = int(np.isin(theirs, ours).sum())
    size = min(half, len(theirs), max(2, len(theirs) - min(half, shared)))
    found: list[Split] = []
    for _ in range(TRIES * count):
        order, drawn = rng.permutation(ours), rng.permutation(theirs)
        drawn = drawn[~np.isin(drawn, order[:half])][:size]
        if len(drawn) < size:
            continue
        parts = ((order[:half], real), (order[half : half + size], real), (drawn, made))
        split = Split(*(np.flatnonzero(np.isin(rows, names)) for names, rows in parts))
        if min(len(split.first), len(split.second), len(split.made)) >= 2:
            found.append(split)
        if len(found) == count:
            break
    return found, (half, size)


def floor(
    distance: Distance, real: Features, made: Features, count: int = SPLITS, seed: int = 0
) -> Floor | None:
    """What `distance` is between real patients, and from the same of them to as many made ones.

    A distance of all scans must not be held against this floor, whose sets are half as large
    (Frechet's bias alone would tell them apart); `Floor.made` may. None where the real patients are
    too few to halve.
    """
    splits, sizes = splits_of(real.patients, made.patients, count, seed)
    if not splits:
        return None
    between = [distance(real.values[s.first], real.values[s.second]) for s in splits]
    to_made = [distance(real.values[s.first], made.values[s.made]) for s in splits]
    scans = (
        max(len({real.scans[i] for i in split.second}) for split in splits),
        max(len({made.scans[i] for i in split.made}) for split in splits),
    )
    return Floor(np.array(between), np.array(to_made), sizes, scans)


# -- features of unlike units ---------------------------------------------------------------------


def scale_of(real: Float[np.ndarray, "n f"]) -> Float64[np.ndarray, " f"]:
    """SD of each feature over the real set; 0 where it is one value, up to rounding."""
    rows = _checked(real)
    spread = rows.std(0, ddof=1)
    spread[spread <= 1e-9 * np.abs(rows).max(0)] = 0
    return spread


def standardised(
    rows: Float[np.ndarray, "n f"], real: Float[np.ndarray, "m f"]
) -> Float64[np.ndarray, "n g"]:
    """In SDs of the real set, from its mean, so that no unit dominates; the features that vary."""
    spread = scale_of(real)
    kept = spread > 0
    mean = _checked(real).mean(0)[kept]
    return (rows.astype(np.float64)[:, kept] - mean) / spread[kept]


# -- memorisation ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memorised:
    """How far each made scan is from its nearest training scan, and held-out real ones from theirs.

    made, held_out: Euclidean distances, one a scan; scans, nearest: names of the made scans and of
    their nearest training scans. limit: the NEAR quantile of `held_out` (its lowest, below 20).
    """

    made: Float64[np.ndarray, " made"]
    held_out: Float64[np.ndarray, " held"]
    scans: tuple[str, ...]
    nearest: tuple[str, ...]
    limit: float

    @property
    def near(self) -> Float64[np.ndarray, " made"]:
        """1 for each made scan that is nearer than the limit, else 0."""
        return (self.made < self.limit).astype(np.float64)

    def auroc(self, drawn: Int64[np.ndarray, " drawn"] | None = None) -> float:
        """Chance that a made scan is nearer to training than a held-out one; 1/2 is no sign."""
        made = self.made if drawn is None else self.made[drawn]
        ours = np.r_[np.ones(len(made)), np.zeros(len(self.held_out))].astype(bool)
        return auroc(ours, -np.concatenate([made, self.held_out]))

    def closest(self, count: int = 5) -> list[tuple[str, str, float]]:
        """(made scan, training scan, distance) of the closest pairs, the closest first."""
        order = np.argsort(self.made, kind="stable")[:count]
        return [(self.scans[i], self.nearest[i], float(self.made[i])) for i in order]


def memorised(made: Features, held_out: Features, training: Features) -> Memorised:
    """Made scans' distances to training beside those of real patients who were not trained on.

    One row a scan in each (see `by_scan`). A model that copies lies nearer to its training scans
    than a new patient does. `InputError` where a patient is held out and trained on, or a set is
    empty.
    """
    both = sorted(set(held_out.patients) & set(training.patients))
    if both:
        raise InputError(
            f"{', '.join(both[:5])} is in training and among the real scans held out from it;"
            " a patient may be in one of them alone"
        )
    for name, rows in (("made", made), ("real", held_out), ("training", training)):
        ensure(len(rows.values), f"there is no {name} scan to look for copies with")
    to_made, which = _nearest(made.values, training.values)
    to_real, _ = _nearest(held_out.values, training.values)
    limit = float(np.quantile(to_real, NEAR, method="lower"))
    names = tuple(training.scans[i] for i in which)
    return Memorised(to_made, to_real, made.scans, names, limit)


def _nearest(
    rows: Float64[np.ndarray, "n f"], among: Float64[np.ndarray, "m f"]
) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    # From differences, not from |a|^2 + |b|^2 - 2ab: a copy must be at 0, not at its rounding.
    apart = [np.linalg.norm(among - row, axis=1) for row in rows]
    return np.array([one.min() for one in apart]), np.array([one.argmin() for one in apart])


def by_scan(views: Sequence[Features]) -> Features:
    """One row a scan: the mean over its rows in each view, one view after the other.

    views: planes of the same scans. `ValueError` where they are not.
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
