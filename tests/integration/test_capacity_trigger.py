"""The wait for capacity in a full account: triggers in one event loop, with the emulator."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from airflow_provider_kernel.capacity import limit as capacity_limit
from airflow_provider_kernel.capacity import queue as capacity_queue
from airflow_provider_kernel.hooks import kernel_async
from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook
from airflow_provider_kernel.testing import KernelEmulator
from airflow_provider_kernel.triggers import capacity as triggers
from airflow_provider_kernel.triggers.capacity import KernelCapacityTrigger
from tests.integration.scripted import Reply, Request, error, html, serving

#: The factor by which the queue's times are shorter in these tests.
SPEED = 50
LIST = "GET /invocations"
UNSCALED = ("DECAY", "ENDED_SHARE", "POLL_SHARE", "PRIORITY_WITHOUT_DEADLINE")


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Shorten every time of the queue by ``SPEED``, and switch off probes."""
    for module in (capacity_queue, capacity_limit):
        for name, value in vars(module).items():
            if name.isupper() and isinstance(value, float) and name not in UNSCALED:
                monkeypatch.setattr(module, name, value / SPEED)
    monkeypatch.setattr(capacity_limit, "PROBE_PAUSE", 1e9)


@pytest.fixture
def polls(monkeypatch) -> list[float]:
    """Return a list that collects the times of the polls."""
    times = []
    list_active_ids = KernelAsyncHook.list_active_ids

    async def recorded(self: KernelAsyncHook) -> frozenset[str]:
        times.append(time.time())
        return await list_active_ids(self)

    monkeypatch.setattr(KernelAsyncHook, "list_active_ids", recorded)
    return times


@pytest.fixture
def full(start_emulator, monkeypatch) -> Account:
    """Return a full account: its limit is two, and two invocations are active."""
    account = Account(start_emulator(max_concurrency=2))
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", account.connection_json)
    account.active = [account.submit("sleep", {"seconds": 600}) for _ in range(2)]
    assert account.submit("echo", 1) is None
    return account


@pytest.fixture
def server(monkeypatch):
    with serving() as server:
        connection = {"conn_type": "kernel", "host": server.url, "password": "sk_test_token"}
        monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", json.dumps(connection))
        yield server


