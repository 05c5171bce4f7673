"""
What it is worth that the triggers of one connection share its reading and one HTTP session. Run by hand::

    python tests/benchmarks/bench_triggers.py [number of triggers, default 300]

Reading a connection takes 40 ms here, one at a time, as it does in a triggerer.
"""

import asyncio
import json
import multiprocessing
import resource
import sys
import time
from multiprocessing.connection import Connection

from aiohttp import web

from airflow_provider_kernel.hooks import kernel_async
from airflow_provider_kernel.triggers.kernel import KernelInvocationTrigger

SECONDS = 5.0


def serve(port: Connection) -> None:
    """A Kernel whose invocations all end ``SECONDS`` after their streams were opened."""

    def invocation(status: str) -> dict[str, str]:
        return {"id": "i1", "status": status}

    async def events(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        for status in ("running", "succeeded"):
            event = {"event": "invocation_state", "timestamp": "", "invocation": invocation(status)}
            await stream.write(f"data: {json.dumps(event)}\n\n".encode())
            await asyncio.sleep(SECONDS if status == "running" else 0)
        return stream

    async def get(request: web.Request) -> web.Response:
        return web.json_response(invocation("succeeded"))

    async def main() -> None:
        app = web.Application()
        app.add_routes([web.get("/invocations/i1/events", events), web.get("/invocations/i1", get)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
        await site.start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


class StoredConnection:
    conn_type, login, schema, port, extra, password = "kernel", None, None, None, None, "sk_bench"

    def __init__(self, conn_id: str, host: str) -> None:
        self.conn_id, self.host = conn_id, host


async def measure(conn_ids: list[str], url: str) -> str:
    supervisor, reads = asyncio.Lock(), 0

    async def read(conn_id: str) -> StoredConnection:
        nonlocal reads
        async with supervisor:
            await asyncio.sleep(0.04)
        reads += 1
        return StoredConnection(conn_id, url)

    kernel_async.get_async_connection = read
    cpu, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()

    async def wait(conn_id: str) -> None:
        async for event in KernelInvocationTrigger("i1", conn_id).run():
            assert event.payload == {"invocation_id": "i1", "status": "succeeded"}

    await asyncio.gather(*map(wait, conn_ids))
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
    late = time.perf_counter() - began - SECONDS
    return f"{late:6.2f} s later than one alone would end, {used:5.2f} s of CPU, {reads} readings of a connection"


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ours.recv()}"
    for name, conn_ids in (
        ("one connection", ["kernel_default"] * number),
        ("one connection each", [f"kernel_{n}" for n in range(number)]),
    ):
        print(f"{number} triggers, {name}: {asyncio.run(measure(conn_ids, url))}")
    server.terminate()


if __name__ == "__main__":
    main()
