"""Finding scans: folders, archives, patterns and tables; what is left out is named."""

import os

import dicom_cases as dc
import numpy as np
import pytest

from denovox.batch.scans import Finder, Scan, state
from denovox.core.errors import InputError
from denovox.io.dicom import reader

HU = np.zeros((5, 4, 4), np.int16)


def uid(number):
    return f"{dc.ROOT}.{number}"


def series(folder, number, study=100, prefix="", **tags):
    uids = {"SeriesInstanceUID": uid(number), "StudyInstanceUID": uid(study)}
    return dc.save(folder, dc.images(HU, tags={**uids, **tags}), prefix=prefix)


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def find(*sources, out="none"):
    return {scan.name: scan for scan in Finder([*sources], sources[0].parent / out).find()}


def test_a_folder_of_files(tmp_path):
    scans = tmp_path / "scans"
    touch(scans / "a/1.nii.gz", scans / "a/1.nrrd", scans / "b/1.nii.gz", scans / "b/1_seg.nii.gz")
    touch(scans / "b/notes.txt", scans / "b/picture.png", scans / ".hidden.nii")
    found = Finder([scans], tmp_path / "out").find()
    kept = [(one.name, one.path.name) for one in found if not one.aside]
    assert kept == [("a/1", "1.nii.gz"), ("a/1", "1.nrrd"), ("b/1", "1.nii.gz")]
    assert {one.name: one.aside for one in found if one.aside} == {
        "b/1_seg.nii.gz": "a mask, by its name",
        "b/picture.png": "not a CT file",
    }


def test_the_results_are_no_scans(tmp_path):
    touch(tmp_path / "scans/1.nii.gz", tmp_path / "scans/out/1.nii.gz")
    assert [*find(tmp_path / "scans", out="scans/out")] == ["1"]


def test_an_archive_of_studies(tmp_path):
    root = tmp_path / "archive"
    series(root / "study1/s1", 1)
    series(root / "study1/s2", 2)
    series(root / "flat", 3, 200, "a")
    series(root / "flat", 4, 200, "b")
    series(root / "flat", 5, 200, "c", Modality="MR")
    bad = root / "flat/z.dcm"
    bad.write_bytes(bytes(128) + b"DICM")
    found = find(root)
    usable = {n: one.series for n, one in found.items() if not (one.aside or one.fault)}
    assert usable == {
        "study1/s1": uid(1), "study1/s2": uid(2),
        f"flat_{uid(3)[-12:]}": uid(3), f"flat_{uid(4)[-12:]}": uid(4),
    }  # fmt: skip
    assert found[f"flat_{uid(5)[-12:]}"].aside == "MR, not CT"
    assert "damaged DICOM" in found["flat/z.dcm"].fault
    assert found["study1/s1"].study == found["study1/s2"].study == uid(100)
    assert {path.parent.name for path in found["study1/s1"].files} == {"s1"}
    assert len(found[f"flat_{uid(3)[-12:]}"].files) == HU.shape[2]
    one = found["study1/s2"]
    assert reader.read(one.path, series=one.series).hu.shape == HU.shape


def test_a_series_over_several_folders_is_one_scan(tmp_path):
    root = tmp_path / "store"
    for number in (1, 2):
        for k, path in enumerate(series(tmp_path / "all", number)):
            (root / f"{k}").mkdir(parents=True, exist_ok=True)
            path.rename(root / f"{k}" / f"{number}.dcm")
    found = find(root)
    assert sorted(one.series for one in found.values()) == [uid(1), uid(2)]
    for one in found.values():
        assert one.path == root
        assert reader.read(one.path, series=one.series).hu.shape == HU.shape


def test_a_folder_that_is_one_series_has_its_name(tmp_path):
    series(tmp_path / "Thorax", 1)
    assert {name: one.series for name, one in find(tmp_path / "Thorax").items()} == {
        "Thorax": uid(1)
    }


def test_slices_with_a_series_each_are_left_to_the_reader(tmp_path):
    for k, one in enumerate(dc.images(HU)):
        one.SeriesInstanceUID = uid(50 + k)
        dc.save(tmp_path / "s", [one], prefix=f"{k}")
    (only,) = Finder([tmp_path / "s"], tmp_path / "out").find()
    assert (only.path, only.series, only.aside) == (tmp_path / "s", None, "")


