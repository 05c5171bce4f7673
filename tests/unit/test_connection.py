"""An Airflow connection in every form that it has: each of its fields is used, or refused by its name."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from urllib.parse import quote

import pytest
from airflow.models.connection import Connection as StoredConnection
from airflow.providers.common.compat.sdk import Connection
from airflow.secrets.local_filesystem import LocalFilesystemBackend

from airflow_provider_kernel.api.errors import KernelConfigurationError
from airflow_provider_kernel.api.settings import EXTRAS, KernelSettings
from airflow_provider_kernel.hooks import connection, connection_form
from airflow_provider_kernel.hooks.connection import settings_of
from airflow_provider_kernel.hooks.kernel import KernelHook
from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook

TOKEN = "sk_canary/+@:%#?0123"
QUOTED = quote(TOKEN, safe="")


def of_sync_hook() -> KernelSettings:
    return KernelHook("a_kernel").settings


def of_async_hook() -> KernelSettings:
    async def ask() -> KernelSettings:
        async with KernelAsyncHook("a_kernel") as hook:
            return await hook.settings()

    return asyncio.run(ask())


both_hooks = pytest.mark.parametrize("read", [of_sync_hook, of_async_hook])


@pytest.fixture
def set_connection(monkeypatch) -> Callable[[str], None]:
    """Set the connection as the environment has it: a URI or JSON."""
    return lambda text: monkeypatch.setenv("AIRFLOW_CONN_A_KERNEL", text)


@pytest.fixture
def warned(caplog) -> Callable[[], list[str]]:
    connection.warn_once.cache_clear()
    caplog.set_level(logging.WARNING, logger=connection.__name__)
    return lambda: [record.getMessage() for record in caplog.records if record.name == connection.__name__]


@pytest.mark.parametrize(
    ("uri", "base_url"),
    [
        (f"kernel://:{QUOTED}@", "https://api.onkernel.com"),
        (f"kernel://:{QUOTED}@/", "https://api.onkernel.com"),
        (f"kernel://:{QUOTED}@/?timeout=5", "https://api.onkernel.com"),
        (f"kernel://:{QUOTED}@:444", "https://api.onkernel.com:444"),
        (f"kernel://:{QUOTED}@kernel.example", "https://kernel.example"),
        (f"kernel://:{QUOTED}@kernel.example:444/", "https://kernel.example:444"),
        (f"kernel://:{QUOTED}@kernel.example/kernel/v1/", "https://kernel.example/kernel/v1"),
        (f"kernel://:{QUOTED}@kernel.example/kernel%2Fv1?timeout=5", "https://kernel.example/kernel/v1"),
        (f"kernel://:{QUOTED}@kernel.example/https", "https://kernel.example"),
        (f"kernel://https://:{QUOTED}@kernel.example:444/v1/", "https://kernel.example:444/v1"),
        (f"kernel://http://:{QUOTED}@127.0.0.1:8080/kernel/v1", "http://127.0.0.1:8080/kernel/v1"),
        (f"kernel://:{QUOTED}@127.0.0.1:8080/kernel/v1", "http://127.0.0.1:8080/kernel/v1"),
        (f"kernel://http://:{QUOTED}@[::1]:8080/kernel", "http://[::1]:8080/kernel"),
        (f"kernel://:{QUOTED}@[::1]:8080/kernel", "http://[::1]:8080/kernel"),
        (f"kernel://:{QUOTED}@[::1]", "http://[::1]"),
        (f"kernel://:{QUOTED}@https%3A%2F%2Fkernel.example%2Fv1%2F", "https://kernel.example/v1"),
        (f"kernel://:{QUOTED}@https%3A%2F%2Fkernel.example%3A444%2Fv1", "https://kernel.example:444/v1"),
        (f"generic://:{QUOTED}@kernel.example/v1", "https://kernel.example/v1"),
    ],
)
@both_hooks
def test_uri_connection_has_the_address_of_the_uri(set_connection, uri, base_url, read):
    set_connection(uri)
    found = read()
    assert (found.base_url, found.api_key) == (base_url, TOKEN)


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({}, "https://api.onkernel.com"),
        ({"port": 443}, "https://api.onkernel.com:443"),
        ({"host": "", "login": "", "schema": "", "port": 0, "extra": ""}, "https://api.onkernel.com"),
        ({"host": "https://kernel.example:444/v1/"}, "https://kernel.example:444/v1"),
        ({"host": "https://kernel.example:444/v1", "port": 444}, "https://kernel.example:444/v1"),
        ({"host": "https://kernel.example/v1/", "schema": "/v1"}, "https://kernel.example/v1"),
        ({"host": "https://kernel.example", "schema": "https"}, "https://kernel.example"),
        ({"host": "kernel.example", "schema": "HTTPS", "port": "444"}, "https://kernel.example:444"),
        ({"host": "http://[::1]:8080/v1"}, "http://[::1]:8080/v1"),
        ({"host": "kernel.example/v1:a:b"}, "https://kernel.example/v1:a:b"),
        ({"host": "kernel.example", "description": f"with {TOKEN}"}, "https://kernel.example"),
    ],
)
@both_hooks
def test_json_connection_has_the_address_of_its_fields(set_connection, fields, base_url, read):
    set_connection(json.dumps({"conn_type": "kernel", "password": TOKEN, **fields}))
    assert read().base_url == base_url


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"login": "somebody"}, "has a login, and Kernel has none"),
        ({"login": TOKEN, "password": None}, "the API key is the password"),
        (
            {"host": "https://kernel.example", "schema": "http"},
            "has https:// in its host and the schema 'http'",
        ),
        (
            {"host": "https://kernel.example/v1", "schema": "v2"},
            "a path in its host and another in its schema",
        ),
        (
            {"host": "https://kernel.example:444", "port": 443},
            "has the port 444 in its host and 443 as its port",
        ),
        ({"host": "kernel.example:444", "port": 443}, "has the port 444 in its host and 443 as its port"),
        ({"port": 70000}, "has the port 70000"),
        ({"host": "kernel.example", "port": -1}, "has the port -1"),
        ({"schema": "v1"}, "has a schema, which is a path here, and no host"),
        ({"schema": "http"}, "has the schema 'http' and no host"),
        ({"host": "kernel.example", "schema": f"v1?key={TOKEN}"}, "a user, a password or parameters in it"),
        ({"host": "kernel.example", "schema": "v1#there"}, "a user, a password or parameters in it"),
        ({"host": "kernel.example", "schema": "v 1"}, "not an http(s) address"),
        ({"host": "kernel.example", "schema": "a/../v1"}, "not an http(s) address"),
        ({"host": "https://kernel.example/a\\b"}, "not an http(s) address"),
        ({"host": f"https://me:{QUOTED}@kernel.example/v1"}, "a user, a password or parameters in it"),
        ({"host": f"https://kernel.example/v1?key={TOKEN}"}, "a user, a password or parameters in it"),
        ({"host": "https://kernel.example/v1#there"}, "a user, a password or parameters in it"),
        ({"conn_type": "http"}, "has the type 'http'"),
        ({"conn_type": "Kernel"}, "has the type 'Kernel'"),
        ({"extra": "no json"}, "JSON object"),
    ],
)
@both_hooks
def test_connection_raises_with_the_name_of_an_unusable_field(set_connection, fields, says, read):
    set_connection(json.dumps({"conn_type": "kernel", "password": TOKEN, **fields}))
    with pytest.raises(KernelConfigurationError) as refused:
        read()
    assert (
        "a_kernel" in str(refused.value).lower()
    )  # Airflow 3.1 itself does not read it without a JSON object
    assert says in str(refused.value)
    assert TOKEN not in str(refused.value)
    assert KernelHook("a_kernel").test_connection() == (False, str(refused.value))


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        (f"kernel://{QUOTED}@kernel.example", "the API key is the password"),
        (f"kernel://me:{QUOTED}@kernel.example", "has a login"),
        (f"kernel://:{QUOTED}@/v1", "has a schema, which is a path here, and no host"),
        (f"kernel://:{QUOTED}@https%3A%2F%2Fkernel.example%2Fv1/v2", "another in its schema"),
        (
            f"kernel://:{QUOTED}@https%3A%2F%2Fkernel.example%3A444%2Fv1:443",
            "the port 444 in its host and 443",
        ),
        (f"kernel://:{QUOTED}@kernel.example/v1%3Fx=1", "parameters in it"),
    ],
)
@both_hooks
def test_uri_connection_raises_with_the_name_of_an_unusable_field(set_connection, uri, says, read):
    set_connection(uri)
    with pytest.raises(KernelConfigurationError) as refused:
        read()
    assert says in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "http://127.0.0.1:8080/kernel/v1"},
        {"host": "http://[::1]:8080/kernel/v1"},
        {"host": "http://127.0.0.1", "port": 8080, "schema": "kernel/v1"},
        {"host": "::1", "port": 8080, "schema": "kernel"},
    ],
)
def test_connection_has_the_same_address_after_a_round_trip_through_a_uri(fields):
    extra = json.dumps({"project": "reports", "timeout": 5, "verify": False})
    stored = Connection(conn_id="c", conn_type="kernel", password=TOKEN, extra=extra, **fields)
    from_uri = getattr(Connection, "from_uri", StoredConnection)  # from Airflow 3.1 on
    again = from_uri(conn_id="c", uri=stored.get_uri())
    assert settings_of(again) == settings_of(stored)
    assert settings_of(again).base_url.endswith(
        ":8080/" + settings_of(stored).base_url.partition(":8080/")[2]
    )


@pytest.mark.parametrize(
    "stored",
    [
        {"conn_type": "kernel", "password": TOKEN, "host": "https://kernel.example", "schema": "v1"},
        f"kernel://https://:{QUOTED}@kernel.example/v1",
    ],
)
def test_secrets_backend_connection_has_the_address_of_its_fields(tmp_path, stored):
    file = tmp_path / "connections.json"
    file.write_text(json.dumps({"a_kernel": stored}))
    found = LocalFilesystemBackend(connections_file_path=str(file)).get_connection("a_kernel")
    assert settings_of(found) == KernelSettings(TOKEN, "https://kernel.example/v1")


def test_form_has_a_field_for_every_extra():
    assert tuple(field.name for field in connection_form.EXTRA_FIELDS) == EXTRAS


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("timeuot", "Did you mean 'timeout'?"),
        ("Project", "Did you mean 'project'?"),
        ("extra__kernel__verify", "Did you mean 'verify'?"),
        (
            "colour",
            "The extras are project, timeout, max_response_mb, proxy, verify, allow_http, dashboard_url.",
        ),
    ],
)
@both_hooks
def test_unknown_extra_logs_one_warning(set_connection, warned, name, says, read):
    set_connection(json.dumps({"conn_type": "kernel", "password": TOKEN, "extra": {name: TOKEN}}))
    for _ in range(3):
        read()
    assert warned() == [
        f"The Airflow connection 'a_kernel': the extra {name!r} is unknown and has no effect. {says}"
    ]


def test_unknown_extra_logs_one_warning_per_uri_connection(monkeypatch, warned):
    for name in ("ONE", "TWO"):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", f"kernel://:{QUOTED}@/?proxi=x&projekt=y&verify=false")
        for _ in range(2):
            _ = KernelHook(name.lower()).settings
    assert [text.partition(" is unknown")[0].partition("connection ")[2] for text in warned()] == [
        "'one': the extra 'proxi'",
        "'one': the extra 'projekt'",
        "'two': the extra 'proxi'",
        "'two': the extra 'projekt'",
    ]


@pytest.mark.parametrize("value", [None, ""])
def test_unknown_extra_logs_nothing_without_a_value(set_connection, warned, value):
    set_connection(json.dumps({"conn_type": "kernel", "password": TOKEN, "extra": {"old": value}}))
    of_sync_hook()
    assert warned() == []


def test_unknown_extra_warning_does_not_quote_a_token(set_connection, warned):
    set_connection(json.dumps({"conn_type": "kernel", "password": TOKEN, "extra": {TOKEN: "x"}}))
    of_sync_hook()
    assert len(warned()) == 1
    assert "canary" not in warned()[0]
