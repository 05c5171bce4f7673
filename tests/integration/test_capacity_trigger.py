"""The wait for room in a full account: triggers in one event loop, against a real emulator."""

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

#: How much faster than in life everything is here.
SPEED = 50
LIST = "GET /invocations"
UNSCALED = ("POLL_SHARE", "PRIORITY_WITHOUT_DEADLINE")


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Every time of the queue, by ``SPEED``; no probes, unless a test wants them."""
    for module in (capacity_queue, capacity_limit):
        for name, value in vars(module).items():
            if name.isupper() and isinstance(value, float) and name not in UNSCALED:
                monkeypatch.setattr(module, name, value / SPEED)
    monkeypatch.setattr(capacity_limit, "PROBE_PAUSE", 1e9)


@pytest.fixture
def looks(monkeypatch) -> list[float]:
    """When it was looked at the account."""
    times = []
    look = KernelAsyncHook.list_active_ids

    async def noted(self: KernelAsyncHook) -> frozenset[str]:
        times.append(time.time())
        return await look(self)

    monkeypatch.setattr(KernelAsyncHook, "list_active_ids", noted)
    return times


@pytest.fixture
def full(start_emulator, monkeypatch) -> Account:
    """An account in which two invocations may be active, and are."""
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
    """What an emulator's account holds."""

    def __init__(self, emulator: KernelEmulator) -> None:
        self.connection_json = emulator.connection_json
        self.active: list[str | None] = []
        self._http = httpx.Client(
            base_url=emulator.base_url,
            headers={"Authorization": f"Bearer {emulator.api_key}"},
            timeout=20,
            # One thread may close a kept connection at the moment in which another takes it.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def submit(self, action: str, payload: Any) -> str | None:
        """Return the id; None: the account is full."""
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
    """Return what the trigger's one event carries."""
    (event,) = [event async for event in trigger.run()]
    return event.payload


def refused(seconds: float = 3600.0, **arguments: Any) -> asyncio.Task[dict[str, Any]]:
    """Start a trigger for one who was refused now, with a deadline in so many seconds."""
    now = time.time()
    arguments = {"refused_at": now, "deadline": now + seconds, **arguments}
    return asyncio.create_task(fire(KernelCapacityTrigger(**arguments)))


async def until(condition: Callable[[], Any], what: str) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


async def looked_again(looks: list[float], times: int = 2) -> None:
    enough = len(looks) + times
    await until(lambda: len(looks) >= enough, "it looks again")


def nothing_is_left() -> None:
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not kernel_async._shared.here()


def test_one_goes_for_each_that_ends_in_the_order_of_their_deadlines(full, looks):
    async def main() -> None:
        last, first, second = refused(3000), refused(1000), refused(2000)
        waits = {first, second, last}
        await looked_again(looks)
        assert not any(wait.done() for wait in waits)
        for wait in (first, second):
            full.end_one()
            done, _ = await asyncio.wait(waits, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            assert done == {wait}
            assert wait.result()["capacity"] == "free"
            waits -= done
            full.active.insert(0, full.submit("sleep", {"seconds": 600}))
            await looked_again(looks)
        assert not last.done()
        last.cancel()
        await asyncio.wait([last])

    asyncio.run(main())


def test_however_many_wait_one_looks_for_them_and_not_too_often(full, looks):
    async def main() -> None:
        waits = [refused() for _ in range(30)]
        await looked_again(looks, 6)
        assert kernel_async._shared.here()["kernel_default"].users == 1
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
        nothing_is_left()

    asyncio.run(main())
    assert all(later - at >= capacity_queue.POLL_PAUSE for at, later in itertools.pairwise(looks))


def test_twenty_against_four_all_get_in_without_a_stampede(start_emulator, monkeypatch, looks):
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
        await until(lambda: account.count("succeeded") == 20, "all have run, once each")
        nothing_is_left()

    asyncio.run(main())
    assert min(pauses) >= capacity_queue.MIN_PAUSE
    assert len(tries) <= 3 * 20
    assert all(later - at >= capacity_queue.POLL_PAUSE for at, later in itertools.pairwise(looks))


def test_at_the_deadline_it_says_so_and_not_before(full, mocker):
    on_listed = mocker.spy(capacity_queue.CapacityQueue, "on_listed")

    async def main() -> None:
        deadline = time.time() + 0.7
        assert await fire(KernelCapacityTrigger(refused_at=time.time(), deadline=deadline)) == {
            "capacity": "timeout",
            "deadline": deadline,
        }
        assert deadline <= time.time()
        assert on_listed.call_args.args[-1] >= deadline  # the last chance: a look that ended after it
        nothing_is_left()

    asyncio.run(main())


def test_a_cancelled_trigger_leaves_the_queue_and_its_turn_to_the_next(full, looks):
    async def main() -> None:
        first, second = refused(1000), refused(2000)
        await looked_again(looks)
        first.cancel()
        await asyncio.wait([first])
        full.end_one()
        assert (await second)["capacity"] == "free"
        nothing_is_left()

    asyncio.run(main())


@pytest.mark.parametrize("while_looking", [True, False])
def test_the_last_to_be_cancelled_leaves_nothing_behind(server, looks, while_looking):
    async def main() -> None:
        server.on(LIST, lambda request: Reply(200, []) if not while_looking else hang())
        wait = refused()
        await until(lambda: looks and (server.requests or not while_looking), "it looks")
        wait.cancel()
        await asyncio.wait([wait])
        assert wait.cancelled()
        nothing_is_left()

    def hang() -> Reply:
        server.over.wait(20)
        return Reply(drop=True)

    asyncio.run(main())


def test_who_comes_as_the_last_leaves_is_served_too(full, looks):
    async def main() -> None:
        for _ in range(5):
            wait = refused()
            await asyncio.sleep(0)
            wait.cancel()
            await asyncio.sleep(0)
        successor = refused()
        await looked_again(looks)
        full.end_one()
        assert (await successor)["capacity"] == "free"
        await until(lambda: len(asyncio.all_tasks()) == 1, "the cancelled ones end")
        nothing_is_left()

    asyncio.run(main())


def test_a_connection_that_cannot_be_used_ends_the_wait_of_all(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", '{"conn_type": "http", "password": "sk_secret"}')

    async def main() -> list[dict[str, Any]]:
        events = await asyncio.gather(*(refused(deadline=None, kernel_conn_id="other") for _ in range(3)))
        nothing_is_left()
        return events

    for event in asyncio.run(main()):
        assert event.pop("message").startswith("The Airflow connection 'other' is of the type 'http'.")
        assert event == {"capacity": "unknown", "deadline": None}


def test_a_mistake_of_ours_makes_no_trigger_wait_for_ever(full, monkeypatch):
    async def broken(self: KernelAsyncHook) -> frozenset[str]:
        raise ZeroDivisionError

    monkeypatch.setattr(KernelAsyncHook, "list_active_ids", broken)

    async def main() -> None:
        results = await asyncio.gather(refused(), refused(), return_exceptions=True)
        assert [type(result) for result in results] == [ZeroDivisionError] * 2
        nothing_is_left()

    asyncio.run(main())


@pytest.mark.parametrize("trouble", [error(503), error(429), html(502), html(200), Reply(drop=True)])
def test_trouble_with_looking_is_waited_out(server, looks, trouble):
    one = Reply(200, [{"id": "i1", "status": "running"}], {"X-Has-More": "false"})
    none = Reply(200, [], {"X-Has-More": "false"})
    # A look that goes well has two requests: those queued, those running.
    server.on(LIST, none, one, trouble, trouble, none, none)

    async def main() -> None:
        assert (await refused())["capacity"] == "free"
        nothing_is_left()

    asyncio.run(main())
    assert len(looks) >= 3  # aiohttp itself repeats a GET whose connection broke


@pytest.mark.parametrize(
    "reply",
    [error(403, "insufficient_scope"), error(403, "forbidden"), html(403)],
    ids=["scope", "unsaid", "proxy"],
)
def test_where_looking_is_not_allowed_they_go_one_by_one(server, looks, reply):
    server.on(LIST, reply)

    async def main() -> list[int]:
        waits = [refused(1000 + number) for number in range(3)]
        gone = []
        for number, wait in enumerate(waits):
            assert (await wait)["capacity"] == "free"
            gone.append(len(looks))
            assert not any(other.done() for other in waits[number + 1 :])
        return gone

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
def test_what_no_wait_mends_ends_that_of_all_at_once_with_the_reason(server, looks, reply, says):
    server.on(LIST, reply)

    async def main() -> list[dict[str, Any]]:
        events = await asyncio.gather(*(refused(1000) for _ in range(3)))
        nothing_is_left()
        return events

    for event in asyncio.run(main()):
        assert event["capacity"] == "unknown"
        assert says in event["message"]
    assert len(looks) == 2  # the second with the connection read anew


def test_a_token_that_was_exchanged_meanwhile_ends_no_wait(server, looks, monkeypatch):
    connection = {"conn_type": "kernel", "host": server.url, "password": "sk_the_new_one"}
    none = Reply(200, [], {"X-Has-More": "false"})

    def answer(request: Request) -> Reply:
        monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", json.dumps(connection))
        return none if request.headers["Authorization"] == "Bearer sk_the_new_one" else error(401)

    server.on(LIST, answer)
    assert asyncio.run(fire(KernelCapacityTrigger(refused_at=time.time())))["capacity"] == "free"


def test_active_invocations_are_listed_in_small_pages(server):
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


def test_what_has_ended_does_not_count_as_active_and_a_list_without_end_is_left(server, monkeypatch):
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


def test_the_tasks_log_says_that_it_waits_at_which_place_and_when_it_goes(full, looks, monkeypatch):
    lines: dict[str, list[str]] = {}

    async def main() -> None:
        waits = []
        for name, seconds in (("second", 2000), ("first", 1000)):
            now = time.time()
            trigger = KernelCapacityTrigger(refused_at=now, deadline=now + seconds)
            trigger._log = Log(lines.setdefault(name, []))
            waits.append(asyncio.create_task(fire(trigger)))
            await looked_again(looks)
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


def test_arguments_that_another_version_wrote_load():
    _, arguments = KernelCapacityTrigger("other", 1.0, 2.0, 3.0).serialize()
    assert KernelCapacityTrigger(**arguments, new_in_another_version=1).serialize()[1] == arguments
    assert KernelCapacityTrigger().deadline is None


def test_the_trigger_is_found_by_its_path():
    path, _ = KernelCapacityTrigger().serialize()
    assert path == f"{triggers.__name__}.{KernelCapacityTrigger.__name__}"
