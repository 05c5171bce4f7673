"""
Whatever dies, the action runs once: the operator over its tries, through a faulty proxy, against the emulator.

The emulator judges how often the action ran: what the proxy saw accepted is what there is.
"""

from __future__ import annotations

import json
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout, TaskDeferred

from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelCapacityTimeoutError,
    KernelError,
    KernelInvocationFailedError,
    KernelInvocationTimeoutError,
    KernelInvocationUnknownError,
    KernelTransportError,
)
from airflow_provider_kernel.api.payload import MAX_PAYLOAD_BYTES
from airflow_provider_kernel.api.payload_mark import MARK_LENGTH
from airflow_provider_kernel.capacity import limit as capacity_limit
from airflow_provider_kernel.capacity import queue as capacity_queue
from airflow_provider_kernel.hooks import connection, kernel_async
from airflow_provider_kernel.hooks.kernel import KernelHook
from airflow_provider_kernel.lifecycle import wait_machine
from airflow_provider_kernel.operators import runner, submitter
from airflow_provider_kernel.operators.attempt import KernelSupersededError
from airflow_provider_kernel.testing import KernelEmulator
from dev.wait import wait_until
from tests import faults
from tests.integration.conftest import APP, client_of
from tests.integration.task import Died, Task, both_waits, signalled

pytestmark = pytest.mark.usefixtures("proxy")

POST = "POST /invocations"
NAMES = {"dag_id": "shop", "run_id": "manual__2026-11-24", "task_id": "t", "map_index": -1}
LOST = [
    faults.drop_reply(),
    faults.drop_reply(reset=True),
    faults.answer(500, after=True),
    faults.html(502, after=True),
]
losing = pytest.mark.parametrize("fault", LOST, ids=lambda fault: fault.name)


@pytest.fixture(scope="module")
def emulator():
    """One of this module's own: other tests' invocations without payload could be taken for one whose reply was lost."""
    with KernelEmulator([APP], heartbeat=0.5) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def client(emulator):
    """The official SDK's client of that emulator."""
    with client_of(emulator) as client:
        yield client


@pytest.fixture
def invocations(proxy, client):
    """The invocations that were accepted in this test, as the emulator has them, oldest first."""

    def invocations():
        payloads = [exchange.json.get("payload") for exchange in proxy.accepted]
        found = [i for i in client.invocations.list(app_name="tests") if i.payload in payloads]
        return sorted(found, key=lambda invocation: invocation.started_at)

    yield invocations
    for invocation in invocations():
        if invocation.status in ("queued", "running"):
            client.invocations.update(invocation.id, status="failed")


@pytest.fixture
def statuses(invocations):
    """Their statuses; a queued one is about to run."""
    return lambda: [invocation.status.replace("queued", "running") for invocation in invocations()]


def unique(**payload):
    """A payload by which the invocations of a test can be told from all others."""
    return {"test": uuid4().hex, **payload}


def echo(**kwargs):
    payload = kwargs.pop("payload", None) or unique()
    return Task("echo", payload, **kwargs), payload


def sleeping(**kwargs):
    return Task("sleep", unique(seconds=60), **kwargs)


