"""Distances between sets with known answers; the floor by patients; a copy is caught."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import linalg

from denovox.core.errors import InputError
from denovox.metrics import set_distance
from denovox.metrics.set_distance import Features, floor, frechet, memorised, mmd, splits_of


def rows(n: int, f: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, f)) @ rng.standard_normal((f, f)) + rng.standard_normal(f)


def exact(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Rows whose sample mean and covariance diag(sd^2) are exact, to rounding."""
    white = rows(40, len(sd), 3)
    white = white - white.mean(0)
    white = white @ linalg.inv(linalg.cholesky(np.cov(white.T)))
    return mean + white * sd


def direct(a: np.ndarray, b: np.ndarray) -> float:
    """The textbook's formula, with scipy's root of the product."""
    s, t = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(s @ t)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * root.real))


def symmetric(a: np.ndarray, b: np.ndarray) -> float:
    """By eigenvalues, which singular covariances allow too."""
    s, t = np.cov(a.T), np.cov(b.T)
    w, v = np.linalg.eigh(s)
    root = (v * np.sqrt(np.maximum(w, 0))) @ v.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ t @ root), 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t) - 2 * shared)


def test_frechet_of_known_gaussians():
    one, two = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 0.5])
    a, b = exact(np.zeros(3), one), exact(np.array([3.0, 4.0, 0.0]), two)
    # Covariances that commute: |mu1 - mu2|^2 + sum (sd1 - sd2)^2.
    assert frechet(a, b) == pytest.approx(25 + 1 + 0 + 6.25, rel=1e-12)
    assert frechet(a[:, :1], b[:, :1]) == pytest.approx(9 + 1, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(60, 40), (60, 7), (7, 60), (9, 9)])
def test_frechet_is_the_formula(n, m):
    a, b = rows(n, 6, 1), rows(m, 6, 2)
    assert frechet(a, b) == pytest.approx(direct(a, b), rel=1e-9)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-12)


def test_frechet_of_fewer_rows_than_features():
    a, b = rows(4, 9, 1), rows(5, 9, 2)
    assert frechet(a, b) == pytest.approx(symmetric(a, b), rel=1e-6)
    assert frechet(a, a) == pytest.approx(0, abs=1e-12 * (a**2).sum())
    # Two points on a line, twice as far apart: SDs of sqrt(2) and 2 sqrt(2) along it.
    line = np.array([[-1.0, 0, 0], [1, 0, 0]])
    assert frechet(line, 2 * line) == pytest.approx(2, rel=1e-12)
    across = line[:, [1, 0, 2]]
    assert frechet(line, across) == pytest.approx(4, rel=1e-12)


