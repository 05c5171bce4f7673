"""One browser: its programs, its data, and its end after inactivity."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from airflow_provider_kernel.api.timestamps import format_timestamp
from airflow_provider_kernel.emulator.browsers.cdp import CdpConnection, CdpError
from airflow_provider_kernel.emulator.browsers.cdp_controls import CdpControls
from airflow_provider_kernel.emulator.browsers.chromium import (
    CLOSE_TIMEOUT,
    Chromium,
    ChromiumError,
    Programs,
    SandboxError,
)
from airflow_provider_kernel.emulator.browsers.clipboard import Clipboard
from airflow_provider_kernel.emulator.browsers.contract import MAX_VIEWPORT, CreateBrowser, UpdateBrowser
from airflow_provider_kernel.emulator.browsers.files import DOWNLOADS, BrowserFiles
from airflow_provider_kernel.emulator.browsers.pages import Pages
from airflow_provider_kernel.emulator.browsers.screencast import Screencast
from airflow_provider_kernel.emulator.browsers.x11_controls import X11Controls

#: Maximum seconds for each command that stops a page; a page may hang.
HALT_LIMIT = 2.0
#: Which timers a page has: since when it exists, and the numbers of its last timeout and animation frame.
Timers: TypeAlias = list[float]
# Timers are numbered from 1 in each document.
_MARK_TIMERS = "[performance.timeOrigin, setTimeout(() => {}), requestAnimationFrame(() => {})]"
_CLEAR_TIMERS = f"""([origin, timer, frame]) => {{
  const [thisOrigin, lastTimer, lastFrame] = {_MARK_TIMERS};
  if (origin !== thisOrigin) timer = frame = 0;
  for (let id = timer + 1; id <= lastTimer; id++) clearTimeout(id);
  for (let id = frame + 1; id <= lastFrame; id++) cancelAnimationFrame(id);
}}"""


class Browser:
    """
    A browser that runs. Its folder and its programs are its own.

    :param browser_id: its id.
    :param request: what was asked for.
    :param chromium: its programs.
    :param cdp: the emulator's connection to it.
    :param folder: its folder.
    """

    def __init__(
        self,
        browser_id: str,
        request: CreateBrowser,
        chromium: Chromium,
        cdp: CdpConnection,
        folder: Path,
    ) -> None:
        self.id = browser_id
        self.folder = folder
        self.secret = secrets.token_urlsafe(24)
        self.name = request.name
        self.tags = request.tags
        self.timeout = request.timeout
        self.viewport = request.viewport
        self.start_url = request.start_url
        self.request = request
        self.created = time.time_ns()
        self.deleted: int | None = None
        self.files = BrowserFiles(folder / "files")
        has_window = chromium.screen_file is not None or chromium.is_headed
        self.pages = Pages(chromium, cdp, dismisses_dialogs=not has_window)
        self.clipboard = Clipboard(cdp)
        self.screencast = Screencast(cdp, self.pages)
        self.controls: X11Controls | CdpControls
        if chromium.screen_file is not None:
            self.controls = X11Controls(chromium.environment, chromium.screen_file, self.pages)
        else:
            self.controls = CdpControls(cdp, self.pages, self.clipboard)
        #: One action of mouse or keyboard at a time, as there is one of each.
        self.control_lock = asyncio.Lock()
        #: The scripts of one executor run one after the other.
        self.executors: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._chromium = chromium
        self._cdp = cdp
        self._connections = 0
        self._active = time.monotonic()

    @classmethod
    async def start(
        cls,
        browser_id: str,
        request: CreateBrowser,
        programs: Programs,
        folder: Path,
        profile: Path,
    ) -> Browser:
        """
        Start a browser.

        :param folder: an existing folder of the browser's own.
        :param profile: the folder of Chromium's profile.
        :raises ChromiumError: a program is missing or does not start.
        """
        chromium = await _start_chromium(programs, request, folder, profile)
        try:
            cdp = await CdpConnection.open(chromium.websocket_url)
            browser = cls(browser_id, request, chromium, cdp, folder)
            await browser._prepare()
        except CdpError as error:
            await chromium.stop()
            raise ChromiumError(f"Chromium started and then failed: {error}") from None
        except BaseException:
            await chromium.stop()
            raise
        return browser

    @property
    def upstream_url(self) -> str:
        """Chromium's own URL of the DevTools Protocol. Apps get the emulator's instead."""
        return self._chromium.websocket_url

    @property
    def cdp_path(self) -> str:
        """Path of the DevTools Protocol for apps. It has a secret: whoever has it can use the browser."""
        return f"/cdp/{self.id}?secret={self.secret}"

    @property
    def largest_viewport(self) -> tuple[int, int]:
        """The largest viewport that it can get."""
        return self._chromium.screen_size or (MAX_VIEWPORT, MAX_VIEWPORT)

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last use. A connection counts as use as long as it is open."""
        return 0.0 if self._connections else time.monotonic() - self._active

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Note that the browser is used as long as the context lasts."""
        self._connections += 1
        try:
            yield
        finally:
            self._connections -= 1
            self._active = time.monotonic()

    async def update(self, request: UpdateBrowser) -> None:
        """
        Change what a ``PATCH`` names.

        :raises CdpError: the browser refused.
        """
        if request.viewport is not None:
            await self._set_viewport(request.viewport)
        if request.name is not None:
            self.name = request.name or None
        if request.tags is not None:
            self.tags = request.tags
        self.timeout = request.timeout or self.timeout
        if request.start_url is not None:
            await self._open(request.start_url)

    async def direct_downloads(self) -> None:
        """Have downloads go to the browser's files: a client that disconnects takes back what it had set."""
        downloads = {"behavior": "allow", "downloadPath": str(self.files.locate(DOWNLOADS))}
        await self._cdp.call("Browser.setDownloadBehavior", downloads)

    async def mark_timers(self) -> Timers:
        """Return which timers the active page has."""
        params = {"expression": _MARK_TIMERS, "returnByValue": True}
        answer = await self._cdp.call(
            "Runtime.evaluate", params, await self.pages.session(), limit=HALT_LIMIT
        )
        return answer["result"].get("value") or [0, 0, 0]

    async def halt_pages(self, timers: Timers) -> None:
        """
        Stop what runs and loads in all pages, and the timers that came after a mark.

        :param timers: from :meth:`mark_timers`.
        """

        async def halt(page: str) -> None:
            session = await self.pages.session(page)
            clear = {"expression": f"({_CLEAR_TIMERS})({json.dumps(timers)})"}
            for method, params in (
                ("Runtime.terminateExecution", None),
                ("Page.stopLoading", None),
                ("Runtime.evaluate", clear),
            ):
                with contextlib.suppress(CdpError):
                    await self._cdp.call(method, params, session, limit=HALT_LIMIT)

        targets = (await self._cdp.call("Target.getTargets"))["targetInfos"]
        pages = [target["targetId"] for target in targets if target["type"] == "page"]
        await asyncio.gather(*map(halt, pages), return_exceptions=True)

    async def wait(self) -> None:
        """Wait until a program of the browser ends."""
        await self._chromium.wait()

    async def close(self, *, keep_profile: bool = False) -> None:
        """
        End the browser.

        :param keep_profile: whether Chromium first writes its profile.
        """
        self.deleted = time.time_ns()
        grace = 0.0
        if keep_profile:
            with contextlib.suppress(CdpError):
                await self._cdp.call("Browser.close", limit=CLOSE_TIMEOUT)
                grace = CLOSE_TIMEOUT
        await self._chromium.stop(grace)
        await self._cdp.close()

    def as_json(self, url: str) -> dict[str, Any]:
        """
        Return the browser as the API describes it. It has no ``base_url``: the SDK would send some calls there.

        :param url: the emulator's URL, as the client knows it.
        """
        profile = self.request.profile
        websocket_url = f"ws{url.removeprefix('http')}"
        secret = f"{self.id}?secret={self.secret}"
        data = {
            "session_id": self.id,
            "created_at": format_timestamp(self.created),
            "deleted_at": self.deleted and format_timestamp(self.deleted),
            "cdp_ws_url": websocket_url + self.cdp_path,
            "webdriver_ws_url": f"{websocket_url}/webdriver/{secret}",
            # As on Kernel, a headless browser has none.
            "browser_live_view_url": None if self.request.headless else f"{url}/live/{secret}",
            "headless": self.request.headless,
            "stealth": self.request.stealth,
            "kiosk_mode": self.request.kiosk_mode,
            "timeout_seconds": self.timeout,
            "memory": "1GiB" if self.request.headless else "8GiB",
            "region": "us-east",
            "viewport": {"width": self.viewport[0], "height": self.viewport[1]},
            "name": self.name,
            "tags": dict(self.tags) or None,
            "start_url": self.start_url,
            "profile": profile
            and {"id": profile.name, "name": profile.name, "created_at": format_timestamp(self.created)},
            "profile_save_changes": profile and profile.save_changes,
        }
        return {name: value for name, value in data.items() if value is not None}

    async def _prepare(self) -> None:
        await self._cdp.call("Target.setDiscoverTargets", {"discover": True})
        await self.direct_downloads()
        if isinstance(self.controls, X11Controls):
            await self.controls.settle(self.viewport)
        else:
            await self._set_viewport(self.viewport)
        await self.pages.call("Page.bringToFront")  # Otherwise the address bar has the focus.
        if self.start_url is not None:
            await self._open(self.start_url)

    async def _set_viewport(self, viewport: tuple[int, int]) -> None:
        """Set the size of the window, or of the page if the window is not in the browser's pictures."""
        page = await self.pages.active()
        window = await self._cdp.call("Browser.getWindowForTarget", {"targetId": page})
        width, height = viewport
        if not isinstance(self.controls, X11Controls):
            metrics = {"expression": "[innerWidth, innerHeight]", "returnByValue": True}
            inner = (await self.pages.call("Runtime.evaluate", metrics))["result"]["value"]
            width += window["bounds"]["width"] - inner[0]
            height += window["bounds"]["height"] - inner[1]
        bounds = {"width": width, "height": height}
        await self._cdp.call("Browser.setWindowBounds", {"windowId": window["windowId"], "bounds": bounds})
        self.viewport = viewport

    async def _open(self, url: str) -> None:
        """Navigate without waiting; a failure is the page's, as on Kernel."""
        self.start_url = url
        self._cdp.post("Page.navigate", {"url": url}, await self.pages.session())


async def _start_chromium(
    programs: Programs, request: CreateBrowser, folder: Path, profile: Path
) -> Chromium:
    start = partial(
        Chromium.start,
        programs,
        folder,
        profile,
        request.viewport,
        headless=request.headless,
        kiosk=request.kiosk_mode,
    )
    try:
        return await start()
    except SandboxError:
        programs.sandbox = False
        return await start()
