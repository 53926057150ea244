"""How fast random multi-level samples come out of a store, against four other ways to keep scans.

    python benchmarks/store.py [--data ../shared/ct] [--work /tmp/denovox-store] [--samples 90]

The set: scans of `--data` brought to 1 mm (so upsampled) with fresh noise of 12 HU, because smooth
copies would pack better than scans do. A sample is 128^3 HU and labels, of the whole volume, of a
2x crop or of a crop, each as likely (METHOD 1); every side draws the same boxes. Each side runs in
a process of its own, one thread, files out of the page cache first.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import nibabel
import numpy as np

from denovox.core.resample import nearest, resize
from denovox.datasets import store
from denovox.datasets.manifest import CaseFacts
from denovox.datasets.samples.choice import SampleConfig
from denovox.datasets.samples.multilevel import crop_box
from denovox.io import nifti
from denovox.scan import anatomy

PATCH, NOISE_HU, MM = 128, 12.0, 1.0
GRID = (PATCH,) * 3
NAMES = (
    "torso_CCTH-A01",
    "chest_4DLung-113",
    "chest_LIDC-0314",
    "abdomen_ACRIN-001",
    "headneck_ACRIN-001_defaced",
)
Read = Callable[[int], tuple[np.ndarray, np.ndarray]]


def boxes(shapes: list[tuple[int, int, int]]) -> Callable[[int], tuple[int, int, list, list]]:
    """n -> (case, level, start, size): the same for every side."""

    def draw(n: int) -> tuple[int, int, list, list]:
        rng = np.random.default_rng([7, n])
        which, level = int(rng.integers(len(shapes))), n % 3
        return which, level, *crop_box(shapes[which], level, SampleConfig(patch=PATCH), rng)

    return draw


def make(data: Path, work: Path) -> None:
    """Every side's files, from the same voxels."""
    for name in NAMES:
        if (work / "done" / name).exists():
            continue
        volume = nifti.read(data / f"{name}_ct.nii.gz")
        grid = tuple(
            round(n * mm / MM) for n, mm in zip(volume.shape, volume.spacing_mm, strict=True)
        )
        ids = nearest(anatomy.coarse(volume), grid)
        hu = resize(volume.hu, grid)
        hu += NOISE_HU * np.random.default_rng(0).standard_normal(grid, np.float32)
        ct = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
        for folder in ("nii", "npy", "done"):
            (work / folder).mkdir(parents=True, exist_ok=True)
        affine = np.diag([MM, MM, MM, 1.0])
        nibabel.Nifti1Image(ct, affine).to_filename(work / "nii" / f"{name}.nii.gz")
        nibabel.Nifti1Image(ids, affine).to_filename(work / "nii" / f"{name}_seg.nii.gz")
        np.save(work / "npy" / f"{name}.npy", ct)
        np.save(work / "npy" / f"{name}_seg.npy", ids)
        facts = CaseFacts(id=name, patient=name, region="chest", spacing_mm=(MM,) * 3)
        store.add(work / "store", facts, ct, ids)
        case = store.Case(
            str(work / "store"), facts.model_copy(update={"id": f"{name}/chest", "shape": ct.shape})
        )
        for level in range(len(store.pyramid(ct.shape))):
            for kind in ("ct", "anatomy"):
                target = work / "npy-pyramid" / name / kind
                target.mkdir(parents=True, exist_ok=True)
                np.save(target / f"{level}.npy", case.voxels(kind, level)[...])
        (work / "done" / name).touch()
        print(f"{name}: {ct.shape}", flush=True)
    store.index(work / "store")


def denovox(work: Path) -> Read:
    every = [store.Case(c.root, c.facts) for c in store.cases(work / "store")]
    draw = boxes([case.facts.shape for case in every])

    def read(n: int) -> tuple[np.ndarray, np.ndarray]:
        which, _, start, size = draw(n)
        return every[which].read(start, size, GRID)

    return read


def mmap_pyramid(work: Path) -> Read:
    """(d'): our pyramid and our reading, on memory-mapped .npy files."""

    def voxels(case: store.Case, kind: str = "ct", level: int = 0) -> np.ndarray:
        name = case.facts.id.split("/")[0]
        return np.load(work / "npy-pyramid" / name / kind / f"{level}.npy", mmap_mode="r")

    store.Case.voxels = voxels  # type: ignore[method-assign, assignment]
    return denovox(work)


def mmap(work: Path) -> Read:
    """(d): a memory-mapped .npy of the scan, boxes resized by the same `resize`."""
    files = sorted(p for p in (work / "npy").glob("*.npy") if not p.stem.endswith("_seg"))
    cts = [np.load(p, mmap_mode="r") for p in files]
    segs = [np.load(p.with_name(f"{p.stem}_seg.npy"), mmap_mode="r") for p in files]
    draw = boxes([ct.shape for ct in cts])

    def read(n: int) -> tuple[np.ndarray, np.ndarray]:
        which, _, start, size = draw(n)
        where = tuple(slice(int(a), int(a + s)) for a, s in zip(start, size, strict=True))
        return (
            resize(np.asarray(cts[which][where], np.float32), GRID),
            nearest(np.asarray(segs[which][where]), GRID),
        )

    return read


def _scans(work: Path) -> list[Path]:
    return sorted(p for p in (work / "nii").glob("*.nii.gz") if "_seg" not in p.name)


def _seg(path: Path) -> Path:
    return path.with_name(path.name.replace(".nii.gz", "_seg.nii.gz"))


