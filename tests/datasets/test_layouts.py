"""The catalogue, on tiny trees of the published layouts: empty files under the true names."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import dicom_cases
import pytest

from denovox.core.errors import InputError
from denovox.core.labels import ID
from denovox.core.regions import REGIONS
from denovox.datasets import label_sets, layouts
from denovox.datasets.layouts import LAYOUTS, LOOKS, find, survey


def tree(root, *paths):
    """Empty files; of a path that ends in .dcm or .IMA only the name makes it DICOM."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


# layout -> (files, "id patient masks" of each case ("-": the patient is the id), region,
#            {file left out: a word of why})
PUBLISHED = {
    "totalsegmentator": (
        """
        meta.csv s0011/ct.nii.gz s0011/segmentations/liver.nii.gz
        s0011/segmentations/rib_left_1.nii.gz s0011/segmentations/heart_atrium_left.nii.gz
        s0011/segmentations/gizzard.nii.gz s0012/ct.nii.gz s0013/mri.nii.gz
        """,
        """
        totalsegmentator_s0011 - 3
        totalsegmentator_s0012 - 0
        """,
        None,
        {"s0011/segmentations/gizzard.nii.gz": "not the name", "s0013/mri.nii.gz": "not part"},
    ),
    "autopet": (
        """
        FDG-PET-CT-Lesions/PETCT_01/01-02-2003-NA-PET/CT.nii.gz
        FDG-PET-CT-Lesions/PETCT_01/01-02-2003-NA-PET/CTres.nii.gz
        FDG-PET-CT-Lesions/PETCT_01/01-02-2003-NA-PET/SUV.nii.gz
        FDG-PET-CT-Lesions/PETCT_01/01-02-2003-NA-PET/SEG.nii.gz
        FDG-PET-CT-Lesions/PETCT_01/01-02-2003-NA-PET/PET.nii.gz
        FDG-PET-CT-Lesions/PETCT_01/05-06-2007-NA-PET/CT.nii.gz
        FDG-PET-CT-Lesions/PETCT_01/05-06-2007-NA-PET/CTres.nii.gz
        FDG-PET-CT-Lesions/PETCT_01/05-06-2007-NA-PET/SUV.nii.gz
        FDG-PET-CT-Lesions/PETCT_01/05-06-2007-NA-PET/SEG.nii.gz
        FDG-PET-CT-Lesions/PETCT_01/05-06-2007-NA-PET/PET.nii.gz
        nn/imagesTr/fdg_ab1_07-28-2002-NA_0000.nii.gz nn/labelsTr/fdg_ab1_07-28-2002-NA.nii.gz
        nn/imagesTr/fdg_ab1_07-28-2002-NA_0001.nii.gz nn/imagesTr/psma_cd2_2018-04-23_0000.nii.gz
        """,
        """
        autopet_fdg_01_01-02-2003-NA-PET autopet_fdg_01 1
        autopet_fdg_01_05-06-2007-NA-PET autopet_fdg_01 1
        autopet_fdg_ab1_07-28-2002-NA autopet_fdg_ab1 1
        autopet_psma_cd2_2018-04-23 autopet_psma_cd2 0
        """,
        None,
        {
            "FDG-PET-CT-Lesions/PETCT_01/01-02-2003-NA-PET/CT.nii.gz": "own grid",
            "FDG-PET-CT-Lesions/PETCT_01/01-02-2003-NA-PET/SUV.nii.gz": "PET",
            "FDG-PET-CT-Lesions/PETCT_01/01-02-2003-NA-PET/PET.nii.gz": "PET",
            "FDG-PET-CT-Lesions/PETCT_01/05-06-2007-NA-PET/CT.nii.gz": "own grid",
            "FDG-PET-CT-Lesions/PETCT_01/05-06-2007-NA-PET/SUV.nii.gz": "PET",
            "FDG-PET-CT-Lesions/PETCT_01/05-06-2007-NA-PET/PET.nii.gz": "PET",
            "nn/imagesTr/fdg_ab1_07-28-2002-NA_0001.nii.gz": "PET",
        },
    ),
    "structseg": (
        """
        HaN_OAR/1/data.nii.gz HaN_OAR/1/label.nii.gz HaN_OAR/12/data.nii.gz Naso_GTV/1/data.nii.gz
        Naso_GTV/1/label.nii.gz
        """,
        """
        structseg_headneck_1 - 1
        structseg_headneck_12 - 0
        """,
        ("headneck",),
        {"Naso_GTV/1/data.nii.gz": "again", "Naso_GTV/1/label.nii.gz": "again"},
    ),
    "instance22": (
        """
        train_2/data/001.nii.gz train_2/label/001.nii.gz train_2/data/100.nii.gz
        """,
        """
        instance22_001 - 1
        instance22_100 - 0
        """,
        ("headneck",),
        {},
    ),
    "hanseg": (
        """
        set_1/OAR_data.csv set_1/case_01/case_01_IMG_CT.nrrd set_1/case_01/case_01_IMG_MR_T1.nrrd
        set_1/case_01/case_01_OAR_Parotid_L.seg.nrrd set_1/case_01/case_01_OAR_SpinalCord.seg.nrrd
        set_1/case_02/case_02_IMG_CT.nrrd
        """,
        """
        hanseg_case_01 - 2
        hanseg_case_02 - 0
        """,
        ("headneck",),
        {"set_1/case_01/case_01_IMG_MR_T1.nrrd": "MR"},
    ),
    "segrap23": (
        """
        T/segrap_0000/image.nii.gz T/segrap_0000/image_contrast.nii.gz T/segrap_0000/Brain.nii.gz
        T/segrap_0000/GTVp.nii.gz T/segrap_0001/image.nii.gz
        SegRap2023_Training_Set_120cases_OneHot_Labels/Task001/segrap_0001.nii.gz
        SegRap2023_Training_Set_120cases_OneHot_Labels/Task002/segrap_0001.nii.gz
        """,
        """
        segrap_0000 segrap_0000 2
        segrap_0000_contrast segrap_0000 2
        segrap_0001 segrap_0001 1
        """,
        ("headneck",),
        {"SegRap2023_Training_Set_120cases_OneHot_Labels/Task002/segrap_0001.nii.gz": "GTV"},
    ),
    "segthor": (
        """
        train/Patient_01/Patient_01.nii.gz train/Patient_01/GT.nii.gz test/Patient_41.nii.gz
        """,
        """
        segthor_01 - 1
        segthor_41 - 0
        """,
        ("chest",),
        {},
    ),
    "ct_rate": (
        """
        train/train_123/train_123_a/train_123_a_1.nii.gz
        train/train_123/train_123_b/train_123_b_2.nii.gz valid_7_a_1.nii.gz
        """,
        """
        ctrate_train_123_a_1 ctrate_train_123 0
        ctrate_train_123_b_2 ctrate_train_123 0
        ctrate_valid_7_a_1 ctrate_valid_7 0
        """,
        ("chest",),
        {},
    ),
    "abdomenct1k": (
        """
        AbdomenCT-1K-ImagePart1/Case_00001_0000.nii.gz Mask/Case_00001.nii.gz
        AbdomenCT-1K-ImagePart2/Case_00500_0000.nii.gz Mask/Case_00999.nii.gz
        """,
        """
        abdomenct1k_00001 - 1
        abdomenct1k_00500 - 0
        """,
        ("abdomen",),
        {"Mask/Case_00999.nii.gz": "not part"},
    ),
    "amos22": (
        """
        amos22/dataset.json amos22/imagesTr/amos_0001.nii.gz amos22/labelsTr/amos_0001.nii.gz
        amos22/imagesVa/amos_0499.nii.gz amos22/imagesTr/amos_0507.nii.gz
        amos22/labelsTr/amos_0507.nii.gz amos22/imagesTs/amos_0600.nii.gz
        amos22/imagesTr/amos_extra.nii.gz
        """,
        """
        amos22_0001 - 1
        amos22_0499 - 0
        """,
        ("abdomen",),
        {
            "amos22/imagesTr/amos_0507.nii.gz": "MRI",
            "amos22/labelsTr/amos_0507.nii.gz": "MRI",
            "amos22/imagesTs/amos_0600.nii.gz": "MRI",
            "amos22/imagesTr/amos_extra.nii.gz": "not part",
        },
    ),
    "btcv": (
        """
        RawData/Training/img/img0001.nii.gz RawData/Training/label/label0001.nii.gz
        RawData/Testing/img/img0061.nii.gz
        """,
        """
        btcv_0001 - 1
        btcv_0061 - 0
        """,
        ("abdomen",),
        {},
    ),
    "chaos": (
        """
        Train_Sets/CT/1/DICOM_anon/i0000.dcm Train_Sets/CT/1/DICOM_anon/i0001.dcm
        Train_Sets/CT/1/Ground/liver_GT_000.png Train_Sets/CT/2/DICOM_anon/i0000.dcm
        Train_Sets/CT/2/Ground.nii.gz Train_Sets/MR/1/T2SPIR/DICOM_anon/I1.dcm
        Train_Sets/MR/1/T2SPIR/Ground/I1.png
        """,
        """
        chaos_1 - 0
        chaos_2 - 1
        """,
        ("abdomen",),
        {
            "Train_Sets/CT/1/Ground/liver_GT_000.png": "pictures",
            "Train_Sets/MR/1/T2SPIR/DICOM_anon": "MR",
            "Train_Sets/MR/1/T2SPIR/Ground/I1.png": "MR",
        },
    ),
    "word": (
        """
        WORD/imagesTr/word_0002.nii.gz WORD/labelsTr/word_0002.nii.gz
        WORD/imagesVal/word_0001.nii.gz WORD/labelsVal/word_0001.nii.gz
        """,
        """
        word_0002 - 1
        word_0001 - 1
        """,
        ("abdomen",),
        {},
    ),
    "mayo16": (
        """
        L067/full_1mm/a.IMA L067/quarter_1mm/a.IMA L096/full_3mm/a.IMA
        """,
        """
        mayo16_L067_1mm mayo16_L067 0
        mayo16_L096_3mm mayo16_L096 0
        """,
        None,
        {},
    ),
    "rplhr_ct": (
        """
        train/1mm/CT00000000.nii.gz train/5mm/CT00000000.nii.gz val/1mm/CT00000101.nii.gz
        """,
        """
        rplhr_CT00000000 - 0
        rplhr_CT00000101 - 0
        """,
        ("chest",),
        {},
    ),
    "msd_lung": (
        """
        Task06_Lung/imagesTr/lung_001.nii.gz Task06_Lung/labelsTr/lung_001.nii.gz
        Task06_Lung/imagesTs/lung_002.nii.gz Task06_Lung/imagesTr/._lung_001.nii.gz
        """,
        """
        msd_lung_001 - 1
        msd_lung_002 - 0
        """,
        ("chest",),
        {},
    ),
    "msd_liver": (
        """
        Task03_Liver/imagesTr/liver_0.nii.gz Task03_Liver/labelsTr/liver_0.nii.gz
        Task03_Liver/imagesTs/liver_132.nii.gz
        """,
        """
        msd_liver_0 - 1
        msd_liver_132 - 0
        """,
        ("abdomen",),
        {},
    ),
    "ct_lymph_nodes": (
        """
        CT_Lymph_Nodes/ABD_LYMPH_001/09-14-2014-ABDLYMPH001/s-1/000000.dcm
        CT_Lymph_Nodes/ABD_LYMPH_001/09-14-2014-ABDLYMPH001/s-1/000001.dcm
        CT_Lymph_Nodes/ABD_LYMPH_001/09-14-2014-ABDLYMPH001/Segmentation-2/1.dcm
        CT_Lymph_Nodes/ABD_LYMPH_002/09-14-2014-ABDLYMPH002/s-1/000000.dcm
        MED_ABD_LYMPH_MASKS/ABD_LYMPH_001/ABD_LYMPH_001_mask.nii.gz
        """,
        """
        abd_lymph_001 - 1
        abd_lymph_002 - 0
        """,
        ("abdomen",),
        {"CT_Lymph_Nodes/ABD_LYMPH_001/09-14-2014-ABDLYMPH001/Segmentation-2": "smaller series"},
    ),
}


