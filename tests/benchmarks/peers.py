"""The environment of the benchmarks that compare this provider with others: Airflow, this provider, and its peers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dev.processes import REPOSITORY

REQUIREMENTS = (
    "apache-airflow==3.3.2",
    "apache-airflow-providers-airbyte",
    "apache-airflow-providers-databricks",
    "apache-airflow-providers-dbt-cloud",
)
FOLDER = REPOSITORY / ".run" / "peers"


def environment() -> dict[str, str]:
    """Return the environment variables of a process there: bytecode is cached, as it is where Airflow runs."""
    left_out = {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH"}
    return {name: value for name, value in os.environ.items() if name not in left_out} | {
        "AIRFLOW_HOME": str(FOLDER / "airflow"),
        "PYTHONPATH": str(REPOSITORY),
    }


def interpreter() -> Path:
    """Return the Python of the environment. The first call installs it, which takes some seconds."""
    python, ready = FOLDER / "bin" / "python", FOLDER / "ready"
    wanted = f"{REQUIREMENTS}\n{(REPOSITORY / 'pyproject.toml').read_text()}"
    if not (ready.exists() and ready.read_text() == wanted):
        uv = [Path(sys.executable).parent / "uv", "--quiet", "--no-python-downloads"]
        env = {**os.environ, "UV_CACHE_DIR": str(REPOSITORY / ".venv" / "cache")}
        for command in (
            [*uv, "venv", "--clear", "--python", sys.executable, FOLDER],
            [*uv, "pip", "install", "--python", python, *REQUIREMENTS, "--editable", "."],
        ):
            subprocess.run(command, cwd=REPOSITORY, env=env, check=True)
        ready.write_text(wanted)
    return python


def versions() -> str:
    """Return the names and versions of the peers."""
    code = (
        "import sys, importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
    )
    names = [requirement.partition("==")[0] for requirement in REQUIREMENTS]
    return subprocess.run(
        [interpreter(), "-c", code, *names], env=environment(), capture_output=True, text=True, check=True
    ).stdout.strip()
