"""
The emulator against Kernel's published OpenAPI description: hundreds of requests, valid and not, for each operation.

``kernel-openapi.json`` beside this file is Kernel's own description as of August 2026, with the endpoints that the provider
and most apps use. What the emulator serves of it is taken from the emulator's routes.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import settings
from schemathesis import Case, Response
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.parameters import ParameterLocation
from schemathesis.openapi import checks
from starlette.applications import Starlette
from starlette.routing import Match, Route

from airflow_provider_kernel.api.payload import parse_json
from airflow_provider_kernel.emulator.browsers.contract import MAX_VIEWPORT, NOT_SERVED
from airflow_provider_kernel.emulator.faults import FaultList
from airflow_provider_kernel.emulator.server import make_app
from airflow_provider_kernel.testing import KernelEmulator
from dev.processes import REPOSITORY
from tests.integration.openapi.conftest import API_KEY

pytestmark = [pytest.mark.no_airflow]

ECHO = {"app_name": "tests", "action_name": "echo", "version": "latest"}


def description() -> dict[str, Any]:
    """Return Kernel's description, as far as requests and responses can be made and checked by its schemas."""
    read: dict[str, Any] = json.loads(Path(__file__).with_name("kernel-openapi.json").read_text())
    for operation in (it for path in read["paths"].values() for it in path.values()):
        for response in operation["responses"].values():
            for header in response.get("headers", {}).values():
                header["schema"].pop("nullable", None)  # A header is text.
            # The schema is that of each event's data, see below; the library takes it for that of the whole event.
            response.get("content", {}).get("text/event-stream", {}).pop("schema", None)
        # Objects in a query become text, so that the library takes right ones for wrong.
        operation["parameters"] = [it for it in operation.get("parameters", ()) if it["name"] != "tags"]
        for parameter in operation["parameters"]:
            if parameter["name"] == "since":  # The prose says: a time or a duration.
                parameter["schema"]["enum"] = ["2025-06-20T12:00:00Z", "5m", "1h30m", "0"]
    for name in ("BrowserRequest", "BrowserUpdateRequest"):
        # Two thirds of all requests would be of these fields; tests/unit/test_emulator_browser_contract.py has them.
        for field in (*NOT_SERVED, "telemetry"):
            read["components"]["schemas"][name]["properties"].pop(field, None)
    return read


def is_served(method: str, path: str) -> bool:
    """Return whether the emulator has an endpoint for an operation."""
    app = make_app(
        *(Mock(), Mock(), Mock()),
        **{"console": Mock(), "api_key": None, "heartbeat": 1, "refuse": None, "served": None, "url": ""},
        faults=FaultList(),
    )
    while not isinstance(app, Starlette):
        app = app._app
    scope = {"type": "http", "method": method.upper(), "path": re.sub("{.*?}", "id", path), "headers": []}
    routes = [route for route in app.routes if isinstance(route, Route)]
    return any(route.matches(scope)[0] is Match.FULL for route in routes)


DESCRIPTION = description()
OPERATIONS = [(method, path) for path, operations in DESCRIPTION["paths"].items() for method in operations]
UNSERVED = [operation for operation in OPERATIONS if not is_served(*operation)]

schema = schemathesis.openapi.from_dict(DESCRIPTION).exclude(
    lambda context: (context.operation.method, context.operation.path) in UNSERVED
)
schema.config.update(headers={"Authorization": f"Bearer {API_KEY}"})
schema.config.generation.update(max_examples=10, deterministic=settings.get_current_profile_name() == "ci")


class Difference(NamedTuple):
    """
    A difference from the description that docs/emulator.md names.

    :param allows: whether it is why a check of a request and its response has failed.
    :param request: a request that shows it: method, path and body; ``{id}`` is an open browser's.
    :param status: the status of the response.
    """

    allows: Callable[[Case, Response, Failure], bool]
    request: tuple[str, str, Any]
    status: int


def refuses(*operations: str, fields: Callable[[dict[str, Any]], object]) -> Callable[..., bool]:
    """Return a function for :attr:`Difference.allows`: a valid body is refused if ``fields`` is true of its fields."""

    def allows(case: Case, response: Response, failure: Failure) -> bool:
        return (
            isinstance(failure, checks.RejectedPositiveData)
            and case.operation.label in operations
            and response.status_code == 400
            and isinstance(case.body, dict)
            and bool(fields(case.body))
        )

    return allows


def accepts(*operations: str, fields: Callable[[dict[str, Any]], object]) -> Callable[..., bool]:
    """Return a function for :attr:`Difference.allows`: an invalid body is accepted if ``fields`` is true of its fields."""

    def allows(case: Case, response: Response, failure: Failure) -> bool:
        return (
            type(failure).__name__ == "AcceptedNegativeData"
            and case.operation.label in operations
            and isinstance(case.body, dict)
            and bool(fields(case.body))
        )

    return allows


