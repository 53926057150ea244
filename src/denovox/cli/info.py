"""`denovox info` and `denovox view`."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from ..core.version import __version__
from .commands import Command, option
from .options import FILE, force_option, read_ct, reading_options
from .progress import say


@click.command(cls=Command)
@click.argument("scan", type=FILE)
@click.argument("result", type=FILE, required=False)
@option("--mask", type=FILE, group="Input", help="Mask to draw over both, on the grid of RESULT.")
@reading_options
@option("--out", type=FILE, group="Output", help="HTML file.  [default: a temporary one]")
@force_option
def view(
    scan: Path,
    result: Path | None,
    mask: Path | None,
    out: Path | None,
    force: bool,
    **reading: Any,
) -> None:
    """Compare a scan with a result in a browser.

    SCAN and RESULT are CT scans in HU, in any format that `denovox denoise` reads. The result is a
    self-contained page with a before/after slider, which is opened; without RESULT, it shows SCAN
    alone. If RESULT is on another grid, SCAN is interpolated onto it. --out writes the page to a
    file instead, to keep or to share; the page contains the images, without the headers of their
    files.
    """
    import tempfile
    import webbrowser

    import numpy as np

    from ..core.errors import ensure, shown
    from ..core.resample import interpolated
    from ..io.atomic import check_writable, user_output, write_file
    from ..io.label_maps import marked
    from ..io.outputs import check_apart
    from ..reports.viewer.page import Overlay, View, page

    check_apart({"--out": out}, {"SCAN": scan, "RESULT": result, "--mask": mask})
    if out is not None:
        check_writable(out, force, (".html",))
    before = read_ct(scan, reading)
    after = None if result is None else read_ct(result, {**reading, "series": None})
    if after is not None and not before.grid.matches(after.grid):
        before = interpolated(before, after)
        apart = f"{result} and {scan} do not overlap; check that they belong together"
        ensure(bool(np.ptp(before.hu)), apart)
        say(f"{shown(scan)}: interpolated onto the grid of {shown(result)}")
    overlays: tuple[Overlay, ...] = ()
    if mask is not None:
        overlays = (Overlay("mask", marked(mask, before, say).astype(np.uint8)),)
    title = shown(scan) if result is None else f"{shown(scan)} and {shown(result)}"
    text = page(View(before, after, overlays), title)
    with user_output(out or tempfile.gettempdir()):
        if out is not None:
            write_file(out, text)
            return
        path = Path(tempfile.mkdtemp(prefix="denovox-")) / "index.html"
        path.write_text(text, "utf-8")
    say(f"opening {path}")
    ensure(
        webbrowser.open(path.as_uri()),
        f"no browser could be started to open {path}; write the page to a file with --out",
    )


@click.command(cls=Command)
@click.argument("weights", nargs=-1)
@option("--json", "as_json", is_flag=True, group="Output", help="Print JSON.")
def info(weights: tuple[str, ...], as_json: bool) -> None:
    """Show versions, devices and the cards of weights.

    WEIGHTS are bundled names, files, folders of runs, or hf://OWNER/NAME@REVISION; without any, all
    bundled weights.
    """
    from ..model.weights import FOLDER, locate

    paths = [locate(name) for name in weights] or sorted(FOLDER.glob("*.safetensors"))
    content = facts(paths)
    click.echo(json.dumps(content, indent=1) if as_json else prose(content))


def facts(paths: Sequence[Path]) -> dict[str, Any]:
    """Versions, devices, and the weights of files, as JSON types; `InputError` where a file has
    none."""
    import torch

    from ..model.denoiser import use_bfloat16
    from ..model.weights import describe_any

    devices = ["cpu"]
    devices += [
        f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
    ]
    found = []
    for path in paths:
        config, card, digest = describe_any(path)
        found.append(
            {
                "name": path.stem,
                "path": str(path),
                "megabytes": round(path.stat().st_size / 1e6, 1),
                "sha256": digest,
                "config": config.model_dump(mode="json"),
                "card": card,
            }
        )
    return {
        "version": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "devices": devices,
        "threads": torch.get_num_threads(),
        "bfloat16_on_cpu": use_bfloat16("auto", "cpu"),
        "weights": found,
    }


def prose(content: dict[str, Any]) -> str:
    """The facts as text."""
    threads = f"{content['threads']} CPU thread{'s' * (content['threads'] != 1)}"
    lines = [
        f"denovox {content['version']}  (Python {content['python']}, torch {content['torch']})",
        f"devices: {', '.join(content['devices'])}; {threads}",
    ]
    for one in content["weights"]:
        card = one["card"]
        parts = [earlier.get("steps", 0) for earlier in card.get("history", [])]
        steps = sum(parts, card.get("steps", 0))
        per_region = card.get("patients_per_region", {})
        regions = ", ".join(f"{name} {count}" for name, count in per_region.items())
        lines += [
            "",
            f"weights '{one['name']}': {one['megabytes']} MB, sha256 {one['sha256'][:12]}",
            f"  {card.get('text', '').strip()}",
            f"  trained for {steps} steps on {card.get('training_patients')} patients"
            f" ({regions}); validation loss {card.get('validation_loss')}",
            "  sources:",
            *(f"    {source}" for source in card.get("sources", [])),
        ]
    return "\n".join(lines)
