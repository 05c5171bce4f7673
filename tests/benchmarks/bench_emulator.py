"""
The emulator beside its goals, and beside what the machine can do at best. Run by hand::

    python -m tests.benchmarks.bench_emulator [ready] [latency] [throughput] [streams] [memory]

Without names it runs all parts, which takes minutes. A busy machine slows the emulator and the floors alike, so compare
within one run. The column "least" is the run that others disturbed least.

Two floors: *echo* is a bare reply of Starlette and uvicorn to the same request; *fork* is a fork, and its end, of a process
that has imported the same app. The emulator has two forks for each invocation.
"""

import asyncio
import http.client
import json
import multiprocessing
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from airflow_provider_kernel.api.timestamps import parse_rfc3339
from airflow_provider_kernel.testing import KernelEmulator

APP = """
import time
import kernel
app = kernel.App("bench")
@app.action("sync")
def sync(ctx, payload):
    return [time.time_ns(), time.time_ns()]
@app.action("async")
async def async_(ctx, payload):
    return [time.time_ns(), time.time_ns()]
@app.action("echo")
def echo(ctx, payload):
    return payload
@app.action("print")
def print_(ctx, payload):
    for number in range(payload):
        print(f"line {number}")
@app.action("wait")
def wait(ctx, payload):
    print("begins")
    open(payload["until"]).read()  # of a named pipe, which somebody opens to write
    for _ in range(payload["lines"]):
        print(time.time_ns())
        time.sleep(0.5)
"""
LINES = 10
STREAMS = 1_000
CLIENTS = 8
SECONDS = 5.0
HEADERS = {"Authorization": "Bearer x"}


class Client:
    """A keep-alive connection to a server."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"))

    def call(self, method: str, path: str, body: object = None) -> bytes:
        self._connection.request(method, path, json.dumps(body), HEADERS)
        reply = self._connection.getresponse()
        content = reply.read()
        assert reply.status < 300, content
        return content

    def invoke(self, action: str, payload: object = 1, **fields: object) -> dict[str, Any]:
        """Invoke an action; return the reply, which says that it has succeeded if it waits for the end."""
        body = invocation(action, payload) | fields
        reply: dict[str, Any] = json.loads(self.call("POST", "/invocations", body))
        assert reply["status"] == ("queued" if fields else "succeeded"), reply
        return reply

    def get(self, invocation_id: str) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.call("GET", f"/invocations/{invocation_id}"))
        return data

    def follow(self, invocation_id: str) -> None:
        """Read an event stream up to the terminal event."""
        self._connection.request("GET", f"/invocations/{invocation_id}/events", None, HEADERS)
        reply = self._connection.getresponse()
        while not is_end(reply.readline()):
            pass
        reply.read()


def invocation(action: str, payload: object) -> dict[str, object]:
    names = {"app_name": "bench", "action_name": action, "version": "latest"}
    return {**names, "payload": json.dumps(payload)}


def is_end(event: bytes) -> bool:
    return b'"finished_at"' in event


def timed(call: Callable[[], object], times: int) -> list[float]:
    """Return milliseconds."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append((time.perf_counter() - started) * 1000)
    return taken


def show(name: str, taken: Iterable[float], goal: str = "") -> float:
    """Print a line of a table; return the median."""
    ordered = sorted(taken)
    middle = statistics.median(ordered)
    print(f"  {name:<58}{ordered[0]:9.1f}{middle:9.1f}{ordered[int(len(ordered) * 0.95)]:9.1f}   {goal}")
    return middle


def heading(title: str, unit: str = "milliseconds") -> None:
    print(f"\n{title}\n  {unit:<58}{'least':>9}{'median':>9}{'95 %':>9}   goal", flush=True)


def serve_echo(pipe: Connection) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def echo(request: Request) -> JSONResponse:
        return JSONResponse(await request.json() | {"status": "succeeded"})

    listener = socket.create_server(("127.0.0.1", 0))
    pipe.send(f"http://127.0.0.1:{listener.getsockname()[1]}")
    app = Starlette(routes=[Route("/invocations", echo, methods=["POST"])])
    config = uvicorn.Config(
        app, loop="asyncio", http="h11", lifespan="off", log_level="warning", access_log=False
    )
    uvicorn.Server(config).run(sockets=[listener])


def fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def serve_forks(pipe: Connection) -> None:
    """Import the app; for each number received, fork for that many seconds, at least once, and send the milliseconds of each."""
    import kernel  # noqa: F401

    pipe.send(None)
    while (seconds := pipe.recv()) is not None:
        end = time.monotonic() + seconds
        taken = timed(fork, 1)
        while time.monotonic() < end:
            taken += timed(fork, 1)
        pipe.send(taken)


