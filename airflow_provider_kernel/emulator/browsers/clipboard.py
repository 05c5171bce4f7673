"""
A browser's clipboard. The browser itself reads and writes it, in a page that no user sees.

The page is the emulator's own, as Chromium lets only pages of localhost or HTTPS use the clipboard.
"""

from __future__ import annotations

import json

from airflow_provider_kernel.emulator.browsers.cdp import CdpConnection, CdpError


class Clipboard:
    """
    The clipboard of one browser.

    :param cdp: the emulator's connection to the browser.
    :param page_url: URL of an empty page of the emulator.
    """

    def __init__(self, cdp: CdpConnection, page_url: str) -> None:
        self._cdp = cdp
        self._page_url = page_url

    async def read(self) -> str:
        """
        Return the text; "" if the clipboard holds none.

        :raises CdpError: the browser refused.
        """
        return await self._evaluate("navigator.clipboard.readText()")

    async def write(self, text: str) -> None:
        """
        Set the text.

        :raises CdpError: the browser refused.
        """
        await self._evaluate(f"navigator.clipboard.writeText({json.dumps(text)})")

    async def _evaluate(self, expression: str) -> str:
        origin = "/".join(self._page_url.split("/")[:3])
        permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": origin}
        await self._cdp.call("Browser.grantPermissions", permissions)
        target = {"url": "about:blank", "hidden": True}
        page = (await self._cdp.call("Target.createTarget", target))["targetId"]
        try:
            attached = await self._cdp.call("Target.attachToTarget", {"targetId": page, "flatten": True})
            session = attached["sessionId"]
            await self._cdp.call("Page.navigate", {"url": self._page_url}, session)
            # Only a page with the focus may use the clipboard.
            await self._cdp.call("Emulation.setFocusEmulationEnabled", {"enabled": True}, session)
            params = {"expression": expression, "awaitPromise": True, "returnByValue": True}
            answer = await self._cdp.call("Runtime.evaluate", params, session)
        finally:
            await self._cdp.call("Target.closeTarget", {"targetId": page})
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise CdpError(str(details.get("exception", {}).get("description") or details["text"]))
        return str(answer["result"].get("value") or "")
