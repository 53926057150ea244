"""The docs say what is: commands, links, names of functions, rows of the vocabulary."""

import re
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from denovox.cli.main import main
from denovox.core.labels import NAMES, path

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md")])


def help_page() -> str:
    """docs/cli.md, as the commands describe themselves."""
    runner = CliRunner()
    parts = ["# Commands\n\nWritten by `pytest tests/test_docs.py --write-docs`.\n"]
    for words in [[], *([name] for name in main.commands), *below(main)]:
        out = runner.invoke(main, [*words, "--help"], prog_name="denovox", terminal_width=80)
        title = " ".join(["denovox", *words])
        parts.append(f"## {title}\n\n```\n{out.stdout.strip()}\n```\n")
    return "\n".join(parts)


def below(group: click.Group) -> list[list[str]]:
    """The commands of a group's groups, as words."""
    groups = {n: c for n, c in group.commands.items() if isinstance(c, click.Group)}
    return [[name, inner] for name, command in groups.items() for inner in command.commands]


def labels_page() -> str:
    """docs/labels.md, from the vocabulary."""
    head = (
        "# Label values\n\n"
        "What `--anatomy` takes: a NIfTI of these values. 1 to 117 are TotalSegmentator v2's,\n"
        "so its multi-label output can be given as it is. 0 is unknown: nobody has said what is\n"
        "there. Coarse classes serve as well as fine ones; the path shows what each is part of.\n\n"
        "| value | name | path |\n|---|---|---|\n"
    )
    rows = (
        f"| {i} | {name} | {' > '.join(reversed(path(name)))} |" for i, name in enumerate(NAMES)
    )
    return head + "\n".join(rows) + "\n"


@pytest.mark.parametrize(("page", "made"), [("cli.md", help_page), ("labels.md", labels_page)])
def test_written_pages_are_up_to_date(page, made, request):
    target = ROOT / "docs" / page
    if request.config.getoption("--write-docs"):
        target.write_text(made())
    assert target.read_text() == made(), "run: pytest tests/test_docs.py --write-docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", ["paper.md", "street.md"])
def test_named_code_exists(page):
    """`file.py` `name`, `name`: each name is defined in that file."""
    text = (ROOT / "docs" / page).read_text()
    found = 0
    for line in text.splitlines():
        source = None
        for word in re.findall(r"`([^`]+)`", line):
            if re.fullmatch(r"[\w/]+\.py", word):
                source = ROOT / "src" / "denovox" / word
                assert source.is_file(), word
            elif source is not None and re.fullmatch(r"[A-Za-z_][\w.]*", word):
                name = word.split(".")[-1]
                defined = rf"(def|class) {name}\b|^{name}\b ?[:=]|self\.{name}\b|^    {name}:"
                assert re.search(defined, source.read_text(), re.M), f"{word} in {source.name}"
                found += 1
    assert found > 10


def test_no_command_has_more_than_ten_flags():
    for words in [*([name] for name in main.commands), *below(main)]:
        command = main
        for word in words:
            command = command.commands[word]
        flags = [p for p in command.params if isinstance(p, click.Option)]
        assert len(flags) <= 10, words


def test_readme_shows_the_commands_that_exist():
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"^ *denovox (\w+)", text, re.M):
        assert name in main.commands
    for target in re.findall(r"\bmake (\w+)", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target
    assert "not a medical device" in text


def test_nothing_of_a_patient_is_tracked():
    out = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    scans = re.compile(r"\.(nii|nii\.gz|dcm|nrrd|mha|npy|npz|pt|pth|ckpt)$")
    assert not [name for name in out.stdout.splitlines() if scans.search(name)]
