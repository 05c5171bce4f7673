"""How to reach Kernel: the fields of an Airflow connection, or the environment, checked. No I/O."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow_provider_kernel.api.dashboard import DEFAULT_DASHBOARD_URL, invocation_url
from airflow_provider_kernel.api.errors import API_KEYS_URL, KernelConfigurationError
from airflow_provider_kernel.api.text import Redactor, clean

#: Address of Kernel's API, unless the connection's host or ``KERNEL_BASE_URL`` is set.
DEFAULT_BASE_URL = "https://api.onkernel.com"
#: Seconds for a reply, unless the connection's extra ``timeout`` is set.
DEFAULT_TIMEOUT_SECONDS = 30.0
#: The extras of a connection, by name.
EXTRAS = ("project", "timeout", "max_response_mb", "proxy", "verify", "allow_http", "dashboard_url")
#: Maximum size of a reply in megabytes (10**6 bytes), unless the connection's extra ``max_response_mb`` is set: it contains
#: an output and a payload, as JSON within JSON.
DEFAULT_MAX_RESPONSE_MB = 64
#: Maximum of ``max_response_mb``: Python holds several copies of a reply.
LARGEST_MAX_RESPONSE_MB = 1024


@dataclass(frozen=True)
class KernelSettings:
    """
    How to reach Kernel.

    :param api_key: the bearer token (``sk_…``); not in the repr.
    :param base_url: address of the API, without a slash at its end.
    :param project: name or id, sent as ``X-Kernel-Project``; None for the key's default project.
    :param timeout: seconds for a reply.
    :param max_response_mb: maximum size of a reply in megabytes, decoded; a larger one is an error.
    :param verify: whether Kernel's TLS certificate is checked; or the path of a file or folder with the certificates of the
        CAs to trust.
    :param proxy: address of the proxy, not in the repr: it may contain a password. None: the environment's.
    :param dashboard_url: address of an invocation in the dashboard, as the user wrote it. :meth:`invocation_url` checks it: a
        wrong link must not fail a task.
    :param warnings: a sentence for each field of the connection that has no effect.
    """

    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    project: str | None = None
    timeout: float = DEFAULT_TIMEOUT_SECONDS
    max_response_mb: int = DEFAULT_MAX_RESPONSE_MB
    verify: bool | str = True
    proxy: str | None = field(default=None, repr=False)
    dashboard_url: str = field(default=DEFAULT_DASHBOARD_URL, repr=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def from_connection(
        cls,
        conn_id: str,
        *,
        password: str | None,
        host: str | None = None,
        login: str | None = None,
        schema: str | None = None,
        port: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> KernelSettings:
        """
        Read the fields of an Airflow connection of type ``kernel``. Empty and null fields count as missing.

        :param schema: the path of the address, as Airflow reads a URI; or ``http`` or ``https``.
        :raises KernelConfigurationError: the token is missing, or a field cannot be used.
        """
        where = f"The Airflow connection {shown(conn_id, 200)}"
        extra = extra or {}
        for name, value in {"password": password, "host": host, "login": login, "schema": schema}.items():
            if not isinstance(value, str | None):
                raise KernelConfigurationError(f"{where} has a {name} that is not text. Put it into quotes.")
        if login:
            raise KernelConfigurationError(
                f"{where} has a login, and Kernel has none: the API key is the password. "
                "Leave the login empty; in a URI, write kernel://:sk_…@ with the colon."
            )
        allow_http = _flag(extra.get("allow_http"), where)
        base_url = _base_url(host, schema, port, where, allow_http)
        return cls(
            api_key=_api_key(password, f"{where} has no token", "its password field"),
            base_url=base_url,
            project=_project(extra.get("project"), where),
            timeout=_timeout(extra.get("timeout"), where),
            max_response_mb=_max_response_mb(extra.get("max_response_mb"), where),
            verify=_verify(extra.get("verify"), where),
            proxy=_proxy(extra.get("proxy"), base_url, allow_http, where),
            dashboard_url=str(extra.get("dashboard_url") or "").strip() or DEFAULT_DASHBOARD_URL,
            warnings=tuple(
                f"{where}: {_without_effect(name)}"
                for name, value in extra.items()
                if name not in EXTRAS and value not in (None, "")
            ),
        )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> KernelSettings:
        """
        Read ``KERNEL_API_KEY`` and ``KERNEL_BASE_URL``, as Kernel's own clients do.

        :raises KernelConfigurationError: there is no key, or a value cannot be used.
        """
        return cls(
            api_key=_api_key(
                environ.get("KERNEL_API_KEY"), "The environment has no KERNEL_API_KEY", "that variable"
            ),
            base_url=_base_url(environ.get("KERNEL_BASE_URL"), None, None, "KERNEL_BASE_URL"),
        )

    def headers(self) -> dict[str, str]:
        """Return the headers of every request, without the token."""
        headers = {"Accept": "application/json"}
        if self.project:
            headers["X-Kernel-Project"] = self.project
        return headers

    @property
    def max_response_bytes(self) -> int:
        """Maximum size of a reply in bytes, decoded."""
        return self.max_response_mb * 10**6

    @cached_property
    def redactor(self) -> Redactor:
        """Replaces the token and the proxy's password in text from outside."""
        url = urlsplit(self.proxy or "")
        logins = [f"{unquote(url.username)}:{unquote(url.password or '')}"] if url.username else []
        return Redactor([self.api_key, *self.proxy_passwords()], logins)

    def proxy_passwords(self) -> list[str]:
        """Return the proxy's password in each form that may appear, for a masker."""
        written = urlsplit(self.proxy or "").password
        return [written, unquote(written)] if written else []

    def invocation_url(self, invocation_id: str) -> str:
        """
        Return the address of an invocation in the dashboard.

        :raises KernelConfigurationError: ``dashboard_url`` cannot be used.
        """
        return invocation_url(self.dashboard_url, invocation_id, self.project or "")


