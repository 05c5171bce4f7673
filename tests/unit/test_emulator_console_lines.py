"""The lines that the emulator prints in the terminal."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_kernel.emulator.console_lines import (
    MAX_APP_LINE,
    MAX_DETAIL,
    Lines,
    client_name,
    escape,
    shorten,
    wants_colour,
)
from airflow_provider_kernel.transport.errors import USER_AGENT

pytestmark = pytest.mark.no_airflow

ID = "k3j9x2ab0123456789abcdef"
PLAIN, COLOURED = Lines(has_colour=False), Lines(has_colour=True)


def all_lines(lines):
    return [
        lines.started("14:03:07", ID, "shop.price", USER_AGENT),
        lines.started("14:03:07", ID, "shop.price", ""),
        lines.app_line("14:03:07", ID, "looking up A-100"),
        lines.ended("14:03:08", ID, "shop.price", 0.44, None),
        lines.ended("14:03:08", ID, "shop.price", 61.25, "The action raised an exception. ValueError: x\ny"),
        lines.refused("14:03:09", 404, "POST", "/invocations", "App not found: shopp"),
        lines.fault("14:03:09", "POST", "/invocations", "latency=2 lose_reply"),
        lines.request("14:03:09", 200, "GET", f"/invocations/{ID}", 0.0032),
        lines.note("14:03:10", "shop.py has changed"),
    ]


def test_lines_say_when_which_invocation_and_what():
    assert all_lines(PLAIN) == [
        f"14:03:07 k3j9x2ab shop.price started from Airflow (invocation {ID})",
        f"14:03:07 k3j9x2ab shop.price started (invocation {ID})",
        "14:03:07 k3j9x2ab | looking up A-100",
        "14:03:08 k3j9x2ab shop.price succeeded in 0.4 s",
        "14:03:08 k3j9x2ab shop.price failed after 61.2 s: The action raised an exception. ValueError: x y",
        "14:03:09 404 POST /invocations: App not found: shopp",
        "14:03:09 POST /invocations: injected fault: latency=2 lose_reply",
        f"14:03:09 200 GET /invocations/{ID} (3 ms)",
        "14:03:10 shop.py has changed",
    ]


def test_colours_change_no_text():
    coloured = all_lines(COLOURED)

    assert [re.sub(r"\x1b\[\d+m", "", line) for line in coloured] == all_lines(PLAIN)
    assert all(line.startswith("\x1b[2m14:03:") for line in coloured)


@given(st.text())
def test_escaped_text_cannot_control_the_terminal(text):
    shown = escape(text)

    assert not re.search(r"[^\t\x20-\x7e\xa0-\U0010ffff]", shown)
    assert "\u2028" not in shown
    assert "\u202e" not in shown
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("10%\r20%", r"10%\r20%"),
        ("a\tb", "a\tb"),
        ("\x9b31m", r"\x9b31m"),
        ("naïve 👩\u200d🚀 日本", "naïve 👩\u200d🚀 日本"),
    ],
)
def test_only_what_controls_the_terminal_is_escaped(text, shown):
    assert escape(text) == shown


@given(st.text(), st.integers(1, 50))
def test_shortened_text_is_one_line_within_the_length(text, length):
    assert len(shorten(text, length)) <= length
    assert "\n" not in shorten(text, length)


def test_app_line_is_cut_at_the_maximum_and_says_so():
    assert PLAIN.app_line("14:03:07", ID, "x" * MAX_APP_LINE).endswith("x" * MAX_APP_LINE)
    assert PLAIN.app_line("14:03:07", ID, "x" * 65_536).endswith(
        f" | {'x' * MAX_APP_LINE} [{65_536 - MAX_APP_LINE} more characters]"
    )


@pytest.mark.parametrize("lines", [PLAIN, COLOURED])
def test_no_text_of_a_client_is_printed_raw_or_endless(lines):
    text = "\x1b[2J" + "x" * 100_000
    for line in (
        lines.started("14:03:07", ID, text, text),
        lines.ended("14:03:07", ID, text, 1, text),
        lines.refused("14:03:07", 400, text, text, text),
        lines.request("14:03:07", 200, text, text, 1),
    ):
        assert "\x1b[2J" not in line
        assert len(line) < 4 * MAX_DETAIL


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        (USER_AGENT, "Airflow"),
        ("Kernel/Python 0.131.0", "the Python SDK"),
        ("AsyncKernel/Python 0.131.0", "the Python SDK"),
        ("Kernel/JS 0.84.0", "the Node SDK"),
        ("Kernel/Go 0.30.0", "the Go SDK"),
        (
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0",
            "a browser",
        ),
        ("curl/8.5.0", "curl"),
        ("python-httpx/0.28.1", "python-httpx"),
        ("\x1b[2J", r"\x1b[2J"),
        ("", ""),
    ],
)
def test_client_is_named_as_people_name_it(user_agent, name):
    assert client_name(user_agent) == name


def test_sdk_sends_the_user_agent_that_is_known():
    kernel = pytest.importorskip("kernel")

    assert client_name(kernel.Kernel(api_key="x").user_agent) == "the Python SDK"
    assert client_name(kernel.AsyncKernel(api_key="x").user_agent) == "the Python SDK"


@pytest.mark.parametrize(
    ("environment", "is_terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    ],
)
def test_colours_are_where_the_terminal_has_them_unless_told_otherwise(environment, is_terminal, expected):
    assert wants_colour(environment, is_terminal=is_terminal) is expected
