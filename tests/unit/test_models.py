"""InvocationRequest checks its arguments; Invocation reads Kernel's reply."""

from __future__ import annotations

import json
import math
from collections import UserDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import create_model

from airflow_provider_kernel.api.errors import (
    KernelError,
    KernelInvocationFailedError,
    KernelInvocationUnknownError,
    KernelTransportError,
)
from airflow_provider_kernel.api.models import Invocation, InvocationRequest
from airflow_provider_kernel.api.payload import MAX_PAYLOAD_BYTES, encode_payload

pytestmark = pytest.mark.no_airflow

SECRET = "hunter2"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def deep(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


def containing_itself() -> dict:
    value: dict = {"key": SECRET}
    value["self"] = [value]
    return value


@dataclass
class Row:
    price: float = 1.5


def like_numpy(name: str, dimensions: int) -> object:
    """Return an object with the attributes of one of NumPy, which is not installed."""

    class Like:
        ndim = dimensions
        item = tolist = staticmethod(list)

    Like.__module__, Like.__qualname__ = "numpy", name
    return Like()


@pytest.mark.parametrize("name", ["app_name", "action_name", "version"])
@pytest.mark.parametrize("value", ["", " ", "\n\t"])
def test_request_refuses_an_empty_name(name, value):
    arguments = {"app_name": "shop", "action_name": "price", name: value}
    with pytest.raises(ValueError, match=rf"^{name} is empty\. Write "):
        InvocationRequest(**arguments)


@pytest.mark.parametrize("name", ["app_name", "action_name", "version"])
def test_request_refuses_a_name_with_nul(name):
    arguments = {"app_name": "shop", "action_name": "price", name: "a\0b"}
    with pytest.raises(ValueError, match=rf"^{name} holds a NUL character"):
        InvocationRequest(**arguments)


@pytest.mark.parametrize("name", ["app_name", "action_name", "version"])
@pytest.mark.parametrize("value", [None, 1, b"shop", ["shop"]])
def test_request_refuses_a_name_that_is_not_a_string(name, value):
    arguments = {"app_name": "shop", "action_name": "price", name: value}
    with pytest.raises(ValueError, match=rf"^{name} must be a string, .* not {type(value).__name__}"):
        InvocationRequest(**arguments)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        pytest.param({"a": [1, math.nan]}, ["payload['a'][1]", "nan", "None or a string"], id="nan"),
        pytest.param(math.inf, ["payload is inf"], id="inf"),
        pytest.param({"a": {"b": -math.inf}}, ["payload['a']['b']", "-inf"], id="-inf"),
        pytest.param({"tags": {SECRET}}, ["payload['tags'] is a set", "list(…)"], id="set"),
        pytest.param(
            [datetime.now(UTC)], ["payload[0] is a datetime.datetime", ".isoformat()"], id="datetime"
        ),
        pytest.param({"d": date(2026, 1, 1)}, ["payload['d'] is a datetime.date", ".isoformat()"], id="date"),
        pytest.param(
            {"b": SECRET.encode()}, ["payload['b'] is a bytes", ".decode()", "b64encode"], id="bytes"
        ),
        pytest.param(bytearray(SECRET.encode()), ["payload is a bytearray"], id="bytearray"),
        pytest.param(memoryview(SECRET.encode()), ["payload is a memoryview"], id="memoryview"),
        pytest.param(
            {"a": [Decimal("1.5")]}, ["payload['a'][0] is a decimal.Decimal", "str(…)"], id="decimal"
        ),
        pytest.param(timedelta(1), ["payload is a datetime.timedelta", ".total_seconds()"], id="timedelta"),
        pytest.param({"a": UUID(int=1)}, ["payload['a'] is a uuid.UUID", "str(…)"], id="UUID"),
        pytest.param(Enum("E", "A")["A"], [".value."], id="enum"),
        pytest.param({"a": Row()}, ["test_models.Row", "dataclasses.asdict(…)"], id="dataclass"),
        pytest.param(
            [create_model("M", a=(int, 1))()], ["M, which", '.model_dump(mode="json")'], id="Pydantic"
        ),
        pytest.param([like_numpy("bool", 0)], ["payload[0] is a numpy.bool", ".item()"], id="NumPy's bool"),
        pytest.param(like_numpy("ndarray", 2), ["payload is a numpy.ndarray", ".tolist()"], id="array"),
        pytest.param([{}.values()], ["payload[0] is a dict_values", "list(…)"], id="values"),
        pytest.param({"a": 1j}, ["payload['a'] is a complex"], id="complex"),
        pytest.param({"a": [object()]}, ["payload['a'][0] is a object"], id="object"),
        pytest.param((i for i in [SECRET]), ["payload is a generator"], id="generator"),
        pytest.param({"a": [{1: SECRET}]}, ["payload['a'][0] has the key 1"], id="int key"),
        pytest.param({"a": {None: SECRET}}, ["payload['a'] has the key None"], id="None key"),
        pytest.param({("a", "b"): SECRET}, ["payload has the key ('a', 'b')"], id="tuple key"),
        pytest.param(containing_itself(), ["contains itself"], id="contains itself"),
        pytest.param(deep(100_000), ["nested too deeply"], id="too deep"),
        pytest.param({"a": f"{SECRET}\ud800"}, ["half a surrogate pair"], id="half a surrogate"),
        pytest.param({f"{SECRET}\udfff": 1}, ["half a surrogate pair"], id="half a surrogate in a key"),
        pytest.param(SECRET, ["not JSON text", "json.dumps"], id="text that is no JSON"),
        pytest.param("", ["not JSON text"], id="empty text"),
        pytest.param(f"{{'sku': '{SECRET}'}}", ["not JSON text", "json.dumps"], id="a dict's repr"),
        pytest.param(f'{{"sku": "{SECRET}"', ["not JSON text"], id="JSON cut short"),
        pytest.param(f'["{SECRET}", NaN]', ["not JSON text", "NaN"], id="NaN in the text"),
        pytest.param(f'["{SECRET}"] []', ["not JSON text"], id="two JSON texts"),
        pytest.param("[" * 100_000, ["not JSON text", "too deeply"], id="text nested too deeply"),
        pytest.param(f'"{SECRET}\ud800"', ["half a surrogate pair"], id="half a surrogate in the text"),
    ],
)
def test_request_refuses_a_payload_that_is_not_json_and_names_the_path_only(payload, words):
    with pytest.raises(ValueError, match="payload") as caught:
        InvocationRequest("shop", "price", payload)
    message = str(caught.value)
    assert not isinstance(caught.value, UnicodeError)
    assert [word for word in words if word not in message] == []
    assert len(message) < 400
    assert SECRET not in message + repr(caught.value) + repr(caught.value.__cause__)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (None, None),
        (False, "false"),
        (0, "0"),
        (1.5, "1.5"),
        ([], "[]"),
        ({}, "{}"),
        ((1, "é"), '[1,"é"]'),
        (range(3), "[0,1,2]"),
        (UserDict(a=UserDict(b=1)), '{"a":{"b":1}}'),
        ("null", "null"),
        (' {"a" : 1} ', ' {"a" : 1} '),
        ('"a mere string"', '"a mere string"'),
    ],
)
def test_payload_is_encoded_and_json_text_kept(payload, text):
    assert InvocationRequest("shop", "price", payload).payload == text


