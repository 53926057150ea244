"""The commands as tools of the Model Context Protocol: arguments, the folder, the process.

The tests of the last part drive a server by the client of the package mcp; without it they skip.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import nibabel
import numpy as np
import pytest
from command_line import parse, refuses
from command_line import run as denovox

from denovox.cli.main import main
from denovox.cli.mcp import tools
from denovox.core.errors import InputError
from denovox.integrations import mcp_server
from denovox.integrations.mcp_server import bound, run
from denovox.io import nifti

pytest.importorskip("jsonschema", reason="jsonschema comes with the extra mcp")
PYTHON = sys.executable
TOOLS = {tool.name: tool for tool in tools()}
ARGUMENTS = {
    "inspect": {"path": ["a.nii.gz", "b.nii.gz"], "straighten": True},
    "denoise": {"input": "a.nii.gz", "output": "new/c.nii.gz", "noise_hu": 12.5, "samples": 4},
    "superres": {"input": "a.nii.gz", "output": "c", "factor": 3, "weights": ["base"]},
    "detect": {"input": "-a.nii.gz", "output": "c.nii.gz", "roi": "b.nii.gz", "force": True},
    "synthesize": {"output": "c.nii.gz", "shape": "8x16x16", "spacing": "2", "region": "chest"},
    "info": {},
}


@pytest.fixture
def root(tmp_path):
    """A folder with scans, resolved, as the server has it."""
    folder = (tmp_path / "root").resolve()
    folder.mkdir()
    for name in ("a.nii.gz", "b.nii.gz", "-a.nii.gz"):
        (folder / name).write_bytes(b"\x1f\x8b")
    return folder


# ---- tools --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_of_a_tool_are_those_that_click_parses(name, root):
    tool, given = TOOLS[name], ARGUMENTS[name]
    words = tool.command(given, root)
    command = main.commands[words[0]]
    parsed = parse(command, words[0], words[1:]).params
    for key, value in given.items():
        expected = value
        if isinstance(parsed[key], Path):
            expected = root / str(value)
        elif key == "path":
            expected = tuple(root / each for each in value)
        elif isinstance(value, list):
            expected = tuple(value)
        assert parsed[key] == expected, key
    assert parsed["as_json"]


def test_no_tool_has_a_string_that_may_be_a_path():
    """A new option of type string: look whether a file can be named by it, then add it here."""
    strings = {
        field.name
        for tool in TOOLS.values()
        for field in tool.fields
        if not field.path and field.schema.get("type") == "string" and "enum" not in field.schema
    }
    assert strings == {"series", "shape", "spacing", "label_set"}
    paths = {field.name for tool in TOOLS.values() for field in tool.fields if field.path}
    assert paths == {"path", "input", "output", "roi", "anatomy", "lesions", "report", "png"}


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("denoise", {"input": "a.nii.gz"}, "'output' is a required property"),
        ("denoise", {"input": "a.nii.gz", "output": 3}, "output: 3 is not of type 'string'"),
        ("info", {"device": "cuda"}, "'device' was unexpected"),
        ("inspect", {"path": []}, "path: "),
        ("superres", {"input": "a", "output": "b", "weights": ["/x"]}, "is not one of"),
    ],
)
def test_arguments_that_a_tool_does_not_take_are_one_sentence(name, given, says, root):
    with pytest.raises(InputError, match="see the schema of") as caught:
        TOOLS[name].command(given, root)
    assert says in str(caught.value)


# ---- the folder ---------------------------------------------------------------------------------

META = (
    "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\nOffset = 0 0 0\n"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementSpacing = 2 2 2\n"
)


def lay_traps(root: Path) -> None:
    """Links and headers that lead out of the folder, and some that do not."""
    outside = root.parent / "outside"
    (outside / "deep").mkdir(parents=True)
    for name in ("secret.nii.gz", "secret.raw", "deep/secret.nii.gz"):
        (outside / name).write_bytes(bytes(16))
    (root / "link.nii.gz").symlink_to(outside / "secret.nii.gz")
    (root / "folder").symlink_to(outside)
    (root / "series").mkdir()
    (root / "series" / "1.dcm").symlink_to(outside / "secret.raw")
    (root / "nested" / "one").mkdir(parents=True)
    (root / "nested" / "one" / "two").symlink_to(outside / "deep")
    (root / "head.mhd").write_text(f"{META}ElementDataFile = ../outside/secret.raw\n")
    (root / "absolute.mhd").write_text(f"{META}ElementDataFile = {outside}/secret.raw\n")
    (root / "hidden.mha").write_text(f"{META}ElementDataFile = ../outside/secret.raw\n")
    (root / "loop").symlink_to(root / "loop")
    (root / "own.nii.gz").symlink_to(root / "a.nii.gz")
    (root / "own.raw").write_bytes(bytes(16))
    (root / "own.mhd").write_text(f"{META}ElementDataFile = own.raw\n")


@pytest.mark.parametrize(
    "given",
    [
        "..",
        "../outside/secret.nii.gz",
        "new/../../outside/secret.nii.gz",
        "/etc/passwd",
        "link.nii.gz",
        "link.nii.gz:liver",
        "folder/secret.nii.gz",
        "folder/new.nii.gz",
        "series",
        "nested",
        "head.mhd",
        "absolute.mhd",
        "hidden.mha",
        "hidden.mha:liver",
        "loop",
        "a\0.nii.gz",
    ],
)
def test_no_path_leaves_the_folder(given, root):
    lay_traps(root)
    with pytest.raises(InputError, match=r"outside|is not a path"):
        bound(given, root)
    with pytest.raises(InputError, match=r"outside|is not a path"):
        TOOLS["inspect"].command({"path": ["a.nii.gz", given]}, root)


@pytest.mark.parametrize(
    "given", ["a.nii.gz", "new/deep/c.nii.gz", "own.nii.gz", "own.mhd", ".", "b.nii.gz:liver"]
)
def test_paths_within_the_folder_are_kept(given, root):
    if given != ".":
        lay_traps(root)
    expected = "a.nii.gz" if given == "own.nii.gz" else given
    assert bound(given, root) == bound(str(root / given), root) == root / expected


# ---- the process --------------------------------------------------------------------------------


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Lets a shell script take the place of `python -m denovox`."""

    def install(script: str) -> Path:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))
        return path

    return install


