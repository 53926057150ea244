# Everything runs in .venv, with the pinned versions of constraints.txt.
PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-fast check docs bench clean

bench: .venv/test
	$(PIP) -e ".[bench]"
	$(PY) benchmarks/run_all.py --slices 24
	$(PY) benchmarks/windows.py
	$(PY) benchmarks/store.py
	$(PY) benchmarks/regions.py
	$(PY) benchmarks/prepare.py

demo: .venv/demo
	.venv/bin/denovox demo --force

# Files side by side, each on a thread: many tests wait for processes of their own.
test: .venv/test
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

# Without the tests that kill processes, launch torchrun or Ray, or train for a minute.
test-fast: .venv/test
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow"

check: .venv/check
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PY) -m pytest tests/test_docs.py

# The site, into site/; broken links, anchors and references are errors.
docs: .venv/check
	.venv/bin/mkdocs build --strict

.venv/python:
	python3 -m venv .venv
	touch $@

# torch by itself first: pinned, it is the CPU build where one lies at hand.
.venv/demo: .venv/python pyproject.toml constraints.txt
	$(PIP) torch
	$(PIP) -e .
	touch $@

# nnU-Net's verifier judges what `augment` writes. It alone is wanted: with all that it asks for,
# nnU-Net would bring torchvision.
VERIFIER := nnunetv2 batchgenerators acvl_utils blosc2 numexpr ndindex httpx pandas

.venv/test: .venv/demo
	$(PIP) -e '.[test,cluster,s3,tensorboard]'
	$(PIP) --no-deps $(VERIFIER)
	touch $@

.venv/check: .venv/test
	$(PIP) -e '.[test,cluster,s3,tensorboard,dev,docs]'
	touch $@

clean:
	rm -rf .venv
