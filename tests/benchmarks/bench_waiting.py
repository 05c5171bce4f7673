"""
What waiting costs in a triggerer: our trigger beside those of two other providers, and a bare loop as the floor.

Run by hand; ``--large`` adds one event loop with that many triggers, each of which needs a file descriptor::

    python -m tests.benchmarks.bench_waiting --jobs=1000 --rounds=3 --large=20000

Each variant runs in a process of its own, against a server that serves all three APIs. The jobs end at times that are
part of their ids, so that nobody has to tell when a job has ended.

Goals: 1.0 requests; an end is heard 10 ms late at most (median), 50 ms (99 %); both are reached. 1.3 x the CPU time of the bare
loop is not (1.4 to 2.0): a trigger has four time limits for its stream and twice as many objects, so that the garbage
collector, which scans Airflow's own objects each time, runs more often. Nor is 0.2 s for which the loop is held: that is one such
collection, and the bare loop has it, too. With 20,000 waits the bare loop alone needs more than the 400 MB of the goal.

With 19,000 waits, the most that 20,000 file descriptors allow, the bare loop is held for 1.1 s and hears 99 % of the ends
0.3 s late at most; ours 2.6 s and 2.7 s, with 120 objects for each wait in the place of 55. From 14,000 connections to one address
on, Linux needs 3 ms to find a free port for each, so some waits begin after their jobs have ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import re
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib import import_module
from typing import Any

from dev.processes import REPOSITORY
from tests.benchmarks import peers

VARIANTS = {
    "floor": "bare aiohttp stream",
    "ours": "KernelInvocationTrigger",
    "databricks": "databricks, poll 5 s",
    "dbt": "dbt Cloud, poll 5 s",
}
#: Seconds between two heartbeats of a stream.
HEARTBEAT = 15.0


class Api(asyncio.Protocol):
    """The server's side of one connection: just enough HTTP to cost little."""

    requests = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.timers: list[asyncio.TimerHandle] = []
        self.request = b""

    def connection_lost(self, error: Exception | None) -> None:
        for timer in self.timers:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.request += data
        head, _, body = self.request.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        if len(body) < int(length[1] if length else 0):
            return None
        self.request, path = b"", head.split(b" ", 2)[1].decode()
        if path == "/count":
            return self._reply({"requests": Api.requests})
        Api.requests += 1
        if path.endswith("/events"):
            return self._stream(path.split("/")[2])
        if path.startswith("/invocations"):
            job = path.split("/")[2]
            return self._reply(invocation(job, is_ended(job)))
        if path.endswith("/runs/get"):  # Databricks, which asks in the body of a GET
            ended = is_ended(str(json.loads(body)["run_id"]))
            state = {"life_cycle_state": "TERMINATED" if ended else "RUNNING", "state_message": ""}
            return self._reply({"state": {**state, "result_state": "SUCCESS" if ended else ""}, "tasks": []})
        return self._reply({"data": {"status": 10 if is_ended(path.split("/")[-2]) else 3}})

    def _reply(self, data: Any) -> None:
        body = json.dumps(data).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)

    def _stream(self, job: str) -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        self._send(state_event(job, ended=False))
        left = end_of(job) - time.time()
        loop = asyncio.get_running_loop()
        beats = int(max(left, 0) / HEARTBEAT)
        heartbeat = {"event": "sse_heartbeat", "timestamp": ""}
        self.timers += [loop.call_later(n * HEARTBEAT, self._send, heartbeat) for n in range(1, beats + 1)]
        self.timers.append(loop.call_later(left, self._end, job))

    def _send(self, event: dict[str, Any]) -> None:
        data = f"data: {json.dumps(event)}\n\n".encode()
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _end(self, job: str) -> None:
        self._send(state_event(job, ended=True))
        self.transport.write(b"0\r\n\r\n")


def invocation(job: str, ended: bool) -> dict[str, str]:
    """Return what Kernel says of an invocation."""
    return {
        "id": job,
        "app_name": "bench",
        "action_name": "run",
        "version": "1.0.0",
        "started_at": "2026-01-01T00:00:00Z",
        "status": "succeeded" if ended else "running",
        **({"finished_at": "2026-01-01T00:00:10Z", "output": '{"rows": 12}'} if ended else {}),
    }


def state_event(job: str, *, ended: bool) -> dict[str, Any]:
    """Return the event that tells the state of an invocation."""
    return {
        "event": "invocation_state",
        "timestamp": "2026-01-01T00:00:00Z",
        "invocation": invocation(job, ended),
    }


