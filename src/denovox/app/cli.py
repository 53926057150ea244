"""The command line: one group of the commands in `commands/`.

torch and everything slow are imported inside the commands.
"""

from __future__ import annotations

import click

from .. import __version__
from .commands import (
    ablate,
    about,
    data,
    detect,
    edit,
    judge,
    learn,
    make,
    pack,
    plan,
    restore,
    simulate,
)
from .terminal import Quiet


@click.group(cls=Quiet, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="denovox")
def main() -> None:
    """A diffusion foundation model for CT, from head to abdomen.

    For research; not a medical device.
    """


for command in (
    restore.denoise,
    restore.superres,
    detect.detect,
    detect.calibrate,
    make.synthesize,
    edit.lesion,
    edit.inpaint,
    edit.augment,
    data.doctor,
    data.prepare,
    plan.plan,
    learn.pretrain,
    learn.finetune,
    pack.pack,
    ablate.ablate,
    judge.evaluate,
    simulate.simulate,
    about.info,
    make.demo,
):
    main.add_command(command)
