"""Denoise a scan, see where the model is unsure, and check what was changed.

    python examples/01_denoise_a_scan.py [CT [CLEAN.nii.gz]]

Without a CT it works on a procedural chest with noise. About a minute on two cores.
"""

import sys

import denovox
from denovox.simulate.phantom import add_noise, chest


def main(path: str = "", output: str = "", slices: int = 32) -> None:
    # Any CT in Hounsfield units: a DICOM folder, NIfTI, NRRD, MetaImage.
    ct = denovox.read(path) if path else add_noise(chest((80, 64, slices), 4.0).ct, 60.0, seed=0)
    model = denovox.load()
    options = denovox.RunOptions(say=print)  # prints which regions and how much noise there are

    # The context finds anatomy, regions and noise once, for both calls.
    context = denovox.ScanContext(ct, say=print)
    clean = model.denoise(ct, options=options, context=context)
    posterior = model.posterior(ct, n=2, options=options, context=context)

    report = denovox.report(ct, clean)
    print(f"mean change {report.change.mean_hu:.1f} HU within the body; {report.summary}")
    print(f"posterior SD up to {posterior.sd.hu.max():.0f} HU")
    if output:
        denovox.write(clean, output)  # geometry, type and header are the input's


if __name__ == "__main__":
    main(*sys.argv[1:3])
