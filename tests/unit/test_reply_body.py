"""A reply's bytes: what comes out of the decoder is bounded, and a triggerer is spared long texts."""

from __future__ import annotations

import gzip
import itertools
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_kernel.api.errors import (
    KernelResponseTooLargeError,
    KernelTransportError,
    is_retryable,
)
from airflow_provider_kernel.api.reply_body import (
    MAX_CONTAINERS,
    MAX_ERROR_BYTES,
    MAX_SKIMMED_STRING,
    PIECE_BYTES,
    ReplyBody,
)
from tests.hostile import bomb

pytestmark = pytest.mark.no_airflow

GZIP = {"Content-Encoding": "gzip"}


def read(*chunks: bytes, headers=None, is_success=True, limit=10**7, skim=False) -> bytes:
    body = ReplyBody(headers or {}, is_success=is_success, limit=limit, skim=skim)
    for chunk in chunks:
        for _ in body.feed(chunk):
            pass
        if body.full:
            break
    return body.close()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(borders)]


@given(st.binary(max_size=3000), st.lists(st.integers(0, 10**6)), st.integers(1, 3))
def test_body_equals_what_was_sent_with_any_encoding_and_cuts(data, places, members):
    assert read(*cut(data, places)) == data
    packed = gzip.compress(data) * members
    assert read(*cut(packed, places), headers=GZIP) == data * members


@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_body_is_complete_when_it_fills_a_piece_exactly(size):
    assert len(read(gzip.compress(bytes(size)), headers=GZIP)) == size


def test_gigabyte_of_gzip_stops_at_the_limit_and_takes_little_memory():
    packed = bomb()
    assert len(packed) < 1.1 * 2**20
    tracemalloc.start()
    with pytest.raises(KernelResponseTooLargeError, match="larger than 10 MB"):
        read(packed, headers=GZIP)
    assert tracemalloc.get_traced_memory()[1] < 30 * 10**6
    tracemalloc.stop()


def test_feed_decodes_a_small_piece_per_step():
    body = ReplyBody(GZIP, is_success=True, limit=10**7)
    sizes = [0]
    for _ in body.feed(gzip.compress(bytes(10 * PIECE_BYTES))):
        sizes.append(body.size)
    assert max(b - a for a, b in itertools.pairwise(sizes)) <= PIECE_BYTES


@pytest.mark.parametrize("piece", [gzip.compress(b"", mtime=0), b"\x00" * 1000], ids=["members", "zeros"])
def test_compressed_bytes_count_towards_the_limit(piece):
    # Members of nothing, or nothing but padding: decoded, it is never large.
    with pytest.raises(KernelTransportError):
        read(*[piece] * 100_000, headers=GZIP, limit=100_000)


def test_plain_body_stops_at_the_limit():
    assert read(b"x" * 10, limit=10) == b"x" * 10
    with pytest.raises(KernelResponseTooLargeError, match="max_response_mb") as error:
        read(b"x" * 10, b"x", limit=10)
    assert not is_retryable(error.value)  # the same would come again


@pytest.mark.parametrize("headers", [{}, GZIP])
def test_error_body_is_empty_when_it_is_larger_than_a_mebibyte(headers):
    body = ReplyBody(headers, is_success=False, limit=10**9)
    pieces = [bomb()] if headers else [b"x" * 2**18] * 8
    taken = 0
    for piece in pieces:
        for _ in body.feed(piece):
            taken += 1
        if body.full:
            break
    assert body.full
    assert body.close() == b""
    assert body.size <= MAX_ERROR_BYTES + PIECE_BYTES


def test_error_body_is_empty_when_it_has_too_many_lists():
    assert read(b"[" * MAX_CONTAINERS, is_success=False)
    assert read(b"[" * (MAX_CONTAINERS + 1), is_success=False) == b""


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "x" * 10_000, "\x1b[2J"])
def test_body_raises_when_the_encoding_was_not_requested(encoding):
    with pytest.raises(KernelTransportError, match="was not requested") as error:
        read(b"", headers={"Content-Encoding": encoding})
    assert encoding not in str(error.value)


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_identity_counts_as_no_encoding(encoding):
    assert read(b"x", headers={"Content-Encoding": encoding}) == b"x"


@pytest.mark.parametrize(
    "data",
    [b"no gzip", gzip.compress(b"x" * 100)[:-1], gzip.compress(b"x")[:-8] + bytes(8)],
    ids=["none", "cut short", "a wrong sum"],
)
def test_body_raises_when_gzip_is_broken_or_incomplete(data):
    with pytest.raises(KernelTransportError):
        read(data, headers=GZIP)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.text(min_size=200, max_size=400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def short(value, escape):
    """What is left of a value: null where a string, as it is written, is too long."""
    if isinstance(value, str):
        return (
            None if len(json.dumps(value, ensure_ascii=escape).encode()) - 1 > MAX_SKIMMED_STRING else value
        )
    if isinstance(value, list):
        return [short(item, escape) for item in value]
    if isinstance(value, dict):
        return {key: short(item, escape) for key, item in value.items()}
    return value


@given(values, st.lists(st.integers(0, 10**6), max_size=20), st.booleans())
def test_skimmed_body_is_the_same_json_with_null_for_long_strings(value, places, escape):
    written = json.dumps(value, ensure_ascii=escape).encode()
    skimmed = read(*cut(written, places), skim=True)
    assert json.loads(skimmed) == short(value, escape)
    if short(value, escape) == value:
        assert skimmed == written


@pytest.mark.parametrize(
    "text",
    ['"' * 5000, "\\" * 5001, "é" * 5000, '{"a": "b\\n"}' * 1000, "\n\\u0000" * 900],
    ids=lambda text: text[:4],
)
@pytest.mark.parametrize("size", [1, 7, 4096, 10**6])
def test_skimmed_body_omits_a_long_string_of_any_characters(text, size):
    written = json.dumps({"id": "i", "output": text, "status": "failed"}, ensure_ascii=False).encode()
    chunks = [written[at : at + size] for at in range(0, len(written), size)]
    assert json.loads(read(*chunks, skim=True)) == {"id": "i", "output": None, "status": "failed"}


def test_skimmed_body_keeps_nothing_of_a_large_output():
    tracemalloc.start()
    chunks = (b'{"id": "i", "output": "', *[b"x" * 65_536] * 800, b'", "status": "failed"}')
    assert json.loads(read(*chunks, limit=10**9, skim=True)) == {
        "id": "i",
        "output": None,
        "status": "failed",
    }
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("piece", [b"[", b"[[],", b'"a",', b" "])
def test_skimmed_body_raises_when_it_is_large_without_long_strings(piece):
    with pytest.raises(KernelResponseTooLargeError, match="larger than any of Kernel's"):
        read(*[piece * 10_000] * 200, limit=10**9, skim=True)


def test_skimmed_body_raises_when_it_has_too_many_lists():
    assert read(b"[" * MAX_CONTAINERS, skim=True)
    assert read(b"[" * (MAX_CONTAINERS + 1))
    with pytest.raises(KernelResponseTooLargeError, match="larger than any of Kernel's"):
        read(b"[" * (MAX_CONTAINERS + 1), skim=True)