def nibabel_gz(work: Path) -> Read:
    """(a): nibabel's own partial reading of .nii.gz, boxes resized by the same `resize`."""
    files = _scans(work)
    draw = boxes([nibabel.load(p).shape for p in files])

    def read(n: int) -> tuple[np.ndarray, np.ndarray]:
        which, _, start, size = draw(n)
        where = tuple(slice(int(a), int(a + s)) for a, s in zip(start, size, strict=True))
        ct, seg = (nibabel.load(p).dataobj[where] for p in (files[which], _seg(files[which])))
        return resize(np.asarray(ct, np.float32), GRID), nearest(np.asarray(seg, np.uint8), GRID)

    return read


def monai(work: Path) -> Read:
    """(b): PersistentDataset (its cache filled beforehand), RandSpatialCrop, Resize by area."""
    import torch
    from monai.data import PersistentDataset
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        RandSpatialCropd,
        Resized,
    )

    torch.set_num_threads(1)
    keys, modes = ("image", "label"), ("area", "nearest")  # its own anti-aliasing takes 30 s a scan
    load = [LoadImaged(keys), EnsureChannelFirstd(keys)]
    files = [{"image": str(p), "label": str(_seg(p))} for p in _scans(work)]
    data = PersistentDataset(files, Compose(load), work / "monai")
    resized = Resized(keys, GRID, mode=modes)

    def crop(size: int) -> RandSpatialCropd:
        return RandSpatialCropd(keys, (size,) * 3, random_size=False)

    by_level = (resized, Compose([crop(2 * PATCH), resized]), crop(PATCH))
    draw = boxes([nibabel.load(p).shape for p in _scans(work)])

    def read(n: int) -> tuple[np.ndarray, np.ndarray]:
        which, level, _, _ = draw(n)
        got = by_level[level](data[which])
        return np.asarray(got["image"][0]), np.asarray(got["label"][0])

    return read


def torchio(work: Path) -> Read:
    """(c): a Queue for each level, eight patches of every scan that it loads."""
    import torch
    import torchio as tio

    torch.set_num_threads(1)
    subjects = [
        tio.Subject(image=tio.ScalarImage(p), label=tio.LabelMap(_seg(p))) for p in _scans(work)
    ]
    resized = tio.Resize(GRID)
    whole = tio.SubjectsDataset(subjects, transform=resized)

    def queue(size: int) -> Iterator[tio.Subject]:
        data = tio.SubjectsDataset(subjects)
        while True:
            patches = tio.Queue(data, 8, 8, tio.UniformSampler(size), num_workers=0)
            for i in range(len(patches)):
                yield patches[i]

    small, large = queue(PATCH), queue(2 * PATCH)
    draw = boxes([nibabel.load(p).shape for p in _scans(work)])

    def read(n: int) -> tuple[np.ndarray, np.ndarray]:
        which, level, _, _ = draw(n)
        got = whole[which] if level == 0 else resized(next(large)) if level == 1 else next(small)
        return np.asarray(got["image"].data[0]), np.asarray(got["label"].data[0])

    return read


SIDES: dict[str, tuple[Callable[[Path], Read], str, int]] = {  # maker, folder, share of samples
    "denovox store": (denovox, "store", 1),
    "(a) nibabel, .nii.gz": (nibabel_gz, "nii", 3),
    "(b) MONAI PersistentDataset": (monai, "monai", 3),
    "(c) TorchIO Queue": (torchio, "nii", 1),
    "(d) .npy, memory-mapped": (mmap, "npy", 1),
    "(d') .npy with our pyramid": (mmap_pyramid, "npy-pyramid", 1),
}


def peak_mb() -> float:
    """The most memory this process has held; unlike ru_maxrss, nothing of its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024


def forget(folder: Path) -> None:
    """Files of a folder out of the page cache."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def side(name: str, work: Path, samples: int) -> dict[str, float]:
    """Measured in this process: samples per second, cold and warm, and peak memory."""
    maker, folder, share = SIDES[name]
    read = maker(work)
    if folder == "monai":
        for n in range(3 * len(NAMES)):
            read(n)  # fills its cache
    count = 3 * max(4, samples // share // 3)
    out: dict[str, float] = {"samples": count}
    for state in ("cold", "warm"):
        if state == "cold":
            forget(work / folder)
        levels = [0.0] * 3
        for n in range(count):
            began = time.perf_counter()
            hu, ids = read(n)
            levels[n % 3] += time.perf_counter() - began
            assert hu.shape == ids.shape == GRID
        out[state] = count / sum(levels)
        out |= {f"{state} level {i} ms": 3000 * s / count for i, s in enumerate(levels)}
    out["MB"] = peak_mb()
    files = (p for p in (work / folder).rglob("*") if p.is_file())
    out["disk MB"] = sum(p.stat().st_size for p in files) / 1e6
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/ct"))
    parser.add_argument("--work", type=Path, default=Path("/tmp/denovox-store"))
    parser.add_argument("--samples", type=int, default=90)
    parser.add_argument("--side")
    told = parser.parse_args()
    if told.side:
        print(json.dumps(side(told.side, told.work, told.samples)))
        return
    make(told.data, told.work)
    found = {}
    for name in SIDES:
        again = [sys.executable, __file__, "--work", str(told.work), "--side", name]
        again += ["--samples", str(told.samples)]
        out = subprocess.run(again, stdout=subprocess.PIPE, text=True, check=True).stdout
        found[name] = json.loads(out.splitlines()[-1])
        print(name, found[name], flush=True)
    ours = found["denovox store"]
    print("\n| | samples/s cold | warm | ours is faster, cold | warm | peak MB | disk MB |")
    print("|---|---|---|---|---|---|---|")
    for name, one in found.items():
        print(
            f"| {name} | {one['cold']:.2f} | {one['warm']:.2f} | {ours['cold'] / one['cold']:.1f}"
            f" | {ours['warm'] / one['warm']:.1f} | {one['MB']:.0f} | {one['disk MB']:.0f} |"
        )


if __name__ == "__main__":
    main()
