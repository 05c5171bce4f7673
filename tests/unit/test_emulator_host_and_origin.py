"""The emulator's check of the headers Host and Origin."""

import pytest

from airflow_provider_kernel.emulator.host_and_origin import check_host_and_origin, is_loopback, served_hosts

pytestmark = pytest.mark.no_airflow

LOOPBACK = served_hosts("127.0.0.1", "127.0.0.1")
LAN = served_hosts("Build.example.", "192.168.1.5")


def status(served, *headers, **options):
    """Return the status code of the error; None if the request is allowed."""
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    error = check_host_and_origin(encoded, served, **options)
    return error and error.status_code


LOOPBACK_HOSTS = [
    "127.0.0.1",
    "127.0.0.1:8484",
    "127.8.9.1:1",
    "127.0.0.1.",
    "localhost",
    "LocalHost:8484",
    "localhost.:8484",
    "localhost:",
    "shop.localhost:8484",
    "[::1]",
    "[::1]:8484",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]:8484",
]
OTHER_HOSTS = [
    "",
    " ",
    ":8484",
    "evil.example",
    "evil.example:8484",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evillocalhost",
    "localhost..",
    "localhost@evil.example",
    "localhost:x@evil.example",
    "evil@localhost",
    "localhost:8484:8484",
    "localhost:port",
    "localhost:\N{ARABIC-INDIC DIGIT ONE}",
    "localhost/",
    "localhost evil.example",
    "localhost,evil.example",
    "http://localhost",
    "0.0.0.0",
    "[::]",
    "0",
    "2130706433",
    "127.1",
    "0x7f.0.0.1",
    "127.0.0.01",
    "::1",
    "[::1",
    "[]",
    "[localhost]",
    "[::1]evil.example",
    "[::2]",
    "[::ffff:10.0.0.1]",
    "192.168.1.5",
]


@pytest.mark.parametrize("host", LOOPBACK_HOSTS)
def test_loopback_hosts_are_allowed(host):
    assert status(LOOPBACK, ("host", host)) is None
    assert status(LOOPBACK, ("host", "localhost"), ("origin", f"http://{host}")) is None


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_other_hosts_are_refused(host):
    assert status(LOOPBACK, ("host", host)) == 421
    assert status(LOOPBACK, ("host", "localhost"), ("origin", f"http://{host}")) == 403


def test_request_is_refused_unless_it_has_exactly_one_host_header():
    assert status(LOOPBACK) == 421
    assert status(LOOPBACK, ("host", "localhost"), ("host", "localhost")) == 421
    assert status(served_hosts("0.0.0.0", "0.0.0.0")) == 421


@pytest.mark.parametrize("host", ["build.example", "BUILD.example.:8484", "192.168.1.5:8484", "localhost"])
def test_host_option_is_allowed_by_name_and_by_address(host):
    assert status(LAN, ("host", host), ("origin", f"http://{host}")) is None


def test_other_hosts_are_refused_when_host_option_is_set():
    assert status(LAN, ("host", "192.168.1.6")) == 421
    assert status(LAN, ("host", "evil.build.example")) == 421


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_wildcard_address_allows_any_host_and_origins_of_that_host_or_loopback(wildcard):
    served = served_hosts(wildcard, wildcard)

    assert status(served, ("host", "build.example:8484")) is None
    assert status(served, ("host", "build.example"), ("origin", "http://localhost:3000")) is None
    # The page of the emulator itself; such an address requires an API key.
    assert status(served, ("host", "build.example"), ("origin", "http://build.example:8484")) is None
    assert status(served, ("host", "build.example"), ("origin", "http://evil.example")) == 403


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "localhost",
        "file://",
        "chrome-extension://localhost",
        "http://localhost http://evil.example",
        "http://localhost/",
        "http://evil@localhost",
    ],
)
def test_origin_is_refused_when_it_is_not_a_served_http_origin(origin):
    assert status(LOOPBACK, ("host", "localhost"), ("origin", origin)) == 403


def test_every_origin_header_is_checked():
    origins = [("origin", "http://localhost"), ("origin", "https://evil.example")]

    assert status(LOOPBACK, ("host", "localhost"), *origins) == 403
    assert status(LOOPBACK, ("host", "localhost"), *origins[::-1]) == 403


@pytest.mark.parametrize(
    ("site", "expected"), [("cross-site", 403), ("same-site", None), ("same-origin", None), ("none", None)]
)
def test_sec_fetch_site_is_refused_when_it_is_cross_site(site, expected):
    assert status(LOOPBACK, ("host", "localhost"), ("sec-fetch-site", site)) == expected


CLICK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, None),
        ({"sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-dest": "iframe"}, 403),
        ({"sec-fetch-dest": "empty"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"host": "evil.example"}, 421),
    ],
)
def test_link_of_another_site_may_lead_to_what_is_linkable(changed, expected):
    headers = {"host": "localhost", **CLICK, **changed}

    assert status(LOOPBACK, *headers.items(), is_linkable=True) == expected
    assert status(LOOPBACK, *headers.items()) == (expected or 403)


@pytest.mark.parametrize("missing", ["sec-fetch-mode", "sec-fetch-dest"])
def test_request_of_another_site_is_refused_when_it_does_not_say_that_it_is_a_link(missing):
    headers = [(name, value) for name, value in CLICK.items() if name != missing]

    assert status(LOOPBACK, ("host", "localhost"), *headers, is_linkable=True) == 403
    assert status(LOOPBACK, ("host", "localhost"), *headers, (missing, "image"), is_linkable=True) == 403


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"])
def test_is_loopback_is_true_for_loopback_addresses(address):
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "fe80::1%eth0", "::ffff:0.0.0.0"])
def test_is_loopback_is_false_for_other_addresses(address):
    assert not is_loopback(address)
