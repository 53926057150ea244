"""`denovox pack`: a recipe -> a kit, one folder that trains on a machine without a network."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..core.errors import InputError, ensure
from ..datasets import packed, store
from ..io.atomic import check_folder, scratch_folder, user_output
from ..io.space import check_space, size_of
from ..model import weights
from ..train import checkpoint
from ..train.config import Recipe, read_recipe
from . import wheels

STORE_MB = 40.0
PYTHON = "3.12"
START, TEACHER = "start.safetensors", "teacher.safetensors"


@dataclass(frozen=True)
class Target:
    """The machine that a kit is for, and the limits of the kit.

    python: such as "3.12". has: a list of the packages installed there (wheels.py `read_has`);
    None: torch, numpy, scipy and Pillow. wheels: a folder to take wheels from first.
    store_mb: maximum size of the packed store.
    """

    python: str = PYTHON
    has: Path | None = None
    wheels: Path | None = None
    store_mb: float = STORE_MB


def pack(
    recipe: Path,
    out: Path,
    target: Target,
    start: str | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Write a kit to the folder `out`, in full or not at all.

    start: weights to start from (a file, or a bundled name), or the folder of a run, whose state is
    included; None: as in the recipe. Raises `InputError` if something is missing, does not fit, or
    cannot be written.
    """
    plan = read_recipe(recipe)
    ensure(
        re.fullmatch(r"3\.1[1-9]", target.python),
        f"kits for Python '{target.python}' are not supported",
    )
    _check_place(out, force)
    has: wheels.Has = dict.fromkeys(wheels.THERE)
    if target.has is not None:
        has = wheels.read_has(target.has)
    carried = wheels.missing(has, target.python)
    state = _state(start, plan)
    began = start if start is not None and state is None else plan.start
    weights_of = None if began is None else weights.locate(began)
    if weights_of is not None and weights.describe(weights_of)[0].net != plan.model.net:
        raise InputError(
            f"{weights_of}: these weights are for a different network from that of {recipe}"
        )
    teacher = None if plan.distill is None else weights.locate(plan.distill.teacher)
    learnt = {START: weights_of, TEACHER: None if teacher == weights_of else teacher}
    begun = {name: path for name, path in learnt.items() if path is not None}
    training, validating = _split(plan)
    store_bytes = min(size_of(Path(plan.data.store)) / 4, target.store_mb * packed.MB / 2)
    parts = [*begun.values()]
    parts += [Path(start or "") / checkpoint.NAME] if state is not None else []
    check_space({out: int(store_bytes) + sum(map(size_of, parts))})
    with user_output(out), scratch_folder(out.parent) as kit:
        (kit / "wheels").mkdir()
        wheels.own_wheel(kit / "wheels")
        wheels.collect(carried, target.python, kit / "wheels", target.wheels)
        cases, held = [*training, *validating], [case.facts.id for case in validating]
        place, sample = kit / "store", plan.data.sample
        notes = packed.pack(cases, place, sample, target.store_mb, say, held)
        if state is not None:
            checkpoint.save(kit / "state", state)
        for name, path in begun.items():
            shutil.copyfile(path, kit / name)
        _texts(kit, plan, target, begun, notes)
        if force and out.exists():
            shutil.rmtree(out)
        kit.rename(out)
    for note in notes:
        say(note)
    sizes = ", ".join(
        f"{part.name} {_mb(part):.1f}" for part in sorted(out.iterdir()) if _mb(part) > 0.1
    )
    say(f"{out}: {_mb(out):.1f} MB ({sizes}), for Python {target.python}")


def _check_place(out: Path, force: bool) -> None:
    """Raise `InputError` if a folder is in the way, or --force would remove something else."""
    check_folder(out, force=True, parents=True)
    if not out.exists():
        return
    ensure(force, f"{out} already exists; choose another, or use --force")
    kit = (out / "kit.json").is_file()
    ensure(kit, f"{out} is not a kit, so --force does not replace it; choose another")
    run = out / "work" / "run"
    ensure(not run.exists(), f"{run} holds a run, so --force does not replace it; move it away")


