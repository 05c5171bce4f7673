"""An Airflow for tests alone: default settings, and a database in a temporary folder. Needs no Airflow until it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

#: The folder that pytest and its workers (of pytest-xdist) share: each has an ``AIRFLOW_HOME`` in it.
_SHARED = "KERNEL_ISOLATED_AIRFLOW"
#: Where Dags and plugins are, which is no setting of the database or of other services.
_KEPT = ("AIRFLOW__CORE__DAGS_FOLDER", "AIRFLOW__CORE__PLUGINS_FOLDER")


def isolate_airflow() -> Callable[[], None]:
    """
    Set the environment so that Airflow, once it is imported, has nothing to do with the user's own.

    :return: a function that undoes it.
    :raises UsageError: Airflow is imported already.
    """
    if sys.modules.get("airflow") is not None:
        raise pytest.UsageError(
            "kernel_isolated_airflow = true comes too late: Airflow is imported already, by another plugin or by an option -p. "
            "Leave that plugin out, or set kernel_isolated_airflow = false."
        )
    import shutil
    import tempfile

    shared, worker = os.environ.get(_SHARED, ""), os.environ.get("PYTEST_XDIST_WORKER")
    is_owner = not (worker and os.path.isdir(shared))
    if is_owner:
        shared = tempfile.mkdtemp(prefix="pytest-airflow-")
    home = tempfile.mkdtemp(prefix=f"{worker or 'main'}-", dir=shared)
    os.mkdir(f"{home}/dags")  # Airflow warns of a Dags folder that does not exist.
    patch = pytest.MonkeyPatch()
    for name in list(os.environ):
        if name.startswith("AIRFLOW__") and name not in _KEPT:
            patch.delenv(name)
    patch.delenv("AIRFLOW_CONFIG", raising=False)
    patch.setenv("AIRFLOW_HOME", home)
    patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    patch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{home}/airflow.db")
    patch.setenv(_SHARED, shared)

    def undo() -> None:
        patch.undo()
        if is_owner:
            shutil.rmtree(shared, ignore_errors=True)

    return undo


def is_isolated() -> bool:
    """Return whether this process has an isolated Airflow."""
    return Path(os.environ.get("AIRFLOW_HOME", "/")).parent == Path(os.environ.get(_SHARED, "-"))


def create_database() -> None:
    """
    Create the isolated Airflow's database. One worker creates it, the others copy the file.

    :raises RuntimeError: Airflow failed to create it.
    """
    import fcntl
    import shutil
    import subprocess

    shared, database = Path(os.environ[_SHARED]), Path(os.environ["AIRFLOW_HOME"]) / "airflow.db"
    created = shared / "created.db"
    with open(shared / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not created.exists():
            # A process of its own: the migration changes the logging of the process.
            done = subprocess.run(
                [sys.executable, "-m", "airflow", "db", "migrate"], capture_output=True, text=True
            )
            if done.returncode != 0:
                raise RuntimeError(f"Airflow could not create its database:\n{done.stdout}{done.stderr}")
            shutil.copyfile(database, created)
        else:
            shutil.copyfile(created, database)
