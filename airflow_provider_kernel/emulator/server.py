"""The ASGI application: routes, authentication, error responses."""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.emulator.account import entitlements, limits, refusal
from airflow_provider_kernel.emulator.app_files import AppFiles
from airflow_provider_kernel.emulator.browsers.pool import BrowserPool
from airflow_provider_kernel.emulator.browsers.routes import (
    BROWSER_ERRORS,
    browser_routes,
    has_own_secret,
    on_browser_error,
)
from airflow_provider_kernel.emulator.console import Console
from airflow_provider_kernel.emulator.contract import (
    ApiError,
    not_found,
    not_served,
    paginate,
    read_deployment_filter,
    read_invoke,
    read_pagination,
    read_since,
    read_status,
    read_update,
)
from airflow_provider_kernel.emulator.control import Settings, control_routes, is_control
from airflow_provider_kernel.emulator.engine import ENDED_BY_REQUEST, STOPPED, Engine
from airflow_provider_kernel.emulator.fault_injection import FaultInjection
from airflow_provider_kernel.emulator.faults import FaultList
from airflow_provider_kernel.emulator.host_and_origin import check_host_and_origin
from airflow_provider_kernel.emulator.http_messages import (
    error_response,
    json_list_response,
    json_response,
    read_body,
    url_of,
)
from airflow_provider_kernel.emulator.inspection import inspection_routes
from airflow_provider_kernel.emulator.page import PAGE, is_page_file, page_routes
from airflow_provider_kernel.emulator.request_log import RequestLog
from airflow_provider_kernel.emulator.store import ListFilter, StoredInvocation
from airflow_provider_kernel.emulator.stream import event_stream
from airflow_provider_kernel.emulator.unserved import is_method_of_kernel, unserved

_CODES = {404: "not_found", 405: "method_not_allowed"}


def make_app(
    engine: Engine,
    browsers: BrowserPool,
    app_files: AppFiles,
    *,
    console: Console,
    api_key: str | None,
    heartbeat: float,
    refuse: str | None,
    faults: FaultList,
    served: frozenset[str] | None,
    url: str,
) -> ASGIApp:
    """
    Return the ASGI application.

    :param engine: executes the invocations.
    :param browsers: the browsers.
    :param app_files: notices before a submission that an app file has changed.
    :param console: prints requests and invocations.
    :param api_key: the only accepted bearer token; None: any token is accepted.
    :param heartbeat: seconds without an event after which an event stream sends a heartbeat.
    :param refuse: a choice of :data:`~airflow_provider_kernel.emulator.account.REFUSALS`; None: no request is refused.
    :param faults: what happens to requests on purpose.
    :param served: hosts from :func:`~airflow_provider_kernel.emulator.host_and_origin.served_hosts`.
    :param url: the emulator's URL on this machine.
    """
    api = _Api(engine, browsers, app_files, console, heartbeat)
    settings = Settings(engine, refuse)
    app = Starlette(
        routes=[
            Route("/invocations", api.invoke, methods=["POST"]),
            Route("/invocations", api.list_invocations, methods=["GET"]),
            Route("/invocations/{id}", api.update, methods=["PATCH"]),
            Route("/invocations/{id}", api.retrieve, methods=["GET"]),
            Route("/invocations/{id}/events", api.events, methods=["GET"]),
            Route("/invocations/{id}/browsers", api.list_browsers, methods=["GET"]),
            Route("/invocations/{id}/browsers", api.delete_browsers, methods=["DELETE"]),
            Route("/apps", api.list_apps, methods=["GET"]),
            Route("/deployments", api.list_deployments, methods=["GET"]),
            Route("/deployments/{id}", api.retrieve_deployment, methods=["GET"]),
            Route("/auth/context", api.auth_context, methods=["GET"]),
            Route("/org/entitlements", api.entitlements, methods=["GET"]),
            Route("/org/limits", api.limits, methods=["GET"]),
            *browser_routes(browsers, engine.app_folders, engine.check_active, url),
            *page_routes(engine),
            *control_routes(faults, settings),
            *inspection_routes(engine),
        ],
        exception_handlers={
            ApiError: _on_api_error,
            HTTPException: _on_http_error,
            **dict.fromkeys(BROWSER_ERRORS, on_browser_error),
            ClientDisconnect: _on_disconnect,
            Exception: _on_internal_error,
        },
    )
    app.router.redirect_slashes = False
    for route in app.routes:
        # Starlette adds HEAD to GET. Kernel has no HEAD, and on an event stream it would last until the stream's end.
        if isinstance(route, Route) and route.methods:
            route.methods.discard("HEAD")
    faulty = FaultInjection(app, faults, console, engine.stopping)
    return RequestLog(_AccessMiddleware(faulty, api_key, settings, served), console)