def _api_key(value: str | None, missing: str, where: str) -> str:
    key = (value or "").strip()
    if not key:
        raise KernelConfigurationError(f"{missing}. Make one at {API_KEYS_URL} and put it into {where}.")
    # An HTTP client refuses a header with such a character, in a message that quotes it.
    if not key.isascii() or not key.isprintable() or " " in key:
        raise KernelConfigurationError(
            "The Kernel token has a space, a line break or another character that no token has. "
            f"Copy it again from {API_KEYS_URL}."
        )
    return key


def _base_url(
    host: str | None, schema: str | None, port: int | None, where: str, allow_http: bool = False
) -> str:
    """Join the address that Airflow splits: it reads the path of a URI as the schema, and its port as the port."""
    text, schema = (host or "").strip(), (schema or "").strip()
    if not f"{text}{schema}".isprintable():  # urlsplit drops tabs and line breaks
        raise KernelConfigurationError(f"{where} has a host with a control character. {_HOST_FORM}")
    port = int(port or 0)  # an empty form saves 0
    if not 0 <= port <= 65_535:
        raise KernelConfigurationError(f"{where} has the port {port}; there are 1 to 65535.")
    scheme, path = (schema.lower(), "") if schema.lower() in ("http", "https") else ("", schema.strip("/"))
    if not text and (scheme or path):
        meaning = f"the schema {scheme!r}" if scheme else "a schema, which is a path here,"
        raise KernelConfigurationError(f"{where} has {meaning} and no host. {_HOST_FORM}")
    told_scheme, mark, rest = (text or DEFAULT_BASE_URL).rpartition("://")
    authority, slash, tail = rest.partition("/")
    if authority.count(":") > 1 and not {"[", "@"} & set(authority):
        authority = f"[{authority}]"  # an IPv6 address, from whose URI Airflow removes the brackets
    try:
        if not mark:
            told_scheme = scheme or ("http" if is_loopback(urlsplit(f"//{authority}").hostname) else "https")
        url = urlsplit(f"{told_scheme}://{authority}{slash}{tail}")
        told_port = url.port
    except ValueError:
        raise KernelConfigurationError(f"{where} has a host that is not an address. {_HOST_FORM}") from None
    told_path = url.path.strip("/")
    if url.username is not None or url.password is not None or {"?", "#"} & set(f"{text}{path}"):
        raise KernelConfigurationError(
            f"{where} has a host with a user, a password or parameters in it. {_HOST_FORM}"
        )
    if looks_like_token(f"{text} {path}"):
        raise KernelConfigurationError(
            f"{where} has what looks like a token in its host. The token belongs in the password. {_HOST_FORM}"
        )
    if (
        url.scheme not in ("http", "https")
        or not _HOST.fullmatch(url.hostname or "")
        or told_port == 0
        or authority.endswith(":")  # "https:/api…"
        or not all(_PATH.fullmatch(part) for part in (told_path, path))
    ):
        raise KernelConfigurationError(f"{where} has a host that is not an http(s) address. {_HOST_FORM}")
    if scheme not in ("", url.scheme):
        raise KernelConfigurationError(
            f"{where} has {url.scheme}:// in its host and the schema {scheme!r}. Leave the schema empty."
        )
    if path and told_path not in ("", path):
        raise KernelConfigurationError(
            f"{where} has a path in its host and another in its schema. Write one of them."
        )
    if port and told_port not in (None, port):
        raise KernelConfigurationError(
            f"{where} has the port {told_port} in its host and {port} as its port. Write the same, or only one."
        )
    if url.scheme == "http" and not (allow_http or is_loopback(url.hostname)):
        raise KernelConfigurationError(
            f"{where} would send the token unencrypted to {url.hostname}: http:// is only for this machine "
            "(localhost). Use https://; or, on a trusted network, set the extra 'allow_http' of the connection to true."
        )
    path = path or told_path
    return f"{url.scheme}://{_host_and_port(url.hostname, told_port or port)}{path and '/'}{path}"


