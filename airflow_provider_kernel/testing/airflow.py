"""Tasks and Dags in the process of a test: :func:`run_operator` and :func:`run_dag`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock
from uuid import uuid4

import airflow
from airflow.providers.common.compat.sdk import TaskDeferred, XComArg, get_current_context

from airflow_provider_kernel.testing.isolated_airflow import create_database, is_isolated

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import DAG, BaseOperator

_IS_AIRFLOW_2 = airflow.__version__.startswith("2.")
#: What ``dag.test()`` calls for each attempt of a task.
_RUN_TASK = (
    "airflow.models.dag._run_task"
    if _IS_AIRFLOW_2
    else "airflow.sdk.execution_time.supervisor.run_task_in_process"
)


def run_operator(operator: BaseOperator, *, context: Mapping[str, Any] | None = None) -> Any:
    """
    Run a task in this process, without a database, and return its result.

    It renders the template fields and calls ``execute``. If the task defers, it runs the trigger and resumes the task. A sensor
    with ``mode="reschedule"`` pokes as with ``mode="poke"``. A task that fails is not retried.

    :param operator: the task: an operator, a sensor, or what calling a function with a decorator such as ``@task.kernel``
        returns. Neither a mapped task nor one that takes the output of another task; run those with :func:`run_dag`.
    :param context: values that are added to Airflow's context, or replace those with the same names.
    :return: the result, which Airflow would push to XCom as ``return_value``.
    :raises RuntimeError: the test is asynchronous, and the task may defer.
    :raises Exception: the exception that the task fails with.
    """
    if not hasattr(operator, "execute") and hasattr(operator, "operator"):  # an XComArg
        operator = operator.operator
    if not hasattr(operator, "execute"):
        raise TypeError("run_operator() runs a single task: run a mapped one with run_dag().")
    if getattr(operator, "deferrable", False):  # whether it defers may depend on how long the action takes
        _check_no_event_loop("run_operator")
    for name in operator.template_fields:
        for other, _ in XComArg.iter_xcom_references(getattr(operator, name, None)):
            if not hasattr(other, "execute"):  # Airflow asks its API for the outputs of a mapped task.
                raise _no_output(operator.task_id, other.task_id)
    task: Any = operator.prepare_for_execution()
    if getattr(task, "mode", None) == "reschedule":
        task.mode = "poke"
    whole: Any = {**_context(task), **(context or {})}
    whole["task_instance"] = whole["ti"]
    with _current_context(whole):
        task.render_template_fields(whole)
        # This argument tells Airflow that a task runner makes the call.
        sentinel = {f"{type(task).__name__}__sentinel": _sentinel()}
        resume: Callable[[], Any] = partial(task.execute, whole, **sentinel)
        while True:
            try:
                return resume()
            except TaskDeferred as deferral:
                resume = _run_trigger(task, whole, deferral)


def _run_trigger(task: Any, context: Any, deferral: TaskDeferred) -> Callable[[], Any]:
    """
    Run the trigger of a deferral, made anew from its serialized arguments; return what resumes the task.

    :raises RuntimeError: the test is asynchronous.
    """
    _check_no_event_loop("run_operator")
    path, arguments = deferral.trigger.serialize()
    module, _, name = path.rpartition(".")
    method, kwargs = deferral.method_name, dict(deferral.kwargs or {})
    timeout = deferral.timeout
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    try:
        trigger = getattr(import_module(module), name)(**arguments)
        kwargs["event"] = asyncio.run(_first_event(trigger, seconds))
    except Exception as error:  # noqa: BLE001 - as Airflow's triggerer does
        # Airflow tells a task in this way that its trigger has failed.
        reason = "Trigger timeout" if isinstance(error, TimeoutError) else "Trigger failure"
        method, kwargs = "__fail__", {"error": reason, "traceback": traceback.format_exception(error)}
    return partial(task.resume_execution, method, kwargs, context)


def _check_no_event_loop(function: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        f"{function}() runs triggers in an event loop of its own: call it in a test that is not asynchronous."
    )


async def _first_event(trigger: Any, seconds: float | None) -> Any:
    events = trigger.run()
    try:
        return (await asyncio.wait_for(anext(events), seconds)).payload
    finally:
        await events.aclose()


def _no_output(task_id: str, others: Any) -> LookupError:
    return LookupError(
        f"run_operator() runs {task_id} alone, so there is no output of {others}: run the Dag with run_dag()."
    )


class _TaskInstance:
    """The part of a task instance that operators use."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.task_id = task.task_id
        self.dag_id = task.dag.dag_id if task.has_dag() else "test"
        self.id = uuid4()
        self.run_id = "test"
        self.map_index = -1
        self.try_number, self.max_tries = 1, 0
        self.state = "running"
        self.start_date = datetime.now(UTC)
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any, **_: Any) -> None:
        self.xcoms[key] = value

    def xcom_pull(self, task_ids: Any = None, key: str = "return_value", **_: Any) -> Any:
        if task_ids in (None, self.task_id, [self.task_id]):
            return self.xcoms.get(key)
        raise _no_output(self.task_id, task_ids)

    def render_templates(self, context: Any = None, **_: Any) -> Any:
        """``@task.bash`` calls this for the command that its function has returned."""
        self.task.render_template_fields(context or get_current_context())
        return self.task

    def get_relevant_upstream_map_indexes(self, *_: Any, **__: Any) -> None:
        """Airflow 2 asks for these before it pulls an output."""

    def get_task_states(self, *, run_ids: Any = None, **_: Any) -> dict[str, dict[str, str]]:
        return {self.run_id: {self.task_id: self.state}}


