"""The stream of the live view: a browser's picture as it changes, and the clicks and keys of its page."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from airflow_provider_kernel.emulator.browsers.browser import Browser
from airflow_provider_kernel.emulator.browsers.cdp import CdpError

#: The code with which the stream ends when the browser is closed.
CLOSED = 4404


async def stream_live_view(websocket: WebSocket, browser: Browser) -> None:
    """
    Send a browser's pictures and take clicks and keys, until one of the two is gone.

    With the query parameter ``thumbnail`` it is a small picture on another page, which is no use of the browser.

    :param websocket: the page's connection, which is not accepted yet.
    """
    await websocket.accept()
    is_use = "thumbnail" not in websocket.query_params
    with browser.connected() if is_use else contextlib.nullcontext():
        tasks = {
            asyncio.create_task(_send_pictures(websocket, browser, is_use=is_use)),
            asyncio.create_task(_take_input(websocket, browser)),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # The page may be gone.
                await websocket.close(CLOSED if browser.deleted else 1001)


async def _send_pictures(websocket: WebSocket, browser: Browser, *, is_use: bool) -> None:
    size = None
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        async for frame in browser.screencast.frames(is_use=is_use):
            if size != (frame.width, frame.height):
                size = frame.width, frame.height
                await websocket.send_text(json.dumps({"width": frame.width, "height": frame.height}))
            await websocket.send_bytes(frame.jpeg)


async def _take_input(websocket: WebSocket, browser: Browser) -> None:
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        while True:
            text = await websocket.receive_text()
            with contextlib.suppress(CdpError, ValueError, TypeError, KeyError):
                method, params = input_command(json.loads(text))
                await browser.pages.input(method, params)


def input_command(message: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """
    Return the command of the DevTools Protocol for a message of the page: its method and its parameters.

    :raises KeyError: a field is missing.
    :raises ValueError: the type is unknown.
    """
    kind = message["type"]
    if kind == "text":
        return "Input.insertText", {"text": str(message["text"])}
    if kind in ("keyDown", "keyUp"):
        params = {name: message[name] for name in ("modifiers", "key", "code")}
        params["windowsVirtualKeyCode"] = message["keyCode"]
        if kind == "keyDown":
            kind = "keyDown" if message["text"] else "rawKeyDown"
            params["text"] = message["text"]
        return "Input.dispatchKeyEvent", params | {"type": kind}
    names = {
        "mouseMoved": ("button", "buttons", "clickCount"),
        "mousePressed": ("button", "buttons", "clickCount"),
        "mouseReleased": ("button", "buttons", "clickCount"),
        "mouseWheel": ("deltaX", "deltaY"),
    }
    if kind not in names:
        raise ValueError(f"unknown type {kind!r}")
    return "Input.dispatchMouseEvent", {
        name: message[name] for name in ("type", "x", "y", "modifiers", *names[kind])
    }
