"""
A browser's clipboard. The browser itself reads and writes it, in a page that no user sees.

The page is one of Chromium's own: a page of HTTP may not use the clipboard, except on localhost.
"""

from __future__ import annotations

import json

from airflow_provider_kernel.emulator.browsers.cdp import CdpConnection, CdpError

_ORIGIN = "chrome://version"


class Clipboard:
    """
    The clipboard of one browser.

    :param cdp: the emulator's connection to the browser.
    """

    def __init__(self, cdp: CdpConnection) -> None:
        self._cdp = cdp

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
        permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": _ORIGIN}
        await self._cdp.call("Browser.grantPermissions", permissions)
        target = {"url": "about:blank", "hidden": True}
        page = (await self._cdp.call("Target.createTarget", target))["targetId"]
        try:
            attached = await self._cdp.call("Target.attachToTarget", {"targetId": page, "flatten": True})
            session = attached["sessionId"]
            await self._cdp.call("Page.navigate", {"url": f"{_ORIGIN}/"}, session)
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
