"""The docs say what is: commands, links, names of code, the vocabulary, fields of recipes."""

import ast
import contextlib
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin
from unittest.mock import create_autospec

import annotated_types
import click
import numpy as np
import pytest
from click.testing import CliRunner
from command_line import parse
from pydantic.fields import FieldInfo

import denovox
from denovox.cli.drawing.phantoms import pairs
from denovox.cli.main import main
from denovox.cli.synthesize import Synthesis
from denovox.core.config import Settings
from denovox.core.labels import NAMES, path
from denovox.reports import manifest
from denovox.train.config import Recipe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
# Pages that show how things are used today: the log and the changelog tell how they were.
TODAY = [
    page
    for page in PAGES
    if page.name not in ("log.md", "CHANGELOG.md", "cli.md") and "benchmarks" not in page.parts
]
WORDS = {str: "string", int: "integer", float: "number", bool: "boolean", Path: "path"}
SHARED = {"tile", "device", "precision", "batch"} | {
    "series", "straighten", "accept_hu", "report", "like", "force",
    "no_manifest", "as_json", "png", "progress", "memory", "seed", "weights",
    "out", "form", "workers", "engine", "watch", "quiet_time",  # of every batch
}  # fmt: skip


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(
    group: click.Group = main, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below a group, as words, groups within groups included."""
    for name, command in group.commands.items():
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        if isinstance(command, Synthesis):
            yield (*words, name, "--phantoms", "1"), pairs


COMMANDS = dict(commands())


def cli_page() -> str:
    """reference/cli.md, as the commands describe themselves."""
    runner = CliRunner()
    parts = ["# Commands\n\nWritten by `pytest tests/test_docs.py --write-docs`.\n"]
    for words in [(), *COMMANDS]:
        out = runner.invoke(main, [*words, "--help"], prog_name="denovox", terminal_width=80)
        title = " ".join(["denovox", *words])
        parts.append(f"## {title}\n\n```\n{out.stdout.strip()}\n```\n")
    return "\n".join(parts)


def labels_page() -> str:
    """reference/labels.md, from the vocabulary."""
    head = (
        "# Label values\n\n"
        "`--anatomy` takes a label map (NIfTI, NRRD or MetaImage) with these values. 1 to 117 are\n"
        "those of TotalSegmentator v2, whose multi-label output can be used as it is. 0 is\n"
        "unknown: nothing is stated about the voxel. Coarse classes can be used as well as fine\n"
        "ones; the path shows what each is part of.\n\n"
        "| value | name | path |\n|---|---|---|\n"
    )
    rows = (
        f"| {i} | {name} | {' > '.join(reversed(path(name)))} |" for i, name in enumerate(NAMES)
    )
    return head + "\n".join(rows) + "\n"


def tables(model: type[Settings], place: str = "") -> Iterator[tuple[str, type[Settings]]]:
    """The tables of a recipe in TOML: its own keys, then [data], [data.prepare], ..."""
    yield place, model
    for name, field in model.model_fields.items():
        if inner := settings_of(field):
            yield from tables(inner, f"{place}.{name}".strip("."))


def settings_of(field: FieldInfo) -> type[Settings] | None:
    options = [field.annotation, *get_args(field.annotation)]
    return next((x for x in options if inspect.isclass(x) and issubclass(x, Settings)), None)


def type_text(annotation: Any) -> str:
    """A field's type as a reader of TOML would say it."""
    of, inner = get_origin(annotation), get_args(annotation)
    if of is Literal:
        return " or ".join(f"`{json.dumps(x)}`" for x in inner)
    if of in (Union, UnionType):
        return " or ".join(type_text(x) for x in inner if x is not type(None))
    if of is tuple and inner[-1] is ...:
        return f"list of {type_text(inner[0])}" + "s" * (inner[0] in WORDS)
    if of is tuple:
        return f"{len(inner)} {type_text(inner[0])}s"
    return WORDS[annotation]


def bounds(field: FieldInfo) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    known = (annotated_types.Gt, annotated_types.Ge, annotated_types.Lt, annotated_types.Le)
    limits = [vars_of(one) for one in field.metadata if isinstance(one, known)]
    return "".join(f", {signs[sign]} {limit:g}" for sign, limit in limits)


def vars_of(limit: Any) -> tuple[str, float]:
    sign = type(limit).__name__.lower()
    return sign, getattr(limit, sign)


def default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "not set"
    return f"`{json.dumps(field.default)}`"


def described() -> tuple[str, dict[str, str], dict[tuple[str, str], str]]:
    """What people wrote in reference/recipes.md: its head, what stands above each table, and the
    last column of each row."""
    head, *sections = re.split(r"^## ", (DOCS / "reference/recipes.md").read_text(), flags=re.M)
    above, rows = {}, {}
    for section in sections:
        title, _, body = section.partition("\n")
        place = title.strip("`[]").replace("Top level", "")
        above[place] = body.partition("| field |")[0].strip()
        for field, text in re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", body, re.M):
            rows[place, field] = text.strip()
    return head, above, rows


def recipes_page() -> str:
    """reference/recipes.md: fields, types and defaults of the models; descriptions as they were."""
    head, above, rows = described()
    parts = [head.rstrip()]
    for place, model in tables(Recipe):
        lines = [f"## `[{place}]`" if place else "## Top level", ""]
        lines += [above[place], ""] if above.get(place) else []
        lines += ["| field | type | default | description |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            if settings_of(field):
                continue
            kind = type_text(field.annotation) + bounds(field)
            text = rows.get((place, name), "")
            lines.append(f"| `{name}` | {kind} | {default_text(field)} | {text} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


WRITTEN = [
    ("cli.md", cli_page),
    ("labels.md", labels_page),
    ("manifest.schema.json", manifest.schema),
    ("recipes.md", recipes_page),
]


@pytest.mark.parametrize(("page", "written"), WRITTEN, ids=lambda x: x if type(x) is str else "")
def test_written_pages_are_up_to_date(page, written, request):
    target = DOCS / "reference" / page
    if request.config.getoption("--write-docs"):
        target.write_text(written())
    assert target.read_text() == written(), "run: pytest tests/test_docs.py --write-docs"


def test_every_field_of_a_recipe_is_described():
    _, _, rows = described()
    fields = {
        (place, name)
        for place, model in tables(Recipe)
        for name, field in model.model_fields.items()
        if not settings_of(field)
    }
    assert not fields - {key for key, text in rows.items() if text}, "write their descriptions"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_files_that_the_code_and_pages_name_exist():
    """docs/....md in the package, recipes and benchmarks; src/denovox/... in pages."""
    readers = [*(ROOT / "src").rglob("*.py"), *ROOT.glob("recipes/*.toml")]
    readers += [*ROOT.glob("benchmarks/*.py"), *TODAY]
    missing = [
        f"{name_of(file)}: {target}"
        for file in readers
        for target in re.findall(r"\b(?:docs|src/denovox)/[\w/.-]+\w", file.read_text())
        if not (ROOT / target).exists()
    ]
    assert not missing


def test_sections_that_docstrings_cite_exist():
    """Method 3, Facts 5.4 (in capitals, too): anchors of the pages on the method."""
    pages = {name: (DOCS / f"explain/{name}.md").read_text() for name in ("method", "facts")}
    cited = 0
    for file in [*(ROOT / "src").rglob("*.py"), *ROOT.glob("tests/**/*.py")]:
        for name, number in re.findall(
            r"\b(METHOD|FACTS|Method|Facts) (\d(?:\.\d)?)", file.read_text()
        ):
            anchor = f'<a id="{name.lower()}-{number}"></a>'
            assert anchor in pages[name.lower()], f"{file.name}: {name} {number}"
            cited += 1
    assert cited > 10


@pytest.mark.parametrize("page", ["paper-map.md", "architecture.md"])
def test_named_code_exists(page):
    """`file.py` `name`, `name`: each name is defined in that file."""
    text = (DOCS / "explain" / page).read_text()
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


def test_the_layers_are_those_that_are_checked():
    """The table of architecture.md against the contract of import-linter."""
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    text = (DOCS / "explain/architecture.md").read_text()
    rows = re.findall(
        r"^\| (`[^|]+`) \|", text.partition("| layer |")[2].partition("\n\n")[0], re.M
    )
    shown = [re.findall(r"`(\w+)`", row) for row in rows]
    assert shown == [re.findall(r"\w+", layer) for layer in contract["layers"]]


def test_no_command_has_more_than_ten_flags():
    """Beside those of reading, running and writing that many commands share."""
    for words, command in COMMANDS.items():
        flags = {p.name for p in command.params if isinstance(p, click.Option) and not p.hidden}
        assert len(flags - SHARED) <= 10, words


def shown_commands(text: str) -> Iterator[str]:
    """`denovox ...` in fenced and indented blocks and in inline code, without comments."""
    text = re.sub(r"\\\n\s*", " ", text)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    blocks = re.findall(r"^(?: {4}|\t).*$", text, re.M)
    for fence in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
        blocks += fence.splitlines()
    for line in [*inline, *blocks]:
        if match := re.search(r"(?:^\s*|bin/|-m |-n \d )denovox ([a-z].*)", line.partition("#")[0]):
            yield match[1]


@pytest.mark.parametrize("page", TODAY, ids=name_of)
def test_shown_commands_exist(page):
    """Each command, the commands below it, and its options."""
    for line in shown_commands(page.read_text()):
        command: click.Command = main
        words = line.split()
        while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z-]+", words[0]):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        if isinstance(command, Synthesis) and "--phantoms" in words:
            command = pairs
        options = {o for p in command.params for o in p.opts} | {"--help"}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", " ".join(words))) <= options, line


@pytest.mark.parametrize("page", TODAY, ids=name_of)
def test_shown_python_is_of_the_public_face(page):
    """Python in pages: it parses; denovox.x, model.y and their keywords exist."""
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                for name in node.names:
                    assert importable(node.module or "", name.name), ast.unparse(node)
            if isinstance(node, ast.Attribute):
                resolved(node)
            if isinstance(node, ast.Call) and (function := resolved(node.func)):
                taken = inspect.signature(function).parameters
                assert {one.arg for one in node.keywords} <= set(taken), ast.unparse(node)


NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\s*\Z")  # above a block: it is parsed alone


def blocks_of(text: str) -> Iterator[tuple[str, bool]]:
    """(the code, whether it runs) of each Python block of a page or docstring."""
    text = inspect.cleandoc(text)
    for fence in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
        yield fence[1], not NOT_RUN.search(text[: fence.start()])


def docstrings() -> Iterator[tuple[str, str]]:
    """(file and name, text) of every docstring of the package that has a block of code."""
    for file in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                assert ">>>" not in text, f"{file}: write the example as a ```python block"
                if "```python" in text:
                    yield f"{name_of(file)} {getattr(node, 'name', '')}", text


@pytest.fixture
def names_of_the_docs(tmp_path, monkeypatch):
    """What the blocks take for granted: files in the working folder, and values of these names.

    The model is a stand-in that takes exactly the arguments of the real one: its results are tested
    elsewhere, and take hours with the real weights.
    """
    from denovox.io import nifti
    from denovox.simulate.phantom import add_noise, chest

    monkeypatch.chdir(tmp_path)
    made = chest((48, 44, 60), (7.0, 7.0, 4.0))
    ct, ids = add_noise(made.ct, 20, 0), made.labels
    nifti.write(ct, "ct.nii.gz")
    nifti.write_labels(np.minimum(ids, 2), ct.affine, "mask.nii.gz")
    nifti.write_labels(ids, ct.affine, "labels.nii.gz")
    model = create_autospec(denovox.Model, instance=True)
    model.denoise.return_value = model.superres.return_value = ct
    load = create_autospec(denovox.load, return_value=model)
    monkeypatch.setattr(denovox, "load", load, raising=False)
    report = create_autospec(denovox.inspect)  # it times the real model
    monkeypatch.setattr(denovox, "inspect", report, raising=False)
    values = {"denovox": denovox, "ct": ct, "model": model, "mask": ids > 0}
    values |= {"image": ct.to_nibabel(), "array": ct.hu, "tensor": ct.to_metatensor()}
    values["sitk_image"] = ct.to_sitk()
    return values


PYTHON = {name_of(page): page.read_text() for page in TODAY} | dict(docstrings())
PYTHON = {name: text for name, text in PYTHON.items() if "```python\n" in text}


@pytest.mark.parametrize("name", PYTHON)
def test_shown_python_runs(name, names_of_the_docs):
    for code, runs in blocks_of(PYTHON[name]):
        compiled = compile(code, name, "exec")
        if runs:
            exec(compiled, names_of_the_docs)


def block_commands(text: str) -> Iterator[str]:
    """`denovox ...` in fenced and indented blocks, without comments."""
    yield from shown_commands(re.sub(r"`[^`\n]+`", "", text))


@pytest.mark.parametrize("page", TODAY, ids=name_of)
def test_shown_commands_are_parsed(page):
    """By click itself: each option takes its value, and no argument is missing."""
    for line in block_commands(page.read_text()):
        words = shlex.split(re.split(r"\s(?:\||>|&&)\s", line)[0])
        command: click.Command = main
        names = []
        while isinstance(command, click.Group):
            names.append(words.pop(0))
            command = command.commands[names[-1]]
        with contextlib.suppress(click.exceptions.Exit):  # --help
            parse(command, " ".join(names), words)


def importable(module: str, name: str) -> bool:
    if hasattr(importlib.import_module(module), name):
        return True
    return importlib.util.find_spec(f"{module}.{name}") is not None


def resolved(node: ast.expr) -> Any:
    """What denovox.a.b, or model.a, stands for; None for other names. Fails where it is nothing."""
    if not isinstance(node, ast.Attribute):
        return None
    if isinstance(node.value, ast.Name) and node.value.id in ("denovox", "model"):
        owner: Any = denovox if node.value.id == "denovox" else denovox.Model
    else:
        owner = resolved(node.value)
    if owner is None:
        return None
    assert hasattr(owner, node.attr), ast.unparse(node)
    return getattr(owner, node.attr)


@pytest.mark.parametrize("page", TODAY, ids=name_of)
def test_shown_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    shown = re.findall(r"(?:^    |`)make (\w+)", page.read_text(), re.M)
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in shown), shown


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/explain/limits.md"])
def test_it_is_no_medical_device(page):
    assert "not a medical device" in (ROOT / page).read_text()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs denovox[docs]")
def test_the_site_builds(tmp_path):
    """Every page in the navigation, every anchor, every name of the API; without a network."""
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    out = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    for page in tmp_path.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|img|link)\b[^>]*(?:src|href)="?(https?:[^" >]+)', page.read_text()
        )
        assert not fetched, page


def test_nothing_of_a_patient_is_tracked():
    out = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    scans = re.compile(r"\.(nii|nii\.gz|dcm|nrrd|mha|npy|npz|pt|pth|ckpt)$")
    assert not [name for name in out.stdout.splitlines() if scans.search(name)]


# ---- the repository -----------------------------------------------------------------------------

LARGEST_MB, WHOLE_MB = 20, 45  # of a tracked file (the base with its expert: 19), of all


def test_the_tracked_tree_stays_small():
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a clone")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    sizes = {
        name: (ROOT / name).stat().st_size / 1e6
        for name in listed.stdout.split("\0")
        if name and (ROOT / name).is_file()
    }
    assert {name: mb for name, mb in sizes.items() if mb > LARGEST_MB} == {}
    assert sum(sizes.values()) < WHOLE_MB
