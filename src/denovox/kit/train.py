"""Run a kit: inspect the machine, train, and deliver the results."""

from __future__ import annotations

import csv
import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from ..core.errors import InputError, line
from ..io.atomic import write_file
from ..model import weights
from ..train import checkpoint

PART = 16_000_000  # maximum bytes per file
LOOK_S = 0.2  # interval for checking whether the first step is done


FILE = click.Path(path_type=Path)


@click.command()
@click.argument("kit", type=FILE)
@click.argument("work", type=FILE)
@click.argument("out", type=FILE)
@click.option("--began", type=float, required=True, help="When run.sh was started (Unix time).")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True))
@click.option("--state", is_flag=True)
def main(
    kit: Path, work: Path, out: Path, began: float, minutes: float | None, state: bool
) -> None:
    """Internal, called by `run.sh` of a kit: train its recipe in WORK/run, deliver to OUT."""
    try:
        _train(kit, work, out, began, minutes, state)
    except InputError as error:
        _say(f"denovox: {error}")
        raise SystemExit(2) from None


def _say(text: str) -> None:
    click.echo(text, err=True)


def _train(
    kit: Path, work: Path, out: Path, began: float, minutes: float | None, state: bool
) -> None:
    facts = json.loads((kit / "kit.json").read_text())
    found = machine()
    _say(f"Python {found['python']}, torch {found['torch']}, {found['text']}")
    _writable(out)
    run, started = work / "run", time.time()
    if (kit / "state").is_dir() and not (run / checkpoint.NAME).exists():
        shutil.copytree(kit / "state", run, dirs_exist_ok=True)
    code, first = _trained(_command(facts["command"], run, minutes), kit, run / "log.csv")
    measured = {**found, **figures(run / "log.csv"), **_steps(run)}
    measured["seconds_to_first_step"] = round(first - began, 1) if first else None
    measured["seconds_trained"] = round(time.time() - started, 1)
    try:
        written = deliver(run, out, measured, state)
    except OSError as error:
        why = error.strerror or line(error)
        raise InputError(f"{out} could not be written ({why}); the results are in {run}") from None
    _say(f"{out}: {', '.join(written)}")
    raise SystemExit(code)


def machine() -> dict[str, Any]:
    """Software and device of this machine; `text` describes the device in words."""
    import torch

    found = {"python": platform.python_version(), "torch": torch.__version__}
    if not torch.cuda.is_available():
        return {**found, "device": "cpu", "text": "no CUDA: training on the CPU"}
    name, memory = torch.cuda.get_device_name(0), torch.cuda.mem_get_info()[1] / 1e9
    return {
        **found,
        "device": name,
        "cuda": torch.version.cuda,
        "device_memory_gb": round(memory, 1),
        "text": f"{name} with {memory:.0f} GB, CUDA {torch.version.cuda}",
    }


def _writable(out: Path) -> None:
    """Raise `InputError` if results could not be written; checked before training, not after."""
    probe = out / ".denovox"
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_file(probe, bytes(4096))
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror or line(error)})") from None
    finally:
        probe.unlink(missing_ok=True)


def _command(name: str, run: Path, minutes: float | None) -> list[str]:
    command = [sys.executable, "-m", "denovox", name, "recipe.toml", "--out", str(run.absolute())]
    # With minutes, the run fixes its steps, so that the learning rate decays in time.
    return command if minutes is None else [*command, "--minutes", f"{minutes:g}"]


def _trained(command: list[str], kit: Path, log: Path) -> tuple[int, float]:
    """Run it in the kit's folder: (exit code, time when its first step was done; 0 if never).

    log.csv is recreated at the first step. Ctrl-C and SIGTERM end the training, not the delivery.
    """
    before = log.stat().st_ino if log.exists() else None
    process = subprocess.Popen(command, cwd=kit)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both
    signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    first = 0.0
    while process.poll() is None:
        if not first and log.exists() and log.stat().st_ino != before:
            first = time.time()
        time.sleep(LOOK_S)
    return process.returncode, first


def figures(log: Path) -> dict[str, Any]:
    """Speeds and losses from a log.csv; empty if there is none.

    Speed and waiting are medians over all rows but the first, in which caches fill.
    """
    if not log.exists():
        return {}
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return {}

    def column(name: str, of: list[dict[str, str]]) -> list[float]:
        return [float(row[name]) for row in of if row.get(name)]

    def median(values: list[float]) -> float | None:
        return sorted(values)[len(values) // 2] if values else None

    steady = rows[1:] or rows
    validated = column("validation", rows)
    return {
        "steps": int(rows[-1]["step"]),
        "samples_per_s": median(column("samples_per_s", steady)),
        "share_waiting_for_samples": median(column("waiting", steady)),
        "peak_memory_mb": max(column("memory_mb", rows), default=None),
        "loss": next(iter(column("loss", rows[::-1])), None),
        "validation": validated[-1] if validated else None,
        "best_validation": min(validated, default=None),
    }


def _steps(run: Path) -> dict[str, Any]:
    """The step of the weights, from their card; the last row of the log may be older."""
    for path in run.glob("*.safetensors"):
        return {"steps": weights.describe_any(path)[1]["steps"]}
    return {}


def deliver(run: Path, out: Path, measured: dict[str, Any], state: bool) -> list[str]:
    """Copy the results of a run to `out`; returns the file names. `OSError` if the disk is full."""
    written: list[str] = []
    for path in sorted(run.glob("*.safetensors")):
        written += parts(path, out, path.name)
    write_file(out / "speeds.json", json.dumps(measured, indent=1) + "\n")
    written.append("speeds.json")
    sheets = sorted(run.glob("samples/*.png"))
    for path, name in ((run / "log.csv", "log.csv"), *((p, "samples.png") for p in sheets[-1:])):
        if path.exists():
            written += parts(path, out, name)
    if state and (run / checkpoint.NAME).exists():
        written += parts(run / checkpoint.NAME, out, checkpoint.NAME)
    return written


def parts(path: Path, out: Path, name: str) -> list[str]:
    """Copy a file in pieces of at most `PART` bytes; a single piece keeps its name.

    `cat NAME.part* > NAME` joins several.
    """
    for old in (out / name, *out.glob(f"{name}.part*")):
        old.unlink(missing_ok=True)
    count = max(1, -(-path.stat().st_size // PART))
    names = [name] if count == 1 else [f"{name}.part{n:03d}" for n in range(1, count + 1)]
    with path.open("rb") as file:
        for piece in names:
            write_file(out / piece, file.read(PART))
    return names


if __name__ == "__main__":
    main(prog_name="run.sh")
