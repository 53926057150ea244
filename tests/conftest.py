"""What all tests share: shapes and types checked at every call, a closed-form prior, the data."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

import beartype
import jaxtyping
import pytest
import torch
from hypothesis import settings
from torch import Tensor

# An int is good where a float is asked for (PEP 484, and mypy). The hook wants the checker's name.
_checker = ModuleType("denovox_checker")
_checker.check = beartype.beartype(  # type: ignore[attr-defined]
    conf=beartype.BeartypeConf(is_pep484_tower=True)
)
sys.modules["denovox_checker"] = _checker
assert "denovox" not in sys.modules, "denovox was imported before its checks could be installed"
jaxtyping.install_import_hook("denovox", "denovox_checker.check")

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
settings.register_profile("denovox", deadline=None, derandomize=True, database=None)
settings.load_profile("denovox")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real CTs; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("DENOVOX_TEST_DATA", REPOSITORY / "../shared/ct")).resolve()
    if not (folder / "index.json").is_file():
        pytest.skip(f"no CTs at {folder}; set DENOVOX_TEST_DATA to a folder that has them")
    return folder


@pytest.fixture(scope="session", autouse=True)
def in_float32() -> Iterator[None]:
    """ "auto" is float32 on every machine, so that expected values are the same on all."""
    from denovox.model import loading

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENOVOX_PRECISION", "float32")
        patch.setattr(loading, "use_bfloat16", lambda precision, _: precision == "bfloat16")
        yield


@dataclass(frozen=True)
class Gaussian:
    """A prior whose denoiser, ODE and posteriors are closed forms; volumes are d voxels, flat.

    Everything is float64, so that a test's tolerance measures the sampler and not the rounding.
    """

    mean: Tensor  # d
    cov: Tensor  # d d
    shape: tuple[int, int, int]

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors of the covariance."""
        return torch.linalg.eigh(self.cov)

    def flat(self, x: Tensor) -> Tensor:
        """b 1 x y z -> b d."""
        return x.reshape(len(x), -1)

    def volume(self, flat: Tensor) -> Tensor:
        """b d -> b 1 x y z."""
        return flat.reshape(len(flat), 1, *self.shape)

    def _filter(self, x: Tensor, gains: Callable[[Tensor], Tensor]) -> Tensor:
        w, v = self.eigen
        return self.volume(self.mean + ((self.flat(x) - self.mean) @ v * gains(w)) @ v.T)

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """E[x0 | x], x = x0 + sigma n: mean + C (C + sigma^2)^-1 (x - mean)."""
        return self._filter(x, lambda w: w / (w + sigma**2))

    def ode(self, x: Tensor, sigma: float, following: float) -> Tensor:
        """Where the probability-flow ODE leads from x at sigma."""
        return self._filter(x, lambda w: ((w + following**2) / (w + sigma**2)).sqrt())

    def given(self, known: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, covariance) of the unknown voxels, given the known ones of `truth` (all flat)."""
        u = ~known
        gain = torch.linalg.solve(self.cov[known][:, known], self.cov[known][:, u]).T
        mean = self.mean[u] + gain @ (truth[known] - self.mean[known])
        return mean, self.cov[u][:, u] - gain @ self.cov[known][:, u]

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """Volumes from the prior."""
        white = torch.randn(count, len(self.mean), generator=rng(seed), dtype=torch.float64)
        return self.volume(self.mean + white @ torch.linalg.cholesky(self.cov).T)

    def noise(self, count: int, seed: int = 0) -> Callable[[int], Tensor]:
        """stream -> white noise of `count` volumes, independent between streams."""

        def field(stream: int) -> Tensor:
            generator = rng(1000 * seed + stream + 7)
            return torch.randn(count, 1, *self.shape, generator=generator, dtype=torch.float64)

        return field


def rng(seed: int) -> torch.Generator:
    """A torch generator of that seed."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def gaussian_prior() -> type[Gaussian]:
    """The class, for a test that needs a prior of its own."""
    return Gaussian


@pytest.fixture(scope="session")
def gaussian() -> Gaussian:
    """A correlated prior on 2 x 3 x 4 voxels: SD about .4 around a wave, well inside [-1, 1]."""
    i = torch.arange(24, dtype=torch.float64)
    cov = 0.16 * torch.exp(-0.5 * ((i[:, None] - i) / 4) ** 2) + 1e-3 * torch.eye(24)
    return Gaussian(0.3 * torch.sin(i / 3), cov.double(), (2, 3, 4))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `tests/test_docs.py` write what it otherwise compares."""
    parser.addoption("--write-docs", action="store_true", help="write docs/reference's pages")


@pytest.fixture
def tiny(tmp_path):
    """A weights file of a tiny network, with numbers that are not zero."""
    from denovox.model import weights
    from denovox.model.presets import PRESETS

    # A third level: MONAI's middle always attends, and at half of a scan's size takes minutes.
    third = {"channels": (8, 8, 16), "attention": (False,) * 3}
    config = weights.ModelConfig(net=PRESETS["tiny"].model_copy(update=third))
    torch.manual_seed(0)
    state = {n: torch.randn_like(p) * 0.05 for n, p in config.build().named_parameters()}
    path = tmp_path / "weights" / "tiny.safetensors"
    weights.save(path, state, config, {"text": "for tests"})
    return path


def steer(base, path, kind):
    """A control file for a tiny base, with numbers that are not zero."""
    from denovox.model import weights
    from denovox.model.controlnet import Control, ControlConfig

    net = weights.describe(base)[0].build()
    control = Control(net, ControlConfig(kind=kind, base=weights.sha256(base), width=4))
    torch.manual_seed(1)
    state = {n: torch.randn_like(p) * 0.05 for n, p in control.named_parameters()}
    weights.save(path, state, control.config, {"text": "for tests", "base": "tiny"})
    return path


@pytest.fixture
def tiny_lesion(tiny):
    """A control for lesions, beside its base."""
    return steer(tiny, tiny.with_name("lesion.safetensors"), "lesion")


@pytest.fixture
def tiny_superres(tiny):
    """A control for super-resolution, beside its base."""
    return steer(tiny, tiny.with_name("superres.safetensors"), "low-resolution")
