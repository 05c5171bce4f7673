"""The connection's form in Airflow's UI, as a person sees it: filled in, saved, edited and tested."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import count

import pytest

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_stack import AirflowStack
from dev.processes import RunFolder
from tests.integration.proxying import PasswordProxy, proxying
from tests.system.conftest import TOKEN
from tests.system.connections_page import ConnectionsPage, connections_page

pytestmark = [pytest.mark.system, pytest.mark.browser]

GOOD = "The token is valid: organization"
NUMBERS = count(1)
PROXY_PASSWORD = "proxy_password_to_be_seen_nowhere"
DASHBOARD = "https://dashboard.example/{invocation_id}"


@pytest.fixture(scope="module")
def proxy() -> Iterator[PasswordProxy]:
    """The way to Kernel that the connection names."""
    with proxying("user", PROXY_PASSWORD) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def page(airflow: AirflowStack, run_folder: RunFolder) -> Iterator[ConnectionsPage]:
    with connections_page(airflow, run_folder.path / "screenshots") as page:
        yield page


@pytest.fixture
def form(
    page: ConnectionsPage,
    airflow: AirflowStack,
    emulator: KernelEmulator,
    proxy: PasswordProxy,
) -> str:
    """Fill in the form of a new connection, and save it; return its id."""
    conn_id = f"kernel_form_{next(NUMBERS)}"
    page.load_again()
    page.choose_kernel(conn_id)
    page.fill(password=TOKEN)
    page.picture("standard fields")
    page.fill(host=emulator.base_url, port=emulator.base_url.rpartition(":")[2])
    page.fill(project="reports", timeout="45", proxy=f"http://user:{PROXY_PASSWORD}@{proxy.address}")
    page.fill(dashboard_url=DASHBOARD)
    page.picture("extra fields")
    page.save()
    return conn_id


def test_the_form_is_saved_and_passes_the_test(
    form: str, page: ConnectionsPage, airflow: AirflowStack, proxy: PasswordProxy
) -> None:
    passed = len(proxy.passed)

    notice = page.test(form)

    page.picture("good token")
    assert GOOD in notice
    assert "project reports." in notice
    assert len(proxy.passed) > passed
    stored = airflow.api.call("GET", f"connections/{form}")
    assert (stored["conn_type"], stored["password"]) == ("kernel", "***")
    extra = {
        "project": "reports",
        "timeout": 45,
        "max_response_mb": None,
        "proxy": "***",
        "verify": None,
        "allow_http": None,
    }
    extra["dashboard_url"] = DASHBOARD
    assert json.loads(stored["extra"]) == extra


def test_the_token_and_the_proxy_are_masked_and_survive_an_edit(
    form: str, page: ConnectionsPage, airflow: AirflowStack, proxy: PasswordProxy
) -> None:
    page.load_again()
    page.edit(form)
    shown = {name: page.field(name).input_value() for name in ("password", "proxy", "project", "timeout")}
    page.picture("edit")
    page.fill(project="invoices")
    page.save()
    passed = len(proxy.passed)

    notice = page.test(form)

    assert shown == {"password": "***", "proxy": "***", "project": "reports", "timeout": "45"}
    assert GOOD in notice
    assert "project invoices." in notice
    assert len(proxy.passed) > passed


def test_a_bad_token_fails_the_test_with_advice(form: str, page: ConnectionsPage) -> None:
    page.edit(form)
    page.fill(password="sk_wrong_token")
    page.save()

    notice = page.test(form)

    page.picture("bad token")
    assert "401" in notice
    assert "Make a token at https://dashboard.onkernel.com/api-keys" in notice


def test_an_unreachable_host_fails_the_test_within_seconds(form: str, page: ConnectionsPage) -> None:
    page.edit(form)
    page.fill(host="https://kernel.invalid", port="443", proxy="")
    page.save()
    pressed = time.monotonic()

    notice = page.test(form)

    page.picture("unreachable host")
    assert time.monotonic() - pressed < 20
    assert "https://kernel.invalid:443 could not be reached" in notice
    assert "Check the connection's host and proxy" in notice


def test_no_secret_of_the_form_is_in_airflows_audit_log(
    form: str, page: ConnectionsPage, airflow: AirflowStack
) -> None:
    page.test(form)

    events = airflow.api.call("GET", "eventLogs", limit=100, order_by="-id")["event_logs"]
    text = json.dumps(events)
    assert form in text
    assert TOKEN not in text
    assert PROXY_PASSWORD not in text