@given(json_values)
def test_every_json_value_is_encoded_without_loss(value):
    text = encode_payload(json.dumps(value) if isinstance(value, str) else value)
    assert (text is None and value is None) or json.loads(text) == value


@pytest.mark.parametrize("letter", ["a", "é", "😀"])
def test_payload_limit_counts_bytes(letter):
    letters = (MAX_PAYLOAD_BYTES - 2) // len(letter.encode())
    rest = MAX_PAYLOAD_BYTES - 2 - letters * len(letter.encode())
    exact = letter * letters + "a" * rest
    assert len(InvocationRequest("a", "b", f'"{exact}"').payload.encode()) == MAX_PAYLOAD_BYTES
    assert len(InvocationRequest("a", "b", [exact[1:-1]]).payload.encode()) <= MAX_PAYLOAD_BYTES
    with pytest.raises(ValueError, match=r"4\.5 MB .*at most\. Put the data into object storage") as caught:
        InvocationRequest("a", "b", f'"{exact}a"')
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("seconds", [True, False, 900.0, "900", 9, 3601, 0, -1, math.nan, [900]])
def test_request_refuses_an_async_timeout_out_of_bounds(seconds):
    with pytest.raises(ValueError, match=r"^async_timeout_seconds.*10 to 3600"):
        InvocationRequest("shop", "price", async_timeout_seconds=seconds)