def test_every_layout_is_tried_here():
    assert {*PUBLISHED, "bmad_liver"} == set(LAYOUTS)
    assert {*LAYOUTS, "index", "nnunet", "folder"} == set(LOOKS)


@pytest.mark.parametrize("layout", PUBLISHED)
def test_a_published_layout(layout, tmp_path):
    text, listed, regions, left = PUBLISHED[layout]
    files, cells = text.split(), listed.split()
    cases = {c: (p, int(n)) for c, p, n in zip(*[iter(cells)] * 3, strict=True)}
    found = survey(tree(tmp_path, *files))
    assert found.layout == layout
    assert survey(tmp_path, layout) == found
    assert {e.id: (e.patient, len(e.masks)) for e in found.entries} == {
        number: (number if patient == "-" else patient, masks)
        for number, (patient, masks) in cases.items()
    }
    assert [e.id for e in found.entries] == sorted(cases)
    assert {e.regions for e in found.entries} == {regions}
    assert set(regions or ()) <= set(REGIONS)
    why = dict(found.left_out)
    assert set(why) == set(left)
    assert all(word in why[name] for name, word in left.items())
    for entry in found.entries:
        assert entry.scan.exists()
        assert all(mask.path.is_file() for mask in entry.masks)
        assert entry.source
        assert entry.licence
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", entry.id)
    # Every file is a case's, named as left out, hidden, or papers.
    used = {p for e in found.entries for p in (e.scan, e.partner, *(m.path for m in e.masks))}
    for name in files:
        path = tmp_path / name
        accounted = {path.resolve(), path.resolve().parent} & {p.resolve() for p in used if p}
        excused = name in why or str(path.parent.relative_to(tmp_path)) in why
        assert accounted or excused or path.name[0] == "." or path.suffix in (".csv", ".json")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_row_names_is_known(layout):
    for row in LAYOUTS[layout]:
        for mask in row.masks:
            assert bool(mask.bridge) != bool(mask.organs)
            assert label_sets.bridge(mask.bridge) if mask.bridge else label_sets.organs(mask.organs)
        names = set(re.compile(row.scan).groupindex)
        texts = [row.id, row.patient, *(m.path for m in row.masks), *row.partner]
        assert {n for text in texts for n in re.findall(r"{(\w+)}", text)} <= names