class TestAfterACrash:
    @both_waits
    @pytest.mark.parametrize(
        "step", ["after:accepted", "before:deferred", "after:deferred", "before:ended", "after:ended"]
    )
    def test_a_retry_reattaches_to_the_invocation(self, statuses, step, deferrable):
        task, payload = echo(retries=1, deferrable=deferrable)
        task.die_at(step)
        try:
            assert task.run() == payload
        except Died:
            assert task.retry().run() == payload
        assert statuses() == ["succeeded"]
        assert task.record["ti_id"] == str(task.ti.id)
        assert task.record["ended"]

    @both_waits
    @pytest.mark.parametrize("metadata_field", [None, "airflow"])
    @pytest.mark.parametrize("step", ["before:accepted", "after:intent"])
    def test_a_retry_looks_up_the_submission_of_an_attempt_that_died_during_it(
        self, statuses, step, metadata_field, deferrable
    ):
        task, payload = echo(
            retries=1, deferrable=deferrable, metadata_field=metadata_field, on_lost_reply="resubmit"
        )
        task.run_until_it_dies_at(step)
        result = task.retry().run()
        assert result["test"] == payload["test"]
        assert statuses() == ["succeeded"]

    def test_a_retry_submits_if_the_attempt_died_before_its_intent(self, statuses):
        task, payload = echo(retries=1)
        task.run_until_it_dies_at("before:intent")
        assert statuses() == []
        assert task.retry().run() == payload
        assert statuses() == ["succeeded"]

    def test_a_retry_fails_if_kernel_did_not_accept_the_submission(self, statuses):
        task, _ = echo(retries=2)
        task.run_until_it_dies_at("after:intent")
        with pytest.raises(
            AirflowFailException,
            match=r"Kernel (most likely )?did not accept it. The task is not retried.*clear the task",
        ):
            task.retry().run()
        assert statuses() == []

    def test_a_clear_submits_if_kernel_did_not_accept_the_submission(self, statuses):
        task, payload = echo(retries=0)
        task.run_until_it_dies_at("after:intent")
        assert task.clear().run() == payload
        assert statuses() == ["succeeded"]

    @both_waits
    def test_a_retry_reattaches_although_the_payload_has_changed(self, statuses, deferrable):
        task, payload = echo(retries=1, deferrable=deferrable)
        task.run_until_it_dies_at("after:accepted")
        task.arguments["payload"] = unique()
        assert task.retry().run() == payload
        assert statuses() == ["succeeded"]

    def test_a_retry_runs_a_failed_action_again(self, statuses):
        task = Task("fail", unique(message="no such sku"), retries=1)
        for _ in range(2):
            with pytest.raises(
                KernelInvocationFailedError, match="A retry of the task runs the action again"
            ):
                task.run()
            task.retry()
        assert statuses() == ["failed", "failed"]

    @both_waits
    def test_the_deadline_counts_from_the_submission(self, statuses, deferrable):
        task = sleeping(retries=1, timeout=50, deferrable=deferrable)
        task.run_until_it_dies_at("after:accepted")
        task.change_record(submitted_at=task.record["submitted_at"] - 48)
        began = time.monotonic()
        with pytest.raises(KernelInvocationTimeoutError, match="It was cancelled"):
            task.retry().run()
        assert time.monotonic() - began < 20
        assert statuses() == ["failed"]

    def test_only_a_clear_submits_again_if_kernel_no_longer_knows_the_invocation(self, proxy, monkeypatch):
        monkeypatch.setattr(wait_machine, "NOT_FOUND_GRACE", 0.2)
        task = sleeping(retries=2)
        task.run_until_it_dies_at("after:accepted")
        task.change_record(invocation_id="gone")
        with pytest.raises(AirflowFailException, match=r"no longer knows invocation gone .*clear the task"):
            task.retry().run()
        assert len(proxy.accepted) == 1
        task.clear().defer()
        assert len(proxy.accepted) == 2

    def test_a_retry_without_waiting_returns_the_same_id(self, statuses):
        task = sleeping(retries=1, wait_for_completion=False)
        task.run_until_it_dies_at("after:ended")
        started = task.record["invocation_id"]
        assert task.retry().run() == started
        assert statuses() == ["running"]

    def test_without_durability_there_is_no_record(self, proxy, statuses):
        task, payload = echo(retries=1, durable=False)
        assert task.run() == payload
        assert task.record is None
        assert task.retry().run() == payload
        assert statuses() == ["succeeded", "succeeded"]

    def test_without_a_task_state_store_the_rest_works(self, statuses):
        task, payload = echo()
        del task.context["task_state_store"]
        assert task.run() == payload
        assert statuses() == ["succeeded"]

    def test_a_record_of_a_newer_version_fails_the_task_before_it_submits(self, proxy):
        task, _ = echo(retries=1)
        task.change_record(version=2, something="else")
        with pytest.raises(AirflowFailException, match="Upgrade the provider"):
            task.run()
        assert proxy.accepted == []

    def test_a_retry_returns_the_result_although_a_template_fails_now(self, statuses):
        task, payload = echo()
        deferral = task.defer()
        task.operator.payload = "None"  # as an XCom that was cleared meanwhile renders
        assert task.resume(deferral)() == payload
        assert statuses() == ["succeeded"]

    def test_the_last_attempt_cancels_an_invocation_whose_state_it_cannot_find_out(self, proxy, statuses):
        task = sleeping(retries=1)
        task.run_until_it_dies_at("after:accepted")
        started = task.record["invocation_id"]
        proxy.on("GET /invocations/{id}", faults.answer(401), times=2)
        with pytest.raises(KernelInvocationUnknownError, match=f"{started} .*It was cancelled"):
            task.retry().run()
        assert statuses() == ["failed"]


class TestAfterAClear:
    def test_cancels_a_deferred_invocation_before_it_submits_another(self, invocations):
        task = sleeping()
        task.defer()
        task.clear().defer()
        first, second = invocations()
        assert (first.status, second.status in ("queued", "running")) == ("failed", True)
        assert first.finished_at <= second.started_at
        assert json.loads(first.output)["by"]["ti_id"] == str(task.ti.id)

    def test_fails_if_the_invocation_cannot_be_cancelled_and_keeps_the_record(self, proxy, statuses):
        task = sleeping(retries=1)
        task.defer()
        refusing = proxy.on("PATCH /invocations/{id}", faults.answer(403))
        with pytest.raises(KernelApiError, match="403"):
            task.clear().run()
        assert statuses() == ["running"]
        refusing.lift()
        task.retry().defer()
        assert statuses() == ["failed", "running"]

    def test_reattaches_to_an_invocation_that_no_attempt_has_waited_for(self, statuses):
        task = sleeping()
        task.run_until_it_dies_at("after:accepted")
        task.clear().defer()
        assert statuses() == ["running"]

    def test_submits_another_if_the_request_has_changed(self, statuses):
        task = sleeping()
        task.run_until_it_dies_at("after:accepted")
        task.arguments["payload"] = unique(seconds=60)
        task.clear().defer()
        assert statuses() == ["failed", "running"]

    def test_returns_a_result_that_no_attempt_has_seen(self, statuses):
        task, payload = echo()
        task.run_until_it_dies_at("before:ended")
        assert task.clear().run() == payload
        assert statuses() == ["succeeded"]

    def test_submits_another_after_a_result_that_was_seen(self, statuses):
        task, payload = echo()
        assert task.run() == payload
        assert task.clear().run() == payload
        assert statuses() == ["succeeded", "succeeded"]

    def test_ignores_the_event_of_the_old_attempt_that_resumes_the_new_one(self, statuses):
        task, payload = echo()
        resumed = task.resume(task.defer())
        task.die_at("after:ended")
        with pytest.raises(Died):
            resumed()
        event = task.event
        task.clear()
        result = task.legs(
            lambda: task.operator.resume_execution("execute_complete", {"event": event}, task.context)
        )
        assert result == payload
        assert statuses() == ["succeeded", "succeeded"]

    def test_starts_again_if_airflow_ends_the_deferral_of_the_old_attempt(self, statuses):
        task = sleeping()
        task.defer()
        task.clear()
        with pytest.raises(TaskDeferred):
            task.operator.resume_execution("__fail__", {"error": "Trigger timeout"}, task.context)
        assert statuses() == ["failed", "running"]

    def test_does_not_take_a_404_of_a_proxy_for_kernels(self, proxy, statuses, monkeypatch):
        monkeypatch.setattr(wait_machine, "NOT_FOUND_GRACE", 0.1)
        monkeypatch.setattr(wait_machine.WaitMachine, "_pause", lambda self, count: 0.1)
        task = sleeping()
        task.defer()
        proxy.on("GET /invocations/{id}", faults.html(404), times=5)
        task.clear().defer()
        assert statuses() == ["failed", "running"]

    def test_ignores_the_event_of_the_old_attempt_without_a_record(self, statuses):
        task, payload = echo(durable=False)
        leg = task.resume(task.defer())
        assert leg() == payload
        event, ti_id = task.event, str(task.ti.id)
        task.clear()
        arguments = {"event": event, "ti_id": ti_id}
        task.legs(lambda: task.operator.resume_execution("execute_complete", arguments, task.context))
        assert statuses() == ["succeeded", "succeeded"]

    def test_runs_the_new_arguments_although_a_retry_reattached_to_the_old_invocation(self, proxy):
        task, _ = echo(retries=2)
        task.run_until_it_dies_at("after:accepted")
        task.arguments["payload"] = changed = unique()
        task.retry().run_until_it_dies_at("before:ended")  # it reattached, and has returned nothing
        assert task.clear().run() == changed
        assert len(proxy.accepted) == 2


