"""What a connection that does not exist comes to, and one that Airflow may only have been unable to look for."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, Connection
from pydantic import TypeAdapter

from airflow_provider_kernel.api.errors import (
    KernelConfigurationError,
    KernelConnectionNotFoundError,
    KernelTransportError,
)
from airflow_provider_kernel.api.settings import API_KEYS_URL, KernelSettings
from airflow_provider_kernel.hooks import connection
from airflow_provider_kernel.hooks.kernel import KernelHook
from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook
from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
from airflow_provider_kernel.triggers.capacity import KernelCapacityTrigger
from airflow_provider_kernel.triggers.kernel import KernelInvocationTrigger

try:
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import ConnectionResult, DRCount, ErrorResponse
    from airflow.sdk.execution_time.secrets import ExecutionAPISecretsBackend  # noqa: F401 - from 3.1 on
except ImportError:
    task_runner = None

TOKEN = "sk_canary_0123456789"

with_supervisor = pytest.mark.skipif(
    not task_runner, reason="this Airflow does not swallow what its supervisor says"
)


class Supervisor:
    """
    What a task asks in place of Airflow's supervisor, and how that answers.

    :param answers: to the requests for the connection, the last one again and again; an exception is raised.
    :param counts: whether Airflow's API has its database.
    """

    def __init__(self, *answers: Any, counts: bool = True) -> None:
        self.answers = list(answers)
        self.counts = counts
        self.asked_at: list[float] = []

    def send(self, message: Any) -> Any:
        if type(message).__name__ == "GetDRCount":
            return DRCount(count=0) if self.counts else ErrorResponse(error=ErrorType.API_SERVER_ERROR)
        if type(message).__name__ != "GetConnection":
            return None  # what is to be masked
        self.asked_at.append(time.monotonic())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def asend(self, message: Any) -> Any:
        return self.send(message)


class DagProcessor(Supervisor):
    """As in the Dag processor: it knows no count, and leaves what it does not know without a reply."""

    def __init__(self, *answers: Any) -> None:
        from airflow.dag_processing.processor import ToDagProcessor

        super().__init__(*answers)
        self.body_decoder = TypeAdapter(ToDagProcessor)

    def send(self, message: Any) -> Any:
        assert type(message).__name__ != "GetDRCount", "this would be waited for without end"
        return super().send(message)


class InProcessSupervisorComms(Supervisor):
    """As in ``airflow dags test``, which is known by this name."""


def none() -> Any:
    return ErrorResponse(error=ErrorType.CONNECTION_NOT_FOUND)


def one() -> Any:
    rest = dict.fromkeys(("host", "schema", "login", "port", "extra"))
    return ConnectionResult(conn_id="team", conn_type="kernel", password=TOKEN, **rest)


def away() -> list[Any]:
    error = ErrorResponse(error=ErrorType.API_SERVER_ERROR)
    return (
        [error, AirflowRuntimeError(error), ConnectionError("the supervisor is gone")] if task_runner else []
    )


def of_sync_hook(conn_id: str = "team") -> KernelSettings:
    return KernelHook(conn_id).settings


def of_async_hook(conn_id: str = "team") -> KernelSettings:
    async def ask() -> KernelSettings:
        async with KernelAsyncHook(conn_id) as hook:
            return await hook.settings()

    return asyncio.run(ask())


both_hooks = pytest.mark.parametrize("read", [of_sync_hook, of_async_hook])


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(connection, "ASK_AGAIN_AFTER", 0.05)


@pytest.fixture
def supervised(monkeypatch):
    """Have a supervisor answer."""

    def supervised(supervisor: Supervisor) -> Supervisor:
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
        return supervisor

    return supervised


@with_supervisor
@both_hooks
def test_missing_connection_is_read_twice_before_the_error(supervised, read):
    supervisor = supervised(Supervisor(none()))
    with pytest.raises(KernelConnectionNotFoundError, match="There is no Airflow connection 'team'"):
        read()
    pauses = [later - at for at, later in zip(supervisor.asked_at, supervisor.asked_at[1:], strict=False)]
    assert max(pauses) >= 0.05


@with_supervisor
@pytest.mark.parametrize(("read", "before"), [(of_sync_hook, 2), (of_async_hook, 3)])
def test_connection_is_used_when_the_second_attempt_finds_it(supervised, read, before):
    supervisor = supervised(Supervisor(*[none()] * before, one()))
    assert read().api_key == TOKEN
    assert len(supervisor.asked_at) == before + 1


@with_supervisor
@both_hooks
def test_missing_connection_sends_only_answered_questions_while_a_dag_is_parsed(supervised, read):
    supervisor = supervised(DagProcessor(none()))
    with pytest.raises(KernelTransportError, match="There is no Airflow connection 'team'"):
        read()
    assert len(supervisor.asked_at) >= 2


@with_supervisor
def test_environment_is_used_while_a_dag_is_parsed(supervised, monkeypatch):
    supervised(DagProcessor(none()))
    monkeypatch.setenv("KERNEL_API_KEY", TOKEN)
    assert KernelHook().settings.api_key == TOKEN


@with_supervisor
@both_hooks
@pytest.mark.parametrize("number", range(3))
def test_connection_raises_a_transport_error_when_airflow_could_not_look(supervised, read, number):
    supervised(Supervisor(away()[number]))
    with pytest.raises(
        KernelTransportError, match="while its API, its database or its secrets backend is away"
    ):
        read()


@with_supervisor
@both_hooks
def test_connection_raises_a_transport_error_when_airflows_database_is_unavailable(supervised, read):
    supervised(Supervisor(none(), counts=False))
    with pytest.raises(KernelTransportError, match="its database"):
        read()


class Vault:
    """A secrets backend of others."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def get_connection(self, conn_id: str) -> Connection | None:
        if self.error:
            raise self.error
        return None


