"""
Whether the emulator leaks: invocations, streams and browsers come and go for minutes. Run by hand::

    python -m tests.benchmarks.soak --minutes 10

Prints a line for each minute, and at the end a verdict: the second half needs what the first half needs, and nothing is left.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import kernel
import psutil
from websockets.sync.client import connect

from airflow_provider_kernel.emulator.browsers.chromium import Programs
from airflow_provider_kernel.emulator.store import MAX_ENDED
from airflow_provider_kernel.testing import KernelEmulator
from dev import chromium
from dev.wait import wait_until
from tests.integration.conftest import APP, client_of

#: How much more than the first half the second one may need on average: memory, and numbers of things.
MEMORY_TOLERANCE, COUNT_TOLERANCE = 0.15, 0.25
#: What a measure may grow without being judged: bytes, and numbers of things.
MEMORY_FLOOR, COUNT_FLOOR = 24 * 2**20, 8
#: Threads that use the emulator.
USERS = 4


class Sample(NamedTuple):
    """What the emulator needs at a moment. ``rss`` is the server's memory, ``all_rss`` that of its children as well."""

    rss: int
    all_rss: int
    processes: int
    threads: int
    descriptors: int


def take_sample(server: psutil.Process) -> Sample:
    rss, count = [], 0
    for process in [server, *server.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            rss.append(process.memory_info().rss)
            count += 1
    return Sample(rss[0], sum(rss), count, server.num_threads(), server.num_fds())


@dataclass
class Soak:
    """
    The users of one emulator.

    :param emulator: the emulator.
    :param has_browsers: whether there is a Chromium.
    :param ends: when they stop, on the monotonic clock.
    """

    emulator: KernelEmulator
    has_browsers: bool
    ends: float
    invocations: int = 0
    browsers: int = 0
    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def use(self, seed: int) -> None:
        """Do one thing after the other until the end."""
        chance = random.Random(seed)
        things: list[Callable[[kernel.Kernel, random.Random], None]] = [
            *(self._invoke,) * 6,
            *(self._cancel, self._fail, self._follow, self._abandon) * 2,
            self._large,
        ]
        if self.has_browsers and seed == 0:  # One at a time: they need most of the machine.
            things = [self._browse]
        with client_of(self.emulator) as client:
            while time.monotonic() < self.ends:
                thing = chance.choice(things)
                try:
                    thing(client, chance)
                except Exception as error:  # noqa: BLE001 - it is reported
                    self.errors.append(f"{thing.__name__}: {error!r}"[:300])

    def _create(self, client: kernel.Kernel, action: str, payload: Any, **options: Any) -> Any:
        self.invocations += 1
        return client.invocations.create(
            app_name="tests", action_name=action, version="latest", payload=json.dumps(payload), **options
        )

    def _invoke(self, client: kernel.Kernel, chance: random.Random) -> None:
        started = time.perf_counter()
        assert self._create(client, "echo", 1).status == "succeeded"
        self.latencies.append(time.perf_counter() - started)

    def _fail(self, client: kernel.Kernel, chance: random.Random) -> None:
        assert self._create(client, "fail", {"message": "no"}).status == "failed"

    def _large(self, client: kernel.Kernel, chance: random.Random) -> None:
        assert len(self._create(client, "big", {"n": 2**20}).output) == 2**20 + 2

    def _cancel(self, client: kernel.Kernel, chance: random.Random) -> None:
        made = self._create(client, "sleep", {"seconds": 600}, async_=True)
        time.sleep(chance.random() / 10)
        client.invocations.update(made.id, status="failed")

    def _follow(self, client: kernel.Kernel, chance: random.Random) -> None:
        made = self._create(client, "logs", {"n": 1_000}, async_=True)
        events = list(client.invocations.follow(made.id))
        assert sum(event.event == "log" for event in events) == 1_000

    def _abandon(self, client: kernel.Kernel, chance: random.Random) -> None:
        made = self._create(client, "logs", {"n": 20, "delay": 0.05}, async_=True)
        with client.invocations.follow(made.id) as stream:
            list(itertools.islice(stream, 3))

    def _browse(self, client: kernel.Kernel, chance: random.Random) -> None:
        owner = self._create(client, "sleep", {"seconds": 600}, async_=True)
        browser = client.browsers.create(invocation_id=owner.id, headless=chance.random() < 0.5)
        self.browsers += 1
        with connect(browser.cdp_ws_url, max_size=None) as socket:
            socket.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
            targets = json.loads(socket.recv())["result"]["targetInfos"]
            page = next(it["targetId"] for it in targets if it["type"] == "page")
            params = {"targetId": page, "flatten": True}
            socket.send(json.dumps({"id": 2, "method": "Target.attachToTarget", "params": params}))
            while "id" not in (answer := json.loads(socket.recv())):
                pass
            session = answer["result"]["sessionId"]
            params = {"url": "data:text/html,<h1>soak</h1>"}
            command = {"id": 3, "method": "Page.navigate", "params": params, "sessionId": session}
            socket.send(json.dumps(command))
            while json.loads(socket.recv()).get("id") != 3:
                pass
        assert client.browsers.computer.capture_screenshot(browser.session_id).read()[1:4] == b"PNG"
        if chance.random() < 0.5:
            client.browsers.delete_by_id(browser.session_id)
        client.invocations.update(owner.id, status="failed")


def temporary() -> set[str]:
    """Return what of the emulator is in the folder for temporary files, and in ``/tmp``, which it uses for long paths."""
    folders = {tempfile.gettempdir(), "/tmp"}
    return {str(it) for folder in folders for it in Path(folder).glob("kernel-emulator-*")}


def grown(name: str, values: list[float], tolerance: float, floor: float) -> str:
    """Compare the halves of a run; return a sentence if the second one needs more."""
    first, second = (
        statistics.mean(half) for half in (values[: len(values) // 2], values[len(values) // 2 :])
    )
    if second <= first * (1 + tolerance) or second - first <= floor:
        return ""
    return f"{name} grew from {first:,.0f} to {second:,.0f}"


def show(minute: str, soak: Soak, samples: list[Sample], invocations: int, browsers: int) -> None:
    rss, all_rss, processes, threads, descriptors = (statistics.mean(it) for it in zip(*samples, strict=True))
    latency = statistics.median(soak.latencies) * 1000 if soak.latencies else float("nan")
    soak.latencies.clear()
    print(
        f"{minute:>6}{rss / 2**20:>10.0f}{all_rss / 2**20:>10.0f}{processes:>10.1f}{threads:>9.1f}{descriptors:>8.1f}"
        f"{invocations:>13}{browsers:>10}{latency:>9.0f}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    has_browsers = chromium.find() is not None
    print(f"browsers: {has_browsers}, on a screen: {Programs().has_screen}")
    before, samples = temporary(), list[Sample]()
    with KernelEmulator([APP]) as emulator:
        server = psutil.Process(emulator.pid)
        with client_of(emulator) as client:  # What is made once is made before.
            client.invocations.create(app_name="tests", action_name="echo", version="latest", payload="1")
        idle = take_sample(server)
        started = time.monotonic()
        soak = Soak(emulator, has_browsers, started + options.minutes * 60)
        users = [threading.Thread(target=soak.use, args=[seed]) for seed in range(USERS)]
        print(
            f"{'minute':>6}{'MB':>10}{'all MB':>10}{'processes':>10}{'threads':>9}{'files':>8}{'invocations':>13}"
            f"{'browsers':>10}{'ms':>9}"
        )
        for user in users:
            user.start()
        minute, shown, invocations, browsers, filled = 1, 0, 0, 0, 0
        while time.monotonic() < soak.ends:
            time.sleep(1)
            samples.append(take_sample(server))
            if soak.invocations < MAX_ENDED:
                filled = len(samples)
            if time.monotonic() >= started + minute * 60:
                show(
                    str(minute),
                    soak,
                    samples[shown:],
                    soak.invocations - invocations,
                    soak.browsers - browsers,
                )
                minute, shown, invocations, browsers = (
                    minute + 1,
                    len(samples),
                    soak.invocations,
                    soak.browsers,
                )
        for user in users:
            user.join()
        with contextlib.suppress(TimeoutError, AssertionError):
            wait_until(lambda: take_sample(server).processes <= idle.processes + 1, 20, "all have ended")
        rest = take_sample(server)
        show("rest", soak, [rest], soak.invocations - invocations, soak.browsers - browsers)
        # The process that removes the folder of browsers is one more, with a pipe.
        problems = [
            f"{rest.processes - idle.processes} processes are left"
            if rest.processes > idle.processes + 1
            else "",
            f"{rest.descriptors - idle.descriptors} files are left open"
            if rest.descriptors > idle.descriptors + COUNT_FLOOR
            else "",
        ]
    # Memory grows until the emulator remembers its maximum of ended invocations.
    if len(samples := samples[filled:]) < 30:
        problems.append(f"Too short: fewer than 30 seconds are left after {MAX_ENDED} invocations")
        samples = [rest, rest]
    for name in ("rss", "all_rss"):
        problems.append(grown(name, [getattr(it, name) for it in samples], MEMORY_TOLERANCE, MEMORY_FLOOR))
    for name in ("processes", "threads", "descriptors"):
        problems.append(grown(name, [getattr(it, name) for it in samples], COUNT_TOLERANCE, COUNT_FLOOR))
    if left := temporary() - before:
        problems.append(f"left in the folder for temporary files: {', '.join(sorted(left))}")
    problems += sorted(set(soak.errors))[:10]
    problems = [it for it in problems if it]
    print("\n".join(problems) or "The second half needs what the first half needs, and nothing is left.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