@contextmanager
def process(target: Callable[[Connection], None]) -> Iterator[tuple[Connection, Any]]:
    """Start a process of its own; yield a pipe to it, and what it sent first."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=target, args=(theirs,), daemon=True)
    child.start()
    try:
        yield ours, ours.recv()
    finally:
        child.terminate()
        child.join()


def measure_ready(file: Path) -> None:
    heading("Until the emulator is ready")
    imported, ready = [], []
    for _ in range(10):
        imported += timed(lambda: subprocess.run([sys.executable, str(file)], check=True), 1)
        with ExitStack() as stack:
            ready += timed(lambda stack=stack: stack.enter_context(KernelEmulator([file])), 1)
    base = show("python bench.py: a new process, which imports the app", imported)
    show("the emulator accepts requests", ready)
    differences = [ours - other for ours, other in zip(ready, imported, strict=True)]
    show("the difference", differences, f"small beside {base:.0f}")


def measure_latency(file: Path) -> None:
    rows: dict[str, list[float]] = {}

    def note(name: str, milliseconds: float) -> None:
        rows.setdefault(name, []).append(milliseconds)

    def over_action(name: str, call: Callable[[], dict[str, Any]]) -> list[int]:
        """Note what a call takes besides the action; return the times of its steps."""
        asked = time.time_ns()
        reply = call()
        replied = time.time_ns()
        done = client.get(reply["id"])
        begun, returned = json.loads(done["output"])
        note(name, (replied - asked - (returned - begun)) / 1e6)
        times = (parse_rfc3339(done[field]) for field in ("started_at", "finished_at"))
        accepted, ended = (moment for moment in times if moment is not None)
        return [asked, accepted, begun, returned, ended, replied]

    def to_terminal_event() -> dict[str, Any]:
        reply = client.invoke("sync", **{"async": True})
        client.follow(reply["id"])
        return reply

    def to_ended_get() -> dict[str, Any]:
        reply = client.invoke("sync", **{"async": True})
        while client.get(reply["id"])["status"] != "succeeded":
            pass
        return reply

    with (
        process(serve_echo) as (_, url),
        process(serve_forks) as (forks, _),
        KernelEmulator([file]) as emulator,
    ):
        client, echo = Client(emulator.base_url), Client(url)
        for _ in range(150):
            note("floor: echo", timed(lambda: echo.invoke("sync"), 1)[0])
            forks.send(0)
            note("floor: fork", forks.recv()[0])
            over_action("async def, synchronous", lambda: client.invoke("async"))
            over_action("def, asynchronous, to the terminal event", to_terminal_event)
            over_action("def, asynchronous, to the GET that says ended", to_ended_get)
            asked, accepted, begun, returned, ended, replied = over_action(
                "def, synchronous", lambda: client.invoke("sync")
            )
            note("  request sent -> accepted (HTTP)", (accepted - asked) / 1e6)
            note("  accepted -> the action begins (pipes, worker)", (begun - accepted) / 1e6)
            note("  the action has returned -> ended (exit, pipes)", (ended - returned) / 1e6)
            note("  ended -> reply received (HTTP)", (replied - ended) / 1e6)
        heading("What the emulator adds to an action")
        for name, taken in rows.items():
            show(name, taken, "" if name.startswith((" ", "floor")) else "15")
        show("GET /auth/context", timed(lambda: client.call("GET", "/auth/context"), 100))
        show("4 MB of payload and of output", timed(lambda: client.invoke("echo", "x" * 4_000_000), 10))
        show("100,000 lines of log", timed(lambda: client.invoke("print", 100_000), 5))


def submit_for(url: str, seconds: float, count: int = sys.maxsize) -> tuple[int, float]:
    """Have ``CLIENTS`` invoke at the same time. Return how many invocations succeeded, of which each must, and seconds."""
    begun = time.monotonic()
    numbers = iter(range(count))
    done: list[int] = []

    def run() -> None:
        client = Client(url)
        while time.monotonic() < begun + seconds and (number := next(numbers, None)) is not None:
            client.invoke("sync")
            done.append(number)

    threads = [threading.Thread(target=run) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(done), time.monotonic() - begun


def measure_throughput(file: Path) -> None:
    print(f"\nThroughput: {CLIENTS} clients, {SECONDS:.0f} s each, on {os.cpu_count()} cores")
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        _, url = stack.enter_context(process(serve_echo))
        forkers = [stack.enter_context(process(serve_forks))[0] for _ in range(os.cpu_count() or 1)]
        emulator = stack.enter_context(KernelEmulator([file]))
        for _ in range(3):
            for forker in forkers:
                forker.send(SECONDS)
            pairs = sum(len(forker.recv()) for forker in forkers) / 2
            rates.setdefault("floor: pairs of forks, one process on each core", []).append(pairs / SECONDS)
            for name, where in (
                ("floor: echo", url),
                ("invocations, none of which failed", emulator.base_url),
            ):
                done, taken = submit_for(where, SECONDS)
                rates.setdefault(name, []).append(done / taken)
    heading("", "in a second")
    for name, found in rates.items():
        show(name, found, "100" if "invocations" in name else "")


class Stream:
    """What an event stream has received, and when."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.late_lines: list[float] = []
        self.late_end = 0.0
        self.status = ""

    async def follow(self, address: tuple[str, int], invocation_id: str) -> None:
        reader, writer = await asyncio.open_connection(*address)
        request = f"GET /invocations/{invocation_id}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n"
        writer.write(request.encode())
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                continue
            now, event = time.time_ns(), json.loads(line[6:])
            if event["event"] == "log" and event["message"] == "begins":
                self.opened.set()
            elif event["event"] == "log":
                self.late_lines.append((now - int(event["message"])) / 1e6)
            elif is_end(line):
                self.status = event["invocation"]["status"]
                self.late_end = (now - (parse_rfc3339(event["invocation"]["finished_at"]) or 0)) / 1e6
                break
        writer.close()


