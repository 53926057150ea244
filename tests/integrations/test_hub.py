"""Weights on the Hugging Face Hub: loaded from one on loopback, and pushed to it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_line import refuses, run
from hub_server import TOKEN, Repo, hub_server

import denovox
from denovox.core.errors import InputError
from denovox.integrations.hub import repository
from denovox.metrics.bootstrap import Interval
from denovox.metrics.results import Figure, Results, write
from denovox.model import hub as of
from denovox.model import weights

constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra [hub]")
# huggingface_hub uploads in a way that its own HTTP library deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub, and a cache of our own. What huggingface_hub reads when it is imported is set here."""
    with hub_server() as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home/hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def pushed(hub, tiny):
    """hf://jane/ct@commit."""
    result = run("push", tiny, "jane/ct", "--license", "cc-by-4.0")
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def of_a_trained(tiny, path, **card):
    """Weights of one's own, with a card."""
    config, _, _ = weights.describe(tiny)
    weights.save(path, weights.state_for(tiny, config), config, card)
    return path


# ---- loading ------------------------------------------------------------------------------------


def test_pushed_weights_are_loaded_and_pinned(hub, pushed, tiny, tmp_path):
    assert pushed == f"hf://jane/ct@{hub.repos['jane/ct'].heads['main']}"
    model = denovox.load("hf://jane/ct")
    assert model.path.read_bytes() == tiny.read_bytes()
    assert of.source_of(model.path) == pushed
    scan, out = tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz"
    hu = np.random.default_rng(0).normal(40, 30, (24, 24, 24)).astype(np.float32)
    nibabel.Nifti1Image(hu, np.diag([3.0, 3.0, 3.0, 1.0])).to_filename(scan)
    words = ("--noise-hu", 20, "--region", "abdomen", "--accept-hu")
    result = run("denoise", scan, out, "--weights", "hf://jane/ct@main", *words)
    assert result.exit_code == 0, result.output
    told = json.loads(Path(f"{out}.json").read_text())["model"]["weights"]
    assert told["source"] == pushed
    assert told["sha256"] == weights.sha256(tiny)


def test_a_branch_a_commit_and_the_same_commit_on_another_machine(hub, pushed, tiny, tmp_path):
    second = of_a_trained(tiny, tmp_path / "second.safetensors", text="better")
    result = run("push", second, "jane/ct", "--revision", "next", "--license", "other")
    assert result.exit_code == 0, result.output
    assert denovox.load("hf://jane/ct@next").path.read_bytes() == second.read_bytes()
    for name in ("hf://jane/ct", "hf://jane/ct@main", pushed):
        assert denovox.load(name).path.read_bytes() == tiny.read_bytes()
    sent = pickle.dumps(denovox.load("hf://jane/ct@next").denoiser)
    shutil.rmtree(tmp_path / "home")  # as on a machine that has not downloaded it
    again = pickle.loads(sent)
    assert again.path.read_bytes() == second.read_bytes()


def test_a_control_and_its_base_are_loaded_from_the_hub(pushed, tiny, tiny_lesion):
    assert run("push", tiny_lesion, "jane/lesion", "--license", "other").exit_code == 0
    model = denovox.load("hf://jane/ct", control="hf://jane/lesion")
    assert model.control == "lesion"
    with pytest.raises(InputError, match="give it with --weights as well"):
        denovox.load("hf://jane/lesion")


def test_what_is_in_the_cache_needs_no_network(hub, pushed, tiny, tmp_path, monkeypatch):
    path = denovox.load("hf://jane/ct").path
    before = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert denovox.load("hf://jane/ct").path == path
    assert denovox.load(pushed).path == path
    with pytest.raises(InputError, match=r"not in the cache \(.*HF_HUB_OFFLINE is set"):
        denovox.load("hf://jane/other")
    assert len(hub.asked) == before


