# The only way things are run. `make help` lists the targets.
SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
FLAVOUR := $(shell if [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null 2>&1; then echo gpu; else echo cpu; fi)
READY := $(VENV)/.ready-$(FLAVOUR)
JOBS := 2
# Container images often set it; then every process compiles TorchRec anew, 8 seconds each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test lint format fire queries bench bench-drift bench-loop overload soak compose-test gpu-check requirements dashboards clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## Make the virtual environment (cpu or gpu, by what the machine has)

$(READY): requirements/$(FLAVOUR).txt pyproject.toml setup.sh
	@./setup.sh $(VENV) $(FLAVOUR)
	@touch $@

demo: $(READY) ## Kafka, market and trainer together, with a live view (under 6 minutes)
	@$(BIN)/ecdctr demo $(ARGS)

test: $(READY) ## All tests but the slow ones, on a real Kafka, in two processes (JOBS=2)
	@$(BIN)/pytest -n $(JOBS) --dist loadgroup $(ARGS)

lint: $(READY) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## Let ruff put the code in shape
	@$(BIN)/ruff check --fix -q .
	@$(BIN)/ruff format -q .

fire: $(READY) ## Twenty whole runs in which every process is killed again and again
	@$(BIN)/pytest -m slow tests/faults $(ARGS)

queries: $(READY) ## Every query of dashboards and alerts, asked of a Prometheus beside the running demo
	@$(BIN)/pytest -m slow tests/integration $(ARGS)

bench: $(READY) ## Every figure that README gives (about 15 minutes)
	@$(BIN)/python -m benchmarks $(ARGS)

bench-drift: $(READY) ## False alarms and delays of every drift detector (docs/drift.md)
	@$(BIN)/python -m benchmarks.drift_score $(ARGS)

bench-loop: $(READY) ## What a drift alarm that asks for an early refresh is worth (docs/drift.md)
	@$(BIN)/python -m benchmarks.drift_loop $(ARGS)

overload: $(READY) ## Three times what A-CTR can learn, for ten minutes (Debian: prometheus; 45 minutes)
	@$(BIN)/python -m benchmarks.overload $(ARGS)

soak: $(READY) ## Ten million impressions; memory must stay flat
	@$(BIN)/python -m benchmarks.soak $(ARGS)

compose-test: $(READY) ## Bring docker-compose.yml up for real (root, Docker engine; 15 minutes)
	@$(BIN)/python docker/compose_test.py

gpu-check: $(READY) ## On a machine with a GPU: train, resume, compare with the CPU
	@$(BIN)/python -m trainers.gpu_check $(ARGS)

requirements: ## Compile requirements/*.txt anew from pyproject.toml
	@for flavour in cpu gpu; do \
	  $$(command -v uv || echo $(VENV)/tools/bin/uv) pip compile -q pyproject.toml --extra $$flavour --extra dev --universal \
	    --no-annotate --no-header --no-emit-index-url -o requirements/$$flavour.txt; \
	done

dashboards: $(READY) ## Write Grafana's dashboards anew from monitoring/dashboards
	@$(BIN)/python -m monitoring.dashboards

clean: ## Remove what running left behind (not the virtual environment)
	@rm -rf run build *.egg-info .pytest_cache .mypy_cache .ruff_cache
