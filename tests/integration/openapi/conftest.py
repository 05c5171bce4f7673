"""An emulator whose browsers are of a tiny program in Chromium's place: hundreds are created."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from schemathesis.pytest import plugin
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from airflow_provider_kernel.testing import KernelEmulator
from tests.integration.conftest import APP

API_KEY = "sk_openapi"
#: Tells the emulator where the DevTools Protocol is served, as Chromium does, and runs until it is killed.
_CHROMIUM = """#!/bin/sh
for argument in "$@"; do
  case "$argument" in --user-data-dir=*) folder="${argument#*=}" ;; esac
done
printf '%s\\n/browser\\n' PORT > "$folder/DevToolsActivePort"
exec /bin/sleep 3600
"""
#: Takes a script and answers that it returned nothing, in the place of Node.js with Playwright.
_NODE = """#!/bin/sh
read -r message
answer="${message##*\\"answer\\": }"
eval "printf '{\\"success\\": true, \\"result\\": null}' >&${answer%%\\}*}"
"""


def pytest_configure(config: pytest.Config) -> None:
    # The plugin is not loaded by itself: it takes a second in every process of every other run.
    config.pluginmanager.register(plugin, "schemathesis of this folder")


def _answer(socket: ServerConnection) -> None:
    """Answer commands of the DevTools Protocol, as a browser does that always has the same page and window."""
    results: dict[str, Any] = {
        "Browser.getWindowForTarget": {"windowId": 1, "bounds": {"width": 800, "height": 600}},
        "Runtime.evaluate": {"result": {"value": [800, 600]}},
        "Target.attachToTarget": {"sessionId": "session"},
        "Target.getTargets": {"targetInfos": []},
    }
    for text in socket:
        command = json.loads(text)
        socket.send(json.dumps({"id": command["id"], "result": results.get(command["method"], {})}))


def _list_pages(socket: ServerConnection, request: Request) -> Response | None:
    if request.path != "/json/list":
        return None
    pages = [{"type": "page", "url": "about:blank", "id": "page"}]
    return socket.respond(HTTPStatus.OK, json.dumps(pages))


@pytest.fixture(scope="session")
def devtools() -> Iterator[Server]:
    """The end of the DevTools Protocol of all browsers."""
    with serve(_answer, "127.0.0.1", 0, process_request=_list_pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def emulator(devtools: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelEmulator]:
    """An emulator with one API key, whose machine has no other programs than the two above."""
    folder = tmp_path_factory.mktemp("programs")
    node = folder / "playwright" / "driver" / "node"
    node.parent.mkdir(parents=True)
    (folder / "playwright" / "__init__.py").touch()
    chromium = folder / "chromium"
    chromium.write_text(_CHROMIUM.replace("PORT", str(devtools.socket.getsockname()[1])))
    node.write_text(_NODE)
    for program in (chromium, node):
        program.chmod(0o755)
    paths = [str(folder), os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[3])]
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # Only for the emulator: other tests run in this process, too.
        patch.setenv("PATH", str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        emulator = KernelEmulator([APP], api_key=API_KEY, heartbeat=0.5).start()
    yield emulator
    emulator.stop()
