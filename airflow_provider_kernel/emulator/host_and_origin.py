"""
The check of the headers ``Host`` and ``Origin``. Pure; no I/O.

A web page that the developer opens can send requests to localhost. If the page's host name resolves to 127.0.0.1
(DNS rebinding), the browser even lets the page read the responses. The browser then names that host in ``Host``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from ipaddress import ip_address

from airflow_provider_kernel.emulator.contract import ApiError

_HOST = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]*)?"
_ORIGIN = f"https?://{_HOST}"


def is_loopback(host: str) -> bool:
    """
    Return whether a host is a loopback address, ``localhost``, or a name below ``localhost``. No name is resolved.

    :param host: the host, without brackets and port.
    """
    host = _normalize(host)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def served_hosts(host: str, address: str) -> frozenset[str] | None:
    """
    Return the hosts that requests may name, besides loopback.

    :param host: the value of ``--host``.
    :param address: the numeric address that the server listens on.
    :return: None for any host: the server listens on all addresses, and the machine's names are unknown.
    """
    if ip_address(address).is_unspecified:
        return None
    return frozenset({_normalize(host), _normalize(address)})


def check_host_and_origin(
    headers: Iterable[tuple[bytes, bytes]],
    served: frozenset[str] | None,
    *,
    is_linkable: bool = False,
    allows_extensions: bool = False,
) -> ApiError | None:
    """
    Return the error for a request to another host, or from a web page of another host; None if the request is allowed.

    :param headers: the request's headers; names in lower case.
    :param served: the hosts from :func:`served_hosts`. If it is None, ``Origin`` must be loopback or the host of ``Host``.
    :param is_linkable: whether a link on another host's web page may lead here. The other page cannot read the response.
    :param allows_extensions: whether an extension of Chromium may send the request.
    """
    values = defaultdict(list)
    for name, value in headers:
        values[name].append(value.decode("latin-1"))

    def is_served(pattern: str, value: str) -> bool:
        match = re.fullmatch(pattern, value)
        if match is None:
            return False
        host = match[1].strip("[]")
        return is_loopback(host) or _normalize(host) in (served or ())

    hosts = values[b"host"]
    if served is None and len(hosts) == 1 and (own := re.fullmatch(_HOST, hosts[0])):
        # Any name of this machine may be used, and a page of the emulator has the same one.
        served = frozenset({_normalize(own[1].strip("[]"))})
    if len(hosts) != 1 or not is_served(_HOST, hosts[0]):
        message = "The Host header names another host; use the address that the emulator printed"
        return ApiError(421, "misdirected_request", message)
    is_link = values[b"sec-fetch-mode"] == ["navigate"] and values[b"sec-fetch-dest"] == ["document"]
    is_foreign = "cross-site" in values[b"sec-fetch-site"] and not (is_linkable and is_link)

    def is_allowed(origin: str) -> bool:
        is_extension = re.fullmatch("chrome-extension://[a-p]{32}", origin) is not None
        return is_served(_ORIGIN, origin) or (allows_extensions and is_extension)

    if is_foreign or not all(map(is_allowed, values[b"origin"])):
        return ApiError(403, "forbidden", "The request comes from a web page of another host")
    return None


def _normalize(host: str) -> str:
    """Return an address in its shortest form, or a name in lower case without a dot at its end."""
    name = host.lower().removesuffix(".")
    try:
        address = ip_address(name)
    except ValueError:
        return name
    # ::ffff:127.0.0.1 is the IPv4 address 127.0.0.1.
    return str(getattr(address, "ipv4_mapped", None) or address)