def test_a_mask_comes_with_what_its_values_mean(tmp_path):
    files = PUBLISHED["amos22"][0].split()
    entry = find(tree(tmp_path / "a", *files))[0]
    assert entry.masks == (
        layouts.Mask(
            tmp_path / "a/amos22/labelsTr/amos_0001.nii.gz",
            label_sets.bridge("amos22"),
        ),
    )
    one, _ = find(tree(tmp_path / "t", *PUBLISHED["totalsegmentator"][0].split()))
    covers = {mask.path.name: mask.bridge.covers for mask in one.masks}
    assert covers["heart_atrium_left.nii.gz"] == ("heart",)
    assert covers["liver.nii.gz"] == ("liver",)


def test_both_parts_of_structseg_and_both_of_the_lymph_nodes(tmp_path):
    han, thorax = find(
        tree(tmp_path / "s", "HaN_OAR/1/data.nii.gz", "Task3/Thoracic_OAR/1/data.nii")
    )
    assert (han.id, han.regions) == ("structseg_headneck_1", ("headneck",))
    assert (thorax.id, thorax.regions) == ("structseg_thorax_1", ("chest",))
    abd, med = find(tree(tmp_path / "l", "ABD_LYMPH_001/a/b/1.dcm", "MED_LYMPH_001/a/b/1.dcm"))
    assert (abd.regions, med.regions) == (("abdomen",), ("chest",))


