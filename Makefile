# PYTHON chooses the interpreter for .venv, 3.11 or newer.
PYTHON ?= python3
VENV := .venv/bin
PREFIX ?= /usr/local

# What `make lock` resolves with.
UV := uv==0.13.9

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup can-mount demo test soak fuzz scale check bench install lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install what is missing: system packages, .venv, the native shim
	@PYTHON='$(PYTHON)' tools/setup

can-mount:
	@tools/can-mount

demo: can-mount setup ## run the main job on a temporary mount
	@$(VENV)/vfs-volatile demo

test: can-mount setup ## run the tests (with CI set, a skipped test has failed)
	@work=$$(mktemp -d /tmp/vfs.XXXXXX) && $(VENV)/python -m pytest -q -p no:randomly -n auto \
	    --dist loadfile --basetemp "$$work/t" && rm -r "$$work"

soak: can-mount setup ## half an hour of everything at once (SOAK_SECONDS)
	@SOAK_SECONDS=$${SOAK_SECONDS:-1800} $(VENV)/python -m pytest -q -p no:randomly -s tests/mount/test_soak.py

fuzz: setup ## what clients may send, guided by coverage (atheris), for FUZZ_SECONDS
	@$(VENV)/python -m pip install --quiet atheris
	@FUZZ_ROUNDS=20000000 $(VENV)/python -m pytest -q -p no:randomly --timeout 600 tests/unit/test_raw_requests.py
	@$(VENV)/python -m tests.support.fuzz -max_total_time=$${FUZZ_SECONDS:-600} -max_len=13000

scale: can-mount setup ## a million files, a million ranges, a file of 1 TiB
	@SCALE=1 $(VENV)/python -m pytest -q -p no:randomly -s tests/mount/test_scale.py

check: setup ## check style, types, imports and C warnings
	@tools/check

bench: can-mount setup ## measure, beside tmpfs; figures and plots go to build too
	@$(VENV)/python -m tools.bench --json build/bench.json

install: setup ## put command, man pages, completion and systemd unit below PREFIX (/usr/local)
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' tools/install

lock: ## resolve the Python packages anew into requirements.lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet $(UV)
	build/lock/bin/uv pip compile pyproject.toml --all-extras --group dev --upgrade --universal \
	    --python-version 3.11 --generate-hashes --quiet --no-config \
	    --custom-compile-command 'make lock' --output-file requirements.lock

clean: ## remove everything that make made, .venv too
	rm -rf .venv build vfs_volatile.egg-info vfs_volatile/native/*.so
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find vfs_volatile tests tools -name __pycache__ -prune -exec rm -rf {} +
