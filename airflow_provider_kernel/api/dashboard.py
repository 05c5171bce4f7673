"""The address of an invocation in Kernel's dashboard. No I/O."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from airflow_provider_kernel.api.errors import KernelConfigurationError

#: Kernel's dashboard; the address of one invocation there is not known.
DEFAULT_DASHBOARD_URL = "https://dashboard.onkernel.com"


def invocation_url(dashboard_url: str, invocation_id: str, project: str) -> str:
    """
    Return the address of an invocation.

    :param dashboard_url: the address, in which ``{invocation_id}`` and ``{project}`` are replaced.
    :param invocation_id: Kernel's id.
    :param project: name or id of the project; "" for the token's default.
    :return: the address.
    :raises KernelConfigurationError: it cannot be shown as a link.
    """
    url = dashboard_url
    for name, value in (("{invocation_id}", invocation_id), ("{project}", project)):
        url = url.replace(name, quote(value, safe=""))
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        is_good = False
    if not is_good or not url.isprintable() or re.search(r"[\s{}]", url):
        # Without the address: it may contain a password.
        raise KernelConfigurationError(
            "The connection's extra 'dashboard_url' must be an http(s) address without a user or password, such as "
            "https://dashboard.example/invocations/{invocation_id}. Nothing but {invocation_id} and {project} may stand in "
            "braces."
        )
    return url