class TestALostReply:
    @both_waits
    @losing
    @pytest.mark.parametrize("metadata_field", [None, "airflow"])
    def test_is_found_by_the_look_up(self, proxy, statuses, fault, metadata_field, deferrable):
        proxy.on(POST, fault, times=1)
        task, payload = echo(deferrable=deferrable, metadata_field=metadata_field)
        assert task.run()["test"] == payload["test"]
        assert statuses() == ["succeeded"]

    @pytest.mark.parametrize("metadata_field", [None, "airflow"])
    @pytest.mark.parametrize("map_index", [-1, 3])
    @losing
    def test_is_found_by_the_mark_among_invocations_with_the_same_payload(
        self, proxy, fault, metadata_field, map_index
    ):
        payload, twins = unique(), []

        def run_a_twin():
            twins.append(echo(payload=payload, map_index=2)[0])
            twins[-1].run()

        task, _ = echo(payload=payload, metadata_field=metadata_field, map_index=map_index)
        run_a_twin()
        task.at("after:intent", lambda: (run_a_twin(), proxy.on(POST, fault, times=1)))
        task.at("before:accepted", run_a_twin)
        assert task.run()["test"] == payload["test"]
        assert len(proxy.accepted) == 4
        assert task.invocation_id not in [twin.invocation_id for twin in twins]

    @both_waits
    @pytest.mark.parametrize("fault", [faults.drop_request(), faults.answer(500), faults.html(502)])
    def test_never_takes_the_invocation_of_another_run_for_its_own(self, proxy, statuses, fault, deferrable):
        # A Dag whose payload is the same in each run: the other run starts between the intent and the lost request.
        payload, others = unique(seconds=60), []

        def other_run_starts():
            others.append(Task("sleep", payload))
            others[-1].defer()
            proxy.on(POST, fault, times=1)

        task = Task("sleep", payload, deferrable=deferrable)
        task.at("after:intent", other_run_starts)
        with pytest.raises(AirflowFailException, match="Kernel did not accept it"):
            task.run()
        assert "invocation_id" not in task.xcom
        assert statuses() == ["running"]  # the other run's, which is not cancelled either

    def test_without_a_payload_is_ambiguous_and_fails_the_task_with_the_ids(self, proxy):
        task = Task("no_payload", retries=3)

        def other_run_starts():
            Task("no_payload").run()
            proxy.on(POST, faults.drop_reply(), times=1)

        task.at("after:intent", other_run_starts)
        with pytest.raises(
            AirflowFailException, match=r"may have accepted it as one of.*not retried"
        ) as ambiguous:
            task.run()
        assert len(re.findall(r"\b[a-z0-9]{24}\b", str(ambiguous.value))) >= 2
        assert len(proxy.accepted) == 2

    @pytest.mark.parametrize("fault", [faults.drop_request(), faults.answer(500), faults.html(502)])
    def test_fails_the_task_by_default_if_kernel_did_not_accept(self, proxy, fault):
        proxy.on(POST, fault, times=1)
        with pytest.raises(AirflowFailException, match='set on_lost_reply="resubmit"'):
            echo(retries=3)[0].run()
        assert proxy.accepted == []

    @both_waits
    @pytest.mark.parametrize("fault", [faults.drop_request(), faults.answer(500), faults.html(502)])
    def test_is_submitted_again_with_resubmit(self, proxy, statuses, fault, deferrable):
        proxy.on(POST, fault, times=1)
        task, payload = echo(on_lost_reply="resubmit", deferrable=deferrable)
        assert task.run() == payload
        assert statuses() == ["succeeded"]

    def test_is_submitted_again_only_once(self, proxy):
        proxy.on(POST, faults.drop_request())
        with pytest.raises(AirflowFailException, match="Kernel did not accept it"):
            echo(on_lost_reply="resubmit")[0].run()
        assert len(proxy.seen(POST)) == 2

    def test_is_looked_up_until_kernel_can_be_asked(self, proxy, statuses):
        proxy.on(POST, faults.drop_reply(), times=1)
        proxy.on("GET /invocations", faults.answer(503), times=3)
        task, payload = echo(on_lost_reply="resubmit")
        assert task.run() == payload
        assert statuses() == ["succeeded"]

    def test_is_looked_up_again_by_a_retry_if_kernel_refuses(self, proxy, statuses):
        proxy.on(POST, faults.drop_reply(), times=1)
        proxy.on("GET /invocations", faults.answer(403), times=1)
        task, payload = echo(retries=1)
        with pytest.raises(KernelError, match="A retry of the task looks the invocation up again"):
            task.run()
        assert task.retry().run() == payload
        assert statuses() == ["succeeded"]

    def test_fails_without_a_retry_if_kernel_refuses_on_the_last_attempt(self, proxy):
        proxy.on(POST, faults.drop_reply(), times=1)
        proxy.on("GET /invocations", faults.answer(403))
        with pytest.raises(AirflowFailException, match=r"may be running.*not retried"):
            echo()[0].run()
        assert len(proxy.seen(POST)) == 1

    def test_of_a_synchronous_call_is_found_by_the_look_up(self, proxy, statuses):
        proxy.on(POST, faults.drop_reply(), times=1)
        task, payload = echo(async_=False)
        assert task.run() == payload
        assert statuses() == ["succeeded"]

    @pytest.mark.parametrize(
        "changed", [{"app_name": "another"}, {"action_name": "fail"}, {"version": "9.9"}]
    )
    @pytest.mark.parametrize("metadata_field", [None, "airflow"])
    def test_is_looked_up_for_the_app_and_action_it_was_sent_to(
        self, proxy, statuses, changed, metadata_field
    ):
        task = sleeping(retries=1, on_lost_reply="resubmit", metadata_field=metadata_field)
        task.run_until_it_dies_at("before:accepted")
        task.arguments |= changed
        task.retry().defer()
        assert statuses() == ["running"]

    def test_is_not_confused_with_the_tasks_previous_invocation(self, proxy, statuses):
        task, payload = echo(on_lost_reply="resubmit")
        task.run()
        proxy.on(POST, faults.drop_request(), times=1)
        assert task.clear().run() == payload
        assert statuses() == ["succeeded", "succeeded"]