@both_hooks
@pytest.mark.parametrize("error", [None, ConnectionError("a secret")])
def test_connection_raises_a_transport_error_when_a_secrets_backend_may_be_unavailable(
    monkeypatch, read, error
):
    monkeypatch.setattr(connection, "_secrets_backends", lambda: [Vault(error)])
    with pytest.raises(KernelTransportError) as unknown:
        read()
    assert "secret'" not in str(unknown.value)


@with_supervisor
@both_hooks
def test_connection_is_missing_in_dag_test(monkeypatch, supervised, read):
    supervised(InProcessSupervisorComms(none()))
    monkeypatch.setattr(connection, "_secrets_backends", lambda: [Vault(ConnectionError())])
    with pytest.raises(KernelConnectionNotFoundError):
        read()


@both_hooks
def test_environment_is_used_when_the_default_connection_is_missing(monkeypatch, read):
    monkeypatch.setattr(connection, "_secrets_backends", list)
    monkeypatch.setenv("KERNEL_API_KEY", TOKEN)
    assert read("kernel_default").api_key == TOKEN
    with pytest.raises(KernelConnectionNotFoundError):
        read("team")


@with_supervisor
@both_hooks
def test_environment_is_not_used_when_airflow_could_not_look(monkeypatch, supervised, read):
    monkeypatch.setenv("KERNEL_API_KEY", TOKEN)  # perhaps of another account
    supervised(Supervisor(away()[0]))
    with pytest.raises(KernelTransportError):
        read("kernel_default")


@pytest.mark.parametrize("conn_id", ["team", "kernel_default", "team/kernel prod"])
def test_task_is_not_retried_when_the_connection_is_missing(monkeypatch, conn_id):
    monkeypatch.setattr(connection, "_secrets_backends", list)
    operator = KernelInvokeOperator(task_id="t", app_name="a", action_name="b", kernel_conn_id="x", retries=3)
    operator.kernel_conn_id = conn_id
    ti = SimpleNamespace(
        id="1", dag_id="d", task_id="t", run_id="r", map_index=-1, try_number=1, max_tries=3, start_date=None
    )
    with pytest.raises(AirflowFailException, match="There is no Airflow connection"):
        operator.execute({"ti": ti})


