"""
Runs a Dag whose Kernel app orders something in a shop, by a real browser, and shows what happens: ``make demo-browser``.

The shop is on this machine, too. With ``--ui`` it all stays open afterwards, and the Dag can be run and watched again:
``make ui-browser``.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import kernel

from airflow_provider_kernel.emulator.browsers.chromium import ChromiumError, Programs
from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_stack import free_port
from dev.demo import Demo, main, say
from dev.shop import UPLOAD, Shop

#: Where the Dag looks for the shop unless it is told.
PORT = 8090
MISSING = (
    "There is no Chromium: as root on Debian `make chromium` installs it, elsewhere "
    "`.venv/bin/playwright install chromium`."
)


class BrowserDemo(Demo):
    """Shows the browser's live view while there is one, and then the screenshot."""

    name = "demo-browser"
    app, dag_id, task_id = "shopper", "example_kernel_browser", "order"

    def check(self) -> None:
        """Raise RuntimeError if there is no Chromium."""
        try:
            Programs().find_chromium()
        except ChromiumError:
            raise RuntimeError(MISSING) from None

    def begin(
        self, stack: ExitStack, folder: Path, emulator: KernelEmulator, *, is_open: bool
    ) -> dict[str, Any]:
        """Open the shop."""
        self._seen: set[str] = set()
        self._client = stack.enter_context(
            kernel.Kernel(base_url=emulator.base_url, api_key=emulator.api_key)
        )
        self._shop = stack.enter_context(Shop(folder, free_port(PORT)))
        say(f"the shop is at {self._shop.url}")
        return {
            "shop_url": self._shop.url,
            "screenshot_url": self._shop.url + UPLOAD,
            "pause_seconds": 3 if is_open else 1,
        }

    def look(self) -> None:
        """Show where the live view of a new browser is."""
        for browser in self._client.browsers.list():
            if browser.session_id not in self._seen:
                self._seen.add(browser.session_id)
                say(f"watch the browser, while it is open: {browser.browser_live_view_url}")

    def end(self) -> list[str]:
        """Show where the screenshot is."""
        if not self._shop.upload.exists():
            return ["there is no screenshot"]
        say(f"the screenshot: {self._shop.upload}")
        if left := len(list(self._client.browsers.list())):
            return [f"{left} browser(s) are still open"]
        return []


if __name__ == "__main__":
    main(BrowserDemo(), __doc__)
