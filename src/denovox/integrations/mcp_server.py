"""Commands as tools of the Model Context Protocol, for programs that drive denovox.

A tool is a command in a process of its own, so that neither a crash nor a lack of memory ends the
server. Every path is bound to one folder, and the commands run one after another: each of them
plans with all the cores and with half of the free memory.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import InputError, ensure, line, one_of, shown
from ..core.version import __version__

GRACE_S = 10.0  # between SIGTERM, after which a command removes what is unfinished, and SIGKILL
_PERCENT = re.compile(r"(\d+) %")
_ABOUT = (
    "denovox: a diffusion prior over CT, for research only, not a medical device. Paths are"
    " relative to the folder {root}; nothing outside it can be read or written. Messages name the"
    " options of the command line: --force is the argument `force`."
)

Tell = Callable[[float], Awaitable[None]]  # called with the percentage that is done


@dataclass(frozen=True)
class Field:
    """An argument of a tool. option: that it is passed as; "" for a positional one. schema: of its
    JSON value. path: whether it names a file or a folder. required: whether it must be given."""

    name: str
    option: str
    schema: dict[str, Any]
    path: bool = False
    required: bool = False


@dataclass(frozen=True)
class Tool:
    """A command as a tool. words: the command and the options that are always given. fields: in the
    order of the command line. writes: whether it writes files."""

    name: str
    about: str
    words: tuple[str, ...]
    fields: tuple[Field, ...] = ()
    writes: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of its arguments."""
        return {
            "type": "object",
            "properties": {field.name: field.schema for field in self.fields},
            "required": [field.name for field in self.fields if field.required],
            "additionalProperties": False,
        }

    def command(self, given: dict[str, Any], root: Path) -> list[str]:
        """The command line for arguments; `InputError` where they are not those of the schema, or a
        path leaves the folder `root`."""
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match

        wrong = best_match(Draft202012Validator(self.schema).iter_errors(given))
        if wrong is not None:
            where = "".join(f"{key}: " for key in wrong.absolute_path)
            raise InputError(f"{where}{line(wrong.message)}; see the schema of {self.name}")
        words = list(self.words)
        for field in self.fields:
            value = given.get(field.name)
            for each in value if isinstance(value, list) else [value]:
                if each is None or each is False:
                    continue
                text = str(bound(each, root)) if field.path else str(each)
                prefix = f"{field.option}=" if field.option else ""
                words.append(field.option if each is True else prefix + text)
        return words


# ---- one folder ---------------------------------------------------------------------------------


def bound(given: str, root: Path) -> Path:
    """The path that is meant, with its links resolved; `InputError` where it leaves the folder.

    given: absolute, or relative to the folder `root`. As much is asked of what a file or folder
    refers to: links in a folder, the data file of a header, and FILE of `FILE:NAME`.
    """
    try:
        path = (root / given).resolve()
        targets = {each: each.resolve() for each in (path, *_behind(path))}
    except (OSError, ValueError, RuntimeError):  # a null byte, a loop of links
        raise InputError(f"{shown(given)} is not a path; check it") from None
    for each, target in targets.items():
        what = f"{given} leads" if each == path else f"{given} refers to {each}, which is"
        inside = target.is_relative_to(root)
        ensure(inside, f"{what} outside {root}; the tools can access that folder only")
    return path


def _behind(path: Path) -> list[Path]:
    """What else is read where a path is given."""
    from ..io import formats, itk

    if path.is_dir():
        below = [Path(at, name) for at, dirs, files in os.walk(path) for name in (*dirs, *files)]
        return [each for each in below if each.is_symlink()]
    if not path.exists() and ":" in path.name:  # FILE:NAME, a segment
        file = path.with_name(path.name.rpartition(":")[0]).resolve()
        return [file, *(_behind(file) if file.exists() else [])]
    try:
        return [*itk.files_of(path)] if formats.kind_of(path) == "itk" else []
    except (InputError, OSError):  # there is none, or it cannot be read: the command says so
        return []


# ---- one command --------------------------------------------------------------------------------


