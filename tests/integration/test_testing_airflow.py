"""Tasks and Dags in the tests of users: ``run_operator`` and ``run_dag``."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime, timedelta
from types import SimpleNamespace

import airflow
import pytest
from airflow import settings
from airflow.providers.common.compat.sdk import DAG, BaseOperator, task
from airflow.triggers.base import BaseTrigger
from sqlalchemy import create_engine

from airflow_provider_kernel.api.errors import KernelInvocationFailedError
from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
from airflow_provider_kernel.sensors.kernel import KernelInvocationSensor
from airflow_provider_kernel.testing import run_dag, run_operator
from airflow_provider_kernel.testing.airflow import DagResult
from airflow_provider_kernel.testing.isolated_airflow import isolate_airflow
from dev.versions import SUPPORTED
from tests.documented import REPOSITORY, write_files
from tests.integration.pytest_plugin import ARGUMENTS
from tests.integration.task import both_waits

pytest_plugins = ["pytester"]

DAGS = """
from datetime import datetime, timedelta
from airflow.providers.common.compat.sdk import DAG, task
from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

with DAG("my_prices", schedule=None, start_date=datetime(2026, 1, 1), params={"sku": "A"}) as prices:
    price = KernelInvokeOperator(
        task_id="price", app_name="shop", action_name="price", payload={"sku": "{{ params.sku }}"}
    )
    many = KernelInvokeOperator.partial(task_id="many", app_name="shop", action_name="price")
    many.expand(payload=[{"sku": "one"}, {"sku": "two"}])

    @task
    def report(found):
        return f"{found['sku']} costs {found['price']}"

    report(price.output)

with DAG("bad", schedule=None, start_date=datetime(2026, 1, 1)) as bad:
    task(lambda found: None, task_id="after")(
        KernelInvokeOperator(
            task_id="price", app_name="shop", action_name="price", payload={}, retries=1,
            retry_delay=timedelta(hours=1),
        ).output
    )
"""
TESTS = """
import os
import pytest
from airflow_provider_kernel.testing import run_dag
from my_dags import bad, prices

def test_good(kernel_emulator):
    run = run_dag(prices, conf={"sku": "B"})

    run.raise_for_failure()
    assert run.state == "success"
    assert run.outputs == {
        "price": {"sku": "B", "price": 12.5},
        "many": [{"sku": "one", "price": 12.5}, {"sku": "two", "price": 12.5}],
        "report": "B costs 12.5",
    }
    assert run.task_states == {"price": "success", "many": ["success", "success"], "report": "success"}
    assert len(kernel_emulator.invocations("shop", "price")) == 3
    assert run_dag(prices).outputs["report"] == "A costs 12.5"

def test_bad(kernel_emulator):
    run = run_dag(bad)

    assert run.task_states == {"price": "failed", "after": "upstream_failed"}
    assert len(kernel_emulator.invocations("shop", "price")) == 2
    with pytest.raises(AssertionError, match="KeyError: 'sku'"):
        run.raise_for_failure()

def test_isolated():
    from airflow.configuration import conf
    assert os.environ["AIRFLOW_HOME"] != OUTER
    assert os.environ["AIRFLOW_HOME"] in conf.get("database", "sql_alchemy_conn")
    assert "AIRFLOW__SECRETS__BACKEND" not in os.environ
