"""
How long the emulator's browsers take: ready, screenshot, click, script, close.

``python -m tests.benchmarks.bench_browsers``: medians and maxima in milliseconds, on a screen and without one. Ready is to
be at most 1,500 ms, a screenshot 150 ms.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from airflow_provider_kernel.testing import KernelEmulator
from tests.integration.browsing import APP, serving_site
from tests.integration.conftest import client_of

ROUNDS = 10


def main() -> None:
    """Measure, and print one line for each call."""
    with serving_site() as site, KernelEmulator([APP]) as emulator:
        client = client_of(emulator)
        for headless in (False, True):
            times: dict[str, list[float]] = {}

            def timed(name: str, call: Callable[[], object], times: dict[str, list[float]] = times) -> object:
                started = time.perf_counter()
                result = call()
                times.setdefault(name, []).append((time.perf_counter() - started) * 1000)
                return result

            for _ in range(ROUNDS):
                browser = timed(
                    "ready",
                    lambda headless=headless: client.browsers.create(headless=headless, start_url=site),
                ).session_id  # type: ignore[attr-defined]
                computer = client.browsers.computer
                for _ in range(3):
                    timed("screenshot", lambda: computer.capture_screenshot(browser).read())  # noqa: B023
                    timed("click", lambda: computer.click_mouse(browser, x=300, y=300))  # noqa: B023
                timed("script", lambda: client.browsers.playwright.execute(browser, code="return 1"))  # noqa: B023
                timed("close", lambda: client.browsers.delete_by_id(browser))  # noqa: B023
            print("headless" if headless else "on a screen, 1920x1080")
            for name, values in times.items():
                print(f"  {name:<12}{statistics.median(values):8.0f} ms   at most {max(values):6.0f} ms")


if __name__ == "__main__":
    main()
