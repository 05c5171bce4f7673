"""The endpoints below ``/browsers``, and those of the URLs that the API returns: relay, live view, replays."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket

from airflow_provider_kernel.emulator.browsers.browser import Browser
from airflow_provider_kernel.emulator.browsers.cdp import CdpError
from airflow_provider_kernel.emulator.browsers.computer_contract import (
    Action,
    read_action,
    read_batch,
    read_clipboard_text,
    read_region,
)
from airflow_provider_kernel.emulator.browsers.contract import read_create, read_update
from airflow_provider_kernel.emulator.browsers.live_view import CLOSED, stream_live_view
from airflow_provider_kernel.emulator.browsers.pool import BrowserPool, browser_not_found
from airflow_provider_kernel.emulator.browsers.relay import relay
from airflow_provider_kernel.emulator.browsers.replays import (
    Replay,
    read_start_replay,
    replay_file,
    replay_not_found,
)
from airflow_provider_kernel.emulator.browsers.script import execute, find_playwright, read_execute
from airflow_provider_kernel.emulator.browsers.x11_controls import ControlsError
from airflow_provider_kernel.emulator.contract import (
    ApiError,
    bad_request,
    not_served,
    paginate,
    read_object,
    read_pagination,
)
from airflow_provider_kernel.emulator.http_messages import (
    error_response,
    json_response,
    read_body,
    url_of,
)

Handler = Callable[[Request], Awaitable[Response]]
BrowserHandler = Callable[[Request, Browser], Awaitable[Response]]

#: Errors of a browser, for which :func:`on_browser_error` makes the response.
BROWSER_ERRORS = (CdpError, ControlsError)

#: Maximum bytes of a file that is uploaded.
MAX_UPLOAD_BYTES = 512 * 2**20

#: The last part of the path of an action, and its type in a batch.
_ACTIONS = {
    "click_mouse": "click_mouse",
    "move_mouse": "move_mouse",
    "drag_mouse": "drag_mouse",
    "scroll": "scroll",
    "type": "type_text",
    "press_key": "press_key",
    "cursor": "set_cursor",
}
_FILE_FIELD = re.compile(r"files(?:\[(\d*)\])?[\[.](file|dest_path)\]?")


def browser_routes(
    pool: BrowserPool,
    folders: Callable[[], Sequence[Path]],
    check_invocation: Callable[[str], None],
    url: str,
) -> list[BaseRoute]:
    """
    Return the routes.

    :param pool: the browsers.
    :param folders: returns the folders of the apps, where Playwright may be installed.
    :param check_invocation: raises an :class:`ApiError` for an invocation that cannot have a new browser.
    :param url: the emulator's URL on this machine.
    """
    api = _BrowserApi(pool, folders, check_invocation, url)
    links = _Links(pool)

    def route(method: str, path: str, handler: Handler) -> Route:
        return Route(f"/browsers{path}", handler, methods=[method])

    def use(method: str, path: str, handler: BrowserHandler) -> Route:
        """Return a route that uses a browser, which is not inactive meanwhile."""

        async def endpoint(request: Request) -> Response:
            browser = pool.find(request.path_params["id"])
            with browser.connected():
                try:
                    return await handler(request, browser)
                except Exception:
                    if browser.deleted:  # Whatever it is, it comes from that.
                        raise browser_not_found(browser.id) from None
                    raise

        return route(method, f"/{{id}}{path}", endpoint)

    return [
        route("POST", "", api.create),
        route("GET", "", api.list),
        route("GET", "/{id}", api.retrieve),
        use("PATCH", "", api.update),
        route("DELETE", "/{id}", api.delete),
        use("POST", "/computer/screenshot", api.screenshot),
        use("POST", "/computer/batch", api.batch),
        use("POST", "/computer/get_mouse_position", api.mouse_position),
        use("POST", "/computer/clipboard/read", api.read_clipboard),
        use("POST", "/computer/clipboard/write", api.write_clipboard),
        *(use("POST", f"/computer/{name}", api.action(kind)) for name, kind in _ACTIONS.items()),
        use("POST", "/playwright/execute", api.execute),
        use("POST", "/replays", api.start_replay),
        route("GET", "/{id}/replays", api.list_replays),
        route("GET", "/{id}/replays/{replay_id}", api.download_replay),
        route("POST", "/{id}/replays/{replay_id}/stop", api.stop_replay),
        use("GET", "/fs/read_file", api.read_file),
        use("PUT", "/fs/write_file", api.write_file),
        use("GET", "/fs/list_files", api.list_files),
        use("GET", "/fs/file_info", api.file_info),
        use("GET", "/fs/download_dir_zip", api.download_folder),
        use("PUT", "/fs/create_directory", api.create_folder),
        use("PUT", "/fs/delete_directory", api.delete_folder),
        use("PUT", "/fs/delete_file", api.delete_file),
        use("PUT", "/fs/move", api.move_file),
        use("PUT", "/fs/set_file_permissions", api.set_permissions),
        use("POST", "/fs/upload", api.upload),
        use("POST", "/fs/upload_zip", api.upload_zip),
        WebSocketRoute("/cdp/{id}", links.relay),
        WebSocketRoute("/live/{id}/stream", links.stream),
        WebSocketRoute("/webdriver/{id}", links.webdriver),
        Route("/replays/{replay_id}.mp4", links.replay, methods=["GET"]),
    ]


def has_own_secret(path: str) -> bool:
    """Return whether a path belongs to a URL that the API returns. It needs no API key: the URL has a secret."""
    return path.startswith(("/cdp/", "/live/", "/replays/", "/webdriver/"))


class _BrowserApi:
    """The endpoints of Kernel's API."""

    def __init__(
        self,
        pool: BrowserPool,
        folders: Callable[[], Sequence[Path]],
        check_invocation: Callable[[str], None],
        url: str,
    ) -> None:
        self._pool = pool
        self._folders = folders
        self._check_invocation = check_invocation
        self._url = url

    async def create(self, request: Request) -> Response:
        wanted = read_create(await read_body(request))
        if wanted.invocation_id is not None:
            self._check_invocation(wanted.invocation_id)
        return json_response((await self._pool.create(wanted)).as_json(url_of(request)))

    async def list(self, request: Request) -> Response:
        query = request.query_params
        includes_deleted = _flag(query, "include_deleted")
        status = query.get("status", "all" if includes_deleted else "active")
        if status not in ("active", "deleted", "all"):
            raise bad_request("status must be one of active, deleted, all")
        browsers = [] if status == "deleted" else self._pool.open()
        if status != "active":
            browsers += self._pool.closed()
        text = query.get("query", "").lower()
        tags = {name[5:-1]: value for name, value in query.items() if re.fullmatch(r"tags\[.+\]", name)}
        found = [
            browser
            for browser in (it.as_json(url_of(request)) for it in browsers)
            if any(text in browser.get(name, "").lower() for name in ("session_id", "name"))
            and tags.items() <= browser.get("tags", {}).items()
        ]
        page, headers = paginate(found, read_pagination(query))
        return json_response(page, headers=headers)

    async def retrieve(self, request: Request) -> Response:
        if _flag(request.query_params, "include_deleted"):
            closed = self._pool.find_closed(request.path_params["id"])
            if closed is not None:
                return json_response(closed.as_json(url_of(request)))
        return json_response(self._find(request).as_json(url_of(request)))

    async def update(self, request: Request, browser: Browser) -> Response:
        await self._pool.update(browser, read_update(await read_body(request)))
        return json_response(browser.as_json(url_of(request)))

    async def delete(self, request: Request) -> Response:
        await self._pool.close(self._find(request))
        return Response(status_code=204)

    async def screenshot(self, request: Request, browser: Browser) -> Response:
        region = read_region(await read_body(request), browser.viewport)
        return Response(await browser.controls.screenshot(*region), media_type="image/png")

    async def batch(self, request: Request, browser: Browser) -> Response:
        await _perform(browser, read_batch(await read_body(request), browser.viewport))
        return Response(status_code=200)

    def action(self, kind: str) -> BrowserHandler:
        """Return the endpoint of one action of mouse or keyboard."""

        async def endpoint(request: Request, browser: Browser) -> Response:
            await _perform(browser, [read_action(kind, await read_body(request), browser.viewport)])
            return json_response({"ok": True})

        return endpoint

    async def mouse_position(self, request: Request, browser: Browser) -> Response:
        x, y = await browser.controls.position()
        return json_response({"x": x, "y": y})

    async def read_clipboard(self, request: Request, browser: Browser) -> Response:
        return json_response({"text": await browser.clipboard.read()})

    async def write_clipboard(self, request: Request, browser: Browser) -> Response:
        await browser.clipboard.write(read_clipboard_text(await read_body(request)))
        return Response(status_code=200)

    async def execute(self, request: Request, browser: Browser) -> Response:
        wanted = read_execute(await read_body(request))
        programs = find_playwright(self._folders())
        async with browser.executors[wanted.executor]:
            return json_response(await execute(wanted, programs, browser, self._url))

    async def start_replay(self, request: Request, browser: Browser) -> Response:
        replay = await self._pool.start_replay(browser, read_start_replay(await read_body(request)))
        return json_response(replay.as_json(url_of(request)), 201)

    async def list_replays(self, request: Request) -> Response:
        replays = self._pool.replays(request.path_params["id"]).values()
        return json_response([replay.as_json(url_of(request)) for replay in replays])

    async def download_replay(self, request: Request) -> Response:
        return FileResponse(replay_file(self._replay(request)), media_type="video/mp4")

    async def stop_replay(self, request: Request) -> Response:
        await self._replay(request).stop()
        return Response(status_code=200)

    async def read_file(self, request: Request, browser: Browser) -> Response:
        content = await asyncio.to_thread(browser.files.read, request.query_params.get("path"))
        return Response(content, media_type="application/octet-stream")

    async def write_file(self, request: Request, browser: Browser) -> Response:
        query = request.query_params
        content = await read_body(request, MAX_UPLOAD_BYTES)
        await asyncio.to_thread(browser.files.write, query.get("path"), content, query.get("mode"))
        return Response(status_code=201)

    async def list_files(self, request: Request, browser: Browser) -> Response:
        return json_response(await asyncio.to_thread(browser.files.list, request.query_params.get("path")))

    async def file_info(self, request: Request, browser: Browser) -> Response:
        return json_response(await asyncio.to_thread(browser.files.info, request.query_params.get("path")))

    async def download_folder(self, request: Request, browser: Browser) -> Response:
        content = await asyncio.to_thread(browser.files.zip_folder, request.query_params.get("path"))
        return Response(content, media_type="application/zip")

    async def create_folder(self, request: Request, browser: Browser) -> Response:
        data = read_object(await read_body(request))
        await asyncio.to_thread(browser.files.create_folder, data.get("path"), data.get("mode"))
        return Response(status_code=201)

    async def delete_folder(self, request: Request, browser: Browser) -> Response:
        data = read_object(await read_body(request))
        await asyncio.to_thread(browser.files.delete_folder, data.get("path"))
        return Response(status_code=200)

    async def delete_file(self, request: Request, browser: Browser) -> Response:
        data = read_object(await read_body(request))
        await asyncio.to_thread(browser.files.delete, data.get("path"))
        return Response(status_code=200)

    async def move_file(self, request: Request, browser: Browser) -> Response:
        data = read_object(await read_body(request))
        await asyncio.to_thread(browser.files.move, data.get("src_path"), data.get("dest_path"))
        return Response(status_code=200)

    async def set_permissions(self, request: Request, browser: Browser) -> Response:
        data = read_object(await read_body(request))
        if data.get("owner") or data.get("group"):
            raise not_served("a change of a file's owner or group")
        await asyncio.to_thread(browser.files.set_mode, data.get("path"), data.get("mode"))
        return Response(status_code=200)

    async def upload(self, request: Request, browser: Browser) -> Response:
        files = await _uploaded_files(request)
        for path, content in files:
            await asyncio.to_thread(browser.files.write, path, content)
        return Response(status_code=201)

    async def upload_zip(self, request: Request, browser: Browser) -> Response:
        async with _limited(request).form() as form:
            archive, path = form.get("zip_file"), form.get("dest_path")
            if not isinstance(archive, UploadFile):
                raise bad_request("zip_file must be a file")
            await asyncio.to_thread(browser.files.unzip, path, await archive.read())
        return Response(status_code=201)

    def _find(self, request: Request) -> Browser:
        return self._pool.find(request.path_params["id"])

    def _replay(self, request: Request) -> Replay:
        replay_id = request.path_params["replay_id"]
        replay = self._pool.replays(request.path_params["id"]).get(replay_id)
        if replay is None:
            raise replay_not_found(replay_id)
        return replay


