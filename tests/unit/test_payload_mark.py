"""The mark after a payload's JSON text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_kernel.api.models import InvocationRequest
from airflow_provider_kernel.api.payload import MAX_PAYLOAD_BYTES, payload_digest
from airflow_provider_kernel.api.payload_mark import MARK_LENGTH, add_mark, new_key, read_mark

pytestmark = pytest.mark.no_airflow

keys = st.integers(0, 2**64 - 1).map("{:016x}".format)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values, keys, st.text(" \t\n\r", max_size=200))
def test_a_mark_is_read_again_and_the_value_stays_the_same(value, key, trailing):
    text = json.dumps(value) + trailing
    marked = add_mark(text, key)
    assert read_mark(marked) == key
    assert json.loads(marked) == value
    assert len(marked) == len(text) + MARK_LENGTH
    assert payload_digest(marked) == payload_digest(text)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "",
        "{}",
        "{}\n",
        "{}" + " " * 500,
        "{}" + "\t" * 500,
        "{}" + " \t" * 200,
        add_mark("{}", "0123456789abcdef") + "\n",
    ],
    ids=range(8),
)
def test_other_white_space_is_not_a_mark(payload):
    assert read_mark(payload) is None


def test_keys_differ():
    found = {new_key() for _ in range(1000)}
    assert len(found) == 1000
    assert {len(key) for key in found} == {16}


def test_a_request_with_a_key_sends_the_mark_and_keeps_its_fingerprint():
    plain = InvocationRequest("shop", "price", {"sku": 1})
    marked = InvocationRequest("shop", "price", {"sku": 1}, key=new_key())
    assert read_mark(marked.body()["payload"]) == marked.key
    assert read_mark(plain.body()["payload"]) is None
    assert marked.fingerprint() == plain.fingerprint()
    assert marked.key not in repr(marked)


def test_a_request_without_payload_has_no_mark():
    assert "payload" not in InvocationRequest("shop", "price", key=new_key()).body()


def test_the_limit_counts_the_mark():
    largest = '"' + "a" * (MAX_PAYLOAD_BYTES - MARK_LENGTH - 2) + '"'
    request = InvocationRequest("shop", "price", largest, key=new_key())
    assert len(request.body()["payload"]) == MAX_PAYLOAD_BYTES
    with pytest.raises(ValueError, match=r"4\.5 MB at most"):
        InvocationRequest("shop", "price", largest + " ", key=new_key())
    assert InvocationRequest("shop", "price", largest + " " * MARK_LENGTH).payload


def test_digests_tell_values_apart():
    texts = ["null", "{}", "[]", "0", "0.0", "true", '""', '{"a": 1}', '{"a": true}', "{", None]
    assert len({payload_digest(text) for text in texts}) == len(texts)
