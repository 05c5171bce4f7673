"""Airflow's page of connections, as a person uses it, in a real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright

from dev import chromium
from dev.airflow_stack import AirflowStack

#: The fields below "Extra Fields"; the others are below "Standard Fields".
EXTRA = ("project", "timeout", "max_response_mb", "proxy", "verify", "allow_http", "dashboard_url")


class ConnectionsPage:
    """
    :param page: the browser's.
    :param screenshots: the folder for pictures of it.
    """

    def __init__(self, page: Page, screenshots: Path) -> None:
        self.page = page
        self.screenshots = screenshots

    def log_in(self, airflow: AirflowStack) -> None:
        self.page.goto(f"{airflow.url}/connections")
        self.page.get_by_label("Username").fill(airflow.username)
        self.page.locator("input[type=password]").fill(airflow.password)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("button", name="Add Connection").wait_for()

    def picture(self, name: str) -> None:
        self.screenshots.mkdir(exist_ok=True)
        self.page.screenshot(path=self.screenshots / f"{name}.png")

    def choose_kernel(self, conn_id: str) -> None:
        """Open the form of a new connection and choose its type."""
        self.page.get_by_role("button", name="Add Connection").click()
        self.page.locator("input[name=connection_id]").fill(conn_id)
        self.page.get_by_role("combobox").last.fill("Kernel")
        self.page.get_by_role("option", name="Kernel", exact=True).click()
        self.field("password").wait_for()

    def edit(self, conn_id: str) -> None:
        """Open the form of a connection that is there."""
        self.row(conn_id).get_by_role("button", name="Edit Connection").click()
        self.field("password").wait_for()

    def field(self, name: str) -> Locator:
        """Return a field of the open form."""
        if name not in EXTRA:
            return self.page.locator(f"input[name={name}]")
        section = self.page.get_by_role("button", name="Extra Fields", exact=True)
        if section.get_attribute("aria-expanded") == "false":
            section.click()
        return self.page.locator(f"input[name=element_{name}]")

    def fill(self, **fields: str) -> None:
        for name, value in fields.items():
            self.field(name).fill(value)

    def save(self) -> None:
        self.page.get_by_role("button", name="Save").click()
        self.page.get_by_role("dialog").wait_for(state="detached")

    def row(self, conn_id: str) -> Locator:
        return self.page.get_by_role("row").filter(has_text=conn_id)

    def test(self, conn_id: str) -> str:
        """Press the Test button; return the notice that appears."""
        notices = self.page.get_by_role("status").filter(has_text="Test Connection")
        self.row(conn_id).get_by_role("button", name="Test Connection").click()
        notices.first.wait_for()
        return notices.first.inner_text()

    def load_again(self) -> None:
        """Load the page again, without the notices."""
        self.page.reload()
        self.page.get_by_role("button", name="Add Connection").wait_for()


@contextmanager
def connections_page(airflow: AirflowStack, screenshots: Path) -> Iterator[ConnectionsPage]:
    """Open the page in a browser of its own, logged in."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            **chromium.launch_options(),
            headless=True,
            env={**os.environ, "HOME": str(screenshots.parent)},  # where it leaves files
        )
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        page.set_default_timeout(30_000)
        connections = ConnectionsPage(page, screenshots)
        connections.log_in(airflow)
        yield connections
        browser.close()