def ran(*words: str) -> tuple[Any, list[float]]:
    """(what a command printed, the percentages that were reported)."""
    seen: list[float] = []

    async def tell(percent: float) -> None:
        seen.append(percent)

    async def both() -> Any:
        return await run(words, tell)

    return anyio.run(both), seen


def test_what_a_command_prints_is_its_result(stand_in):
    stand_in(
        """echo '{"a":'; printf '7 %%\\n42' >&2; sleep .1; printf ' %%\\nnote\\n' >&2; echo 1}"""
    )
    assert ran("denoise") == ({"a": 1}, [7.0, 42.0])


def test_the_command_is_denovox_itself():
    found, _ = ran("info", "--json")
    assert {"version", "devices", "weights"} <= set(found)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 3 % >&2; echo 'denovox: a.nii.gz is empty; copy it' >&2; exit 2", "^a.nii.gz is em"),
        ("kill -9 $$", "^denovox denoise was ended by signal 9"),
        ("echo 'ValueError: x' >&2; exit 1", r"failed with exit code 1 \(ValueError: x\)"),
        ("exit 0", r"failed with exit code 0 \(\)"),
        ("echo no JSON", "failed with exit code 0"),
    ],
)
def test_a_command_that_fails_is_one_sentence(script, says, stand_in):
    stand_in(script)
    with pytest.raises(InputError, match=says) as caught:
        ran("denoise")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("trap", ["trap 'exec sleep 0' TERM", "trap '' TERM"])
def test_a_command_ends_with_its_caller(trap, tmp_path, stand_in, monkeypatch):
    """Also one that does not react to SIGTERM."""
    monkeypatch.setattr(mcp_server, "GRACE_S", 0.2)
    stand_in(f"{trap}; echo $$ > {tmp_path}/pid; echo 1 % >&2; while :; do sleep .05; done")

    async def cancelled() -> None:
        async with anyio.create_task_group() as group:

            async def tell(percent: float) -> None:
                group.cancel_scope.cancel()

            group.start_soon(run, ["denoise"], tell)

    anyio.run(cancelled)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


# ---- the server ---------------------------------------------------------------------------------


