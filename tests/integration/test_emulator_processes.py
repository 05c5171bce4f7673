"""The processes of an invocation: what ends them, and that none is left."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import kernel
import psutil
import pytest

from airflow_provider_kernel.emulator import forkserver
from airflow_provider_kernel.emulator.contract import InvokeRequest
from airflow_provider_kernel.emulator.deployments import Deployments
from airflow_provider_kernel.emulator.engine import Engine
from tests.integration.conftest import APP, client_of

pytestmark = pytest.mark.no_airflow

LATEST = {"app_name": "tests", "version": "latest"}


def spawn(client: kernel.Kernel) -> tuple[str, list[int]]:
    """Invoke the action that starts processes. Return the invocation's id and the pids, which the action prints."""
    reply = client.invocations.create(**LATEST, action_name="spawn", payload='{"seconds": 600}', async_=True)
    with client.invocations.follow(reply.id) as stream:
        line = next(event.message for event in stream if event.event == "log")
    return reply.id, [int(pid) for pid in line.split()[1:]]


def descendants(pid: int) -> list[int]:
    """Return the pids of all descendants of a process."""
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


def test_no_process_is_left_when_an_invocation_is_cancelled(client, alive):
    invocation_id, pids = spawn(client)
    assert alive(pids) == pids

    client.invocations.update(invocation_id, status="failed")

    assert alive(pids) == []


def test_no_process_is_left_when_the_action_returns(client, alive):
    reply = client.invocations.create(**LATEST, action_name="spawn", payload='{"seconds": 0}')

    assert reply.status == "succeeded"
    assert len(json.loads(reply.output)) == 4
    assert alive(json.loads(reply.output)) == []


def test_no_process_is_left_when_a_synchronous_invocation_reaches_its_time_limit(start_emulator, alive):
    client = client_of(start_emulator(sync_timeout=0.5))

    started = time.monotonic()
    reply = client.invocations.create(**LATEST, action_name="spawn", payload='{"seconds": 600}')

    assert 0.5 <= time.monotonic() - started < 5
    assert (reply.status, reply.output) == ("failed", None)
    assert "0.5 seconds" in reply.status_reason
    log = next(event.message for event in client.invocations.follow(reply.id) if event.event == "log")
    assert alive(int(pid) for pid in log.split()[1:]) == []


def test_no_process_is_left_when_an_asynchronous_invocation_reaches_its_time_limit(alive):
    deployments = Deployments(os.environ)
    deployments.start(APP)

    async def run():
        deployments.wait()
        engine = Engine(deployments, max_concurrency=None, sync_timeout=60)
        # The API's minimum is ten seconds.
        request = InvokeRequest("tests", "spawn", "latest", '{"seconds": 600}', True, async_timeout=1)
        invocation = engine.submit(request)
        await engine.wait_for_end(invocation)
        return invocation

    try:
        invocation = asyncio.run(run())
    finally:
        deployments.close()
    assert (invocation.status, invocation.reason) == (
        "failed",
        "The invocation exceeded its time limit of 1 seconds.",
    )
    assert 1.0 <= (invocation.finished - invocation.started) / 1e9 < 5
    assert alive(int(pid) for pid in invocation.logs[0][1].split()[1:]) == []


@pytest.mark.parametrize(
    ("action", "payload", "reason"),
    [
        ("exit", {"code": 0}, "exit status 0"),
        ("exit", {"code": 3}, "exit status 3"),
        (
            "exit",
            {"signal": signal.SIGKILL},
            "signal SIGKILL",
        ),  # Linux sends this signal when memory runs out.
        ("segfault", None, "signal SIGSEGV"),
        ("orphan", None, "lost"),
        ("unjson", "set", "not JSON"),
        ("unjson", "nan", "not JSON"),
        ("unjson", "itself", "not JSON"),
        ("unjson", "raises", "not JSON: the database is gone"),
        ("big", {"n": 17 * 2**20}, "more than 16 MiB"),
        ("echo", None, "exception"),
    ],
)
def test_crash_fails_the_invocation_and_nothing_else(client, action, payload, reason):
    given = {} if payload is None else {"payload": json.dumps(payload)}

    reply = client.invocations.create(**LATEST, action_name=action, **given)

    assert reply.status == "failed"
    assert reason in reply.status_reason
    assert client.invocations.create(**LATEST, action_name="echo", payload="1").status == "succeeded"


def test_output_of_megabytes_is_complete(client):
    reply = client.invocations.create(**LATEST, action_name="big", payload='{"n": 8000000}')

    assert json.loads(reply.output) == "x" * 8_000_000


def test_error_text_is_cut_after_64_kib(client):
    message = json.dumps({"message": "x" * 1_000_000})

    reply = client.invocations.create(**LATEST, action_name="fail", payload=message)

    assert reply.output == ("ValueError: " + "x" * 1_000_000)[:65_536]


@pytest.mark.parametrize(
    ("fail", "status", "output"),
    [(False, "succeeded", "1"), (True, "failed", "ValueError: after the streams are closed")],
)
def test_result_is_received_when_the_action_closes_its_streams(client, fail, status, output):
    payload = json.dumps({"fail": fail})

    reply = client.invocations.create(**LATEST, action_name="mute", payload=payload)

    assert (reply.status, reply.output) == (status, output)