class _Links:
    """The URLs that the API returns. Each has a secret in place of an API key."""

    def __init__(self, pool: BrowserPool) -> None:
        self._pool = pool

    async def relay(self, websocket: WebSocket) -> None:
        if browser := self._find(websocket):
            await relay(websocket, browser)
        else:
            await websocket.close(1008, "The browser is closed, or the secret of the URL is wrong")

    async def stream(self, websocket: WebSocket) -> None:
        if browser := self._find(websocket):
            await stream_live_view(websocket, browser)
        else:
            await websocket.accept()
            await websocket.close(CLOSED)

    async def webdriver(self, websocket: WebSocket) -> None:
        await websocket.close(1008, "The emulator does not serve WebDriver BiDi")

    async def replay(self, request: Request) -> Response:
        replay = self._pool.find_replay(request.path_params["replay_id"])
        if not _has_secret(request, replay.secret):
            raise replay_not_found(replay.id)
        return FileResponse(replay_file(replay), media_type="video/mp4")

    def _find(self, connection: HTTPConnection) -> Browser | None:
        """Return the browser of a URL; None if it is closed, or the secret is wrong."""
        try:
            browser = self._pool.find(connection.path_params["id"])
        except ApiError:
            return None
        return browser if _has_secret(connection, browser.secret) else None