async def run(words: Sequence[str], tell: Tell) -> Any:
    """What `denovox WORDS` prints on stdout, JSON; `InputError` where it fails.

    The process ends with the caller: SIGTERM on cancellation, and SIGKILL if that is not enough.
    """
    import anyio
    from anyio.streams.text import TextReceiveStream

    command = [sys.executable, "-m", "denovox", *words]
    with anyio.CancelScope(shield=True):  # otherwise a process that has just started is lost
        process = await anyio.open_process(command, stdin=subprocess.DEVNULL)
    printed: list[bytes] = []
    said: deque[str] = deque([""], maxlen=1)  # the last line on stderr that is not progress

    assert process.stdout is not None
    assert process.stderr is not None
    stdout, stderr = process.stdout, TextReceiveStream(process.stderr, errors="replace")

    async def results() -> None:
        printed.extend([part async for part in stdout])

    async def messages() -> None:
        rest = ""
        async for part in stderr:
            *lines, rest = (rest + part).split("\n")
            for each in filter(None, map(str.strip, lines)):
                if share := _PERCENT.fullmatch(each):
                    await tell(float(share[1]))
                else:
                    said.append(each)

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(results)
            group.start_soon(messages)
        code = await process.wait()
    finally:
        if process.returncode is None:
            with anyio.CancelScope(shield=True):
                process.terminate()
                with anyio.move_on_after(GRACE_S):
                    await process.wait()
        await process.aclose()  # which kills what is still there
    if code in (0, 2):  # `doctor` explains in its report why it refuses a scan
        with suppress(ValueError):
            return json.loads(b"".join(printed))
    raise InputError(_why(words[0], code, said[-1]))


def _why(command: str, code: int, said: str) -> str:
    """The sentence for a command that failed."""
    if code == 2:
        return said.removeprefix("denovox: ")
    if code < 0:
        return f"denovox {command} was ended by signal {-code}; 9 often means a lack of memory"
    return f"denovox {command} failed with exit code {code} ({line(said)}); please report this"


# ---- the server ---------------------------------------------------------------------------------


def serve(root: Path, tools: Sequence[Tool]) -> None:
    """Serve tools on stdin and stdout until stdin is closed. root: the folder of all paths."""
    import anyio
    from mcp import types
    from mcp.server import Server, ServerRequestContext
    from mcp.server.stdio import stdio_server

    ensure(root.is_dir(), f"--root {root} is not a folder; give the one that holds the scans")
    root = root.resolve()
    by_name = {tool.name: tool for tool in tools}
    turn = anyio.Lock()

    async def listed(ctx: ServerRequestContext, _: object) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool.name,
                    description=tool.about,
                    input_schema=tool.schema,
                    annotations=types.ToolAnnotations(read_only_hint=not tool.writes),
                )
                for tool in tools
            ]
        )

    async def call(
        ctx: ServerRequestContext, asked: types.CallToolRequestParams
    ) -> types.CallToolResult:
        async def tell(percent: float) -> None:
            await ctx.session.report_progress(percent, 100.0)

        try:
            one_of(asked.name, list(by_name), "tool")
            words = by_name[asked.name].command(asked.arguments or {}, root)
            async with turn:
                found = await run(words, tell)
        except InputError as error:
            said = [types.TextContent(text=str(error))]
            return types.CallToolResult(content=said, is_error=True)
        content = found if isinstance(found, dict) else {"reports": found}
        text = types.TextContent(text=json.dumps(content))
        return types.CallToolResult(content=[text], structured_content=content)

    about = _ABOUT.format(root=root)
    server = Server(
        "denovox", version=__version__, instructions=about, on_list_tools=listed, on_call_tool=call
    )

    async def ended_by(ends: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async for _ in received:
                ends.cancel()

    async def main() -> None:
        scope = anyio.CancelScope()
        async with anyio.create_task_group() as group:
            if os.name == "posix":
                group.start_soon(ended_by, scope)
            async with stdio_server() as (received, sent):
                with scope:
                    await server.run(received, sent, server.create_initialization_options())
                if scope.cancel_called:  # the thread that waits for stdin never returns
                    os._exit(128 + signal.SIGTERM)
            group.cancel_scope.cancel()

    anyio.run(main)
