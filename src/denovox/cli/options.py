"""Options that commands share, and the model that they ask for."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import InputError, ensure
from .commands import LEAST_TILE, option
from .progress import progress, say
from .results.run import check_extras, current_run

if TYPE_CHECKING:
    from ..core.condition import ControlKind
    from ..core.volume import Volume
    from ..inference.model import Model
    from ..inference.options import RunOptions
    from ..reports.viewer.page import View

REGION_NAMES = ("headneck", "chest", "abdomen")
FILE = click.Path(path_type=Path)


def _device(ctx: click.Context, param: click.Parameter, name: str | None) -> str | None:
    if name is None:
        return None
    from ..model.devices import devices_named

    return ",".join(devices_named(name))


def _one_device(ctx: click.Context, param: click.Parameter, name: str | None) -> str | None:
    ensure(
        "," not in (name or ""),
        f"training uses one device per process, not '{name}'; to use several GPUs, start it with"
        " torchrun (docs/how-to/train.md)",
    )
    return _device(ctx, param, name)


def _memory(ctx: click.Context, param: click.Parameter, amount: str | None) -> str | None:
    if amount is not None:
        from ..core.process import megabytes

        megabytes(amount)
    return amount


def all_of(*options: Callable[..., Any]) -> Callable[..., Any]:
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
    callback=_device,
    help="cpu, cuda, cuda:1, ..., or several to share the work: cuda:0,cuda:1.  [default: a GPU if"
    " there is one]",
)
training_device_option = option(
    "--device",
    group="Running",
    envvar="DENOVOX_DEVICE",
    callback=_one_device,
    help="Device, such as cpu, cuda or cuda:1.  [default: a GPU if there is one]",
)
precision_option = option(
    "--precision",
    group="Running",
    type=click.Choice(["float32", "bfloat16", "auto"]),
    default="auto",
    envvar="DENOVOX_PRECISION",
    help="Precision of the network; auto: bfloat16 where the hardware supports it natively.",
)
tile_option = option(
    "--tile",
    group="Running",
    type=click.IntRange(LEAST_TILE),
    default=64,
    help="Largest edge of the tiles on which the network is evaluated, in voxels.",
)
batch_option = option(
    "--batch",
    group="Running",
    type=click.IntRange(0),
    default=0,
    envvar="DENOVOX_BATCH",
    help="Tiles evaluated at once; 0: one, or on a GPU as many as fit.",
)
memory_option = option(
    "--memory",
    group="Running",
    callback=_memory,
    help="Memory limit, such as 4GB; what does not fit is kept on disk temporarily.  [default: half"
    " of the free memory]",
)
model_options = all_of(device_option, precision_option, tile_option, batch_option)
seed_option = option(
    "--seed",
    group="Running",
    type=click.IntRange(0),
    default=0,
    help="Random seed; results are reproducible on the same machine.",
)
force_option = option("--force", group="Output", is_flag=True, help="Overwrite existing output.")
weights_option = option(
    "--weights",
    group="Model",
    default="base",
    help="A bundled name, a file, the folder of a run, or hf://OWNER/NAME@REVISION.",
)
running_options = all_of(force_option, weights_option, model_options)
engine: dict[str, Any] = {  # of a command whose jobs are independent
    "type": click.Choice(["processes", "ray"]),
    "default": "processes",
    "group": "Running",
    "help": "Processes on this machine, or the Ray cluster at RAY_ADDRESS.",
}
region_option = option(
    "--region",
    group="Input",
    type=click.Choice(["auto", *REGION_NAMES]),
    default="auto",
    help="Body region of the scan; auto recognises regions along z.",
)
accept_hu_option = option(
    "--accept-hu",
    group="Input",
    is_flag=True,
    help="Process the scan even if its values do not look like HU.",
)
straighten_option = option(
    "--straighten",
    group="Input",
    is_flag=True,
    help="Resample a DICOM series with a tilted gantry or uneven slice spacing.",
)
dicom_options = all_of(
    option("--series", group="Input", help="DICOM series to read: its UID, or the end of its UID."),
    straighten_option,
)
reading_options = all_of(dicom_options, accept_hu_option)
page_option = option(
    "--report", type=FILE, group="Output", help="New folder for index.html, a page with the result."
)


def write_view(folder: Path, view: View, model: Model, figures: dict[str, Any]) -> None:
    """Write the page of a result, with the settings of this command, to the folder of --report.

    figures: about the result, ready for JSON.
    """
    from ..core.errors import shown
    from ..core.version import __version__
    from ..model.weights import describe
    from ..reports.viewer.page import write_page

    command = click.get_current_context()
    settings = json.loads(json.dumps(command.params, default=shown))
    about = {"settings": settings, "weights": describe(model.path)[2], "version": __version__}
    subject = command.params.get("input", command.params["output"])
    title = f"denovox {command.info_name}: {shown(subject)}"
    write_page(folder, view, title, {**figures, **about}, command.params["force"])


def control_option(default: str) -> Callable[..., Any]:
    """`weights_option` of a command that can use a control."""
    return option(
        "--weights",
        "--control",
        group="Model",
        multiple=True,
        default=(default,),
        help="A base, a control, or one of each: a bundled name, a file, the folder of a run, or"
        " hf://OWNER/NAME@REVISION. A control given alone brings its own base.",
    )


def read_ct(path: Path, given: dict[str, Any]) -> Volume:
    """The CT in a file or folder, for the `reading_options` in `given`."""
    from ..scan import gate

    reading = {name: given[name] for name in ("series", "straighten", "accept_hu")}
    check_extras()
    volume = gate.read(path, **reading, say=say)
    if (run := current_run()) is not None:
        run.read(path, volume)
    return volume


def control_options(default: str) -> Callable[..., Any]:
    """`running_options` of a command that can use a control."""
    return all_of(force_option, control_option(default), model_options)


_loading: ContextVar[Callable[..., Model] | None] = ContextVar("loading", default=None)


@contextmanager
def loading_by(load: Callable[..., Model]) -> Iterator[None]:
    """Within the block commands take their models from here, in place of `inference.model.load`."""
    before = _loading.set(load)
    try:
        yield
    finally:
        _loading.reset(before)


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
    check_extras()
    ready = _loading.get() or load
    model = ready(names[0], run.get("device"), run.get("precision", "auto"), *names[1:])
    if model.control not in (None, control):
        takes = f"takes one for {control}" if control else "takes none"
        raise InputError(f"{names[-1]} is a control for {model.control}; {label} {takes}")
    if (current := current_run()) is not None:
        current.loaded(model)
    of_run = ("seed", "tile", "batch", "memory", "accept_hu")
    chosen = {name: run[name] for name in of_run if name in run}
    with progress(label) as done:
        notes = deque([""], maxlen=1)
        chosen |= {"note": notes.append, "progress": lambda share: done(share, notes[-1])}
        yield model, RunOptions(**chosen, say=say)


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
    own = next((own for own in (".nii.gz", ".nii", ".zip") if name.lower().endswith(own)), "")
    return output.with_name(name[: len(name) - len(own)] + end)