def test_without_mcp_it_says_what_to_install(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    refuses(denovox("mcp", "--root", root), "pip install 'denovox[mcp]'")


@pytest.fixture
def mcp():
    """The package mcp."""
    return pytest.importorskip("mcp", reason="mcp is not installed: pip install 'denovox[mcp]'")


def test_a_root_that_is_no_folder_is_refused(root, mcp):
    refuses(denovox("mcp", "--root", root / "a.nii.gz"), "is not a folder")


def server_words(root: Path, python: Path | None = None) -> list[str]:
    """Arguments of Python for a server. python: in place of the one that runs the commands."""
    script = "import sys; from denovox.cli.main import main\n"
    script += f"sys.executable = {str(python)!r}\n" if python else ""
    return ["-c", f"{script}main({['mcp', '--root', str(root)]!r})"]


def served(mcp: Any, root: Path, session: Any, python: Path | None = None) -> None:
    """Run a session with a server."""
    environment = {"OMP_NUM_THREADS": "1", "DENOVOX_DEVICE": "cpu"}
    words = server_words(root, python)
    server = mcp.StdioServerParameters(command=PYTHON, args=words, env=environment)

    async def connected() -> None:
        with anyio.fail_after(120):
            async with mcp.Client(mcp.stdio_client(server)) as client:
                await session(client)

    anyio.run(connected)


@pytest.mark.slow
def test_a_client_denoises_and_gets_the_manifest(mcp, root):
    x, y, _ = np.meshgrid(*(np.arange(n) - n / 2 + 0.5 for n in (24, 24, 16)), indexing="ij")
    hu = np.where(np.hypot(x, y) < 9, 40, -1000).astype(np.int16)
    nibabel.Nifti1Image(hu, np.diag([-6.0, -6.0, 6.0, 1.0])).to_filename(root / "scan.nii.gz")
    given = {"input": "scan.nii.gz", "output": "out.nii.gz", "region": "chest", "noise_hu": 20}
    seen: list[float] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        assert total == 100
        seen.append(done)

    async def session(client: Any) -> None:
        offered = (await client.list_tools()).tools
        assert {tool.name: tool.input_schema for tool in offered} == {
            name: tool.schema for name, tool in TOOLS.items()
        }
        first = await client.call_tool("denoise", given, progress_callback=progress)
        assert not first.is_error, first
        manifest = json.loads((root / "out.nii.gz.json").read_text())
        assert first.structured_content == json.loads(first.content[0].text) == manifest
        assert manifest["command"] == "denoise"
        again = await client.call_tool("denoise", given)
        assert again.is_error
        assert "already exists" in again.content[0].text
        out = await client.call_tool("denoise", {**given, "output": "../out.nii.gz"})
        assert out.is_error
        assert f"outside {root}" in out.content[0].text
        none = await client.call_tool("segment", {})
        assert "there is no tool 'segment'" in none.content[0].text

    served(mcp, root, session)
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] == 100
    assert nifti.read(root / "out.nii.gz").shape == hu.shape


def test_the_server_outlives_a_crash_and_a_cancelled_command(mcp, root, stand_in):
    """One command kills itself, the next waits to be cancelled, the last works."""
    python = stand_in(
        f"""case $3 in
denoise) kill -9 $$ ;;
superres) trap 'touch {root}/ended; exit 143' TERM; echo 1 % >&2; while :; do sleep .05; done ;;
*) echo '{{"version": "1"}}' ;;
esac"""
    )
    given = {"input": "a.nii.gz", "output": "c.nii.gz"}

    async def session(client: Any) -> None:
        crashed = await client.call_tool("denoise", given)
        assert crashed.is_error
        assert crashed.content[0].text.startswith("denovox denoise was ended by signal 9")
        async with anyio.create_task_group() as group:

            async def progress(*_: object) -> None:
                group.cancel_scope.cancel()

            async def thin() -> None:
                await client.call_tool("superres", given, progress_callback=progress)

            group.start_soon(thin)
        found = await client.call_tool("info", {})
        assert found.structured_content == {"version": "1"}

    served(mcp, root, session, python)
    assert (root / "ended").exists()


@pytest.mark.parametrize("how", ["end of input", "SIGTERM"])
def test_a_command_ends_with_the_server(how, mcp, root, stand_in):
    """Whether the client closes the connection, or the server is ended."""
    trap = f"trap 'touch {root}/ended; exit 143' TERM; touch {root}/began"
    python = stand_in(f"{trap}; while :; do sleep .05; done")
    call = {"name": "denoise", "arguments": {"input": "a.nii.gz", "output": "c.nii.gz"}}
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}}
    hello["clientInfo"] = {"name": "test", "version": "1"}
    messages = [
        {"id": 1, "method": "initialize", "params": hello},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": call},
    ]
    with subprocess.Popen(
        [PYTHON, *server_words(root, python)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        for message in messages:
            server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        server.stdin.flush()
        while not (root / "began").exists() and server.poll() is None:
            time.sleep(0.05)
        if how == "SIGTERM":
            server.terminate()
        else:
            server.stdin.close()
        assert server.wait(120) == (143 if how == "SIGTERM" else 0)
    assert (root / "ended").exists()
