"""The protocols of `denovox evaluate`, one row each: names, help texts and dispatch come from here.

Only text lives in this file; a row's function is imported when it runs, so that help is quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from ..core.errors import InputError, did_you_mean

Kind = Literal["pairs", "simulated", "realism", "lesions"]
KINDS: dict[Kind, str] = {
    "pairs": "Compare restored files, from any method, with their references.",
    "simulated": "Run a model on scans with simulated noise, thick slices or lesions.",
    "realism": "Compare a set of synthetic scans with a set of real ones.",
    "lesions": "Measure a control for lesions with segmenters trained on real ones.",
}


@dataclass(frozen=True)
class Protocol:
    """A row of the table.

    name: recorded in the results; `short` serves on the command line as well.
    columns: of the CSV that it reads. data: what the files have to be.
    convention: how it measures. source: publication and code that define it.
    options: those of its command that not all protocols of this kind take.
    function: "module:name" in this package. All functions of a kind take the same arguments:
    pairs: (pairs, method, seed, say) -> figures. simulated: (scan, its volume, RunContext) ->
    ScanResult. realism: (network, region, say) -> (function that extracts features, sha256).
    lesions: (cases with lesions, cases without, make, remove, StudyContext) -> StudyRows.
    """

    name: str
    kind: Kind
    function: str
    columns: tuple[str, ...]
    data: str
    convention: str
    source: str = "denovox"
    short: str = ""
    options: tuple[str, ...] = ()

    def run(self, *arguments: Any) -> Any:
        """Call the row's function."""
        module, _, name = self.function.partition(":")
        return getattr(import_module(f".{module}", __package__), name)(*arguments)


_PAIR, _MAP, _SCAN = ("reference", "test"), ("map", "mask"), ("patient", "scan")
_SETS = ("patient", "set", "scan")
_MAYO = "full-dose and restored scans in HU"
_BODY = (
    "both volumes clipped to the window of the region, whose width is the peak; all voxels of the"
    " body (anatomy.coarse of the reference) at once; SSIM: 2D, 11 x 11, sigma 1.5, mean over the"
    " body in a slice, then over slices, without the 5 voxels at the rim"
)
_STORE = "a store written by `denovox prepare` from scans with masks of lesions"

