"""
The operator and its trigger over real HTTP against the emulator, in this process.

What Airflow does between the legs of a deferral is played (see ``Task``). The real Airflow is in the system tests;
what each option of the operator does is in ``test_parity``.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, XCom
from airflow.triggers.base import BaseTrigger

from airflow_provider_kernel.api.errors import (
    KernelError,
    KernelInvocationFailedError,
    KernelInvocationTimeoutError,
    KernelInvocationUnknownError,
)
from airflow_provider_kernel.lifecycle import wait_machine
from airflow_provider_kernel.lifecycle.log_buffer import REPLAY
from airflow_provider_kernel.transport import errors
from airflow_provider_kernel.triggers import kernel as kernel_trigger
from airflow_provider_kernel.triggers.kernel import KernelInvocationTrigger
from tests.integration.scripted import Reply, Stream, error, invocation, log, state
from tests.integration.task import Task, both_waits, first_event, started, tell_states

#: Seconds that no test takes.
LONG = 600


@pytest.fixture(autouse=True)
def connection(emulator_env, no_backoff):
    """Reach the emulator, unless a test has a server of its own."""


@both_waits
def test_a_large_output_arrives_whole_and_stays_out_of_the_event(deferrable):
    task = Task("big", {"n": 3_000_000}, deferrable=deferrable)
    assert len(task.run()) == 3_000_000
    if deferrable:
        assert task.event == {"invocation_id": task.invocation_id, "status": "succeeded"}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "has no token. Make one at https://dashboard.onkernel.com/api-keys"),
        ({"password": "sk_x", "host": "http://kernel.example.com"}, "unencrypted to kernel.example.com"),
        ({"password": "sk_x", "extra": {"timeout": "soon"}}, "'timeout' must be seconds"),
        (
            {"password": "pg_secret", "conn_type": "postgres"},
            "has the type 'postgres'. Pass or make one of type 'kernel'",
        ),
    ],
)
@both_waits
def test_an_unusable_connection_says_what_to_write_without_a_secret(connect, fields, says, deferrable):
    connect("shop", **fields)
    with pytest.raises(AirflowFailException, match=re.escape(says)) as unusable:
        Task(kernel_conn_id="shop", deferrable=deferrable).run()
    assert "may be running" not in str(unusable.value)
    assert "secret" not in str(unusable.value)


def test_the_log_names_the_accepted_invocation(told):
    task = Task("echo", 1, wait_for_completion=False)
    task.run()
    said = rf"Kernel accepted invocation {task.invocation_id}: http\S+ \(tests/echo, version latest\)"
    assert re.search(said, told())


@pytest.mark.parametrize(
    "argument", [{"timeout": 1e18}, {"deferrable": "no"}, {"follow_logs": None}, {"payload": Path("/x")}]
)
def test_a_wrong_argument_is_refused_before_the_submission(argument):
    with pytest.raises(ValueError, match=next(iter(argument))):
        Task(**argument)


@pytest.mark.parametrize("conn_id", [None, ""])
def test_an_empty_rendered_connection_id_fails_without_a_retry(conn_id):
    task = Task(kernel_conn_id="{{ params.conn_id }}")
    task.operator.kernel_conn_id = conn_id
    with pytest.raises(AirflowFailException, match=r"kernel_conn_id (is empty|must be a string)"):
        task.run()


def test_a_wrong_rendered_payload_is_not_submitted():
    task = Task("echo", "{{ params.json }}")
    task.operator.payload = "not json"
    with pytest.raises(AirflowFailException, match="payload is a string that is not JSON text"):
        task.run()
    assert task.xcom == {}


@both_waits
@pytest.mark.parametrize(
    ("refuse", "project", "says"),
    [
        ("spending-cap", None, "The spending cap of the organization or of the project is reached"),
        ("insufficient-scope", None, "The scope of the API key does not allow this"),
        (
            "other-project",
            "reports",
            "The API key is of another project than the one that the connection names",
        ),
        ("unknown-project", "reports", "The connection names a project that does not exist or is not active"),
    ],
)
def test_a_refusal_says_why_and_is_not_retried(
    start_emulator, monkeypatch, refuse, project, says, deferrable
):
    emulator = start_emulator(refuse=refuse)
    connection = {**json.loads(emulator.connection_json), "extra": {"project": project}}
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", json.dumps(connection))
    with pytest.raises(AirflowFailException, match=rf"{says}.*\. The task is not retried"):
        Task(deferrable=deferrable, retries=2).run()


@pytest.fixture
def running_for_ever(server):
    server.on("POST /invocations", Reply(202, {"id": "inv1", "action_name": "a", "status": "queued"}))
    server.on("GET /invocations/inv1/events", Stream(state("running"), end="silent"))
    server.on("GET /invocations/inv1", invocation("running"))
    server.on("PATCH /invocations/inv1", invocation("failed"))
    server.on("DELETE /invocations/inv1/browsers", Reply(204))


@pytest.mark.usefixtures("running_for_ever")
class TestAgainstAKernelThatMisbehaves:
    """What the emulator, being well-behaved, never says."""

    def test_an_invocation_that_ended_with_the_reply_does_not_defer(self, server):
        reply = {"id": "inv1", "action_name": "a", "status": "succeeded", "output": "[1]"}
        server.on("POST /invocations", Reply(202, reply))
        task = Task()
        assert task.run() == [1]
        assert not task.deferred
        assert len(server.requests) == 1

    @both_waits
    def test_an_unknown_status_is_not_a_success(self, server, deferrable):
        server.on("GET /invocations/inv1", invocation("completed", output="1"))
        server.on("GET /invocations/inv1/events", Stream(state("completed")))
        with pytest.raises(KernelInvocationTimeoutError):
            Task(deferrable=deferrable, timeout=0.5).run()
        assert len(server.seen("PATCH /invocations/inv1")) == 1

    @both_waits
    def test_a_deadline_without_a_cancellation_fails_without_a_retry(self, server, deferrable):
        server.on("PATCH /invocations/inv1", error(403))
        with pytest.raises(
            AirflowFailException, match=r"could not be cancelled and may be running.*second time"
        ):
            Task(deferrable=deferrable, timeout=0.3).run()

    @both_waits
    def test_an_end_found_while_cancelling_counts(self, server, deferrable):
        looks = [invocation("running"), invocation("running"), invocation("succeeded", output="7")]
        server.on("GET /invocations/inv1", *looks)
        server.on("PATCH /invocations/inv1", error(400))
        assert Task(deferrable=deferrable, timeout=0.3).run() == 7

    @both_waits
    def test_a_token_revoked_meanwhile_ends_the_wait_with_the_reason(self, server, deferrable):
        server.on("GET /invocations/inv1/events", error(401))
        server.on("GET /invocations/inv1", error(401))
        with pytest.raises(
            AirflowFailException, match=r"could not be determined: Kernel answered 401.*may be running"
        ):
            Task(deferrable=deferrable).run()

    def test_a_success_is_not_lost_if_kernel_is_away_at_the_end(self, server, monkeypatch):
        monkeypatch.setattr(wait_machine.WaitMachine, "_pause", lambda self, count: 0.01)
        away = [error(503)] * (2 * errors.MAX_ATTEMPTS)
        server.on("GET /invocations/inv1/events", Stream(state("succeeded")))
        server.on("GET /invocations/inv1", *away, invocation("succeeded", output="7"))
        task = Task(poll_interval=0.1)
        event = {"invocation_id": "inv1", "status": "succeeded"}
        assert task.operator.execute_complete(task.context, event) == 7
        assert server.seen("PATCH /invocations/inv1") == []

    def test_a_wait_on_the_worker_asks_once_for_an_invocation_without_output(self, server):
        server.on("GET /invocations/inv1/events", Stream(state("succeeded")))
        server.on("GET /invocations/inv1", invocation("succeeded"))
        assert Task(deferrable=False).run() is None
        assert len(server.seen("GET /invocations/inv1")) == 1

    @both_waits
    def test_half_a_surrogate_pair_becomes_text_that_airflow_can_store(self, server, deferrable):
        server.on("GET /invocations/inv1/events", Stream(state("succeeded")))
        server.on(
            "GET /invocations/inv1", invocation("succeeded", output=json.dumps({"cut \ud83d": "😀 \ude00"}))
        )
        assert Task(deferrable=deferrable).run() == {"cut ?": "😀 ?"}
        server.on(
            "GET /invocations/inv1", invocation("failed", status_reason="cut \ud83d", output='"\ud83d"')
        )
        with pytest.raises(KernelInvocationFailedError) as failed:
            Task(deferrable=deferrable).run()
        assert str(failed.value).encode()

    @pytest.mark.parametrize("event", [{}, "succeeded", {"status": "succeeded"}, {"id": 1}])
    def test_an_event_of_another_trigger_concludes_nothing(self, event):
        task = Task()
        with pytest.raises(KernelError, match="not one of KernelInvocationTrigger"):
            task.operator.execute_complete(task.context, event)

    def test_an_event_that_get_does_not_confirm_is_not_a_success(self, server):
        task = Task()
        with pytest.raises(KernelInvocationUnknownError, match="was reported as succeeded, but is running"):
            task.operator.execute_complete(
                task.context, {"invocation_id": "inv1", "status": "succeeded", "confirmed": True}
            )
        assert server.seen("PATCH /invocations/inv1")

    def test_task_waits_on_when_get_denies_the_end_that_the_stream_reported(self, server):
        server.on("GET /invocations/inv1/events", Stream(state("succeeded")))
        running, ended = invocation("running"), invocation("succeeded", output="7")
        server.on("GET /invocations/inv1", running, running, ended)
        assert Task(poll_interval=0.1).run() == 7
        # The worker's, two of the second trigger, which does not take the stream's word, and the worker's.
        assert len(server.seen("GET /invocations/inv1")) == 4
        assert server.seen("PATCH /invocations/inv1") == []

    def test_deferred_wait_takes_one_request_and_the_worker_asks_once(self, server):
        server.on("GET /invocations/inv1/events", Stream(state("running"), state("succeeded")))
        server.on("GET /invocations/inv1", invocation("succeeded", output="7"))
        assert Task().run() == 7
        assert len(server.seen("GET /invocations/inv1/events")) == 1
        assert len(server.seen("GET /invocations/inv1")) == 1

    def test_an_xcom_that_cannot_be_pushed_does_not_lose_the_invocation(self, server):
        server.on("GET /invocations/inv1", invocation("succeeded", output="1"))
        server.on("GET /invocations/inv1/events", Stream(state("succeeded")))
        task = Task()
        task.ti.xcom_push = lambda key, value: 1 / 0
        assert task.run() == 1


@pytest.mark.usefixtures("running_for_ever")
class TestDeferAfter:
    def test_task_whose_invocation_ends_soon_is_not_deferred(self, server):
        server.on("GET /invocations/inv1/events", Stream(state("running"), state("succeeded")))
        server.on("GET /invocations/inv1", invocation("succeeded", output="7"))
        task = Task(defer_after=LONG)
        assert task.run() == 7
        assert not task.deferred
        assert len(server.seen("GET /invocations/inv1/events")) == 1
        assert len(server.seen("GET /invocations/inv1")) == 1

    def test_task_is_deferred_after_that_time_without_a_poll_and_each_line_is_shown_once(self, server, told):
        first, second = log("one", 1), log("two", 2)
        server.on(
            "GET /invocations/inv1/events",
            Stream(state("running"), first, end="silent"),
            Stream(state("running"), first, second, state("succeeded")),
        )
        server.on("GET /invocations/inv1", invocation("succeeded", output="7"))
        task = Task(defer_after=0.3)
        deferral = task.defer()
        assert server.seen("GET /invocations/inv1") == []
        assert task.resume(deferral)() == 7
        said = told()
        assert (said.count("Z one"), said.count("Z two")) == (1, 1)
        assert REPLAY not in said

    def test_kernel_that_is_away_does_not_keep_the_task_on_its_worker(self, server):
        server.on("GET /invocations/inv1/events", error(503))
        server.on("GET /invocations/inv1", error(503))
        Task(defer_after=0.3).defer()

    def test_deadline_that_passes_on_the_worker_is_judged_as_ever(self, server):
        with pytest.raises(KernelInvocationTimeoutError, match="had not ended by its deadline"):
            Task(defer_after=LONG, timeout=0.3).run()
        assert server.seen("PATCH /invocations/inv1")


class TestKill:
    def test_a_kill_before_the_submission_does_nothing(self):
        Task().operator.on_kill()

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            ("Trigger timeout", KernelInvocationTimeoutError),
            ("Trigger/execution timeout", KernelInvocationTimeoutError),  # Airflow 2
            ("Trigger failure", KernelInvocationUnknownError),
        ],
    )
    def test_an_ended_deferral_cancels_the_invocation(self, error, kind):
        task = Task("sleep", {"seconds": 60})
        task.defer()
        with pytest.raises(kind, match=rf"Airflow ended the wait .*{error}.*It was cancelled\. A retry"):
            task.operator.resume_execution("__fail__", {"error": error}, task.context)
        assert task.found.status == "failed"

    def test_an_ended_deferral_does_not_lose_a_result(self, until):
        task = Task("echo", {"a": 1})
        task.defer()
        until(lambda: task.found.is_ended)
        event = {"error": "Trigger timeout"}
        assert task.operator.resume_execution("__fail__", event, task.context) == {"a": 1}


class TestTrigger:
    def test_its_arguments_are_identifiers_and_numbers(self, emulator):
        task = Task("echo", {"secret": "canary"}, timeout=100, poll_interval=5, follow_logs=False)
        before = time.time()
        deferral = task.defer()
        path, arguments = deferral.trigger.serialize()
        assert path == "airflow_provider_kernel.triggers.kernel.KernelInvocationTrigger"
        assert before + 99 < arguments.pop("deadline") < time.time() + 101
        assert before < arguments.pop("deferred_at") < time.time()
        assert arguments == {
            "invocation_id": task.invocation_id,
            "kernel_conn_id": "kernel_default",
            "poll_interval": 5,
            "follow_logs": False,
            "cancel_on_kill": True,
            "durable": True,
            "cancel_on_timeout": True,
            "confirm_end": False,
            "log_position": [0, None],
        }
        assert 100 < deferral.timeout.total_seconds() < 1_000

    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            {"kernel_conn_id": "kernel_default", "deadline": 9e9, "poll_interval": 5.0, "follow_logs": True},
        ],
        ids=["only the id", "what an older version stored"],
    )
    def test_needs_only_the_invocation_id(self, submit, arguments):
        event = asyncio.run(first_event(KernelInvocationTrigger(submit("echo", 1), **arguments)))
        assert event["status"] == "succeeded"

    @pytest.mark.usefixtures("no_line_is_late")
    @pytest.mark.parametrize(("ago", "is_marked"), [(60.0, True), (1.0, False)])
    def test_a_log_that_is_shown_again_after_a_restart_is_marked(self, submit, told, ago, is_marked):
        invocation_id = submit("logs", {"n": 2}, wait_for="succeeded")
        asyncio.run(first_event(KernelInvocationTrigger(invocation_id, deferred_at=time.time() - ago)))
        said = told()
        assert said.count("[app] line 1") == 1
        assert (REPLAY in said) is is_marked

    def test_a_stopping_triggerer_cancels_nothing(self, running, status):
        async def start_and_stop():
            trigger = KernelInvocationTrigger(running)
            run = await started(trigger)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            await trigger.cleanup()

        asyncio.run(start_and_stop())
        assert status(running) == "running"

    def test_a_users_kill_cancels_although_airflow_cancels_on_kill(self, running, status):
        async def kill():
            trigger = KernelInvocationTrigger(running)
            killing = asyncio.create_task(trigger.on_kill())
            await asyncio.sleep(0)
            killing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await killing
            await trigger._killing

        asyncio.run(kill())
        assert status(running) == "failed"

    def test_the_first_trigger_of_a_triggerer_asks_airflow_in_advance(self, running, mocker, monkeypatch):
        monkeypatch.setattr(kernel_trigger, "_warming_up", [])
        asked = mocker.patch.object(kernel_trigger, "_state_of", side_effect=ConnectionError)

        first, second = (SimpleNamespace(id=id, task_id="t") for id in ("ti-1", "ti-2"))
        runs = []

        async def start_two():
            for ti in (first, second):
                trigger = KernelInvocationTrigger(running)
                trigger.task_instance = ti
                run = await started(trigger)
                await asyncio.wait(kernel_trigger._warming_up)
                runs.append(run)
            assert asked.call_args_list == [mocker.call(first)]
            assert not any(run.done() for run in runs)
            for run in runs:
                run.cancel()

        asyncio.run(start_two())

    @pytest.fixture
    def on_kill(self, mocker):
        """Kill a trigger in a triggerer where Airflow says these things of the task."""

        def on_kill(trigger, states, pushed):
            ti = SimpleNamespace(id="ti-1", dag_id="d", run_id="r", task_id="t", map_index=-1)
            trigger.task_instance = ti
            told = {"side_effect": states} if isinstance(states, Exception) else {"return_value": states}
            tell_states(mocker, ti, mocker.Mock(**told))
            mocker.patch.object(XCom, "get_one", return_value=pushed)
            mocker.patch.object(kernel_trigger, "ASKING_SECONDS", 0.1)
            asyncio.run(trigger.on_kill())

        return on_kill

    @pytest.mark.parametrize(
        "state", ["failed", "success", "skipped", None, "scheduled", "queued", "running"]
    )
    def test_a_kill_of_a_task_that_is_no_longer_deferred_cancels(self, running, client, on_kill, state):
        on_kill(KernelInvocationTrigger(running), {"r": {"t": state}}, running)
        cancelled = client.invocations.retrieve(running)
        assert cancelled.status == "failed"
        names = {"ti_id": "ti-1", "dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
        assert json.loads(cancelled.output)["by"] == names

    @pytest.mark.parametrize("key", ["t", "t_3"])
    def test_a_superseded_triggerer_leaves_the_invocation_running(self, running, status, on_kill, key):
        on_kill(KernelInvocationTrigger(running), {"r": {key: "deferred"}}, running)
        assert status(running) == "running"

    @pytest.mark.parametrize("durable", [True, False])
    def test_a_task_that_airflow_will_retry_keeps_its_invocation_if_the_retry_reattaches(
        self, running, status, on_kill, durable
    ):
        on_kill(KernelInvocationTrigger(running, durable=durable), {"r": {"t": "up_for_retry"}}, running)
        assert status(running) == ("running" if durable else "failed")

    def test_a_trigger_of_an_earlier_attempt_cancels_its_own_invocation(self, running, status, on_kill):
        on_kill(KernelInvocationTrigger(running), {"r": {"t": "deferred"}}, "another")
        assert status(running) == "failed"

    @pytest.mark.parametrize("states", [RuntimeError("away"), {}])
    def test_a_kill_cancels_if_airflow_cannot_be_asked(self, running, status, on_kill, states):
        on_kill(KernelInvocationTrigger(running), states, running)
        assert status(running) == "failed"

    @pytest.mark.parametrize("outcome", ["waits on", "killed", "unknown"])
    def test_before_airflow_3_3_a_cancelled_trigger_asks_whether_a_user_killed_the_task(
        self, running, status, mocker, monkeypatch, outcome
    ):
        monkeypatch.delattr(BaseTrigger, "on_kill", raising=False)
        told = {"return_value": outcome == "waits on"} if outcome != "unknown" else {"side_effect": OSError}
        mocker.patch.object(kernel_trigger, "ASKING_SECONDS", 0.1)
        mocker.patch.object(KernelInvocationTrigger, "_is_still_wanted", **told)

        async def start_and_cancel():
            trigger = KernelInvocationTrigger(running)
            trigger.task_instance = SimpleNamespace(id="ti-1", task_id="t")
            run = await started(trigger)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

        asyncio.run(start_and_cancel())
        assert status(running) == ("failed" if outcome == "killed" else "running")

    def test_a_users_kill_cancels_although_the_triggerer_is_ending(self, running, status):
        async def kill_and_stop():
            trigger = KernelInvocationTrigger(running)
            run = await started(trigger)
            run.cancel()
            await asyncio.wait([run])
            trigger.killed_by = asyncio.create_task(trigger.on_kill())
            await asyncio.sleep(0)  # on_kill has begun, and asyncio.run cancels all that is left

        asyncio.run(kill_and_stop())
        assert status(running) == "failed"

    def test_a_users_kill_of_an_ended_invocation_changes_nothing(self, submit, status):
        invocation_id = submit("echo", 1, wait_for="succeeded")
        asyncio.run(KernelInvocationTrigger(invocation_id).on_kill())
        assert status(invocation_id) == "succeeded"

    def test_a_connection_that_stays_missing_is_reported(self, monkeypatch):
        monkeypatch.setattr(wait_machine, "MAX_OUTAGE", 0.2)
        monkeypatch.setattr(wait_machine.WaitMachine, "_pause", lambda self, count: 0.1)
        monkeypatch.delenv("AIRFLOW_CONN_KERNEL_DEFAULT")
        monkeypatch.delenv("KERNEL_API_KEY")
        event = asyncio.run(first_event(KernelInvocationTrigger("inv1")))
        assert event["status"] == "unknown"
        assert event["possibly_running"]
        assert "no KERNEL_API_KEY" in event["message"]
