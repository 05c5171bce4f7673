"""The programs of a browser: Chromium, and Xvfb for the screen on which it shows its window."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import shutil
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from airflow_provider_kernel.emulator import die_with_parent
from airflow_provider_kernel.emulator.environment import inherited_variables

#: Maximum seconds until Chromium and Xvfb accept connections.
START_TIMEOUT = 30.0
#: Seconds that Chromium gets to write its profile when it is closed; then it is killed.
CLOSE_TIMEOUT = 3.0
XVFB_CLOSE_TIMEOUT = 1.0
#: The least size of a screen: a viewport may grow up to it.
MIN_SCREEN = (2560, 1600)

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_PLACES = (
    "~/.cache/ms-playwright/chromium-*/chrome-linux*/chrome",
    "~/Library/Caches/ms-playwright/chromium-*/chrome-mac*/*.app/Contents/MacOS/*",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
_MISSING = (
    "Chromium was not found. Install it (on Debian: apt-get install chromium; anywhere: pip install playwright, then "
    "playwright install chromium), or name it with --chromium"
)
#: Variables that Chromium needs besides those of an app: the screen, and the proxy.
_VARIABLES = [
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
]
# Chromium must not speak with anybody but the pages that it shows, ask the user anything, or end with its last tab.
_ARGUMENTS = (
    "--remote-debugging-port=0",
    "--allow-pre-commit-input",  # Otherwise clicks and keys before the first picture of a page are lost.
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-features=Translate,MediaRouter,OptimizationHints",
    "--disable-search-engine-choice-screen",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--hide-crash-restore-bubble",
    "--keep-alive-for-test",
    "--password-store=basic",
    "--use-mock-keychain",
    "--test-type",
    "--window-position=0,0",
)


class ChromiumError(Exception):
    """A program is missing or does not start. The message is one sentence, without a full stop."""


class ChromiumMissingError(ChromiumError):
    """Chromium is not installed."""


class SandboxError(ChromiumError):
    """Chromium cannot isolate its processes here."""


@dataclass
class Programs:
    """
    The programs that the browsers use.

    :param chromium: path of the executable; None: it is searched when the first browser is created.
    :param headed: whether browsers show their windows on the user's screen.
    :param sandbox: whether Chromium isolates its processes; it cannot as root, nor in most containers.
    """

    chromium: str | None = None
    headed: bool = False
    sandbox: bool = field(default_factory=lambda: os.geteuid() != 0)

    def find_chromium(self) -> str:
        """
        Return the path of Chromium.

        :raises ChromiumError: there is none.
        """
        if self.chromium is not None:
            return self.chromium
        if found := next(filter(None, map(shutil.which, _NAMES)), None):
            return found
        places = list(_PLACES)
        if folder := os.environ.get("PLAYWRIGHT_BROWSERS_PATH"):
            places.insert(0, f"{folder}/chromium-*/chrome-*/chrome")
        for place in places:
            root, _, pattern = os.path.expanduser(place).lstrip("/").partition("/")
            for path in sorted(Path("/", root).glob(pattern), reverse=True):
                if os.access(path, os.X_OK) and path.is_file():
                    return str(path)
        raise ChromiumMissingError(_MISSING)

    @property
    def has_screen(self) -> bool:
        """Whether browsers get a screen of their own, which xdotool controls."""
        return not self.headed and all(map(shutil.which, ("Xvfb", "xdotool")))


class Chromium:
    """A running Chromium, with its Xvfb if it has one."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._xvfb: asyncio.subprocess.Process | None = None
        self._browser: asyncio.subprocess.Process | None = None
        self.environment = environment
        self.screen_file: Path | None = None
        self.screen_size: tuple[int, int] | None = None
        #: Whether its window is on the user's screen.
        self.is_headed = False
        self.port = 0
        self.path = ""

    @classmethod
    async def start(
        cls,
        programs: Programs,
        folder: Path,
        profile: Path,
        viewport: tuple[int, int],
        *,
        headless: bool,
        kiosk: bool,
    ) -> Chromium:
        """
        Start the programs of a browser.

        :param folder: an existing folder of the browser's own.
        :param profile: the folder of Chromium's profile.
        :param viewport: width and height of the window.
        :param headless: whether no window is shown.
        :param kiosk: whether the window has no tabs and no address bar.
        :raises ChromiumError: a program is missing or does not start.
        """
        executable = programs.find_chromium()
        environment = inherited_variables(os.environ)
        environment |= {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        # A browser that is killed leaves temporary files.
        environment["TMPDIR"] = str(folder)
        # It would write into the user's home folder: reports of crashes, and GTK's settings.
        environment |= {"BREAKPAD_DUMP_LOCATION": str(folder / "crashes"), "GSETTINGS_BACKEND": "memory"}
        chromium = cls(folder, environment)
        try:
            if not headless and programs.has_screen:
                await chromium._start_screen(viewport)
            chromium.is_headed = programs.headed and not headless
            is_headless = not (chromium.is_headed or chromium.screen_file)
            arguments = [
                *_ARGUMENTS,
                f"--user-data-dir={profile}",
                f"--window-size={viewport[0]},{viewport[1]}",
                *(["--headless"] if is_headless else []),
                *(["--kiosk"] if kiosk and not is_headless else []),
                *([] if programs.sandbox else ["--no-sandbox"]),
                "about:blank",
            ]
            await chromium._start_chromium([executable, *arguments], profile)
        except BaseException:
            await chromium.stop()
            raise
        return chromium

    @property
    def websocket_url(self) -> str:
        """The URL of the DevTools Protocol. Any user of this machine can reach it; apps get the emulator's URL instead."""
        return f"ws://127.0.0.1:{self.port}{self.path}"

    async def wait(self) -> None:
        """Wait until one of the programs ends."""
        programs = [program for program in (self._xvfb, self._browser) if program is not None]
        waiting = [asyncio.ensure_future(program.wait()) for program in programs]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()

    async def targets(self) -> list[dict[str, Any]]:
        """
        Return the targets (tabs and others), the one that was active last first.

        :raises OSError: the browser does not answer.
        """
        return await asyncio.to_thread(self._get_targets)

    async def stop(self, grace: float = 0.0) -> None:
        """
        End the programs and all that they started.

        :param grace: seconds that Chromium, which has been asked to end, gets to do so.
        """
        if self._browser is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._browser.wait(), grace)
            await end_process(self._browser)
        if self._xvfb is not None:
            with contextlib.suppress(ProcessLookupError):
                self._xvfb.terminate()  # It then removes its lock and its socket.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._xvfb.wait(), XVFB_CLOSE_TIMEOUT)
            await end_process(self._xvfb)

    def _get_targets(self) -> list[dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/json/list")
            targets: list[dict[str, Any]] = json.loads(connection.getresponse().read())
            return targets
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(str(error)) from None
        finally:
            connection.close()

    async def _start_screen(self, viewport: tuple[int, int]) -> None:
        """Start Xvfb. It picks a free display, and writes the picture to a file, of which screenshots are made."""
        width, height = (max(sizes) for sizes in zip(viewport, MIN_SCREEN, strict=True))
        authority = (
            self._folder / "xauthority"
        )  # Without it, other users of the machine could use the screen.
        authority.touch(0o600)
        authority.write_bytes(_xauthority(secrets.token_bytes(16)))
        receiving, sending = os.pipe()
        try:
            command = ["Xvfb", "-displayfd", str(sending), "-screen", "0", f"{width}x{height}x24"]
            command += ["-fbdir", str(self._folder), "-nolisten", "tcp", "-noreset", "-auth", str(authority)]
            self._xvfb = await spawn(
                *command, env=self.environment, pass_fds=[sending], stderr=asyncio.subprocess.DEVNULL
            )
        except BaseException:
            os.close(receiving)
            raise
        finally:
            os.close(sending)
        display = await _read_line(receiving)
        if not display:
            raise ChromiumError("Xvfb did not start; run it in a terminal to see why")
        # What removes the folder also removes what an Xvfb that is killed leaves of its display.
        (self._folder / f"display-{display}").touch()
        self.environment["DISPLAY"] = f":{display}"
        self.environment["XAUTHORITY"] = str(authority)
        self.environment.pop("WAYLAND_DISPLAY", None)
        self.screen_file = self._folder / "Xvfb_screen0"
        self.screen_size = width, height

    async def _start_chromium(self, command: list[str], profile: Path) -> None:
        port_file = profile / "DevToolsActivePort"
        port_file.unlink(missing_ok=True)
        log = self._folder / "chromium.log"
        with log.open("wb") as output:
            child = self._browser = await spawn(*command, env=self.environment, stdout=output, stderr=output)
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT
        while True:
            text = port_file.read_text() if port_file.exists() else ""
            if text.count("\n") >= 1:
                self.port, self.path = int(text.split()[0]), text.split()[1]
                return
            if child.returncode is not None:
                reason = _last_error(log)
                kind = SandboxError if "sandbox" in reason else ChromiumError
                raise kind(f"Chromium ended at its start: {reason}")
            if asyncio.get_running_loop().time() > deadline:
                raise ChromiumError(
                    f"Chromium did not start within {START_TIMEOUT:g} seconds: {_last_error(log)}"
                )
            await asyncio.sleep(0.01)


async def spawn(
    *command: str, env: Mapping[str, str], pass_fds: tuple[int, ...] | list[int] = (), **options: Any
) -> asyncio.subprocess.Process:
    """
    Start a program that is killed when the emulator's server dies.

    :raises OSError: it cannot be started.
    """
    options = {"stdin": asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.DEVNULL} | options
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", die_with_parent.__file__, *command),
        env=env,
        pass_fds=pass_fds,
        start_new_session=True,
        **options,
    )


async def end_process(process: asyncio.subprocess.Process) -> None:
    """Kill a process and its descendants, and wait for its end."""
    with contextlib.suppress(psutil.Error):
        for descendant in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                descendant.kill()
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _xauthority(cookie: bytes) -> bytes:
    """Return a file of Xlib with a cookie for any display (Xau's format: FamilyWild, no address, no number)."""
    fields = (b"", b"", b"MIT-MAGIC-COOKIE-1", cookie)
    return struct.pack(">H", 0xFFFF) + b"".join(struct.pack(">H", len(field)) + field for field in fields)


async def _read_line(descriptor: int) -> str:
    """Return the first line that comes from a pipe; "" if none comes in time."""
    reader = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    try:
        return (await asyncio.wait_for(reader.readline(), START_TIMEOUT)).decode().strip()
    except TimeoutError:
        return ""
    finally:
        pipe.close()


def _last_error(log: Path) -> str:
    """Return the last line in which Chromium complains, without its time and place in the source."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "FATAL" in line or "sandbox" in line] or lines
    return errors[-1].rpartition("] ")[2][:300] if errors else "it printed nothing"