def is_unserved(case: Case, response: Response, failure: Failure) -> bool:
    """Return whether the emulator says that it does not serve something, or leaves it out of ``Allow``."""
    if isinstance(failure, checks.AllowHeaderMismatch):
        unserved = [method.upper() for method, path in UNSERVED if path == case.operation.path]
        return sorted(failure.missing_methods) == sorted(unserved) and not failure.undocumented_methods
    return response.status_code == 501


def is_unlisted(case: Case, response: Response, failure: Failure) -> bool:
    """Return whether the description leaves out the status of an error that the operation can have."""
    operations = {
        400: ["GET /apps", "GET /browsers/{id_or_name}"],
        404: ["POST /browsers/{id}/playwright/execute"],
    }
    is_known = response.status_code == 401 or case.operation.label in operations.get(response.status_code, [])
    return isinstance(failure, checks.UndefinedStatusCode) and is_known


def is_not_json(text: object) -> bool:
    try:
        parse_json(str(text))
    except ValueError:
        return True
    return False


def is_too_large(viewport: object) -> bool:
    return isinstance(viewport, dict) and any(
        isinstance(viewport.get(name), int) and not 1 <= viewport[name] <= MAX_VIEWPORT
        for name in ("width", "height")
    )


INVOKE, UPDATE = "POST /invocations", "PATCH /invocations/{id}"
CREATE, CHANGE = "POST /browsers", "PATCH /browsers/{id_or_name}"
EXECUTE = "POST /browsers/{id}/playwright/execute"
#: By their names in docs/emulator.md.
DIFFERENCES = {
    "What is not served": Difference(is_unserved, ("POST", "/browsers", {"gpu": True}), 501),
    "Errors that the description leaves out": Difference(is_unlisted, ("GET", "/apps?limit=0", None), 400),
    "Empty names and scripts": Difference(
        refuses(
            *(INVOKE, EXECUTE),
            fields=lambda body: any(
                isinstance(body.get(name), str) and not body[name].strip()
                for name in ("app_name", "action_name", "version", "code")
            ),
        ),
        ("POST", "/invocations", ECHO | {"app_name": ""}),
        400,
    ),
    "Payloads and outputs that are not JSON": Difference(
        refuses(
            *(INVOKE, UPDATE),
            fields=lambda body: any(
                name in body and is_not_json(body[name]) for name in ("payload", "output")
            ),
        ),
        ("POST", "/invocations", ECHO | {"payload": "plain text"}),
        400,
    ),
    "Versions of deployments without an app": Difference(
        lambda case, response, failure: (
            isinstance(failure, checks.RejectedPositiveData)
            and case.operation.label == "GET /deployments"
            and "app_version" in (case.query or {})
            and "app_name" not in (case.query or {})
        ),
        ("GET", "/deployments?app_version=1", None),
        400,
    ),
    "Integers with a fraction": Difference(
        refuses(
            *(INVOKE, CREATE, CHANGE, EXECUTE),
            fields=lambda body: any(
                isinstance(value, float)
                for fields in (body, body.get("viewport"))
                if isinstance(fields, dict)
                for value in fields.values()
            ),
        ),
        ("POST", "/browsers", {"timeout_seconds": 60.0}),
        400,
    ),
    "Fields of browsers that are null": Difference(
        accepts(CREATE, CHANGE, fields=lambda body: None in body.values()),
        ("PATCH", "/browsers/{id}", {"viewport": None}),
        200,
    ),
    "Fields that Kernel does not have": Difference(
        lambda case, response, failure: (
            type(failure).__name__ == "AcceptedNegativeData"
            and "violates `additionalProperties`" in str(failure)
        ),
        ("POST", "/browsers/{id}/playwright/execute", {"code": "0", "unknown": 1}),
        200,
    ),
    "Fields of browsers without effect": Difference(
        accepts(CHANGE, fields=lambda body: "disable_default_proxy" in body),
        ("PATCH", "/browsers/{id}", {"telemetry": {"enabled": 1}}),
        200,
    ),
    "Profiles without a name": Difference(
        refuses(CREATE, fields=lambda body: "profile" in body), ("POST", "/browsers", {"profile": {}}), 400
    ),
    "Start URLs without a scheme": Difference(
        refuses(CREATE, CHANGE, fields=lambda body: "start_url" in body),
        ("POST", "/browsers", {"start_url": "file:///etc/passwd"}),
        400,
    ),
    "Large viewports": Difference(
        refuses(CREATE, CHANGE, fields=lambda body: is_too_large(body.get("viewport"))),
        ("POST", "/browsers", {"viewport": {"width": 7681, "height": 1}}),
        400,
    ),
}