@pytest.mark.parametrize("seconds", [10, 900, 3600])
def test_async_timeout_within_bounds_is_sent(seconds):
    assert (
        InvocationRequest("a", "b", async_timeout_seconds=seconds).body()["async_timeout_seconds"] == seconds
    )


def test_request_refuses_an_async_timeout_of_a_synchronous_call():
    with pytest.raises(ValueError, match=r"no meaning with async_=False.*Leave one of the two out"):
        InvocationRequest("shop", "price", async_=False, async_timeout_seconds=60)


@pytest.mark.parametrize("async_", [None, 0, 1, "true"])
def test_request_refuses_async_that_is_not_a_bool(async_):
    with pytest.raises(ValueError, match="async_ must be True or False"):
        InvocationRequest("shop", "price", async_=async_)


def test_body_has_the_fields_of_kernels_api():
    assert InvocationRequest("shop", "price", {"sku": 7}).body() == {
        "app_name": "shop",
        "action_name": "price",
        "version": "latest",
        "payload": '{"sku":7}',
        "async": True,
    }
    assert InvocationRequest("shop", "price", None, "v2", False).body() == {
        "app_name": "shop",
        "action_name": "price",
        "version": "v2",
        "async": False,
    }


def test_repr_hides_payload_and_output():
    request = InvocationRequest("shop", "price", {"password": SECRET})
    invocation = Invocation.from_json(
        {"id": "i", "status": "failed", "payload": f'"{SECRET}"', "output": f'"{SECRET}"'}
    )
    assert SECRET not in repr(request) + str(request) + repr(invocation) + str(invocation)


def test_unrendered_value_in_a_payload_is_not_checked_but_values_beside_it_are():
    later = object()
    assert encode_payload({"a": later, "b": [later]}, lambda value: value is later) == '{"a":null,"b":[null]}'
    with pytest.raises(ValueError, match=r"payload\['b'\] is a set"):
        encode_payload({"a": later, "b": {1}}, lambda value: value is later)


FULL = {
    "id": "i1",
    "status": "succeeded",
    "action_name": "price",
    "app_name": "shop",
    "version": "v1",
    "started_at": "2026-01-01T00:00:00Z",
    "finished_at": "2026-01-01T00:00:01Z",
    "status_reason": "done",
    "payload": "{}",
    "output": "1",
}


def test_invocation_is_read_and_unknown_fields_ignored():
    assert Invocation.from_json({**FULL, "new": {"field": 1}}) == Invocation(
        id="i1",
        status="succeeded",
        action_name="price",
        app_name="shop",
        version="v1",
        started_at="2026-01-01T00:00:00Z",
        finished_at="2026-01-01T00:00:01Z",
        status_reason="done",
        payload="{}",
        raw_output="1",
    )


@pytest.mark.parametrize("field", [name for name in FULL if name not in ("id", "status", "output")])
@pytest.mark.parametrize("value", [None, 7, ["x"]])
def test_field_that_is_not_a_string_is_none(field, value):
    assert getattr(Invocation.from_json({**FULL, field: value}), field) is None


@pytest.mark.parametrize("value", [None, 7, ["x"], {"a": None}, False])
def test_output_that_is_not_a_string_is_kept(value):
    assert Invocation.from_json({**FULL, "output": value}).output == value


