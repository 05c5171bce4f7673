"""A connection or the environment becomes a checked way to Kernel, or a sentence that says what to write."""

from __future__ import annotations

import math

import pytest

from airflow_provider_kernel.api.errors import KernelConfigurationError
from airflow_provider_kernel.api.settings import (
    API_KEYS_URL,
    DEFAULT_BASE_URL,
    KernelSettings,
    looks_like_token,
)

pytestmark = pytest.mark.no_airflow

TOKEN = "sk_live_0123456789"


def settings(**fields) -> KernelSettings:
    return KernelSettings.from_connection("kernel_default", **{"password": TOKEN, **fields})


def refusal(**fields) -> str:
    with pytest.raises(KernelConfigurationError) as caught:
        settings(**fields)
    message = str(caught.value)
    assert TOKEN not in message + repr(caught.value)
    assert caught.value.__cause__ is None
    return message


@pytest.mark.parametrize(
    ("host", "schema", "port", "base_url"),
    [
        (None, None, None, DEFAULT_BASE_URL),
        ("", "", None, DEFAULT_BASE_URL),
        ("  ", None, None, DEFAULT_BASE_URL),
        ("api.onkernel.com", None, None, "https://api.onkernel.com"),
        (" API.onkernel.com ", None, None, "https://api.onkernel.com"),
        ("kernel.example", None, 8443, "https://kernel.example:8443"),
        ("kernel.example", None, 0, "https://kernel.example"),
        ("kernel.example:8443", None, None, "https://kernel.example:8443"),
        ("kernel.example:8443", None, 8443, "https://kernel.example:8443"),
        ("kernel.example", "https", 8443, "https://kernel.example:8443"),
        ("kernel_1.my-net", None, None, "https://kernel_1.my-net"),
        ("https://kernel.example", None, None, "https://kernel.example"),
        ("HTTPS://kernel.example/", "v1", None, "https://kernel.example/v1"),
        ("https://kernel.example/v1//", None, None, "https://kernel.example/v1"),
        ("kernel.example/v1", None, None, "https://kernel.example/v1"),
        ("https://kernel.example:444/a/b/", None, None, "https://kernel.example:444/a/b"),
        ("https://kernel.example", None, 444, "https://kernel.example:444"),
        ("https://93.184.216.34", None, None, "https://93.184.216.34"),
        ("http://127.0.0.1:8484", None, None, "http://127.0.0.1:8484"),
        ("http://127.8.8.8", None, None, "http://127.8.8.8"),
        ("http://localhost:8484/", None, None, "http://localhost:8484"),
        ("localhost", None, None, "http://localhost"),
        ("localhost:8484", None, None, "http://localhost:8484"),
        ("LOCALHOST", None, 8484, "http://localhost:8484"),
        ("localhost", "https", 8484, "https://localhost:8484"),
        ("127.0.0.1", "http", 8484, "http://127.0.0.1:8484"),
        ("127.0.0.1", "HTTP", 8484, "http://127.0.0.1:8484"),
        ("::1", None, None, "http://[::1]"),
        ("::1", "http", 8484, "http://[::1]:8484"),
        ("[::1]:8484", None, None, "http://[::1]:8484"),
        ("http://[::1]:8484", None, None, "http://[::1]:8484"),
        ("2001:db8::1", None, None, "https://[2001:db8::1]"),
        ("https://[2001:db8::1]:8443/v1", None, None, "https://[2001:db8::1]:8443/v1"),
    ],
)
def test_base_url_is_read_in_every_form_of_a_connection(host, schema, port, base_url):
    assert settings(host=host, schema=schema, port=port).base_url == base_url


@pytest.mark.parametrize(
    ("host", "schema"),
    [
        ("http://api.onkernel.com", None),
        ("api.onkernel.com", "http"),
        ("http://127.0.0.1.example.com", None),
        ("http://localhost.example.com", None),
        ("http://10.0.0.1", None),
        ("http://0.0.0.0", None),
        ("http://[2001:db8::1]", None),
        ("http://127.1", None),
        ("2001:db8::1", "http"),
    ],
)
def test_settings_raise_when_plain_http_leaves_this_machine(host, schema):
    message = refusal(host=host, schema=schema)
    assert "unencrypted" in message
    assert "Use https://;" in message


@pytest.mark.parametrize(
    "host",
    [
        f"https://user:{TOKEN}@kernel.example",
        f"https://{TOKEN}@kernel.example",
        f"user:{TOKEN}@kernel.example",
        f"http://evil.example\\@{TOKEN}@127.0.0.1",
        "https://@kernel.example",
        f"https://kernel.example/?key={TOKEN}",
        f"kernel.example?key={TOKEN}",
        f"https://kernel.example/#{TOKEN}",
    ],
)
def test_settings_raise_without_quoting_when_the_host_has_a_user_or_parameters(host):
    assert "http://127.0.0.1:8484" in refusal(host=host)