PROTOCOLS = (
    Protocol(
        "mayo16-redcnn",
        "pairs",
        "pairs:redcnn",
        _PAIR,
        f"{_MAYO}; state kernel (B30 or D45) and thickness (1 or 3 mm)",
        "clipped to [-160, 240] HU, peak 400 HU; SSIM pads with zeros; mean over slices",
        "Chen et al. 2017, AAPM-Mayo 2016 L506; SSinyu/RED-CNN measure.py, solver.py",
    ),
    Protocol(
        "mayo16-corediff",
        "pairs",
        "pairs:corediff",
        _PAIR,
        f"{_MAYO}, slices of 1 mm; state kernel and dose",
        "clipped to [-1000, 1000] HU, peak: the range of the reference slice; SSIM pads with"
        " zeros; mean over slices, without the first and the last",
        "Gao et al. 2023, AAPM-Mayo 2016 L506; qgao21/CoreDiff utils/measure.py,"
        " models/basic_template.py",
    ),
    Protocol(
        "mayo16-founddiff",
        "pairs",
        "pairs:founddiff",
        _PAIR,
        f"{_MAYO}, slices of 1 mm; state kernel and dose",
        "clipped to [-1000, 2000] HU, peak 3000 HU; SSIM reflects at the rim and is clipped to 0"
        " to 1 in each voxel; mean over slices",
        "Chen et al. 2025, AAPM-Mayo 2016 test scans; hao1635/FoundDiff src/DADiff.py, src/util.py",
    ),
    Protocol(
        "rplhr",
        "pairs",
        "pairs:rplhr",
        _PAIR,
        "volumes of 1 mm and restored ones in the [0, 1] of the released files (5 mm slice k is"
        " at 5k)",
        "5 slices left out at each end; PSNR of the volume, peak 1; SSIM pads with zeros",
        "Yu et al. 2022, RPLHR-CT, 100 test cases; smilenaxx/RPLHR-CT code/test.py,"
        " code/utils/non_model.py",
    ),
    Protocol(
        "bmad-liver",
        "pairs",
        "pairs:bmad",
        _MAP,
        "an anomaly map and a lesion mask for each image",
        "AUROC of images and of pixels; PRO to a false positive rate of 0.3, 200 thresholds",
        "Bao et al. 2024, BMAD liver test images (LiTS slices); PRO as in anomalib",
    ),
    Protocol(
        "simulated-dose",
        "simulated",
        "simulated_tasks:lower_dose",
        _SCAN,
        "any CT",
        f"{_BODY}; bias: mean of (result - reference) in HU, not clipped, over the voxels of a"
        " tissue in the reference, away from edges (reports/faithfulness.tissues)",
        short="dose",
        options=("dose",),
    ),
    Protocol(
        "simulated-slab",
        "simulated",
        "simulated_tasks:thick_slices",
        _SCAN,
        "CT whose slice spacing the model supports (the bundled base: 0.7 to 10 mm), at least three"
        " thick slices of a region",
        f"{_BODY}; the first and last thick slice are left out, where all methods extrapolate;"
        " averaged back: |mean over each slab - the slab| in HU, not clipped, all voxels",
        short="slab",
        options=("factor",),
    ),
    Protocol(
        "planted-lesions",
        "simulated",
        "simulated_tasks:plant_lesions",
        _SCAN,
        "CT that counts as healthy, of chest or abdomen",
        "score: |z| of the anomaly map, over all voxels of the body in the slices of the region;"
        " AUROC, average precision and PRO (area to FPR 0.3, over 0.3; each lesion counts as one)"
        " of each scan with a lesion, then their mean; scan AUROC: one score per scan, with lesion"
        " against original; detected: share of scans whose score a lesion raises",
    ),
    Protocol(
        "radiomic",
        "realism",
        "realism:radiomic",
        _SETS,
        "real, synthetic and optionally training scans",
        "37 features of texture and histogram (metrics/texture.py) of the body (anatomy.coarse) in"
        " each region's slices, in the region's window, on each scan's own grid; in SDs of the"
        " real set, from its mean",
        options=("region",),
    ),
    Protocol(
        "fid25d-maisi",
        "realism",
        "realism:fid25d",
        _SETS,
        "real, synthetic and optionally training scans; a 2D network in --weights",
        "RAS, 1 mm linear, padded with -1000 HU or cropped to 512^3, clipped to [-1000, 1000] HU;"
        " of each plane the middle 40 % of the slices, min-max over them together, BGR minus"
        " (.406, .456, .485); rows are slices; mean of three planes",
        "MAISI compute_fid_2-5d_ct.py; network:"
        " hub:Warvito/radimagenet-models:radimagenet_resnet50",
        options=("weights",),
    ),
    Protocol(
        "fid3d-medicalnet",
        "realism",
        "realism:fid3d",
        _SETS,
        "real, synthetic and optionally training scans; a 3D network in --weights",
        "input as in denovox: 2 mm area-weighted, middle 192^3, padded with -1000 HU, clipped to"
        " [-1000, 1000] HU, mean 0 and SD 1; MONAI's layout (stride 2 in layers 3 and 4, where"
        " Tencent's own has dilation)",
        "Tencent/MedicalNet, resnet_50_23dataset",
        options=("weights",),
    ),
    Protocol(
        "lesion-generation",
        "lesions",
        "lesions.study:generation",
        (),
        _STORE,
        "--method: synthetic lesions in scans of the held-out patient, away from real ones;"
        " untouched: the same places of the same scans; real: the patient's own lesions; real,"
        " trained with synthetic: the same, by a segmenter trained on synthetic lesions as well",
        short="generation",
    ),
    Protocol(
        "lesion-inpainting",
        "lesions",
        "lesions.study:inpainting",
        (),
        _STORE,
        "--method: the patient's own lesions, cut out with 4 mm around them and synthesized again"
        " from their masks; removed: the same holes filled without a lesion; cut out: filled with"
        " the nearest voxels outside; real: the original scan; left: what the segmenter outlines"
        " in the holes, as a share of the lesions",
        short="inpainting",
    ),
)


def protocol(name: str, kind: Kind | None = None) -> Protocol:
    """The row of that name; `InputError` where there is none, or it is of another kind."""
    known = {text: row for row in PROTOCOLS for text in (row.name, row.short) if text}
    row = known.get(name)
    if row is not None and kind in (None, row.kind):
        return row
    if row is not None:
        raise InputError(f"'{name}' is a protocol of `denovox evaluate {row.kind}`, not of {kind}")
    rows = [one for one in PROTOCOLS if kind in (None, one.kind)]
    hint = did_you_mean(name, [text for text, one in known.items() if one in rows])
    names = ", ".join(one.short or one.name for one in rows)
    raise InputError(f"protocol '{name}' is not known{hint}; choose one of {names}")