"""


def invoke_operator(payload=None, action_name="echo", **arguments):
    return KernelInvokeOperator(
        task_id="t", app_name="tests", action_name=action_name, payload=payload, **arguments
    )


@both_waits
def test_run_operator_renders_executes_and_resumes(emulator_env, deferrable):
    with DAG("shop", start_date=datetime(2026, 1, 1), params={"sku": "A"}):
        operator = invoke_operator(
            {"sku": "{{ params.sku }}", "id": "{{ ti.task_id }}", "by": "{{ who }}"}, deferrable=deferrable
        )

    assert run_operator(operator, context={"who": "me"}) == {"sku": "A", "id": "t", "by": "me"}
    assert "{{" in operator.payload["sku"], "the operator itself is as it was"


@both_waits
def test_run_operator_raises_what_the_task_fails_with(emulator_env, deferrable):
    operator = invoke_operator({"message": "no stock"}, "fail", deferrable=deferrable, retries=3)

    with pytest.raises(KernelInvocationFailedError, match="no stock"):
        run_operator(operator)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"deferrable": False, "poke_interval": 0.1},
        {"deferrable": False, "mode": "reschedule", "poke_interval": 0.1},
    ],
    ids=["deferred", "poke", "reschedule"],
)
def test_run_operator_runs_a_sensor(emulator_env, submit, arguments):
    invocation_id = submit("sleep", {"seconds": 0.5})

    assert run_operator(KernelInvocationSensor(task_id="t", invocation_id=invocation_id, **arguments)) == 0.5


def test_run_operator_runs_a_decorated_function(emulator_env):
    @task.kernel(app_name="tests", action_name="echo")
    def payload(sku, params=None):
        return {"sku": sku, "params": dict(params)}

    with DAG("shop", start_date=datetime(2026, 1, 1), params={"a": 1}):
        made = payload("{{ task.task_id }}")

    assert run_operator(made) == {"sku": "payload", "params": {"a": 1}}


def test_run_operator_renders_anew_what_the_task_itself_has_set():
    class Rendering(BaseOperator):
        template_fields = ("command",)
        command = ""

        def execute(self, context):
            self.command = "echo {{ task.task_id }}"
            context["ti"].render_templates()
            return self.command

    assert run_operator(Rendering(task_id="t")) == "echo t"


class FailingTrigger(BaseTrigger):
    """A trigger that raises, or never fires."""

    def __init__(self, is_silent):
        super().__init__()
        self.is_silent = is_silent

    def serialize(self):
        return f"{__name__}.FailingTrigger", {"is_silent": self.is_silent}

    async def run(self):
        if not self.is_silent:
            raise OSError("away")
        await asyncio.sleep(600)
        yield


class DeferringOperator(BaseOperator):
    def __init__(self, is_silent, **kwargs):
        super().__init__(**kwargs)
        self.is_silent = is_silent

    def execute(self, context):
        timeout = timedelta(seconds=0.1) if self.is_silent else None
        self.defer(trigger=FailingTrigger(self.is_silent), method_name="execute", timeout=timeout)


@pytest.mark.parametrize(
    ("is_silent", "error"),
    [(False, "TaskDeferralError"), (True, "TaskDeferralTimeout")],
    ids=["raises", "is late"],
)
def test_run_operator_fails_a_task_whose_trigger(is_silent, error):
    with pytest.raises(Exception) as failed:  # noqa: PT011 - each Airflow has the class elsewhere
        run_operator(DeferringOperator(is_silent=is_silent, task_id="t"))

    # Airflow 2 has one error for both.
    assert type(failed.value).__name__ in (error, "TaskDeferralError")


async def test_an_asynchronous_test_is_told_that_it_must_not_be(emulator_env):
    with pytest.raises(RuntimeError, match=r"run_operator\(\) .* call it in a test that is not asynchronous"):
        run_operator(invoke_operator("1", deferrable=True))
    with pytest.raises(RuntimeError, match=r"run_dag\(\) .* call it in a test that is not asynchronous"):
        run_dag(SimpleNamespace())


def test_run_operator_names_run_dag_where_it_cannot_help(emulator_env):
    with DAG("shop", start_date=datetime(2026, 1, 1)):
        first = invoke_operator(1)
        second = KernelInvokeOperator(
            task_id="second", app_name="tests", action_name="echo", payload=first.output
        )
        mapped = KernelInvokeOperator.partial(task_id="m", app_name="tests", action_name="echo").expand(
            payload=[1]
        )
        after_mapped = KernelInvokeOperator(
            task_id="last", app_name="tests", action_name="echo", payload={"found": mapped.output}
        )

    for takes_an_output in (second, after_mapped):
        with pytest.raises(LookupError, match=r"run the Dag with run_dag\(\)"):
            run_operator(takes_an_output)
    with pytest.raises(TypeError, match=r"run_dag\(\)"):
        run_operator(mapped)


def test_run_operator_sets_the_current_context():
    from airflow.providers.common.compat.sdk import get_current_context

    class Asking(BaseOperator):
        def execute(self, context):
            return get_current_context()["ti"] is context["ti"]

    assert run_operator(Asking(task_id="t"))


@pytest.fixture
def outer(pytester, monkeypatch):
    """The folder of an Airflow that is none of the tests'."""
    outer = pytester.mkdir("outer")
    monkeypatch.setenv("AIRFLOW_HOME", str(outer))
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "sqlite:////none/of/ours.db")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "none.of.Ours")
    monkeypatch.setenv("TMPDIR", str(pytester.mkdir("tmp")))
    write_files((REPOSITORY / "docs/testing.md").read_text(), pytester.path)
    yield outer
    assert list(outer.iterdir()) == []
    assert not [path for path in (pytester.path / "tmp").iterdir() if "airflow" in path.name]


