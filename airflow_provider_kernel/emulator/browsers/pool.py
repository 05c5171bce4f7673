"""
The browsers of the emulator: creation, look-up, and end.

A browser ends by ``DELETE``, by the cancellation of its invocation, after its inactivity, with its programs, and with
the emulator. The end of an action does not end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from airflow_provider_kernel.emulator.browsers.browser import Browser
from airflow_provider_kernel.emulator.browsers.chromium import ChromiumError, ChromiumMissingError, Programs
from airflow_provider_kernel.emulator.browsers.contract import (
    CreateBrowser,
    UpdateBrowser,
    check_viewport,
)
from airflow_provider_kernel.emulator.browsers.replays import Replay, StartReplay, replay_not_found
from airflow_provider_kernel.emulator.console import Console
from airflow_provider_kernel.emulator.contract import ApiError, bad_request, not_found, not_served

#: Seconds between two looks for inactive browsers.
_LOOK_INTERVAL = 1.0
#: Maximum number of closed browsers that are remembered.
MAX_CLOSED = 100
#: Maximum length of the path of the folder for temporary files; beyond it, /tmp is used.
MAX_TEMPORARY_PATH = 30
#: Removes a folder when its parent process ends, and what killed Xvfbs left elsewhere. Processes that are being killed
#: may still write there for a moment.
_SWEEPER = """
import os, shutil, sys, time
sys.stdin.read()
displays = [name[8:] for _, _, names in os.walk(sys.argv[1]) for name in names if name.startswith("display-")]
for _ in range(50):
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    if not os.path.exists(sys.argv[1]):
        break
    time.sleep(0.1)
for display in displays:
    try:
        os.kill(int(open(f"/tmp/.X{display}-lock").read()), 0)
    except ProcessLookupError:
        for path in (f"/tmp/.X{display}-lock", f"/tmp/.X11-unix/X{display}"):
            try:
                os.unlink(path)
            except OSError:
                pass
    except (OSError, ValueError):
        pass
