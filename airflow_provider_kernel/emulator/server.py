"""The HTTP side: routes, authentication, error bodies. Everything else is in the modules below it."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from airflow_provider_kernel.emulator.account import limits, refusal
from airflow_provider_kernel.emulator.authority import refusal_of_foreign
from airflow_provider_kernel.emulator.contract import (
    MAX_BODY_BYTES,
    VERSION_LABEL,
    ApiError,
    bad_request,
    cut_page,
    not_found,
    read_invoke,
    read_page,
    read_since,
    read_status,
    read_update,
)
from airflow_provider_kernel.emulator.engine import Engine
from airflow_provider_kernel.emulator.store import Filter, Record
from airflow_provider_kernel.emulator.stream import encode_json, follow

_CODES = {404: "not_found", 405: "method_not_allowed"}


def make_app(
    engine: Engine,
    *,
    api_key: str | None,
    heartbeat: float,
    refuse: str | None,
    served: frozenset[str] | None,
) -> ASGIApp:
    """
    Return the ASGI application.

    :param api_key: the only bearer token that is taken; None: any.
    :param heartbeat: seconds of silence after which an event stream sends a heartbeat.
    :param refuse: what is refused, of :data:`~airflow_provider_kernel.emulator.account.REFUSALS`; None: nothing.
    :param served: hosts that are answered for, of :func:`~airflow_provider_kernel.emulator.authority.served_hosts`.
    """
    api = _Api(engine, heartbeat)
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
            Route("/auth/context", api.auth_context, methods=["GET"]),
            Route("/org/entitlements", api.entitlements, methods=["GET"]),
        ],
        exception_handlers={
            ApiError: _on_api_error,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect,
            Exception: _on_bug,
        },
    )
    app.router.redirect_slashes = False
    for route in app.routes:
        # Starlette adds HEAD to GET, and on a stream of events it would last until the end; Kernel has none.
        route.methods.discard("HEAD")  # type: ignore[attr-defined]
    return _Gate(app, api_key, refuse, served)


class _Gate:
    """Refuses requests of foreign web pages, without the right bearer token, and what it was told to refuse."""

    def __init__(
        self, app: ASGIApp, api_key: str | None, refuse: str | None, served: frozenset[str] | None
    ) -> None:
        self._app = app
        self._api_key = api_key
        self._refuse = refuse
        self._served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        error = (
            refusal_of_foreign(scope["headers"], self._served)
            or self._unauthorized(_token(request))
            or refusal(self._refuse, request.method, request.headers)
        )
        reply = _error(error.status_code, error.code, error.message) if error else self._app
        await reply(scope, receive, send)

    def _unauthorized(self, token: str) -> ApiError | None:
        if not token:
            return ApiError(401, "unauthorized", "Missing bearer token")
        if self._api_key is None or secrets.compare_digest(token.encode(), self._api_key.encode()):
            return None
        return ApiError(401, "unauthorized", "Invalid API key")


class _Api:
    """The endpoints, one method each."""

    def __init__(self, engine: Engine, heartbeat: float) -> None:
        self._engine = engine
        self._heartbeat = heartbeat
        self._organization = _public_id("organization")

    async def invoke(self, request: Request) -> Response:
        asked = read_invoke(await _body(request))
        record = self._engine.submit(asked)
        if asked.is_async:
            return _reply(_invoked(record), 202)
        await self._engine.ended(record)
        return _reply(_invoked(record))

    async def list_invocations(self, request: Request) -> Response:
        query = request.query_params
        page = read_page(query)
        wanted = Filter(
            **{
                name: query.get(name)
                for name in ("app_name", "action_name", "version", "deployment_id", "query")
            },
            status=read_status(query),
            since=read_since(query, time.time_ns()),
        )
        records, headers = cut_page(self._engine.store.list(wanted), page)
        return _reply([record.as_json() for record in records], headers=headers)

    async def retrieve(self, request: Request) -> Response:
        return _reply(self._record(request).as_json())

    async def update(self, request: Request) -> Response:
        record = self._record(request)
        await self._engine.update(record, read_update(await _body(request)))
        return _reply(record.as_json())

    async def events(self, request: Request) -> Response:
        record = self._record(request)
        since = read_since(request.query_params, time.time_ns())
        return StreamingResponse(
            follow(record, since, self._heartbeat),
            media_type="text/event-stream",
            headers={"X-SSE-Content-Type": "application/json", "Cache-Control": "no-cache"},
        )

    async def list_browsers(self, request: Request) -> Response:
        self._record(request)
        return _reply({"browsers": []})

    async def delete_browsers(self, request: Request) -> Response:
        self._record(request)
        return Response(status_code=204)

    async def list_apps(self, request: Request) -> Response:
        query = request.query_params
        name, part = query.get("app_name"), query.get("query", "").lower()
        apps = [
            {
                "id": app.id,
                "app_name": app.name,
                "version": VERSION_LABEL,
                "region": "aws.us-east-1a",
                "deployment": app.deployment_id,
                "actions": [{"name": action} for action in app.actions],
                "env_vars": {},
            }
            for app in self._engine.apps.values()
            if name in (None, app.name)
            and query.get("version") in (None, VERSION_LABEL)
            and part in app.name.lower()
        ]
        page, headers = cut_page(apps, read_page(query))
        return _reply(page, headers=headers)

    async def auth_context(self, request: Request) -> Response:
        key_id = _public_id(_token(request))
        project = request.headers.get("x-kernel-project")
        return _reply(
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
        return _reply(limits(self._engine.max_concurrency))

    def _record(self, request: Request) -> Record:
        invocation_id = request.path_params["id"]
        record = self._engine.store.get(invocation_id)
        if record is None:
            raise not_found(f"Invocation not found: {invocation_id}")
        return record


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise bad_request("The body is too large")
    return bytes(body)


def _invoked(record: Record) -> dict[str, Any]:
    data = record.as_json()
    names = ("id", "action_name", "status", "status_reason", "output")
    return {name: data[name] for name in names if name in data}


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _public_id(text: str) -> str:
    """Return an id for ``text`` that does not tell it."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _reply(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode_json(data), status, headers, "application/json")


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return _reply({"code": code, "message": message}, status, headers)


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - Starlette's signature is wider than its promise
    return _error(error.status_code, error.code, error.message, error.headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    code = _CODES.get(error.status_code, "bad_request")
    return _error(error.status_code, code, error.detail, error.headers)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return _error(400, "bad_request", "The body ended early")


async def _on_bug(request: Request, error: Exception) -> Response:
    return _error(
        500, "internal_error", "Internal error of the emulator; its standard error has the traceback"
    )
