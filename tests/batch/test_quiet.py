"""When a study is complete."""

from denovox.batch.quiet import Quiet
from denovox.batch.scans import Scan


def test_a_study_is_complete_when_none_of_its_scans_changes(tmp_path):
    now = [0.0]
    one, two, other = (tmp_path / name for name in "123")
    for path in (one, two, other):
        path.write_bytes(b"")
    scans = [
        Scan("1", "1", one, files=(one,), study="s"),
        Scan("2", "2", two, files=(two,), study="s"),
        Scan("3", "3", other, files=(other,)),
    ]
    quiet = Quiet(10, lambda: now[0])

    def complete(at):
        now[0] = at
        return [scan.key for scan in quiet.complete(scans)]

    assert complete(0) == []
    assert complete(9.9) == []
    one.write_bytes(b"x")
    assert complete(10) == ["3"]
    assert complete(19.9) == ["3"]
    assert complete(20) == ["1", "2", "3"]
    scans.append(Scan("4", "4", two, files=(two, other), study="s"))  # a series that came later
    assert complete(21) == ["3"]
    assert complete(31) == ["1", "2", "4", "3"]


def test_without_a_quiet_time_everything_is_complete_at_once(tmp_path):
    path = tmp_path / "1"
    assert len(Quiet(0).complete([Scan("1", "1", path, files=(path,))])) == 1
