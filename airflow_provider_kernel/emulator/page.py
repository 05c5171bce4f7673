"""
The page at ``/``: its files, their headers, and the list of invocations that it asks for.

The files are served without a token; they hold no data. What they show they ask of the API, with a token.
"""

from __future__ import annotations

import time
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_kernel.api.timestamps import format_timestamp
from airflow_provider_kernel.emulator.engine import Engine
from airflow_provider_kernel.emulator.http_messages import encode_json
from airflow_provider_kernel.emulator.store import ListFilter

#: Path of the page itself, the only one to which other sites may link.
PAGE = "/"
#: Maximum number of invocations that the page lists.
MAX_LISTED = 200

_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'self'",
            "frame-src 'self'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_LISTED = ("id", "app_name", "action_name", "status", "started_at", "finished_at")


def _read_files() -> dict[str, tuple[bytes, str]]:
    """Return content and media type of the page's files, by their paths."""
    found = {}
    for file in files(__package__).joinpath("page_files").iterdir():
        suffix = file.name.rpartition(".")[2]
        path = PAGE if file.name == "index.html" else f"/page/{file.name}"
        if suffix in _MEDIA_TYPES:
            found[path] = (file.read_bytes(), _MEDIA_TYPES[suffix])
    return found


_FILES = _read_files()


def is_page_file(method: str, path: str) -> bool:
    """Return whether a request is for a file of the page, which needs no token."""
    return method == "GET" and path in _FILES


def is_of_page(path: str) -> bool:
    """Return whether a path belongs to the page: to its files, or to the list that it shows."""
    return path in _FILES or path.startswith("/page/")


def page_routes(engine: Engine) -> list[Route]:
    """
    Return the routes of the page's files, and of the list of invocations that the page shows.

    ``GET /invocations`` has all payloads and outputs, which may be megabytes each; the page asks once a second.

    :param engine: has the invocations.
    """

    async def list_invocations(request: Request) -> Response:
        return Response(encode_json(_summary(engine)), media_type="application/json")

    return [
        *(Route(path, _serve_file, methods=["GET"]) for path in _FILES),
        Route("/live/{id}", _serve_live_view, methods=["GET"]),
        Route("/page/invocations", list_invocations, methods=["GET"]),
    ]


async def _serve_file(request: Request) -> Response:
    content, media_type = _FILES[request.scope["path"]]
    return Response(content, headers=_HEADERS, media_type=media_type)


async def _serve_live_view(request: Request) -> Response:
    """Return the page of the live view, which says itself if there is no such browser. The page at ``/`` shows it in a frame."""
    content, media_type = _FILES["/page/live.html"]
    policy = _HEADERS["Content-Security-Policy"].replace("frame-ancestors 'none'", "frame-ancestors 'self'")
    headers = _HEADERS | {"Content-Security-Policy": policy, "X-Frame-Options": "SAMEORIGIN"}
    return Response(content, headers=headers, media_type=media_type)


def _summary(engine: Engine) -> dict[str, Any]:
    """Return the newest invocations without payload and output, their total number, and the time."""
    invocations = engine.store.list(ListFilter())
    listed = [invocation.as_json() for invocation in invocations[:MAX_LISTED]]
    return {
        "invocations": [{name: data[name] for name in _LISTED if name in data} for data in listed],
        "now": format_timestamp(time.time_ns()),
        "total": len(invocations),
    }