class Account:
    """The account of an emulator."""

    def __init__(self, emulator: KernelEmulator) -> None:
        self.connection_json = emulator.connection_json
        self.active: list[str | None] = []
        self._http = httpx.Client(
            base_url=emulator.base_url,
            headers={"Authorization": f"Bearer {emulator.api_key}"},
            timeout=20,
            # One thread may close a pooled connection while another thread takes it.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def submit(self, action: str, payload: Any) -> str | None:
        """Return the id of a new invocation; None if the account is full."""
        body = {"app_name": "tests", "action_name": action, "version": "latest", "async": True}
        reply = self._http.post("/invocations", json={**body, "payload": json.dumps(payload)})
        if reply.status_code == 429:
            assert reply.headers["Retry-After"] == "1"
            return None
        assert reply.status_code == 202
        return reply.json()["id"]

    def end_one(self) -> None:
        reply = self._http.patch(f"/invocations/{self.active.pop()}", json={"status": "succeeded"})
        assert reply.status_code == 200

    def count(self, status: str) -> int:
        return len(self._http.get("/invocations", params={"status": status, "limit": 100}).json())


async def fire(trigger: KernelCapacityTrigger) -> dict[str, Any]:
    """Return the payload of the trigger's one event."""
    (event,) = [event async for event in trigger.run()]
    return event.payload


def start_refused(seconds: float = 3600.0, **arguments: Any) -> asyncio.Task[dict[str, Any]]:
    """Start a trigger for a submission refused now, with a deadline in ``seconds``."""
    now = time.time()
    arguments = {"refused_at": now, "deadline": now + seconds, **arguments}
    return asyncio.create_task(fire(KernelCapacityTrigger(**arguments)))


async def until(condition: Callable[[], Any], what: str) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


async def polled_again(polls: list[float], times: int = 2) -> None:
    enough = len(polls) + times
    await until(lambda: len(polls) >= enough, "the next polls")


def assert_nothing_remains() -> None:
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not kernel_async._shared.here()


def test_one_trigger_fires_for_each_ended_invocation_in_order_of_deadline(full, polls):
    async def main() -> None:
        last, first, second = start_refused(3000), start_refused(1000), start_refused(2000)
        waits = {first, second, last}
        await polled_again(polls)
        assert not any(wait.done() for wait in waits)
        for wait in (first, second):
            full.end_one()
            done, _ = await asyncio.wait(waits, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            assert done == {wait}
            assert wait.result()["capacity"] == "free"
            waits -= done
            full.active.insert(0, full.submit("sleep", {"seconds": 600}))
            await polled_again(polls)
        assert not last.done()
        last.cancel()
        await asyncio.wait([last])

    asyncio.run(main())


def test_many_triggers_share_one_poll_with_pauses(full, polls):
    async def main() -> None:
        waits = [start_refused() for _ in range(30)]
        await polled_again(polls, 6)
        assert kernel_async._shared.here()["kernel_default"].users == 1
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
        assert_nothing_remains()

    asyncio.run(main())
    assert all(later - at >= capacity_queue.POLL_PAUSE for at, later in itertools.pairwise(polls))


def test_twenty_tasks_are_accepted_with_a_limit_of_four_and_few_submissions(
    start_emulator, monkeypatch, polls
):
    monkeypatch.setattr(capacity_limit, "PROBE_PAUSE", 30 / SPEED)
    account = Account(start_emulator(max_concurrency=4))
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", account.connection_json)
    tries, pauses = [], []

    async def task(number: int) -> None:
        deadline, refused_at = None, None
        while True:
            tries.append(number)
            if refused_at:
                pauses.append(time.time() - refused_at)
            if await asyncio.to_thread(account.submit, "sleep", {"seconds": 60 / SPEED}):
                return
            refused_at = time.time()
            deadline = deadline or refused_at + 120
            assert (await fire(KernelCapacityTrigger(refused_at=refused_at, deadline=deadline))) == {
                "capacity": "free",
                "deadline": deadline,
            }

    async def main() -> None:
        await asyncio.gather(*map(task, range(20)))
        await until(lambda: account.count("succeeded") == 20, "all invocations succeeded")
        assert_nothing_remains()

    asyncio.run(main())
    assert min(pauses) >= capacity_queue.MIN_PAUSE
    assert len(tries) <= 3 * 20
    assert all(later - at >= capacity_queue.MIN_POLL_PAUSE for at, later in itertools.pairwise(polls))


def test_trigger_fires_timeout_after_the_last_poll_at_the_deadline(full, mocker):
    on_listed = mocker.spy(capacity_queue.CapacityQueue, "on_listed")

    async def main() -> None:
        deadline = time.time() + 0.7
        assert await fire(KernelCapacityTrigger(refused_at=time.time(), deadline=deadline)) == {
            "capacity": "timeout",
            "deadline": deadline,
        }
        assert deadline <= time.time()
        assert on_listed.call_args.args[-1] >= deadline  # the last poll ended after the deadline
        assert_nothing_remains()

    asyncio.run(main())


def test_next_trigger_fires_when_the_first_one_is_cancelled(full, polls):
    async def main() -> None:
        first, second = start_refused(1000), start_refused(2000)
        await polled_again(polls)
        first.cancel()
        await asyncio.wait([first])
        full.end_one()
        assert (await second)["capacity"] == "free"
        assert_nothing_remains()

    asyncio.run(main())


@pytest.mark.parametrize("during_poll", [True, False])
def test_no_task_or_session_remains_when_the_last_trigger_is_cancelled(server, polls, during_poll):
    async def main() -> None:
        server.on(LIST, lambda request: Reply(200, []) if not during_poll else hang())
        wait = start_refused()
        await until(lambda: polls and (server.requests or not during_poll), "a poll")
        wait.cancel()
        await asyncio.wait([wait])
        assert wait.cancelled()
        assert_nothing_remains()

    def hang() -> Reply:
        server.over.wait(20)
        return Reply(drop=True)

    asyncio.run(main())


def test_trigger_that_starts_while_the_last_one_ends_fires(full, polls):
    async def main() -> None:
        for _ in range(5):
            wait = start_refused()
            await asyncio.sleep(0)
            wait.cancel()
            await asyncio.sleep(0)
        successor = start_refused()
        await polled_again(polls)
        full.end_one()
        assert (await successor)["capacity"] == "free"
        await until(lambda: len(asyncio.all_tasks()) == 1, "the cancelled triggers end")
        assert_nothing_remains()

    asyncio.run(main())


def test_all_triggers_fire_unknown_when_the_connection_is_unusable(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", '{"conn_type": "http", "password": "sk_secret"}')

    async def main() -> list[dict[str, Any]]:
        events = await asyncio.gather(
            *(start_refused(deadline=None, kernel_conn_id="other") for _ in range(3))
        )
        assert_nothing_remains()
        return events

    for event in asyncio.run(main()):
        assert event.pop("message").startswith("The Airflow connection 'other' has the type 'http'.")
        assert event == {"capacity": "unknown", "deadline": None}


def test_all_triggers_raise_when_the_poll_raises_an_unexpected_error(full, monkeypatch):
    async def broken(self: KernelAsyncHook) -> frozenset[str]:
        raise ZeroDivisionError

    monkeypatch.setattr(KernelAsyncHook, "list_active_ids", broken)

    async def main() -> None:
        results = await asyncio.gather(start_refused(), start_refused(), return_exceptions=True)
        assert [type(result) for result in results] == [ZeroDivisionError] * 2
        assert_nothing_remains()

    asyncio.run(main())


@pytest.mark.parametrize("reply", [error(503), error(429), html(502), html(200), Reply(drop=True)])
def test_trigger_keeps_waiting_when_a_poll_fails(server, polls, reply):
    one = Reply(200, [{"id": "i1", "status": "running"}], {"X-Has-More": "false"})
    none = Reply(200, [], {"X-Has-More": "false"})
    # A successful poll sends two requests: for queued and for running invocations.
    server.on(LIST, none, one, reply, reply, none, none)

    async def main() -> None:
        assert (await start_refused())["capacity"] == "free"
        assert_nothing_remains()

    asyncio.run(main())
    assert len(polls) >= 3  # aiohttp repeats a GET after a broken connection


@pytest.mark.parametrize(
    "reply",
    [error(403, "insufficient_scope"), error(403, "forbidden"), html(403)],
    ids=["scope", "unsaid", "proxy"],
)
def test_triggers_fire_one_by_one_when_kernel_refuses_the_poll_alone(server, polls, reply):
    server.on(LIST, reply)

    async def main() -> list[int]:
        waits = [start_refused(1000 + number) for number in range(3)]
        polls_before = []
        for number, wait in enumerate(waits):
            assert (await wait)["capacity"] == "free"
            polls_before.append(len(polls))
            assert not any(other.done() for other in waits[number + 1 :])
        return polls_before

    first, second, third = asyncio.run(main())
    assert first < second < third


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (error(401, "unauthorized"), "Kernel answered 401 unauthorized: Kernel's sentence."),
        (
            Reply(403, {"code": "x", "message": "Spending cap reached"}),
            "The spending cap of the organization",
        ),
        (error(404, "project_not_found"), "The connection names a project that does not exist"),
    ],
)
def test_all_triggers_fire_unknown_with_the_reason_when_kernel_would_refuse_a_submission(
    server, polls, reply, says
):
    server.on(LIST, reply)

    async def main() -> list[dict[str, Any]]:
        events = await asyncio.gather(*(start_refused(1000) for _ in range(3)))
        assert_nothing_remains()
        return events

    for event in asyncio.run(main()):
        assert event["capacity"] == "unknown"
        assert says in event["message"]
    assert len(polls) == 2  # the second poll with the connection read anew


def test_trigger_keeps_waiting_when_the_token_was_replaced(server, polls, monkeypatch):
    connection = {"conn_type": "kernel", "host": server.url, "password": "sk_the_new_one"}
    none = Reply(200, [], {"X-Has-More": "false"})

    def answer(request: Request) -> Reply:
        monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", json.dumps(connection))
        return none if request.headers["Authorization"] == "Bearer sk_the_new_one" else error(401)

    server.on(LIST, answer)
    assert asyncio.run(fire(KernelCapacityTrigger(refused_at=time.time())))["capacity"] == "free"


def test_list_active_ids_reads_small_pages(server):
    def page(request: Request) -> Reply:
        query = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}
        every = [{"id": f"{query['status']}{n}", "status": query["status"]} for n in range(45)]
        begin, end = int(query["offset"]), int(query["offset"]) + int(query["limit"])
        more = end < len(every)
        return Reply(
            200,
            every[begin:end],
            {"X-Has-More": str(more).lower(), "X-Next-Offset": str(end if more else 0)},
        )

    server.on(LIST, page)
    active = asyncio.run(with_hook(KernelAsyncHook.list_active_ids))
    assert active == {f"{status}{n}" for status in ("queued", "running") for n in range(45)}
    assert len(server.requests) == 6
    assert all("limit=20" in request.path for request in server.requests)


