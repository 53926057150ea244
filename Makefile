# Everything runs in .venv, with the pinned versions of constraints.txt.
PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-fast check docs bench lock clean

bench: .venv/test
	$(PIP) -e ".[bench]"
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
VERIFIER := nnunetv2==2.8.1 batchgenerators==0.25.5 acvl_utils==0.2.6 blosc2==4.14.1 \
	numexpr==2.14.2 ndindex==1.10.1 httpx==0.28.1 pandas==3.1.1

.venv/test: .venv/demo
	$(PIP) -e '.[test,cluster,s3,tensorboard]'
	$(PIP) --no-deps $(VERIFIER)
	touch $@

.venv/check: .venv/test
	$(PIP) -e '.[test,cluster,s3,tensorboard,dev,docs]'
	touch $@

# constraints.txt from pyproject.toml: versions of every package, for every Python and system. What
# is in it already is kept where it fits; make lock UPGRADE="--upgrade-package torch" renews one.
# The CUDA packages are left out: they depend on where torch comes from.
lock: .venv/python
	$(PIP) uv
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate \
		--custom-compile-command "make lock" --output-file constraints.txt $(UPGRADE) pyproject.toml
	sed -i -E '/^(cuda-|nvidia-|triton)/d' constraints.txt

clean:
	rm -rf .venv
