"""RED-CNN as a rival: the published network, trained on training patients alone, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from denovox.core.errors import InputError
from denovox.datasets import store
from denovox.evaluation.evidence import red_cnn
from denovox.evaluation.evidence.noise import NOISES
from denovox.evaluation.evidence.red_cnn import CUT, FILE, TRAINING, RedCnn, Trained, trained
from denovox.simulate import phantom

SHORT = TRAINING.model_copy(update={"minutes": 0, "steps": 2, "samples": 1, "batch": 1})
SPACING = (3.0, 3.0, 2.0)


def case(folder: Path, patient: str, split: str) -> store.Case:
    drawn = phantom.chest((56, 58, 4), SPACING, len(patient))
    facts = store.CaseFacts(
        id=patient, patient=patient, region="chest", spacing_mm=SPACING,
        affine=tuple(np.diag([*SPACING, 1]).ravel()), split=split, sha256=f"of {patient}",
    )  # fmt: skip
    store.add(folder, facts, np.rint(drawn.ct.hu).astype(np.int16), drawn.labels)
    store.index(folder)
    return next(one for one in store.cases(folder) if one.facts.patient == patient)


@torch.no_grad()
def test_the_network_is_the_published_one():
    """Kernels that copy the centre of the first channel make every layer a crop or a zero border,
    so that a ring of the result is the input times the number of shortcuts that reach it."""
    net = RedCnn()
    assert sum(p.numel() for p in net.parameters()) == 2 * 25 * 96 + 8 * 25 * 96**2 + 9 * 96 + 1
    weights = [p for p in net.parameters() if p.dim() > 1]
    assert len(weights) == 10
    assert torch.cat([w.flatten() for w in weights]).std() == pytest.approx(0.01, rel=0.01)
    for parameter in net.parameters():
        parameter.zero_()
    x = torch.rand(1, 1, 31, 27)
    torch.testing.assert_close(net(x), x)  # the shortcut from the input
    for kernel in weights:
        kernel[0, 0, 2, 2] = 1
    ring = np.minimum(
        *np.meshgrid(
            *(np.minimum(np.arange(n), n - 1 - np.arange(n)) for n in (31, 27)), indexing="ij"
        )
    )
    times = 1 + (ring >= 4) + (ring >= 8) + (ring >= 10)
    torch.testing.assert_close(net(x), x * torch.from_numpy(times).float())


def test_it_is_applied_slice_by_slice_in_model_units():
    net = RedCnn()
    for parameter in net.parameters():
        parameter.data.zero_()
    unit = np.random.default_rng(0).uniform(-CUT, CUT, (24, 22, 3)).astype(np.float32)
    np.testing.assert_allclose(Trained(net, {}, "")(unit), unit, atol=1e-6)  # the shortcut alone
    net.up[4].bias.data.fill_(0.25)
    brighter = Trained(net, {}, "")(unit)
    np.testing.assert_allclose(brighter, unit + 0.25 * 2 * CUT, atol=1e-6)


def test_it_is_trained_once_on_training_patients_and_never_used_on_them(tmp_path, monkeypatch):
    monkeypatch.setattr(red_cnn, "NOISES", {"white-noise": NOISES["white-noise"]})  # the fastest
    ann, bob = case(tmp_path / "s", "ann", "train"), case(tmp_path / "s", "bob", "validation")
    said: list[str] = []

    def run(name: str, cases):
        folder = tmp_path / name
        return trained(folder / FILE, cases, SHORT, folder / "state", said.append)

    first, again = run("a", ([ann], [bob])), run("b", ([ann], [bob]))
    assert first.card["cases"] == {"ann/chest": "of ann"}
    assert (first.card["patients"], first.card["steps"]) == (["ann"], 2)
    assert any(p.any() for p in first.net.parameters())
    for one, two in zip(first.net.parameters(), again.net.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)  # the same steps: the same bits
    count = len(said)
    assert run("a", ([], [bob])).sha256 == first.sha256  # from the file
    assert len(said) == count
    with pytest.raises(InputError, match="trained on ann"):
        run("a", ([bob], [ann]))
    (tmp_path / "a" / FILE).write_bytes(b"something else")
    with pytest.raises(InputError, match="is not a red-cnn"):
        run("a", ([ann], [bob]))
