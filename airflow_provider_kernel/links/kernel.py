"""The link to an invocation in the task's page of Airflow's UI."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

from airflow_provider_kernel.api.errors import KernelError

if TYPE_CHECKING:
    from airflow_provider_kernel.hooks.kernel import KernelHook

log = logging.getLogger(__name__)


class KernelInvocationLink(BaseOperatorLink):
    """
    Leads to the invocation of a task in Kernel's dashboard: from its acceptance on, and after its end.

    The address comes from the connection, and is kept in XCom: where the link is shown no connection can be read.
    """

    name = "Kernel invocation"
    #: Where Airflow 3 looks for the address by itself, under the name of this class.
    key = "_link_KernelInvocationLink"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """
        Return the address.

        :param operator: the task, whose ``has_link`` says whether it has left an address; taken for true where the
            task has no such attribute, as Airflow 2 shows it.
        :param ti_key: which of its task instances, and try.
        :return: the address; "" if there is none yet, or none that leads to a web page.
        """
        # Where it could not be rendered, a mapped task is not of its own class yet.
        kind = getattr(operator, "operator_class", None)
        if not getattr(operator, "has_link", getattr(kind, "has_link", True)):
            return ""  # Airflow 3 asks after every leg, and logs an XCom that it does not find as an error
        url = XCom.get_value(key=self.key, ti_key=ti_key)
        # Whatever else writes XComs can write this one.
        return url if isinstance(url, str) and url.startswith(("https://", "http://")) else ""


def announce(ti: Any, hook: KernelHook, invocation_id: str) -> bool:
    """
    Show the link from now on, not only once this leg of the task is over.

    :param ti: Airflow's task instance.
    :param hook: on the task's connection.
    :param invocation_id: which invocation.
    :return: whether it is shown.
    """
    try:
        ti.xcom_push(key=KernelInvocationLink.key, value=hook.settings.invocation_url(invocation_id))
    except Exception as error:  # noqa: BLE001 - a convenience; the invocation runs
        # Not Airflow's own words: they may be of any length.
        why = error if isinstance(error, KernelError) else type(error).__name__
        log.warning("There is no link to the invocation: %s", why)
        return False
    return True