def _context(task: Any) -> dict[str, Any]:
    """Return Airflow's context, without the values that need a database."""
    now = datetime.now(UTC)
    ti = _TaskInstance(task)
    params = task.params.dump()
    accessors = import_module(
        "airflow.utils.context" if _IS_AIRFLOW_2 else "airflow.sdk.execution_time.context"
    )
    return {
        **({"execution_date": now, "expanded_ti_count": None} if _IS_AIRFLOW_2 else {}),
        "conf": import_module("airflow.providers.common.compat.sdk").conf,
        "conn": accessors.ConnectionAccessor(),
        "dag": task.dag if task.has_dag() else None,
        "dag_run": SimpleNamespace(
            run_id=ti.run_id, dag_id=ti.dag_id, conf={}, logical_date=now, run_after=now, run_type="manual"
        ),
        "data_interval_end": now,
        "data_interval_start": now,
        "ds": now.strftime("%Y-%m-%d"),
        "ds_nodash": now.strftime("%Y%m%d"),
        "logical_date": now,
        "macros": import_module("airflow.macros" if _IS_AIRFLOW_2 else "airflow.sdk.execution_time.macros"),
        "params": params,
        "run_id": ti.run_id,
        "task": task,
        "ti": ti,
        "ts": now.isoformat(),
        "ts_nodash": now.strftime("%Y%m%dT%H%M%S"),
        "ts_nodash_with_tz": now.strftime("%Y%m%dT%H%M%S%z"),
        "var": {
            "value": accessors.VariableAccessor(deserialize_json=False),
            "json": accessors.VariableAccessor(deserialize_json=True),
        },
    }


def _sentinel() -> Any:
    if _IS_AIRFLOW_2:
        return import_module("airflow.models.baseoperator")._sentinel
    return import_module("airflow.sdk.bases.operator").ExecutorSafeguard.sentinel_value


def _current_context(context: Any) -> Any:
    """Have ``get_current_context()`` return the context."""
    module = "airflow.models.taskinstance" if _IS_AIRFLOW_2 else "airflow.sdk.execution_time.context"
    return import_module(module).set_current_context(context)


@dataclass(frozen=True)
class DagResult:
    """
    A run of a Dag, from :func:`run_dag`.

    :param state: ``success`` or ``failed``.
    :param outputs: the output of each task; None if it has none, and a list for a mapped task.
    :param task_states: the state of each task; a list for a mapped task.
    :param errors: what tasks failed with, by task id; of a mapped task the last error.
    """

    state: str
    outputs: dict[str, Any] = field(repr=False)
    task_states: dict[str, Any]
    errors: dict[str, BaseException] = field(repr=False)

    def raise_for_failure(self) -> None:
        """
        Raise an error if the run has failed.

        :raises AssertionError: the run has failed; with the state of each task, and what the tasks failed with.
        """
        __tracebackhide__ = True
        if self.state == "success":
            return
        states = "\n".join(f"  {task_id}: {state}" for task_id, state in self.task_states.items())
        errors = "\n".join(
            f"{task_id} failed with {type(error).__name__}: {error}" for task_id, error in self.errors.items()
        )
        raise AssertionError(f"The Dag run has the state {self.state}:\n{states}\n{errors}".rstrip())


def run_dag(
    dag: DAG, *, conf: Mapping[str, Any] | None = None, logical_date: datetime | None = None
) -> DagResult:
    """
    Run a Dag in this process with ``dag.test()``, and return its state and its tasks' outputs. Retries do not wait.

    It uses Airflow's metadata database: that of the tests with ``kernel_isolated_airflow = true`` in pytest's options, otherwise
    the configured one.

    :param dag: the Dag.
    :param conf: the run's configuration, which overrides the Dag's ``params``.
    :param logical_date: the run's logical date, with a time zone; None: now.
    :return: state, outputs and states of tasks.
    :raises RuntimeError: the database is not initialized, or the test is asynchronous.
    """
    _check_no_event_loop("run_dag")
    _prepare_database()
    arguments: dict[str, Any] = {"run_conf": dict(conf or {})}
    if logical_date is not None:
        arguments["execution_date" if _IS_AIRFLOW_2 else "logical_date"] = logical_date
    if not _IS_AIRFLOW_2:
        _store_dag(dag)
    with _recorded_errors() as errors, _restored_params(dag), _retries_at_once():
        run: Any = dag.test(**arguments)
    return _result(dag, run, errors)