async def _perform(browser: Browser, actions: Sequence[Action]) -> None:
    async with browser.control_lock:
        for action in actions:
            if browser.deleted:  # Its screen may be another browser's now.
                raise browser_not_found(browser.id)
            await browser.controls.perform(action)


def _limited(request: Request) -> Request:
    """Return a request that refuses a body of more than :data:`MAX_UPLOAD_BYTES` when it is read."""
    size = 0

    async def receive() -> Message:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        if size > MAX_UPLOAD_BYTES:
            raise bad_request("The body is too large")
        return message

    return Request(request.scope, receive)


async def _uploaded_files(request: Request) -> list[tuple[object, bytes]]:
    """Return path and content of each file of a form with ``files[0][file]`` and ``files[0][dest_path]``."""
    fields: dict[str, dict[str, Any]] = {"file": {}, "dest_path": {}}
    async with _limited(request).form() as form:
        for name, value in form.multi_items():
            if match := _FILE_FIELD.fullmatch(name):
                of_kind = fields[match[2]]
                of_kind[match[1] or str(len(of_kind))] = (
                    await value.read() if isinstance(value, UploadFile) else value
                )
    if not fields["file"] or fields["file"].keys() != fields["dest_path"].keys():
        raise bad_request("each of files must have a file and a dest_path")
    return [(fields["dest_path"][index], content) for index, content in fields["file"].items()]


def _flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "false")
    if value not in ("true", "false"):
        raise bad_request(f"{name} must be true or false")
    return value == "true"


def _has_secret(connection: HTTPConnection, secret: str) -> bool:
    return secrets.compare_digest(connection.query_params.get("secret", "").encode(), secret.encode())


async def on_browser_error(request: Request, error: Exception) -> Response:
    """Return the response for a browser, or for its xdotool, that refuses a command."""
    return error_response(500, "internal_error", f"The browser refused: {error}")
