# make demo | make test | make conformance | make lint | make bench
# One set-up for all of them: .venv, made once and remade when pyproject.toml changes.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS ?= data,test,dev

# A machine with an NVIDIA driver takes the default (CUDA) torch; any other takes the pinned CPU version.
# Override: make demo TORCH=cpu | TORCH=cuda
TORCH  ?= $(shell if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then echo cuda; else echo cpu; fi)
CONSTRAINTS_cpu  := -c constraints-cpu.txt
CONSTRAINTS_cuda :=
PIP_FLAGS ?=

.PHONY: setup demo test conformance lint bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ditkit needs Python 3.11 or newer; found $$($(PYTHON) --version). Say which to use: make PYTHON=python3.12 ..."; exit 2; }
	@echo "Setting up $(VENV) with torch for $(TORCH); this takes a minute or two ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check $(PIP_FLAGS) $(CONSTRAINTS_$(TORCH)) -e '.[$(EXTRAS)]'
	@touch $@

demo: setup
	$(BIN)/ditkit demo --out runs/demo

test: setup
	$(BIN)/python -m pytest -n 2 --durations=5

conformance: setup
	$(BIN)/python -m pytest tests/conformance -n 2

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: setup
	$(BIN)/python benchmarks/dit.py

clean:
	rm -rf $(VENV) build dist