class TestARefusal:
    @pytest.mark.parametrize("status", [400, 401, 403, 404])
    def test_deletes_the_intent_and_fails_without_a_retry(self, proxy, status):
        proxy.on(POST, faults.answer(status), times=1)
        payload = unique()
        task, _ = echo(payload=payload, retries=1)
        with pytest.raises(
            AirflowFailException, match=f"{status} .*not retried, because Kernel would refuse again"
        ):
            task.run()
        assert task.record is None
        echo(payload=payload)[0].run()
        assert task.clear().run() == payload
        assert len(proxy.accepted) == 2

    def test_a_request_that_was_not_sent_can_be_retried(self, proxy, told):
        proxy.go_down()
        task, payload = echo(retries=1)
        with pytest.raises(KernelTransportError):
            task.run()
        assert task.record is None
        proxy.come_up()
        assert task.retry().run() == payload
        assert len(proxy.accepted) == 1

    def test_a_request_that_was_not_sent_is_sent_again_at_once(self, proxy):
        proxy.on(POST, faults.refuse(0.05), times=1)  # breaks what it takes, and is down for a moment
        task, payload = echo(on_lost_reply="resubmit")
        assert task.run() == payload
        assert len(proxy.accepted) == 1

    def test_a_connection_that_airflow_cannot_look_up_can_be_retried(self, proxy, monkeypatch):
        monkeypatch.setattr(connection, "_is_missing", lambda conn_id: False)
        task, payload = echo(retries=1, kernel_conn_id="vault")
        with pytest.raises(KernelTransportError, match="There is no Airflow connection 'vault'"):
            task.run()
        assert task.record is None
        monkeypatch.setenv("AIRFLOW_CONN_VAULT", proxy.connection_json())
        assert task.retry().run() == payload


def cancel_late(task):
    """Cancel the task's invocation as another try of it does."""
    with KernelHook() as hook:
        by = {"ti_id": str(uuid4()), **NAMES}
        hook.cancel_invocation(task.record["invocation_id"], "Airflow: late", by)


def superseded(task, meanwhile):
    """Run a try that another one supersedes before it can store that Kernel has accepted."""
    task.at("before:accepted", meanwhile)
    with pytest.raises(KernelSupersededError, match="another one has taken its place"):
        task.run()


def away():
    raise ConnectionError("Airflow's API, with hunter2")


