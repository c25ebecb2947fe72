# Everything that a developer runs.  `make demo` and `make test` need Python 3.11 or later, nothing else.

.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FUZZ_TARGETS := packet registration extension payloads
FUZZ_SECONDS := 60

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_NO_INPUT := 1

.PHONY: help demo test lint format bench fuzz storm secrets venv clean

help:
	@echo "make demo     register three mobile nodes through real processes and show the keys"
	@echo "make test     lint, types, import rules and all tests   (ARGS='-k name' for some)"
	@echo "make lint     the checks of make test without the tests"
	@echo "make format   let ruff rewrite the code"
	@echo "make bench    measure against FreeRADIUS on this machine"
	@echo "make fuzz     look for inputs that break a decoder   (FUZZ_SECONDS=60 for each target)"
	@echo "make storm    send a million mutated packets to real processes   (ARGS='--seconds 60')"
	@echo "make secrets  random secrets for docker-compose.yml in deploy/secrets"
	@echo "make clean    remove the virtual environment and all caches"

demo: $(STAMP)
	@$(BIN)/aaa demo $(ARGS)

test: lint
	@$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(STAMP)
	@$(BIN)/python -m bench $(ARGS)

# libFuzzer keeps what it finds in .fuzz, and an input that breaks something as .fuzz/TARGET-*.
fuzz: $(STAMP)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --editable '.[dev,fuzz]'
	@set -e; for target in $(FUZZ_TARGETS); do \
	  echo "fuzzing $$target for $(FUZZ_SECONDS) s"; \
	  $(BIN)/python -m tests.fuzz.$$target -max_total_time=$(FUZZ_SECONDS) $(ARGS); \
	done

storm: $(STAMP)
	@$(BIN)/python -m tests.fuzz.storm $(ARGS)

secrets:
	@deploy/make-secrets

venv: $(STAMP)

# Installed again only when pyproject.toml changes: our own code is installed as a link to it.
$(STAMP): pyproject.toml
	@set -eu; \
	if [ ! -x $(BIN)/python ] || ! $(BIN)/python -c '' 2>/dev/null; then \
	  chosen=; \
	  for python in $(PYTHON) python3.14 python3.13 python3.12 python3.11 python3; do \
	    if "$$python" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null; \
	    then chosen=$$python; break; fi; \
	  done; \
	  if [ -z "$$chosen" ]; then \
	    echo "Python 3.11 to 3.14 with its venv module is needed (Debian: apt-get install python3-venv)" >&2; exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$chosen ..."; \
	  rm -rf $(VENV); \
	  "$$chosen" -m venv $(VENV); \
	fi; \
	echo "Installing (once, a minute or two) ..."; \
	$(BIN)/python -m pip install --quiet --editable '.[dev]'; \
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
