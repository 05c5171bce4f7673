"""The way to Kernel, the same for both hooks: through which proxy, and trusting which certificates."""

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
#: A larger file is none of certificates.
MAX_CERTIFICATES_BYTES = 16 * 2**20


def proxy_of(settings: KernelSettings) -> str | None:
    """
    Return the proxy of the connection, else the environment's.

    Neither aiohttp's nor requests' ``trust_env``: with it both read ~/.netrc too, and with requests the
    environment would win over the connection.

    :raises KernelConfigurationError: the environment's is none that both can use.
    """
    if settings.proxy:
        return settings.proxy
    if not settings.base_url.startswith("https:"):
        # The token would go unencrypted to a machine that nobody has named for it.
        return None
    from requests.utils import get_environ_proxies, select_proxy

    told = select_proxy(settings.base_url, get_environ_proxies(settings.base_url))
    proxy = proxy_address(told) if told else None
    if told and not proxy:
        # Not the proxy's address: it may hold a password.
        raise KernelConfigurationError(
            "The environment's proxy (HTTPS_PROXY, ALL_PROXY) must be one such as http://proxy:3128, as triggers "
            f"know no other kind. Change it, put another into the connection's extra 'proxy', or add "
            f"{urlsplit(settings.base_url).hostname} to NO_PROXY."
        )
    return proxy


def with_proxy(settings: KernelSettings) -> KernelSettings:
    """
    Return the settings with the proxy that is used, so that its password is known as a secret.

    :raises KernelConfigurationError: the environment's is none that both hooks can use.
    """
    return replace(settings, proxy=proxy_of(settings))


def without_login(proxy: str | None) -> str:
    """Return a proxy's address as it may be shown; "" if there is none."""
    scheme, mark, rest = (proxy or "").partition("://")
    return scheme + mark + rest.rpartition("@")[2]


def certificates_of(settings: KernelSettings) -> str | bool:
    """
    Return the path of the certificates to trust; False to trust any, with one warning; True where there is no TLS.

    :raises KernelConfigurationError: they cannot be read.
    """
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    if not settings.base_url.startswith("https:"):
        return True
    if settings.verify is False:
        _warn_of_no_verification(settings.base_url)
        return False
    if isinstance(settings.verify, str):
        told = settings.verify
    else:  # as requests does
        told = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or ""
    if not told:
        return DEFAULT_CA_BUNDLE_PATH
    trusting(told)  # or requests would tell in other words that they cannot be read
    return told


def tls_of(settings: KernelSettings) -> ssl.SSLContext | bool:
    """
    As :func:`certificates_of`, but return the certificates themselves.

    :raises KernelConfigurationError: they cannot be read.
    """
    certificates = certificates_of(settings)
    return trusting(certificates) if isinstance(certificates, str) else certificates


def trusting(path: str) -> ssl.SSLContext:
    """
    Read certificates, once until they are renewed: that takes 20 ms, or as long as the disk does.

    :raises KernelConfigurationError: they cannot be read.
    """
    try:
        found = os.stat(path)
        # OpenSSL opens the files of a folder when it needs them: then all of them must be files.
        names = [path]
        if stat.S_ISDIR(found.st_mode):
            names = [os.path.join(path, name) for name in os.listdir(path) if _HASHED.fullmatch(name)]
        if names and all(map(_is_file, names)):
            return _read_certificates(path, found.st_mtime_ns)
    except (OSError, ValueError):
        pass
    # One sentence, whatever it is: who may only edit a connection is not to learn which files there are.
    raise KernelConfigurationError(
        f"The TLS certificates in {shown(path, 200)} cannot be read. It must be the path of a file of certificates in PEM "
        "format, or of a folder of them, that Airflow's processes may read."
    )


# As OpenSSL names the certificates in a folder.
_HASHED = re.compile(r"[0-9a-f]{8}\.r?\d+")


def _is_file(path: str) -> bool:
    """Tell whether opening and reading it comes to an end; a pipe, a device and what /proc has may not."""
    found = os.stat(path)
    return stat.S_ISREG(found.st_mode) and 0 < found.st_size <= MAX_CERTIFICATES_BYTES


@lru_cache(maxsize=32)
def _read_certificates(path: str, written_at: int) -> ssl.SSLContext:  # which has them read anew
    if os.path.isdir(path):
        return ssl.create_default_context(capath=path)
    return ssl.create_default_context(cafile=path)


@cache
def _warn_of_no_verification(base_url: str) -> None:
    import warnings

    from urllib3.exceptions import InsecureRequestWarning

    log.warning(
        "The certificate of %s is not checked, as the Kernel connection has verify=false: whoever sits on the way "
        "can read the token.",
        base_url,
    )
    # urllib3 would say so for every request.
    host = urlsplit(base_url).hostname
    warnings.filterwarnings("ignore", f".*made to host '{host}'", InsecureRequestWarning)