@pytest.mark.parametrize(
    "host",
    [
        "https://",
        "http:///path",
        "ftp://kernel.example",
        "://x",
        "[::1",
        "a:b:c",
        "https://[x]/",
        "https://kernel.example:port",
        "https://kernel.example:70000",
        "file:///etc/passwd",
        "https://:443",
        "https://kernel.example:0",
        "https:/kernel.example",
        "http:",
        "http://localhost\t:8484",
        "kernel\n.example",
    ],
)
def test_settings_raise_with_an_example_when_the_host_is_not_an_address(host):
    assert "write an address such as http://127.0.0.1:8484" in refusal(host=host)


@pytest.mark.parametrize("schema", ["v\\1", "v1/../api", "http s"])
def test_settings_raise_when_the_schema_is_neither_a_scheme_nor_a_path(schema):
    assert "not an http(s) address" in refusal(host="kernel.example", schema=schema)


@pytest.mark.parametrize("field", ["password", "host", "login", "schema"])
def test_settings_raise_with_the_name_of_a_field_that_is_not_text(field):
    assert f"has a {field} that is not text" in refusal(**{field: 7})


@pytest.mark.parametrize("password", [None, "", " ", "\n"])
def test_settings_raise_with_instructions_when_the_token_is_missing(password):
    message = refusal(password=password)
    assert "'kernel_default' has no token" in message
    assert API_KEYS_URL in message
    assert "password field" in message


@pytest.mark.parametrize("stain", ["{}\nX-Evil: 1", "{} x", "{}\t1", "{}é", "{}\x00", "{}\x7f", "“{}”"])
def test_settings_raise_without_quoting_when_the_token_cannot_be_a_header(stain):
    message = refusal(password=stain.format(TOKEN))
    assert API_KEYS_URL in message
    assert "Evil" not in message


def test_token_is_stripped_of_white_space():
    assert settings(password=f" {TOKEN}\r\n").api_key == TOKEN


def test_environment_is_read_as_by_kernels_own_clients():
    found = KernelSettings.from_environment(
        {"KERNEL_API_KEY": TOKEN, "KERNEL_BASE_URL": "http://localhost:8484/"}
    )
    assert found == KernelSettings(TOKEN, "http://localhost:8484")
    assert KernelSettings.from_environment({"KERNEL_API_KEY": TOKEN}).base_url == DEFAULT_BASE_URL
    with pytest.raises(KernelConfigurationError, match=r"^KERNEL_BASE_URL would send the token unencrypted"):
        KernelSettings.from_environment({"KERNEL_API_KEY": TOKEN, "KERNEL_BASE_URL": "http://kernel.example"})


@pytest.mark.parametrize(
    ("value", "project"),
    [(None, None), ("", None), ("  ", None), (" my project ", "my project"), ("p-1", "p-1")],
)
def test_project_is_a_header_when_it_is_set(value, project):
    found = settings(extra={"project": value})
    assert found.project == project
    assert found.headers().get("X-Kernel-Project") == project


@pytest.mark.parametrize("value", [7, True, ["p"], {}, "a\nb: c", "projé"])
def test_settings_raise_when_the_project_cannot_be_a_header(value):
    assert "the extra 'project' must be the name or id" in refusal(extra={"project": value})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, 30.0), ("", 30.0), ("30", 30.0), (" 2.5 ", 2.5), (1, 1.0), (3600, 3600.0), (0.1, 0.1)],
)
def test_timeout_is_read_from_a_number_or_text(value, seconds):
    assert settings(extra={"timeout": value}).timeout == seconds


@pytest.mark.parametrize(
    "value", [0, -1, "0", "-1", math.nan, "nan", math.inf, "inf", "x", True, False, [30], {}, 3600.1, "1e999"]
)
def test_settings_raise_when_the_timeout_is_not_a_number_of_seconds(value):
    assert "the extra 'timeout' must be seconds, more than 0 and 3600 at most" in refusal(
        extra={"timeout": value}
    )


def test_repr_and_headers_contain_no_secret():
    found = settings(extra={"project": "p"})
    assert TOKEN not in repr(found) + str(found) + repr(found.headers())


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_settings_raise_when_the_timeout_overflows_a_float(value):
    assert "the extra 'timeout' must be seconds" in refusal(extra={"timeout": value})


@pytest.mark.parametrize(
    "host",
    [
        "a..b.com",
        ".example.com",
        "exa mple.com",
        f"{'a' * 64}.com",
        "kernel.example\\\\.evil.example",
        "a,b",
        "*.x",
    ],
)
@pytest.mark.parametrize("form", ["{}", "https://{}", "https://{}:8443/v1"])
def test_settings_raise_when_no_http_client_can_use_the_host(host, form):
    assert "not an http(s) address" in refusal(host=form.format(host))


@pytest.mark.parametrize("host", ["kernel.example.", "xn--bcher-kva.example", "bücher.example", "a_b.c-d"])
def test_unusual_host_is_accepted(host):
    assert settings(host=host).base_url == f"https://{host}"


