"""The table of Kernel's API in the emulator's documentation says what the emulator serves."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from unittest.mock import Mock

import kernel
import pytest
from starlette.applications import Starlette
from starlette.routing import Match, Route

from airflow_provider_kernel.emulator import unserved
from airflow_provider_kernel.emulator.browsers.contract import NOT_SERVED, WITHOUT_EFFECT, CreateBrowser
from airflow_provider_kernel.emulator.browsers.routes import has_own_secret
from airflow_provider_kernel.emulator.control import is_control
from airflow_provider_kernel.emulator.faults import FaultList
from airflow_provider_kernel.emulator.page import is_of_page
from airflow_provider_kernel.emulator.server import make_app

pytestmark = pytest.mark.one_airflow

PAGE = Path(__file__).parents[2] / "docs" / "emulator.md"
ROW = re.compile(
    r"^\| (.+?) \| (served|accepted without effect|not served \(501\)) \| ?(.*?) ?\|$", re.MULTILINE
)
FIELDS = "fields of `browsers.create`: "
#: Where a method of the SDK sends its request.
REQUEST = re.compile(
    r'self\._(get|post|put|patch|delete)(?:_api_list)?\(\s*(?:path_template\(\s*)?f?"([^"]+)"'
)


def rows() -> list[tuple[str, str, str]]:
    """Return calls or fields, what the emulator does with them, and the note, of each row of the table."""
    return ROW.findall(PAGE.read_text())


def calls(status: str) -> dict[str, str]:
    """Return the calls that have a status, with their rows' notes."""
    found = {}
    for cell, of_row, note in rows():
        if of_row != status or cell.startswith(FIELDS):
            continue
        resource = ""
        for name in re.findall(r"`([\w.]+)`", cell):
            if not name.startswith("."):
                resource = name.rpartition(".")[0]
            found[resource + name if name.startswith(".") else name] = note
    return found


def fields_that_are(status: str) -> set[str]:
    """Return the fields of ``browsers.create`` that have a status."""
    cells = [cell for cell, of_row, _ in rows() if of_row == status and cell.startswith(FIELDS)]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell.removeprefix(FIELDS))}


def request_of(call: str) -> tuple[str, str]:
    """Return method and path of the request that a call of the SDK sends."""
    method = kernel.Kernel(api_key="sk_any", base_url="http://127.0.0.1")
    for name in call.split("."):
        method = getattr(method, name)
    found = REQUEST.search(inspect.getsource(method))
    assert found, call
    return found[1].upper(), found[2]


@pytest.fixture(scope="module")
def routes() -> list[Route]:
    """Return the endpoints of Kernel's API that the emulator serves."""
    app = make_app(
        Mock(),
        Mock(),
        Mock(),
        console=Mock(),
        api_key=None,
        heartbeat=1,
        refuse=None,
        faults=FaultList(),
        served=None,
        url="",
    )
    while not isinstance(app, Starlette):
        app = app._app
    found = [route for route in app.routes if isinstance(route, Route)]
    return [
        it
        for it in found
        if not has_own_secret(it.path) and not is_of_page(it.path) and not is_control(it.path)
    ]


def route_of(routes: list[Route], call: str) -> Route | None:
    """Return the endpoint that a call of the SDK reaches; None if there is none."""
    method, path = request_of(call)
    scope = {"type": "http", "method": method, "path": path, "headers": []}
    return next((route for route in routes if route.matches(scope)[0] is Match.FULL), None)


def test_all_endpoints_are_in_the_table_and_all_calls_that_it_says_are_served_have_one(routes):
    served = [*calls("served"), *calls("accepted without effect")]
    reached = {call: route_of(routes, call) for call in served}

    assert [call for call, route in reached.items() if route is None] == []
    assert [f"{route.methods} {route.path}" for route in routes if route not in reached.values()] == []


def test_what_the_table_says_is_not_served_is_answered_with_501_and_named(routes):
    for call, note in calls("not served (501)").items():
        assert route_of(routes, call) is None, call
        assert unserved.unserved(request_of(call)[1]) == note.replace("`", ""), call


def test_all_that_the_emulator_answers_with_501_is_in_the_table():
    named = {note.replace("`", "") for note in calls("not served (501)").values()}

    assert named == {*unserved._RESOURCES.values(), *unserved._OF_BROWSERS.values()}


def test_the_fields_of_a_browser_are_in_the_table():
    read = {"timeout_seconds" if it.name == "timeout" else it.name for it in fields(CreateBrowser)}

    assert fields_that_are("served") == read - {"ignored", *WITHOUT_EFFECT}
    assert fields_that_are("accepted without effect") == set(WITHOUT_EFFECT)
    assert fields_that_are("not served (501)") == set(NOT_SERVED)
