"""The bundled calibrations, made again: after every change of the bundled weights.

    python benchmarks/calibrations.py          # writes src/denovox/calibrations/<region>.json

It runs `denovox calibrate` on the training patients of shared/ct, one or more a region, with what
is known to be ill left out, and with the regions found along z. The validation patients (CRLM-1006,
ACRIN-013) are not among them. About twelve minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from denovox.cli import main as cli

HERE = Path(__file__).resolve().parent
SCANS = (
    "abdomen_ACRIN-001",
    "abdomen_CPTAC-PDA-00189_noisy",
    "abdomen_TSexample_sm",
    "chest_4DLung-113",
    "chest_LIDC-0314",
    "chest_NSCLCRG-R01-001",
    "headneck_ACRIN-001_defaced",
)
LESIONS = {"chest_4DLung-113": "rtstruct", "chest_NSCLCRG-R01-001": "autonodule"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "ct")
    parser.add_argument("--weights", default="base")
    parser.add_argument("--out", type=Path, default=HERE.parent / "src/denovox/calibrations")
    args = parser.parse_args()
    words = [str(args.data / f"{scan}_ct.nii.gz") for scan in SCANS]
    for scan, mask in LESIONS.items():
        files = (f"{scan}_ct.nii.gz", f"{scan}_{mask}.nii.gz")
        words += ["--lesions", *(str(args.data / file) for file in files)]
    words += ["--out", str(args.out), "--weights", args.weights, "--force"]
    print("denovox calibrate", *words, flush=True)
    cli.main(["calibrate", *words])


if __name__ == "__main__":
    main()
