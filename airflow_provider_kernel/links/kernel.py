"""The link from a task's page in Airflow's UI to its invocation."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow_provider_kernel.hooks.kernel import KernelHook

log = logging.getLogger(__name__)


class KernelInvocationLink(BaseOperatorLink):
    """
    Leads to a task's invocation in Kernel's dashboard, as soon as Kernel has accepted the invocation.

    The URL depends on the connection. The task pushes it to XCom, because the process that shows the link cannot read
    connections.
    """

    name = "Kernel invocation"
    #: Key of the URL's XCom. Airflow 3 itself reads the XCom with this key, made of the name of this class.
    key = "_link_KernelInvocationLink"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """
        Return the URL.

        :param operator: the task. Its ``has_link`` says whether it has pushed a URL; a task without this attribute, as
            Airflow 2 passes it, may have pushed one.
        :param ti_key: the key of the task instance.
        :return: the URL; "" if there is none yet, or it does not lead to a web page.
        """
        # A mapped task whose rendering failed is still a MappedOperator.
        kind = getattr(operator, "operator_class", None)
        if not getattr(operator, "has_link", getattr(kind, "has_link", True)):
            return ""  # Airflow 3 asks whenever a worker ends or defers a task, and logs a missing XCom as an error
        url = XCom.get_value(key=self.key, ti_key=ti_key)
        # Any task can write an XCom with this key.
        return url if isinstance(url, str) and url.startswith(("https://", "http://")) else ""


def announce(ti: Any, hook: KernelHook, invocation_id: str) -> bool:
    """
    Push the link's URL to XCom, so that the UI shows the link while the task runs. A failure is a warning.

    :param ti: the task instance.
    :param hook: on the task's connection.
    :param invocation_id: id of the invocation.
    :return: whether the URL was pushed.
    """
    try:
        ti.xcom_push(key=KernelInvocationLink.key, value=hook.settings.invocation_url(invocation_id))
    except Exception as error:  # noqa: BLE001 - the link is a convenience
        from airflow_provider_kernel.api.errors import KernelError

        # Airflow's messages may be of any length.
        reason = str(error).rstrip(".") if isinstance(error, KernelError) else type(error).__name__
        log.warning("The link to Kernel invocation %s is missing in Airflow's UI: %s.", invocation_id, reason)
        return False
    return True


def address(hook: KernelHook, invocation_id: str) -> str:
    """
    Return the part of a log line that says where the invocation is shown.

    :param hook: on the task's connection.
    :param invocation_id: id of the invocation.
    :return: a colon and the URL; "" if ``dashboard_url`` cannot be used, of which :func:`announce` warns.
    """
    try:
        return f": {hook.settings.invocation_url(invocation_id)}"
    except Exception:  # noqa: BLE001 - a convenience
        return ""
