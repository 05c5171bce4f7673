"""``@task.kernel``: a function makes the payload, and the task runs the action with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from airflow.providers.common.compat.sdk import DecoratedOperator, context_merge, task_decorator_factory

from airflow_provider_kernel.api.errors import KernelError
from airflow_provider_kernel.operators.arguments import SET_DURING_EXECUTION, check_arguments
from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
from airflow_provider_kernel.operators.mapped import checked
from airflow_provider_kernel.operators.options import OnLostReply

try:
    from airflow.sdk.bases.decorator import determine_kwargs
except ImportError:  # Airflow 3.0 or earlier; common.compat 1.13 does not have the name
    from airflow.utils.operator_helpers import determine_kwargs  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.sdk.bases.decorator import Task

    from airflow_provider_kernel.api.models import InvocationRequest

P = ParamSpec("P")
R = TypeVar("R")
#: Stands for an argument that is left out, which ``default_args`` may still give.
_LEFT_OUT: Any = None if TYPE_CHECKING else type("LeftOut", (), {"__repr__": lambda self: "…"})()


class _KernelDecoratedOperator(DecoratedOperator, KernelInvokeOperator):
    """
    Runs an action with the payload that a function returns.

    :param python_callable: the function.
    :param op_args: its positional arguments. (templated)
    :param op_kwargs: its keyword arguments. (templated)
    """

    # The payload is what the function returned, not a template: it may hold anything.
    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(name for name in KernelInvokeOperator.template_fields if name != "payload"),
    )
    template_ext: Sequence[str] = ()
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
        """As the operator's: the decorator's own fails on Airflow 3.0, and is for functions that return assets."""
        return KernelInvokeOperator.execute(self, context)

    def request(self, context: Context) -> InvocationRequest:
        """
        Call the function, and return what is asked of Kernel, but for the key.

        :raises Exception: what the function raises.
        :raises AirflowFailException: an argument, or what it returned, is wrong.
        """
        context_merge(context, self.op_kwargs)
        arguments = determine_kwargs(self.python_callable, self.op_args, context)
        try:
            self.payload = self.python_callable(*self.op_args, **arguments)
        except KernelError as error:  # which would be taken for the answer to the request that it is made for
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
    Make a task of a function that returns the payload: the task runs an action with it, and returns its output.

    This is what ``@task.kernel`` is; imported from here, editors know its parameters. The function is called in the
    process that submits the invocation, and not again for a deferral or to take up what an earlier try has started.
    It must be free of side effects all the same: a wait for capacity, a retry, or a lost reply calls it anew. What it
    returns is sent as it is, never rendered as a template; None sends no payload. If it raises AirflowSkipException,
    the task is skipped.

    What is left out is what ``default_args`` says, or the default of
    :class:`~airflow_provider_kernel.operators.kernel.KernelInvokeOperator`, which says more of each parameter. There
    is no ``payload``; what else every task takes, such as ``retries`` or ``pool``, is passed on.

    :param python_callable: the function, where Airflow passes it; leave it out.
    :param app_name: name of the deployed app. (templated)
    :param action_name: name of one of its actions. (templated)
    :param version: the app's version. (templated)
    :param async_: False makes one call that holds the worker, for actions of seconds.
    :param async_timeout_seconds: when Kernel ends an asynchronous invocation, in seconds.
    :param kernel_conn_id: the Airflow connection. (templated)
    :param wait_for_completion: False returns the invocation's id once Kernel has accepted it.
    :param deferrable: False waits on the worker instead of the triggerer.
    :param timeout: seconds from submission after which the invocation is cancelled and the task fails.
    :param poll_interval: longest time in seconds between two looks while there is no event stream.
    :param follow_logs: whether the lines that the app logs are written to the task's log.
    :param durable: whether a retry takes up what an earlier try has started.
    :param metadata_field: name under which a random key is added to what the function returns, a dict then.
    :param on_lost_reply: what to do where a reply was lost and Kernel lists no invocation.
    :param cancel_on_kill: whether a user who kills the task also cancels the invocation.
    :param capacity_timeout: seconds for which a full account is waited for.
    :param multiple_outputs: whether each entry of the output, which must be a dict then, becomes an XCom of its own.
        Default False: what is annotated as the function's result is the payload.
    :return: what makes a task of the function.
    :raises ValueError: when the Dag is parsed, for an argument that cannot be right.
    :raises TypeError: when the Dag is parsed: it decorates no plain function.
    """
    given = {
        name: value
        for name, value in locals().items()
        if value is not _LEFT_OUT and name not in ("python_callable", "kwargs")
    }
    if "payload" in kwargs:
        raise ValueError(
            "The payload of @task.kernel is what the decorated function returns. Leave payload= out, and return it."
        )
    check_arguments(given)

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        is_other = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        if any(is_one(function) for is_one in is_other):
            raise TypeError(
                f"@task.kernel needs a plain function, and {function.__name__} is a generator or async. Write 'def' and 'return'."
            )
        decorator = task_decorator_factory(
            decorated_operator_class=_KernelDecoratedOperator,
            **given,
            **kwargs,
        )
        return checked(decorator(function))

    if python_callable is None:
        return decorate
    if not callable(python_callable):
        raise TypeError("@task.kernel takes named arguments only: @task.kernel(app_name=…, action_name=…).")
    return decorate(python_callable)  # type: ignore[return-value]