def end_of(job: str) -> float:
    """Return the end of a job, in seconds since 1970."""
    return int(job) // 100_000 / 1000


def is_ended(job: str) -> bool:
    """Return whether a job has ended."""
    return time.time() >= end_of(job)


async def serve(port_to: int) -> None:
    """Serve until the process is ended, and write the port to a file descriptor."""
    server = await asyncio.get_running_loop().create_server(Api, "127.0.0.1", 0, backlog=4096)
    os.write(port_to, str(server.sockets[0].getsockname()[1]).encode())
    os.close(port_to)
    await server.serve_forever()


def wait_of(variant: str, address: str) -> Callable[[str], Awaitable[None]]:
    """Return the function that waits for one job with a provider's trigger."""
    host, port = address.split(":")
    kernel = {"conn_type": "kernel", "password": "sk_bench", "host": f"http://{address}"}
    databricks = {
        "conn_type": "databricks",
        "schema": "http",
        "host": host,
        "port": int(port),
        "password": "t",
    }
    dbt = {"conn_type": "dbt_cloud", "host": address, "login": "1", "password": "t"}
    for name, connection in (("KERNEL", kernel), ("DATABRICKS", databricks), ("DBT_CLOUD", dbt)):
        os.environ[f"AIRFLOW_CONN_{name}_DEFAULT"] = json.dumps(connection)
    trigger_of = {"ours": our_trigger, "databricks": databricks_trigger, "dbt": dbt_trigger}[variant]()

    async def wait(job: str) -> None:
        events: AsyncIterator[Any] = trigger_of(job).run()
        async for event in events:
            assert "succe" in str(event.payload).lower(), event.payload
            return

    return wait


def our_trigger() -> Callable[[str], Any]:
    """Return what makes our trigger."""
    from airflow_provider_kernel.triggers.kernel import KernelInvocationTrigger

    return KernelInvocationTrigger


def databricks_trigger() -> Callable[[str], Any]:
    """Return what makes the trigger of Databricks."""
    from airflow.providers.databricks.triggers.databricks import DatabricksExecutionTrigger

    return lambda job: DatabricksExecutionTrigger(int(job), "databricks_default", polling_period_seconds=5)


def dbt_trigger() -> Callable[[str], Any]:
    """Return what makes the trigger of dbt Cloud, with HTTP in place of HTTPS."""
    from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook
    from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

    url_of = DbtCloudHook.get_request_url_params

    def plain_url(*args: Any, **kwargs: Any) -> tuple[str, Any]:
        url, params = url_of(*args, **kwargs)
        return url.replace("https:", "http:", 1), params

    DbtCloudHook.get_request_url_params = staticmethod(plain_url)
    return lambda job: DbtCloudRunJobTrigger(
        "dbt_cloud_default", int(job), time.time() + 3600, poll_interval=5, account_id=1
    )


@asynccontextmanager
async def bare_wait(address: str) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """The least that can be written: one stream, read line by line."""
    import aiohttp

    async def wait(job: str) -> None:
        async with session.get(f"http://{address}/invocations/{job}/events") as stream:
            async for line in stream.content:
                if line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    if event.get("invocation", {}).get("status") in ("succeeded", "failed"):
                        return

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        headers={"Authorization": "Bearer sk_bench"},
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:
        yield wait


def new_job(end: float, number: int = 0) -> str:
    """Return the id of a job that ends at ``end``, in seconds since 1970."""
    return str(int(end * 1000) * 100_000 + number)


async def measure(variant: str, address: str, *numbers: float) -> dict[str, float]:
    """Measure a variant, after one wait that loads what it needs."""
    # What a triggerer has loaded anyway: the more objects there are, the longer takes a garbage collection.
    import_module("airflow_provider_kernel.triggers.kernel")
    import_module("airflow_provider_kernel.hooks.kernel_async")
    if variant == "floor":
        async with bare_wait(address) as wait:
            return await measure_waits(wait, *numbers)
    wait = wait_of(variant, address)
    await wait(new_job(time.time()))
    return await measure_waits(wait, *numbers)


