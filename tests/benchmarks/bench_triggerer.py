"""
How soon one triggerer follows many invocations, and how late it notices their ends beside chatty ones. Run by hand::

    python -m tests.benchmarks.bench_triggerer
    python -m tests.benchmarks.bench_triggerer --tasks 5000

The triggerer and its supervisor are Airflow's, and the connection is stored in its database. The tasks are deferred by hand,
in the database, since workers would need minutes for it; no scheduler runs, so no worker resumes them. Kernel is a server
that streams: it notes when a stream was opened and when it sent the end, and Airflow's database says when a task was resumed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import requests
import sqlalchemy
from aiohttp import web

from dev.airflow_stack import AirflowStack
from dev.postgres import Postgres
from dev.processes import REPOSITORY, RunFolder
from dev.wait import wait_until

DAG = """
from airflow.sdk import DAG, BaseOperator

with DAG("deferred", schedule=None):
    BaseOperator.partial(task_id="follow").expand(doc=[str(n) for n in range({tasks})])
"""
#: Run with Airflow's environment: the tasks of a run wait for invocations, the first ones for chatty ones.
DEFER = """
import sys
from airflow.models import TaskInstance, Trigger
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from airflow_provider_kernel.triggers.kernel import KernelInvocationTrigger
from sqlalchemy import select

run_id, chatty = sys.argv[1], int(sys.argv[2])
with create_session() as session:
    for ti in session.scalars(select(TaskInstance).where(TaskInstance.run_id == run_id)):
        kind = "chatty" if ti.map_index < chatty else "quiet"
        row = Trigger.from_object(KernelInvocationTrigger(f"{kind}-{ti.map_index}-{chatty}"))
        session.add(row)
        session.flush()
        ti.trigger_id, ti.state, ti.next_method = row.id, TaskInstanceState.DEFERRED, "execute_complete"
        ti.try_number = 1
