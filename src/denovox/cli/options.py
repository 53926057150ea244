"""Options that commands share, and the model that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import InputError, ensure
from .commands import option
from .progress import progress, say

if TYPE_CHECKING:
    from ..core.condition import ControlKind
    from ..inference.model import Model
    from ..inference.options import RunOptions

REGION_NAMES = ("headneck", "chest", "abdomen")
FILE = click.Path(path_type=Path)
EDGE = click.IntRange(32)  # of a tile
WINDOW = "denovox.window"  # key of --window, the old name of --tile, in a context's meta


def devices() -> list[str]:
    """Names of the devices of this machine."""
    import torch

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *(["cuda", *gpus] if gpus else []), *mps]


def _device(ctx: click.Context, param: click.Parameter, name: str | None) -> str | None:
    if name is not None and name not in (here := devices()):
        raise InputError(f"there is no device '{name}' on this machine; choose {', '.join(here)}")
    return name


def _window(ctx: click.Context, param: click.Parameter, edge: int | None) -> None:
    if edge is not None:
        say("--window is now --tile and will go in the next version")
        ctx.meta[WINDOW] = edge


def _tile(ctx: click.Context, param: click.Parameter, edge: int) -> int:
    return int(ctx.meta.get(WINDOW, edge))


def _all(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Several options as one decorator, listed in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate


device_option = option(
    "--device",
    group="Running",
    envvar="DENOVOX_DEVICE",
    show_envvar=True,
    callback=_device,
    help="cpu, cuda, cuda:1, ...  [default: a GPU if there is one]",
)
precision_option = option(
    "--precision",
    group="Running",
    type=click.Choice(["float32", "bfloat16", "auto"]),
    default="float32",
    show_default=True,
    envvar="DENOVOX_PRECISION",
    show_envvar=True,
    help="Precision of the network; auto: bfloat16 where the hardware supports it natively.",
)
tile_option = _all(
    option(
        "--tile",
        group="Running",
        type=EDGE,
        default=64,
        show_default=True,
        callback=_tile,
        help="Edge of the sliding tile in voxels; halve it if memory runs out.",
    ),
    option("--window", type=EDGE, hidden=True, is_eager=True, expose_value=False, callback=_window),
)
batch_option = option(
    "--batch",
    group="Running",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    envvar=["DENOVOX_BATCH", "DENOVOX_WINDOW_BATCH"],  # the second is the old name
    show_envvar=True,
    help="Tiles evaluated at once.",
)
model_options = _all(device_option, precision_option, tile_option, batch_option)
seed_option = option(
    "--seed",
    group="Running",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Random seed; results are reproducible on the same machine.",
)
force_option = option("--force", group="Output", is_flag=True, help="Overwrite existing output.")
weights_option = option(
    "--weights",
    group="Model",
    default="base",
    show_default=True,
    help="Name of bundled weights, file, or folder of a run.",
)
region_option = option(
    "--region",
    group="Input",
    type=click.Choice(["auto", *REGION_NAMES]),
    default="auto",
    show_default=True,
    help="Body region of the scan; auto recognises regions along z.",
)
reading_options = _all(
    option("--series", group="Input", help="DICOM series to read: its UID, or the end of its UID."),
    option(
        "--straighten",
        group="Input",
        is_flag=True,
        help="Resample DICOM with a tilted gantry or uneven slice spacing.",
    ),
)


def control_option(default: str) -> Callable[..., Any]:
    """`weights_option` of a command that can use a control."""
    return option(
        "--weights",
        "--control",
        group="Model",
        multiple=True,
        default=(default,),
        show_default=True,
        help="A base, a control, or one of each: name of bundled weights, file, or folder of a"
        " run. A control alone finds its base.",
    )


def running_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that runs a base model and writes a file."""
    return _all(force_option, weights_option, model_options)(command)


def control_options(default: str) -> Callable[..., Any]:
    """`running_options` of a command that can use a control."""
    return _all(force_option, control_option(default), model_options)


@contextmanager
def loaded(
    run: dict[str, Any], label: str, control: ControlKind | None = None
) -> Iterator[tuple[Model, RunOptions]]:
    """The model and its `RunOptions` for the options in `run`, with a progress bar.

    label: the name of the command. control: the kind of control that the command can use;
    `InputError` for another.
    """
    from ..inference.model import load
    from ..inference.options import RunOptions

    names = [run["weights"]] if isinstance(run["weights"], str) else list(run["weights"])
    ensure(len(names) <= 2, "--weights and --control take one base and one control at most")
    model = load(names[0], run.get("device"), run.get("precision", "float32"), *names[1:])
    if model.control not in (None, control):
        takes = f"takes one for {control}" if control else "takes none"
        raise InputError(f"{names[-1]} is a control for {model.control}; {label} {takes}")
    chosen = {name: run[name] for name in ("seed", "tile", "batch") if name in run}
    with progress(label) as done:
        yield model, RunOptions(**chosen, say=say, progress=done)


def triple(text: str, cast: Callable[[str], Any], name: str) -> tuple[Any, Any, Any]:
    """ "1x2x3", or one number for all three axes; `InputError` names the option."""
    parts = text.lower().split("x")
    try:
        values = [cast(part) for part in (parts * 3 if len(parts) == 1 else parts)]
        if len(values) != 3 or not all(0 < value < float("inf") for value in values):
            raise ValueError
    except ValueError:
        raise InputError(
            f"{name} '{text}' is neither a positive number nor three of them joined by x"
        ) from None
    return values[0], values[1], values[2]


def beside(output: Path, end: str) -> Path:
    """The path of a file that goes with OUTPUT.nii.gz: OUTPUT, then `end`."""
    name = output.name
    for own in (".nii.gz", ".nii"):
        name = name.removesuffix(own)
    return output.with_name(name + end)