async def measure_waits(
    wait: Callable[[str], Awaitable[None]], jobs: float, shortest: float, longest: float
) -> dict[str, float]:
    """Wait for ``jobs`` jobs that end between ``shortest`` and ``longest`` seconds from now."""
    loop, late, held = asyncio.get_running_loop(), [], 0.0
    random.seed(1)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.time()

    async def one(job: str) -> None:
        await wait(job)
        late.append(time.time() - end_of(job))

    async def watch() -> None:
        nonlocal held
        while True:
            asleep = loop.time()
            await asyncio.sleep(0.01)
            held = max(held, loop.time() - asleep - 0.01)

    watcher = asyncio.create_task(watch())
    waits = []
    for number in range(int(jobs)):
        job = new_job(began + random.uniform(shortest, longest), number)
        waits.append(asyncio.create_task(one(job)))
        await asyncio.sleep(0)  # as Airflow's triggerer does
    started = time.time() - began
    await asyncio.gather(*waits)
    watcher.cancel()
    after = resource.getrusage(resource.RUSAGE_SELF)
    late.sort()
    return {
        "cpu": (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / jobs * 1000,
        "median": late[len(late) // 2] * 1000,
        "p99": late[int(len(late) * 0.99)] * 1000,
        "held": held,
        "memory": after.ru_maxrss / 1024,
        "more": (after.ru_maxrss - before.ru_maxrss) / 1024,
        "started": started,
    }


@contextmanager
def server() -> Iterator[str]:
    """A server in a process of its own; the value is its address."""
    receive, send = os.pipe()
    command = [sys.executable, "-m", __spec__.name, "--serve", str(send)]
    process = subprocess.Popen(command, cwd=REPOSITORY, pass_fds=[send])
    os.close(send)
    try:
        with os.fdopen(receive) as port:
            yield f"127.0.0.1:{port.read()}"
    finally:
        process.terminate()
        process.wait()


def run(variant: str, *numbers: float) -> dict[str, float]:
    """Measure a variant in a process of its own."""
    with server() as address:
        command = [
            *(peers.interpreter(), "-m", __spec__.name, "--measure"),
            *(variant, address, *map(str, numbers)),
        ]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=peers.environment(), stdout=subprocess.PIPE, check=True, text=True
        )
        host, port = address.split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"GET /count HTTP/1.1\r\n\r\n")
            count = json.loads(connection.recv(4096).split(b"\r\n\r\n")[1])["requests"]
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return {**result, "requests": count / numbers[0]}


def print_table(results: dict[str, list[dict[str, float]]]) -> None:
    """Print the medians of the rounds, with the CPU as a ratio to the floor's of the same round."""
    print(
        f"{'':<26}{'requests':>9}{'CPU ms':>8}{'x floor':>8}{'late, median':>14}{'p99':>9}{'loop held':>11}"
        f"{'memory':>9}{'above start':>13}"
    )
    for variant, rounds in results.items():
        middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        ratio = statistics.median(
            one["cpu"] / floor["cpu"] for one, floor in zip(rounds, results["floor"], strict=True)
        )
        print(
            f"{VARIANTS[variant]:<26}{middle['requests']:9.2f}{middle['cpu']:8.2f}{ratio:8.2f}"
            f"{middle['median']:11.1f} ms{middle['p99']:6.0f} ms{middle['held']:9.2f} s"
            f"{middle['memory']:6.0f} MB{middle['more']:10.0f} MB",
            flush=True,
        )


def main() -> None:
    """Measure the variants by turns, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--large", type=int, default=0, help="number of triggers in one more run; default: none"
    )
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with suppress(ValueError, OSError):  # only root may raise it
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * hard, 2 * hard))
    if options.serve is not None:
        asyncio.run(serve(options.serve))
    elif options.measure:
        variant, address, *numbers = options.measure
        import structlog

        # Log lines of each poll would count against the others.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
        print(json.dumps(asyncio.run(measure(variant, address, *map(float, numbers)))))
    else:
        results: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
        for _ in range(options.rounds):
            for variant in VARIANTS:
                results[variant].append(run(variant, options.jobs, 8, 16))
        print(peers.versions())
        print(f"{options.jobs} jobs that end after 8 to 16 s; medians of {options.rounds} rounds.")
        print_table(results)
        if options.large:
            # As many ends in a second as the loop has time for.
            seconds = options.large / 200
            print(f"\n{options.large} jobs that end after {seconds / 2:.0f} to {seconds:.0f} s, one round.")
            large = [run(variant, options.large, seconds / 2, seconds) for variant in ("floor", "ours")]
            print_table(dict(zip(("floor", "ours"), ([one] for one in large), strict=True)))


if __name__ == "__main__":
    main()