"""
RESUMED = sqlalchemy.text(
    "SELECT map_index, extract(epoch FROM updated_at) FROM task_instance"
    " WHERE run_id = :run_id AND state = 'scheduled'"
)
#: So that the next triggerer has other tasks only.
FORGET = sqlalchemy.text("UPDATE task_instance SET state = 'removed', trigger_id = NULL")
#: Seconds between two ends: less than Airflow needs to store an event.
BETWEEN = 0.1
LINES_PER_SECOND = 100


def serve(port: Connection) -> None:
    """Serve Kernel's streams, in a process of its own."""
    opened: dict[str, float] = {}
    ended: dict[str, float] = {}
    ends: dict[str, asyncio.Event] = {}

    def invocation(invocation_id: str) -> dict[str, str]:
        return {"id": invocation_id, "status": "succeeded" if invocation_id in ended else "running"}

    def state(invocation_id: str) -> bytes:
        return data(event="invocation_state", invocation=invocation(invocation_id))

    def data(**event: Any) -> bytes:
        return f"data: {json.dumps({'timestamp': '', **event})}\n\n".encode()

    async def events(request: web.Request) -> web.StreamResponse:
        invocation_id = request.match_info["id"]
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(state(invocation_id))
        opened.setdefault(invocation_id, time.time())
        end = ends.setdefault(invocation_id, asyncio.Event())
        with suppress(ConnectionError):  # the triggerer is killed
            number = 0
            while not end.is_set():
                try:
                    async with asyncio.timeout(0.1 if invocation_id.startswith("chatty") else 10):
                        await end.wait()
                except TimeoutError:
                    if invocation_id.startswith("chatty"):
                        lines = range(number, number := number + LINES_PER_SECOND // 10)
                        await stream.write(
                            b"".join(data(event="log", message=f"line {line}\n") for line in lines)
                        )
                    else:
                        await stream.write(data(event="sse_heartbeat"))
            await stream.write(state(invocation_id))
        return stream

    async def get(request: web.Request) -> web.Response:
        return web.json_response(invocation(request.match_info["id"]))

    async def end(request: web.Request) -> web.Response:
        invocation_id = request.match_info["id"]
        ended[invocation_id] = time.time()
        ends[invocation_id].set()
        return web.Response()

    async def times(request: web.Request) -> web.Response:
        return web.json_response({"opened": opened, "ended": ended})

    async def main() -> None:
        app = web.Application()
        app.add_routes(
            [
                web.get("/invocations/{id}/events", events),
                web.get("/invocations/{id}", get),
                web.post("/end/{id}", end),
                web.get("/times", times),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=8192)
        await site.start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


def measure(stack: AirflowStack, url: str, tasks: int, chatty: int, ends: int) -> str:
    """Have one triggerer follow the invocations, and end some of the quiet ones; return what came of it."""
    run = stack.api.trigger("deferred")
    subprocess.run(
        [sys.executable, "-c", DEFER, run.run_id, str(chatty)], env=stack.env, cwd=stack.home, check=True
    )
    began = time.time()
    triggerer = stack.start("triggerer")

    def times(what: str) -> dict[str, float]:
        triggerer.check()
        found = requests.get(f"{url}/times", timeout=30).json()[what]
        return {name: at for name, at in found.items() if name.endswith(f"-{chatty}")}

    wait_until(lambda: len(times("opened")) == tasks, 600, "all streams are open", interval=1)
    opened = times("opened").values()
    for number in range(tasks - ends, tasks):
        requests.post(f"{url}/end/quiet-{number}-{chatty}", timeout=30)
        time.sleep(BETWEEN)
    engine = sqlalchemy.create_engine(stack.database_url)

    def resumed() -> dict[int, float]:
        with engine.connect() as connection:
            return {index: float(at) for index, at in connection.execute(RESUMED, {"run_id": run.run_id})}

    wait_until(lambda: len(resumed()) == ends, 300, "all ends are noticed", interval=1)
    ended = times("ended")
    late = sorted(at - ended[f"quiet-{index}-{chatty}"] for index, at in resumed().items())
    triggerer.kill()
    with engine.begin() as connection:
        connection.execute(FORGET)
    return (
        f"all streams open {max(opened) - min(opened):5.1f} s after the first one, which was {min(opened) - began:.1f} s "
        f"after the triggerer's start; ends noticed after {statistics.median(late):.2f} s (median), "
        f"{late[int(0.99 * len(late))]:.2f} s (99 %), {late[-1]:.2f} s (at most)"
    )


def main() -> None:
    """Measure with chatty invocations and without; print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--chatty", type=int, nargs="+", default=[0, 50], help="how many log 100 lines/s")
    parser.add_argument("--ends", type=int, default=100, help="how many end; default: %(default)s")
    parser.add_argument(
        "--per-loop", type=int, default=50, help="max_trigger_to_select_per_loop; default: Airflow's"
    )
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ours.recv()}"
    with RunFolder(REPOSITORY / ".run" / "triggerer") as folder:
        dags = folder.path / "dags"
        dags.mkdir()
        (dags / "deferred.py").write_text(DAG.format(tasks=options.tasks))
        with (
            Postgres(folder.path / "postgres") as postgres,
            AirflowStack(
                folder.path / "airflow",
                [dags],
                env={
                    "AIRFLOW__TRIGGERER__CAPACITY": str(options.tasks),
                    "AIRFLOW__TRIGGERER__MAX_TRIGGER_TO_SELECT_PER_LOOP": str(options.per_loop),
                    "AIRFLOW__CORE__MAX_MAP_LENGTH": str(options.tasks),
                },
                connections={
                    "kernel_default": json.dumps({"conn_type": "kernel", "host": url, "password": "sk_bench"})
                },
                database_url=postgres.url,
            ) as stack,
        ):
            wait_until(lambda: "deferred" in stack.api.dag_ids(), 90, "the Dag is read")
            for name in ("scheduler", "triggerer"):
                stack.components[name].kill()
            for chatty in options.chatty:
                result = measure(stack, url, options.tasks, chatty, options.ends)
                print(f"{options.tasks} tasks, {chatty} chatty: {result}", flush=True)
    server.terminate()


if __name__ == "__main__":
    main()