def _result(dag: DAG, run: Any, errors: dict[str, BaseException]) -> DagResult:
    from airflow.utils.session import create_session

    outputs: dict[str, Any] = {}
    states: dict[str, Any] = {}
    with create_session() as session:
        run = session.merge(run)
        tis = run.get_task_instances(session=session)
        order = {task_id: index for index, task_id in enumerate(dag.task_dict)}
        for ti in sorted(tis, key=lambda ti: (order[ti.task_id], ti.map_index)):
            output = _output(ti, session)
            if ti.map_index < 0:
                outputs[ti.task_id], states[ti.task_id] = output, _text(ti.state)
            else:
                outputs.setdefault(ti.task_id, []).append(output)
                states.setdefault(ti.task_id, []).append(_text(ti.state))
        return DagResult(_text(run.state), outputs, states, errors)


def _output(ti: Any, session: Any) -> Any:
    """Return what a task that takes the output gets: the XCom backend may have stored it elsewhere."""
    if _IS_AIRFLOW_2:
        return ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index, session=session)
    from airflow.models.xcom import XComModel
    from airflow.sdk.execution_time.xcom import XCom
    from sqlalchemy import select

    names: Any = {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": ti.map_index}
    found = session.scalar(select(XComModel).filter_by(**names, key="return_value"))
    return found and XCom.deserialize_value(found)


def _text(state: Any) -> str:
    return str(getattr(state, "value", state))


def _prepare_database() -> None:
    from airflow import settings
    from sqlalchemy import inspect

    engine: Any = settings.engine
    if inspect(engine).has_table("dag_run"):
        return
    if not is_isolated():
        raise RuntimeError(
            "Airflow's metadata database is not initialized. Write kernel_isolated_airflow = true under "
            "[tool.pytest.ini_options] in pyproject.toml, and the tests have a database of their own; or run "
            "`airflow db migrate`."
        )
    engine.dispose()
    create_database()


def _store_dag(dag: Any) -> None:
    """Store the Dag in the database: ``dag.test()`` of Airflow 3 needs it there, and itself stores only Dags of the Dags folder."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    try:
        dagbag = import_module("airflow.dag_processing.dagbag")
    except ImportError:  # before Airflow 3.2
        dagbag = import_module("airflow.models.dagbag")
    manager = DagBundlesManager()
    manager.sync_bundles_to_db()
    bundle = next(iter(manager.get_all_dag_bundles())).name
    # Airflow sets it where it reads the file of the Dag, and before 3.1 cannot do without.
    dag.relative_fileloc = dag.relative_fileloc or os.path.basename(dag.fileloc)
    bag = dagbag.DagBag(os.devnull, collect_dags=False)
    bag.bag_dag(dag)
    if hasattr(dagbag, "sync_bag_to_db"):
        dagbag.sync_bag_to_db(bag, bundle, None)
    else:  # Airflow 3.0
        bag.sync_to_db(bundle, None)


@contextlib.contextmanager
def _restored_params(dag: Any) -> Iterator[None]:
    """Restore the values of ``params``: a run's configuration changes them for the runs that follow in this process."""
    dictionaries = [each.params for each in (dag, *dag.tasks) if hasattr(each.params, "get_param")]
    found = [params.get_param(name) for params in dictionaries for name in params]
    values = [param.value for param in found]
    try:
        yield
    finally:
        for param, value in zip(found, values, strict=True):
            param.value = value


def _retries_at_once() -> contextlib.AbstractContextManager[Any]:
    """Have a task retry at once: ``dag.test()`` waits for ``retry_delay``, which is five minutes by default."""
    task_instance = import_module("airflow.models.taskinstance").TaskInstance

    def next_retry_datetime(ti: Any) -> Any:
        # Airflow 3.0 would resume the attempt that has failed, if that was deferred.
        ti.next_method = ti.next_kwargs = None
        return ti.end_date

    return mock.patch.object(task_instance, "next_retry_datetime", next_retry_datetime)


@contextlib.contextmanager
def _recorded_errors() -> Iterator[dict[str, BaseException]]:
    """Record what tasks fail with: ``dag.test()`` logs it, and returns only their states."""
    errors: dict[str, BaseException] = {}
    module, _, function = _RUN_TASK.rpartition(".")
    run_task = getattr(import_module(module), function)

    def run(*args: Any, ti: Any, **kwargs: Any) -> Any:
        errors.pop(ti.task_id, None)  # of an earlier attempt
        try:
            result = run_task(*args, ti=ti, **kwargs)
        except Exception as error:
            errors[ti.task_id] = error
            raise
        if reported := getattr(result, "error", None):
            errors[ti.task_id] = reported
        return result

    with mock.patch(_RUN_TASK, run):
        yield errors
