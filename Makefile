# Everything happens inside the repository: the environment in .venv, what a run leaves behind in .run.
AIRFLOW_VERSION ?= 3.3.2
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
export TMPDIR := $(shell mkdir -p .run/tmp && cd .run/tmp && pwd)
# Without bytecode on disk each process compiles Airflow anew, which takes seconds.
unexport PYTHONPATH PYTHONDONTWRITEBYTECODE
# JOBS: how many tests at a time; default: two for each core.
CHECKS = .venv/bin/python -m dev.checks $(if $(JOBS),--jobs=$(JOBS))

.PHONY: help demo ui demo-browser ui-browser lint unit integration system test versions test-all chaos bench scale docs chromium

help: ## Show what there is
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 20

demo: .venv/ready ## See a Dag run an action of a Kernel app, on a real Airflow; ends by itself
	@.venv/bin/python -m dev.demo

ui: .venv/ready ## The same, and keep Airflow's UI open
	@.venv/bin/python -m dev.demo --ui

demo-browser: .venv/ready ## See a Dag whose app orders something in a shop by a real browser; ends by itself
	@.venv/bin/python -m dev.demo_browser

ui-browser: .venv/ready ## The same, slower, and keep Airflow's UI and the shop open
	@.venv/bin/python -m dev.demo_browser --ui

lint: .venv/ready ## Style and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy -p airflow_provider_kernel -p dev

docs: .venv/ready ## The documentation as a site, in .run/docs/html
	@rm -rf .run/docs/html
	.venv/bin/sphinx-build --quiet --fail-on-warning --keep-going --builder html -d .run/docs/doctrees docs .run/docs/html
	@echo "Open .run/docs/html/index.html"

unit: .venv/ready ## Tests without I/O
	@$(CHECKS) unit

integration: .venv/ready chromium ## Tests over HTTP, against the emulator
	@$(CHECKS) integration

system: .venv/ready chromium ## Tests with a real scheduler and triggerer: 12 minutes
	@$(CHECKS) system

test: .venv/ready chromium ## Unit and integration tests, then what matters most on a real Airflow: some ten minutes
	@$(CHECKS) fast main-path

versions: .venv/ready chromium ## What touches Airflow, on the other ones; or on one: AIRFLOW=3.0.6, TESTS=tests/unit
	@.venv/bin/python -m dev.versions $(if $(JOBS),--jobs=$(JOBS)) $(if $(AIRFLOW),--airflow=$(AIRFLOW)) $(TESTS)

test-all: .venv/ready chromium ## test, system, and versions on the oldest, the first and the last of the other Airflows; half an hour
	@$(CHECKS) fast main-path rest versions

chaos: .venv/ready ## Kill everything at random for MINUTES=10, by a SEED, and count what went wrong
	@.venv/bin/python -m tests.system.chaos --minutes=$(or $(MINUTES),10) $(if $(SEED),--seed=$(SEED))

bench: .venv/ready ## Compare what parsing and waiting cost with other providers, and with a bare loop; 5 minutes
	@.venv/bin/python -m tests.benchmarks.bench_parsing
	@.venv/bin/python -m tests.benchmarks.bench_waiting

scale: .venv/ready ## 200 invocations on Celery with Redis: kill a worker and a triggerer, count what ran; minutes
	@.venv/bin/python -m tests.benchmarks.bench_scale

# Says nothing if there is one; else this alone reaches beyond the repository.
chromium: .venv/ready
	@.venv/bin/python -m dev.chromium

.venv/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed, and none was found. Name one: make PYTHON=/path/to/python"; exit 1; }
	@echo "Making the environment in .venv (once; about a minute)"
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir uv
	@UV_CACHE_DIR=.venv/cache .venv/bin/uv pip install --quiet --python .venv/bin/python \
		-e '.[docs,emulator,test]' 'apache-airflow==$(AIRFLOW_VERSION)'
	@touch $@
