"""The pictures of a browser's active page, as it changes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_kernel.emulator.browsers.cdp import CdpConnection, CdpError
from airflow_provider_kernel.emulator.browsers.pages import Pages

#: Seconds after which the active page is looked for again: the protocol has no event for a change of tabs.
_LOOK_INTERVAL = 0.5


@dataclass(frozen=True)
class Frame:
    """One picture: a JPEG, and the width and height of the page in its own pixels."""

    jpeg: bytes
    width: int
    height: int


class Screencast:
    """
    The pictures of one browser. They are taken only while somebody watches.

    :param cdp: the emulator's connection to the browser.
    :param pages: the browser's pages.
    """

    def __init__(self, cdp: CdpConnection, pages: Pages) -> None:
        self._cdp = cdp
        self._pages = pages
        self._frame: Frame | None = None
        self._wakeups: set[asyncio.Event] = set()
        self._uses = 0
        self._task: asyncio.Task[None] | None = None
        self._session: str | None = None
        cdp.listen(self._on_event)

    @property
    def is_watched(self) -> bool:
        """Whether somebody watches or records."""
        return self._uses > 0

    async def frames(self, least: float | None = None, *, is_use: bool = True) -> AsyncIterator[Frame]:
        """
        Yield the pictures, until the browser is closed. A slow reader gets the newest and misses the others.

        :param least: seconds after which the same picture is yielded again; None: each is yielded once.
        :param is_use: whether it counts as watching.
        """
        changed = asyncio.Event()
        self._uses += is_use
        self._wakeups.add(changed)
        if self._task is None:
            self._task = asyncio.create_task(self._follow())
        try:
            sent = None
            while self._cdp.is_open:
                changed.clear()
                if (frame := self._frame) is not None and frame is not sent:
                    sent = frame
                    yield frame
                    continue
                try:
                    await asyncio.wait_for(changed.wait(), least or 1.0)
                except TimeoutError:
                    if least is not None and sent is not None:
                        yield sent
        finally:
            self._wakeups.discard(changed)
            self._uses -= is_use

    async def _follow(self) -> None:
        """Take the pictures of the active page, whichever that is, while somebody watches."""
        page = None
        try:
            while self._wakeups and self._cdp.is_open:
                # A page may close at any time; the next look finds another.
                with contextlib.suppress(CdpError):
                    active = await self._pages.active()
                    if active != page or self._frame is None:
                        await self._stop()
                        page, self._session = active, await self._pages.session(active)
                        params = {"format": "jpeg", "quality": 70, "everyNthFrame": 1}
                        await self._cdp.call("Page.startScreencast", params, self._session)
                        await self._first_frame()
                await asyncio.sleep(_LOOK_INTERVAL)
        finally:
            self._task = self._frame = None
            await self._stop()

    async def _first_frame(self) -> None:
        """Take one picture: a page that does not change gives none by itself."""
        size = (await self._pages.call_again("Page.getLayoutMetrics"))["cssLayoutViewport"]
        params = {"format": "jpeg", "quality": 70}
        data = (await self._pages.call_again("Page.captureScreenshot", params))["data"]
        self._set(Frame(base64.b64decode(data), size["clientWidth"], size["clientHeight"]))

    async def _stop(self) -> None:
        session, self._session = self._session, None
        if session is not None and self._cdp.is_open:
            with contextlib.suppress(CdpError):
                await self._cdp.call("Page.stopScreencast", None, session, limit=2)

    def _on_event(self, method: str, params: Mapping[str, Any], session: str | None) -> None:
        if method != "Page.screencastFrame" or session is None:
            return
        self._cdp.post("Page.screencastFrameAck", {"sessionId": params["sessionId"]}, session)
        if session == self._session:
            size = params["metadata"]
            jpeg = base64.b64decode(params["data"])
            self._set(Frame(jpeg, int(size["deviceWidth"]), int(size["deviceHeight"])))

    def _set(self, frame: Frame) -> None:
        self._frame = frame
        for wakeup in self._wakeups:
            wakeup.set()