class TestTheRequest:
    def test_that_is_too_large_with_its_metadata_leaves_no_intent(self, proxy):
        payload = {"text": "x" * (MAX_PAYLOAD_BYTES - MARK_LENGTH - 40)}
        task = Task("echo", payload, metadata_field="airflow", retries=1)
        with pytest.raises(AirflowFailException, match=r"4\.5 MB at most"):
            task.run()
        assert task.record is None
        assert proxy.seen(POST) == []

    def test_is_not_sent_again_by_a_superseded_attempt(self, proxy, monkeypatch):
        monkeypatch.setattr(submitter, "INTENT_MAX_AGE", 0.0)
        task, _ = echo(retries=1)
        proxy.go_down()

        def supersede():
            task.retry()
            proxy.come_up()

        def at_the_next_intent(do):
            return lambda: task.at("before:intent", do)

        # The intent is stored first, again before the first sending, which reaches nobody, and before the second one.
        task.at("before:intent", at_the_next_intent(at_the_next_intent(supersede)))
        with pytest.raises(KernelSupersededError):
            task.run()
        assert proxy.accepted == []

    def test_is_not_sent_if_a_kill_came_while_the_intent_was_stored(self, proxy):
        task, _ = echo()
        task.state = "failed"
        task.at("after:intent", task.operator.on_kill)
        with pytest.raises(KernelError, match=r"The task was killed\. No invocation was started"):
            task.run()
        assert proxy.seen(POST) == []
        assert task.record is None


class TestTheStore:
    def test_nothing_is_submitted_if_the_intent_cannot_be_stored(self, proxy):
        task, _ = echo(retries=1)

        task.at("before:intent", away)
        with pytest.raises(KernelError, match="so nothing was submitted") as error:
            task.run()
        assert "hunter2" not in str(error.value)
        assert proxy.seen(POST) == []

    @both_waits
    @pytest.mark.parametrize("stage", ["accepted", "deferred", "ended"])
    def test_later_failures_of_the_store_are_warnings(self, statuses, stage, deferrable):
        task, payload = echo(retries=1, deferrable=deferrable)

        task.at(f"before:{stage}", away)
        assert task.run() == payload
        assert statuses() == ["succeeded"]

    def test_a_superseded_attempt_without_a_payload_cancels_what_it_started(self, proxy, client):
        frozen = Task("minute", retries=1)
        superseded(frozen, frozen.retry)
        [found] = client.invocations.list(app_name="tests", action_name="minute").items
        assert found.status == "failed"

    @pytest.mark.parametrize("state", [None, "queued", "running", "deferred", "up_for_retry"])
    def test_a_superseded_attempt_leaves_its_invocation_to_the_one_that_finds_the_mark(self, statuses, state):
        task = Task("sleep", unique(seconds=1), retries=1, metadata_field="airflow")
        superseded(task, lambda: setattr(task.retry(), "state", state))
        assert statuses() == ["running"]
        task.run()
        assert statuses() == ["succeeded"]

    @pytest.mark.parametrize("state", ["success", "failed", "skipped", "removed", "unknown to Airflow"])
    def test_a_superseded_attempt_cancels_its_invocation_if_no_other_will_find_it(
        self, statuses, state, mocker
    ):
        task = sleeping(retries=1, metadata_field="airflow")
        if state == "unknown to Airflow":
            mocker.patch.object(task.ti, "get_task_states", side_effect=ConnectionError)
        superseded(task, lambda: setattr(task.retry(), "state", state))
        assert statuses() == ["failed"]

    def test_a_superseded_attempt_leaves_an_invocation_that_another_has_returned(self, statuses):
        task = sleeping(retries=1, metadata_field="airflow", wait_for_completion=False)

        def other_try_succeeds():
            task.retry().run()
            task.state = "success"

        superseded(task, other_try_succeeds)
        assert statuses() == ["running"]

    def test_an_attempt_whose_invocation_another_one_cancelled_submits_another_once(self, statuses):
        task = sleeping(retries=1)
        first = task.defer()
        cancel_late(task)
        with pytest.raises(TaskDeferred) as second:
            task.resume(first)()
        assert statuses() == ["failed", "running"]
        # The same once more would be two attempts that chase each other.
        cancel_late(task)
        with pytest.raises(KernelInvocationFailedError):
            task.resume(second.value)()
        assert statuses() == ["failed", "failed"]

    def test_a_superseded_attempt_that_resumes_does_not_cancel_the_invocation_of_the_next(self, statuses):
        task, payload = echo(retries=1)
        operator, context = task.operator, task.context
        task.resume(task.defer())
        event = task.event
        task.retry()
        with pytest.raises(KernelSupersededError):
            operator.resume_execution("execute_complete", {"event": event}, context)
        assert task.run() == payload
        assert statuses() == ["succeeded"]

    def test_a_superseded_worker_does_not_cancel_the_invocation_of_the_next_attempt(self, statuses):
        task = sleeping(retries=1, deferrable=False)
        operator, context = task.operator, task.context

        def wake_up():
            task.arguments["deferrable"] = True
            task.retry().defer()
            raise AirflowTaskTimeout

        task.at("after:accepted", wake_up)
        with pytest.raises(AirflowTaskTimeout):
            operator.execute(context)
        assert statuses() == ["running"]

    def test_an_ended_deferral_cancels_although_the_id_was_not_stored(self, statuses):
        task = sleeping()

        task.at("before:accepted", away)
        task.at("before:deferred", away)
        task.defer()
        assert task.record["invocation_id"] is None
        with pytest.raises(KernelInvocationTimeoutError, match="It was cancelled"):
            task.operator.resume_execution("__fail__", {"error": "Trigger timeout"}, task.context)
        assert statuses() == ["failed"]


def cancelled_by_a_kill():
    return pytest.raises(KernelError, match=r"The task was killed. Kernel invocation .* was cancelled\.")


