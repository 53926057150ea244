"""Writes slicer/cli from the commands themselves: python slicer/generate_cli.py

Each command becomes a command line module of Slicer: a description of its parameters in XML, in
SlicerExecutionModel's format, and a script that runs the command.
"""

from __future__ import annotations

import inspect
import xml.etree.ElementTree as ET
from pathlib import Path

import click

from denovox.cli.commands import SECTIONS
from denovox.cli.main import main
from denovox.core.version import __version__

FOLDER = Path(__file__).parent / "cli"
# `lesion` is not among them: it writes two more files, which Slicer would not load.
TITLES = {
    "denoise": "Denoise CT",
    "superres": "Thin CT slices",
    "detect": "Map CT anomalies",
    "inpaint": "Replace CT region",
    "synthesize": "Synthesize CT",
}
UNUSED = ("progress", "calibration", "series", "straighten")  # Slicer's own, or of DICOM
FEW = ("Options", "Input")  # sections that are shown at once; the others are advanced
SCRIPT = '''#!/usr/bin/env python-real
"""Runs the command of denovox that this file is named after. Written by slicer/generate_cli.py."""

import re
import subprocess
import sys
from pathlib import Path

if sys.argv[1:] == ["--xml"]:
    print(Path(__file__).with_suffix(".xml").read_text("utf-8"), end="")
    sys.exit()
command = Path(__file__).stem[len("Denovox") :].lower()
always = ["--force", "--no-manifest", "--progress", "plain"]
words = [sys.executable, "-m", "denovox", command, *always, *sys.argv[1:]]
pipe = {"stderr": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
with subprocess.Popen(words, **pipe) as process:
    for line in process.stderr:
        share = re.fullmatch(r"(\\d+) %", line.strip())
        if share:
            print(f"<filter-progress>{int(share[1]) / 100}</filter-progress>", flush=True)
        else:
            print(line, end="", file=sys.stderr, flush=True)
sys.exit(process.returncode)
'''


def module_name(command: str) -> str:
    """The name of a module, and of its files."""
    return f"Denovox{command.capitalize()}"


def description(command: click.Command) -> str:
    """The parameters of a command in XML."""
    about = inspect.cleandoc(command.help or "").replace("`", "").split("\n\n")[0]
    root = ET.Element("executable")
    for tag, text in (
        ("category", "Denovox"),
        ("title", f"{TITLES[str(command.name)]} (denovox)"),
        ("description", f"{' '.join(about.split())} For research only; not a medical device."),
        ("version", __version__),
        ("documentation-url", ""),
        ("license", "Apache-2.0"),
        ("contributor", "The denovox contributors"),
    ):
        ET.SubElement(root, tag).text = text
    volumes = [param for param in command.params if isinstance(param, click.Argument)]
    group(root, "Volumes", [volume(param, index) for index, param in enumerate(volumes)])
    for section in SECTIONS:
        offered = [
            option(param)
            for param in command.params
            if isinstance(param, click.Option)
            and getattr(param, "group", "") == section
            and shown(param)
        ]
        if offered:
            group(root, section, offered, advanced=section not in FEW)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def shown(param: click.Option) -> bool:
    """Whether Slicer shows an option: what is written besides OUTPUT would not be loaded."""
    unused = getattr(param, "group", "") == "Output" or param.name in UNUSED
    return not (unused or param.hidden)


def group(root: ET.Element, label: str, parts: list[ET.Element], advanced: bool = False) -> None:
    """A section of the panel."""
    made = ET.SubElement(root, "parameters", {"advanced": "true"} if advanced else {})
    ET.SubElement(made, "label").text = label
    ET.SubElement(made, "description").text = label
    made.extend(parts)


def parameter(tag: str, name: str, about: str, **attributes: str) -> ET.Element:
    """What every parameter has."""
    made = ET.Element(tag, attributes)
    ET.SubElement(made, "name").text = name
    ET.SubElement(made, "label").text = name.replace("_", " ").capitalize()
    ET.SubElement(made, "description").text = about
    return made


def volume(param: click.Argument, index: int) -> ET.Element:
    """INPUT or OUTPUT. denovox reads NRRD, Slicer's own format, and writes NIfTI."""
    channel = str(param.name)
    about, ending = {"input": ("CT scan in HU", ".nrrd"), "output": ("Result", ".nii.gz")}[channel]
    made = parameter("image", channel, about, type="scalar", fileExtensions=ending)
    ET.SubElement(made, "channel").text = channel
    ET.SubElement(made, "index").text = str(index)
    return made


def option(param: click.Option) -> ET.Element:
    """An option. Slicer passes every number and choice, so that one without a default is a string,
    which is left out while it is empty."""
    name, about = str(param.name), param.help or ""
    default = param.default[0] if isinstance(param.default, tuple) else param.default
    if isinstance(param.type, click.Path):
        made = parameter("image", name, about, type="label", fileExtensions=".nrrd")
        ET.SubElement(made, "channel").text = "input"
    elif param.is_flag:
        made = parameter("boolean", name, about)
        ET.SubElement(made, "default").text = "false"
    elif isinstance(param.type, click.Choice):
        made = parameter("string-enumeration", name, about)
        ET.SubElement(made, "default").text = str(default)
        for choice in param.type.choices:
            ET.SubElement(made, "element").text = choice
    else:
        number = isinstance(default, int) and not isinstance(default, bool)
        made = parameter("integer" if number else "string", name, about)
        ET.SubElement(made, "default").text = str(default) if isinstance(default, int | str) else ""
    ET.SubElement(made, "longflag").text = next(one for one in param.opts if one.startswith("--"))
    return made


def files() -> dict[str, str]:
    """The content of slicer/cli, by file name."""
    made = {}
    for command in TITLES:
        made[f"{module_name(command)}.py"] = SCRIPT
        made[f"{module_name(command)}.xml"] = description(main.commands[command])
    names = "".join(f"  {module_name(command)}\n" for command in TITLES)
    made["CMakeLists.txt"] = (
        f"# Written by slicer/generate_cli.py.\nforeach(name\n{names}  )\n"
        "  SlicerMacroBuildScriptedCLI(NAME ${name})\nendforeach()\n"
    )
    return made


def write() -> None:
    """Write them."""
    for name, content in files().items():
        (FOLDER / name).write_text(content, "utf-8")
        if name.endswith(".py"):
            (FOLDER / name).chmod(0o755)


if __name__ == "__main__":
    write()