class _AccessMiddleware:
    """
    Refuses requests by ``Host`` and ``Origin``, by bearer token, and by ``--refuse``, in this order.

    The page's files need no token. The emulator's own endpoints are not refused by ``--refuse``, so that it can be lifted.
    """

    def __init__(
        self, app: ASGIApp, api_key: str | None, settings: Settings, served: frozenset[str] | None
    ) -> None:
        self._app = app
        self._api_key = api_key
        self._settings = settings
        self._served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope.get("method", ""), scope["path"]
        # A link to a page that shows something may be on any page.
        is_linkable = method == "GET" and (path == PAGE or has_own_secret(path))
        error = check_host_and_origin(
            scope["headers"],
            self._served,
            is_linkable=is_linkable,
            # An extension of the browser itself may connect: Stagehand's does.
            allows_extensions=has_own_secret(path),
        )
        if scope["type"] == "websocket":
            await (WebSocketClose(1008, error.message) if error else self._app)(scope, receive, send)
            return
        request = Request(scope)
        if error is None and not (is_page_file(method, path) or has_own_secret(path)):
            error = self._check_token(_token(request))
            if error is None and not is_control(path):
                error = refusal(self._settings.refuse, method, request.headers)
        respond = error_response(error.status_code, error.code, error.message) if error else self._app
        await respond(scope, receive, send)

    def _check_token(self, token: str) -> ApiError | None:
        if not token:
            return ApiError(401, "unauthorized", "Missing bearer token")
        if self._api_key is None or secrets.compare_digest(token.encode(), self._api_key.encode()):
            return None
        return ApiError(401, "unauthorized", "Invalid API key")