class TestAKill:
    @pytest.mark.parametrize("state", ["failed", "success", "restarting", "skipped"])
    def test_by_a_user_cancels_and_says_who_cancelled(self, invocations, state):
        task = sleeping(deferrable=False, retries=1)
        began = time.monotonic()
        with task.killed(state), cancelled_by_a_kill():
            task.run()
        assert time.monotonic() - began < 20
        [cancelled] = invocations()
        assert cancelled.status == "failed"
        assert json.loads(cancelled.output) == {
            "cancelled": "Airflow: the task was killed",
            "by": {"ti_id": str(task.ti.id), **NAMES},
        }

    def test_from_outside_leaves_the_invocation_to_the_retry(self, statuses):
        task = sleeping(deferrable=False, retries=1)
        with (
            task.killed(),
            pytest.raises(KernelError, match=r"The worker process was terminated\. A retry reattaches"),
        ):
            task.run()
        assert statuses() == ["running"]
        task.arguments["deferrable"] = True
        task.retry().defer()
        assert statuses() == ["running"]

    def test_from_outside_cancels_if_there_is_no_retry(self, statuses):
        task = sleeping(deferrable=False)
        with (
            task.killed(),
            pytest.raises(
                KernelError, match=r"worker process was terminated\. Kernel invocation .* was cancelled\."
            ),
        ):
            task.run()
        assert statuses() == ["failed"]

    def test_counts_as_from_outside_if_airflow_cannot_be_asked(self, statuses):
        task = sleeping(deferrable=False, retries=1)
        task.ti.get_task_states = None
        with (
            task.killed(),
            pytest.raises(KernelError, match=r"The worker process was terminated\. A retry reattaches"),
        ):
            task.run()
        assert statuses() == ["running"]

    def test_leaves_the_invocation_running_without_cancel_on_kill(self, statuses):
        task = sleeping(deferrable=False, cancel_on_kill=False)
        with task.killed("failed"), pytest.raises(KernelError, match=r"runs on \(cancel_on_kill=False\)"):
            task.run()
        assert statuses() == ["running"]

    @both_waits
    def test_during_the_submission_waits_for_the_reply(self, proxy, statuses, deferrable):
        task = sleeping(deferrable=deferrable)
        rule = proxy.on(POST, faults.hold(forward=True), times=1)

        def held():
            return rule.held and not rule.release()

        with task.killed("failed", held), cancelled_by_a_kill():
            task.run()
        assert statuses() == ["failed"]

    def test_during_the_look_up_cancels_what_is_found(self, proxy, statuses):
        task = sleeping()
        proxy.on(POST, faults.drop_reply(), times=1)
        rule = proxy.on("GET /invocations", faults.hold(forward=False), times=1)
        with task.killed("failed", lambda: rule.held), cancelled_by_a_kill():
            task.run()
        assert statuses() == ["failed"]

    def test_before_the_submission_starts_nothing(self, proxy, statuses):
        task = sleeping()
        task.operator.on_kill()
        task.state = "failed"
        with pytest.raises(KernelError, match="No invocation was started"):
            task.run()
        assert proxy.seen(POST) == []

    def test_just_before_the_deferral_cancels_although_no_signal_came(self, statuses):
        task = sleeping()
        task.at("after:deferred", lambda: setattr(task, "state", "failed"))
        with cancelled_by_a_kill():
            task.run()
        assert statuses() == ["failed"]

    def test_at_the_end_of_the_invocation_is_not_a_success(self, statuses):
        task, _ = echo(deferrable=False)
        task.at("before:ended", lambda: task.operator.on_kill())
        task.state = "failed"
        with pytest.raises(KernelError, match=r"Kernel invocation .* had already succeeded"):
            task.run()
        assert statuses() == ["succeeded"]

    def test_says_so_if_the_invocation_cannot_be_cancelled(self, proxy, statuses):
        task = sleeping(deferrable=False)
        proxy.on("PATCH /invocations/{id}", faults.answer(403))
        with (
            task.killed("failed"),
            pytest.raises(KernelError, match="what the task started may be running: Kernel answered 403"),
        ):
            task.run()
        assert statuses() == ["running"]

    def test_during_a_synchronous_call_is_handled_before_airflow_kills_the_process(self, client, statuses):
        payload = unique(seconds=30)
        task = Task("sleep", payload, async_=False, deferrable=False)
        task.state = "failed"
        killed = []

        def runs():
            found = client.invocations.list(app_name="tests", status="running")
            return any(payload["test"] in one.payload for one in found)

        def kill():
            wait_until(runs, 20, "the invocation runs", interval=0.05)
            killed.append(time.monotonic())
            task.operator.on_kill()

        thread = threading.Thread(target=kill)
        thread.start()
        with cancelled_by_a_kill():
            task.run()
        assert time.monotonic() - killed[0] < 5  # when Airflow kills it
        # The call itself is answered when the invocation is cancelled, a moment after the task has ended.
        wait_until(lambda: statuses() == ["failed"], 10, "the invocation is cancelled")
        thread.join()

    def test_while_kernel_cannot_be_reached_leaves_no_intent(self, proxy):
        proxy.go_down()
        task, _ = echo(retries=1)
        task.at("after:intent", lambda: task.operator.on_kill())
        with pytest.raises(KernelError):
            task.run()
        assert task.record is None

    def test_during_a_second_submission_cancels_that_invocation(self, proxy, statuses):
        task = sleeping(deferrable=False)
        task.state = "failed"

        def cancel_and_kill_the_next():
            cancel_late(task)
            task.at("after:intent", lambda: task.at("after:accepted", task.operator.on_kill))

        task.at("after:accepted", cancel_and_kill_the_next)
        with pytest.raises(KernelError, match="The task was killed"):
            task.run()
        assert statuses() == ["failed", "failed"]


