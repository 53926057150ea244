#!/usr/bin/env python-real
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
        share = re.fullmatch(r"(\d+) %", line.strip())
        if share:
            print(f"<filter-progress>{int(share[1]) / 100}</filter-progress>", flush=True)
        else:
            print(line, end="", file=sys.stderr, flush=True)
sys.exit(process.returncode)