def _split(plan: Recipe) -> tuple[list[store.Case], list[store.Case]]:
    training, held = store.split(store.cases(plan.data.store), plan.data.validation_patients)
    ensure(training, f"{plan.data.store} has no cases to train on")
    return training, held


def _state(start: str | None, plan: Recipe) -> dict[str, Any] | None:
    """The state of a run, if `start` is its folder."""
    if start is None or not any(
        (Path(start) / n).exists() for n in (checkpoint.NAME, checkpoint.BEFORE)
    ):
        return None
    state, _ = checkpoint.load(Path(start))
    assert state is not None
    if plan.data.sample.control is None:
        own = {name: value.shape for name, value in plan.model.build().state_dict().items()}
        there = {name: value.shape for name, value in state["parameters"].items()}
        ensure(
            there == own, f"{start}: the run there trains a different network from this recipe's"
        )
    return state


def _texts(
    kit: Path, plan: Recipe, target: Target, begun: Mapping[str, Path], notes: list[str]
) -> None:
    """Write the text files of a kit: recipe, README, settings and run.sh.

    begun: the weights in the kit that the run starts from or learns from, by name.
    """
    content = plan.model_dump(mode="json", exclude_none=True)
    content["data"] |= {"store": "store"}
    for name in ("source", "layout", "prepare"):
        content["data"].pop(name, None)
    content.pop("start", None)
    if START in begun:
        content["start"] = START
    if plan.distill is not None:
        content["distill"]["teacher"] = TEACHER if TEACHER in begun else START
    (kit / "recipe.toml").write_text(toml(content), "utf-8")
    command = "pretrain" if plan.data.sample.control is None else "finetune"
    facts = {"python": target.python, "command": command, "name": plan.name, "store": notes}
    (kit / "kit.json").write_text(json.dumps(facts, indent=1) + "\n")
    script = kit / "run.sh"
    script.write_bytes((files("denovox") / "kit" / "run.sh").read_bytes())
    script.chmod(0o755)
    (kit / "README.md").write_text(_readme(plan, target, command, notes), "utf-8")


def _readme(plan: Recipe, target: Target, command: str, notes: list[str]) -> str:
    became = "\n".join(f"- {note}" for note in notes)
    return f"""# {plan.name}: a kit to train denovox without a network

    OUT=/some/folder ./run.sh --minutes 60

It needs bash, Python {target.python} and torch with numpy, scipy and Pillow; everything else is in
`wheels/`, which is unpacked to `work/site` (or to `$WORK/site`); nothing is installed. A GPU is
used if torch finds one. Run the same command again to resume a stopped run from `work/run`; delete
`work` to start over.

Afterwards `$OUT` contains the weights ({plan.name}.safetensors), log.csv, samples.png and
speeds.json; with `--state` also checkpoint.pt. No file is larger than 16 MB: use
`cat NAME.part* > NAME` to join one that was split. To continue elsewhere, give the weights as
`start` in a recipe, or put checkpoint.pt into a folder RUN and run
`denovox {command} RECIPE --out RUN`.

`recipe.toml` is the resolved recipe. The scans in `store/` are for research; they contain patient
data, so treat the folder as you would treat the scans. How packing changed them:

{became}
"""


def toml(content: Mapping[str, Any]) -> str:
    """A recipe as TOML: tables for the first level, inline tables below."""
    tables = {name: value for name, value in content.items() if isinstance(value, Mapping)}
    plain = {name: value for name, value in content.items() if name not in tables}
    lines = [f"{name} = {_value(value)}" for name, value in plain.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    # JSON strings and numbers are valid TOML, except for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _mb(path: Path) -> float:
    return size_of(path) / packed.MB
