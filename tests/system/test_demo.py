"""The demos: they work, twice in a row and with ports taken, and leave nothing behind, however they end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests

from dev.airflow_api import AirflowApi
from dev.demo_browser import MISSING
from dev.processes import REPOSITORY, marked
from dev.wait import wait_until
from tests.integration.browsing import needs_chromium, png_size

pytestmark = pytest.mark.system

#: Not the folder of a demo that somebody may have open.
FOLDER = REPOSITORY / ".run" / "test-demo"
#: Seconds within which an Airflow starts and runs a Dag where others keep both cores busy.
TIMEOUT = 400
#: The ports of the api-server, the two log servers, the emulator and the shop, if nobody chooses others.
USUAL_PORTS = (8080, 8793, 8794, 8484, 8090)
BROWSER = "dev.demo_browser"


class Demo:
    """A run of the demo, with a home, a temporary folder and a working directory of its own."""

    def __init__(self, tmp_path: Path, *arguments: str, module: str = "dev.demo", **variables: str) -> None:
        self.outside = [tmp_path / name for name in ("home", "tmp", "cwd")]
        for folder in self.outside:
            folder.mkdir()
        home, tmp, cwd = map(str, self.outside)
        env = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        self.output = tmp_path / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, f"--folder={FOLDER}", *arguments],
                env={**env, "HOME": home, "TMPDIR": tmp, "PYTHONPATH": str(REPOSITORY), **variables},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        """Return what it has printed."""
        return self.output.read_text()

    def wait_for(self, line: str) -> re.Match[str]:
        """Wait until it has printed what matches ``line``."""

        def found() -> re.Match[str] | None:
            assert self.process.poll() is None, self.text()
            return re.search(line, self.text())

        match = wait_until(found, TIMEOUT, f"the demo prints {line!r}")
        assert match
        return match

    def end(self) -> int:
        """Wait for its end; check that it has left nothing behind; return its exit status."""
        status = self.process.wait(TIMEOUT)
        assert left_processes() == []
        assert [path for folder in self.outside for path in folder.rglob("*")] == []
        return status


def left_processes() -> list[str]:
    """Return the command lines of what a demo has started and is still there."""
    left = []
    for process in marked(f"{FOLDER}#"):
        with suppress(psutil.NoSuchProcess):  # it is ending just now
            left.append(" ".join(process.cmdline()))
    return left


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Start a demo; end it where the test has not."""
    started: list[Demo] = []

    def start(*arguments: str, **options: str) -> Demo:
        started.append(Demo(tmp_path, *arguments, **options))
        return started[-1]

    yield start
    for demo in started:
        demo.process.kill()
        demo.process.wait()
        wait_until(lambda: not left_processes(), TIMEOUT, "all processes are gone")


@pytest.fixture
def usual_ports_taken() -> Iterator[None]:
    """Somebody else has the ports."""
    taken = []
    for port in USUAL_PORTS:
        listener = socket.socket()
        taken.append(listener)
        try:
            listener.bind(("0.0.0.0", port))
            listener.listen()
        except OSError:
            continue  # Somebody else has it indeed.
    yield
    for listener in taken:
        listener.close()


@pytest.mark.usefixtures("usual_ports_taken")
def test_demo_runs_its_dag_to_success_and_shows_the_log_of_the_app(start: Callable[..., Demo]) -> None:
    demo = start()

    status = demo.end()

    assert status == 0, demo.text()
    states = re.findall(r"price_report: (\w+)", demo.text())
    assert (states[-1], "deferred" in states) == ("success", True)
    first = re.search(r"\[app\] .*1/10", demo.text())
    assert demo.text().index("deferred") < first.start() < demo.text().index("success")
    assert '"average_prices"' in demo.text()


@needs_chromium
@pytest.mark.usefixtures("usual_ports_taken")
def test_the_demo_of_a_browser_shows_the_order_and_its_picture_and_leaves_no_browser(
    start: Callable[..., Demo],
) -> None:
    demo = start(module=BROWSER)

    live_view = demo.wait_for(r"watch the browser, while it is open: (\S+)")[1]
    assert "live.js" in requests.get(live_view, timeout=10).text
    status = demo.end()

    assert status == 0, demo.text()
    states = re.findall(r"order: (\w+)\n", demo.text())
    assert (states[-1], "deferred" in states) == ("success", True)
    printed = re.search(r"in XCom:\n(\{.*?\n\})", demo.text(), re.DOTALL)
    order = {"order": "A-1001", "product": "Storm lantern", "quantity": 2, "total": 49.0}
    assert json.loads(printed[1]) == order
    png = Path(re.search(r"the screenshot: (\S+)", demo.text())[1]).read_bytes()
    assert png_size(png) == (1280, 800)
    assert "live/" not in "".join(re.findall(r"\[app\].*", demo.text())), (
        "no address with a secret in the log"
    )


@needs_chromium
@pytest.mark.usefixtures("usual_ports_taken")
def test_a_user_watches_the_browser_again_from_the_ui(start: Callable[..., Demo]) -> None:
    demo = start("--ui", module=BROWSER)
    url, username, password = demo.wait_for(r"UI: (\S+)\nlog in as (\S+) with (\S+)").groups()
    api = AirflowApi(url)
    api.log_in(username, password)
    shop_url = re.search(r"the shop is at (\S+)", demo.text())[1]

    run = api.trigger("example_kernel_browser", shop_url=shop_url, product="Enamel mug", quantity=1)

    demo.wait_for(r"UI: (?s:.*)watch the browser, while it is open: ")
    wait_until(run.finished, TIMEOUT, "the run has ended")
    assert run.task("order").xcom() == {
        "order": "A-1002",
        "product": "Enamel mug",
        "quantity": 1,
        "total": 8.9,
    }
    demo.process.send_signal(signal.SIGINT)
    assert demo.end() == 0


def test_without_chromium_the_demo_says_how_to_install_it(start: Callable[..., Demo], tmp_path: Path) -> None:
    demo = start(module=BROWSER, PATH="/nowhere", PLAYWRIGHT_BROWSERS_PATH="")

    assert demo.end() == 1
    assert demo.text() == f"FAILED: {MISSING}\n"


@pytest.mark.usefixtures("usual_ports_taken")
def test_ui_stays_open_until_ctrl_c(start: Callable[..., Demo]) -> None:
    demo = start("--ui")

    url, username, password = demo.wait_for(r"UI: (\S+)\nlog in as (\S+) with (\S+)").groups()
    assert "Airflow" in requests.get(url, timeout=10).text
    api = AirflowApi(url)
    api.log_in(username, password)
    assert "example_kernel_mapped" in api.dag_ids()
    demo.process.send_signal(signal.SIGINT)

    assert demo.end() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_killed_demo_leaves_nothing_behind(
    start: Callable[..., Demo], number: signal.Signals, status: int
) -> None:
    demo = start()
    demo.wait_for("starting Airflow")
    wait_until(lambda: any("scheduler" in line for line in left_processes()), TIMEOUT, "the scheduler starts")

    demo.process.send_signal(number)

    assert demo.process.wait(TIMEOUT) == status
    wait_until(lambda: not left_processes(), TIMEOUT, "all processes are gone")
