"""
What tests ask of the emulator beside Kernel's API: the invocations with their logs. Faults do not affect it.

- ``GET /_emulator/invocations?since=TIME`` has the invocations that were accepted since then, oldest first.
- ``GET /_emulator/invocations/ID?wait=SECONDS`` replies when the invocation has ended, or after that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_kernel.emulator.contract import bad_request, not_found, read_since
from airflow_provider_kernel.emulator.engine import Engine
from airflow_provider_kernel.emulator.http_messages import json_response
from airflow_provider_kernel.emulator.store import ListFilter, StoredInvocation


def inspection_routes(engine: Engine) -> list[Route]:
    """Return the routes."""

    async def list_invocations(request: Request) -> Response:
        wanted = ListFilter(since=read_since(request.query_params, time.time_ns()))
        found = reversed(engine.store.list(wanted))
        return json_response({"invocations": [_with_log(invocation) for invocation in found]})

    async def retrieve(request: Request) -> Response:
        invocation = engine.store.get(request.path_params["id"])
        if invocation is None:
            raise not_found(f"Invocation not found: {request.path_params['id']}")
        try:
            seconds = float(request.query_params.get("wait", "0"))
        except ValueError:
            raise bad_request("wait must be a number of seconds") from None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(engine.wait_for_end(invocation), seconds)
        return json_response(_with_log(invocation))

    return [
        Route("/_emulator/invocations", list_invocations, methods=["GET"]),
        Route("/_emulator/invocations/{id}", retrieve, methods=["GET"]),
    ]


def _with_log(invocation: StoredInvocation) -> dict[str, Any]:
    return {**invocation.as_json(), "log": [message for _, message in invocation.logs]}
