"""What the tests of browsers share: a site to visit, and an emulator whose apps visit it."""

import http.server
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import kernel
import psutil
import pytest
from websockets.sync.client import connect

from dev import chromium
from dev.wait import wait_until

needs_chromium = pytest.mark.skipif(chromium.find() is None, reason=chromium.MISSING)
needs_screen = pytest.mark.skipif(not chromium.has("Xvfb", "xdotool"), reason="Xvfb or xdotool is missing")
needs_ffmpeg = pytest.mark.skipif(not chromium.has("ffmpeg"), reason="ffmpeg is missing")

#: The file with the app that makes browsers.
APP = Path(__file__).parent / "apps" / "browsers.py"
#: Width and height of the pictures in these tests.
WIDTH, HEIGHT = 1000, 700
#: A page whose elements lie at known places.
PAGE = """<!doctype html><title>{path}</title>
<style>
  body {{ margin: 0; height: 5000px; background: white }} body > * {{ position: absolute; left: 20px; height: 40px; width: 300px }}
</style>
<body onkeydown="keys.push([event.ctrlKey, event.altKey, event.shiftKey, event.key].join())">
<textarea id="text" style="top: 20px; height: 60px; font: 16px monospace">{text}</textarea>
<button style="top: 120px" onclick="clicks.push('left' + event.detail)" oncontextmenu="clicks.push('right')"
  onauxclick="clicks.push('other' + event.button)">press</button>
<input type="range" id="range" style="top: 200px" min="0" max="100" value="0">
<a href="/linked" style="top: 260px">a link</a>
<input type="file" id="file" style="top: 320px">
<a href="/download" id="download" style="top: 380px">a download</a>
<script>clicks = []; keys = []; hears = false; addEventListener('mousemove', () => hears = true)</script>
"""


class _Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer with the page, or with a download."""
        body = PAGE.format(path=self.path, text="two words" if "text" in self.path else "").encode()
        self.send_response(200)
        if self.path == "/download":
            body = b"downloaded"
            self.send_header("Content-Disposition", "attachment; filename=data.txt")
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def serving_site() -> Iterator[str]:
    """Serve the page on any path; give the site's URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Person:
    """What a test does with a browser, and what it sees of the page."""

    def __init__(self, client: kernel.Kernel, browser_id: str) -> None:
        self.client, self.id = client, browser_id
        self.computer = client.browsers.computer
        self._cdp_ws_url = client.browsers.retrieve(browser_id).cdp_ws_url

    def evaluate(self, code: str) -> object:
        """Return what a Playwright script returns, which takes a second where others keep the processor busy."""
        done = self.client.browsers.playwright.execute(self.id, code=code)
        assert done.success, done
        return done.result

    def open(self, url: str) -> None:
        """Visit a page."""
        with self._page() as call:
            call("Page.navigate", url=url)
            wait_until(lambda: self.page("document.readyState") == "complete", 20, f"{url} is loaded", 0.01)

    def open_to_click(self, url: str) -> None:
        """Visit a page, and wait until the mouse reaches it: what comes before its first picture goes to the page before."""
        self.open(url)
        places = itertools.cycle([(5, 690), (6, 690)])

        def hears() -> bool:
            x, y = next(places)
            self.computer.move_mouse(self.id, x=x, y=y)
            return self.page("hears") is True

        wait_until(hears, 20, f"{url} hears the mouse", 0.01)

    def page(self, expression: str) -> object:
        """Return the value of an expression in the browser's only page."""
        with self._page() as call:
            answer = call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
            assert "exceptionDetails" not in answer, answer
            return answer["result"].get("value")

    def sees(self, expression: str, value: object) -> None:
        """Wait until an expression in the page has a value."""
        wait_until(lambda: self.page(expression) == value, 20, f"{expression} is {value!r}", 0.02)

    @contextmanager
    def _page(self) -> Iterator[Callable[..., dict[str, Any]]]:
        """Give a function that sends a command to the page."""
        numbers = itertools.count(1)
        with connect(self._cdp_ws_url, max_size=None) as socket:

            def call(method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
                number = next(numbers)
                message = {"id": number, "method": method, "params": params}
                socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
                while (answer := json.loads(socket.recv(30))).get("id") != number:
                    pass
                assert "error" not in answer, answer
                return dict(answer["result"])

            targets = [it for it in call("Target.getTargets")["targetInfos"] if it["type"] == "page"]
            assert len(targets) == 1
            attached = call("Target.attachToTarget", targetId=targets[0]["targetId"], flatten=True)
            yield partial(call, session=attached["sessionId"])


def descendants(pid: int) -> list[psutil.Process]:
    """Return the processes of an emulator's browsers."""
    names = ("chrom", "Xvfb", "ffmpeg", "node")
    found = psutil.Process(pid).children(recursive=True)
    return [process for process in found if process.name().startswith(names)]


def png_size(png: bytes) -> tuple[int, int]:
    """Return the width and height of a picture."""
    assert png.startswith(b"\x89PNG")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
