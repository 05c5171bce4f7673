"""How Kernel is reached: an Airflow connection, or the environment, read into one checked value."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from airflow_provider_kernel.api.errors import KernelConfigurationError

#: Where Kernel's API is, unless the connection's host or ``KERNEL_BASE_URL`` says otherwise.
DEFAULT_BASE_URL = "https://api.onkernel.com"
#: Seconds that Kernel has for a reply, unless the connection's extra ``timeout`` says otherwise.
DEFAULT_TIMEOUT_SECONDS = 30.0
#: Where a person makes a token.
API_KEYS_URL = "https://dashboard.onkernel.com/api-keys"
#: Where a person looks at an invocation, unless the connection's extra ``dashboard_url`` says otherwise.
DEFAULT_DASHBOARD_URL = "https://dashboard.onkernel.com"


@dataclass(frozen=True)
class KernelSettings:
    """
    A usable way to Kernel.

    :param api_key: the bearer token (``sk_…``); not in the repr.
    :param base_url: address of the API, without a slash at its end.
    :param project: name or id sent as ``X-Kernel-Project``; None for the key's default project.
    :param timeout: seconds that Kernel has for a reply.
    :param dashboard_url: where a person looks at an invocation; may hold ``{invocation_id}`` and ``{project}``.
    """

    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    project: str | None = None
    timeout: float = DEFAULT_TIMEOUT_SECONDS
    dashboard_url: str = DEFAULT_DASHBOARD_URL

    @classmethod
    def from_connection(
        cls,
        conn_id: str,
        *,
        password: str | None,
        host: str | None = None,
        schema: str | None = None,
        port: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> KernelSettings:
        """
        Read the fields of an Airflow connection of type ``kernel``. Empty and null fields are missing ones.

        :raises KernelConfigurationError: the token is missing, or a field cannot be used.
        """
        where = f"The Airflow connection {conn_id!r}"
        extra = extra or {}
        return cls(
            api_key=_api_key(password, f"{where} has no token", "its password field"),
            base_url=_base_url(host, schema, port, where),
            project=_project(extra.get("project"), where),
            timeout=_timeout(extra.get("timeout"), where),
            dashboard_url=_dashboard_url(extra.get("dashboard_url"), where),
        )

    @classmethod
    def from_environment(cls, conn_id: str, environ: Mapping[str, str]) -> KernelSettings:
        """
        Read ``KERNEL_API_KEY`` and ``KERNEL_BASE_URL``, as Kernel's own clients do.

        :raises KernelConfigurationError: there is no key, or a value cannot be used.
        """
        missing = f"There is no Airflow connection {conn_id!r}, and the environment has no KERNEL_API_KEY"
        where = (
            f"a connection of type 'kernel' named {conn_id!r}, in its password field, or into KERNEL_API_KEY"
        )
        return cls(
            api_key=_api_key(environ.get("KERNEL_API_KEY"), missing, where),
            base_url=_base_url(environ.get("KERNEL_BASE_URL"), None, None, "KERNEL_BASE_URL"),
        )

    def headers(self) -> dict[str, str]:
        """Return the headers that every request carries, but for the token."""
        headers = {"Accept": "application/json"}
        if self.project:
            headers["X-Kernel-Project"] = self.project
        return headers

    def invocation_url(self, invocation_id: str) -> str:
        """Return the address at which a person looks at an invocation."""
        return _filled(self.dashboard_url, invocation_id, self.project or "")


def _api_key(value: str | None, missing: str, where: str) -> str:
    key = (value or "").strip()
    if not key:
        raise KernelConfigurationError(f"{missing}. Make one at {API_KEYS_URL} and put it into {where}.")
    # A header with such a character is refused by the HTTP client in a message that quotes it.
    if not key.isascii() or not key.isprintable() or " " in key:
        raise KernelConfigurationError(
            "The Kernel token holds a space, a line break or another character that no token has. "
            f"Copy it again from {API_KEYS_URL}."
        )
    return key


def _base_url(host: str | None, schema: str | None, port: int | None, where: str) -> str:
    text = (host or "").strip()
    if not text:
        return DEFAULT_BASE_URL
    try:
        if "://" not in text:
            # A bare IPv6 address, or a host as the URI form of a connection splits it off.
            text = f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text
            scheme = schema or ("http" if is_loopback(urlsplit(f"//{text}").hostname) else "https")
            text = f"{scheme}://{text}"
        url = urlsplit(text)
        port = url.port or port
    except ValueError:
        raise KernelConfigurationError(f"{where} has a host that is no address. {_HOST_FORM}") from None
    if url.scheme not in ("http", "https") or not _HOST.fullmatch(url.hostname or ""):
        raise KernelConfigurationError(f"{where} has a host that is no http(s) address. {_HOST_FORM}")
    if url.username is not None or url.password is not None or url.query or url.fragment:
        raise KernelConfigurationError(
            f"{where} has a host with a user, a password or parameters in it. {_HOST_FORM}"
        )
    if url.scheme == "http" and not is_loopback(url.hostname):
        raise KernelConfigurationError(
            f"{where} would send the token unencrypted to {url.hostname}: http:// is only for this machine "
            "(localhost). Use https://."
        )
    name = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{url.scheme}://{name}{f':{port}' if port else ''}{url.path.rstrip('/')}"


# Labels of 1 to 63 characters, or an IPv6 address. With others, requests raises urllib3's errors, or splits
# the address elsewhere than urlsplit does.
_HOST = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*\.?|[0-9a-f:.]*:[0-9a-f:.%]*")
_HOST_FORM = f"Leave it empty for {DEFAULT_BASE_URL}, or write an address such as http://127.0.0.1:8484."


def is_loopback(host: str | None) -> bool:
    """Tell whether ``host`` is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _project(value: Any, where: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise KernelConfigurationError(
            f"{where}: the extra 'project' must be the name or id of a Kernel project."
        )
    return value.strip() or None


def _timeout(value: Any, where: str) -> float:
    if value is None or value == "":
        return DEFAULT_TIMEOUT_SECONDS
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if isinstance(value, bool) or not 0 < seconds <= 3600:
        raise KernelConfigurationError(
            f"{where}: the extra 'timeout' must be seconds, more than 0 and 3600 at most."
        )
    return seconds


def _dashboard_url(value: Any, where: str) -> str:
    if value is None or value == "":
        return DEFAULT_DASHBOARD_URL
    text = value.strip() if isinstance(value, str) else ""
    try:
        url = urlsplit(_filled(text, "x", "x"))
        is_good = url.scheme in ("http", "https") and bool(url.hostname) and "@" not in url.netloc
    except ValueError:
        is_good = False
    if not is_good or not text.isprintable() or re.search(r"[\s{}]", _filled(text, "x", "x")):
        raise KernelConfigurationError(
            f"{where}: the extra 'dashboard_url' must be an http(s) address without a user or password; where "
            "{invocation_id} and {project} stand in it, those are filled in, and no others."
        )
    return text


def _filled(url: str, invocation_id: str, project: str) -> str:
    for name, value in (("{invocation_id}", invocation_id), ("{project}", project)):
        url = url.replace(name, quote(value, safe=""))
    return url
