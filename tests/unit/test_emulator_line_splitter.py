"""Output cut into lines, whatever the pieces it comes in."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_kernel.emulator.line_splitter import MAX_LINE, LineSplitter

pytestmark = pytest.mark.no_airflow


def cut(*pieces):
    cutter = LineSplitter()
    lines = [line for piece in pieces for line in cutter.feed(piece)]
    return lines + cutter.close()


@given(
    st.lists(st.binary(max_size=20) | st.sampled_from([b"\n", b"\r\n", b"\r", "é".encode(), b"x" * 70_000]))
)
@example([b"x" * MAX_LINE, b"\r", b"y\n"])
def test_the_pieces_do_not_matter(pieces):
    assert cut(*pieces) == cut(b"".join(pieces))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=50)))
def test_every_line_comes_out_as_it_went_in(lines):
    assert cut("".join(line + "\n" for line in lines).encode()) == lines


def test_what_is_kept_of_an_endless_line_is_bounded():
    cutter = LineSplitter()
    for _ in range(100):
        assert cutter.feed(b"x" * 65_536) == []

    assert len(cutter._begun) <= MAX_LINE + 1
