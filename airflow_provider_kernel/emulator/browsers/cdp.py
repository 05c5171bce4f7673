"""A connection to a browser by the Chrome DevTools Protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

#: Maximum seconds for the answer to a command.
COMMAND_TIMEOUT = 30.0

Listener = Callable[[str, Mapping[str, Any], "str | None"], None]


class CdpError(Exception):
    """The browser refused a command, did not answer in time, or is gone."""


class CdpTimeoutError(CdpError):
    """The browser did not answer in time."""


class CdpConnection:
    """
    A connection to the browser itself; sessions of its targets are told apart by their id ("flat" sessions).

    :param socket: the open connection.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._last_id = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._listeners: list[Listener] = []
        self._posted: set[asyncio.Task[None]] = set()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, url: str) -> CdpConnection:
        """
        Connect to a browser.

        :param url: the browser's own WebSocket URL, not the emulator's.
        :raises CdpError: the browser cannot be reached.
        """
        return cls(await open_socket(url))

    @property
    def is_open(self) -> bool:
        """Whether the browser is connected."""
        return not self._reader.done()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """
        Call ``listener`` with each event: its method, its parameters, and the id of its session.

        :return: a function that ends the calls.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        session: str | None = None,
        *,
        limit: float = COMMAND_TIMEOUT,
    ) -> dict[str, Any]:
        """
        Send a command; return its result.

        :param session: id of the session of a target; None: the browser.
        :param limit: maximum seconds for the answer.
        :raises CdpError: the command failed.
        """
        self._last_id += 1
        number = self._last_id
        message: dict[str, Any] = {"id": number, "method": method, "params": params or {}}
        if session is not None:
            message["sessionId"] = session
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            await self._socket.send(json.dumps(message))
            return await asyncio.wait_for(answer, limit)
        except TimeoutError:
            raise CdpTimeoutError(f"the browser did not answer {method} within {limit:g} seconds") from None
        except WebSocketException:
            raise CdpError("the browser is gone") from None
        finally:
            del self._answers[number]

    def post(self, method: str, params: Mapping[str, Any] | None = None, session: str | None = None) -> None:
        """Send a command without waiting for its result. A failure is ignored: the target may be gone."""

        async def post() -> None:
            with contextlib.suppress(CdpError):
                await self.call(method, params, session)

        task = asyncio.create_task(post())
        self._posted.add(task)  # The loop itself keeps no reference.
        task.add_done_callback(self._posted.discard)

    async def close(self) -> None:
        """Close the connection; the browser stays open."""
        with contextlib.suppress(WebSocketException, OSError):
            await self._socket.close()
        self._reader.cancel()

    async def _read(self) -> None:
        try:
            async for text in self._socket:
                message = json.loads(text)
                if "id" not in message:
                    for listener in list(self._listeners):
                        listener(message["method"], message.get("params", {}), message.get("sessionId"))
                elif (answer := self._answers.get(message["id"])) is not None and not answer.done():
                    if "error" in message:
                        answer.set_exception(CdpError(str(message["error"].get("message"))))
                    else:
                        answer.set_result(message.get("result", {}))
        except WebSocketException:
            pass
        finally:
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(CdpError("the browser is gone"))


async def open_socket(url: str) -> ClientConnection:
    """
    Connect to a browser's WebSocket. Messages may have any size, as screenshots are large.

    :raises CdpError: the browser cannot be reached.
    """
    try:
        return await connect(url, max_size=None, compression=None, proxy=None, ping_interval=None)
    except (OSError, TimeoutError, WebSocketException):
        raise CdpError("the browser cannot be reached") from None