def test_patterns_and_lists(tmp_path):
    touch(tmp_path / "in/a/1.nii.gz", tmp_path / "in/b/2.nii.gz", tmp_path / "in/b/3_ct.nii.gz")
    assert [*find(tmp_path / "in/**/*.nii.gz")] == ["a/1", "b/2", "b/3_ct"]
    assert [*find(tmp_path / "in/b/*_ct*")] == ["3_ct"]
    assert [*find(tmp_path / "in/*")] == ["a/1", "b/2", "b/3_ct"]  # folders
    assert [*find(tmp_path / "in/a/1.nii.gz", tmp_path / "in/b/2.nii.gz")] == ["a/1", "b/2"]
    touch(tmp_path / "in/x[1].nii.gz")
    assert [*find(tmp_path / "in/x[1].nii.gz")] == ["x[1]"]
    with pytest.raises(InputError, match=r"4\.nii does not exist"):
        find(tmp_path / "in/4.nii")


def test_a_table(tmp_path):
    touch(tmp_path / "in/a.nii.gz", tmp_path / "in/sub/b.nii.gz")
    table = tmp_path / "scans.csv"
    table.write_text(
        "path;id;region;series\nin/a.nii.gz;;chest;\nin/sub/b.nii.gz;second;;12\nin/c.nii;;;\n"
    )
    found = find(table)
    assert [*found] == ["a", "c", "second"]
    assert found["a"].options == {"region": "chest"}
    assert (found["second"].series, found["second"].options) == ("12", {})
    assert found["c"].fault.startswith(f"{table}, line 4: {tmp_path}/in/c.nii does not exist")
    table.write_text("path,id\nin/a.nii.gz,x\nin/sub/b.nii.gz,x\n")
    with pytest.raises(InputError, match=r"line 3: id x is in .*line 2 as well"):
        find(table)
    table.write_text("path,region\nin/a.nii.gz,chest\nin/a.nii.gz,abdomen\n")
    with pytest.raises(InputError, match=r"line 3: the scan .*a\.nii\.gz is in .*an id"):
        find(table)
    table.write_text("path,id\nin/a.nii.gz,x\nin/a.nii.gz,y\n")
    assert [*find(table)] == ["x", "y"]


def test_two_folders_of_the_same_names_are_different_scans(tmp_path):
    touch(tmp_path / "one/a.nii.gz", tmp_path / "two/a.nii.gz")
    found = Finder([tmp_path / "one", tmp_path / "two"], tmp_path / "out").find()
    assert [one.name for one in found] == ["a", "a"]
    assert len({one.key for one in found}) == 2


def test_a_change_of_any_file_is_a_change_of_state(tmp_path):
    paths = series(tmp_path / "s", 1)
    before = state(paths)
    assert state(reversed(paths)) == before
    os.utime(paths[2], ns=(0, 0))
    changed = state(paths)
    assert changed != before
    paths[2].write_bytes(b"")
    assert state(paths) not in (before, changed)
    assert state(paths[:-1]) != state(paths)


def test_the_data_of_a_detached_header_belong_to_it(tmp_path):
    touch(tmp_path / "s/a.mhd", tmp_path / "s/a.raw", tmp_path / "s/ab.raw")
    (one,) = Finder([tmp_path / "s"], tmp_path / "out").find()
    assert [path.name for path in one.files] == ["a.mhd", "a.raw"]


def test_headers_are_read_once(tmp_path, monkeypatch):
    from denovox.batch import scans

    root = tmp_path / "s"
    series(root, 1)
    finder, real, read = Finder([root], tmp_path / "out"), scans.header, []
    monkeypatch.setattr(scans, "header", lambda part: read.append(part.name) or real(part))
    first = finder.find()
    assert len(read) == HU.shape[2]
    assert finder.find() == first
    assert len(read) == HU.shape[2]
    series(root, 2, prefix="more")
    assert len(finder.find()) == 2
    assert len(read) == 2 * HU.shape[2]
    assert isinstance(first[0], Scan)
