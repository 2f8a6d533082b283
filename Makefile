# SPDX-License-Identifier: GPL-3.0-or-later
# What a person does with this checkout. `make` alone lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The fleet that is worked on; a folder named lab… is a lab of containers, started when needed.
INVENTORY ?= inventory/lab
# More arguments for ansible-playbook, such as ARGS="--check --diff" or ARGS="--limit pi-cluster-4.local".
ARGS ?=

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export LC_ALL := C.UTF-8
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

lab_inventory := $(filter lab%,$(notdir $(patsubst %/,%,$(INVENTORY))))
READY := .venv/.ready

.PHONY: help env site lab down status test-fast test test-full bench docs format clean

help: ## list of targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS=$$'\t' read -r name text; do printf '  %-10s %s\n' "$$name" "$$text"; done
	@printf '\n  INVENTORY=%s   ARGS=%s\n' '$(INVENTORY)' '$(ARGS)'

env: $(READY) ## the controller's environment in .venv, from uv.lock
	@:

$(READY): pyproject.toml uv.lock scripts/setup-env
	@scripts/setup-env
	@touch $@

site: env $(if $(lab_inventory),lab) ## bring up the fleet of INVENTORY: by default the lab, started first
	@ansible-playbook site.yml -i $(INVENTORY) $(ARGS)

lab: env ## start the lab's nodes without installing anything on them
	@python -m lab up -i $(INVENTORY)

status: env ## state of the lab's nodes
	@python -m lab status

down: env ## stop the lab: no container, network or changed sysctl stays
	@python -m lab down -i $(INVENTORY)

test-fast: env ## lint, types and unit tests, without the lab
	@python scripts/checks.py fast

test: env ## all that CI runs
	@python scripts/checks.py all

test-full: env ## the same with the large matrices whole, and the benchmarks
	@PIFLEET_TEST_FULL=1 python scripts/checks.py full

bench: env ## speeds, each beside its floor, and the page about them
	@rm -f .pifleet/reports/checks/bench-*.json; code=0; python scripts/checks.py bench || code=$$?; \
	python scripts/benchmarks_page.py --take .pifleet/reports/checks; exit $$code

docs: env ## the documentation site, in build/docs
	@scripts/docs-site

format: env ## put Python into its canonical form
	@ruff check --fix --quiet . ; ruff format .

clean: ## remove .venv and caches of tools (not .pifleet, where the ledger is)
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .ansible
