"""
The relay between an app's connection by the DevTools Protocol and the browser.

It passes everything on but for two things. ``Browser.close`` ends the connection alone, as on Kernel, where a browser
outlives it. Paths of the browser's machine become places in the browser's files.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from airflow_provider_kernel.emulator.browsers.browser import Browser
from airflow_provider_kernel.emulator.browsers.cdp import CdpError, open_socket
from airflow_provider_kernel.emulator.browsers.files import BrowserFiles
from airflow_provider_kernel.emulator.contract import ApiError

#: Methods that the relay looks at.
_METHODS = (
    "Browser.close",
    "Browser.setDownloadBehavior",
    "Page.setDownloadBehavior",
    "DOM.setFileInputFiles",
)


async def relay(websocket: WebSocket, browser: Browser) -> None:
    """
    Connect an app with a browser, until one of them ends the connection.

    :param websocket: the app's connection, which is not accepted yet.
    """
    try:
        upstream = await open_socket(browser.upstream_url)
    except CdpError:
        await websocket.close(1011, "Chromium does not answer")
        return
    await websocket.accept()
    with browser.connected():
        directions = {
            asyncio.create_task(_to_browser(websocket, upstream, browser.files)),
            asyncio.create_task(_to_app(websocket, upstream)),
        }
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            with contextlib.suppress(WebSocketException, OSError):
                await upstream.close()
            with contextlib.suppress(CdpError):
                await browser.direct_downloads()
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # The app may have closed it.
                await websocket.close()


async def _to_browser(websocket: WebSocket, upstream: ClientConnection, files: BrowserFiles) -> None:
    with contextlib.suppress(WebSocketDisconnect, WebSocketException):
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                text = (message.get("bytes") or b"").decode(errors="replace")
            if any(f'"{method}"' in text for method in _METHODS):
                command = adapt_command(text, files)
                if command is None:
                    answer = {"id": json.loads(text).get("id"), "result": {}}
                    await websocket.send_text(json.dumps(answer))
                    return
                text = command
            await upstream.send(text)


async def _to_app(websocket: WebSocket, upstream: ClientConnection) -> None:
    with contextlib.suppress(WebSocketDisconnect, WebSocketException, RuntimeError):
        async for text in upstream:
            await websocket.send_text(str(text))


def adapt_command(text: str, files: BrowserFiles) -> str | None:
    """
    Return a command as the browser is to get it; None for a ``Browser.close``.

    :param text: the command as JSON.
    :param files: the browser's files.
    """
    try:
        command: dict[str, Any] = json.loads(text)
        method, params = command["method"], command.get("params") or {}
        if method == "Browser.close":
            return None
        if method.endswith("setDownloadBehavior") and "downloadPath" in params:
            place = files.locate(params["downloadPath"])
            place.mkdir(parents=True, exist_ok=True)
            params["downloadPath"] = str(place)
            return json.dumps(command)
        if method == "DOM.setFileInputFiles":
            places = [(name, files.locate(name)) for name in params.get("files", ())]
            params["files"] = [str(place) if place.exists() else name for name, place in places]
            return json.dumps(command)
    except (ApiError, OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # What the emulator does not understand, or is no path of the browser's, Chromium may.
    return text
