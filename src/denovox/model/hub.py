"""Weights on the Hugging Face Hub: `hf://owner/name@revision`, kept in its cache."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import InputError, ensure, line

PREFIX = "hf://"
LIBRARY = "denovox"
WEIGHTS, CONFIG = "model.safetensors", "config.json"  # of a repository
_PART = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"


@dataclass(frozen=True)
class Repository:
    """A repository of a model. revision: a branch, a tag or a commit."""

    id: str
    revision: str | None = None

    def __str__(self) -> str:
        return PREFIX + self.id + ("" if self.revision is None else f"@{self.revision}")


def is_hub(name: str | Path) -> bool:
    """Whether a name is of weights on the Hub."""
    return str(name).startswith(PREFIX)


def parsed(name: str) -> Repository:
    """The repository in "hf://owner/name@revision" or "owner/name"; `InputError` otherwise."""
    id, at, revision = name.removeprefix(PREFIX).partition("@")
    valid = re.fullmatch(f"{_PART}/{_PART}", id, re.ASCII) and "--" not in id and ".." not in id
    ensure(
        valid and bool(at) == bool(re.fullmatch(r"[\w./-]+", revision)),
        f"'{name}' does not name a repository; write hf://owner/name or hf://owner/name@revision",
    )
    return Repository(id, revision or None)


def download(name: str) -> Path:
    """The file of weights in the cache of the Hub, downloaded if it is not there yet.

    name: "hf://owner/name", with "@revision" if it is not to be that of `main`. `InputError` where
    the repository or revision does not exist, the Hub does not answer or denies access, the
    repository has no denovox weights, or its config.json describes a different file. Needs the
    extra `hub`; HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN act as in huggingface_hub.
    """
    from huggingface_hub import hf_hub_download

    where = parsed(name)
    with in_words(where):
        about = Path(hf_hub_download(where.id, CONFIG, revision=where.revision))
    expected = _described(about, where)
    with in_words(where):  # of the same commit, whatever has been pushed meanwhile
        path = Path(hf_hub_download(where.id, WEIGHTS, revision=about.parent.name))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    ensure(
        digest == expected,
        f"{where}: the file in {path.parent} has sha256 {digest[:12]}, not {expected[:12]} as its"
        f" {CONFIG} says; delete that folder and the files that it links to, and try again",
    )
    return path


def source_of(path: Path) -> str | None:
    """hf://owner/name@commit for a file in the cache of the Hub; None for any other."""
    within = re.search(
        r"/models--([^/]+)--([^/]+)/snapshots/([0-9a-f]{40})/[^/]+$", path.as_posix()
    )
    return None if within is None else f"{PREFIX}{within[1]}/{within[2]}@{within[3]}"


def _described(path: Path, where: Repository) -> str:
    """The sha256 of the weights, as config.json states it."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError:
        content = None
    known = isinstance(content, dict) and content.get("library") == LIBRARY
    if not known or not re.fullmatch("[0-9a-f]{64}", str(content.get("sha256"))):
        raise InputError(_foreign(where))
    return str(content["sha256"])


def _foreign(where: Repository) -> str:
    return f"{where}: not a model of denovox, whose {CONFIG} `denovox push` writes"


@contextmanager
def in_words(where: Repository) -> Iterator[None]:
    """Turn an error of the Hub, or of the way to it, into an `InputError`."""
    from huggingface_hub import errors

    # The common class of httpx, httpx2 or requests, whichever this version is built on.
    http: type[Exception] = errors.HfHubHTTPError.__mro__[1]
    xet = getattr(errors, "XetDownloadError", http)
    try:
        yield
    except (http, xet, errors.EntryNotFoundError, OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        raise InputError(_sentence(error, where)) from None


def _sentence(error: Exception, where: Repository) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error.__cause__, (errors.HfHubHTTPError, errors.FileMetadataError)):
        error = error.__cause__  # of "not in the cache", or of a failed upload
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{where}: the repository has no revision '{where.revision or 'main'}'; give one of"
            " its branches, tags or commits"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return _foreign(where)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{where}: access to this repository has to be granted; ask for it at"
            f" {constants.ENDPOINT}/{where.id}, then log in (`hf auth login`, or HF_TOKEN)"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{where}: there is no such repository, or it is private; check the name, or log in"
            " (`hf auth login`, or HF_TOKEN)"
        )
    if status in (401, 403):
        return (
            f"{where}: {constants.ENDPOINT} refuses access ({status}); log in with a token that"
            " permits it (`hf auth login`, or HF_TOKEN)"
        )
    if status is not None:
        return (
            f"{where}: {constants.ENDPOINT} answered with an error (HTTP {status}); try again later"
        )
    if constants.HF_HUB_OFFLINE:
        return (
            f"{where}: not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set;"
            " download it once without, or copy the cache here"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"{where}: {constants.ENDPOINT} cannot be reached, and the cache"
            f" ({constants.HF_HUB_CACHE}) does not have it; check the network connection"
        )
    return f"{where}: {constants.ENDPOINT} failed ({line(error)}); try again later"
