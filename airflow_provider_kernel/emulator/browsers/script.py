"""Playwright scripts: ``POST /browsers/{id}/playwright/execute``. Each runs in a Node process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from airflow_provider_kernel.emulator.browsers.browser import Browser
from airflow_provider_kernel.emulator.browsers.cdp import CdpError
from airflow_provider_kernel.emulator.browsers.chromium import end_process, spawn
from airflow_provider_kernel.emulator.browsers.contract import is_integer
from airflow_provider_kernel.emulator.contract import bad_request, not_served, read_object
from airflow_provider_kernel.emulator.environment import inherited_variables

#: Seconds that a script may take: unless the request names them, and at most, as on Kernel.
DEFAULT_TIMEOUT, MAX_TIMEOUT = 60, 300
#: Maximum bytes that are kept of what a script prints to each of its streams.
MAX_PRINTED = 1_000_000

_PROGRAM = Path(__file__).with_name("execute.mjs")


@dataclass(frozen=True)
class ExecuteScript:
    """The valid body of ``POST /browsers/{id}/playwright/execute``. ``timeout`` is in seconds."""

    code: str
    timeout: int
    executor: str


def read_execute(body: bytes) -> ExecuteScript:
    """
    Return the body of ``POST /browsers/{id}/playwright/execute``.

    :raises ApiError: 400: the body is not valid.
    """
    data = read_object(body)
    code, timeout = data.get("code"), data.get("timeout_sec", DEFAULT_TIMEOUT)
    if not isinstance(code, str) or not code.strip():
        raise bad_request("code must be a non-empty string")
    if not is_integer(timeout, 1, MAX_TIMEOUT):
        raise bad_request(f"timeout_sec must be an integer from 1 to {MAX_TIMEOUT}")
    executor = data.get("executor", "default")
    if not isinstance(executor, str) or not executor:
        raise bad_request("executor must be a non-empty string")
    return ExecuteScript(code, timeout, executor)


def find_playwright(folders: Sequence[Path]) -> tuple[str, str]:
    """
    Return the paths of a Node and of a Playwright: those of Python's package ``playwright``, or Node and an app's own.

    :param folders: folders of the apps, whose ``node_modules`` are searched.
    :raises ApiError: 501: there is none.
    """
    spec = find_spec("playwright")
    for place in (spec and spec.submodule_search_locations) or ():
        driver = Path(place, "driver")
        if (driver / "node").exists():
            return str(driver / "node"), str(driver / "package")
    node = shutil.which("node")
    for folder in folders if node else ():
        for parent in (folder, *folder.parents):
            for name in ("playwright-core", "playwright"):
                if (parent / "node_modules" / name).is_dir():
                    return str(node), str(parent / "node_modules" / name)
    raise not_served("playwright.execute without Playwright: run pip install playwright")


async def execute(
    request: ExecuteScript, programs: tuple[str, str], browser: Browser, url: str
) -> dict[str, Any]:
    """
    Run a script in a browser; return the body of the response.

    A script that exceeds its time is ended, and with it what it had begun in the pages.

    :param programs: from :func:`find_playwright`.
    :param url: the emulator's URL.
    :raises CdpError: the browser is gone.
    """
    with browser.pages.without_dialogs():
        return await _execute(request, programs, browser, url)


async def _execute(
    request: ExecuteScript, programs: tuple[str, str], browser: Browser, url: str
) -> dict[str, Any]:
    node, playwright = programs
    message = {
        "code": request.code,
        "url": f"ws{url.removeprefix('http')}{browser.cdp_path}",
        "target": await browser.pages.active(),
        "playwright": playwright,
    }
    try:
        timers = await browser.mark_timers()
    except CdpError:  # The page hangs; the script may mend it.
        timers = [0, 0, 0]
    receiving, sending = os.pipe()
    try:
        process = await spawn(
            *(node, str(_PROGRAM)),
            # Playwright leaves temporary files.
            env=inherited_variables(os.environ) | {"TMPDIR": str(browser.folder)},
            pass_fds=[sending],
            cwd=browser.files.root,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except BaseException:
        os.close(receiving)
        raise
    finally:
        os.close(sending)
    assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018 - pipes
    answer = asyncio.StreamReader(limit=2**30)
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(answer), os.fdopen(receiving, "rb", 0)
    )
    reads = [
        asyncio.create_task(it) for it in (answer.read(), _printed(process.stdout), _printed(process.stderr))
    ]
    try:
        async with asyncio.timeout(request.timeout):
            with contextlib.suppress(ConnectionError):
                process.stdin.write(json.dumps(message | {"answer": sending}).encode())
                await process.stdin.drain()
            process.stdin.close()
            await process.wait()
        is_late = False
    except TimeoutError:
        is_late = True
    finally:
        await end_process(process)
        # A process that the script started may hold the pipes.
        done, _ = await asyncio.wait(reads, timeout=1)
        pipe.close()
        for read in reads:
            read.cancel()
    data, stdout, stderr = (read.result() if read in done else b"" for read in reads)
    if is_late:
        seconds = "1 second" if request.timeout == 1 else f"{request.timeout} seconds"
        await browser.halt_pages(timers)
        result: dict[str, Any] = {"success": False, "error": f"The script exceeded its time of {seconds}"}
    else:
        try:
            result = json.loads(data)
        except ValueError:
            code = process.returncode
            result = {"success": False, "error": f"The script's process ended early, with status {code}"}
    printed = {"stdout": stdout.decode(errors="replace"), "stderr": stderr.decode(errors="replace")}
    return result | {name: text for name, text in printed.items() if text}


async def _printed(stream: asyncio.StreamReader) -> bytes:
    """Return what a script prints, up to the maximum; the rest is read, so that the script does not wait, and dropped."""
    kept = bytearray()
    while data := await stream.read(65_536):
        kept += data[: MAX_PRINTED - len(kept)]
    return bytes(kept)