def test_pairs_are_one_case_with_a_partner(tmp_path):
    first, second = find(tree(tmp_path / "m", *PUBLISHED["mayo16"][0].split()))
    assert (first.scan, first.partner) == (
        tmp_path / "m/L067/full_1mm",
        tmp_path / "m/L067/quarter_1mm",
    )
    assert (second.partner, second.notes) == (None, ("without a partner",))
    official = "Training_Image_Data/1mm B30/"
    [entry] = find(
        tree(
            tmp_path / "o",
            f"{official}FD_1mm/full_1mm/L067/full_1mm/a.IMA",
            f"{official}QD_1mm/quarter_1mm/L067/quarter_1mm/a.IMA",
        )
    )
    assert entry.partner == tmp_path / f"o/{official}QD_1mm/quarter_1mm/L067/quarter_1mm"
    thin, _ = find(tree(tmp_path / "r", *PUBLISHED["rplhr_ct"][0].split()))
    assert thin.partner == tmp_path / "r/train/5mm/CT00000000.nii.gz"


def test_kernels_of_one_patient_are_two_cases(tmp_path):
    files = [f"1mm {k}/full_1mm/L067/a.IMA" for k in ("B30", "D45")]
    entries = find(tree(tmp_path, *files))
    assert len({e.id for e in entries}) == 2
    assert {e.patient for e in entries} == {"mayo16_L067"}


