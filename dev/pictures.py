"""
Makes the documentation's pictures, from the real UI of a real Airflow: ``python -m dev.pictures``.

It runs an example Dag against the emulator, as ``make ui`` does, and looks at it with Chromium.
"""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from airflow_provider_kernel.testing import KernelEmulator
from dev import chromium
from dev.airflow_stack import AirflowStack
from dev.processes import REPOSITORY, RunFolder
from dev.wait import wait_until

PICTURES = REPOSITORY / "docs" / "images"
DAG_ID, TASK_ID = "example_kernel_invoke", "price_report"


def log_in(page: Page, airflow: AirflowStack) -> None:
    """Log in to Airflow's UI."""
    page.goto(airflow.url)
    page.get_by_label("Username").fill(airflow.username)
    page.locator("input[type=password]").fill(airflow.password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Dags").or_(page.get_by_role("link", name="Dags")).first.wait_for()


def deferred_task(page: Page, airflow: AirflowStack) -> None:
    """Make the picture of a deferred task in the grid, with the app's lines in its log."""
    run = airflow.api.trigger(DAG_ID)
    task = run.task(TASK_ID)

    def is_shown() -> bool:
        assert not run.finished(), "the invocation was too short"
        return task.state() == "deferred" and sum(line.startswith("[app]") for line in task.log()) > 3

    wait_until(is_shown, 120, "the task is deferred, and has logged")
    page.goto(f"{airflow.url}/dags/{DAG_ID}/runs/{run.run_id}/tasks/{TASK_ID}")
    page.get_by_text("[app]").nth(2).wait_for()
    page.screenshot(path=PICTURES / "deferred-task.png")


def main(folder: Path = REPOSITORY / ".run" / "pictures") -> None:
    """Make all pictures."""
    with (
        RunFolder(folder) as run_folder,
        KernelEmulator([REPOSITORY / "example_dags/apps/bookshop/main.py"]) as emulator,
        AirflowStack(
            run_folder.path / "airflow",
            [REPOSITORY / "example_dags"],
            connections={"kernel_default": emulator.connection_json},
        ) as airflow,
        sync_playwright() as playwright,
    ):
        wait_until(lambda: DAG_ID in airflow.api.dag_ids(), 90, "the Dags are read")
        browser = playwright.chromium.launch(**chromium.launch_options())
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        log_in(page, airflow)
        deferred_task(page, airflow)
        browser.close()


if __name__ == "__main__":
    main()
