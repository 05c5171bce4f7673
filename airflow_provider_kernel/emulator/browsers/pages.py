"""The pages of a browser: the one that its user sees, and a session of the DevTools Protocol with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_kernel.emulator.browsers.cdp import CdpConnection, CdpError, CdpTimeoutError
from airflow_provider_kernel.emulator.browsers.chromium import Chromium

#: Maximum seconds for the answer of a page, which may hang.
PAGE_LIMIT = 10.0
#: Seconds after which it is asked whether the page hangs that took a click or a key.
INPUT_LIMIT = 1.0
#: How often, and after how many seconds, a command that changes nothing is sent again.
AGAIN_TIMES, AGAIN_LIMIT = 3, 0.5
#: Seconds after which a dialog is dismissed that nobody can see, or that a script waits for.
DIALOG_SECONDS = 1.0


class Pages:
    """
    The pages of one browser.

    :param chromium: the browser's process.
    :param cdp: the emulator's connection to it.
    :param dismisses_dialogs: whether dialogs of pages are dismissed: without a window nobody can answer them.
    """

    def __init__(self, chromium: Chromium, cdp: CdpConnection, *, dismisses_dialogs: bool) -> None:
        self._chromium = chromium
        self._dismisses_dialogs = dismisses_dialogs
        self._cdp = cdp
        self._sessions: dict[str, str] = {}
        self._dialogs: set[str] = set()
        self._scripts = 0
        cdp.listen(self._on_event)

    async def active(self) -> str:
        """
        Return the id of the page that was active last. A browser without a page gets a new one.

        :raises CdpError: the browser is gone.
        """
        try:
            targets = await self._chromium.targets()
        except OSError:
            raise CdpError("the browser is gone") from None
        for target in targets:
            if target["type"] == "page" and not target["url"].startswith("devtools://"):
                return str(target["id"])
        return str((await self._cdp.call("Target.createTarget", {"url": "about:blank"}))["targetId"])

    async def session(self, page: str | None = None) -> str:
        """
        Return the id of a session with a page.

        :param page: the page's id; None: the active page.
        :raises CdpError: the page or the browser is gone.
        """
        page = page or await self.active()
        if page not in self._sessions:
            params = {"targetId": page, "flatten": True}
            session = (await self._cdp.call("Target.attachToTarget", params))["sessionId"]
            self._sessions[page] = session
            await self._cdp.call("Page.enable", None, session, limit=PAGE_LIMIT)  # For the dialogs.
        return self._sessions[page]

    @contextlib.contextmanager
    def without_dialogs(self) -> Iterator[None]:
        """Dismiss the dialogs that are open or open meanwhile, unless the app answers them: a page with one does nothing."""
        self._scripts += 1
        for session in self._dialogs:
            self._dismiss(session)
        try:
            yield
        finally:
            self._scripts -= 1

    async def have_focus(self) -> bool:
        """
        Return whether keys go to the active page, and not to the window around it.

        :raises CdpError: the browser is gone.
        """
        params = {"expression": "document.hasFocus()", "returnByValue": True}
        return (await self.call_again("Runtime.evaluate", params))["result"].get("value") is True

    async def input(self, method: str, params: Mapping[str, Any]) -> None:
        """
        Send a click or a key to the active page. One to a page that is being replaced is lost, as anywhere.

        :raises CdpError: the page does not take it.
        """
        try:
            await self._send(method, params, INPUT_LIMIT)
        except CdpTimeoutError:
            await self.call_again("Runtime.evaluate", {"expression": "0"})  # It fails if the page hangs.

    async def call_again(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """
        Send a command that changes nothing as :meth:`call` does, and again if the answer takes long.

        A page that is being replaced by the next one loses answers.

        :raises CdpError: the command failed.
        """
        for _ in range(AGAIN_TIMES):
            try:
                return await self._send(method, params, AGAIN_LIMIT)
            except CdpTimeoutError:
                continue
        return await self.call(method, params)

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """
        Send a command to the active page; return its result.

        :raises CdpError: the command failed.
        """
        try:
            return await self._send(method, params, PAGE_LIMIT)
        except CdpTimeoutError:
            raise CdpError(
                f"the page did not answer {method} within {PAGE_LIMIT:g} seconds: a dialog is open, or a script is busy"
            ) from None

    async def _send(self, method: str, params: Mapping[str, Any] | None, limit: float) -> dict[str, Any]:
        """Send a command to the active page. While a page is replaced by the next one, it takes none."""
        deadline = asyncio.get_running_loop().time() + limit
        while True:
            try:
                return await self._cdp.call(method, params, await self.session(), limit=limit)
            except CdpError as error:
                is_late = asyncio.get_running_loop().time() > deadline
                if is_late or "Not attached to an active page" not in str(error):
                    raise
                await asyncio.sleep(0.02)

    def _on_event(self, method: str, params: Mapping[str, Any], session: str | None) -> None:
        if method == "Page.javascriptDialogOpening" and session is not None:
            self._dialogs.add(session)
            asyncio.get_running_loop().call_later(DIALOG_SECONDS, self._dismiss_unseen, session)
        if method == "Page.javascriptDialogClosed":
            self._dialogs.discard(session or "")
        if method == "Target.detachedFromTarget":
            gone = params.get("sessionId")
            self._sessions = {page: it for page, it in self._sessions.items() if it != gone}
            self._dialogs.discard(gone or "")

    def _dismiss_unseen(self, session: str) -> None:
        if session in self._dialogs and (self._dismisses_dialogs or self._scripts):
            self._dismiss(session)

    def _dismiss(self, session: str) -> None:
        self._cdp.post("Page.handleJavaScriptDialog", {"accept": False}, session)