# MONAI asks scipy for an argument that goes with SciPy 1.18.
@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_frechet_agrees_with_monai():
    from monai.metrics.fid import FIDMetric

    a, b = rows(50, 5, 4), rows(30, 5, 5)
    expected = float(FIDMetric()(torch.from_numpy(b), torch.from_numpy(a)))
    assert frechet(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distance", [frechet, mmd])
def test_rotations_and_order_change_nothing(distance):
    a, b = rows(30, 5, 6), rows(20, 5, 7)
    turn, _ = np.linalg.qr(rows(5, 5, 8))
    assert distance(a @ turn, b @ turn) == pytest.approx(distance(a, b), rel=1e-9)
    assert distance(a[::-1], b[::-1]) == pytest.approx(distance(a, b), rel=1e-9)


def test_frechet_is_biased_by_number_and_mmd_is_not():
    rng = np.random.default_rng(0)
    few, many = (
        np.array([[d(*rng.standard_normal((2, n, 4))) for d in (frechet, mmd)] for _ in range(200)])
        for n in (8, 64)
    )
    assert few[:, 0].mean() > 5 * many[:, 0].mean() > 0
    error = few[:, 1].std() / math.sqrt(200)
    assert abs(few[:, 1].mean()) < 3 * error
    assert few[:, 1].min() < 0


def test_mmd_is_a_sum_over_pairs(monkeypatch):
    a, b = rows(7, 3, 1), rows(5, 3, 2)

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    def within(x: np.ndarray) -> float:
        n = len(x)
        return sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    expected = within(a) + within(b) - 2 * np.mean([k(x, y) for x in a for y in b])
    assert mmd(a, b) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(set_distance, "BLOCK", 2)
    assert mmd(a, b) == pytest.approx(expected, rel=1e-12), "block by block"


def test_mmd_agrees_with_monai_on_the_kernels_own_features():
    from monai.metrics.mmd import compute_mmd

    a, b = rows(9, 1, 1), rows(9, 1, 2)

    def embedded(x: np.ndarray) -> torch.Tensor:  # (xy + 1)^3 as a scalar product
        parts = [x**3, math.sqrt(3) * x**2, math.sqrt(3) * x, np.ones_like(x)]
        return torch.from_numpy(np.hstack(parts))

    expected = float(compute_mmd(embedded(a), embedded(b), None))
    assert mmd(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distance", [frechet, mmd])
def test_sets_that_have_no_distance(distance):
    with pytest.raises(InputError, match="at least two scans"):
        distance(np.ones((1, 3)), np.ones((4, 3)))
    with pytest.raises(InputError, match="NaN"):
        distance(np.ones((3, 3)), np.full((4, 3), np.nan))


# -- the floor ------------------------------------------------------------------------------------


def test_halves_share_no_patient():
    real = ["a", "a", "a", "b", "c", "c", "d", "e"]
    splits, sizes = splits_of(real, ["x", "y", "z", "z"], 30, seed=1)
    assert sizes == (2, 2)
    assert splits, "some halves have two rows each"
    seen = set()
    for split in splits:
        first, second = ({real[i] for i in part} for part in (split.first, split.second))
        assert not first & second
        assert len(first) == len(second) == 2
        for part, names in ((split.first, first), (split.second, second)):
            assert len(part) == sum(name in names for name in real), "all rows of a patient"
        assert len(split.synthetic) in (2, 3)
        seen.add(tuple(split.first))
    assert len(seen) > 3
    again, _ = splits_of(real, ["x", "y", "z", "z"], 30, seed=1)
    assert [tuple(s.first) for s in splits] == [tuple(s.first) for s in again]
    assert splits_of(["a", "a", "b"], ["x", "y"], 5)[0] == [], "halves with one row are none"


def test_made_scans_of_the_same_patients_are_drawn_as_real_ones_are():
    names = [f"p{i}" for i in range(8)]
    for split in splits_of(names, names, 20)[0]:
        assert not set(split.first) & set(split.synthetic)
        assert set(split.synthetic) == set(split.second)
    some, sizes = splits_of(names, [*names[:2], "q"], 60)
    assert sizes == (4, 2)
    assert len(some) == 60, "halves with both p0 and p1 are drawn again"
    for split in some:
        assert not set(split.first) & set(split.synthetic[split.synthetic < 2])
        assert len(split.synthetic) == len(split.second) == 2
    assert splits_of(names[:2] * 2, names[:2] * 2, 3)[1] == (1, 1)


def of(values: np.ndarray, name: str, patients: int | None = None) -> Features:
    names = [f"{name}{i}" for i in range(len(values))]
    whose = names if patients is None else [f"{name}{i % patients}" for i in range(len(values))]
    return Features(values, tuple(names), tuple(whose))


def test_the_floor_is_at_its_own_number():
    rng = np.random.default_rng(2)
    real, same, off = (rng.standard_normal((24, 6)) + add for add in (0, 0, 2))
    found = floor(frechet, of(real, "r"), of(same, "m"))
    assert found is not None
    assert found.sizes == found.scans == (12, 12)
    assert len(found.real) == len(found.synthetic) == 20
    # Distances of all 24 are below the floor of 12: those at its number are what is comparable.
    assert frechet(real, same) < 0.75 * found.real.mean()
    assert found.synthetic.mean() == pytest.approx(found.real.mean(), rel=0.3)
    assert 0.1 < found.above < 0.9
    far = floor(frechet, of(real, "r"), of(off, "m"))
    assert far is not None
    assert far.above == 1
    assert np.array_equal(far.real, found.real), "the floor is of real scans alone"
    few = floor(frechet, of(real, "r"), of(off[:4], "m"))
    assert few is not None
    assert few.sizes == (12, 4)
    assert few.scans == (4, 4)
    assert floor(frechet, of(real, "r", 1), of(same, "m")) is None


def test_features_are_in_sds_of_the_real_set():
    real = np.array([[1.0, 5.0, 0.1], [3.0, 5.0, 0.1 + 1e-17], [5.0, 5.0, 0.1]])
    assert set_distance.scale_of(real).tolist() == [2, 0, 0]
    made = np.array([[7.0, 9.0, 9.0]])
    assert set_distance.standardised(made, real).tolist() == [[2.0]]


# -- memorisation ---------------------------------------------------------------------------------


def test_a_copy_is_caught():
    rng = np.random.default_rng(3)
    training, held_out, made = (rng.standard_normal((n, 5)) for n in (30, 20, 10))
    made[4] = training[17]
    found = memorised(of(made, "m"), of(held_out, "h"), of(training, "t"))
    assert found.closest(1) == [("m4", "t17", 0.0)]
    assert found.near[4] == 1
    brute = np.linalg.norm(made[:, None] - training[None], axis=2)
    assert np.allclose(found.synthetic, brute.min(1), atol=0, rtol=1e-12)
    assert found.nearest[0] == f"t{brute[0].argmin()}"
    assert found.limit == np.sort(found.held_out)[0]
    assert 0.2 < found.auroc() < 0.8
    copies = memorised(of(training[:9], "m"), of(held_out, "h"), of(training, "t"))
    assert copies.auroc() == 1
    assert copies.near.mean() == 1
    assert copies.auroc(np.array([3, 3])) == 1


def test_a_held_out_patient_is_no_training_patient():
    one = of(np.eye(3), "p")
    with pytest.raises(InputError, match="p0, p1, p2 is in training"):
        memorised(of(np.eye(3), "m"), one, one)
    with pytest.raises(InputError, match="no training scan"):
        memorised(one, of(np.eye(3), "h"), of(np.empty((0, 3)), "t"))


def test_a_scan_is_the_mean_of_its_rows():
    view = Features(np.array([[1.0], [3.0], [7.0]]), ("b", "b", "a"), ("B", "B", "A"))
    other = Features(np.array([[0.0], [0.0], [1.0]]), ("b", "b", "a"), ("B", "B", "A"))
    found = set_distance.by_scan([view, other])
    assert found.values.tolist() == [[2, 0], [7, 1]]
    assert (found.scans, found.patients) == (("b", "a"), ("B", "A"))
    with pytest.raises(ValueError, match="same scans"):
        set_distance.by_scan([view, of(np.eye(2), "z")])
    with pytest.raises(ValueError, match="rows"):
        Features(np.eye(2), ("a",), ("a",))
