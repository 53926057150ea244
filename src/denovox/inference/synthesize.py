"""Synthesis of a CT from noise, conditioned on an anatomy if one is given (Method 2)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from ..core.box import Shape
from ..core.condition import condition
from ..core.errors import InputError
from ..core.labels import OUTSIDE, with_lesion
from ..core.random_field import field
from ..core.regions import region as region_named
from ..core.volume import Volume
from ..tasks import Solver, synthesis
from .engine import Engine
from .frame import Spacing
from .options import RunOptions

AIR_HU = -1000.0


def synthesize(
    engine: Engine,
    region: str,
    shape: Shape,
    spacing_mm: Spacing,
    anatomy: UInt8[np.ndarray, "x y z"] | None,
    lesions: Bool[np.ndarray, "x y z"] | None,
    steps: int,
    solver: Solver,
    options: RunOptions,
) -> Volume:
    """A new CT; see `Model.synthesize`."""
    window = region_named(region).window
    low, high = engine.config.spacing_mm
    if not all(low <= mm <= high for mm in spacing_mm):
        raise InputError(f"the model supports spacings from {low:g} to {high:g} mm")
    for name, mask in (("anatomy", anatomy), ("lesion mask", lesions)):
        if mask is not None and mask.shape != shape:
            raise InputError(f"the {name}'s grid is {mask.shape}, the requested shape {shape}")
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing_mm
    noise = field(options.seed, shape, engine.device)
    task = synthesis(noise, engine.config.noise_schedule, steps, solver)
    ids = anatomy if anatomy is None or lesions is None else with_lesion(anatomy, lesions)
    known = None if ids is None else torch.from_numpy(np.ascontiguousarray(ids))
    conditioning = condition(shape, spacing_mm, region_named(region).id, known)
    if lesions is not None:
        conditioning = engine.with_lesion(
            conditioning, torch.from_numpy(lesions.astype(np.float32))
        )
    hu = window.hu(engine.run(task, conditioning, noise, options)[0, 0].cpu().numpy())
    if anatomy is not None:
        air = (anatomy == OUTSIDE) & (hu < window.low_hu + 0.05 * window.width_hu)
        hu = np.where(air, np.minimum(hu, AIR_HU), hu)
    return Volume(hu.astype(np.float32), affine)
