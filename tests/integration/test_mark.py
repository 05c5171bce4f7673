"""
The mark of a submission, where Kernel stores payloads as they came and where it stores JSON anew.

All replies get lost in one way or another; the emulator judges what was accepted.
"""

from __future__ import annotations

import json
import re

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_kernel.api.payload_mark import read_mark
from airflow_provider_kernel.testing import KernelEmulator
from tests import faults
from tests.integration.conftest import APP, client_of
from tests.integration.task import Task, both_waits
from tests.integration.test_exactly_once import POST, echo, losing, unique

not_accepting = pytest.mark.parametrize(
    "fault", [faults.drop_request(), faults.answer(500), faults.html(502)], ids=lambda fault: fault.name
)
PAYLOADS = [{}, {"sku": "A-100"}, [1, None], "7", '"text"', "null", ' {"a": 1}\n', '{"1e400": "é \\ud83d"}']


@pytest.fixture(scope="module")
def emulator(request):
    """An emulator of this module's own: its invocations are those of these tests."""
    with KernelEmulator([APP], heartbeat=0.5, reserialize_payloads=request.param) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def client(emulator):
    with client_of(emulator) as client:
        yield client


as_they_came = pytest.mark.parametrize("emulator", [False], indirect=True, ids=["as they came"])
anew = pytest.mark.parametrize("emulator", [True], indirect=True, ids=["anew"])


def ids_in(error):
    return set(re.findall(r"\b[a-z0-9]{24}\b", str(error.value)))


@as_they_came
@pytest.mark.usefixtures("proxy")
class TestAsTheyCame:
    @pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
    def test_no_action_sees_the_mark(self, client, payload):
        task = Task("echo", payload)
        expected = json.loads(payload) if isinstance(payload, str) else payload
        assert json.loads(json.dumps(task.run())) == json.loads(json.dumps(expected).replace("\\ud83d", "?"))
        stored = client.invocations.retrieve(task.invocation_id).payload
        assert read_mark(stored) == task.record["key"]
        assert json.loads(stored) == expected

    @losing
    @both_waits
    def test_invocation_of_a_lost_reply_is_found_among_twins_before_and_after(self, proxy, fault, deferrable):
        payload, twins = unique(), []

        def twin():
            twins.append(echo(payload=payload, map_index=len(twins))[0])
            twins[-1].run()

        twin()
        task, _ = echo(payload=payload, deferrable=deferrable, map_index=7)
        task.at("after:intent", lambda: (twin(), proxy.on(POST, fault, times=1)))
        task.at("before:accepted", twin)
        assert task.run() == payload
        assert task.invocation_id not in [twin.invocation_id for twin in twins]
        assert len(proxy.accepted) == 4

    @not_accepting
    @pytest.mark.parametrize("twin_is_first", [True, False])
    def test_a_lost_request_takes_no_twin_for_its_own(self, proxy, fault, twin_is_first):
        payload = unique()

        def twin():
            echo(payload=payload)[0].run()

        task, _ = echo(payload=payload)
        if twin_is_first:
            task.at("after:intent", lambda: (twin(), proxy.on(POST, fault, times=1)))
        else:
            task.at("after:intent", lambda: proxy.on(POST, fault, times=1))
            task.at("before:accepted", twin)
        with pytest.raises(AirflowFailException, match=r"did not accept it\. The task is not retried"):
            task.run()
        assert "invocation_id" not in task.xcom

    @not_accepting
    def test_a_lost_request_is_submitted_again_with_resubmit_although_a_twin_ran(self, proxy, fault):
        payload = unique()
        task, _ = echo(payload=payload, on_lost_reply="resubmit")
        task.at("after:intent", lambda: (echo(payload=payload)[0].run(), proxy.on(POST, fault, times=1)))
        assert task.run() == payload
        assert len(proxy.accepted) == 2


@anew
@pytest.mark.usefixtures("proxy")
class TestAnew:
    @losing
    def test_a_lost_reply_is_ambiguous_even_without_a_twin(self, proxy, fault):
        task, _ = echo(retries=3)
        proxy.on(POST, fault, times=1)
        with pytest.raises(
            AirflowFailException, match=r"may have accepted it as one of.*not retried"
        ) as error:
            task.run()
        assert len(ids_in(error)) == 1
        assert len(proxy.accepted) == 1

    @not_accepting
    def test_a_lost_request_is_ambiguous_if_a_twin_ran_and_the_twin_is_left_alone(self, proxy, client, fault):
        payload = unique(seconds=60)
        other = Task("sleep", payload)
        task = Task("sleep", payload, on_lost_reply="resubmit")
        task.at("after:intent", lambda: (other.defer(), proxy.on(POST, fault, times=1)))
        with pytest.raises(AirflowFailException) as error:
            task.run()
        assert ids_in(error) == {other.invocation_id}
        assert client.invocations.retrieve(other.invocation_id).status in ("queued", "running")
        client.invocations.update(other.invocation_id, status="failed")

    @not_accepting
    def test_a_lost_request_with_another_payload_is_submitted_again(self, proxy, fault):
        task, payload = echo(on_lost_reply="resubmit")
        echo()[0].run()
        proxy.on(POST, fault, times=1)
        assert task.run() == payload
        assert len(proxy.accepted) == 2

    @losing
    @pytest.mark.parametrize("map_index", [-1, 3])
    def test_metadata_field_finds_the_invocation_of_a_lost_reply_among_twins(self, proxy, fault, map_index):
        payload = unique()
        for _ in range(2):
            echo(payload=payload, metadata_field="airflow", map_index=1)[0].run()
        task, _ = echo(payload=payload, metadata_field="airflow", map_index=map_index)
        proxy.on(POST, fault, times=1)
        result = task.run()
        assert result["airflow"]["key"] == task.record["key"]
        assert result["airflow"]["map_index"] == map_index
        assert len(proxy.accepted) == 3

    @not_accepting
    def test_metadata_field_proves_that_kernel_did_not_accept(self, proxy, fault):
        payload = unique()
        task, _ = echo(payload=payload, metadata_field="airflow", on_lost_reply="resubmit")
        task.at("after:intent", lambda: (echo(payload=payload)[0].run(), proxy.on(POST, fault, times=1)))
        assert task.run()["test"] == payload["test"]
        assert len(proxy.accepted) == 2

    def test_a_retry_looks_up_the_submission_of_an_attempt_that_died_during_it(self, proxy):
        task, payload = echo(retries=1, metadata_field="airflow")
        task.run_until_it_dies_at("before:accepted")
        assert task.retry().run()["test"] == payload["test"]
        assert len(proxy.accepted) == 1


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize("emulator", [False, True], indirect=True, ids=["as they came", "anew"])
class TestWithoutAPayload:
    @losing
    def test_a_lost_reply_is_ambiguous(self, proxy, fault):
        proxy.on(POST, fault, times=1)
        with pytest.raises(AirflowFailException, match="may have accepted it as one of") as error:
            Task("no_payload", retries=3).run()
        assert ids_in(error)
        assert len(proxy.accepted) == 1

    def test_the_request_has_no_payload(self, proxy, client):
        task = Task("no_payload")
        assert task.run()["invocation_id"] == task.invocation_id
        assert client.invocations.retrieve(task.invocation_id).payload is None
        assert task.record["key"] is None