# Labels of 1 to 63 characters, or an IPv6 address. With others, requests raises urllib3's errors, or splits the address
# in another place than urlsplit.
_HOST = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*\.?|[0-9a-f:.]*:[0-9a-f:.%]*")
# Characters that HTTP clients send unchanged; they would remove ".." and the segment before it.
_PATH = re.compile(r"(?!.*(^|/)\.\.?(/|$))[\w.~!$&'()*+,;=:@%/-]*", re.ASCII)
_HOST_FORM = f"Leave it empty for {DEFAULT_BASE_URL}, or write an address such as http://127.0.0.1:8484."


def is_loopback(host: str | None) -> bool:
    """Return whether ``host`` is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


_TOKEN = re.compile(r"(?<![a-z0-9])sk_\w{6}", re.ASCII | re.IGNORECASE)


def _without_effect(name: str) -> str:
    near = get_close_matches(name.lower().removeprefix("extra__kernel__"), EXTRAS, 1)
    hint = f"Did you mean {near[0]!r}?" if near else f"The extras are {', '.join(EXTRAS)}."
    return f"the extra {shown(name)} is unknown and has no effect. {hint}"


def shown(text: str, limit: int = 40) -> str:
    """Return a user's text as a message may quote it: it may be a token in the wrong field."""
    return "what looks like a token" if looks_like_token(text) else repr(clean(text, limit))


def looks_like_token(text: str) -> bool:
    """Return whether the text may contain a token; "task_manager" does not."""
    return _TOKEN.search(text) is not None


def _project(value: Any, where: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise KernelConfigurationError(
            f"{where}: the extra 'project' must be the name or id of a Kernel project."
        )
    if looks_like_token(value):
        raise KernelConfigurationError(
            f"{where}: the extra 'project' looks like a token. The token belongs in the password."
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


def _max_response_mb(value: Any, where: str) -> int:
    if value is None or value == "":
        return DEFAULT_MAX_RESPONSE_MB
    try:
        megabytes = int(value)
    except (TypeError, ValueError, OverflowError):
        megabytes = 0
    if (
        isinstance(value, bool)
        or (megabytes != value and not isinstance(value, str))
        or not 0 < megabytes <= LARGEST_MAX_RESPONSE_MB
    ):
        raise KernelConfigurationError(
            f"{where}: the extra 'max_response_mb' must be a whole number of megabytes from 1 to "
            f"{LARGEST_MAX_RESPONSE_MB}."
        )
    return megabytes


def _flag(value: Any, where: str) -> bool:
    # In a URI, all values are text.
    flag = _FLAGS.get(value.strip().lower()) if isinstance(value, str) else bool(value)
    if flag is None or not isinstance(value, str | bool | None):
        raise KernelConfigurationError(f"{where}: the extra 'allow_http' must be true or false.")
    return flag


_FLAGS = {"": False, "false": False, "true": True}


def _verify(value: Any, where: str) -> bool | str:
    if value is None or isinstance(value, bool):
        return value is not False
    if not isinstance(value, str):
        raise KernelConfigurationError(
            f"{where}: the extra 'verify' must be true, false, or the path of a file with CA certificates."
        )
    text = value.strip()
    return _FLAGS.get(text.lower(), text) if text else True


def _proxy(value: Any, base_url: str, allow_http: bool, where: str) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    proxy = proxy_address(value) if isinstance(value, str) else None
    if proxy is None or looks_like_token(urlsplit(proxy).hostname or ""):
        raise KernelConfigurationError(
            f"{where}: the extra 'proxy' must be an address such as http://proxy:3128 or "
            "http://user:password@proxy:3128, with %40 for an @ in the password, and so on."
        )
    if base_url.startswith("http:"):
        if proxy.startswith("https:"):  # requests would not check its certificate
            raise KernelConfigurationError(f"{where}: an https:// proxy is for an https:// host.")
        host = urlsplit(proxy).hostname
        if not (allow_http or is_loopback(host)):
            raise KernelConfigurationError(
                f"{where} would send the token unencrypted through {host}, as its host is http://. "
                "Leave the extra 'proxy' empty, or set the extra 'allow_http' to true."
            )
    return proxy


def proxy_address(text: str) -> str | None:
    """Return a proxy's address in a form that all HTTP clients read alike; None if it is not an address."""
    text = text.strip()
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        port = url.port
        unquote(f"{url.username}{url.password}").encode("latin-1")  # as HTTP clients do
    except ValueError:
        return None
    if (
        url.scheme not in ("http", "https")
        or not _HOST.fullmatch(url.hostname or "")
        or port == 0
        or not text.isascii()
        or not text.isprintable()
        or " " in text
        or url.path.strip("/")
        or url.query
        or url.fragment
        or (url.password and not url.username)
    ):
        return None
    login = f"{url.username}:{url.password or ''}@" if url.username else ""
    return f"{url.scheme}://{login}{_host_and_port(url.hostname, port)}"


def _host_and_port(host: str | None, port: int | None) -> str:
    name = f"[{host}]" if ":" in (host or "") else host
    return f"{name}:{port}" if port else f"{name}"
