"""
The metrics that StatsD receives over UDP.

Each test runs in a process of its own, which configures metrics as a task's process or a triggerer does.
"""

from __future__ import annotations

import re

import pytest

from airflow_provider_kernel import metrics
from tests.integration.forkserver import ForkServer
from tests.integration.scripted import Stream, invocation, state
from tests.integration.task import Task
from tests.statsd import StatsD

#: From Airflow 3.2 on, a triggerer and a task configure different Stats objects.
BEGIN = """
import asyncio
from contextlib import suppress
from importlib import import_module
with suppress(ImportError):
    stats = import_module("{where}.stats")
    get_stats_factory = import_module("{where}.metrics.stats_utils").get_stats_factory
    if hasattr(stats, "initialize"):
        stats.initialize(factory=get_stats_factory(), export_legacy_names=True)
    else:  # 3.2
        stats.Stats.initialize(factory=get_stats_factory(stats.Stats))
"""
TASK = BEGIN.format(where="airflow.sdk.observability") + (
    "from airflow_provider_kernel.api.errors import KernelInvocationFailedError\n"
    "from tests.integration.task import Task\n"
)
TRIGGERER = BEGIN.format(where="airflow.observability") + (
    "from tests.integration.task import first_event\n"
    "from airflow_provider_kernel.triggers.kernel import KernelInvocationTrigger\n"
    "asyncio.run(first_event(KernelInvocationTrigger('inv1')))\n"
)


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """Run code in a process that sends to StatsD; return the received metrics."""
    with StatsD() as statsd, ForkServer(tmp_path_factory.mktemp("airflow"), **statsd.env) as server:

        def run(code):
            done = server.run(code)
            assert done.returncode == 0, done.stderr[-3000:]
            return statsd.received()

        yield run


@pytest.fixture
def cut_stream(server):
    """A Kernel whose first event stream is cut."""
    server.on("POST /invocations", invocation("queued"))
    server.on("GET /invocations/inv1", invocation("running"), invocation("running"), invocation("succeeded"))
    server.on("GET /invocations/inv1/events", Stream(end="cut"), Stream(state("succeeded")))


def counted(received):
    return [line for line in received if not line.startswith("airflow.kernel.waited")]


def test_task_counts_submitted_and_ended_invocations(sent, emulator_env):
    received = sent(
        TASK
        + "Task('sleep', {'seconds': 1}).run()\n"
        + "Task('echo', 1, wait_for_completion=False).run()\n"
        + "with suppress(KernelInvocationFailedError):\n    Task('fail', {'message': 'no'}, deferrable=False).run()\n"
    )
    assert counted(received) == [
        "airflow.kernel.submitted,app=tests,action=sleep:1|c",
        "airflow.kernel.succeeded,app=tests,action=sleep:1|c",
        "airflow.kernel.submitted,app=tests,action=echo:1|c",
        "airflow.kernel.submitted,app=tests,action=fail:1|c",
        "airflow.kernel.failed,app=tests,action=fail:1|c",
    ]
    waited = [
        re.fullmatch(r"airflow\.kernel\.waited,app=tests,action=(\w+):([\d.]+)\|ms", line)
        for line in received
        if line not in counted(received)
    ]
    assert [found[1] for found in waited] == ["sleep", "fail"]
    assert 1000 <= float(waited[0][2]) < 60_000


@pytest.mark.one_airflow
def test_invocation_cancelled_by_a_killed_task_is_counted_as_failed(sent, emulator_env):
    received = sent(
        TASK
        + "from airflow_provider_kernel.api.errors import KernelError\n"
        + "task = Task('sleep', {'seconds': 60}, deferrable=False)\n"
        + "task.state = 'failed'\n"
        + "task.at('after:accepted', task.operator.on_kill)\n"
        + "with suppress(KernelError):\n    task.run()\n"
    )
    assert counted(received) == [
        "airflow.kernel.submitted,app=tests,action=sleep:1|c",
        "airflow.kernel.failed,app=tests,action=sleep:1|c",
    ]


@pytest.mark.one_airflow
def test_wait_is_measured_from_the_submission_without_a_record(sent, emulator_env):
    received = sent(TASK + "Task('sleep', {'seconds': 1}, durable=False).run()\n")
    [waited] = [line for line in received if line not in counted(received)]
    assert 1000 <= float(re.search(r":([\d.]+)\|ms", waited)[1]) < 60_000


@pytest.mark.one_airflow
def test_wait_of_unknown_length_is_not_sent(sent, emulator_env):
    received = sent(
        TASK
        + "task = Task('echo', 1, durable=False)\n"
        + "deferral = task.defer()\n"
        + "deferral.kwargs.pop('submitted_at', None)\n"  # as an older version of this provider left it
        + "task.legs(task.resume(deferral))\n"
    )
    assert received == [
        "airflow.kernel.submitted,app=tests,action=echo:1|c",
        "airflow.kernel.succeeded,app=tests,action=echo:1|c",
    ]


@pytest.mark.one_airflow
def test_reconnected_stream_is_counted_on_a_worker(sent, cut_stream):
    received = sent(TASK + "Task(deferrable=False).run()\n")
    assert counted(received)[1] == "airflow.kernel.reconnects,app=shop,action=price:1|c"
    assert len(counted(received)) == 3


@pytest.mark.one_airflow
def test_reconnected_stream_is_counted_in_a_triggerer(sent, cut_stream):
    received = sent(TRIGGERER)
    assert received == ["airflow.kernel.reconnects,app=shop,action=price:1|c"]


@pytest.mark.one_airflow
def test_metric_that_cannot_be_sent_is_a_warning(emulator_env, mocker, told):
    # Airflow itself fails if the metrics backend cannot be loaded; a backend may also raise later.
    mocker.patch.object(metrics, "_stats", side_effect=OSError("statsd.example: hunter2"))
    assert Task("echo", 7, deferrable=False).run() == 7
    log = told()
    assert "The metric kernel.submitted could not be sent: OSError." in log
    assert "hunter2" not in log