def test_notes_name_what_is_missing_and_left_out(tmp_path):
    lines = list(survey(tree(tmp_path, *PUBLISHED["amos22"][0].split())).notes())
    assert lines[0].startswith("3 left out, MRI, not CT (ids from 500): amos22/imagesTr/amos_0507")
    assert "1 without a mask: amos22_0499" in lines
    many = tree(tmp_path / "many", *(f"imagesTr/word_{n:04}.nii.gz" for n in range(9)))
    assert list(survey(many).notes(2)) == ["9 without a mask: word_0000, word_0001 and 7 more"]


def test_bmad_is_refused_and_says_why(tmp_path):
    source = tree(tmp_path, "Liver_AD/train/good/1.png", "Liver_AD/test/Ungood/img/2.png")
    with pytest.raises(InputError, match=r"2D PNG .* no Hounsfield units"):
        survey(source)


def test_no_layout_fits_or_several_do(tmp_path):
    with pytest.raises(InputError, match="no known layout matches") as caught:
        survey(tree(tmp_path, "scan.nii.gz"))
    assert all(f"\n  {name}: {look}" in str(caught.value) for name, look in LOOKS.items())
    tree(tmp_path, "imagesTr/word_0001.nii.gz", "imagesTr/lung_001.nii.gz")
    with pytest.raises(InputError, match=r"several layouts match \(word, msd_lung\)"):
        survey(tmp_path)
    assert [e.id for e in find(tmp_path, "word")] == ["word_0001"]
    assert ("imagesTr/lung_001.nii.gz", "not part of this layout") in survey(
        tmp_path, "word"
    ).left_out