@pytest.mark.slow
def test_the_variables_of_huggingface_hub_are_those_of_the_environment(hub, pushed, tmp_path):
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, in a process of its own."""
    code = "import denovox; print(denovox.load('hf://jane/ct').path)"
    home = {"HF_HOME": str(tmp_path / "elsewhere")}

    def process(**more):
        env = {**os.environ, **home, "OMP_NUM_THREADS": "1", **more}
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)

    first = process(HF_ENDPOINT=hub.url)
    assert first.stdout.startswith(home["HF_HOME"]), first.stderr
    assert process(HF_HUB_OFFLINE="1").stdout == first.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hf://jane/none", ["no such repository, or it is private", "hf auth login"]),
        ("hf://jane/private", ["no such repository, or it is private"]),
        ("hf://jane/gated", ["access to this repository has to be granted", "/jane/gated"]),
        ("hf://jane/denied", ["refuses access (403)"]),
        ("hf://jane/ct@v9", ["no revision 'v9'"]),
        ("hf://jane/other", ["not a model of denovox", "denovox push"]),
        ("hf://jane/empty", ["not a model of denovox"]),
        ("hf://jane", ["write hf://owner/name"]),
        ("hf://jane/ct@", ["write hf://owner/name"]),
        ("hf://jane/../ct", ["write hf://owner/name"]),
    ],
)
def test_an_error_of_the_hub_is_one_sentence(hub, pushed, tmp_path, monkeypatch, name, says):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "y" * 34)
    hub.repos |= {f"jane/{kind}": Repo() for kind in ("private", "gated", "denied", "other")}
    hub.repos["jane/private"].private = True
    hub.repos["jane/gated"].refuses = 403, "GatedRepo"
    hub.repos["jane/denied"].refuses = 403, ""
    hub.repos["jane/other"].commit("main", {"config.json": b'{"model_type": "bert"}'})
    hub.repos["jane/empty"] = Repo()
    hub.repos["jane/empty"].commit("main", {"README.md": b""})
    scan = tmp_path / "scan.nii.gz"
    hu = np.random.default_rng(0).normal(40, 30, (24, 24, 24)).astype(np.float32)
    nibabel.Nifti1Image(hu, np.diag([3.0, 3.0, 3.0, 1.0])).to_filename(scan)
    out = tmp_path / "out.nii.gz"
    words = ("--noise-hu", 20, "--region", "abdomen", "--accept-hu")
    refuses(run("denoise", scan, out, "--weights", name, *words), *says)
    assert not out.exists()


def test_without_a_network_the_sentence_says_so(hub, pushed, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between its attempts
    closed = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", closed)
    template = closed + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(InputError, match=f"{closed} cannot be reached, and the cache"):
        denovox.load("hf://jane/ct")


def test_a_file_that_is_not_the_one_that_was_pushed_is_refused(pushed):
    path = denovox.load("hf://jane/ct").path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.resolve().write_bytes(data)
    with pytest.raises(InputError, match=r"has sha256 \w{12}, not \w{12} as its config.json says"):
        denovox.load("hf://jane/ct")


def test_without_the_extra_the_sentence_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refuses(run("push", "base", "jane/ct"), "pip install 'denovox[hub]'")


# ---- pushing ------------------------------------------------------------------------------------


def test_a_dry_run_is_a_folder_that_can_be_loaded(hub, tiny, tmp_path):
    folder = tmp_path / "dry"
    result = run("push", tiny, "jane/ct", "--license", "other", "--dry-run", folder)
    assert result.exit_code == 0, result.output
    assert not hub.asked
    names = {"model.safetensors", "config.json", "README.md"}
    assert {path.name for path in folder.iterdir()} == names
    assert denovox.load(folder).path.read_bytes() == tiny.read_bytes()
    refuses(run("push", tiny, "jane/ct", "--license", "other", "--dry-run", folder), "contains")


def test_the_model_card_is_that_of_the_weights():
    from huggingface_hub import ModelCard

    content = repository("base", "jane/ct")
    card = ModelCard(str(content["README.md"]))
    header = card.data.to_dict()
    assert header["license"] == "apache-2.0"
    assert header["library_name"] == "denovox"
    assert header["pipeline_tag"] == "image-to-image"
    config, inside, digest = weights.describe(weights.locate("base"))
    loss = str(inside["validation_loss"])
    for words in [str(inside["text"]), digest, "93 patients", *inside["sources"], loss]:
        assert words in card.text
    for title in ("Use", "Intended use", "Limits", "Data", "Training and figures", "File"):
        assert f"\n## {title}\n" in card.text
    about = json.loads(content["config.json"])
    assert about["sha256"] == digest
    assert weights.ModelConfig.model_validate(about["config"]) == config


def test_figures_are_added_where_they_are_of_these_weights(tiny, tmp_path):
    psnr = Figure("psnr", 33.125, Interval(None, None), 2, 2, "dB")
    for name, digest in (("mine", weights.sha256(tiny)), ("theirs", "0" * 64)):
        write(Results("white noise", "two chests", (psnr,), weights=digest), tmp_path / name)
    content = repository(tiny, "jane/ct", "other", [tmp_path / "mine"])
    assert "\n## white noise: two chests\n" in str(content["README.md"])
    assert "| psnr (dB) | 33.125 |" in str(content["README.md"])
    with pytest.raises(InputError, match="figures of other weights"):
        repository(tiny, "jane/ct", "other", [tmp_path / "theirs"])
    with pytest.raises(InputError, match="has no figures"):
        repository(tiny, "jane/ct", "other", [tmp_path])


def test_names_of_patients_are_not_published_unasked(hub, tiny, tmp_path):
    mine = of_a_trained(tiny, tmp_path / "mine.safetensors", validation_patients=["MRN-1", "MRN-2"])
    asked = ("push", mine, "jane/mine", "--license", "other")
    refuses(run(*asked), "names patients (MRN-1, MRN-2)", "--private", "--public")
    assert not hub.asked
    assert run(*asked, "--private").exit_code == 0
    assert hub.repos["jane/mine"].private
    hub.repos["jane/open"] = Repo()
    result = run("push", mine, "jane/open", "--license", "other", "--private")
    refuses(result, "exists and is public")
    assert not hub.repos["jane/open"].commits


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("jane/ct",), "--license"),
        (("jane/ct", "--license", "CC BY 4.0"), "is not the Hub's name of a licence"),
        (("ct", "--license", "other"), "does not name a repository"),
        (("jane/ct", "--license", "other", "--revision", "a b"), "does not name a repository"),
        (("jane/ct", "--license", "other", "--dry-run", "nowhere/dir"), "does not exist"),
    ],
)
def test_what_cannot_be_pushed_is_one_sentence(hub, tiny, words, says):
    refuses(run("push", tiny, *words), says)
    assert not hub.asked


def test_who_is_not_logged_in_learns_how(hub, tiny, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "y" * 34)
    refuses(run("push", tiny, "jane/ct", "--license", "other"), "refuses access (401)", "hf auth")
    assert not hub.repos


def test_an_upload_that_fails_leaves_no_commit(hub, tiny, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.blobs = None  # the storage answers with 500
    refuses(run("push", tiny, "jane/ct", "--license", "other"), "(HTTP 500)", "try again")
    assert not hub.repos["jane/ct"].commits
