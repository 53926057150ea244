"""NIfTI, NRRD and MetaImage that state a thing twice, wrongly or not at all (`file_variants`).

nibabel and SimpleITK say what is right where all statements agree; where they do not, there is a
note with both values, or the file is refused.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from file_variants import SHAPE, outcome, variants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from denovox.core.errors import InputError
from denovox.inference.doctor import examine
from denovox.io import formats, nifti
from denovox.scan import gate

TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
FLAWS = {  # of the second statement, on the file's axes; True: it must be refused
    "mirrored": (np.diag([-1.0, 1, 1, 1]), True),
    "turned round": (np.diag([-1.0, -1, 1, 1]), True),
    "2 % longer": (np.diag([1, 1, 1.02, 1]), True),
    "0.5 % longer": (np.diag([1, 1.005, 1, 1]), False),
    "a voxel off": (np.eye(4) + np.eye(4, k=3), False),
}


@pytest.mark.parametrize("seed", range(2))
def test_300_variants_are_read_right_or_refused_and_never_silently(
    tmp_path: Path, seed: int
) -> None:
    outcomes: dict[str, list[str]] = {}
    for number, variant in enumerate(variants(seed)):
        kind = variant.what.partition(":")[0]
        outcomes.setdefault(kind, []).append(outcome(variant, tmp_path / str(number)))
    assert sum(map(len, outcomes.values())) >= 280
    for found in outcomes.values():  # each format has its share of each
        assert found.count("right") >= 30
        assert found.count("note") >= 2
        assert found.count("refused") >= 45


@st.composite
def affines(draw: st.DrawFn, shear: bool = False) -> np.ndarray:
    """Axes permuted, flipped, turned by any angle, and sheared if asked for."""
    axes = np.eye(3)[:, draw(st.permutations(range(3)))]
    axes = axes * draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3))
    for axis in range(3):
        angle = np.radians(draw(st.integers(-180, 180)))
        c, s = np.cos(angle), np.sin(angle)
        turn = np.eye(3)
        a, b = [k for k in range(3) if k != axis]
        turn[[a, a, b, b], [a, b, a, b]] = c, -s, s, c
        axes = turn @ axes
    mm = draw(st.lists(st.floats(0.3, 6), min_size=3, max_size=3))
    affine = np.eye(4)
    affine[:3, :3] = axes * mm
    affine[:3, 3] = draw(st.lists(st.floats(-400, 400), min_size=3, max_size=3))
    if shear:
        affine[:3, 2] += affine[:3, 1] * draw(st.floats(-0.4, 0.4))
    return affine


def saved(path: Path, affine: np.ndarray, qform: np.ndarray | None, codes: tuple[int, int]) -> Path:
    """A NIfTI with these forms (codes: of sform and qform) and every voxel another value."""
    image = nib.Nifti1Image(np.arange(210, dtype=np.int16).reshape(SHAPE) * 5 - 1000, affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine if qform is None else qform, codes[1])
    nib.save(image, path)
    return path


QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(
    affine=affines(),
    codes=st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(any),
    ending=st.sampled_from(["nii", "nii.gz", "nrrd", "mha"]),
)
def test_where_all_statements_agree_others_read_the_same(
    tmp_path: Path, affine: np.ndarray, codes: tuple[int, int], ending: str
) -> None:
    path = saved(tmp_path / "a.nii", affine, None, codes)
    if ending != "nii":
        image = sitk.ReadImage(str(path))
        for key in image.GetMetaDataKeys():  # of NIfTI: ITK warns of what it cannot write
            image.EraseMetaData(key)
        path = tmp_path / f"a.{ending}"
        sitk.WriteImage(image, str(path))
    notes: list[str] = []
    volume = formats.read(path, say=notes.append)
    assert not notes
    image = sitk.ReadImage(str(path))
    values = sitk.GetArrayFromImage(image)
    if path.name.endswith((".nii", ".nii.gz")):
        canonical = nib.as_closest_canonical(nib.load(path))
        np.testing.assert_allclose(volume.affine, canonical.affine, atol=1e-4)
        assert np.array_equal(volume.hu, canonical.get_fdata())
    far = tuple(n - 1 for n in volume.shape)
    for index in ((0, 0, 0), far, (1, 2, 3), (far[0], 0, 1)):
        mm = TO_LPS @ volume.affine @ [*index, 1]
        x, y, z = image.TransformPhysicalPointToIndex(mm[:3].tolist())
        assert values[z, y, x] == volume.hu[index]


@QUICK
@given(affine=affines(shear=True), code=st.integers(1, 4))
def test_a_sheared_sform_beside_its_nearest_qform_is_no_contradiction(
    tmp_path: Path, affine: np.ndarray, code: int
) -> None:
    path = saved(tmp_path / "a.nii", affine, None, (code, 1))
    volume = nifti.read(path)
    assert not volume.source.notes
    canonical = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_allclose(volume.affine, canonical.affine, atol=1e-4)


@QUICK
@given(affine=affines(), flaw=st.sampled_from(sorted(FLAWS)), code=st.integers(1, 4))
def test_a_contradicting_qform_is_named_or_refused(
    tmp_path: Path, affine: np.ndarray, flaw: str, code: int
) -> None:
    change, refused = FLAWS[flaw]
    path = saved(tmp_path / "a.nii", affine, affine @ change, (code, 1))
    if refused:
        with pytest.raises(InputError, match=r"states two .* by its sform.* by its qform"):
            nifti.read(path)
        return
    volume = nifti.read(path)
    assert len(volume.source.notes) == 1
    assert "by its sform (used)" in volume.source.notes[0]
    assert "by its qform" in volume.source.notes[0]
    canonical = nib.as_closest_canonical(nib.load(path))  # nibabel takes the sform, too
    np.testing.assert_allclose(volume.affine, canonical.affine, atol=1e-4)


def test_which_statement_of_a_metaimage_counts_is_as_in_itk(tmp_path: Path) -> None:
    said = {
        "Offset": "1 1 1",
        "Position": "2 2 2",
        "Origin": "3 3 3",
        "Orientation": "0 1 0 -1 0 0 0 0 1",
        "Rotation": "1 0 0 0 1 0 0 0 1",
        "TransformMatrix": "0.999 0.0447 0 -0.0447 0.999 0 0 0 1",
    }
    for left in (("Orientation",), ("Origin", "Orientation"), ("Offset", "Origin", "Orientation")):
        rows = {key: value for key, value in said.items() if key not in left}
        head = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        head += "".join(f"{key} = {value}\n" for key, value in rows.items())
        head += "ElementSpacing = 1 2 3\nDimSize = 7 6 5\nElementType = MET_SHORT\n"
        path = tmp_path / "a.mha"
        path.write_bytes(head.encode() + b"ElementDataFile = LOCAL\n" + bytes(420))
        volume, image = formats.read(path), sitk.ReadImage(str(path))
        ends = [TO_LPS @ volume.affine @ [*at, 1] for at in ((6, 5, 0), (0, 0, 4))]
        expected = [image.TransformIndexToPhysicalPoint(at) for at in ((0, 0, 0), (6, 5, 4))]
        np.testing.assert_allclose([end[:3] for end in ends], expected, atol=0.02)
        assert any("its axes are turned by 2.6 degrees" in note for note in volume.source.notes)


def test_itk_writes_nothing_that_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for number in range(60):
        image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.int16))
        image.SetDirection(np.linalg.qr(rng.normal(size=(3, 3)))[0].ravel().tolist())
        image.SetSpacing(rng.uniform(0.3, 5, 3).tolist())
        image.SetOrigin(rng.uniform(-300, 300, 3).tolist())
        path = tmp_path / f"a.{['mha', 'nrrd', 'nii'][number % 3]}"
        sitk.WriteImage(image, str(path))  # with AnatomicalOrientation in MetaImage
        notes: list[str] = []
        formats.read(path, say=notes.append)
        assert not notes


def test_every_command_and_the_doctor_name_both_values(tmp_path: Path) -> None:
    affine = np.diag([2.0, 2, 4, 1])
    path = saved(tmp_path / "a.nii", affine, affine @ np.diag([1, 1, 1.005, 1]), (1, 1))
    said: list[str] = []
    gate.read(path, accept_hu=True, say=said.append)
    both = "voxels are 2 x 2 x 4 mm by its sform (used) and 2 x 2 x 4.02 mm by its qform"
    assert f"{path}: {both}" in said
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so small a scan has too little of anything
        found = [one.sentence for one in examine(path).findings]
    assert f"{path}: {both}" in found
    path = saved(tmp_path / "b.nii", affine, affine @ np.diag([1, 1, 2, 1]), (1, 1))
    (one,) = examine(path).findings
    assert one.severity == "refuse"
    assert "states two voxel sizes, 2 x 2 x 4 mm by its sform and 2 x 2 x 8 mm" in one.sentence
