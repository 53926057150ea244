"""The table of protocols: every row can run, and names are understood."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from denovox.core.errors import InputError
from denovox.evaluation.protocols import KINDS, PROTOCOLS, protocol


@pytest.mark.parametrize("row", PROTOCOLS, ids=lambda row: row.name)
def test_every_row_has_a_function_and_texts(row):
    module, _, name = row.function.partition(":")
    assert callable(getattr(import_module(f"denovox.evaluation.{module}"), name))
    assert row.kind in KINDS
    assert row.data
    assert row.convention
    assert row.source


def test_names_are_unique_within_a_kind_and_old_ones_in_all():
    assert len({row.name for row in PROTOCOLS}) == len(PROTOCOLS)
    assert len({(row.kind, row.short or row.name) for row in PROTOCOLS}) == len(PROTOCOLS)
    for row in PROTOCOLS:
        assert protocol(row.name) is protocol(row.short or row.name, row.kind) is row


def test_unknown_names_get_a_sentence():
    with pytest.raises(
        InputError, match="'mayo' is not known; choose one of mayo16-redcnn, mayo16"
    ):
        protocol("mayo", "pairs")
    with pytest.raises(
        InputError, match=r"not known \(did you mean 'slab'\?\); choose one of dose"
    ):
        protocol("slabs", "simulated")
    with pytest.raises(InputError, match="'radiomic' is a protocol of `denovox evaluate realism`"):
        protocol("radiomic", "pairs")


def test_the_table_needs_nothing_slow():
    code = (
        "import sys; import denovox.evaluation.protocols;"
        "print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