@pytest.mark.parametrize("value", [True, "true", " True "])
def test_plain_http_is_accepted_for_any_host_when_allow_http_is_true(value):
    found = settings(host="http://kernel.example:8484", extra={"allow_http": value})
    assert found.base_url == "http://kernel.example:8484"


@pytest.mark.parametrize("value", [None, False, "", " ", "false", "FALSE"])
def test_settings_raise_and_name_allow_http_when_it_is_not_set(value):
    assert "set the extra 'allow_http'" in refusal(host="http://kernel.example", extra={"allow_http": value})


@pytest.mark.parametrize("value", ["yes", "1", 1, 0, [], {}, ["true"]])
def test_settings_raise_when_allow_http_is_neither_true_nor_false(value):
    assert "'allow_http' must be true or false" in refusal(extra={"allow_http": value})


@pytest.mark.parametrize(
    ("value", "verify"),
    [
        (None, True),
        ("", True),
        ("  ", True),
        (True, True),
        ("true", True),
        ("TRUE", True),
        (False, False),
        ("false", False),
        (" False ", False),
        ("/etc/ca.pem", "/etc/ca.pem"),
        (" ca.pem ", "ca.pem"),
    ],
)
def test_verify_is_a_flag_or_a_path(value, verify):
    assert settings(extra={"verify": value}).verify == verify


@pytest.mark.parametrize("value", [0, 1, ["x"], {}])
def test_settings_raise_when_verify_is_neither_a_flag_nor_a_path(value):
    assert "'verify' must be true, false, or the path" in refusal(extra={"verify": value})


@pytest.mark.parametrize(
    ("value", "proxy"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        ("proxy:3128", "http://proxy:3128"),
        ("http://proxy", "http://proxy"),
        (" HTTPS://Proxy.example:443/ ", "https://proxy.example:443"),
        ("http://u:p%40@proxy:3128", "http://u:p%40@proxy:3128"),
        ("u:p@proxy:3128", "http://u:p@proxy:3128"),
        ("http://u@proxy:3128", "http://u:@proxy:3128"),
        ("http://@proxy:3128", "http://proxy:3128"),
        ("http://[::1]:3128", "http://[::1]:3128"),
    ],
)
def test_proxy_is_read_in_every_form(value, proxy):
    assert settings(extra={"proxy": value}).proxy == proxy


@pytest.mark.parametrize(
    "value",
    [
        7,
        True,
        ["http://proxy"],
        "socks5://u:canary@proxy",
        "http://",
        "http://proxy:port",
        "http://proxy:99999",
        "http://u:canary#x@proxy:3128",
        "http://u:canary/x@proxy:3128",
        "http://u:canary x@proxy:3128",
        "http://u:%C4%8Dcanary@proxy:3128",
        "http://:canary@proxy:3128",
        "http://proxy:3128/path",
        "http://proxy:3128?canary",
        "http://u:canary\n@proxy",
        "http://[",
    ],
)
def test_settings_raise_without_the_password_when_the_proxy_is_not_valid(value):
    message = refusal(extra={"proxy": value})
    assert "must be an address such as http://proxy:3128" in message
    assert "canary" not in message


@pytest.mark.parametrize(
    ("host", "extra", "says"),
    [
        ("http://localhost:8484", {"proxy": "http://u:canary@proxy:3128"}, "unencrypted through proxy"),
        ("http://localhost", {"proxy": "https://u:canary@proxy"}, "https:// proxy is for an https:// host"),
        ("http://x", {"proxy": "https://u:canary@p", "allow_http": True}, "is for an https:// host"),
    ],
)
def test_settings_raise_without_the_password_when_the_proxy_does_not_fit_the_host(host, extra, says):
    message = refusal(host=host, extra=extra)
    assert says in message
    assert "canary" not in message


def test_proxy_is_accepted_for_plain_http_with_allow_http_or_on_this_machine():
    allowed = settings(host="http://x", extra={"proxy": "http://proxy:3128", "allow_http": True})
    assert allowed.proxy == "http://proxy:3128"
    assert settings(host="localhost", extra={"proxy": "localhost:3128"}).proxy == "http://localhost:3128"


def test_proxy_password_is_listed_in_each_form_and_not_in_the_repr():
    found = settings(extra={"proxy": "http://u:can%40ry@proxy:3128"})
    assert found.proxy_passwords() == ["can%40ry", "can@ry"]
    assert "ry@proxy" not in repr(found)
    assert settings(extra={"proxy": "http://proxy"}).proxy_passwords() == []


@pytest.mark.parametrize(
    ("text", "is_token"),
    [
        ("sk_canary_0123456789", True),
        ("extra__kernel__sk_canary_0123456789", True),
        ("https://SK_CANARY_0123456789/", True),
        ("task_manager", False),
        ("https://risk_department.example/disk_usage", False),
        ("kernel_default", False),
        ("sk_", False),
        ("", False),
    ],
)
def test_looks_like_token_recognizes_the_prefix_and_not_the_end_of_a_word(text, is_token):
    assert looks_like_token(text) is is_token
