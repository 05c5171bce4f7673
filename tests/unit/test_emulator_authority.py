"""Which Host and Origin the emulator takes."""

import pytest

from airflow_provider_kernel.emulator.authority import is_loopback, refusal_of_foreign, served_hosts

pytestmark = pytest.mark.no_airflow

LOOPBACK = served_hosts("127.0.0.1", "127.0.0.1")
LAN = served_hosts("Build.example.", "192.168.1.5")


def status(served, *headers):
    refused = refusal_of_foreign([(name.encode(), value.encode()) for name, value in headers], served)
    return refused and refused.status_code


OURS = [
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
FOREIGN = [
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


@pytest.mark.parametrize("host", OURS)
def test_a_host_of_loopback_is_taken(host):
    assert status(LOOPBACK, ("host", host)) is None
    assert status(LOOPBACK, ("host", "localhost"), ("origin", f"http://{host}")) is None


@pytest.mark.parametrize("host", FOREIGN)
def test_another_host_is_misdirected(host):
    assert status(LOOPBACK, ("host", host)) == 421
    assert status(LOOPBACK, ("host", "localhost"), ("origin", f"http://{host}")) == 403


def test_there_must_be_one_host():
    assert status(LOOPBACK) == 421
    assert status(LOOPBACK, ("host", "localhost"), ("host", "localhost")) == 421
    assert status(served_hosts("0.0.0.0", "0.0.0.0")) == 421


@pytest.mark.parametrize("host", ["build.example", "BUILD.example.:8484", "192.168.1.5:8484", "localhost"])
def test_the_host_that_is_listened_on_is_taken_by_name_and_by_address(host):
    assert status(LAN, ("host", host), ("origin", f"http://{host}")) is None


def test_beside_the_host_that_is_listened_on_no_other_is_taken():
    assert status(LAN, ("host", "192.168.1.6")) == 421
    assert status(LAN, ("host", "evil.build.example")) == 421


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_where_all_addresses_are_listened_on_any_host_is_taken_but_no_foreign_page(wildcard):
    served = served_hosts(wildcard, wildcard)

    assert status(served, ("host", "build.example:8484")) is None
    assert status(served, ("host", "build.example"), ("origin", "http://localhost:3000")) is None
    assert status(served, ("host", "evil.example"), ("origin", "http://evil.example")) == 403


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
def test_an_origin_that_is_no_page_of_ours_is_forbidden(origin):
    assert status(LOOPBACK, ("host", "localhost"), ("origin", origin)) == 403


def test_each_origin_counts():
    origins = [("origin", "http://localhost"), ("origin", "https://evil.example")]

    assert status(LOOPBACK, ("host", "localhost"), *origins) == 403
    assert status(LOOPBACK, ("host", "localhost"), *origins[::-1]) == 403


@pytest.mark.parametrize(
    ("site", "expected"), [("cross-site", 403), ("same-site", None), ("same-origin", None), ("none", None)]
)
def test_what_a_browser_says_to_be_cross_site_is_forbidden(site, expected):
    assert status(LOOPBACK, ("host", "localhost"), ("sec-fetch-site", site)) == expected


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_this_machine_alone(address):
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "fe80::1%eth0", "::ffff:0.0.0.0"])
def test_all_else_is_not(address):
    assert not is_loopback(address)
