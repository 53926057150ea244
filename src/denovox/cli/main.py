"""The command line: the group of all commands.

torch and everything else that is slow to import is imported inside the commands.
"""

from __future__ import annotations

import click

from ..core.version import __version__
from . import (
    batch,
    data,
    detect,
    edit,
    evaluate,
    info,
    mcp,
    pack,
    restore,
    simulate,
    synthesize,
    train,
)
from .commands import Main
from .drawing import phantoms


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="denovox")
def main() -> None:
    """A diffusion foundation model for CT, from head to abdomen.

    For research; not a medical device.

    Results go to stdout, progress and notes to stderr. Exit code 2 means that
    the input is invalid.
    """


main.add("Restore", restore.denoise, restore.superres)
main.add("Detect", detect.detect, detect.calibrate)
main.add(
    "Generate", synthesize.synthesize, phantoms.phantom, edit.lesion, edit.inpaint, edit.augment
)
main.add("Many scans", batch.batch)
main.add("Data", data.doctor, data.prepare, simulate.simulate)
main.add("Train", train.pretrain, train.finetune, train.adapt, pack.plan, pack.pack)
main.add("Evaluate", evaluate.evaluate, train.ablate)
main.add("Share", pack.push, pack.export)
main.add("Other", synthesize.demo, info.view, info.info, mcp.mcp)
