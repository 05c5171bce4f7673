"""
How much the emulator adds to an action, and how soon it is ready. Run by hand::

    python tests/benchmarks/bench_emulator.py
"""

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from airflow_provider_kernel.testing import KernelEmulator

APP = """
import kernel
app = kernel.App("bench")
@app.action("sync")
def sync(ctx, payload):
    return payload
@app.action("async")
async def async_(ctx, payload):
    return payload
@app.action("print")
def print_(ctx, payload):
    for number in range(payload):
        print(f"line {number}")
"""


def timed(call: Callable[[], object], times: int = 100) -> list[float]:
    """Return milliseconds, sorted."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append((time.perf_counter() - started) * 1000)
    return sorted(taken)


def show(name: str, taken: list[float], bound: str = "") -> None:
    middle, most = statistics.median(taken), taken[int(len(taken) * 0.95)]
    print(f"{name:<48}{middle:10.1f}{most:10.1f}   {bound}")


def main() -> None:
    print(f"{'milliseconds':<48}{'median':>10}{'95 %':>10}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.py"
        file.write_text(APP)
        imported = timed(lambda: subprocess.run([sys.executable, str(file)], check=True), 5)
        show("python bench.py: a new process, which imports it", imported)
        with ExitStack() as stack:
            ready = timed(lambda: stack.enter_context(KernelEmulator([file])), 5)
        show("the emulator, until it is ready", ready, "bound: the line above + 1500")
        with KernelEmulator([file]) as emulator:
            measure(emulator)


def measure(emulator: KernelEmulator) -> None:
    connection = http.client.HTTPConnection(emulator.base_url.removeprefix("http://"))

    def call(method: str, path: str, body: object = None) -> bytes:
        connection.request(method, path, json.dumps(body), {"Authorization": "Bearer x"})
        reply = connection.getresponse()
        assert reply.status < 300, reply.read()
        return reply.read()

    def invoke(action: str, payload: object) -> dict[str, str]:
        names = {"app_name": "bench", "action_name": action, "version": "latest"}
        reply: dict[str, str] = json.loads(
            call("POST", "/invocations", {**names, "payload": json.dumps(payload)})
        )
        assert reply["status"] == "succeeded", reply
        return reply

    show("GET /auth/context: no process", timed(lambda: call("GET", "/auth/context")))
    show("an invocation of a def", timed(lambda: invoke("sync", 1)), "bound: 50")
    show("an invocation of an async def", timed(lambda: invoke("async", 1)), "bound: 50")
    show("4 MB of payload and of output", timed(lambda: invoke("sync", "x" * 4_000_000), 10))
    show("100,000 lines of log", timed(lambda: invoke("print", 100_000), 5))


if __name__ == "__main__":
    main()
