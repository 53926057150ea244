"""Weights to the Hugging Face Hub: the files of a repository, and their upload."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import InputError, ensure, shown, silent
from ..core.version import __version__
from ..metrics.results import JSON_NAME, MARKDOWN_NAME
from ..model import weights
from ..model.hub import CONFIG, LIBRARY, WEIGHTS, Repository, in_words, parsed

USES = {  # what a model, or a control, is for
    None: "denoising, super-resolution, anomaly maps, synthesis and inpainting of CT scans",
    "lesion": "adding lesions to CT scans, as training data for segmentation",
    "low-resolution": "thin slices from thick ones in CT scans",
}
LIMITS = (
    "Not a medical device. A generative model can add structures and remove them: never make a"
    " diagnosis from its output."
)


def repository(
    name: str | Path, to: str, licence: str | None = None, figures: Sequence[Path] = ()
) -> dict[str, bytes | str]:
    """The files of a repository `to`: name -> content.

    name: of weights, as `denovox.load` takes it. licence: of the weights, as the Hub abbreviates
    it; None: that of denovox, for bundled weights. figures: folders that
    `denovox evaluate` wrote. `InputError` where the licence of other weights is not given, or
    figures are not of these weights.
    """
    where, path = parsed(to), weights.locate(name)
    config, card, digest = weights.describe_any(path)
    licence = licence_of(path, licence)
    kind = getattr(config, "kind", None)
    about = {
        "library": LIBRARY,
        "library_version": __version__,
        "kind": kind or "base",
        "sha256": digest,
        "config": config.model_dump(mode="json"),
    }
    tables = [_table(folder, digest) for folder in figures]
    card = {**card, "sha256": digest, "megabytes": path.stat().st_size / 1e6}
    return {
        WEIGHTS: path.read_bytes(),
        CONFIG: json.dumps(about, indent=1) + "\n",
        "README.md": "\n".join([*_header(licence, kind), *_card(where, card, kind), *tables]),
    }


def licence_of(path: Path, given: str | None) -> str:
    """The licence of weights, as the Hub abbreviates it; `InputError` where it is not known."""
    if given is None:
        ensure(
            weights.is_bundled(path),
            "these weights are not bundled with denovox; state their licence with --license, such"
            " as apache-2.0 or cc-by-nc-4.0",
        )
        return "apache-2.0"
    ensure(
        re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", given),
        f"'{given}' is not the Hub's name of a licence; write apache-2.0, cc-by-4.0, other, ...",
    )
    return given


def patients_named(name: str | Path) -> list[str]:
    """Patients that the card in weights of one's own names, for everyone who has the file."""
    path = weights.locate(name)
    if weights.is_bundled(path):
        return []
    named = weights.describe_any(path)[1].get("validation_patients", [])
    return [str(one) for one in named] if isinstance(named, list) else []


def push(
    content: Mapping[str, bytes | str],
    to: str,
    private: bool = False,
    say: Callable[[str], None] = silent,
) -> Repository:
    """Upload the files of a repository, which is created if need be, as one commit; the commit.

    to: "owner/name", or "owner/name@revision" for another branch than `main`. Files of the same
    name are replaced; the Hub keeps their history. `InputError` where the Hub cannot be reached or
    refuses, or a repository that is to be private exists and is public. Needs the extra `hub`.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    where, api = parsed(to), HfApi()
    with in_words(where):
        api.create_repo(where.id, private=private, exist_ok=True)
        if private and not api.model_info(where.id).private:
            raise InputError(
                f"{where}: it exists and is public; make it private, or choose another"
            )
        if where.revision is not None:
            api.create_branch(where.id, branch=where.revision, exist_ok=True)
        added = [
            CommitOperationAdd(name, data if isinstance(data, bytes) else data.encode())
            for name, data in content.items()
        ]
        say(f"uploading {', '.join(content)} to {where}")
        message = f"denovox {__version__}"
        commit = api.create_commit(where.id, added, commit_message=message, revision=where.revision)
    return Repository(where.id, commit.oid)


# ---- the model card ----------------------------------------------------------------------------


def _header(licence: str, kind: str | None) -> list[str]:
    """YAML that the Hub reads. Every value is a plain word."""
    tags = ["ct", "medical-imaging", "3d", "diffusion", "denoising", LIBRARY]
    return [
        "---",
        f"license: {licence}",
        f"library_name: {LIBRARY}",
        "pipeline_tag: image-to-image",
        "tags:",
        *(f"- {tag}" for tag in [*tags, *([] if kind is None else [f"control-{kind}"])]),
        "---",
        "",
    ]


def _card(where: Repository, card: Mapping[str, Any], kind: str | None) -> Iterator[str]:
    yield f"# {where.id.partition('/')[2]}"
    yield ""
    yield f"A {'base model' if kind is None else 'control'} of denovox, for {USES[kind]}."
    yield from _section("About", [card.get("text", "")])
    use = [
        "```python",
        "import denovox  # pip install 'denovox[hub]'",
        "",
        f'model = denovox.load("{where}")',
        "```",
    ]
    yield from _section("Use", [*use, "", f"On the command line: `--weights {where}`."])
    yield from _section("Intended use", [f"Research on {USES[kind]}."])
    yield from _section("Limits", [LIMITS])
    regions = [f"{name} {count}" for name, count in card.get("patients_per_region", {}).items()]
    patients = card.get("training_patients")
    known = [f"- {patients} patients: {', '.join(regions)}"] if patients else []
    yield from _section("Data", [*known, *(f"- {source}" for source in card.get("sources", []))])
    earlier = [one.get("steps", 0) for one in card.get("history", [])]
    loss, base = card.get("validation_loss"), card.get("base") if kind else None
    trained = [
        f"- {sum(earlier) + card.get('steps', 0)} steps in {len(earlier) + 1} runs",
        *([] if loss is None else [f"- validation loss {loss}"]),
        *([] if base is None else [f"- control of the base {base}"]),
    ]
    yield from _section("Training and figures", trained)
    size, digest = f"{card['megabytes']:.1f} MB", card["sha256"]
    yield from _section("File", [f"- {WEIGHTS}, {size}", f"- sha256 `{digest}`", ""])


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    """A section of Markdown; nothing where nothing is known."""
    if any(lines):
        yield from ("", f"## {title}", "", *map(shown, lines))


def _table(folder: Path, digest: str) -> str:
    """The figures in a folder of `denovox evaluate`, as a section."""
    try:
        content = json.loads((folder / JSON_NAME).read_text("utf-8"))
        of, text = content["weights"], (folder / MARKDOWN_NAME).read_text("utf-8")
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder} has no figures; give the --out of `denovox evaluate`") from None
    ensure(
        of == digest,
        f"{folder} has figures of other weights (sha256 {str(of)[:12]}, not {digest[:12]}); run"
        " `denovox evaluate` with these",
    )
    return f"\n#{text}"
