"""``@task.kernel``: a function returns the payload, and the task runs an action with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from airflow.providers.common.compat.sdk import DecoratedOperator, context_merge, task_decorator_factory

from airflow_provider_kernel.operators.arguments import check_arguments
from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
from airflow_provider_kernel.operators.mapped import check_expanded

try:
    from airflow.sdk.definitions._internal.types import SET_DURING_EXECUTION
except ImportError:  # Airflow 2, which has no SET_DURING_EXECUTION
    from airflow.utils.types import (  # type: ignore[attr-defined,no-redef]
        NOTSET as SET_DURING_EXECUTION,
    )
try:
    from airflow.sdk.bases.decorator import determine_kwargs
except ImportError:  # Airflow 3.0 and 2; common.compat 1.13 does not export the name
    from airflow.utils.operator_helpers import determine_kwargs  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.sdk.bases.decorator import Task

    from airflow_provider_kernel.api.models import InvocationRequest
    from airflow_provider_kernel.operators.options import OnLostReply

P = ParamSpec("P")
R = TypeVar("R")
#: Default of an argument that is left out, which ``default_args`` may give.
_LEFT_OUT: Any = None if TYPE_CHECKING else type("LeftOut", (), {"__repr__": lambda self: "…"})()


class _KernelDecoratedOperator(DecoratedOperator, KernelInvokeOperator):
    """
    Run an action with the payload that a function returns.

    :param python_callable: the function.
    :param op_args: its positional arguments. (templated)
    :param op_kwargs: its keyword arguments. (templated)
    """

    # The function's result is not a template.
    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(name for name in KernelInvokeOperator.template_fields if name != "payload"),
    )
    template_fields_renderers = DecoratedOperator.template_fields_renderers
    custom_operator_name = "@task.kernel"
    _request_is_deterministic = False

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            payload=SET_DURING_EXECUTION,
            **kwargs,
        )

    def execute(self, context: Context) -> Any:
        """
        Run the action, as :class:`~airflow_provider_kernel.operators.kernel.KernelInvokeOperator` does.

        DecoratedOperator's own ``execute`` is for functions that return assets, and fails on Airflow 3.0.
        """
        return KernelInvokeOperator.execute(self, context)

    def request(self, context: Context) -> InvocationRequest:
        """
        Call the function, and return the request with its result as payload.

        :param context: Airflow's.
        :return: the request.
        :raises Exception: what the function raises.
        :raises AirflowFailException: an argument, or the function's result, is wrong.
        """
        from airflow_provider_kernel.api.errors import KernelError

        context_merge(context, self.op_kwargs)
        arguments = determine_kwargs(self.python_callable, self.op_args, context)
        try:
            self.payload = self.python_callable(*self.op_args, **arguments)
        except KernelError as error:  # not Kernel's reply to this task's own request
            raise RuntimeError(f"The decorated function failed: {error}") from error
        return super().request(context)


def kernel_task(
    python_callable: Callable[..., Any] | None = None,
    *,
    app_name: str = _LEFT_OUT,
    action_name: str = _LEFT_OUT,
    version: str = _LEFT_OUT,
    async_: bool = _LEFT_OUT,
    async_timeout_seconds: int | None = _LEFT_OUT,
    kernel_conn_id: str = _LEFT_OUT,
    wait_for_completion: bool = _LEFT_OUT,
    deferrable: bool = _LEFT_OUT,
    defer_after: float = _LEFT_OUT,
    timeout: float | None = _LEFT_OUT,
    poll_interval: float = _LEFT_OUT,
    follow_logs: bool = _LEFT_OUT,
    durable: bool = _LEFT_OUT,
    metadata_field: str | None = _LEFT_OUT,
    on_lost_reply: OnLostReply = _LEFT_OUT,
    cancel_on_kill: bool = _LEFT_OUT,
    capacity_timeout: float = _LEFT_OUT,
    multiple_outputs: bool = False,
    **kwargs: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """
    Create a task that runs an action with the payload that a function returns, and returns the action's output.

    ``@task.kernel`` is this function. Import it from here if your editor should know its parameters. The task calls the
    decorated function when it submits the invocation, and not again after a deferral or to reattach to the invocation of
    an earlier attempt. The function must be free of side effects all the same, because it is called again after a wait
    for capacity, and by a retry that submits a new invocation. Its result is sent as it is, without being rendered as a
    template; None sends no payload. If the function raises AirflowSkipException, the task is skipped.

    An argument that is left out has the value in ``default_args``, or the default of
    :class:`~airflow_provider_kernel.operators.kernel.KernelInvokeOperator`, which documents each parameter in full.
    There is no ``payload``. Arguments that every task has, such as ``retries`` or ``pool``, are passed on.

    :param python_callable: the function, if Airflow passes it; leave it out.
    :param app_name: name of the deployed app. (templated)
    :param action_name: name of one of its actions. (templated)
    :param version: the app's version. (templated)
    :param async_: False makes one call that holds the worker, for actions of seconds.
    :param async_timeout_seconds: when Kernel ends an asynchronous invocation, in seconds.
    :param kernel_conn_id: the Airflow connection. (templated)
    :param wait_for_completion: False returns the invocation's id once Kernel has accepted it.
    :param deferrable: False waits on the worker instead of the triggerer.
    :param defer_after: seconds for which the task first waits on the worker; 0 defers at once.
    :param timeout: seconds from submission after which the invocation is cancelled and the task fails.
    :param poll_interval: longest time in seconds between two polls while the event stream cannot be followed.
    :param follow_logs: whether the lines that the app logs are written to the task's log.
    :param durable: whether a retry reattaches to the invocation of an earlier attempt.
    :param metadata_field: name of a field that is added to the function's result, which must be a dict.
    :param on_lost_reply: what to do if the reply was lost and Kernel did not accept the request.
    :param cancel_on_kill: whether the invocation is cancelled if a user kills the task.
    :param capacity_timeout: seconds for which the task waits while the account is full.
    :param multiple_outputs: whether each entry of the output, which must be a dict, becomes an XCom of its own.
        Default False, whatever the function's return annotation, which describes the payload.
    :return: a decorator.
    :raises ValueError: an argument is wrong; when the Dag is parsed.
    :raises TypeError: the decorated object is not a plain function; when the Dag is parsed.
    """
    given = {
        name: value
        for name, value in locals().items()
        if value is not _LEFT_OUT and name not in ("python_callable", "kwargs")
    }
    if "payload" in kwargs:
        raise ValueError(
            "@task.kernel has no argument payload: the payload is what the decorated function returns. Leave payload out, "
            "and return it."
        )
    check_arguments(given)

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        not_plain = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        if any(is_kind(function) for is_kind in not_plain):
            raise TypeError(
                f"@task.kernel needs a plain function, and {function.__name__} is a generator or async function. Write 'def' "
                "and 'return'."
            )
        decorator = task_decorator_factory(
            decorated_operator_class=_KernelDecoratedOperator,
            **given,
            **kwargs,
        )
        return check_expanded(decorator(function))

    if python_callable is None:
        return decorate
    if not callable(python_callable):
        raise TypeError(
            "@task.kernel takes keyword arguments only. Write @task.kernel(app_name=…, action_name=…)."
        )
    return decorate(python_callable)  # type: ignore[return-value]
