"""Synthesis of a CT from noise, conditioned on an anatomy if one is given (Method 2 and 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, UInt8

from ..core.box import Shape
from ..core.condition import Condition, condition
from ..core.errors import ensure
from ..core.labels import AIRWAY, ID, OUTSIDE
from ..core.operators.cell_average import CellAverage
from ..core.random_field import field
from ..core.regions import Region
from ..core.regions import region as region_named
from ..core.resample import nearest, resize
from ..core.tensors import tensor
from ..core.volume import Volume, within
from ..model import weights
from ..reports.recorder import decided
from ..sampling.guidance import Guidance, guided
from ..sampling.levels import TILES, Level, borders, plan, pyramid
from ..sampling.sampler import Noise, Vol
from ..sampling.windowed import layout
from ..scan.body_regions import RegionSpan
from ..scan.label_regions import label_spans, require_one_body
from ..tasks import Solver, refinement, synthesis
from .engine import Engine
from .frame import Spacing
from .memory import require_memory
from .options import RunOptions, Say
from .region_blend import Part, blend_parts, handed_over, share_of

AIR_HU = -1000.0
LARGEST_MM = 1000.0  # of one region; training has none as large
STREAMS = 1 << 20  # of noise, between levels
STEPS = 5
WHOLE = 1.5  # size of the coarsest level, as a multiple of the training patch
BYTES = 32  # of memory for each voxel; 26 measured (benchmarks/synthesis.py dry --edge 192)
HELD = 0.5  # SD by which a coarse level misses the means of a fine one, model units
CUT_OFF = 0.25  # share of a window, at its lower end, where labelled gas is air
NEARER_AIR_HU = -500.0  # below it, labelled gas is nearer to air than to water
GAS = [OUTSIDE, AIRWAY, ID["trachea"]]

Labels = UInt8[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Wanted:
    """What to draw: see `Model.synthesize`."""

    region: str | None
    shape: Shape
    spacing_mm: Spacing
    anatomy: Labels | None = None

    def part(self, part: Part) -> Wanted:
        """The same of one region's slices."""
        ids = None if self.anatomy is None else np.ascontiguousarray(self.anatomy[..., part.z])
        shape = (*self.shape[:2], part.stop - part.start)
        return Wanted(part.span.region, shape, self.spacing_mm, ids)


@dataclass(frozen=True)
class Sampling:
    """How to draw it: see `Model.synthesize`. guide: a weaker model, for autoguidance."""

    steps: int | None = None
    solver: Solver = "dpm++"
    levels: int | None = None
    guidance: float | Guidance | None = None
    guide: Engine | None = None


def synthesize(engine: Engine, wanted: Wanted, how: Sampling, options: RunOptions) -> Volume:
    """A new CT; see `Model.synthesize`."""
    steps, solver, guidance = resolved(engine, how)
    _check(engine, wanted, steps)
    parts = blend_parts(_spans(wanted, options.say), wanted.spacing_mm[2])
    each = [wanted.part(part) for part in parts]
    plans = [_levels(engine, one, how.levels, steps, guidance, options.tile) for one in each]
    require_memory("drawing", wanted.shape, BYTES, options)
    for one, levels in zip(each, plans, strict=True):
        options.say(_forecast(one.region or "", levels, guidance))
    guide = None if how.guide is None else how.guide.denoiser
    drawing = replace(engine, denoiser=guided(engine.denoiser, guidance, guide))
    engines = {False: engine, True: drawing}
    noise = field(options.seed, wanted.shape, engine.device)
    drawn = []
    for number, (part, one, levels) in enumerate(zip(parts, each, plans, strict=True)):
        own = partial(_cut, noise, part.z)  # neighbours share the noise where they overlap
        share = share_of(options, number, parts)
        drawn.append(_drawn(engines, one, levels, solver, own, share))
    decided("regions", [part.span for part in parts])
    decided("tile borders", [_borders(engine, parts, plans, options)])
    hu = handed_over(parts, drawn)
    affine = np.diag([*wanted.spacing_mm, 1.0])
    affine[:3, 3] = -(np.array(wanted.shape) - 1) / 2 * wanted.spacing_mm
    return Volume(hu, affine)


def _cut(noise: Noise, z: slice, stream: int) -> Vol:
    return noise(stream)[..., z]


# ---- what is asked for --------------------------------------------------------------------------