def test_what_cannot_be_surveyed(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        survey(tmp_path / "none")
    with pytest.raises(InputError, match="layout 'amos' is not known"):
        survey(tmp_path, "amos")
    with pytest.raises(InputError, match="no cases of layout 'word': expected imagesTr/word_0002"):
        survey(tmp_path, "word")
    twice = [f"{split}/train_1_a_1.nii.gz" for split in ("train", "train_fixed")]
    with pytest.raises(InputError, match="would both be case 'ctrate_train_1_a_1'"):
        survey(tree(tmp_path, *twice))


# ---- own data -----------------------------------------------------------------------------------


def test_a_folder_of_ones_own(tmp_path):
    tree(
        tmp_path,
        *("Ann/first.nii.gz", "Ann/second visit.nii.gz", "Ann/first_seg.nii.gz"),
        *("labels/Ann/second visit.nii.gz", "(draft) a.nii"),
        *("Bob/ct/1.dcm", "Bob/ct/2.dcm", "Bob/ct_labels.nii.gz"),
        *("carl.nii", "labels/carl.nii.gz", "dora_ct.nii.gz", "dora_seg.nii.gz"),
        *("notes.txt", "photo.jpg", "eve_seg.nii.gz", ".hidden.nii.gz"),
    )
    found = survey(tmp_path, "folder")
    assert {e.id: (e.patient, [m.path.name for m in e.masks]) for e in found.entries} == {
        "Ann_first": ("Ann", ["first_seg.nii.gz"]),
        "Ann_second-visit": ("Ann", ["second visit.nii.gz"]),
        "draft-a": ("draft-a", []),
        "Bob_ct": ("Bob", ["ct_labels.nii.gz"]),
        "carl": ("carl", ["carl.nii.gz"]),
        "dora_ct": ("dora", ["dora_seg.nii.gz"]),
    }
    assert {e.regions for e in found.entries} == {None}
    assert found.entries[0].masks[0].bridge.name == "denovox"
    assert set(found.left_out) == {
        ("photo.jpg", "not a CT file"),
        ("eve_seg.nii.gz", "a mask without its scan"),
    }


def test_a_mask_is_that_of_its_own_scan(tmp_path):
    tree(tmp_path, "Ann/ct.nii", "Bob/ct.nii", "Bob/labels/ct.nii", "labels/ct.nii")
    ann, bob = find(tmp_path, "folder")
    assert (ann.masks, bob.masks[0].path) == ((), tmp_path / "Bob/labels/ct.nii")
    assert survey(tmp_path, "folder").left_out == (("labels/ct.nii", "a mask without its scan"),)


def test_a_dicom_series_without_suffixes(tmp_path):
    tree(tmp_path, "p/scan/IM2")
    (tmp_path / "p/scan/IM1").write_bytes(bytes(128) + b"DICM")
    [entry] = find(tmp_path, "folder")
    assert (entry.id, entry.patient, entry.scan) == ("p_scan", "p", tmp_path / "p/scan")
    assert survey(tmp_path, "folder").left_out == (("p/scan/IM2", "not a CT file"),)


def test_a_folder_that_mixes_series_is_a_case_for_each(tmp_path):
    hu = dicom_cases.phantom()
    for number, patient in ((1, "Ann"), (2, "Bob")):
        uid = f"{dicom_cases.ROOT}.77.{number}"
        tags = {"SeriesInstanceUID": uid, "PatientID": patient}
        dicom_cases.save(tmp_path / "ct", dicom_cases.images(hu, tags=tags), prefix=patient)
    scout = {"SeriesInstanceUID": "1.2.9", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    dicom_cases.save(tmp_path / "ct", dicom_cases.images(hu, tags=scout), prefix="s")
    found = survey(tmp_path, "folder").entries
    assert [(e.patient, e.series[-5:]) for e in found] == [("Ann", ".77.1"), ("Bob", ".77.2")]
    assert len({e.id for e in found}) == 2
    assert {e.scan for e in found} == {tmp_path / "ct"}


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.zip", "a.nii.gz"])
def test_own_scans_of_any_format(tmp_path, name):
    [entry] = find(tree(tmp_path, name, "a.seg.nrrd"), "folder")
    assert (entry.id, entry.patient) == ("a", "a")
    assert [mask.path.name for mask in entry.masks] == ["a.seg.nrrd"]


def test_the_folder_itself_is_a_series(tmp_path):
    [entry] = find(tree(tmp_path / "Zoe", "1.dcm"), "folder")
    assert (entry.id, entry.patient) == ("Zoe", "Zoe")
    assert entry.scan.is_dir()


def test_a_link_is_followed_and_one_in_a_ring_ends(tmp_path):
    tree(tmp_path / "elsewhere", "Ann/a.nii")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/in").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/Ann/round").symlink_to(tmp_path / "here")
    assert [e.id for e in find(tmp_path / "here", "folder")] == ["in_Ann_a"]


def test_names_that_would_be_one_stay_apart(tmp_path):
    """Whatever else is in the folder, and in the order of any file system."""
    tree(tmp_path, "a b.nii", "a+b.nii", "a-b.nii")
    ids = {e.scan.name: e.id for e in survey(tmp_path, "folder").entries}
    assert ids["a-b.nii"] == "a-b"
    assert len(set(ids.values())) == 3
    assert all(re.fullmatch(r"a-b(-[0-9a-f]{8})?", name) for name in ids.values())
    with pytest.raises(InputError, match="would both be case 'a-b'"):
        survey(tree(tmp_path, "a-b.nii.gz"), "folder")


STRANGE = [b"M\xfcller.nii", b"M\xf6ller.nii", "Müller.nii".encode(), "张三.nii".encode(),
           "李四.nii".encode(), "😀.nii".encode(), b" -x y.nii", b"a\nb\t.nii", b"con.nii",
           b"..a.nii", b"x" * 250 + b".nii", b"y" * 250 + b".nii"]  # fmt: skip


def test_names_of_any_kind_are_cases_with_safe_ids_and_patients_of_their_own(tmp_path):
    for name in STRANGE:
        (tmp_path / os.fsdecode(name)).touch()
    entries = survey(tmp_path, "folder").entries
    assert len(entries) == len(STRANGE) - 1  # the hidden one is left alone
    for texts in ({e.id for e in entries}, {e.patient for e in entries}):
        assert len(texts) == len(entries)
        assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}", text) for text in texts)
        assert not {"con", "nul"} & texts
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / os.fsdecode(STRANGE[0])).touch()
    [entry] = survey(alone, "folder").entries
    assert entry.id in {e.id for e in entries}  # which a later run recognises


