# One entry for people and for CI. `make demo` and `make test` work straight after a clone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo bundles test lint bench fuzz docs lock

install: .venv/.done

.venv/.done: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: install
	$(BIN)/tidsram demo

# From their source models, in about ten minutes; the times in them are this machine's.
bundles: install
	$(BIN)/python examples/bundles/make.py

test: install
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: install
	$(BIN)/python -m bench

fuzz: install
	$(BIN)/pytest tests/protocol tests/schedule --hypothesis-profile=long

docs: install
	$(BIN)/python docs/relink.py

lock:
	$(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install --quiet uv
	.venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev --extra openvino --no-header --no-emit-index-url pyproject.toml -o requirements.txt
