"""The outputs that Airflow can store as XCom. The system tests store them in a real Airflow."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_kernel.operators.xcom import (
    MAX_DEPTH,
    UnsupportedOutputError,
    check_key,
    check_output,
    read_output,
)


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    "text",
    [
        "null",
        '[1.5, -0.0, 5e-324, true, ""]',
        str(2**64 - 1),
        str(-(2**63)),
        nested(MAX_DEPTH),
        '{"__type": 1, "__version__": 2, "__data__": 3, "": {"__var": 4}}',
    ],
)
def test_supported_output_is_unchanged(text):
    output, is_altered = read_output(text)
    check_output(output)
    assert output == json.loads(text)
    assert not is_altered


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'{{"wei": [1, {2**64}]}}', r"output\['wei'\]\[1\] is a number beyond 64 bits. .* as a string"),
        (str(-(2**63) - 1), "output is a number beyond 64 bits"),
        ("[1e20]", r"output\[0\] is a number beyond 64 bits"),
        ("-1e400", "output is a number beyond 64 bits"),
        ("1" + "0" * 5_000, "an integer of thousands of digits"),
        (nested(MAX_DEPTH + 1), "more than 150 levels deep"),
        (nested(100_000), "nested too deeply"),
        ('[{"a": {"__classname__": 1}}]', r"output\[0\]\['a'\] has the key '__classname__', .* another name"),
        ('{"__id__": 1}', "has the key '__id__'"),
        ('{"__var": 1, "__type": "dict"}', "has the key '__type' and '__var'"),
        (json.dumps({"k" * 1_000: 2**70}), r"output\['k{39}…'\] is"),
    ],
)
def test_unsupported_output_raises_with_its_path_and_without_its_value(text, message):
    with pytest.raises(UnsupportedOutputError, match=message) as refused:
        check_output(read_output(text)[0])
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("text", "output"),
    [
        (r'{"a\u0000": ["\u0000\u0000b", "\ud800c"]}', {"a?": ["??b", "?c"]}),
        (r'"\\u0000 \u0000"', "\\u0000 ?"),
        (r'[{"a\u0000": 1, "a?": 2, "a\ud800": 3}]', [{"a?": 1, "a??": 2, "a???": 3}]),
        (
            r'{"\u0000": 1, "\ud800": 2, "\ud801": 3, "\ud802": 4, "\ud803": 5}',
            {"?": 1, "??": 2, "???": 3, "????": 4, "????4": 5},
        ),
    ],
)
def test_unstorable_characters_are_replaced_in_values_and_keys(text, output):
    assert read_output(text) == (output, True)


@pytest.mark.parametrize("text", [r'"\\u0000"', r'"\ud83d\ude00"', "no JSON \\u0000", "NaN"])
def test_other_characters_are_not_replaced(text):
    output, is_altered = read_output(text)
    assert not is_altered
    assert output in (text, json.loads(text) if text.startswith('"') else None)


@given(st.text(st.sampled_from('\0\\\ud83d\ude00\ud800udD0"😀'), max_size=12))
def test_exactly_nul_and_halves_of_surrogate_pairs_are_replaced(text):
    written = json.dumps(text)
    read = json.loads(written)  # in which two halves that follow each other are a pair
    output, is_altered = read_output(written)
    assert output == "".join("?" if char == "\0" or "\ud800" <= char <= "\udfff" else char for char in read)
    assert is_altered is (output != read)


def test_missing_output_is_none():
    assert read_output(None) == (None, False)


@pytest.mark.parametrize(
    "key", ["a", "a/b", "日本 😀", "k" * 512, "a..b", "50%", "%zz", "a/slice", "a/item/0", "a/.b"]
)
def test_supported_key_is_accepted(key):
    check_key(key)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "k" * 513,
        "a?b",
        "a#b",
        "a\nb",
        "\x7f",
        ".",
        "..",
        "a%2Fb",
        "%20",
        "%ff",
        "../b/return_value",
        "a/./b",
        "a/..",
    ],
)
def test_unsupported_key_raises(key):
    with pytest.raises(
        UnsupportedOutputError, match=r"output\['.*'\] cannot: it must have 1 to 512 characters"
    ):
        check_key(key)