def fire(trigger: Any) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with asyncio.timeout(10):
            (event,) = [event async for event in trigger.run()]
        return event.payload

    return asyncio.run(run())


@pytest.mark.parametrize(
    "trigger",
    [
        KernelInvocationTrigger("inv1", kernel_conn_id="team", deadline=None),
        KernelCapacityTrigger("team", refused_at=1.0),
    ],
)
def test_trigger_ends_at_once_when_the_connection_is_missing(monkeypatch, trigger):
    monkeypatch.setattr(connection, "_secrets_backends", list)
    event = fire(trigger)
    assert "There is no Airflow connection 'team'" in event["message"]
    assert event.get("status", event.get("capacity")) == "unknown"


def test_many_triggers_share_one_search_for_a_missing_connection(monkeypatch):
    looked = []
    monkeypatch.setattr(connection, "_secrets_backends", lambda: looked.append(1) or [])

    async def run() -> list[Any]:
        triggers = [
            KernelInvocationTrigger(f"inv{n}", kernel_conn_id="team", deadline=None) for n in range(50)
        ]
        return await asyncio.gather(*(anext(trigger.run()) for trigger in triggers))

    assert len(asyncio.run(run())) == 50
    assert len(looked) == 2


@pytest.mark.parametrize(
    ("conn_id", "says", "not_says"),
    [
        ("team", "or set AIRFLOW_CONN_TEAM.", "letters"),
        ("7_Teams", "or set AIRFLOW_CONN_7_TEAMS.", "letters"),
        ("kernel_default", "or set AIRFLOW_CONN_KERNEL_DEFAULT or KERNEL_API_KEY.", "letters"),
        ("team/kernel prod", "in the environment, choose an id of letters, digits and _.", "AIRFLOW_CONN"),
        ("team-kernel", "in the environment, choose an id of letters, digits and _.", "AIRFLOW_CONN"),
        ("équipe", "in the environment, choose an id of letters, digits and _.", "AIRFLOW_CONN"),
        ("team.kernel", "or with `airflow connections add`", "AIRFLOW_CONN"),
    ],
)
def test_message_names_the_variable_only_when_a_shell_can_set_it(monkeypatch, conn_id, says, not_says):
    monkeypatch.setattr(connection, "_secrets_backends", list)
    with pytest.raises(KernelConnectionNotFoundError) as missing:
        of_sync_hook(conn_id)
    assert says in str(missing.value)
    assert not_says not in str(missing.value)
    assert API_KEYS_URL in str(missing.value)


@both_hooks
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f'{{"conn_type": "kernel", "password": "{TOKEN}"', "It is not valid JSON."),
        (f'{{"conn_type": "kernel", "project": "p", "password": "{TOKEN}"}}', "It has no field 'project':"),
        (f'{{"conn_type": "kernel", "{TOKEN}": "p"}}', "It has no field what looks like a token"),
        (
            f'{{"conn_type": "kernel", "port": "a", "password": "{TOKEN}"}}',
            "Its port must be a number, and its extra a JSON object.",
        ),
        (f"kernel://:{TOKEN}#:/@kernel.example:x/", "must be percent-encoded"),
        (f"kernel://:{TOKEN}@a://b://c", "must be percent-encoded"),
    ],
)
def test_connection_raises_with_the_variable_that_airflow_cannot_read(monkeypatch, read, text, says):
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", text)
    monkeypatch.setenv("KERNEL_API_KEY", "sk_of_another_account")
    with pytest.raises(KernelConfigurationError) as unreadable:
        read("kernel_default")
    assert "AIRFLOW_CONN_KERNEL_DEFAULT is set, but Airflow cannot read it." in str(unreadable.value)
    assert says in str(unreadable.value)
    assert "canary" not in str(unreadable.value)