def test_a_pipe_and_a_store_in_a_folder_of_scans(tmp_path):
    tree(tmp_path, "a.nii", "store/settings.json", "store/.lock", "store/a/abdomen/x.nii")
    os.mkfifo(tmp_path / "pipe")
    found = survey(tmp_path, "folder")
    assert [e.id for e in found.entries] == ["a"]
    assert [name for name, _ in found.left_out] == ["pipe"]


def indexed(folder, *entries):
    (folder / "index.json").write_text(json.dumps(entries))
    return folder


def test_an_index(tmp_path):
    tree(tmp_path, "t.nii.gz", "t_organs.nii.gz", "t_ts.nii.gz", "c.nii.gz")
    table = {"1": "liver", "2": "tumour"}
    masks = {"t_organs": table, "t_ts": "TotalSegmentator v2 total ids"}
    torso = {"id": "t", "file": "t.nii.gz", "patient": "A", "region": "torso", "masks": masks}
    chest = {"id": "c", "file": "c.nii.gz", "patient": "B", "licence": "CC BY 4.0", "spacing": 1}
    limb = {**torso, "id": "l", "region": "limb"}
    found = survey(indexed(tmp_path, torso, chest, limb))
    assert found.layout == "index"
    c, leg, t = found.entries
    assert (c.regions, c.licence, c.masks) == (None, "CC BY 4.0", ())
    assert (t.regions, t.patient) == (None, "A")
    # "tumour" is no class of the vocabulary: such voxels stay unknown, by design.
    assert next(m.bridge.covers for m in t.masks) == ("liver",)
    assert t.masks[0].bridge.values == {1: 5, 2: 0}
    # One published map has a 118, which no class of TotalSegmentator has.
    own = label_sets.bridge("totalsegmentator_v2")
    assert 118 not in own.values
    assert t.masks[1].bridge == replace(own, values={**own.values, 118: ID["unknown"]})
    assert leg.regions == (
        "limb",
    )  # no region of the model's: for prepare to put aside, and say so


