"""Run an action of a Kernel app as a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_kernel.api.arguments import (
    CONNECTION_MEANING,
    DEFAULT_CONN_ID,
    DEFER_AFTER,
    check_storable,
)
from airflow_provider_kernel.api.payload import is_nothing
from airflow_provider_kernel.links.kernel import KernelInvocationLink
from airflow_provider_kernel.operators.arguments import (
    check_arguments,
    check_payload,
    no_retry_if_mapped,
    require_name,
)
from airflow_provider_kernel.operators.deferral import FAIL_METHOD, TIMED_OUT
from airflow_provider_kernel.operators.interruptible import Interruptible
from airflow_provider_kernel.operators.mapped import ArgumentCheckMixin
from airflow_provider_kernel.operators.rendering import (
    is_native,
    is_payload_file,
    read_payload_file,
    render_json,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_kernel.api.models import InvocationRequest
    from airflow_provider_kernel.hooks.kernel import KernelHook
    from airflow_provider_kernel.operators.options import InvocationOptions, OnLostReply
    from airflow_provider_kernel.operators.runner import InvocationRunner


class KernelInvokeOperator(ArgumentCheckMixin, BaseOperator):
    """
    Run an action of a Kernel app once, wait for its end, and return its output.

    After some seconds (``defer_after``) the task is deferred and holds no worker; the lines that the app logs appear in the
    task's log. The invocation's id is pushed to XCom as ``invocation_id`` as soon as Kernel has accepted it.

    With Airflow 3.3 or later, the action runs once, whatever dies on the way. Each attempt stores a record in Airflow, by which a retry reattaches
    to the invocation; earlier Airflows have no store for it. Each payload carries a random key, as
    white space after its JSON text, by which the invocation of a lost reply is found. If a user kills the task, or its
    deadline passes, the invocation is cancelled.

    A failed invocation raises :class:`~airflow_provider_kernel.api.errors.KernelInvocationFailedError` with Kernel's
    reason and the shortened output; a retry of the task runs the action again. If no retry can help (400, 401, 403,
    404, a connection without a token), or a retry might run the action a second time, the task fails without one.

    :param app_name: name of the deployed app. (templated)
    :param action_name: name of one of its actions. (templated)
    :param payload: the action's input: any JSON value, a string of JSON text, or the name of a ``.json`` file beside
        the Dag, which is a template as a whole; 4.5 MB at most. A payload that is rendered to None fails the task; an
        item of ``expand`` may be None. Default: no payload. (templated)
    :param version: the app's version; default ``latest``. (templated)
    :param async_: True (the default): Kernel runs the action for up to an hour, and the task waits. False: one
        call that holds the worker and that Kernel cuts after 100 s; for actions of seconds.
    :param async_timeout_seconds: when Kernel ends an asynchronous invocation, in seconds, 10-3600. Default: None,
        which is Kernel's own, 900.
    :param kernel_conn_id: the Airflow connection of type ``kernel``; default ``kernel_default``. (templated)
    :param wait_for_completion: False returns the invocation's id as soon as Kernel has accepted it, and does not
        wait for the end. Default True.
    :param deferrable: False waits on the worker instead of the triggerer. Default True, whatever
        ``[operators] default_deferrable`` says: Airflow writes ``default_deferrable = false`` into every ``airflow.cfg``
        that it generates, so the option does not tell whether a user has set it.
    :param defer_after: seconds for which the task first waits on the worker, because a deferral of an invocation that ends
        soon costs more than it saves; 0 defers at once. Default 5.
    :param timeout: seconds from submission after which the invocation is cancelled and the task fails. Default:
        None, which is ``async_timeout_seconds`` and ten minutes. ``execution_timeout`` bounds the wait too, from
        the start of the attempt, deferred or not.
    :param poll_interval: longest time in seconds between two polls of the invocation while its event stream cannot
        be followed. Default 30.
    :param follow_logs: whether the lines that the app logs are written to the task's log. Default True.
    :param durable: whether a retry reattaches to the invocation of an earlier attempt. Default True; needs Airflow 3.3.
    :param metadata_field: name of a field that is added to the payload, which must be a dict, for the action to read:
        ``dag_id``, ``run_id``, ``task_id``, ``map_index``, the random ``key``, and ``traceparent`` if Airflow traces the
        task. It also makes the look-up of a lost reply exact if Kernel should store JSON without its white space.
        Default: None, which adds nothing.
    :param on_lost_reply: what to do if the reply to the request was lost and Kernel turns out not to have accepted it:
        ``fail`` (the default), or ``resubmit``.
    :param cancel_on_kill: whether the invocation is cancelled if a user kills the task (marks or clears it).
        Default True.
    :param capacity_timeout: seconds for which the task waits, deferred, while the account is full (429, 529); 0 fails
        at once. Default 86400, a day.
    :raises ValueError: when the Dag is parsed, for an argument that cannot be right.
    """

    template_fields: Sequence[str] = ("app_name", "action_name", "payload", "version", "kernel_conn_id")
    template_fields_renderers = {"payload": "json"}
    operator_extra_links = (KernelInvocationLink(),)
    ui_color = "#e4e0f9"
    #: Whether the same arguments make the same request again; False if a function makes the payload.
    _request_is_deterministic = True
    #: Whether this attempt has pushed the link's address.
    has_link = False

    def __init__(
        self,
        *,
        app_name: str,
        action_name: str,
        payload: Any = None,
        version: str = "latest",
        async_: bool = True,
        async_timeout_seconds: int | None = None,
        kernel_conn_id: str = DEFAULT_CONN_ID,
        wait_for_completion: bool = True,
        deferrable: bool = True,
        defer_after: float = DEFER_AFTER,
        timeout: float | None = None,
        poll_interval: float = 30.0,
        follow_logs: bool = True,
        durable: bool = True,
        metadata_field: str | None = None,
        on_lost_reply: OnLostReply = "fail",
        cancel_on_kill: bool = True,
        capacity_timeout: float = 24 * 3600,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.app_name = app_name
        self.action_name = action_name
        self.payload = payload
        self.version = version
        self.async_ = async_
        self.async_timeout_seconds = async_timeout_seconds
        self.kernel_conn_id = kernel_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.defer_after = defer_after
        self.timeout = timeout
        self.poll_interval = poll_interval
        self.follow_logs = follow_logs
        self.durable = durable
        self.metadata_field = metadata_field
        self.on_lost_reply = on_lost_reply
        self.cancel_on_kill = cancel_on_kill
        self.capacity_timeout = capacity_timeout
        self._interruptible = Interruptible()
        #: Whether there is a payload to render. If it is rendered to None, the task fails.
        self._has_payload = "payload" in self.template_fields and not is_nothing(payload)
        with no_retry_if_mapped(self):
            self.check_arguments({**vars(self), "dag": self.get_dag()})

    @classmethod
    def check_arguments(cls, given: Mapping[str, Any]) -> None:
        """
        Check arguments as far as they are known when the Dag is parsed.

        :param given: the arguments, by their names.
        :raises ValueError: an argument is wrong; the sentence says what to write instead.
        """
        check_arguments(given)

    def resolve_template_files(self) -> None:
        """
        Read the payload's file when the Dag is parsed.

        :raises ValueError: there is no such file, or its text is not a payload.
        """
        super().resolve_template_files()
        if is_payload_file(self.payload):
            name, self.payload = self.payload, self._read_payload_file(self.payload)
            check_storable(f"The payload file {name!r}", self.payload)
            check_payload(self.payload, self.metadata_field, self.get_dag())

    def _read_payload_file(self, name: str) -> str:
        text = read_payload_file(name, self.get_template_env())
        self._has_payload = not is_nothing(text)
        return text

    def render_template(
        self, content: Any, context: Any, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """
        Render a template as Airflow does, and read a payload that is in a file.

        JSON text stays JSON text if the Dag has ``render_template_as_native_obj``; Airflow would read it as Python.

        :param content: a template, or a value that contains templates.
        :param context: Airflow's.
        :param jinja_env: the Jinja environment; default: the Dag's.
        :param seen_oids: identities of values that are not rendered, such as another task's output.
        :return: the rendered value.
        :raises ValueError: there is no file of the payload's name.
        """
        if content is self.payload and id(content) not in (seen_oids or ()):
            # Again, because payload may have been set after the constructor.
            self._has_payload = not is_nothing(content)
            if isinstance(content, str):
                env = jinja_env or self.get_template_env()
                if is_payload_file(content):
                    return render_json(self._read_payload_file(content), context, env)
                if is_native(env):
                    return render_json(content, context, env)
        return super().render_template(content, context, jinja_env, seen_oids)

    @cached_property
    def hook(self) -> KernelHook:
        """The hook on this task's connection."""
        from airflow_provider_kernel.hooks.kernel import KernelHook

        require_name("kernel_conn_id", self.kernel_conn_id, CONNECTION_MEANING)
        return KernelHook(self.kernel_conn_id)

    def request(self, context: Context) -> InvocationRequest:
        """
        Return the request, from the rendered arguments.

        :param context: Airflow's.
        :return: the request.
        :raises AirflowFailException: an argument turned out wrong.
        """
        from airflow_provider_kernel.api.models import InvocationRequest
        from airflow_provider_kernel.api.payload_mark import new_key

        if self._has_payload and is_nothing(self.payload):
            raise AirflowFailException(
                "payload was rendered to nothing: the output, template or function that it names gave None. Have that give a "
                "value, such as {}, or leave payload out if the action takes none."
            )
        try:
            request = InvocationRequest(
                self.app_name,
                self.action_name,
                self.payload,
                self.version,
                self.async_,
                self.async_timeout_seconds,
                new_key(),
            )
            if self.metadata_field is not None:
                request.with_metadata(self.metadata_field, {})
        except ValueError as error:
            raise AirflowFailException(str(error)) from error
        return request

    def execute(self, context: Context) -> Any:
        """
        Submit an invocation once, or reattach to that of an earlier attempt; and wait for its end.

        :param context: Airflow's.
        :return: the decoded output; the invocation's id with ``wait_for_completion=False``.
        """
        with self._runner(context) as runner:
            return runner.start()

    def execute_complete(
        self,
        context: Context,
        event: dict[str, Any],
        ti_id: str | None = None,
        submitted_at: float | None = None,
    ) -> Any:
        """
        Continue after the deferral: ask Kernel for the invocation, and return its decoded output.

        :param context: Airflow's.
        :param event: what the trigger fired.
        :param ti_id: the attempt that was deferred.
        :param submitted_at: when the invocation was submitted, in seconds since 1970.
        :return: the decoded output.
        """
        with self._runner(context) as runner:
            return runner.resume_after_wait(event, ti_id, submitted_at)

    def execute_after_capacity(
        self,
        context: Context,
        event: dict[str, Any],
        ti_id: str | None = None,
        history: dict[str, Any] | None = None,
    ) -> Any:
        """
        Continue after the wait for capacity: submit the invocation.

        :param context: Airflow's.
        :param event: what the trigger fired.
        :param ti_id: the attempt that was deferred.
        :param history: what that attempt had submitted before.
        :return: as that of :meth:`execute`.
        """
        with self._runner(context) as runner:
            return runner.resume_after_capacity_wait(event, ti_id, history or {})

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Continue after the deferral, also if Airflow ended it: the deferral timed out, or its trigger raised.

        Airflow does not tell the trigger, and drops the deferral's arguments.

        :param next_method: the method that Airflow would call.
        :param next_kwargs: its arguments.
        :param context: Airflow's.
        :return: as that of :meth:`execute`.
        """
        self.has_link = True  # the deferred leg pushed a link, or failed to; get_link then returns ""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except Exception as error:
            if next_method != FAIL_METHOD:
                raise
            is_timeout = (next_kwargs or {}).get("error") in TIMED_OUT
            with self._runner(context) as runner:
                return runner.resume_after_failed_deferral(error, is_timeout=is_timeout)

    def on_kill(self) -> None:
        """End the wait; :meth:`execute` then deals with the invocation. Airflow calls this in a signal handler."""
        self._interruptible.interrupt()

    @contextmanager
    def _runner(self, context: Context) -> Iterator[InvocationRunner]:
        from airflow_provider_kernel.operators.attempt import TaskAttempt
        from airflow_provider_kernel.operators.result import ResultOptions
        from airflow_provider_kernel.operators.runner import InvocationRunner

        may_be_vetoed = getattr(self, "retry_policy", None) is not None
        with self.hook:
            runner = InvocationRunner(
                self.hook,
                context,
                self._options(),
                ResultOptions.of(self, context),
                TaskAttempt(context, self.durable, retry_may_be_vetoed=may_be_vetoed),
                self._interruptible,
                build_request=partial(self.request, context),
                cancels_on_kill=lambda: self.cancel_on_kill,
            )
            try:
                yield runner
            finally:
                self.has_link |= runner.has_link

    def _options(self) -> InvocationOptions:
        from airflow_provider_kernel.operators.options import InvocationOptions

        return InvocationOptions(
            app_name=self.app_name,
            action_name=self.action_name,
            kernel_conn_id=self.kernel_conn_id,
            wait_for_completion=self.wait_for_completion,
            deferrable=self.deferrable,
            defer_after=self.defer_after,
            timeout=self.timeout,
            execution_timeout=self.execution_timeout,
            async_timeout_seconds=self.async_timeout_seconds,
            poll_interval=self.poll_interval,
            follow_logs=self.follow_logs,
            metadata_field=self.metadata_field,
            on_lost_reply=self.on_lost_reply,
            capacity_timeout=self.capacity_timeout,
            is_deterministic=self._request_is_deterministic,
        )
