"""The proxy on the way to Kernel, and the certificates to trust, for both HTTP clients."""

from __future__ import annotations

import logging
import os
import re
import ssl
import stat
from dataclasses import replace
from functools import cache, lru_cache
from urllib.parse import urlsplit

from airflow_provider_kernel.api.errors import KernelConfigurationError
from airflow_provider_kernel.api.settings import KernelSettings, proxy_address, shown

log = logging.getLogger(__name__)
#: Maximum size of a file of certificates, in bytes.
MAX_CERTIFICATES_BYTES = 16 * 2**20


def proxy_of(settings: KernelSettings) -> str | None:
    """
    Return the proxy of the connection, or else of the environment.

    The clients' own ``trust_env`` is off: with it, both also read ~/.netrc, and in requests the environment overrides the
    connection.

    :raises KernelConfigurationError: not both clients can use the environment's proxy.
    """
    if settings.proxy:
        return settings.proxy
    if not settings.base_url.startswith("https:"):
        # The token would go unencrypted to a machine that the connection does not name.
        return None
    from requests.utils import get_environ_proxies, select_proxy

    found = select_proxy(settings.base_url, get_environ_proxies(settings.base_url))
    proxy = proxy_address(found) if found else None
    if found and not proxy:
        # Without the proxy's address: it may contain a password.
        raise KernelConfigurationError(
            "The environment's proxy (HTTPS_PROXY, ALL_PROXY) must be an address such as http://proxy:3128: triggers "
            f"support no other kind. Change it, set the connection's extra 'proxy', or add "
            f"{urlsplit(settings.base_url).hostname} to NO_PROXY."
        )
    return proxy


def with_proxy(settings: KernelSettings) -> KernelSettings:
    """
    Return the settings with the proxy that is used, so that its password is redacted.

    :raises KernelConfigurationError: not both clients can use the environment's proxy.
    """
    return replace(settings, proxy=proxy_of(settings))


def without_login(proxy: str | None) -> str:
    """Return a proxy's address without user and password; "" if there is none."""
    scheme, mark, rest = (proxy or "").partition("://")
    return scheme + mark + rest.rpartition("@")[2]


def certificates_of(settings: KernelSettings) -> str | bool:
    """
    Return the path of the certificates to trust; False to trust any, with one warning; True without TLS.

    :raises KernelConfigurationError: the certificates cannot be read.
    """
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    if not settings.base_url.startswith("https:"):
        return True
    if settings.verify is False:
        _warn_of_no_verification(settings.base_url)
        return False
    if isinstance(settings.verify, str):
        path = settings.verify
    else:  # like requests
        path = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or ""
    if not path:
        return DEFAULT_CA_BUNDLE_PATH
    trusting(path)  # otherwise requests would report unreadable ones in its own words
    return path


def tls_of(settings: KernelSettings) -> ssl.SSLContext | bool:
    """
    Return the certificates of :func:`certificates_of`, read.

    :raises KernelConfigurationError: they cannot be read.
    """
    certificates = certificates_of(settings)
    return trusting(certificates) if isinstance(certificates, str) else certificates


def trusting(path: str) -> ssl.SSLContext:
    """
    Read certificates, once until they are renewed: this takes 20 ms, or more on a slow disk.

    :raises KernelConfigurationError: they cannot be read.
    """
    try:
        found = os.stat(path)
        # OpenSSL opens the files of a folder when it needs them, so all of them must be regular files.
        names = [path]
        if stat.S_ISDIR(found.st_mode):
            names = [os.path.join(path, name) for name in os.listdir(path) if _HASHED.fullmatch(name)]
        if names and all(map(_is_file, names)):
            return _read_certificates(path, found.st_mtime_ns)
    except (OSError, ValueError):
        pass
    # One sentence for all cases: a user who may only edit a connection must not learn which files exist.
    raise KernelConfigurationError(
        f"The TLS certificates in {shown(path, 200)} cannot be read. Write the path of a file of certificates in PEM format, "
        "or of a folder of them, that Airflow's processes may read."
    )


# The names of certificates in a folder for OpenSSL.
_HASHED = re.compile(r"[0-9a-f]{8}\.r?\d+")


def _is_file(path: str) -> bool:
    """Return whether reading it ends; a pipe, a device or a file in /proc may never end."""
    found = os.stat(path)
    return stat.S_ISREG(found.st_mode) and 0 < found.st_size <= MAX_CERTIFICATES_BYTES


@lru_cache(maxsize=32)
def _read_certificates(path: str, modified_at: int) -> ssl.SSLContext:  # renewed files are read again
    if os.path.isdir(path):
        return ssl.create_default_context(capath=path)
    return ssl.create_default_context(cafile=path)


@cache
def _warn_of_no_verification(base_url: str) -> None:
    import warnings

    from urllib3.exceptions import InsecureRequestWarning

    log.warning(
        "The certificate of %s is not checked, because the Kernel connection has verify=false: a man in the middle can read "
        "the token.",
        base_url,
    )
    # urllib3 would warn for every request.
    host = urlsplit(base_url).hostname
    warnings.filterwarnings("ignore", f".*made to host '{host}'", InsecureRequestWarning)