def test_action_can_wrap_its_streams_when_the_emulator_writes_to_a_file(client):
    # The standard error of this emulator is a file, and apps are imported with it.
    reply = client.invocations.create(**LATEST, action_name="rewrap")

    assert reply.status == "succeeded", reply.output
    assert "rewrapped" in [
        event.message for event in client.invocations.follow(reply.id) if event.event == "log"
    ]


def test_forked_process_does_not_answer_for_the_action(client):
    assert client.invocations.create(**LATEST, action_name="fork").output == '"parent"'


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a killed process")
def test_server_keeps_no_descriptor_when_a_process_outlives_its_killed_supervisor(start_emulator, until):
    emulator = start_emulator()
    client = client_of(emulator)
    server = psutil.Process(emulator.pid)
    client.invocations.create(**LATEST, action_name="echo", payload="1")
    descriptors = server.num_fds()

    reply = client.with_options(timeout=10).invocations.create(**LATEST, action_name="orphan_fork")

    assert "lost" in reply.status_reason
    until(lambda: server.num_fds() <= descriptors)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills when memory runs out")
def test_action_is_killed_first_when_memory_runs_out(client, emulator):
    invocation_id, pids = spawn(client)

    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    assert {score(pid) for pid in pids} == {1000}
    assert score(emulator.pid) < 1000
    assert score(psutil.Process(pids[0]).ppid()) < 1000
    client.invocations.update(invocation_id, status="failed")


@pytest.fixture
def waiting(start_emulator, until):
    """A client of an emulator of its own; its forkserver, and the supervisor and worker that wait for an invocation."""
    emulator = start_emulator()
    forkserver = psutil.Process(emulator.pid).children()[0]
    return client_of(emulator), forkserver, until(lambda: pair(forkserver))


def pair(forkserver):
    """Return the only supervisor and its worker; None while there are others, or not yet both."""
    try:
        supervisor, worker = forkserver.children(recursive=True)
        return [supervisor, worker] if worker.ppid() == supervisor.pid else None
    except (ValueError, psutil.NoSuchProcess):
        return None


def test_worker_waits_for_each_invocation(waiting, until):
    client, forkserver, (_, worker) = waiting

    for _ in range(3):
        reply = client.invocations.create(**LATEST, action_name="spawn", payload='{"seconds": 0}')

        assert json.loads(reply.output)[0] == worker.pid
        _, worker = until(lambda: pair(forkserver))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a killed process")
@pytest.mark.parametrize("number", [0, 1], ids=["supervisor", "worker"])
def test_invocation_succeeds_after_a_process_that_waits_is_killed(waiting, until, number):
    client, forkserver, processes = waiting

    processes[number].kill()
    until(lambda: forkserver.children(recursive=True) == [])

    for _ in range(2):
        assert client.invocations.create(**LATEST, action_name="echo", payload="1").status == "succeeded"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_all_processes_and_streams_get_the_terminal_state(start_emulator, alive, number):
    emulator = start_emulator()
    client = client_of(emulator)
    invocation_id, pids = spawn(client)
    pids += descendants(emulator.pid)
    with client.invocations.follow(invocation_id) as stream:
        assert next(stream).event == "invocation_state"
        server = psutil.Process(emulator.pid)

        started = time.monotonic()
        server.send_signal(number)
        *_, last = stream

        assert (last.event, last.invocation.status) == ("invocation_state", "failed")
    assert emulator.stop() == 0
    assert time.monotonic() - started < 10
    assert alive(pids) == []


def test_no_process_is_left_when_the_server_is_killed(start_emulator, alive, until):
    emulator = start_emulator()
    _, pids = spawn(client_of(emulator))
    pids += descendants(emulator.pid)

    psutil.Process(emulator.pid).kill()

    until(lambda: alive(pids) == [])


def test_server_ends_and_no_process_is_left_when_the_forkserver_is_killed(start_emulator, alive, until):
    emulator = start_emulator()
    _, pids = spawn(client_of(emulator))
    pids += descendants(emulator.pid)

    psutil.Process(emulator.pid).children()[0].kill()

    until(lambda: alive([*pids, emulator.pid]) == [])
    assert emulator.stop() == 1


def test_orphans_of_a_killed_supervisor_end_with_the_emulator(start_emulator, alive, until):
    emulator = start_emulator()
    client = client_of(emulator)
    invocation_id, pids = spawn(client)

    psutil.Process(pids[0]).parent().kill()
    until(lambda: client.invocations.retrieve(invocation_id).status == "failed")
    emulator.stop()

    assert alive(pids) == []


def test_emulator_ends_when_the_process_that_started_it_is_killed(alive, until):
    script = """
        import sys
        from airflow_provider_kernel.testing import KernelEmulator
        with KernelEmulator(sys.argv[1:]) as emulator:
            print(emulator.pid, flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(APP)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        pid = int(process.stdout.readline())
        pids = [pid, *descendants(pid)]
        process.kill()

    until(lambda: alive(pids) == [])


def test_forkserver_ends_without_a_word_when_the_server_has_ended_before_it_read():
    server, control = socket.socketpair()
    with control:
        forkserver._send(control, {"apps": {}})
        server.close()
        forkserver._fork_supervisors(control, lambda *_: None)