async def follow_all(url: str, ids: list[str], release: Callable[[], None], look: Callable[[], None]) -> None:
    host, port = url.removeprefix("http://").split(":")
    begun = time.monotonic()
    streams = [Stream() for _ in ids]
    tasks = [
        asyncio.create_task(it.follow((host, int(port)), id_)) for it, id_ in zip(streams, ids, strict=True)
    ]
    await asyncio.wait_for(asyncio.gather(*(it.opened.wait() for it in streams)), 120)
    print(f"  all streams have the first line after {time.monotonic() - begun:.1f} s", flush=True)
    await asyncio.to_thread(look)
    released = time.monotonic()
    release()
    await asyncio.wait_for(asyncio.gather(*tasks), 120)
    print(f"  all streams have the terminal event {time.monotonic() - released:.1f} s after the release")
    lines = [late for it in streams for late in it.late_lines]
    succeeded = [it for it in streams if it.status == "succeeded" and len(it.late_lines) == LINES]
    print(f"  streams with each line and the end: {len(succeeded)}, of lines {len(lines)}   goal {STREAMS}")
    print(f"  {'milliseconds':<58}{'least':>9}{'median':>9}{'95 %':>9}   {'most':>9}")
    show("a line is received after it was printed", lines, f"{max(lines):9.1f}")
    ends = [it.late_end for it in streams]
    show("the terminal event is received after the end", ends, f"{max(ends):9.1f}")


def memory_of(emulator: KernelEmulator) -> str:
    """Return the memory of the emulator's processes; of those that share pages, each has its share."""
    server = psutil.Process(emulator.pid)
    forkserver, *_ = server.children()
    shared, count = 0, 0
    for one in (server, *server.children(recursive=True)):
        try:
            shared += one.memory_full_info().pss
            count += 1
        except psutil.NoSuchProcess:
            pass
    sizes = [one.memory_info().rss / 2**20 for one in (server, forkserver)]
    return (
        f"server {sizes[0]:7.1f} MB, forkserver {sizes[1]:7.1f} MB, all {count} processes {shared / 2**20:7.1f} MB; "
        f"the server has {server.num_fds()} descriptors"
    )


def measure_streams(file: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))  # as most terminals have it
        emulator = stack.enter_context(KernelEmulator([file]))
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        client = Client(emulator.base_url)
        for number, count in enumerate((1, STREAMS)):
            print(
                f"\n{STREAMS} open event streams, on {count} running invocations; soft limit of descriptors: 1024"
            )
            pipe = file.with_name(f"pipe{number}")
            os.mkfifo(pipe)
            payload = {"until": str(pipe), "lines": LINES}
            ids = [client.invoke("wait", payload, **{"async": True})["id"] for _ in range(count)]
            asyncio.run(
                follow_all(
                    emulator.base_url,
                    ids * (STREAMS // count),
                    lambda pipe=pipe: pipe.write_bytes(b""),
                    lambda: print(f"  {memory_of(emulator)}", flush=True),
                )
            )


def measure_memory(file: Path) -> None:
    print("\nMemory over 10,000 invocations, of which the emulator keeps the last 1,000")
    with KernelEmulator([file]) as emulator:
        for count in range(0, 10_001, 1_000):
            if count:
                done, _ = submit_for(emulator.base_url, 3600, 1_000)
                assert done == 1_000
            print(f"  {count:6}: {memory_of(emulator)}", flush=True)


PARTS = {
    "ready": measure_ready,
    "latency": measure_latency,
    "throughput": measure_throughput,
    "streams": measure_streams,
    "memory": measure_memory,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.py"
        file.write_text(APP)
        for name in sys.argv[1:] or PARTS:
            PARTS[name](file)


if __name__ == "__main__":
    main()