class _Api:
    """The endpoints, one method for each."""

    def __init__(
        self,
        engine: Engine,
        browsers: BrowserPool,
        app_files: AppFiles,
        console: Console,
        heartbeat: float,
    ) -> None:
        self._engine = engine
        self._deployments = engine.deployments
        self._browsers = browsers
        self._app_files = app_files
        self._console = console
        self._heartbeat = heartbeat
        self._organization = _public_id("organization")

    async def invoke(self, request: Request) -> Response:
        submitted = read_invoke(await read_body(request))
        await self._app_files.refresh()
        invocation = self._engine.submit(submitted)
        self._console.follow(invocation, request.headers.get("user-agent", ""))
        invocation.listeners.append(lambda: self._note_open_browsers(invocation))
        if submitted.is_async:
            return json_response(_submission_as_json(invocation), 202)
        await self._engine.wait_for_end(invocation)
        return json_response(_submission_as_json(invocation))

    async def list_invocations(self, request: Request) -> Response:
        query = request.query_params
        page = read_pagination(query)
        wanted = ListFilter(
            **{
                name: query.get(name)
                for name in ("app_name", "action_name", "version", "deployment_id", "query")
            },
            status=read_status(query),
            since=read_since(query, time.time_ns()),
        )
        invocations, headers = paginate(self._engine.store.list(wanted), page)
        return json_list_response((invocation.as_json() for invocation in invocations), headers)

    async def retrieve(self, request: Request) -> Response:
        return json_response(self._find(request).as_json())

    async def update(self, request: Request) -> Response:
        invocation = self._find(request)
        wanted = read_update(await read_body(request))
        await self._engine.update(invocation, wanted)
        if wanted.status is InvocationStatus.FAILED:
            await self._browsers.cancel_invocation(invocation.id)
        return json_response(invocation.as_json())

    async def events(self, request: Request) -> Response:
        invocation = self._find(request)
        since = read_since(request.query_params, time.time_ns())
        return StreamingResponse(
            event_stream(invocation, since, self._heartbeat),
            media_type="text/event-stream",
            headers={"X-SSE-Content-Type": "application/json", "Cache-Control": "no-cache"},
        )

    async def list_browsers(self, request: Request) -> Response:
        browsers = self._browsers.open(self._find(request).id)
        return json_response({"browsers": [browser.as_json(url_of(request)) for browser in browsers]})

    async def delete_browsers(self, request: Request) -> Response:
        await self._browsers.close_of_invocation(self._find(request).id)
        return Response(status_code=204)

    async def list_apps(self, request: Request) -> Response:
        await self._app_files.refresh()
        query = request.query_params
        name, version, text = query.get("app_name"), query.get("version"), query.get("query", "").lower()
        apps = [
            app.as_json(self._deployments.variables)
            for app in self._deployments.apps
            if name in (None, app.name) and version in (None, app.version) and text in app.name.lower()
        ]
        page, headers = paginate(apps, read_pagination(query))
        return json_response(page, headers=headers)

    async def list_deployments(self, request: Request) -> Response:
        await self._app_files.refresh()
        query = request.query_params
        found = self._deployments.list(read_deployment_filter(query))
        page, headers = paginate(found, read_pagination(query))
        return json_response([it.as_json(self._deployments.variables) for it in page], headers=headers)

    async def retrieve_deployment(self, request: Request) -> Response:
        deployment = self._deployments.find(request.path_params["id"])
        return json_response(deployment.as_json(self._deployments.variables))

    async def auth_context(self, request: Request) -> Response:
        key_id = _public_id(_token(request))
        project = request.headers.get("x-kernel-project")
        return json_response(
            {
                "authentication": {"method": "api_key", "source": "api_key", "credential_id": key_id},
                "principal": {"type": "api_key", "id": key_id},
                "organization": {"id": self._organization},
                "authorization": {
                    "credential_scope": {"project_id": None},
                    "effective_scope": {"project_id": project},
                },
            },
            headers={"Cache-Control": "private, no-store"},
        )

    async def entitlements(self, request: Request) -> Response:
        return json_response(entitlements(self._engine.max_concurrency))

    async def limits(self, request: Request) -> Response:
        return json_response(limits(len(self._browsers.open())))

    def _note_open_browsers(self, invocation: StoredInvocation) -> None:
        """Say what is easily forgotten: that the end of an action closes no browser, which goes on costing on Kernel."""
        if not invocation.is_ended or invocation.reason in (ENDED_BY_REQUEST, STOPPED):
            return
        for browser in self._browsers.open(invocation.id):
            self._console.note(
                f"The browser {browser.id} of {invocation.title} stays open: nothing deleted "
                f"it. It is closed after {browser.timeout} seconds without use."
            )

    def _find(self, request: Request) -> StoredInvocation:
        invocation_id = request.path_params["id"]
        invocation = self._engine.store.get(invocation_id)
        if invocation is None:
            raise not_found(f"Invocation not found: {invocation_id}")
        return invocation


def _submission_as_json(invocation: StoredInvocation) -> dict[str, Any]:
    """Return the body of the response to ``POST /invocations``, which has fewer fields than ``GET``."""
    data = invocation.as_json()
    names = ("id", "action_name", "status", "status_reason", "output")
    return {name: data[name] for name in names if name in data}


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _public_id(text: str) -> str:
    """Return an id that depends on ``text`` and does not disclose it."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - Starlette's signature is wider than its promise
    return error_response(error.status_code, error.code, error.message, error.headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    path = request.url.path
    is_unserved = error.status_code == 404 or is_method_of_kernel(request.method, path)
    if is_unserved and (what := unserved(path)):
        return await _on_api_error(request, not_served(what))
    code = _CODES.get(error.status_code, "bad_request")
    headers = {"Allow": _allowed_methods(request)} if error.status_code == 405 else error.headers
    return error_response(error.status_code, code, error.detail, headers)


def _allowed_methods(request: Request) -> str:
    """Return the methods of a path. Starlette's own header has those of one route, and each method has a route."""
    routes = [it for it in request.app.routes if isinstance(it, Route) and it.methods]
    matching = [it for it in routes if it.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for it in matching for method in it.methods or ()}))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return error_response(400, "bad_request", "The body ended early")


async def _on_internal_error(request: Request, error: Exception) -> Response:
    return error_response(
        500, "internal_error", "Internal error of the emulator; its standard error has the traceback"
    )
