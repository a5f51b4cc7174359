# Every target sets up what it needs first. Only relative paths: a checkout may lie anywhere,
# also under a name with spaces.
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
MINUTES := 10
.PHONY: help install js demo test soak bench lint types imports check wheel requirements clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'ARGS="..." is passed on by demo, test, soak, bench and requirements; PYTHON=... picks the Python.'

install: ## Set up .venv with the pinned requirements and the project
	@bash .ci/install

js: install ## Set up the JavaScript client that the acceptance tests use
	@bash .ci/install-js

demo: install ## Upload a video, cut the connection, resume, read the plates (ARGS=--once to end then)
	@.venv/bin/tusd-py demo $(ARGS)

test: install js ## Run the tests (ARGS="-k resume" for some)
	@.venv/bin/pytest --numprocesses 2 --dist worksteal $(ARGS)

# The seed is printed: the same one takes the same steps again.
soak: SEED := $(or $(SEED),$(shell od -An -N4 -tu4 /dev/urandom | tr -d ' '))
soak: install js ## Run the random tests for long (MINUTES=10, SEED=...; ARGS=FILE for some)
	@echo "make soak MINUTES=$(MINUTES) SEED=$(SEED)"
	@SOAK_MINUTES=$(MINUTES) SOAK_SEED=$(SEED) HYPOTHESIS_PROFILE=soak .venv/bin/pytest \
		--hypothesis-seed $(SEED) --timeout 0 --capture no -m "soak or hypothesis" $(ARGS)

bench: install ## Measure beside bare receivers and other servers, write benchmarks/RESULTS.md
	@.venv/bin/python -m benchmarks $(or $(ARGS),--results benchmarks/RESULTS.md)

lint: install ## Check the style of the code and of the Dockerfile
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/hadolint Dockerfile

types: install ## Check the types
	.venv/bin/mypy

imports: install ## Check who imports whom
	.venv/bin/lint-imports --no-logo

check: lint types imports ## All three checks

wheel: install ## Build the wheel into dist/
	@.venv/bin/python -m build --wheel --no-isolation --outdir dist .

requirements: ## Write requirements/*.txt from pyproject.toml (ARGS=--upgrade for the newest releases)
	@bash .ci/lock $(ARGS)

clean: ## Remove everything that the other targets made, but data/
	rm -rf .venv .make dist tests/acceptance/js/node_modules benchmarks/.build
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
