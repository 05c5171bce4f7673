"""Where a person looks at an invocation: an address with places for what belongs to one. No I/O."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from airflow_provider_kernel.api.errors import KernelConfigurationError

#: Kernel's dashboard. What the address of one invocation is there is not known.
DEFAULT_DASHBOARD_URL = "https://dashboard.onkernel.com"


def invocation_url(dashboard_url: str, invocation_id: str, project: str) -> str:
    """
    Fill in an address.

    :param dashboard_url: the address; ``{invocation_id}`` and ``{project}`` in it are places.
    :param invocation_id: Kernel's id.
    :param project: name or id of the project; "" for the token's default.
    :return: the address.
    :raises KernelConfigurationError: it is none that may be shown as a link.
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
        # Not the address: it may hold a password.
        raise KernelConfigurationError(
            "The connection's extra 'dashboard_url' must be an http(s) address without a user or password, such as "
            "https://dashboard.example/invocations/{invocation_id}. {invocation_id} and {project} are filled in, "
            "and nothing else may stand in braces."
        )
    return url