def _check(engine: Engine, wanted: Wanted, steps: int) -> None:
    whole = isinstance(steps, int) and not isinstance(steps, bool)
    ensure(whole and steps > 0, f"steps is {steps!r}; pass a whole number from 1")
    low, high = engine.config.spacing_mm
    given = " x ".join(f"{mm:g}" for mm in wanted.spacing_mm)
    ensure(
        all(within(mm, low, high) for mm in wanted.spacing_mm),
        f"voxels of {given} mm are outside the {low:g} to {high:g} mm that the model supports;"
        " resample the label map, or choose another spacing",
    )
    if wanted.anatomy is not None:
        grid = f"the anatomy's grid is {wanted.anatomy.shape}, the requested shape {wanted.shape}"
        ensure(wanted.anatomy.shape == wanted.shape, grid)
        require_one_body(wanted.anatomy, wanted.spacing_mm)


def _spans(wanted: Wanted, say: Say) -> tuple[RegionSpan, ...]:
    """The regions along z: the named one, or those of the labels."""
    count = wanted.shape[2]
    if wanted.region not in (None, "auto"):
        spans: tuple[RegionSpan, ...]
        spans = (RegionSpan(region_named(wanted.region).name, 0, count, "named"),)
    else:
        ensure(
            wanted.anatomy is not None,
            "without an anatomy the region is not known; give --region headneck, chest or abdomen",
        )
        assert wanted.anatomy is not None
        spans = label_spans(wanted.anatomy, wanted.spacing_mm[2])
        for span in spans:
            where = f"slices {span.start} to {span.stop - 1}"
            say(f"region: {span.region}, {where} ({span.reason}; --region overrides)")
    for span in spans:
        size = (*wanted.shape[:2], span.stop - span.start)
        extent = [n * mm for n, mm in zip(size, wanted.spacing_mm, strict=True)]
        ensure(
            within(max(extent), 0, LARGEST_MM),
            f"{span.region}: {' x '.join(f'{mm:.0f}' for mm in extent)} mm is larger than any scan"
            f" that the model was trained on ({LARGEST_MM:.0f} mm at most); reduce the shape or the"
            " spacing",
        )
    return spans


def resolved(engine: Engine, how: Sampling) -> tuple[int, Solver, Guidance]:
    """The steps, solver and guidance to use; `InputError` where the weights do not support them."""
    wanted = how.guidance
    if isinstance(wanted, float | int):
        wanted = Guidance(wanted)
    unguided = how.guide is None and (wanted is None or wanted.weight == 1)
    ensure(
        how.guide is None or not how.guide.config.distilled_steps,
        "distilled weights cannot guide, as they support only the noise levels of their own steps;"
        " give weaker weights that are not distilled",
    )
    if steps := engine.config.distilled_steps:
        ensure(
            how.steps in (None, steps) and unguided,
            f"the weights {engine.path.name} are distilled to {steps} steps and include their"
            " teacher's guidance; leave out --steps, --guidance and --guide",
        )
        return steps, "ddim", Guidance(1.0)
    steps = STEPS if how.steps is None else how.steps
    known = engine.path.is_file() and weights.drops_conditions(weights.describe(engine.path)[1])
    if how.guide is not None or known:
        return steps, how.solver, wanted or Guidance()
    ensure(
        unguided,
        f"the weights {engine.path.name} were not trained with dropped conditions, which"
        " guidance needs; leave --guidance out, or give weaker weights with --guide",
    )
    return steps, how.solver, Guidance(1.0)


# ---- levels -------------------------------------------------------------------------------------


def _levels(
    engine: Engine, wanted: Wanted, count: int | None, steps: int, guidance: Guidance, edge: int
) -> list[Level]:
    """The levels of a part, from the coarsest. count: of them; None: one where an anatomy fixes the
    whole and its tiles are within `TILES`, else as many as there are."""

    def tiles(grid: Shape, blend: bool) -> int:  # smaller ones count as parts of a whole one
        axes = zip(engine.tilings(grid, edge, blend), grid, strict=True)
        return math.ceil(math.prod(tiling.total(n) for tiling, n in axes) / edge**3)

    def planned(grids: list[Shape]) -> list[Level]:
        distilled = engine.config.distilled_steps > 0
        return plan(grids, steps, engine.config.noise_schedule, guidance, tiles, distilled)

    one = planned([wanted.shape])
    if count is None and wanted.anatomy is not None and one[0].tiles <= TILES:
        return one
    # Labels fix the whole, so a larger one than in training shows more of them; without any, the
    # network has to see all of the body as it has seen it.
    whole = engine.config.patch if wanted.anatomy is None else round(WHOLE * engine.config.patch)
    return planned(pyramid(wanted.shape, whole, count))


