"""
KernelInvocationSensor over real HTTP, in this process: deferred, poking and rescheduled.

What Airflow does around it is played (see ``Task``); the real Airflow is in the system tests.
"""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime, timedelta
from unittest.mock import Mock

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_provider_kernel.api.errors import KernelInvocationFailedError, KernelInvocationUnknownError
from airflow_provider_kernel.lifecycle import wait_machine
from airflow_provider_kernel.lifecycle.log_buffer import REPLAY
from airflow_provider_kernel.operators import result
from airflow_provider_kernel.sensors import runner as sensor_runner
from airflow_provider_kernel.sensors.kernel import KernelInvocationSensor
from tests.integration.scripted import Stream, error, invocation, state
from tests.integration.task import Task, first_event

try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:  # Airflow 2
    from airflow.exceptions import AirflowRescheduleException

LINK = "_link_KernelInvocationLink"
WAITS = {
    "deferred": {},
    "poke": {"deferrable": False},
    "reschedule": {"deferrable": False, "mode": "reschedule"},
}
every_wait = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)


@pytest.fixture(autouse=True)
def connection(emulator_env, no_backoff):
    """Reach the emulator, unless a test has a server of its own."""


class Sensor(Task):
    """A task that waits for an invocation; Airflow runs it again as often as it asks to be rescheduled."""

    def __init__(self, invocation_id="inv1", **kwargs):
        self.of_sensor = {"task_id": "t", "invocation_id": invocation_id, "poke_interval": 0.05, **kwargs}
        super().__init__()

    def _begin(self, try_number, max_tries):
        super()._begin(try_number, max_tries)
        self.operator = KernelInvocationSensor(**self.of_sensor)
        self.ti.get_first_reschedule_date = lambda context: self.ti.start_date
        self.pokes = 0

    def legs(self, leg):
        while True:
            try:
                return super().legs(leg)
            except AirflowRescheduleException:
                self.pokes += 1


@pytest.fixture(autouse=True)
def first_start(monkeypatch):
    """Airflow 2 reads from its database when a rescheduled task first started."""
    try:
        import airflow.sensors.base as base
    except ImportError:
        return
    started = datetime.now(UTC)
    monkeypatch.setattr(base, "_orig_start_date", lambda **names: started, raising=False)


@every_wait
def test_the_output_of_a_running_invocation_is_returned(wait, submit):
    sensor = Sensor(submit("logs", {"n": 3, "delay": 1.0}), **wait)
    assert sensor.run() == 3
    assert sensor.deferred is (wait == {})
    assert (sensor.pokes > 0) is (wait.get("mode") == "reschedule")


@every_wait
def test_an_ended_invocation_is_returned_at_once(wait, submit):
    invocation_id = submit("echo", {"a": [1, None]}, wait_for="succeeded")
    sensor = Sensor(invocation_id, **wait)
    assert sensor.run() == {"a": [1, None]}
    assert not sensor.deferred
    assert not sensor.pokes


@every_wait
def test_the_log_begins_with_the_address_of_the_invocation_and_ends_with_the_size_of_its_output(
    wait, submit, told
):
    invocation_id = submit("echo", {"price": 12.5}, wait_for="succeeded")
    Sensor(invocation_id, **wait).run()
    ours = re.findall(r"(?:Waiting for )?Kernel invocation .*", told())
    assert ours[0].startswith(f"Waiting for Kernel invocation {invocation_id}: http")
    assert ours[-1].startswith(
        f"Kernel invocation {invocation_id} succeeded, with an output of 15 characters."
    )


@every_wait
def test_a_failed_invocation_fails_the_task_with_kernels_reason_and_without_a_retry(wait, submit):
    with pytest.raises(AirflowFailException, match="the shelf is empty") as failed:
        Sensor(submit("fail", {"message": "the shelf is empty"}), **wait).run()
    assert isinstance(failed.value.__cause__, KernelInvocationFailedError)


