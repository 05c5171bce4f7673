"""Wait for an invocation that was started elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseSensorOperator, PokeReturnValue

from airflow_provider_kernel.api.arguments import (
    CONNECTION_MEANING,
    DEFAULT_CONN_ID,
    MAX_SECONDS,
    check_flag,
    is_invocation_id,
)
from airflow_provider_kernel.api.payload import is_nothing
from airflow_provider_kernel.links import kernel as link
from airflow_provider_kernel.operators.arguments import (
    check_names,
    is_unrendered,
    no_retry_if_mapped,
    require_name,
)
from airflow_provider_kernel.operators.deferral import FAIL_METHOD
from airflow_provider_kernel.operators.mapped import ArgumentCheckMixin

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_kernel.hooks.kernel import KernelHook
    from airflow_provider_kernel.sensors.runner import SensorRunner

ID_MEANING = (
    "the id that Kernel gave the invocation, such as the output of a task with wait_for_completion=False"
)


class KernelInvocationSensor(ArgumentCheckMixin, BaseSensorOperator):
    """
    Wait until an invocation that was started elsewhere has ended, and return its output.

    The sensor has not started the invocation, so it never cancels it: not when the task is killed, nor when ``timeout``
    passes. If Kernel is away, the sensor waits until then. A failed invocation fails the task with Kernel's reason and the
    shortened output, without a retry, which would find the same; so does ``timeout``, as with every sensor. After
    ``execution_timeout``, which bounds each attempt, deferred or not, there is a retry. With ``soft_fail`` the task is
    skipped in these cases, and its log says why. It fails all the same if Kernel refuses to tell or does not know the
    invocation, and if the trigger fails. Airflow 2 itself ends a deferred task at its ``execution_timeout``, and does not
    skip it.

    Deferred, the sensor follows the invocation as :class:`~airflow_provider_kernel.operators.kernel.KernelInvokeOperator`
    does, with the lines that the app logs in the task's log. ``poke_interval`` is then the longest time between two
    polls while the event stream cannot be followed, and ``timeout`` counts from the start of the attempt. The options
    ``mode``, ``exponential_backoff``, ``max_wait`` and ``silent_fail`` are for ``deferrable=False``, which polls the
    invocation every ``poke_interval`` seconds and shows no lines.

    :param invocation_id: what to wait for. (templated)
    :param kernel_conn_id: the Airflow connection of type ``kernel``; default ``kernel_default``. (templated)
    :param deferrable: False waits on a worker, by pokes. Default True, as for the operator, whatever
        ``[operators] default_deferrable`` says.
    :param follow_logs: whether the lines that the app logs are written to the task's log while the task is
        deferred. Default True.
    :raises ValueError: when the Dag is parsed, for an argument that cannot be right.
    """

    template_fields: Sequence[str] = ("invocation_id", "kernel_conn_id")
    operator_extra_links = (link.KernelInvocationLink(),)
    ui_color = "#e4e0f9"
    #: Whether this attempt has pushed the link's address.
    has_link = False

    def __init__(
        self,
        *,
        invocation_id: str,
        kernel_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool = True,
        follow_logs: bool = True,
        **kwargs: Any,
    ) -> None:
        try:
            super().__init__(**kwargs)
            is_bounded = max(self.timeout, self.poke_interval) <= MAX_SECONDS
        except OverflowError:
            is_bounded = False
        if not is_bounded:
            raise ValueError(f"timeout and poke_interval must be {MAX_SECONDS} seconds (a year) at most.")
        self.invocation_id = invocation_id
        self.kernel_conn_id = kernel_conn_id
        self.deferrable = deferrable
        self.follow_logs = follow_logs
        with no_retry_if_mapped(self):
            self.check_arguments(vars(self))

    @classmethod
    def check_arguments(cls, given: Mapping[str, Any]) -> None:
        """
        Check arguments as far as they are known when the Dag is parsed.

        :param given: the arguments, by their names.
        :raises ValueError: an argument is wrong; the sentence says what to write instead.
        """
        check_names(given, invocation_id=ID_MEANING, kernel_conn_id=CONNECTION_MEANING)
        if "invocation_id" in given and not is_unrendered(given["invocation_id"], given.get("dag")):
            _check_id(given["invocation_id"])
        for name in ("deferrable", "follow_logs"):
            check_flag(name, given.get(name, True))

    @cached_property
    def hook(self) -> KernelHook:
        """The hook on this task's connection."""
        from airflow_provider_kernel.hooks.kernel import KernelHook

        return KernelHook(self.kernel_conn_id)

    def execute(self, context: Context) -> Any:
        """
        Wait for the invocation's end.

        :param context: Airflow's.
        :return: the decoded output.
        """
        if is_nothing(self.invocation_id):
            raise AirflowFailException(f"invocation_id was rendered to nothing. Pass {ID_MEANING}.")
        require_name("invocation_id", self.invocation_id, ID_MEANING)
        require_name("kernel_conn_id", self.kernel_conn_id, CONNECTION_MEANING)
        runner = self._runner(context)
        with runner.skipping(), self.hook:
            _check_id(self.invocation_id)
            self.hook.get_conn()  # fails at once if the connection cannot be used
            self.log.info(
                "Waiting for Kernel invocation %s%s",
                self.invocation_id,
                link.address(self.hook, self.invocation_id),
            )
            self.has_link = link.announce(context["ti"], self.hook, self.invocation_id)
            if not self.deferrable or runner.poll():
                # Unwrapped: Airflow 2 warns if one operator's execute calls another's.
                return BaseSensorOperator.execute.__wrapped__(self, context)  # type: ignore[attr-defined]
        return runner.defer()

    def poke(self, context: Context) -> PokeReturnValue:
        """
        Poll once.

        :param context: Airflow's.
        :return: whether the invocation has ended, with the decoded output if so.
        :raises AirflowFailException: the invocation has failed.
        :raises KernelInvocationUnknownError: Kernel refuses to tell its state, or does not know it.
        """
        return self._runner(context).poke()

    def execute_complete(
        self,
        context: Context,
        event: dict[str, Any],
        ti_id: str | None = None,
        deferred_at: float | None = None,
    ) -> Any:
        """
        Continue after the deferral: ask Kernel for the invocation, and return its decoded output.

        :param context: Airflow's.
        :param event: what the trigger fired.
        :param ti_id: the attempt that was deferred.
        :param deferred_at: when it was deferred, in seconds since 1970.
        :return: the decoded output.
        """
        runner = self._runner(context)
        if not runner.is_event_of_this_attempt(event, ti_id):
            return self.execute(context)
        return runner.resume_after_wait(event, deferred_at)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Continue after the deferral; if Airflow ended it, poll once more before the task fails.

        :param next_method: the method that Airflow would call.
        :param next_kwargs: its arguments.
        :param context: Airflow's.
        :return: the decoded output.
        """
        self.has_link = True  # execute pushed a link, or failed to; get_link then returns ""
        runner = self._runner(context)
        if next_method != FAIL_METHOD:
            with runner.skipping():
                return super().resume_execution(next_method, next_kwargs, context)
        with self.hook:
            ended = runner.poll()
        with runner.skipping():
            if ended:
                return runner.result(ended)
            try:
                # Not the sensor's own method, which with soft_fail skips the task in both cases.
                return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)
            except Exception as error:
                raise runner.failed_deferral_error(error, next_kwargs) from error

    def _runner(self, context: Context) -> SensorRunner:
        from airflow_provider_kernel.operators.result import ResultOptions
        from airflow_provider_kernel.sensors.runner import SensorOptions, SensorRunner

        options = SensorOptions(
            invocation_id=self.invocation_id,
            kernel_conn_id=self.kernel_conn_id,
            deferrable=self.deferrable,
            reschedule=self.reschedule,
            poke_interval=self.poke_interval,
            timeout=self.timeout,
            execution_timeout=self.execution_timeout,
            follow_logs=self.follow_logs,
            soft_fail=self.soft_fail,
            never_fail=self.never_fail,
        )
        return SensorRunner(self.hook, context, options, ResultOptions.of(self, context))


def _check_id(value: str) -> None:
    if is_invocation_id(value):
        return
    from airflow_provider_kernel.api.errors import KernelConfigurationError
    from airflow_provider_kernel.api.settings import shown

    raise KernelConfigurationError(f"invocation_id must be {ID_MEANING}, not {shown(value)}.")
