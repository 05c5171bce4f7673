"""
What hostile replies cost those who wait beside them in one triggerer. Run by hand::

    python tests/benchmarks/bench_hostile.py [hostile streams, default 64] [good ones, default 1000]

It prints the same without and with the hostile ones: how late the ends of the good ones are heard, for how long the event
loop was held at most, and the memory.
"""

import asyncio
import json
import multiprocessing
import os
import resource
import socket
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from aiohttp import web

from airflow_provider_kernel.hooks import kernel_async
from airflow_provider_kernel.triggers.kernel import KernelInvocationTrigger
from tests.hostile import bomb, for_ever, head, listening

#: The good ones end, one after the other, from 5 to 25 seconds after the start.
FIRST, LAST = 5.0, 25.0


def serve_good(port: Connection, number: int) -> None:
    """A Kernel each of whose invocations ends at a moment of its own; the output says at which."""
    ended: dict[str, float] = {}

    async def events(request: web.Request) -> web.StreamResponse:
        one = request.match_info["id"]
        seconds = FIRST + (LAST - FIRST) * int(one.removeprefix("good")) / number
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)

        async def say(event: dict) -> None:
            await stream.write(f"data: {json.dumps(event)}\n\n".encode())

        at = time.time() + seconds
        while at - time.time() > 2:
            await say({"event": "log", "timestamp": "", "message": "a line of the app's log"})
            await asyncio.sleep(2)
        await asyncio.sleep(max(0.0, at - time.time()))
        ended[one] = time.time()
        await say(
            {"event": "invocation_state", "timestamp": "", "invocation": {"id": one, "status": "succeeded"}}
        )
        return stream

    async def get(request: web.Request) -> web.Response:
        one = request.match_info["id"]
        return web.json_response(
            {"id": one, "status": "succeeded" if one in ended else "running", "output": str(ended.get(one))}
        )

    async def main() -> None:
        app = web.Application()
        app.add_routes([web.get("/invocations/{id}/events", events), web.get("/invocations/{id}", get)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


def serve_bad(port: Connection) -> None:
    """Says whatever is worst: each connection something else."""
    os.nice(10)  # on a machine of its own it would not take the triggerer's processor
    packed, count = bomb(), iter(range(10**9))
    long_line = json.dumps({"event": "log", "timestamp": "", "message": "x" * 60_000}).encode()
    short_line = json.dumps({"event": "log", "timestamp": "", "message": "x"}).encode()
    floods = (
        b"data: " + b"x" * 65_536,
        b"data: {}\n\n" * 6_000,
        b"data: ab\n" * 7_000,
        b"data: " + b"[]," * 170_000 + b"\n\n",
        b"data: " + long_line + b"\n\n",
        (b"data: " + short_line + b"\n\n") * 500,
        b":\n" * 30_000,
        b'data: "' + b"\\u0000" * 80_000 + b'"\n\n',
    )
    gzipped = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    chunked = {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    piece = b"[[],[],[],[]," * 5_000

    def converse(sock: socket.socket, request: str) -> None:
        number = next(count)
        with suppress(OSError):
            if "/events" in request:
                if number % 9 == 8:
                    sock.sendall(head(200, {**gzipped, "Content-Type": "text/event-stream"}) + packed)
                    return
                sock.sendall(head(200, {"Content-Type": "text/event-stream", "Connection": "close"}))
                for_ever(sock, floods[number % 9])
            elif number % 2:
                sock.sendall(head(200, {**gzipped, "Content-Length": str(len(packed))}) + packed)
            else:
                sock.sendall(head(200, chunked))
                for_ever(sock, b"%x\r\n%s\r\n" % (len(piece), piece))

    with listening(converse) as url:
        port.send(url)
        threading.Event().wait()


class StoredConnection:
    conn_type, login, schema, port, extra, password = "kernel", None, None, None, None, "sk_bench_0123456789"

    def __init__(self, conn_id: str, host: str) -> None:
        self.conn_id, self.host = conn_id, host


async def measure(good: int, bad: int, urls: dict[str, str]) -> str:
    async def read(conn_id: str) -> StoredConnection:
        return StoredConnection(conn_id, urls[conn_id])

    kernel_async.get_async_connection = read
    late: list[float] = []
    held = 0.0

    async def wait(one: str) -> None:
        trigger = KernelInvocationTrigger(one, "good")
        async with kernel_async.KernelAsyncHook("good") as hook:
            async for _ in trigger.run():
                heard = time.time()
            found = await hook.get_invocation(one)
        late.append(heard - float(found.output))

    async def suffer(one: str) -> None:
        async for event in KernelInvocationTrigger(one, "bad").run():
            print("a hostile one has ended:", event, file=sys.stderr)

    async def look_at_the_loop() -> None:
        nonlocal held
        await asyncio.sleep(FIRST - 1)  # to start them takes longer
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            held = max(held, time.perf_counter() - began - 0.005)

    looking = asyncio.create_task(look_at_the_loop())
    hostile = [asyncio.create_task(suffer(f"bad{n}")) for n in range(bad)]
    cpu = time.process_time()
    await asyncio.gather(*(wait(f"good{n}") for n in range(good)))
    cpu = time.process_time() - cpu
    for task in (looking, *hostile):
        task.cancel()
    await asyncio.gather(looking, *hostile, return_exceptions=True)
    late.sort()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"heard late: {late[len(late) // 2]:.3f} s in the middle, {late[-5]:.3f} s the fifth latest, {late[-1]:.3f} s at most; "
        f"loop held for {1000 * held:.0f} ms at most; {cpu:.1f} s of CPU; {memory:.0f} MiB at most"
    )


def main() -> None:
    bad = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    good = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    # Where the log of the tasks goes, with which Airflow's own loggers print.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    spawn = multiprocessing.get_context("spawn")
    for hostile in (0, bad):
        urls, servers = {}, []
        for name, serve, more in (("good", serve_good, (good,)), ("bad", serve_bad, ())):
            ours, theirs = multiprocessing.Pipe()
            server = spawn.Process(target=serve, args=(theirs, *more), daemon=True)
            server.start()
            servers.append(server)
            said = ours.recv()
            urls[name] = said if isinstance(said, str) else f"http://127.0.0.1:{said}"
        print(
            f"{good} good and {hostile} hostile: {asyncio.run(measure(good, hostile, urls))}", file=sys.stderr
        )
        for server in servers:
            server.kill()


if __name__ == "__main__":
    main()