@pytest.mark.parametrize(
    "data",
    [None, [], "x", 7, {}, {"id": "i"}, {"status": "failed"}, {**FULL, "id": ""}, {**FULL, "id": 7}]
    + [{**FULL, "status": status} for status in ("", None, 7, ["succeeded"], True)],
)
def test_reply_without_id_or_status_raises(data):
    with pytest.raises(KernelTransportError, match="not an invocation"):
        Invocation.from_json(data)


@pytest.mark.parametrize(
    ("status", "active", "ended"),
    [
        ("queued", True, False),
        ("running", True, False),
        ("succeeded", False, True),
        ("failed", False, True),
        ("cancelled", False, False),
        ("Succeeded", False, False),
        ("succeeded ", False, False),
    ],
)
def test_only_known_statuses_are_active_or_ended(status, active, ended):
    invocation = Invocation.from_json({"id": "i", "status": status})
    assert (invocation.status, invocation.is_active, invocation.is_ended) == (status, active, ended)


@pytest.mark.parametrize(
    ("raw", "output"),
    [
        (None, None),
        ("null", None),
        ("", ""),
        ("12.5", 12.5),
        ('{"a": [1]}', {"a": [1]}),
        ('"text"', "text"),
        ("plain text", "plain text"),
        ("NaN", "NaN"),
        ("[1, Infinity]", "[1, Infinity]"),
        ("-Infinity", "-Infinity"),
        ('{"cut": ', '{"cut": '),
        ("[" * 200_000, "[" * 200_000),
        ("9" * 5_000, "9" * 5_000),
        ('"\\ud800"', "?"),
    ],
)
def test_output_is_decoded_if_it_is_json_and_text_otherwise(raw, output):
    invocation = Invocation("i", "succeeded", raw_output=raw)
    assert invocation.output == output
    assert invocation.result() == output


@pytest.mark.parametrize("status", ["queued", "running", "cancelled", "SUCCEEDED", "success", ""])
def test_result_of_any_status_but_succeeded_raises(status):
    with pytest.raises(
        KernelInvocationUnknownError, match=f"i1 has not ended: its status is {status!r}"
    ) as caught:
        Invocation("i1", status, raw_output="1").result()
    assert caught.value.invocation_id == "i1"


@pytest.mark.parametrize(
    ("reason", "output", "message"),
    [
        ("boom", None, "Kernel invocation i1 failed: boom."),
        (None, None, "Kernel invocation i1 failed: Kernel gave no reason."),
        ("", "", "Kernel invocation i1 failed: Kernel gave no reason."),
        ("It broke.", None, "Kernel invocation i1 failed: It broke."),
        ("boom", "Trace…", "Kernel invocation i1 failed: boom.\nIts output: Trace…"),
        (None, '{"e": 1}', 'Kernel invocation i1 failed: Kernel gave no reason.\nIts output: {"e": 1}'),
    ],
)
def test_failure_message_has_kernels_reason_and_the_output(reason, output, message):
    invocation = Invocation("i1", "failed", status_reason=reason, raw_output=output)
    with pytest.raises(KernelInvocationFailedError) as caught:
        invocation.result()
    assert str(caught.value) == message
    assert caught.value.invocation_id == "i1"
    assert isinstance(caught.value, KernelError)


def test_failure_message_has_the_hint_before_the_output():
    with pytest.raises(
        KernelInvocationFailedError, match=r"^Kernel invocation i1 failed: boom\. Try\.\nIts output: x$"
    ):
        Invocation("i1", "failed", status_reason="boom", raw_output="x").result("Try.")


def test_failure_message_shortens_the_output():
    message = str(Invocation("i1", "failed", raw_output="x" * 1_000_000).failure())
    assert len(message) < 2_200
    assert message.endswith("xxx… (998000 more characters)")


def test_failure_message_shortens_the_reason():
    found = Invocation.from_json({"id": "i1", "status": "failed", "status_reason": "x" * 1_000_000})
    assert len(str(found.failure())) < 2_200
