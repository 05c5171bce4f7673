"""
One Airflow and one emulator for the system tests of a process; with xdist, for those of each worker.

This Airflow is as people run it: on PostgreSQL, with two triggerers.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_api import DagRun
from dev.airflow_stack import NOTICE_DEATHS_SOON, AirflowStack
from dev.postgres import Postgres
from dev.processes import REPOSITORY, RunFolder
from dev.wait import wait_until
from tests.faulty import FaultyProxy
from tests.statsd import StatsD
from tests.system.once import TIMEOUT, World, side_by_side

HERE = Path(__file__).parent
#: A user's project, which test_user_project.py runs.
collect_ignore = ["user_project"]
#: The only key that the emulator takes.
TOKEN = "sk_to_be_seen_in_no_file"
#: Tasks that are stopped keep their slots.
MANY_AT_ONCE = {
    f"AIRFLOW__CORE__{name}": "32"
    for name in ("PARALLELISM", "MAX_ACTIVE_TASKS_PER_DAG", "MAX_ACTIVE_RUNS_PER_DAG")
}
APPS = [
    HERE / "apps/system_tests.py",
    HERE / "apps/watched.py",
    REPOSITORY / "example_dags/apps/bookshop/main.py",
]


class BesideEachOther(LoadScopeScheduling):
    """Keeps together what uses the same Airflow: the stories of exactly once, what starts its own, and all else."""

    def _split_scope(self, nodeid: str) -> str:
        name = Path(nodeid.partition("::")[0]).name
        if name in ("test_chaos.py", "test_demo.py", "test_guide.py", "test_user_project.py"):
            return "own"
        return "exactly once" if name.startswith(("test_exactly_once", "test_main_path")) else "all else"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> BesideEachOther:
    """With ``-n 2``, have them run beside each other."""
    return BesideEachOther(config, log)


@pytest.fixture(scope="session")
def run_folder(worker_id: str) -> Iterator[RunFolder]:
    """Where the Airflow of this worker's tests lives."""
    with RunFolder(REPOSITORY / ".run" / "system" / worker_id) as folder:
        yield folder


@pytest.fixture(scope="session")
def emulator(run_folder: RunFolder) -> Iterator[KernelEmulator]:
    """The Kernel that the Dags reach through ``kernel_default``."""
    with KernelEmulator(APPS, api_key=TOKEN) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def statsd() -> Iterator[StatsD]:
    """Where this Airflow sends the provider's metrics."""
    with StatsD() as statsd:
        yield statsd


@pytest.fixture(scope="session")
def airflow(run_folder: RunFolder, emulator: KernelEmulator, statsd: StatsD) -> Iterator[AirflowStack]:
    """A running Airflow, with the connections that a user would have made in its form."""
    dags = [HERE / "dags", REPOSITORY / "example_dags"]
    with (
        Postgres(run_folder.path / "postgres") as postgres,
        AirflowStack(
            run_folder.path / "airflow",
            dags,
            env={**NOTICE_DEATHS_SOON, **MANY_AT_ONCE, **statsd.env},
            database_url=postgres.url,
            triggerers=2,
        ) as stack,
    ):
        add = stack.api.add_kernel_connection
        add("kernel_default", emulator.base_url, emulator.api_key)
        add("kernel_wrong_token", emulator.base_url, emulator.api_key.replace("sk_", "sk_wrong_"))
        yield stack


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, airflow: AirflowStack) -> dict[str, DagRun]:
    """One run of each of the module's ``DAGS``, started together: the tests wait for what is running already."""
    dag_ids = request.module.DAGS
    wait_until(lambda: set(dag_ids) <= airflow.api.dag_ids(), TIMEOUT, "the Dags are read")
    return {dag_id: airflow.api.trigger(dag_id, sku="b-17") for dag_id in dag_ids}


@pytest.fixture(scope="session")
def world(run_folder: RunFolder, airflow: AirflowStack, emulator: KernelEmulator) -> Iterator[World]:
    """Where the tests of ``exactly_once`` run their Dags."""
    wait_until(lambda: "once_by_default_on_worker" in airflow.api.dag_ids(), TIMEOUT, "the Dags are read")
    with FaultyProxy(emulator.base_url) as proxy:
        airflow.api.add_kernel_connection("kernel_faulty", proxy.base_url, emulator.api_key)
        yield World(airflow, emulator, proxy, run_folder.path / "once")


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest, world: World) -> dict[str, Future[None]]:
    """The outcomes of all stories that are asked for; when it is there, they have all come to their ends."""
    stories = {
        name: item.module.STORIES[name]
        for item in request.session.items
        if isinstance(item, pytest.Function) and "outcomes" in item.fixturenames
        for name in [item.callspec.params["story"]]
    }
    return side_by_side(stories, world)
