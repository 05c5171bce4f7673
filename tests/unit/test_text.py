"""Text from outside, as it is shown: on one line, of a bounded length, without secrets."""

from __future__ import annotations

import base64
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_kernel.api.text import NO_SECRETS, REDACTED, Redactor, clean, shorten

pytestmark = pytest.mark.no_airflow

TOKEN = "sk_canary/0123456789"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as it is: äöü 日本 🙂", "as it is: äöü 日本 🙂"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x1b[2J\x1b[1;1H", r"\x1b[2J\x1b[1;1H"),
        ("a\n2026-01-01 ERROR forged\r\n", r"a\n2026-01-01 ERROR forged\r\n"),
        ("a\u2028b\u2029c\x85d\x0be", r"a\u2028b\u2029c\x85d\x0be"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u2066a\u200bb\ufeff", r"\u2066a\u200bb\ufeff"),
        ("\ud83d", r"\ud83d"),
        ("\x9b31m", r"\x9b31m"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_clean_escapes_control_characters(text, shown):
    assert clean(text) == shown


def test_clean_keeps_line_ends_and_tabs_with_keep_lines():
    assert clean("a\r\n\tb\n\x1b[2Jc\rd", keep_lines=True) == "a\n\tb\n\\x1b[2Jc\\rd"


@given(st.text(), st.integers(1, 50), st.booleans())
def test_clean_leaves_no_control_character_and_bounds_the_length_of_any_text(text, limit, keep_lines):
    shown = clean(text, limit, keep_lines=keep_lines)
    kept = "\n\t" if keep_lines else ""
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in kept]
    assert len(shown) <= 10 * limit + len("… (1000000 more characters)")


def test_clean_counts_the_characters_that_it_cuts():
    assert clean("x" * 12, 10) == shorten("x" * 12, 10) == "xxxxxxxxxx… (2 more characters)"


@pytest.mark.parametrize(
    "form",
    [
        TOKEN,
        f"Authorization: Bearer {TOKEN}",
        "sk_canary%2F0123456789",
        "sk_canary\\/0123456789",
    ],
)
def test_redactor_replaces_every_form_of_a_secret(form):
    assert Redactor([TOKEN]).text(f"<{form}>") == f"<{form[: form.index('sk_')]}{REDACTED}>"


def test_redactor_replaces_the_base64_login_of_a_proxy():
    latin = base64.b64encode("user:é-secret".encode("latin-1")).decode()
    assert Redactor([], ["user:é-secret"]).text(latin) == REDACTED
    sent = base64.b64encode(b"user:hunter2").decode()
    assert (
        Redactor(["hunter2"], ["user:hunter2"]).text(f"Basic {sent} hunter2")
        == f"Basic {REDACTED} {REDACTED}"
    )


@pytest.mark.parametrize("secret", ["", "a", "id", "sk_1"])
def test_redactor_ignores_a_short_secret(secret):
    assert Redactor([secret]).text("a valid sk_1") == "a valid sk_1"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"a": [{"b": f"x {TOKEN}"}, 1, None], "c": TOKEN}),
        json.dumps({"a": [{"b": f"x {TOKEN}"}, 1, None], "c": TOKEN}).replace("/", "\\/"),
        json.dumps({"a": [{"b": f"x {TOKEN}"}, 1, None], "c": TOKEN}).replace("sk_", "\\u0073k_"),
    ],
)
def test_redactor_replaces_a_secret_in_json_with_any_escapes(text):
    assert Redactor([TOKEN]).json(json.loads(text), text) == {
        "a": [{"b": f"x {REDACTED}"}, 1, None],
        "c": REDACTED,
    }


@pytest.mark.parametrize("color", ["\x1b[0m", "\x1b[1;31m"])
def test_redactor_replaces_a_secret_that_a_color_splits(color):
    hidden = f"x {TOKEN[:9]}{color}{TOKEN[9:]} y"
    assert Redactor([TOKEN]).text(hidden) == f"x {REDACTED} y"
    text = json.dumps({"a": hidden, "b": f"{color}kept"})
    assert Redactor([TOKEN]).json(json.loads(text), text) == {"a": f"x {REDACTED} y", "b": f"{color}kept"}


def test_redactor_replaces_a_token_in_a_key():
    text = json.dumps([{"a": 1, TOKEN: {"b": TOKEN}}])
    assert Redactor([TOKEN]).json(json.loads(text), text) == [{"a": 1, REDACTED: {"b": REDACTED}}]


def test_redactor_keeps_kernels_keys_when_a_secret_equals_one():
    text = '{"id": "i", "status": "succeeded", "output": "status"}'
    assert Redactor(["status"]).json(json.loads(text), text) == {
        "id": "i",
        "status": "succeeded",
        "output": REDACTED,
    }


def test_redactor_handles_deeply_nested_json():
    text = "[" * 900 + f'"{TOKEN}"' + "]" * 900
    assert REDACTED in json.dumps(Redactor([TOKEN]).json(json.loads(text), text))


def test_redactor_handles_json_that_is_a_string():
    assert Redactor([TOKEN]).json(TOKEN, json.dumps(TOKEN)) == REDACTED


def test_redactor_changes_nothing_without_secrets():
    assert NO_SECRETS.text(TOKEN) == TOKEN
    assert NO_SECRETS.json([TOKEN], "\\u00") == [TOKEN]