"""


class BrowserPool:
    """
    All browsers of an emulator.

    :param programs: the programs that they use.
    :param new_id: returns an id.
    :param console: prints what a person should know.
    """

    def __init__(self, programs: Programs, new_id: Callable[[], str], console: Console) -> None:
        self._programs = programs
        self._new_id = new_id
        self._console = console
        self._browsers: dict[str, Browser] = {}
        self._closed: dict[str, Browser] = {}
        self._replays: dict[str, dict[str, Replay]] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._starting: dict[asyncio.Task[Browser], CreateBrowser] = {}
        self._cancelled: set[asyncio.Task[Browser]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._profile_lock = asyncio.Lock()
        self._folder: Path | None = None
        self._sweeper: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    async def create(self, request: CreateBrowser) -> Browser:
        """
        Start a browser.

        :raises ApiError: 400: the invocation was cancelled meanwhile; 409: the name is taken; 500: it does not start; 501:
            Chromium is not installed; 503: the emulator stops.
        """
        if self._is_stopped:
            raise _stopping()
        self._check_name(request.name, None)
        self._tell(request)
        # A client that disconnects must not interrupt the start.
        starting = asyncio.create_task(self._start(request))
        self._starting[starting] = request
        starting.add_done_callback(self._starting.pop)
        try:
            browser = await asyncio.shield(starting)
        except asyncio.CancelledError:
            if not self._is_stopped:
                raise
            raise _stopping() from None
        if starting in self._cancelled:
            self._cancelled.discard(starting)
            await self.close(browser)
            raise bad_request("The browser's invocation was cancelled meanwhile")
        return browser

    async def _start(self, request: CreateBrowser) -> Browser:
        browser_id = self._new_id()
        folder = Path(tempfile.mkdtemp(prefix="", dir=self._make_folder()))
        profile = folder / "profile"
        async with self._profile_lock:
            await asyncio.to_thread(_copy_profile, self._saved_profile(request), profile)
        try:
            browser = await Browser.start(browser_id, request, self._programs, folder, profile)
        except (ChromiumError, OSError) as error:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            self._console.note(f"No browser: {error}.")
            if isinstance(error, ChromiumMissingError):
                raise not_served(f"browsers without Chromium. {error}") from None
            raise ApiError(500, "internal_error", f"The browser did not start: {error}") from None
        self._browsers[browser_id] = browser
        self._replays[browser_id] = {}
        self._watchers[browser_id] = asyncio.create_task(self._watch(browser))
        return browser

    def find(self, id_or_name: str) -> Browser:
        """
        Return an open browser.

        :raises ApiError: 404: there is none of this id or name.
        """
        browser = self._browsers.get(id_or_name) or next(
            (it for it in self._browsers.values() if it.name == id_or_name), None
        )
        if browser is None:
            raise browser_not_found(id_or_name)
        return browser

    def find_closed(self, browser_id: str) -> Browser | None:
        """Return a closed browser; None if there is none of this id."""
        return self._closed.get(browser_id)

    def open(self, invocation_id: str | None = None) -> list[Browser]:
        """Return the open browsers, of one invocation or of all, newest first."""
        return [
            browser
            for browser in reversed(self._browsers.values())
            if invocation_id in (None, browser.request.invocation_id)
        ]

    def closed(self) -> list[Browser]:
        """Return the closed browsers that are remembered, newest first."""
        return list(reversed(self._closed.values()))

    async def update(self, browser: Browser, request: UpdateBrowser) -> None:
        """
        Change a browser.

        :raises ApiError: 400: the viewport is too large; 409: the name is taken, or somebody watches or records the browser.
        """
        self._check_name(request.name, browser)
        if request.viewport is not None:
            check_viewport(request.viewport, browser.largest_viewport)
            if browser.screencast.is_watched and not request.forces_viewport:
                message = "A live view or a replay is active: stop it, or set viewport.force"
                raise ApiError(409, "conflict", message)
        await browser.update(request)

    async def close(self, browser: Browser, reason: str = "") -> None:
        """
        End a browser; return when nothing of it is left.

        :param reason: why, for the user; "": the user's own request.
        """
        if self._browsers.pop(browser.id, None) is not None:
            # A client that disconnects must not interrupt the end.
            closing = asyncio.create_task(self._close(browser, reason))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            await asyncio.shield(closing)

    async def _close(self, browser: Browser, reason: str) -> None:
        profile = browser.request.profile
        keeps = profile is not None and profile.save_changes
        # The videos go with the emulator.
        keep = not self._is_stopped
        await asyncio.gather(*(replay.stop(keep=keep) for replay in self._replays[browser.id].values()))
        await browser.close(keep_profile=keeps)
        if watcher := self._watchers.pop(browser.id, None):
            watcher.cancel()
        if keeps:
            saved = self._saved_profile(browser.request)
            async with self._profile_lock:
                await asyncio.to_thread(_copy_profile, browser.folder / "profile", saved)
        await asyncio.to_thread(shutil.rmtree, browser.folder, ignore_errors=True)
        self._closed[browser.id] = browser
        while len(self._closed) > MAX_CLOSED:
            oldest = next(iter(self._closed))
            del self._closed[oldest]
            for replay in self._replays.pop(oldest, {}).values():
                replay.file.unlink(missing_ok=True)
        if reason:
            self._console.note(f"The browser {browser.id} was closed: {reason}.")

    async def close_of_invocation(self, invocation_id: str, reason: str = "") -> None:
        """End all browsers of an invocation."""
        await asyncio.gather(*(self.close(browser, reason) for browser in self.open(invocation_id)))

    async def cancel_invocation(self, invocation_id: str) -> None:
        """End all browsers of an invocation that was cancelled, also those that are starting."""
        self._cancelled |= {
            it for it, request in self._starting.items() if request.invocation_id == invocation_id
        }
        await self.close_of_invocation(invocation_id, "its invocation was cancelled")

    async def start_replay(self, browser: Browser, request: StartReplay) -> Replay:
        """
        Start a recording.

        :raises ApiError: 501: ffmpeg is not installed.
        """
        replay_id = self._new_id()
        folder = self._make_folder() / "replays"
        folder.mkdir(exist_ok=True)
        file = folder / f"{replay_id}.mp4"
        replay = await Replay.start(replay_id, file, browser.screencast, browser.viewport, request)
        self._replays[browser.id][replay_id] = replay
        return replay

    def replays(self, id_or_name: str) -> dict[str, Replay]:
        """
        Return the recordings of a browser, which may be closed.

        :raises ApiError: 404: the browser is unknown.
        """
        if id_or_name in self._replays:
            return self._replays[id_or_name]
        return self._replays[self.find(id_or_name).id]

    def find_replay(self, replay_id: str) -> Replay:
        """
        Return a recording of any browser.

        :raises ApiError: 404: it is unknown.
        """
        for replays in self._replays.values():
            if replay_id in replays:
                return replays[replay_id]
        raise replay_not_found(replay_id)

    async def stop(self) -> None:
        """End all browsers."""
        self._is_stopped = True
        for starting in list(self._starting):
            starting.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        await asyncio.gather(*(self.close(browser) for browser in self.open()), return_exceptions=True)
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._sweeper is not None and self._sweeper.stdin is not None:
            self._sweeper.stdin.close()
            await asyncio.to_thread(self._sweeper.wait)

    async def _watch(self, browser: Browser) -> None:
        """Close a browser when one of its programs ends, or after its inactivity."""
        ended = asyncio.create_task(browser.wait())
        reason = "its process ended"
        try:
            while not ended.done():
                rest = browser.timeout - browser.idle_seconds
                if rest <= 0:
                    reason = f"nobody used it for {browser.timeout} seconds"
                    break
                await asyncio.wait({ended}, timeout=min(max(rest, 0.05), _LOOK_INTERVAL))
        finally:
            ended.cancel()
        self._watchers.pop(browser.id, None)  # close() must not cancel this task.
        await self.close(browser, reason)

    def _tell(self, request: CreateBrowser) -> None:
        """Say once which way the computer controls go, and what the emulator accepts without effect."""
        if request.ignored:
            self._console.note_once(f"Accepted without effect on browsers: {', '.join(request.ignored)}.")
        if request.headless:
            return
        if self._programs.has_screen:
            how = "go to the whole window, by xdotool on a screen of its own (Xvfb)"
        elif self._programs.headed:
            how = "go to the page alone, by the DevTools Protocol, as your own mouse must stay yours"
        else:
            how = "go to the page alone, by the DevTools Protocol; for the whole window, as on Kernel, install xvfb and xdotool"
        self._console.note_once(f"Computer controls of browsers {how}.")

    def _check_name(self, name: str | None, owner: Browser | None) -> None:
        taken = {it for one in self._browsers.values() if one is not owner for it in (one.name, one.id)}
        if name and name in taken.union(it.name for it in self._starting.values()):
            raise ApiError(409, "conflict", f"Another browser is named {name}")

    def _saved_profile(self, request: CreateBrowser) -> Path | None:
        return self._make_folder() / "profiles" / request.profile.name if request.profile else None

    def _make_folder(self) -> Path:
        """Return the emulator's folder. A process of its own removes it when the emulator ends, however that ends."""
        if self._folder is None:
            # Chromium has sockets there, whose paths are limited to about a hundred bytes.
            parent = "/tmp" if len(tempfile.gettempdir()) > MAX_TEMPORARY_PATH else None  # noqa: S108
            self._folder = Path(tempfile.mkdtemp(prefix="kernel-emulator-", dir=parent))
            self._sweeper = subprocess.Popen(
                [sys.executable, "-S", "-c", _SWEEPER, str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self._folder


def browser_not_found(id_or_name: str) -> ApiError:
    """Return the error for a browser that is closed or unknown."""
    return not_found(f"Browser not found: {id_or_name}")


def _stopping() -> ApiError:
    return ApiError(503, "unavailable", "The emulator is stopping")


def _copy_profile(source: Path | None, target: Path | None) -> None:
    """Copy a profile in the place of another; without a source there is an empty one. Its locks are not copied."""
    assert target is not None  # noqa: S101 - a profile that is saved has a place
    shutil.rmtree(target, ignore_errors=True)
    if source is not None and source.is_dir():
        ignore = shutil.ignore_patterns("Singleton*", "DevToolsActivePort", "*Cache*")
        with contextlib.suppress(shutil.Error):  # Chromium's temporary files come and go.
            shutil.copytree(source, target, symlinks=True, ignore=ignore)
    else:
        target.mkdir(parents=True, exist_ok=True)