class Resources:
    """
    Invocations and browsers that requests are about.

    :param http: a client of the emulator.
    """

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._turn = itertools.count()
        self._active = self._invoke("minute")
        self._ended = self._invoke("echo")
        self._deployment = http.get("/deployments").json()[0]["id"]
        self._browser = self._create_browser()

    @property
    def browser(self) -> str:
        """A browser that is open: a request may have changed after which inactivity the last one is closed."""
        if self._http.get(f"/browsers/{self._browser}").status_code != 200:
            self._browser = self._create_browser()
        return self._browser

    @property
    def active(self) -> str:
        """An invocation that is active: requests take more than its minute on a busy machine."""
        if self._http.get(f"/invocations/{self._active}").json()["status"] not in ("queued", "running"):
            self._active = self._invoke("minute")
        return self._active

    def put_into(self, case: Case) -> None:
        """Name what there is in every other request of which it does not change whether the request is valid."""
        body = case.body if isinstance(case.body, dict) else {}
        if isinstance(body.get("invocation_id"), str) and body["invocation_id"]:
            body["invocation_id"] = self.active
        if next(self._turn) % 2:
            return
        path = case.meta.components.get(ParameterLocation.PATH) if case.meta else None
        if path is not None and path.mode.is_positive:
            case.path_parameters = dict.fromkeys(case.path_parameters, self._resource(case.operation.label))
        if case.operation.label == INVOKE:
            body.update({name: value for name, value in ECHO.items() if isinstance(body.get(name), str)})
        for name in ("payload", "output"):
            if isinstance(body.get(name), str):
                body[name] = json.dumps(body[name])

    def remove(self, case: Case, response: Response) -> None:
        """Delete the browser that a request has created."""
        if case.operation.label == CREATE and response.status_code == 200:
            self._http.delete(f"/browsers/{response.json()['session_id']}")

    def _resource(self, operation: str) -> str:
        if operation == UPDATE:
            return self._invoke("minute")
        if operation == "DELETE /browsers/{id_or_name}":
            return self._create_browser()
        if "/deployments" in operation:
            return self._deployment
        return self._ended if "/invocations" in operation else self.browser

    def _invoke(self, action: str) -> str:
        body = ECHO | {"action_name": action, "async": action == "minute", "payload": "1"}
        invocation_id: str = self._http.post("/invocations", json=body).json()["id"]
        return invocation_id

    def _create_browser(self) -> str:
        body = {"headless": True, "timeout_seconds": 259_200}
        browser_id: str = self._http.post("/browsers", json=body).json()["session_id"]
        return browser_id


@pytest.fixture(scope="module")
def http(emulator: KernelEmulator) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    with httpx.Client(base_url=emulator.base_url, headers=headers, timeout=60) as http:
        yield http


@pytest.fixture(scope="module")
def resources(http):
    return Resources(http)


@schema.parametrize()
def test_operation_is_as_described(case, emulator, resources):
    resources.put_into(case)
    response = case.call(base_url=emulator.base_url)
    resources.remove(case, response)
    try:
        case.validate_response(response)
    except (Failure, FailureGroup) as error:
        failures = error.exceptions if isinstance(error, FailureGroup) else [error]
        if any(
            not any(known.allows(case, response, failure) for known in DIFFERENCES.values())
            for failure in failures
        ):
            raise


@pytest.mark.parametrize("name", DIFFERENCES)
def test_difference_is_there(http, resources, name):
    method, path, body = DIFFERENCES[name].request

    reply = http.request(method, path.replace("{id}", resources.browser), json=body)

    assert reply.status_code == DIFFERENCES[name].status


def test_differences_are_those_of_the_documentation():
    page = (REPOSITORY / "docs" / "emulator.md").read_text()
    section = page.partition("\n## Deliberate differences\n")[2].partition("\n## ")[0]

    assert re.findall(r"^- \*\*(.+?)\*\*", section, re.MULTILINE) == list(DIFFERENCES)


@pytest.mark.parametrize(("method", "path"), UNSERVED, ids=" ".join)
def test_operation_that_is_not_served_says_so(http, method, path):
    reply = http.request(method, re.sub("{.*?}", "id", path))

    assert (reply.status_code, reply.json()["code"]) == (501, "not_implemented")


def test_events_are_as_described(http):
    body = ECHO | {"action_name": "sleep", "payload": '{"seconds": 1.2}', "async": True}
    invocation_id = http.post("/invocations", json=body).json()["id"]
    text = http.get(f"/invocations/{invocation_id}/events").text
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
    event = {"$ref": "#/components/schemas/InvocationEvent", "components": DESCRIPTION["components"]}

    assert {it["event"] for it in events} == {"invocation_state", "log", "sse_heartbeat"}
    for each in events:
        jsonschema_rs.validate(event, each)
