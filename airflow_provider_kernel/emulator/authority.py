"""
Which hosts the emulator answers for, and which web pages may ask it. Pure; no I/O.

A web page that the developer opens can send requests to localhost. If its own name resolves to 127.0.0.1 (DNS
rebinding), the browser even lets it read the replies; but the browser names that host in ``Host``.
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
    """Tell whether a host, given without brackets and port, is this machine alone; a name is not resolved."""
    host = _normalize(host)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def served_hosts(host: str, address: str) -> frozenset[str] | None:
    """
    Return the hosts, besides those of loopback, that requests may name.

    :param host: what ``--host`` says.
    :param address: the numeric address that is listened on.
    :return: None for any host: all addresses of the machine are listened on, and its names are not known.
    """
    if ip_address(address).is_unspecified:
        return None
    return frozenset({_normalize(host), _normalize(address)})


def refusal_of_foreign(
    headers: Iterable[tuple[bytes, bytes]], served: frozenset[str] | None
) -> ApiError | None:
    """
    Return how a request for a foreign host, or from a foreign web page, is refused; None if it is neither.

    :param headers: names, in lower case, and values.
    :param served: see :func:`served_hosts`. Where any host is served, an ``Origin`` must still be of loopback.
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
    if len(hosts) != 1 or not (served is None or is_served(_HOST, hosts[0])):
        message = "The Host header names another host; use the address that the emulator printed"
        return ApiError(421, "misdirected_request", message)
    if "cross-site" in values[b"sec-fetch-site"] or not all(
        is_served(_ORIGIN, origin) for origin in values[b"origin"]
    ):
        return ApiError(403, "forbidden", "The request comes from a web page of another host")
    return None


def _normalize(host: str) -> str:
    """Return an address in its shortest form, or a name in lower case without the root's dot."""
    name = host.lower().removesuffix(".")
    try:
        address = ip_address(name)
    except ValueError:
        return name
    # ::ffff:127.0.0.1 is the IPv4 address 127.0.0.1.
    return str(getattr(address, "ipv4_mapped", None) or address)
