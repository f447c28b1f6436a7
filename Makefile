# The two commands of the README are `make demo` and `make test`. Every target sets up what it
# needs in .venv and again only after a change. Variables:
#   PYTHON=python3.12                     the Python to use (3.10 or newer)
#   TORCH=torch==2.11.0                   the PyTorch to install, or a wheel's path
#   TRITON=triton==3.8.0                  Triton, for tests, where that PyTorch brings none
#   PIP_FLAGS="--index-url URL"           where to take it from: pytorch.org lists CPU, CUDA, ROCm
#   VENV=/tmp/venv                        another place for the virtual environment
#   ARGS="..."                            more arguments for pytest (test), torchsru (demo, bench)
#   ROWS=results/gpu.jsonl                where make gpu writes its rows
#   COMMIT=HASH                           what they name, for a copy without .git
MAKEFLAGS += --no-builtin-rules
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 10))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
TORCH ?= torch==2.13.0
TRITON ?= triton==3.9.0
PIP_FLAGS ?=
VENV ?= .venv
ARGS ?=
WORKERS ?= 2

BIN := $(abspath $(VENV))/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := CMakeLists.txt $(wildcard cmake/*.cmake csrc/*)

.PHONY: help
help:  ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: demo
demo: build  ## Train SRU, then nn.LSTM, on your Python's own source code: 4 minutes, a table, a figure
	$(BIN)/torchsru demo $(ARGS)

.PHONY: test
test: build  ## Run the whole test suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope $(ARGS)
	@echo "and the Triton kernels in Triton's interpreter:"
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n $(WORKERS) tests/ops/test_triton.py $(ARGS) || \
		[ $$? = 5 ]  # 5: ARGS left none of them

.PHONY: lint
lint: build  ## Linter, formatter and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: bench
bench: build  ## Check, then time every case on this machine
	$(BIN)/torchsru bench $(ARGS)

.PHONY: docs
docs: build  ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

.PHONY: wheel
wheel: build  ## Build dist/*.whl in an isolated environment without torch
	PIP_CONSTRAINT=$(abspath constraints.txt) $(PIP) wheel --quiet --no-deps --wheel-dir dist .
	@ls -l dist/*.whl

.PHONY: sanitize
sanitize: build  ## Test the C++ part, without torch, under the address and undefined-behaviour sanitizers
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM=$(BIN)/ninja \
		-DTORCHSRU_SANITIZE=ON
	$(BIN)/cmake --build build/sanitize
	$(BIN)/ctest --test-dir build/sanitize --output-on-failure --no-tests=error

# Debian: apt install g++-aarch64-linux-gnu qemu-user
.PHONY: arm
arm: build  ## Needs a cross compiler and qemu: the kernels for ARM64 (NEON), tested in an emulator
	@command -v aarch64-linux-gnu-g++ qemu-aarch64 >/dev/null || { echo "make arm needs aarch64-linux-gnu-g++ and qemu-aarch64 on PATH (Debian: apt install g++-aarch64-linux-gnu qemu-user)"; exit 1; }
	$(BIN)/cmake -S . -B build/arm -G Ninja -DCMAKE_MAKE_PROGRAM=$(BIN)/ninja \
		-DTORCHSRU_KERNEL_TESTS=ON -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
		-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static \
		-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64
	$(BIN)/cmake --build build/arm
	$(BIN)/ctest --test-dir build/arm --output-on-failure --no-tests=error

# Runs from the checkout and sets up nothing: a GPU machine brings its own PyTorch and may be
# offline. Under 9 minutes: each part has its limit, and what a part has done by then is there. The
# C++ part is built where cmake is, and missed by nothing here where it is not.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
# all but those that compile for GPUs that are not there; more: GPU_TESTS='tests -m gpu'
GPU_TESTS ?= tests/ops/test_triton.py -k 'not registers'
ROWS ?= results/local/gpu.jsonl
.PHONY: gpu
gpu: export PYTHONPATH := $(CURDIR)/src$(if $(PYTHONPATH),:$(PYTHONPATH))
gpu:  ## Needs a GPU: kernels against float64, then the benchmark, in 9 minutes, with the machine's own PyTorch
	@$(GPU_PYTHON) -c 'import sys, torch; torch.cuda.is_available() or sys.exit("make gpu needs a CUDA or ROCm GPU that torch " + torch.__version__ + " can use; it finds none")'
	@if command -v cmake >/dev/null; then timeout 60 bash -c "cmake -S . -B build/gpu \
		-DCMAKE_BUILD_TYPE=Release && cmake --build build/gpu -j && \
		cmake --install build/gpu --prefix src" >/dev/null || echo "the C++ part was not built"; fi
	@status=0; begun=$$(date +%s); \
	workers=$$($(GPU_PYTHON) -c 'import importlib.util as u; print("-n 12" * bool(u.find_spec("xdist")))'); \
	echo "kernels against float64: pytest $(GPU_TESTS)"; \
	timeout -s INT -k 10 200 $(GPU_PYTHON) -m pytest -q --tb=short --durations=8 $$workers \
		$(GPU_TESTS) $(ARGS) || status=$$?; \
	echo "benchmark: torchsru bench --device cuda; rows: $(ROWS)"; \
	$(GPU_PYTHON) -m torchsru.bench --device cuda --limit $$((begun + 450 - $$(date +%s))) --out $(ROWS) \
		$(if $(COMMIT),--commit $(COMMIT)) || status=$$?; \
	exit $$status

.PHONY: clean
clean:  ## Remove everything that was built; runs/ and results/ stay
	rm -rf $(VENV) build dist site src/torchsru/lib .mypy_cache .pytest_cache .ruff_cache

# Set-up: torch first and pinned (a plain `torch` fetches whatever is newest, with gigabytes of
# CUDA), then the tools and dependencies at the versions of constraints.txt, then this package,
# editable; last, the C++ part, into src/torchsru/lib. ENVIRONMENT changes with the variables above.
ENVIRONMENT := $(VENV)/environment-$(shell echo "$(PYTHON) $(TORCH) $(TRITON) $(PIP_FLAGS)" | cksum | cut -d' ' -f1)

# The original with SRU++, for tests. It is called sru as the other one is, so it has its own folder.
SRUPP := $(VENV)/sru-3.0.0.dev6

.PHONY: build
build: $(VENV)/built  ## Set up .venv and build the package in place

$(VENV)/built: $(ENVIRONMENT) $(SRUPP) $(SOURCES)
	@rm -rf src/torchsru/lib
	$(PIP) install --quiet --no-build-isolation --no-deps --editable .
	@ls src/torchsru/lib/libtorchsru.* >/dev/null 2>&1 || echo "The C++ part was not built, so the slower pure-PyTorch path serves; why: CI=true $(PIP) install --no-build-isolation --no-deps -e ."
	@touch $@

$(SRUPP): $(ENVIRONMENT)
	@rm -rf $@
	$(PIP) install --quiet --no-deps --target $@ sru==$(@:$(VENV)/sru-%=%) && touch $@ || \
		echo "no sru with SRU++: what compares with it is not tested here"

$(ENVIRONMENT): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "torchsru needs Python 3.10 or newer and found none on PATH; name one: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { echo "torchsru needs Python 3.10 or newer, got $$($(PYTHON) --version)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "no virtual environment: does this Python lack venv (Debian: apt install python3-venv)?"; exit 1; }
	$(PIP) install --quiet -c constraints.txt $(PIP_FLAGS) "$(TORCH)"
	@$(BIN)/python -c 'import sys, torch; sys.exit(not (torch.version.cuda or torch.version.hip))' || \
		$(PIP) install --quiet "$(TRITON)" || \
		echo "no Triton for this machine: its kernels are not tested here"
	$(PIP) install --quiet -c constraints.txt scikit-build-core cmake ninja
	TORCHSRU_PURE=1 $(PIP) install --quiet --no-build-isolation -c constraints.txt --editable '.[dev]'
	@rm -f $(VENV)/environment-* && touch $@