def strike(task, when):
    """Run a task until its execution_timeout strikes, which is raised in the main thread."""

    def timeout():
        raise AirflowTaskTimeout

    with signalled(when, timeout), pytest.raises(AirflowTaskTimeout):
        task.run()


class TestTheExecutionTimeout:
    def test_bounds_the_deferral_from_the_start_of_the_attempt(self):
        task = sleeping(execution_timeout=timedelta(seconds=100))
        task.ti.start_date = datetime.now(UTC) - timedelta(seconds=40)
        assert task.defer().trigger.deadline == pytest.approx(task.ti.start_date.timestamp() + 100, abs=1)

    def test_cancels_the_invocation_that_the_worker_waits_for(self, statuses):
        task = sleeping(deferrable=False)
        strike(task, lambda: "invocation_id" in task.xcom)
        assert statuses() == ["failed"]

    def test_during_the_submission_looks_the_invocation_up_and_cancels_it(self, proxy, statuses):
        task = sleeping()
        rule = proxy.on(POST, faults.hold(forward=True), times=1)
        strike(task, lambda: rule.held)
        rule.release()
        assert statuses() == ["failed"]

    def test_during_an_ambiguous_submission_is_logged(self, proxy, told):
        task = Task("no_payload")
        rule = proxy.on(POST, faults.hold(forward=True), times=1)
        strike(task, lambda: rule.held)
        rule.release()
        assert "execution_timeout passed, but what the task started may be running" in told()

    def test_during_a_submission_that_kernel_did_not_accept_lets_a_retry_submit(self, proxy, statuses):
        task, payload = echo(retries=1)
        rule = proxy.on(POST, faults.hold(forward=False), times=1)
        strike(task, lambda: rule.held)
        rule.lift()
        assert task.record is None
        assert task.retry().run() == payload
        assert statuses() == ["succeeded"]


class TestAWaitThatIsGivenUp:
    @both_waits
    @pytest.mark.parametrize("status", [401, 403])
    def test_is_left_to_the_retry(self, proxy, statuses, status, deferrable):
        task = sleeping(retries=1, deferrable=deferrable)
        rules = [
            proxy.on(route, faults.answer(status))
            for route in ("GET /invocations/{id}", "GET /invocations/{id}/events")
        ]
        with pytest.raises(
            KernelInvocationUnknownError,
            match=r"could not be determined.*A retry of the task reattaches to the invocation",
        ):
            task.run()
        assert statuses() == ["running"]
        for rule in rules:
            rule.lift()
        task.arguments["deferrable"] = True
        task.retry().defer()
        assert statuses() == ["running"]

    @both_waits
    def test_is_cancelled_if_there_is_no_retry(self, proxy, statuses, deferrable):
        task = sleeping(deferrable=deferrable)
        proxy.on("GET /invocations/{id}", faults.answer(401), times=2)
        proxy.on("GET /invocations/{id}/events", faults.answer(401))
        with pytest.raises(KernelInvocationUnknownError, match="It was cancelled"):
            task.run()
        assert statuses() == ["failed"]

    def test_is_left_to_the_retry_if_the_trigger_failed(self, statuses):
        task = sleeping(retries=1)
        task.defer()
        with pytest.raises(
            KernelInvocationUnknownError, match="A retry of the task reattaches to the invocation"
        ):
            task.operator.resume_execution("__fail__", {"error": "Trigger failure"}, task.context)
        assert statuses() == ["running"]
        task.retry().defer()
        assert statuses() == ["running"]

    def test_is_cancelled_if_the_deferral_timed_out(self, statuses):
        task = sleeping(retries=1)
        task.defer()
        with pytest.raises(KernelInvocationTimeoutError, match="It was cancelled"):
            task.operator.resume_execution("__fail__", {"error": "Trigger timeout"}, task.context)
        assert statuses() == ["failed"]

    @both_waits
    def test_is_left_to_the_retry_if_it_cannot_be_cancelled_at_the_deadline(
        self, proxy, statuses, deferrable
    ):
        task = sleeping(retries=1, timeout=0.5, deferrable=deferrable)
        rule = proxy.on("PATCH /invocations/{id}", faults.answer(403))
        with pytest.raises(
            KernelInvocationTimeoutError, match=r"may be running.*reattaches to the invocation"
        ):
            task.run()
        rule.lift()
        with pytest.raises(KernelInvocationTimeoutError, match="It was cancelled"):
            task.retry().run()
        assert statuses() == ["failed"]

    def test_is_cancelled_if_a_retry_policy_may_deny_the_retry(self, proxy, statuses):
        task = sleeping(retries=1, deferrable=False)
        task.operator.retry_policy = object()
        task.at("after:accepted", task.operator.on_kill)
        with pytest.raises(KernelError, match="was cancelled"):
            task.run()
        assert statuses() == ["failed"]

    def test_a_wait_survives_a_connection_that_airflow_cannot_look_up(self, proxy, statuses, monkeypatch):
        def pause(wait, errors):
            if errors == 3:
                monkeypatch.setenv("AIRFLOW_CONN_VAULT", proxy.connection_json())
            return 0.1

        monkeypatch.setattr(kernel_async, "SETTINGS_LIFE", 0.0)
        monkeypatch.setattr(wait_machine.WaitMachine, "_pause", pause)
        monkeypatch.setenv("AIRFLOW_CONN_VAULT", proxy.connection_json())
        task = Task("sleep", unique(seconds=1.5), kernel_conn_id="vault")
        deferral = task.defer()
        monkeypatch.delenv("AIRFLOW_CONN_VAULT")
        assert task.resume(deferral)() == 1.5
        assert statuses() == ["succeeded"]