def test_list_active_ids_ignores_ended_invocations_and_stops_at_max_active(server, monkeypatch):
    monkeypatch.setattr(kernel_async, "MAX_ACTIVE", 100)
    ended = [{"id": f"i{n}", "status": "succeeded"} for n in range(19)]

    def page(request: Request) -> Reply:
        offset = int(parse_qs(urlsplit(request.path).query)["offset"][0])
        items = [*ended, {"id": f"r{offset}", "status": "running"}]
        return Reply(200, items, {"X-Has-More": "true", "X-Next-Offset": str(offset + 20)})

    server.on(LIST, page)
    assert asyncio.run(with_hook(KernelAsyncHook.list_active_ids)) == {"r0", "r20", "r40", "r60", "r80"}
    assert len(server.requests) == 10


async def with_hook(call: Callable[[KernelAsyncHook], Awaitable[Any]]) -> Any:
    async with KernelAsyncHook() as hook:
        return await call(hook)


def test_task_log_tells_position_and_end_of_the_wait(full, polls, monkeypatch):
    lines: dict[str, list[str]] = {}

    async def main() -> None:
        waits = []
        for name, seconds in (("second", 2000), ("first", 1000)):
            now = time.time()
            trigger = KernelCapacityTrigger(refused_at=now, deadline=now + seconds)
            trigger._log = Log(lines.setdefault(name, []))
            waits.append(asyncio.create_task(fire(trigger)))
            await polled_again(polls)
        full.end_one()
        await waits[1]
        waits[0].cancel()
        await asyncio.wait(waits)

    asyncio.run(main())
    (waiting,) = lines["second"]
    assert waiting.startswith("The Kernel account is full. The task waits for capacity for at most ")
    assert waiting.endswith(" s, at position 1 in this triggerer's queue.")
    assert lines["first"][1:] == [
        "The Kernel account may have capacity. The task submits the invocation again."
    ]


class Log:
    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def info(self, message: str, *arguments: Any) -> None:
        self.lines.append(message % arguments)


def test_trigger_loads_arguments_of_another_version():
    _, arguments = KernelCapacityTrigger("other", 1.0, 2.0, 3.0).serialize()
    assert KernelCapacityTrigger(**arguments, new_in_another_version=1).serialize()[1] == arguments
    assert KernelCapacityTrigger().deadline is None


def test_serialize_returns_the_class_path():
    path, _ = KernelCapacityTrigger().serialize()
    assert path == f"{triggers.__name__}.{KernelCapacityTrigger.__name__}"
