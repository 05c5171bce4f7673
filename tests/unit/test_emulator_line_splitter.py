"""The output of a process, split into lines."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_kernel.emulator.line_splitter import MAX_LINE_BYTES, LineSplitter

pytestmark = pytest.mark.no_airflow


def split(*pieces):
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return lines + splitter.close()


@given(
    st.lists(st.binary(max_size=20) | st.sampled_from([b"\n", b"\r\n", b"\r", "é".encode(), b"x" * 70_000]))
)
@example([b"x" * MAX_LINE_BYTES, b"\r", b"y\n"])
def test_lines_do_not_depend_on_the_pieces(pieces):
    assert split(*pieces) == split(b"".join(pieces))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=50)))
def test_text_of_each_line_is_unchanged(lines):
    assert split("".join(line + "\n" for line in lines).encode()) == lines


def test_memory_is_bounded_when_a_line_is_endless():
    splitter = LineSplitter()
    for _ in range(100):
        assert splitter.feed(b"x" * 65_536) == []

    assert len(splitter._unfinished) <= MAX_LINE_BYTES + 1
