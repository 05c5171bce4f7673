"""A client of Kernel's API on an Airflow connection: synchronous, with requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import BaseHook
from tenacity import Retrying

from airflow_provider_kernel import metrics
from airflow_provider_kernel.api import endpoints
from airflow_provider_kernel.api.arguments import DEFAULT_CONN_ID
from airflow_provider_kernel.api.endpoints import Cancellation, Request
from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelError,
    KernelInvocationUnknownError,
    KernelTransportError,
    is_certainly_not_accepted,
    is_kernels_refusal,
)
from airflow_provider_kernel.api.events import Event
from airflow_provider_kernel.api.listing import PagedList
from airflow_provider_kernel.api.models import Invocation, InvocationRequest
from airflow_provider_kernel.api.settings import KernelSettings
from airflow_provider_kernel.hooks import connection_form
from airflow_provider_kernel.hooks.connection import read_settings
from airflow_provider_kernel.hooks.connection_test import check_connection
from airflow_provider_kernel.lifecycle.conversation import Conversation, Follow, cancel
from airflow_provider_kernel.lifecycle.lookup import LookupResult, SubmissionLookup
from airflow_provider_kernel.lifecycle.record import Record
from airflow_provider_kernel.lifecycle.wait_machine import StatusLookup, WaitMachine, wait_for_end
from airflow_provider_kernel.transport.driver import drive
from airflow_provider_kernel.transport.errors import lost_reply, retrying
from airflow_provider_kernel.transport.limits import Limits, limits_of, stream_limits
from airflow_provider_kernel.transport.sync import events_of, exchange, new_session, result_of

if TYPE_CHECKING:
    import requests

T = TypeVar("T")


class KernelHook(BaseHook):
    """
    Calls Kernel's API with the token of an Airflow connection of type ``kernel``.

    If the connection ``kernel_default`` does not exist, the hook uses ``KERNEL_API_KEY`` and ``KERNEL_BASE_URL`` of the
    environment. GET, PATCH and DELETE are sent again after transient errors. ``POST /invocations`` is sent again only if
    Kernel certainly did not accept it (nothing was sent, 429, 529): Kernel has no idempotency key.

    The hook keeps HTTP connections open. Close it with :meth:`close`, or use it as a context manager.

    :param kernel_conn_id: the Airflow connection; default ``kernel_default``.
    """

    conn_name_attr = "kernel_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "kernel"
    hook_name = "Kernel"
    get_connection_form_widgets = staticmethod(connection_form.widgets)
    get_ui_field_behaviour = staticmethod(connection_form.field_behaviour)

    def __init__(self, kernel_conn_id: str = DEFAULT_CONN_ID) -> None:
        super().__init__()
        self.kernel_conn_id = kernel_conn_id

    @cached_property
    def settings(self) -> KernelSettings:
        """
        How to reach Kernel; read once, and again after Kernel has refused the token (401, 403).

        :return: address, token, project and time-out.
        :raises KernelConfigurationError: the connection does not exist, has no token, or cannot be used.
        :raises KernelTransportError: Airflow cannot be asked for it.
        """
        return read_settings(self.kernel_conn_id, self.get_connection)

    def get_conn(self) -> requests.Session:
        """Return the HTTP session, which sends the token; it is made once."""
        return self._session

    @cached_property
    def _session(self) -> requests.Session:
        return new_session(self.settings)

    def clone(self) -> KernelHook:
        """Return a hook with the same settings and its own HTTP session, for another thread."""
        clone = type(self)(self.kernel_conn_id)
        clone.settings = self.settings
        return clone

    def close(self) -> None:
        """Close the HTTP session; the next call opens another."""
        if "_session" in self.__dict__:
            self._session.close()
            del self._session

    def __enter__(self) -> KernelHook:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def invoke(
        self,
        app_name: str,
        action_name: str,
        payload: Any = None,
        *,
        version: str = "latest",
        async_: bool = True,
        async_timeout_seconds: int | None = None,
    ) -> Invocation:
        """
        Start an invocation, once.

        :param app_name: name of the deployed app.
        :param action_name: name of one of its actions.
        :param payload: the action's input: any JSON value, or a string of JSON text. Default: none.
        :param version: the app's version; default ``latest``.
        :param async_: False waits for the end in this call, which Kernel cuts after 100 s. Default True.
        :param async_timeout_seconds: seconds after which Kernel ends the invocation, 10-3600. Default: Kernel's own, 900.
        :return: the invocation, with id and status; with ``async_=False`` also the output.
        :raises ValueError: an argument is wrong.
        :raises KernelApiError: Kernel refused.
        :raises KernelLostReplyError: the reply was lost; the invocation may be running.
        """
        request = InvocationRequest(app_name, action_name, payload, version, async_, async_timeout_seconds)
        return self._submit(request, is_certainly_not_accepted)

    def _submit(
        self,
        request: InvocationRequest,
        may_repeat: Callable[[KernelError], bool],
        before_sending: Callable[[], None] = lambda: None,
    ) -> Invocation:
        """
        As :meth:`invoke`.

        :param may_repeat: returns whether the request may be sent again after an error.
        :param before_sending: called each time before the request is sent; what it raises ends the submission.
        """
        post = endpoints.invoke(request, may_repeat)

        def send() -> Invocation:
            before_sending()
            return self._send_once(post)

        try:
            accepted: Invocation = Retrying(**retrying(post))(send)
            return accepted
        except (KernelApiError, KernelTransportError) as error:
            raise lost_reply(request, error) or error from None

    def _look_up(self, intent: Record) -> LookupResult:
        """Look up a submission whose reply was lost; see :class:`SubmissionLookup`."""
        return self._drive(SubmissionLookup(intent, time.monotonic).steps())

    def _find_invocation(self, invocation_id: str, *, timeout: float | None = None) -> Invocation | None:
        """
        Ask for an invocation as patiently as a wait does.

        :param invocation_id: its id.
        :param timeout: seconds after which to stop asking, 0 to ask once; None: as patiently as a wait.
        :return: the invocation; None if Kernel has not known it for half a minute.
        :raises KernelInvocationTimeoutError: there was no good answer in time.
        :raises KernelInvocationUnknownError: Kernel refuses to tell, or could not be reached for 15 minutes.
        """
        now = time.time()
        machine = StatusLookup(
            invocation_id,
            now,
            log_transient_error(self.log, "Asking", invocation_id),
            None if timeout is None else now + timeout,
        )
        try:
            return self._wait(machine)
        except KernelInvocationUnknownError as error:
            if is_kernels_refusal(error.__cause__) and error.__cause__.status_code == 404:
                return None
            raise

    def get_invocation(self, invocation_id: str) -> Invocation:
        """
        Ask for one invocation.

        :param invocation_id: its id.
        :return: the invocation.
        :raises KernelError: Kernel does not know the invocation (404), refuses, or cannot be reached.
        """
        return self._send(endpoints.get_invocation(invocation_id))

    def list_invocations(
        self,
        *,
        app_name: str | None = None,
        version: str | None = None,
        action_name: str | None = None,
        deployment_id: str | None = None,
        status: str | None = None,
        since: str | None = None,
        query: str | None = None,
        limit: int = 100,
    ) -> Iterator[Invocation]:
        """
        List invocations, newest first; each page is requested when it is needed. An invocation must match all filters.

        :param app_name: the app. Default: any.
        :param version: the version of the app, as it was requested. Default: any.
        :param action_name: the action. Default: any.
        :param deployment_id: the deployment. Default: any.
        :param status: ``queued``, ``running``, ``succeeded`` or ``failed``. Default: any.
        :param since: start at or after an RFC 3339 time, or within a duration such as ``5m``. Default: any.
        :param query: text in id, app or action. Default: any.
        :param limit: invocations per page, 1-100. Default 100.
        :return: the invocations.
        """
        ask = partial(
            endpoints.list_invocations,
            app_name=app_name,
            version=version,
            action_name=action_name,
            deployment_id=deployment_id,
            status=status,
            since=since,
            query=query,
        )
        return self._items(PagedList(ask, limit))

    def get_app_versions(
        self, app_name: str | None = None, version: str | None = None
    ) -> list[dict[str, Any]]:
        """
        Return the deployed versions of apps.

        :param app_name: the app. Default: any.
        :param version: the version. Default: any.
        :return: the versions, with their actions, as Kernel's API describes them.
        """
        ask = partial(endpoints.list_apps, app_name=app_name, version=version)
        return list(self._items(PagedList(ask, max_bytes=self.settings.max_response_bytes)))

    def follow_invocation(self, invocation_id: str, since: str | None = None) -> Iterator[Event]:
        """
        Follow one event stream until it ends. The end says nothing about the invocation; call :meth:`get_invocation`.

        :param invocation_id: its id.
        :param since: an RFC 3339 time or a duration such as ``5m``; None for the whole log.
        :return: the events, as they come.
        :raises KernelError: the stream cannot be opened, or breaks.
        """
        return self._events(invocation_id, since, idle_timeout=None, max_lifetime=None)

    def wait_for_invocation(
        self,
        invocation_id: str,
        *,
        timeout: float | None = None,
        poll_interval: float = 30.0,
        on_log: Callable[[str], None] | None = None,
        replayed_before: float | None = None,
    ) -> Invocation:
        """
        Wait for the end of an invocation, following its event stream. This never cancels the invocation.

        :param invocation_id: its id.
        :param timeout: maximum time in seconds; None for no limit.
        :param poll_interval: longest time in seconds between two polls while there is no stream. Default 30.
        :param on_log: called with each line that the app logs, or several lines if they come fast; a late line begins with
            its own time. Default: None.
        :param replayed_before: lines from before this time, in seconds since 1970, were shown by an earlier wait; a line
            before and after them says so. None: there was no earlier wait.
        :return: the invocation, succeeded or failed.
        :raises KernelInvocationTimeoutError: it had not ended in time.
        :raises KernelInvocationUnknownError: Kernel refuses to tell its state, or could not be reached for 15 minutes.
        """
        machine = new_wait(
            invocation_id,
            self.log,
            deadline=None if timeout is None else time.time() + timeout,
            poll_interval=poll_interval,
            on_log=on_log,
            replayed_before=replayed_before,
        )
        return self._wait(machine)

    def cancel_invocation(
        self, invocation_id: str, reason: str | None = None, by: Mapping[str, Any] | None = None
    ) -> Cancellation:
        """
        Cancel an invocation unless it has ended, and close its browsers, which would keep accruing charges.

        :param invocation_id: its id.
        :param reason: becomes the invocation's output, for people. Default: no output.
        :param by: who cancels, added to the output: a task instance's ``ti_id``, ``dag_id`` and so on.
        :return: the invocation, and whether this call ended it.
        :raises KernelError: Kernel refused, or could not be reached.
        """
        return self._drive(cancel(invocation_id, reason, by))

    def test_connection(self) -> tuple[bool, str]:
        """
        Test the connection: ask Kernel who owns the token. Airflow's Test button calls this.

        :return: whether the connection works, and a sentence for the user; after 15 seconds at most.
        """
        return check_connection(self)

    def _wait(self, machine: WaitMachine) -> Invocation:
        return self._drive(wait_for_end(machine, time.time))

    def _drive(self, conversation: Conversation[T]) -> T:
        return drive(conversation, self._send, self._follow)

    def _items(self, pages: PagedList) -> Iterator[Any]:
        while pages.has_more:
            yield from self._drive(pages.next_page())

    def _send(self, request: Request[T]) -> T:
        """Send a request, again if that is safe and may help; return the reply's result."""
        reply: T = Retrying(**retrying(request))(self._send_once, request)
        return reply

    def _send_once(self, request: Request[T]) -> T:
        settings = self.settings
        with self._exchange(request, settings, limits_of(request, settings)) as response:
            return result_of(request, response, settings)

    @contextmanager
    def _exchange(
        self, request: Request[Any], settings: KernelSettings, limits: Limits, *, stream: bool = False
    ) -> Iterator[requests.Response]:
        """Send a request and yield its reply. If Kernel refuses the token, the next request reads the connection again."""
        try:
            with exchange(self._session, settings, request, limits, stream=stream) as response:
                yield response
        except KernelApiError as error:
            if error.status_code in (401, 403) and self.__dict__.get("settings") is settings:
                self.close()
                self.__dict__.pop("settings", None)
            raise

    def _follow(self, follow: Follow) -> None:
        events = self._events(follow.invocation_id, follow.since, follow.idle_timeout, follow.max_lifetime)
        with closing(events):
            for event in events:
                if not follow.on_event(event):
                    break

    def _events(
        self, invocation_id: str, since: str | None, idle_timeout: float | None, max_lifetime: float | None
    ) -> Generator[Event, None, None]:
        request = endpoints.follow_events(invocation_id, since)
        opened = time.monotonic()
        if max_lifetime is not None:
            idle_timeout = min(idle_timeout or max_lifetime, max(max_lifetime, 0.1))
        try:
            settings = self.settings
            limits = stream_limits(settings, idle_timeout, max_lifetime)
            with self._exchange(request, settings, limits, stream=True) as response:
                yield from events_of(request, response, settings)
        except KernelTransportError:
            if max_lifetime is None or time.monotonic() - opened < max_lifetime:
                raise


def log_transient_error(log: Any, doing: str, invocation_id: str) -> Callable[[KernelError], None]:
    """Return a function that logs an error after which the wait continues."""
    return partial(log.warning, "%s for Kernel invocation %s: %s", doing, invocation_id)


def new_wait(invocation_id: str, log: Any, *, in_triggerer: bool = False, **options: Any) -> WaitMachine:
    """Return a wait that begins now and has these options. It logs transient errors and counts reconnects."""
    return WaitMachine(
        invocation_id,
        time.time(),
        on_transient_error=log_transient_error(log, "Waiting", invocation_id),
        on_reconnect=partial(metrics.reconnected, in_triggerer=in_triggerer),
        **options,
    )