def _borders(
    engine: Engine, parts: list[Part], plans: list[list[Level]], options: RunOptions
) -> tuple[tuple[int, ...], ...]:
    """Of the tiles of the last evaluation, whose answers the result consists of; see `borders`."""
    found: list[set[int]] = [set(), set(), set()]
    for part, levels in zip(parts, plans, strict=True):
        last = levels[-1]
        tilings = engine.tilings(last.grid, options.tile, last.blend)
        axes = borders(layout(last.grid, tilings, options.seed, last.steps - 1))
        for axis, first, planes in zip(found, (0, 0, part.start), axes, strict=True):
            axis.update(first + plane for plane in planes)
    return tuple(tuple(sorted(axis)) for axis in found)


def _forecast(region: str, levels: list[Level], guidance: Guidance) -> str:
    """What a part will cost, for the user."""
    grids = ", ".join("x".join(map(str, one.grid)) for one in levels)
    steps = "+".join(str(one.steps) for one in levels)
    plural = "s" if len(levels) > 1 else ""
    weight = f", guidance {guidance.weight:g}" if guidance.weight != 1 else ""
    return (
        f"{region}: {len(levels)} level{plural} ({grids} voxels), {steps} steps{weight},"
        f" {sum(one.tiles for one in levels)} evaluations of tiles"
    )


# ---- drawing ------------------------------------------------------------------------------------


def _drawn(
    engines: dict[bool, Engine],
    wanted: Wanted,
    levels: list[Level],
    solver: Solver,
    noise: Noise,
    options: RunOptions,
) -> Float[np.ndarray, "x y z"]:
    """HU of a part, in the window of its region. engines: without and with guidance. noise: of the
    finest level."""
    engine = engines[False]
    region = region_named(wanted.region or "")
    total, done = sum(one.tiles for one in levels), 0
    x = torch.zeros(0)
    for number, level in enumerate(levels):
        below = len(levels) - 1 - number
        own = _stream(options.seed, level.grid, below, engine.device) if below else noise
        if number == 0:
            task = synthesis(own, level.sigmas, solver)
        else:
            operator = CellAverage(_shape(x), level.grid)
            up = tensor(resize(x[0, 0].cpu().numpy(), level.grid), x.device)
            up = operator.prox(up, x, 0.0)
            task = refinement(x, operator, up, own, level.sigmas, solver, HELD)
            task = replace(task, blend=level.blend)
        share = options.between(done / total, (done + level.tiles) / total)
        done += level.tiles
        noted = share.counting(f"level {number + 1} of {len(levels)}", level.steps)
        conditioning = _condition(wanted, region, level.grid)
        x = engines[level.guided].run(task, conditioning, own, noted)
    hu = region.window.hu(x[0, 0].cpu().numpy())
    if wanted.anatomy is not None:
        # Samples miss air, or the lower end of a window that cuts it off, by up to a tenth of the
        # window: in a chest, enough to count as body.
        low = max(NEARER_AIR_HU, region.window.low_hu + CUT_OFF * region.window.width_hu)
        hu = np.where(np.isin(wanted.anatomy, GAS) & (hu < low), AIR_HU, hu)
    return hu.astype(np.float32)


def _shape(x: Vol) -> Shape:
    return x.shape[2], x.shape[3], x.shape[4]


def _stream(seed: int, grid: Shape, below: int, device: str) -> Noise:
    """Noise of a coarser level, from other streams than that of the finest."""
    whole = field(seed, grid, device)
    return lambda stream: whole(stream + STREAMS * below)


def _condition(wanted: Wanted, region: Region, grid: Shape) -> Condition:
    """The conditions on a grid of the pyramid, as training resizes them."""
    x, y, z = (n * mm / m for n, mm, m in zip(wanted.shape, wanted.spacing_mm, grid, strict=True))
    ids = wanted.anatomy
    known = None if ids is None else torch.from_numpy(nearest(ids, grid))
    return condition(grid, (x, y, z), region.id, known)
