"""Files and folders are there in full or not at all, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from denovox.core.errors import InputError
from denovox.io import atomic

FULL = OSError(28, "No space left on device")


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones as well."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# ---- a file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("fault", [FULL, KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
def test_an_error_at_any_step_leaves_what_was_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    fault: BaseException,
    old: bytes | None,
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    seen = []

    def fail(*given: object) -> None:
        seen.extend(p.name for p in tmp_path.iterdir() if p != path)
        raise fault

    if step == "open":
        monkeypatch.setattr("builtins.open", fail)
    elif step != "write":
        monkeypatch.setattr(os, step, fail)

    def write() -> None:
        with atomic.open_file(path) as file:
            file.write(b"new")
            if step == "write":
                file.flush()
                fail()

    with pytest.raises(type(fault)):
        write()
    monkeypatch.undo()
    assert content(tmp_path) == ({} if old is None else {"file": old})
    assert len(seen) == (step != "open")  # it was being written beside its target
    assert all(name.startswith(".") and name.endswith(".part") for name in seen)


# Each step on the way, and whether the old file is still in place after a kill there.
KILLS: tuple[tuple[str, bool], ...] = (("write", True), ("fsync", True), ("replaced", False))


@pytest.mark.parametrize(("step", "stays"), KILLS)
def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path, step: str, stays: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def die(*given: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        replace = os.replace
        if step == "fsync":
            os.fsync = die
        elif step == "replaced":
            os.replace = lambda *given: (replace(*given), die())  # type: ignore[assignment]
        with atomic.open_file(path) as file:
            file.write(b"new")
            file.flush()
            if step == "write":
                die()

    assert killed(work)
    assert path.read_bytes() == (b"old" if stays else b"new")
    (tmp_path / ".other.part").touch()
    atomic.sweep(tmp_path)
    assert sorted(content(tmp_path)) == [".other.part", "file"]  # what is not ours stays


def killed(work: Callable[[], None]) -> bool:
    """Whether a child process that does this work is killed."""
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_text_is_utf_8_with_its_own_line_ends(tmp_path: Path) -> None:
    atomic.write_file(tmp_path / "text", "Grüße\r\n\n")
    assert (tmp_path / "text").read_bytes() == b"Gr\xc3\xbc\xc3\x9fe\r\n\n"
    atomic.write_file(tmp_path / "text", b"\xff")
    assert content(tmp_path) == {"text": b"\xff"}


def test_a_new_file_has_the_usual_permissions_and_a_link_stays(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far/file")  # which is not there yet
    for data in (b"one", b"two"):
        atomic.write_file(tmp_path / "link", data)
        assert (tmp_path / "link").is_symlink()
        assert content(tmp_path / "far") == {"file": data}
    mode = (tmp_path / "far" / "file").stat().st_mode
    assert mode == (tmp_path / "usual").stat().st_mode


def test_the_file_that_is_replaced_is_kept_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = tmp_path / "file", tmp_path / "before"
    for data in (b"1", b"2", b"3"):
        with atomic.open_file(path, keep=before) as file:
            file.write(data)
    assert content(tmp_path) == {"file": b"3", "before": b"2"}
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space"), atomic.open_file(path, keep=before) as file:
        file.write(b"4")
    assert content(tmp_path) == {"file": b"3", "before": b"2"}


def fails(*given: object, **more: object) -> None:
    """A system call on a full disk."""
    raise FULL


# ---- a folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [FULL, KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["mkdir", "write", "replace"])
def test_a_folder_that_fails_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, fault: BaseException
) -> None:
    def fail(*given: object) -> None:
        raise fault

    if step != "write":
        monkeypatch.setattr(os, step, fail)

    def write() -> None:
        with atomic.open_folder(tmp_path / "new") as folder:
            (folder / "a").write_bytes(b"1")
            if step == "write":
                raise fault

    with pytest.raises(InputError if fault is FULL else KeyboardInterrupt) as caught:
        write()
    assert ("No space left" in str(caught.value)) == (fault is FULL)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_folder_is_not_there_and_is_swept(tmp_path: Path) -> None:
    def work() -> None:
        with atomic.open_folder(tmp_path / "new") as folder:
            (folder / "a").write_bytes(b"1")
            os.kill(os.getpid(), signal.SIGKILL)

    assert killed(work)
    assert not (tmp_path / "new").exists()
    assert list(content(tmp_path).values()) == [b"1"]
    atomic.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "link").symlink_to(out)
    atomic.write_folder(tmp_path / "link", {"a": "1"})  # an empty one is as good as none
    (out / "mine").write_bytes(b"x")
    with pytest.raises(InputError, match="out already contains files; choose another, or use"):
        atomic.write_folder(out, {"a": b"2"})
    assert content(out) == {"a": b"1", "mine": b"x"}
    with atomic.open_folder(out, force=True) as folder:
        (folder / "in").mkdir()
        (folder / "in" / "b").write_bytes(b"3")
        (folder / "a").write_bytes(b"2")
        assert content(out) == {"a": b"1", "mine": b"x"}
    assert content(out) == {"a": b"2", "in/b": b"3", "mine": b"x"}
    atomic.write_folder(tmp_path / "link", {"a": b"4"}, force=True)
    assert (tmp_path / "link").is_symlink()
    assert (out / "a").read_bytes() == b"4"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


def test_files_that_came_meanwhile_are_not_overwritten(tmp_path: Path) -> None:
    def write() -> None:
        with atomic.open_folder(tmp_path / "out") as folder:
            (folder / "a").write_bytes(b"new")
            atomic.write_folder(tmp_path / "out", {"a": b"of another run"})

    with pytest.raises(InputError, match="out could not be written"):
        write()
    assert content(tmp_path) == {"out/a": b"of another run"}


def test_a_scratch_folder_leaves_only_what_was_moved_out_of_it(tmp_path: Path) -> None:
    with atomic.scratch_folder(tmp_path / "deep" / "er") as folder:
        (folder / "part").mkdir()
        (folder / "rest").touch()
        (folder / "part").rename(tmp_path / "part")
    with atomic.scratch_folder(tmp_path) as folder:
        shutil.rmtree(folder)  # gone already
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "er", "part"]


# ---- all or none --------------------------------------------------------------------------------


def write_set(folder: Path) -> None:
    """Two files and two folders, one of which holds files already."""
    with atomic.together():
        atomic.write_file(folder / "a", b"new")
        atomic.write_folder(folder / "new", {"x": b"1", "y": b"2"})
        atomic.write_folder(folder / "old", {"x": b"3", "in": b"4"}, force=True)
        atomic.write_file(folder / "b", b"new")
        assert content_of_set(folder) == BEFORE


BEFORE = {"a": b"old", "old/x": b"old", "old/mine": b"my own"}
AFTER = {"a": b"new", "b": b"new", "new/x": b"1", "new/y": b"2",
         "old/x": b"3", "old/in": b"4", "old/mine": b"my own"}  # fmt: skip


def content_of_set(folder: Path) -> dict[str, bytes]:
    """What a user sees."""
    return {name: data for name, data in content(folder).items() if not name.startswith(".")}


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A folder with `BEFORE`, and an empty one in it."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    for name, data in BEFORE.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_a_set_appears_at_once(full: Path) -> None:
    write_set(full)
    assert content(full) == AFTER
    assert sorted(path.name for path in full.iterdir()) == ["a", "b", "new", "old"]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("fault", [FULL, KeyboardInterrupt(), SystemExit(143)])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("at", range(1, 10))
def test_a_set_that_fails_at_any_rename_leaves_everything_as_it_was(
    full: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    late: bool,
    fault: BaseException,
    links: bool,
) -> None:
    """late: the signal arrives after the rename."""
    real, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == at:
            if late:
                real(source, target)
            raise fault
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    if not links:
        monkeypatch.setattr(os, "link", fails)
    raised = None
    try:
        write_set(full)
    except (InputError, KeyboardInterrupt, SystemExit) as error:
        raised = error
    if raised is None:  # there were fewer renames
        assert len(calls) < at
        assert content(full) == AFTER
        return
    if isinstance(raised, InputError):
        names = [full / name for name in ("a", "b", "new", "old/x", "old/in")]
        said = [f"{path} could not be written (No space left on device); free" for path in names]
        assert any(str(raised).startswith(text) for text in said)
    assert content(full) == BEFORE
    assert sorted(path.name for path in full.iterdir()) == ["a", "new", "old"]


@pytest.mark.parametrize("fault", [FULL, KeyboardInterrupt()])
def test_an_error_between_the_writes_leaves_nothing(full: Path, fault: BaseException) -> None:
    def write() -> None:
        with atomic.together():
            atomic.write_file(full / "a", b"new")
            with atomic.together():  # which joins the other
                atomic.write_folder(full / "new", {"x": b"1"})
            raise fault

    with pytest.raises(type(fault)):
        write()
    assert content(full) == BEFORE
    assert sorted(path.name for path in full.iterdir()) == ["a", "new", "old"]
    write_set(full)  # and nothing is in the way of the next try
    assert content(full) == AFTER


def test_a_file_that_a_caller_does_without_is_left_out_of_the_set(full: Path) -> None:
    with atomic.together():
        atomic.write_file(full / "a", b"new")
        with pytest.raises(OSError, match="No such file"):
            atomic.write_file(full / "none" / "b", b"new")
    assert content(full) == BEFORE | {"a": b"new"}


# ---- asked in advance ---------------------------------------------------------------------------


def test_places_that_no_file_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").touch()
    (tmp_path / "b.json").mkdir()

    def refused(name: str, what: str, force: bool = False) -> None:
        with pytest.raises(InputError, match=what) as caught:
            atomic.check_writable(tmp_path / name, force, (".json", ".txt"))
        assert str(caught.value).startswith(str(tmp_path / name))

    refused("a.png", "the output name must end in .json or .txt")
    refused("no/a.json", "the folder .*no does not exist; create it first")
    refused("b.json", "it is a directory", force=True)
    refused("a.json", "already exists; choose another name, or use --force")
    atomic.check_writable(tmp_path / "a.json", True, (".json",))
    atomic.check_writable(tmp_path / "A.JSON", False, (".json",))
    # Root may write anywhere, so the system's answer is replaced, not the folder's mode.
    monkeypatch.setattr(os, "access", lambda *given: False)
    refused("c.json", "no permission to write to")


def test_places_that_no_folder_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to("missing")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    before = content(tmp_path)
    for name, what in (
        ("file", "file is not a folder; name one that does not exist yet"),
        ("nowhere", "nowhere is not a folder"),
        ("full", "already contains files"),
        ("no/out", "the folder .*no does not exist; create it first"),
    ):
        for ask in (atomic.check_folder, lambda path: atomic.write_folder(path, {"a": b"1"})):
            with pytest.raises(InputError, match=what):
                ask(tmp_path / name)
    atomic.check_folder(tmp_path / "full", force=True)
    monkeypatch.setattr(os, "access", lambda *given: False)
    with pytest.raises(InputError, match="new cannot be written: no permission"):
        atomic.write_folder(tmp_path / "new", {"a": b"1"})
    assert content(tmp_path) == before


def test_an_error_without_words_of_the_system_keeps_its_own(tmp_path: Path) -> None:
    said = r"x could not be written \(half a line\); check the disk"
    with pytest.raises(InputError, match=said), atomic.user_output("x"):
        raise OSError("half\na line.")


def test_names_that_the_file_system_does_not_take(tmp_path: Path) -> None:
    long = "x" * 250 + ".json"  # 255 bytes, which is the most
    atomic.check_writable(tmp_path / long, False, (".json",))
    atomic.check_folder(tmp_path / ("ü" * 127))
    for path, size in ((tmp_path / f"y{long}", 256), (tmp_path / f"{'ü' * 126}.json", 257)):
        with pytest.raises(InputError, match=rf"File name too long \({size} bytes\); choose a sh"):
            atomic.check_writable(path, False, (".json",))
    with pytest.raises(InputError, match=r"File name too long \(256 bytes\)"):
        atomic.check_folder(tmp_path / ("ü" * 128))
    (tmp_path / "file").touch()
    for ask in (lambda path: atomic.check_writable(path, False, ("x",)), atomic.check_folder):
        with pytest.raises(InputError, match="file is a file, not a folder; choose another place"):
            ask(tmp_path / "file" / "x")
        with pytest.raises(InputError, match=r"the folder .*file/in does not exist"):
            ask(tmp_path / "file" / "in" / "x")
    assert content(tmp_path) == {"file": b""}


def test_folders_above_a_new_folder_may_be_missing_where_they_are_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    atomic.check_folder(tmp_path / "a" / "b" / "c", parents=True)
    with pytest.raises(InputError, match="a/b does not exist"):
        atomic.check_folder(tmp_path / "a" / "b" / "c")
    with pytest.raises(InputError, match="file is a file, not a folder"):
        atomic.check_folder(tmp_path / "file" / "b", parents=True)
    assert content(tmp_path) == {"file": b""}


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "choose a folder that you may write to"),
     (errno.ENAMETOOLONG, "choose a shorter name"), (errno.EIO, "check the disk")],
)  # fmt: skip
def test_advice_goes_with_the_cause(number: int, advice: str) -> None:
    with pytest.raises(InputError, match=advice) as caught, atomic.user_output("x"):
        raise OSError(number, os.strerror(number))
    assert os.strerror(number) in str(caught.value)
