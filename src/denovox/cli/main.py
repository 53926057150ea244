"""The command line: one group of the commands in this package.

torch and everything slow are imported inside the commands.
"""

from __future__ import annotations

import click

from .. import __version__
from . import (
    ablate,
    data,
    detect,
    edit,
    evaluate,
    info,
    pack,
    plan,
    restore,
    simulate,
    synthesize,
    train,
)
from .options import Quiet


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
    synthesize.synthesize,
    edit.lesion,
    edit.inpaint,
    edit.augment,
    data.doctor,
    data.prepare,
    plan.plan,
    train.pretrain,
    train.finetune,
    pack.pack,
    ablate.ablate,
    evaluate.evaluate,
    simulate.simulate,
    info.info,
    synthesize.demo,
):
    main.add_command(command)
