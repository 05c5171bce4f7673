# Everything happens inside the repository: the environment in .venv, run-time files in .run.
AIRFLOW_VERSION ?= 3.3.2
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell command -v $(p)),$(p))))

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir uv
	UV_CACHE_DIR=.venv/cache .venv/bin/uv pip install --quiet --python .venv/bin/python -e '.[emulator,test]' 'apache-airflow==$(AIRFLOW_VERSION)'
	touch $@
