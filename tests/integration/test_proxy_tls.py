"""
The extras ``verify``, ``proxy`` and ``allow_http``, over real HTTP and TLS: one table for both hooks.

A row says what the connection and the environment hold, and what comes of it.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from airflow_provider_kernel.api.errors import KernelConfigurationError, KernelError, KernelTransportError
from airflow_provider_kernel.hooks.kernel import KernelHook
from airflow_provider_kernel.transport import proxy_tls
from tests.integration.conftest import TOKEN
from tests.integration.proxying import PasswordProxy, proxying
from tests.integration.scripted import ScriptedServer, invocation, serving
from tests.integration.tls import Tls

pytestmark = pytest.mark.one_airflow

PASSWORD = "pa:s@s/wo#r%d é+"
GET = "GET /invocations/inv1"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, no_backoff: None) -> None:
    """Nothing of the machine's own way to the world, nothing of an earlier test, and no waiting."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    proxy_tls._warn_of_no_verification.cache_clear()


@dataclass
class World:
    """Two Kernels, by https and by http, and a proxy before them; text is filled in with their addresses."""

    secure: ScriptedServer
    plain: ScriptedServer
    proxy: PasswordProxy
    tls_proxy: PasswordProxy
    tls: Tls
    garbage: Path

    def fill(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        login = f"user:{quote(PASSWORD, safe='')}@"
        known = {
            "SECURE": self.secure.url,
            "PLAIN": self.plain.url,
            "TLS_PROXY": f"https://{login}{self.tls_proxy.address}",
            "BARE_PROXY": self.proxy.address,
            "WRONG_PROXY": f"http://user:wrong_pass@{self.proxy.address}",
            "PROXY": f"http://{login}{self.proxy.address}",
            "NOBODY": f"http://user:wrong_pass@{nobody()}",
            "GARBAGE": str(self.garbage),
            "CA": self.tls.ca,
        }
        return known.get(value, value)


def nobody() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture
def world(tls: Tls, tmp_path: Path) -> Any:
    (tmp_path / "garbage.pem").write_text("-----BEGIN CERTIFICATE-----\nx\n")
    with (
        serving(tls.server()) as secure,
        serving() as plain,
        proxying("user", PASSWORD) as proxy,
        proxying("user", PASSWORD, tls.server()) as tls_proxy,
    ):
        for server in (secure, plain):
            server.on(GET, invocation("running"))
        yield World(secure, plain, proxy, tls_proxy, tls, tmp_path / "garbage.pem")


@dataclass(frozen=True)
class Row:
    """
    :param about: what the row shows.
    :param extra: of the connection.
    :param host: of the connection.
    :param env: of the process.
    :param error: what is raised, with a message that holds ``says``; None: Kernel is reached.
    :param passed: how many requests the proxy (either) passed on.
    :param refused: whether it refused one.
    """

    about: str
    extra: dict[str, Any] = field(default_factory=dict)
    host: str = "SECURE"
    env: dict[str, str] = field(default_factory=dict)
    error: type[KernelError] | None = None
    says: str = ""
    passed: int = 0
    refused: bool = False

    def __str__(self) -> str:
        return self.about


CA = {"verify": "CA"}
UNTRUSTED = {"error": KernelTransportError, "says": "CERTIFICATE_VERIFY_FAILED"}
ROWS = [
    Row("an unknown CA is not trusted", **UNTRUSTED),
    Row("nor with verify true", {"verify": True}, **UNTRUSTED),
    Row("nor with verify true from a URI", {"verify": "true"}, **UNTRUSTED),
    Row("verify with the CA's file", CA),
    Row("verify false", {"verify": False}),
    Row("verify false from a URI", {"verify": "False"}),
    Row("verify false wins over the environment", {"verify": False}, env={"REQUESTS_CA_BUNDLE": "GARBAGE"}),
    Row("the CA's file wins over the environment", CA, env={"REQUESTS_CA_BUNDLE": "GARBAGE"}),
    Row("verify true leaves it to the environment", {"verify": True}, env={"REQUESTS_CA_BUNDLE": "CA"}),
    Row(
        "no such CA file",
        {"verify": "/no/such/file"},
        error=KernelConfigurationError,
        says="'/no/such/file' cannot be read. Write the path of a file of certificates",
    ),
    Row("a CA file of garbage", {"verify": "GARBAGE"}, error=KernelConfigurationError, says="cannot be read"),
    Row(
        "no such CA file of the environment",
        env={"REQUESTS_CA_BUNDLE": "/no/such/file"},
        error=KernelConfigurationError,
        says="/no/such/file",
    ),
    Row("verify says nothing of plain http", {"verify": "/no/such/file"}, host="PLAIN"),
    Row("the connection's proxy", {**CA, "proxy": "PROXY"}, passed=1),
    Row("a proxy by TLS", {**CA, "proxy": "TLS_PROXY"}, passed=1),
    Row("a proxy by TLS is verified too", {"proxy": "TLS_PROXY"}, **UNTRUSTED),
    Row("the environment's proxy", CA, env={"https_proxy": "PROXY"}, passed=1),
    Row(
        "the environment's proxy without a scheme",
        CA,
        env={"https_proxy": "BARE_PROXY"},
        error=KernelTransportError,
        says="Tunnel connection failed: 407",
        refused=True,
    ),
    Row("the connection's proxy wins", {**CA, "proxy": "PROXY"}, env={"https_proxy": "NOBODY"}, passed=1),
    Row("and over no_proxy", {**CA, "proxy": "PROXY"}, env={"no_proxy": "127.0.0.1,localhost"}, passed=1),
    Row("no_proxy", CA, env={"https_proxy": "PROXY", "no_proxy": "127.0.0.1"}),
    Row(
        "a proxy that refuses the password",
        {**CA, "proxy": "WRONG_PROXY"},
        error=KernelTransportError,
        says="through the proxy http://127.0.0.1:PORT (Tunnel connection failed: 407 Proxy Auth",
        refused=True,
    ),
    Row(
        "a proxy without its password",
        {**CA, "proxy": "BARE_PROXY"},
        error=KernelTransportError,
        says="Tunnel connection failed: 407",
        refused=True,
    ),
    Row(
        "no proxy there",
        {**CA, "proxy": "NOBODY"},
        error=KernelTransportError,
        says="through the proxy http://127.0.0.1:PORT (Connection refused)",
    ),
    Row(
        "no environment's proxy for this machine",
        host="PLAIN",
        env={"http_proxy": "PROXY", "all_proxy": "PROXY"},
    ),
    Row("nor with allow_http", {"allow_http": True}, host="PLAIN", env={"http_proxy": "PROXY"}),
    Row("this machine by a proxy, if told", {"proxy": "PROXY"}, host="PLAIN", passed=1),
    Row(
        "no password over plain http",
        {"proxy": "WRONG_PROXY"},
        host="PLAIN",
        error=KernelError,
        says="Kernel answered 407: the body is text/html and not Kernel's",
        refused=True,
    ),
    Row(
        "plain http off this machine",
        host="http://0.0.0.0:1",
        error=KernelConfigurationError,
        says="set the extra 'allow_http' of the connection to true",
    ),
    Row(
        "plain http off this machine, with allow_http",
        {"allow_http": True},
        host="http://0.0.0.0:1",
        error=KernelTransportError,
        says="http://0.0.0.0:1 could not be reached (Connection refused)",
    ),
    Row(
        "a proxy off this machine for plain http",
        {"proxy": "http://192.0.2.1:3128"},
        host="PLAIN",
        error=KernelConfigurationError,
        says="unencrypted through 192.0.2.1",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_proxy_and_tls_are_the_same_for_both_hooks(row, ask, world, connect, monkeypatch, told):
    extra = {name: world.fill(value) for name, value in row.extra.items()}
    connect(host=world.fill(row.host), password=TOKEN, extra=extra)
    for name, value in row.env.items():
        monkeypatch.setenv(name, world.fill(value))

    seen = ""
    if row.error is None:
        assert ask("get_invocation", "inv1").status == "running"
        server = world.plain if row.host == "PLAIN" else world.secure
        headers = server.seen(GET)[0].headers
        assert headers["Authorization"] == f"Bearer {TOKEN}"
        if row.host == "SECURE":
            assert "Proxy-Authorization" not in headers
    else:
        with pytest.raises(row.error) as caught:
            ask("get_invocation", "inv1")
        for part in row.says.split("PORT"):
            assert part in str(caught.value)
        assert getattr(caught.value, "sent", False) is False
        seen = "".join(traceback.format_exception(caught.value)) + repr(caught.value)

    proxies = (world.proxy, world.tls_proxy)
    assert sum(len(proxy.passed) for proxy in proxies) == row.passed
    assert any(proxy.refused for proxy in proxies) is row.refused
    seen += told()
    for secret in (PASSWORD, quote(PASSWORD, safe=""), "wrong_pass", TOKEN):
        assert secret not in seen


def test_certificates_are_read_again_when_the_file_changes(ask, world, connect, tmp_path):
    (tmp_path / "others").mkdir()
    certificates = tmp_path / "ca.pem"
    connect(host=world.secure.url, password=TOKEN, extra={"verify": str(certificates)})
    shutil.copy(Tls(tmp_path / "others").ca, certificates)
    os.utime(certificates, (0, 0))
    with pytest.raises(KernelTransportError, match="certificate verify failed"):
        ask("get_invocation", "inv1")
    shutil.copy(world.tls.ca, certificates)
    assert ask("get_invocation", "inv1").status == "running"


def test_verify_false_logs_one_warning(ask, world, connect, caplog):
    caplog.set_level(logging.DEBUG)
    connect(host=world.secure.url, password=TOKEN, extra={"verify": False})
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(3):
            ask("get_invocation", "inv1")
    assert [str(warning.message) for warning in warned if "nverified" in str(warning.message)] == []
    told = [record.getMessage() for record in caplog.records if "is not checked" in record.getMessage()]
    assert len(told) == 1
    assert world.secure.url in told[0]


def test_proxy_password_is_registered_with_airflows_secrets_masker(ask, world, connect, mocker):
    extra = {"verify": world.tls.ca, "proxy": world.fill("PROXY")}
    connect(host=world.secure.url, password=TOKEN, extra=extra)
    mask = mocker.patch("airflow_provider_kernel.hooks.connection._mask")
    assert ask("get_invocation", "inv1").status == "running"
    assert {call.args[0] for call in mask.call_args_list} == {PASSWORD, quote(PASSWORD, safe="")}


def test_repr_does_not_contain_the_proxy_password(world, connect):
    connect(password=TOKEN, extra={"proxy": world.fill("PROXY")})
    with KernelHook() as hook:
        assert hook.get_conn().proxies["https"].startswith("http://user:")
        assert quote(PASSWORD, safe="") not in repr(hook) + repr(vars(hook)) + repr(hook.settings)