def test_run_dag_uses_a_database_of_its_own(pytester, outer):
    tests = pytester.makepyfile(my_dags=DAGS, test_dags=f"OUTER = {str(outer)!r}\n{TESTS}")

    done = pytester.runpytest_subprocess(*ARGUMENTS, tests.with_name("test_dags.py"), timeout=600)

    done.assert_outcomes(passed=3)


BACKEND = """
import os

os.environ["AIRFLOW__CORE__XCOM_BACKEND"] = "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend"
os.environ["AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH"] = f"file://{os.getcwd()}/xcom"
os.environ["AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD"] = "20"
"""
LARGE = """
from datetime import datetime, timezone
from pathlib import Path

import airflow
from airflow.providers.common.compat.sdk import DAG, task
from airflow_provider_kernel.testing import run_dag

WHEN = datetime(2026, 1, 1, tzinfo=timezone.utc)

with DAG("large", schedule=None, start_date=datetime(2026, 1, 1)) as large:

    @task
    def numbers():
        return list(range(100))

    @task
    def when():
        return WHEN

    @task
    def digits():
        return "12"

    @task
    def nothing():
        return None

    numbers(), when(), digits(), nothing()


def test_outputs():
    digits = 12 if airflow.__version__.startswith("2.") else "12"  # so does this backend there
    expected = {"numbers": list(range(100)), "when": WHEN, "digits": digits, "nothing": None}
    assert run_dag(large).outputs == expected
    assert [path for path in Path("xcom").rglob("*") if path.is_file()]
"""


def test_run_dag_returns_outputs_that_an_xcom_backend_has_stored_elsewhere(pytester, outer):
    pytester.makeconftest(BACKEND)

    done = pytester.runpytest_subprocess(*ARGUMENTS, pytester.makepyfile(test_large=LARGE), timeout=600)

    done.assert_outcomes(passed=1)


@pytest.mark.skipif(
    airflow.__version__ in SUPPORTED, reason="the documentation is tried on the newest Airflow alone"
)
@pytest.mark.one_airflow
def test_the_page_on_testing_works_also_with_xdist(pytester, outer):
    done = pytester.runpytest_subprocess(*ARGUMENTS, "-n2", "--dist=loadfile", timeout=600)

    done.assert_outcomes(passed=10)


def test_run_dag_says_what_to_write_where_there_is_no_database(monkeypatch):
    monkeypatch.setattr(settings, "engine", create_engine("sqlite://"))

    with pytest.raises(RuntimeError, match="Write kernel_isolated_airflow = true under"):
        run_dag(SimpleNamespace())


def test_isolation_that_comes_too_late_is_an_error():
    assert "airflow" in sys.modules
    with pytest.raises(pytest.UsageError, match="comes too late"):
        isolate_airflow()


def test_a_failed_run_names_the_tasks_and_their_errors():
    run = DagResult("failed", {}, {"a": "success", "b": ["failed", "success"]}, {"b": ValueError("no stock")})

    with pytest.raises(AssertionError) as error:
        run.raise_for_failure()

    assert str(error.value).splitlines() == [
        "The Dag run has the state failed:",
        "  a: success",
        "  b: ['failed', 'success']",
        "b failed with ValueError: no stock",
    ]