class TestAFullAccount:
    @pytest.fixture(autouse=True)
    def short_pauses(self, monkeypatch):
        pauses = ("MIN_PAUSE", "POLL_PAUSE", "MAX_POLL_PAUSE", "MAX_WORKER_PAUSE")
        for name in (*pauses, "PAUSE_PER_ACTIVE", "SPREAD"):
            monkeypatch.setattr(capacity_queue, name, 0.1)
        monkeypatch.setattr(capacity_limit, "PROBE_PAUSE", 0.1)
        monkeypatch.setattr(runner, "MIN_PAUSE", 0.1)

    @both_waits
    @pytest.mark.parametrize("status", [429, 529])
    def test_delays_the_submission(self, proxy, statuses, status, deferrable):
        proxy.on(POST, faults.answer(status, headers={"Retry-After": "0.1"}), times=2)
        task, payload = echo(deferrable=deferrable)
        assert task.run() == payload
        assert task.deferred is deferrable
        assert len(proxy.seen(POST)) == 3
        assert statuses() == ["succeeded"]

    @both_waits
    def test_is_waited_for_until_capacity_timeout(self, proxy, deferrable):
        proxy.on(POST, faults.answer(429))
        task, _ = echo(deferrable=deferrable, capacity_timeout=0.7)
        began = time.monotonic()
        with pytest.raises(
            KernelCapacityTimeoutError, match=r"No invocation was started. A retry of the task submits"
        ):
            task.run()
        assert 0.7 <= time.monotonic() - began < 5
        assert task.record is None

    @both_waits
    def test_fails_at_once_with_capacity_timeout_0(self, proxy, deferrable):
        proxy.on(POST, faults.answer(429))
        task, _ = echo(deferrable=deferrable, capacity_timeout=0)
        with pytest.raises(KernelCapacityTimeoutError):
            task.run()
        assert len(proxy.seen(POST)) == 1

    def test_is_waited_for_until_execution_timeout(self, proxy):
        proxy.on(POST, faults.answer(429))
        task, _ = echo(execution_timeout=timedelta(seconds=100))
        task.ti.start_date = datetime.now(UTC) - timedelta(seconds=40)
        assert task.defer().trigger.deadline == pytest.approx(task.ti.start_date.timestamp() + 100, abs=1)

    @both_waits
    def test_does_not_let_a_lost_submission_be_repeated_twice(self, proxy, statuses, deferrable):
        proxy.on(POST, faults.drop_request(), times=1)
        proxy.on(POST, faults.answer(429, headers={"Retry-After": "0.1"}), times=1)
        proxy.on(POST, faults.drop_request(), times=1)
        task, _ = echo(on_lost_reply="resubmit", deferrable=deferrable)
        with pytest.raises(AirflowFailException, match="The reply to the submission"):
            task.run()
        assert len(proxy.seen(POST)) == 3
        assert statuses() == []

    def test_leaves_no_intent_and_no_payload_during_the_wait(self, proxy):
        proxy.on(POST, faults.answer(429))
        task, _ = echo(payload=unique(secret="canary"))
        deferral = task.defer()
        assert task.record is None
        assert "canary" not in json.dumps([deferral.trigger.serialize(), deferral.kwargs])

    def test_starts_again_after_a_clear(self, proxy, statuses):
        proxy.on(POST, faults.answer(429), times=1)
        task, payload = echo()
        ti_id = task.defer().kwargs["ti_id"]
        event = {"capacity": "timeout", "deadline": 1.0}
        result = task.clear().legs(
            lambda: task.operator.resume_execution(
                "execute_after_capacity", {"event": event, "ti_id": ti_id}, task.context
            )
        )
        assert result == payload

    def test_fails_without_a_retry_if_the_connection_became_unusable(self, proxy):
        task, _ = echo()
        event = {"capacity": "unknown", "message": "no token"}
        with pytest.raises(AirflowFailException, match="no token"):
            task.operator.resume_execution("execute_after_capacity", {"event": event}, task.context)

    def test_an_ended_deferral_has_started_nothing(self, proxy):
        proxy.on(POST, faults.answer(429))
        task, _ = echo()
        task.defer()
        with pytest.raises(KernelCapacityTimeoutError, match="No invocation was started"):
            task.operator.resume_execution("__fail__", {"error": "Trigger timeout"}, task.context)

    def test_a_kill_ends_the_wait_on_the_worker(self, proxy, monkeypatch):
        monkeypatch.setattr(capacity_queue, "MAX_WORKER_PAUSE", 60)
        proxy.on(POST, faults.answer(429, headers={"Retry-After": "60"}))
        task, _ = echo(deferrable=False)
        with (
            task.killed("failed", when=lambda: [each for each in proxy.seen(POST) if each.answered_status]),
            pytest.raises(KernelError, match=r"The task was killed. No invocation was started"),
        ):
            task.run()

    def test_an_intent_that_could_not_be_deleted_is_deleted_after_the_wait(self, proxy, statuses):
        proxy.on(POST, faults.answer(429), times=1)
        task, payload = echo()
        task.fails_to_delete = 1
        assert task.run() == payload
        assert statuses() == ["succeeded"]
