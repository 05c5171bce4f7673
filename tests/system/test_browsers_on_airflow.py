"""Apps that use browsers, invoked by Dags on a real Airflow, and what is left of the browsers of a task that is killed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kernel
import pytest

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_api import DagRun, TaskInstance
from dev.airflow_stack import AirflowStack
from dev.wait import wait_until
from tests.integration.browsing import (
    HEIGHT,
    WIDTH,
    needs_chromium,
    needs_ffmpeg,
    serving_site,
)
from tests.integration.conftest import client_of
from tests.integration.node_apps import install, make_folder

pytestmark = [pytest.mark.system, needs_chromium]

APPS = Path(__file__).parent / "apps"
TIMEOUT = 400
SDK = ("@onkernel/sdk@0.84.0", "tsx@4")


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with serving_site() as url:
        yield url


@pytest.fixture(scope="module")
def browsers(airflow: AirflowStack) -> Iterator[kernel.Kernel]:
    """The Kernel of the Dags but for ``browser_typescript``."""
    with KernelEmulator([APPS / "browsers.py"]) as emulator:
        airflow.api.add_kernel_connection("kernel_browsers", emulator.base_url, emulator.api_key)
        yield client_of(emulator)


@pytest.fixture(scope="module")
def typescript(airflow: AirflowStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[kernel.Kernel]:
    """The Kernel of the Dag ``browser_typescript``."""
    folder = make_folder(tmp_path_factory.mktemp("ts"), install(*SDK))
    shutil.copy(APPS / "browsers.ts", folder)
    with KernelEmulator([folder / "browsers.ts"]) as emulator:
        airflow.api.add_kernel_connection("kernel_typescript", emulator.base_url, emulator.api_key)
        yield client_of(emulator)


def start(airflow: AirflowStack, dag_id: str, site: str) -> DagRun:
    wait_until(lambda: dag_id in airflow.api.dag_ids(), TIMEOUT, f"{dag_id} is read")
    return airflow.api.trigger(dag_id, site=site)


@pytest.fixture(scope="module")
def started(airflow: AirflowStack, browsers: kernel.Kernel, site: str) -> dict[str, DagRun]:
    """One run of each, started together."""
    names = ("script", "controls", "agent", "for_ever_deferred", "for_ever_on_worker")
    return {name: start(airflow, f"browser_{name}", site) for name in names}


def finished(run: DagRun, client: kernel.Kernel) -> Any:
    """Wait for the end of a run; check that its browser is closed; return the output."""
    wait_until(run.finished, TIMEOUT, f"{run.dag_id} has ended")
    task = run.task("invoke")
    assert task.state() == "success", task.log()[-10:]
    assert open_browsers(task, client) == []
    return task.xcom()


def open_browsers(task: TaskInstance, client: kernel.Kernel) -> list[str]:
    listed = client.invocations.list_browsers(task.xcom("invocation_id"))
    return [browser.session_id for browser in listed.browsers]


def test_a_script_reads_a_page(started: dict[str, DagRun], browsers: kernel.Kernel) -> None:
    assert finished(started["script"], browsers) == {"title": "/title"}


def test_mouse_and_keyboard_use_a_page(started: dict[str, DagRun], browsers: kernel.Kernel) -> None:
    assert finished(started["controls"], browsers) == {
        "screenshot": [WIDTH, HEIGHT],
        "says": {"title": "/controls", "clicks": ["left1"], "text": "typed on Airflow"},
    }


@needs_ffmpeg
def test_an_agent_uses_a_page_and_its_replay_outlives_the_browser(
    started: dict[str, DagRun], browsers: kernel.Kernel
) -> None:
    output = finished(started["agent"], browsers)

    assert output["answer"] == f"{WIDTH}x{HEIGHT}"
    assert output["tools"] == ["click", "type", "press", "scroll"]
    assert output["text"] == "by an agent"
    video = browsers.browsers.replays.download(output["replay_id"], id_or_name=output["browser_id"]).read()
    assert video[4:8] == b"ftyp"
    assert len(video) == output["video_bytes"]
    said = started["agent"].task("invoke").app_lines()
    assert [line for line in said if not line.startswith("INFO httpx")] == [*output["tools"], "done"]


def test_an_app_in_typescript_uses_a_page(
    airflow: AirflowStack, typescript: kernel.Kernel, site: str
) -> None:
    run = start(airflow, "browser_typescript", site)

    assert finished(run, typescript) == {"title": "/typescript", "clicks": ["left1"]}


@pytest.mark.parametrize("wait", ["deferred", "on_worker"])
def test_a_task_that_a_user_marks_failed_leaves_no_browser(
    started: dict[str, DagRun], browsers: kernel.Kernel, wait: str
) -> None:
    task = started[f"for_ever_{wait}"].task("invoke")
    wait_until(lambda: "open" in task.app_lines(), TIMEOUT, "the app has a browser")
    [browser_id] = open_browsers(task, browsers)
    assert task.state() == ("deferred" if wait == "deferred" else "running")

    task.set_state("failed")

    wait_until(lambda: open_browsers(task, browsers) == [], TIMEOUT, "the browser is closed")
    assert browser_id not in [browser.session_id for browser in browsers.browsers.list()]
    assert browsers.invocations.retrieve(task.xcom("invocation_id")).status == "failed"
    assert task.state() == "failed"