@every_wait
@pytest.mark.parametrize("soft_fail", [False, True])
def test_an_unusable_connection_fails_without_a_retry(wait, soft_fail, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", '{"conn_type": "kernel"}')
    with pytest.raises(AirflowFailException, match="kernel_default"):
        Sensor(soft_fail=soft_fail, **wait).run()


@every_wait
def test_an_output_that_airflow_cannot_store_fails_without_a_retry(wait, submit):
    with pytest.raises(AirflowFailException, match=r"output\[0\] is a number beyond 64 bits"):
        Sensor(submit("decode", "[1e40]"), **wait).run()


@every_wait
@pytest.mark.parametrize("is_over", [True, False])
def test_a_failed_invocation_skips_the_task_with_soft_fail(wait, is_over, submit):
    invocation_id = submit("fail", {"message": "no"}, wait_for="failed" if is_over else None)
    with pytest.raises(AirflowSkipException):
        Sensor(invocation_id, soft_fail=True, **wait).run()


@every_wait
@pytest.mark.parametrize(
    ("soft_fail", "raised"), [(False, AirflowSensorTimeout), (True, AirflowSkipException)]
)
def test_a_timeout_leaves_the_invocation_running(wait, running, status, soft_fail, raised):
    began = time.monotonic()
    with pytest.raises(raised):
        Sensor(running, timeout=0.5, soft_fail=soft_fail, **wait).run()
    assert time.monotonic() - began < 10
    assert status(running) == "running"


def test_the_timeout_of_a_deferred_sensor_counts_from_the_start_of_its_attempt(submit):
    sensor = Sensor(submit("sleep", {"seconds": 60}), timeout=100)
    sensor.ti.start_date = datetime.now(UTC) - timedelta(seconds=40)
    deferral = sensor.defer()
    assert deferral.trigger.deadline == pytest.approx(sensor.ti.start_date.timestamp() + 100, abs=1)
    assert deferral.timeout.total_seconds() > 60


def test_execution_timeout_bounds_the_deferral_from_the_start_of_the_attempt(submit):
    sensor = Sensor(submit("sleep", {"seconds": 60}), timeout=100, execution_timeout=timedelta(seconds=60))
    sensor.ti.start_date = datetime.now(UTC) - timedelta(seconds=40)
    assert sensor.defer().trigger.deadline == pytest.approx(sensor.ti.start_date.timestamp() + 60, abs=1)


@pytest.mark.parametrize(("soft_fail", "raised"), [(False, AirflowTaskTimeout), (True, AirflowSkipException)])
def test_execution_timeout_raises_the_same_deferred_as_on_a_worker(running, status, soft_fail, raised):
    sensor = Sensor(running, timeout=60, execution_timeout=timedelta(seconds=0.5), soft_fail=soft_fail)
    with pytest.raises(raised, match="not cancelled"):
        sensor.run()
    assert status(running) == "running"


@pytest.mark.parametrize("option", ["soft_fail", "never_fail"])
@pytest.mark.parametrize("wait", [WAITS["poke"], {}], ids=["poke", "deferred"])
def test_execution_timeout_on_a_worker_skips_the_task_with_soft_fail(running, option, wait, monkeypatch):
    sensor = Sensor(running, poke_interval=30, **{option: True}, **wait)
    # In the pause between two pokes, or while the sensor asks before its deferral.
    where = (time, "sleep") if wait else (sensor_runner.SensorRunner, "poll")
    monkeypatch.setattr(*where, Mock(side_effect=AirflowTaskTimeout("Timeout")))
    with pytest.raises(AirflowSkipException):
        sensor.run()


@every_wait
@pytest.mark.parametrize("option", ["soft_fail", "never_fail"])
def test_a_skipped_task_has_the_reason_in_its_log(submit, wait, option, told):
    with pytest.raises(AirflowSkipException):
        Sensor(submit("fail", {"message": "the shelf is empty"}), **{option: True}, **wait).run()
    assert re.search(r"Kernel invocation \w+ failed: .*the shelf is empty", told(), re.DOTALL)


@every_wait
def test_version_and_size_of_the_output_are_logged_as_by_the_operator(submit, wait, told, monkeypatch):
    monkeypatch.setattr(result, "LARGE_OUTPUT_BYTES", 10)
    sensor = Sensor(submit("echo", "x" * 20), **wait)
    assert sensor.run() == "x" * 20
    assert sensor.xcom["app_version"] == "emulator"
    assert "Airflow stores it in its database" in told()


def test_an_end_just_after_the_timeout_counts(submit):
    invocation_id = submit("echo", 7, wait_for="succeeded")
    event = {
        "invocation_id": invocation_id,
        "status": "timeout",
        "message": "Too late.",
        "possibly_running": True,
    }
    sensor = Sensor(invocation_id)
    assert sensor.operator.execute_complete(sensor.context, event) == 7


def test_an_end_counts_although_airflow_ended_the_deferral(submit):
    invocation_id = submit("echo", 7, wait_for="succeeded")
    sensor = Sensor(invocation_id)
    arguments = {"error": "Trigger timeout"}
    assert sensor.operator.resume_execution("__fail__", arguments, sensor.context) == 7


@pytest.mark.parametrize(
    "reason", ["Trigger timeout", "Trigger/execution timeout"]
)  # the latter on Airflow 2
@pytest.mark.parametrize(
    ("arguments", "raised"),
    [
        ({}, AirflowSensorTimeout),
        ({"soft_fail": True}, AirflowSkipException),
        ({"execution_timeout": timedelta(hours=1)}, AirflowTaskTimeout),
        ({"execution_timeout": timedelta(hours=1), "soft_fail": True}, AirflowSkipException),
    ],
)
def test_a_deferral_that_timed_out_is_a_timeout(running, status, reason, arguments, raised):
    sensor = Sensor(running, **arguments)
    with pytest.raises(raised, match=reason):
        sensor.operator.resume_execution("__fail__", {"error": reason}, sensor.context)
    assert status(running) == "running"


@pytest.mark.parametrize("soft_fail", [False, True])
def test_a_failed_trigger_fails_the_task_and_does_not_skip_it(running, status, soft_fail, told):
    sensor = Sensor(running, soft_fail=soft_fail)
    arguments = {"error": "Trigger failure", "traceback": ["a line of the trigger"]}
    with pytest.raises(KernelInvocationUnknownError, match=f"wait for .*{running}.*Trigger failure"):
        sensor.operator.resume_execution("__fail__", arguments, sensor.context)
    assert status(running) == "running"
    assert "a line of the trigger" in told()


def test_an_unknown_state_skips_the_task_with_never_fail(submit):
    sensor = Sensor(submit("sleep", {"seconds": 60}), never_fail=True)
    with pytest.raises(AirflowSkipException):
        sensor.operator.resume_execution("__fail__", {"error": "Trigger failure"}, sensor.context)


def test_a_kill_cancels_nothing(running, status):
    trigger = Sensor(running).defer().trigger

    async def kill():
        run = asyncio.create_task(first_event(trigger))
        await asyncio.sleep(0)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        await trigger.on_kill()

    asyncio.run(kill())
    assert status(running) == "running"


@pytest.mark.usefixtures("no_line_is_late")
@pytest.mark.parametrize(
    ("arguments", "is_shown"),
    [({}, True), ({"follow_logs": False}, False), (WAITS["poke"], False), (WAITS["reschedule"], False)],
)
def test_log_lines_are_followed_while_deferred_and_not_by_pokes(submit, told, arguments, is_shown):
    assert Sensor(submit("logs", {"n": 2, "delay": 1.0}), **arguments).run() == 2
    log = told()
    assert ("[app] line 0" in log, "line 1" in log) == (is_shown, is_shown)


def test_log_lines_that_a_restarted_triggerer_shows_again_are_marked(submit, until, status, told):
    invocation_id = submit("logs", {"n": 2, "delay": 1.0})
    sensor = Sensor(invocation_id)
    deferral = sensor.defer()
    until(lambda: status(invocation_id) == "succeeded")
    deferral.trigger.deferred_at -= 60
    assert sensor.legs(sensor.resume(deferral)) == 2
    assert REPLAY in told()


@every_wait
def test_the_link_is_there_while_the_sensor_waits(wait, running, emulator, connect):
    extra = {"dashboard_url": "https://d/{invocation_id}"}
    connect(host=emulator.base_url, password=emulator.api_key, extra=extra)
    sensor = Sensor(running, timeout=0, **wait)
    with pytest.raises((TaskDeferred, AirflowSensorTimeout)):
        sensor.operator.execute(sensor.context)
    assert sensor.xcom == {LINK: f"https://d/{running}"}


def test_a_value_that_is_not_an_id_fails_without_a_retry_and_is_not_quoted():
    sensor = Sensor("{{ ti.xcom_pull('start') }}", soft_fail=True)
    sensor.operator.invocation_id = {"price": 12.5}
    with pytest.raises(
        AirflowFailException, match=r"must be a string, the id that Kernel.*not dict"
    ) as raised:
        sensor.run()
    assert "12.5" not in str(raised.value)


@pytest.mark.parametrize("value", [None, "", "None", "null", " "])
def test_an_empty_rendered_id_fails_without_a_retry_and_does_not_skip(value):
    sensor = Sensor("{{ ti.xcom_pull('start') }}", soft_fail=True)
    sensor.operator.invocation_id = value
    with pytest.raises(
        AirflowFailException, match=r"invocation_id was rendered to nothing\. Pass the id that Kernel"
    ):
        sensor.run()


@pytest.mark.parametrize("arguments", [{"invocation_id": "a\0b"}, {"kernel_conn_id": None}])
def test_a_wrong_rendered_name_fails_without_a_retry_and_does_not_skip(arguments):
    sensor = Sensor("{{ ti.xcom_pull('start') }}", soft_fail=True)
    vars(sensor.operator).update({"invocation_id": "inv", **arguments})
    with pytest.raises(AirflowFailException, match=r"holds a NUL|kernel_conn_id must be a string"):
        sensor.run()


def test_a_new_attempt_ignores_the_event_of_the_old_one(submit):
    sensor = Sensor(submit("logs", {"n": 2, "delay": 1.0}))
    with pytest.raises(TaskDeferred) as deferral:
        sensor.operator.execute_complete(sensor.context, {"invocation_id": "old", "status": "failed"})
    assert sensor.legs(sensor.resume(deferral.value)) == 2


def test_a_new_attempt_ignores_the_timeout_of_the_old_one(submit):
    invocation_id = submit("logs", {"n": 2, "delay": 1.0})
    sensor = Sensor(invocation_id)
    event = {
        "invocation_id": invocation_id,
        "status": "timeout",
        "message": "Too late.",
        "possibly_running": True,
    }
    arguments = {**(sensor.defer().kwargs or {}), "event": event}
    sensor.clear()
    assert (
        sensor.legs(lambda: sensor.operator.resume_execution("execute_complete", arguments, sensor.context))
        == 2
    )
    assert sensor.deferred


class TestAgainstAKernelThatMisbehaves:
    @pytest.fixture(autouse=True)
    def all_streams_are_cut(self, server, monkeypatch):
        monkeypatch.setattr(wait_machine.WaitMachine, "_pause", lambda self, count: 0.01)
        monkeypatch.setattr(wait_machine, "LOG_DRAIN_SECONDS", 0.2)  # so the log has no end
        server.on("GET /invocations/inv1/events", Stream(state("running"), end="cut"))

    @every_wait
    @pytest.mark.parametrize("trouble", [error(503), error(404, "not_found"), invocation("paused")])
    def test_transient_errors_are_waited_out(self, server, wait, trouble):
        troubles = [trouble] * 20
        server.on("GET /invocations/inv1", *troubles, invocation("succeeded", output="7"))
        assert Sensor(**wait).run() == 7
        assert not server.seen("PATCH /invocations/inv1")

    def test_the_task_is_deferred_again_if_kernel_is_away_for_longer_than_a_trigger_waits(
        self, server, monkeypatch
    ):
        monkeypatch.setattr(wait_machine, "MAX_OUTAGE", 0.1)
        monkeypatch.setattr(sensor_runner, "MAX_OUTAGE", 0.1)
        monkeypatch.setattr(sensor_runner, "POKE_SECONDS", 0.1)
        away = [error(503)] * 100
        server.on("GET /invocations/inv1", *away, invocation("succeeded", output="7"))
        sensor = Sensor()
        deferrals = []
        defer = sensor_runner.SensorRunner.defer
        monkeypatch.setattr(
            sensor_runner.SensorRunner, "defer", lambda runner: deferrals.append(1) or defer(runner)
        )
        assert sensor.run() == 7
        assert len(deferrals) > 1

    def test_an_error_of_the_triggerer_alone_is_not_retried_forever(self, server):
        server.on("GET /invocations/inv1", invocation("running"))
        sensor = Sensor()
        arguments = sensor.defer().kwargs
        event = {
            "invocation_id": "inv1",
            "status": "unknown",
            "message": "No certificates.",
            "possibly_running": True,
        }
        with pytest.raises(KernelInvocationUnknownError, match="No certificates"):
            sensor.operator.execute_complete(sensor.context, event, **arguments)

    @pytest.mark.parametrize("mode", ["poke", "reschedule"])
    def test_a_poke_gives_the_worker_back_while_kernel_is_away(self, server, mode, monkeypatch):
        monkeypatch.setattr(sensor_runner, "POKE_SECONDS", 0.1)
        server.on("GET /invocations/inv1", error(503))
        sensor = Sensor(timeout=1, **WAITS[mode])
        with pytest.raises(AirflowSensorTimeout):
            sensor.run()
        assert (sensor.pokes > 1) is (mode == "reschedule")

    @every_wait
    @pytest.mark.parametrize(
        ("refusal", "says"),
        [
            (error(404, "not_found"), "does not know invocation inv1|Kernel answered 404"),
            (error(401), "answered 401"),
        ],
    )
    def test_a_refusal_fails_the_task_with_its_reason_and_does_not_skip_it(
        self, server, wait, refusal, says, monkeypatch
    ):
        monkeypatch.setattr(wait_machine, "NOT_FOUND_GRACE", 0.2)
        server.on("GET /invocations/inv1", refusal)
        server.on("GET /invocations/inv1/events", refusal)
        with pytest.raises(KernelInvocationUnknownError, match=says):
            Sensor(soft_fail=True, **wait).run()

    def test_an_event_that_get_does_not_confirm_is_not_a_success(self, server):
        server.on("GET /invocations/inv1", invocation("running"))
        sensor = Sensor()
        with pytest.raises(KernelInvocationUnknownError, match="was reported as succeeded, but is running"):
            sensor.operator.execute_complete(
                sensor.context, {"invocation_id": "inv1", "status": "succeeded", "confirmed": True}
            )

    def test_sensor_waits_on_when_get_denies_the_end_that_the_stream_reported(self, server):
        server.on("GET /invocations/inv1/events", Stream(state("succeeded")))
        running, ended = invocation("running"), invocation("succeeded", output="7")
        # Before the deferral, after it, in the second trigger, and after that.
        server.on("GET /invocations/inv1", running, running, running, ended)
        assert Sensor().run() == 7
        assert len(server.seen("GET /invocations/inv1/events")) == 2