def test_an_index_names_lesions_in_anybodys_words(tmp_path):
    tree(tmp_path, "t.nii.gz", "m.nii.gz")
    lesions = ["soft-tissue sarcoma (expert GTV)", "GTVp", "lymph_node", "Tumour", "lung nodule"]
    others = ["liver", "PTV", "CTVp", "carina (one slice)", "unknown"]
    table = {str(n): name for n, name in enumerate([*lesions, *others], 1)}
    row = {"id": "t", "file": "t.nii.gz", "patient": "A", "masks": {"m": table}}
    (entry,) = survey(indexed(tmp_path, row)).entries
    assert entry.masks[0].bridge.lesions == (1, 2, 3, 4, 5)


def test_an_index_that_is_wrong(tmp_path):
    tree(tmp_path, "t.nii.gz")
    entry = {"id": "t", "file": "t.nii.gz", "patient": "A"}
    for wrong, why in (
        ({**entry, "file": "u.nii.gz"}, "u.nii.gz of case 't' does not exist"),
        ({**entry, "masks": {"m": "amos22"}}, "m.nii.gz of case 't' does not exist"),
        ({**entry, "masks": {"m": "amos"}}, "label set 'amos' is not known"),
        (
            {**entry, "use": "tune"},
            "use 'tune' of case 't' is not one of train, validate, evaluate",
        ),
        ({"id": "t"}, "entry 0 lacks one of 'id', 'file' and 'patient'"),
    ):
        with pytest.raises(InputError, match=why):
            survey(indexed(tmp_path, wrong))
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        survey(tmp_path)
    (tmp_path / "index.json").unlink()
    with pytest.raises(InputError, match=r"index.json cannot be read"):
        survey(tmp_path, "index")


def test_the_uses_of_an_index_are_its_split(tmp_path):
    tree(tmp_path, "a.nii.gz", "b.nii.gz")
    of = {"train": "train", "validate": "validation", "evaluate": "test"}
    rows = [{"id": use, "file": "a.nii.gz", "patient": use, "use": use} for use in of]
    rows.append({**rows[0], "id": "again", "file": "b.nii.gz"})
    rows.append({"id": "none", "file": "b.nii.gz", "patient": "none"})
    found = {entry.id: entry.split for entry in survey(indexed(tmp_path, *rows)).entries}
    assert found == {**of, "again": "train", "none": None}


@pytest.mark.parametrize("other", ["evaluate", "validate", None])
def test_a_patient_of_two_uses_is_one_sentence(tmp_path, other):
    tree(tmp_path, "a.nii.gz", "b.nii.gz")
    first = {"id": "a", "file": "a.nii.gz", "patient": "P", "use": "train"}
    second = {"id": "b", "file": "b.nii.gz", "patient": "P"} | ({"use": other} if other else {})
    for rows in ((first, second), (second, first)):
        with pytest.raises(InputError, match="scans of patient 'P' have different uses") as told:
            survey(indexed(tmp_path, *rows))
        assert "\n" not in str(told.value)


def test_the_shared_scans(data_dir):
    """Real data: every case of the index, each with its masks on disk."""
    found = survey(data_dir)
    rows = json.loads((data_dir / "index.json").read_text())
    assert {e.id for e in found.entries} == {r["id"] for r in rows}
    assert sum(len(e.masks) for e in found.entries) == sum(len(r["masks"]) for r in rows)
    assert {e.patient for e in found.entries} == {r["patient"] for r in rows}


def test_every_layout_and_label_set_is_documented():
    text = (Path(__file__).parents[2] / "docs/reference/datasets.md").read_text("utf-8")
    assert all(f"\n| `{name}` | " in text for name in LAYOUTS)
    assert all(f"`{name}`" in text for name in label_sets.names())
