"""The pages of a browser: the one that its user sees, and a session of the DevTools Protocol with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_kernel.emulator.browsers.cdp import CdpConnection, CdpError
from airflow_provider_kernel.emulator.browsers.chromium import Chromium


class Pages:
    """
    The pages of one browser.

    :param chromium: the browser's process.
    :param cdp: the emulator's connection to it.
    """

    def __init__(self, chromium: Chromium, cdp: CdpConnection) -> None:
        self._chromium = chromium
        self._cdp = cdp
        self._sessions: dict[str, str] = {}
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
            self._sessions[page] = (await self._cdp.call("Target.attachToTarget", params))["sessionId"]
        return self._sessions[page]

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """
        Send a command to the active page; return its result.

        :raises CdpError: the command failed.
        """
        return await self._cdp.call(method, params, await self.session())

    def _on_event(self, method: str, params: Mapping[str, Any], session: str | None) -> None:
        if method == "Target.detachedFromTarget":
            self._sessions = {
                page: it for page, it in self._sessions.items() if it != params.get("sessionId")
            }
