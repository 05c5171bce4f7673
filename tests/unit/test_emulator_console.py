"""The console never waits for who reads it, and what it cannot print it counts."""

import os
import re
import threading

import pytest

from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.emulator import console as module
from airflow_provider_kernel.emulator.console import Console
from airflow_provider_kernel.emulator.store import InvocationResult, StoredInvocation, failed

pytestmark = pytest.mark.no_airflow


@pytest.fixture
def pipe():
    """The two ends of a pipe, as text files."""
    receiving, sending = os.pipe()
    with open(receiving) as reader, open(sending, "w") as writer:
        yield reader, writer


def printed(pipe, act, **options):
    """Return what a console prints after its announcement."""
    reader, writer = pipe
    console = Console(stream=writer, **options)
    console.announce("first")
    act(console)
    console.close()
    writer.close()
    first, *lines = reader.read().splitlines()
    assert first == "first"
    return [line[len("14:03:07 ") :] for line in lines]


def invocation():
    return StoredInvocation("id", "shop", "price", "emulator", "deployment", '"secret payload"', 0)


@pytest.mark.parametrize(
    ("result", "end"),
    [
        (InvocationResult(InvocationStatus.SUCCEEDED, '"secret output"', None), "succeeded in 2.5 s"),
        (
            failed("The action raised an exception.", "ValueError: x"),
            "failed after 2.5 s: The action raised an exception. ValueError: x",
        ),
        (failed("The process was lost."), "failed after 2.5 s: The process was lost. "),
    ],
)
def test_invocation_is_printed_with_its_log_and_its_end(pipe, result, end):
    kept = invocation()

    def act(console):
        console.follow(kept, "curl/8.5.0")
        kept.mark_running()
        kept.add_line("one", 1)
        kept.add_line("two", 2)
        kept.finish(result, 2_500_000_000)

    assert printed(pipe, act) == [
        "id shop.price started from curl (invocation id)",
        "id | one",
        "id | two",
        f"id shop.price {end}".rstrip(),
    ]


def test_quiet_console_prints_the_announcement_and_errors_alone(pipe, capfd):
    def act(console):
        kept = invocation()
        console.follow(kept, "curl")
        kept.add_line("one", 1)
        console.note("note")
        console.refused(404, "GET", "/", "Not found")
        console.error("must act\x1b[2J")

    assert printed(pipe, act, quiet=True) == []
    assert capfd.readouterr().err == "Kernel emulator: must act\\x1b[2J\n"


@pytest.mark.parametrize(("is_verbose", "lines"), [(False, []), (True, ["200 GET / (1000 ms)"])])
def test_requests_are_printed_if_the_console_is_verbose(pipe, is_verbose, lines):
    assert printed(pipe, lambda console: console.request(200, "GET", "/", 1), verbose=is_verbose) == lines


def test_note_once_prints_a_text_once(pipe):
    def act(console):
        for text in ("one", "one", "two", "one"):
            console.note_once(text)
        console.note("one")

    assert printed(pipe, act) == ["one", "two", "one"]


def test_announcement_comes_before_what_was_printed_earlier(pipe):
    reader, writer = pipe
    console = Console(stream=writer)
    console.note("early")
    console.announce("first\nsecond")
    console.close()
    writer.close()

    assert [line.split()[-1] for line in reader.read().splitlines()] == ["first", "second", "early"]


def test_printing_does_not_wait_for_a_reader_and_counts_what_is_lost(pipe, monkeypatch):
    monkeypatch.setattr(module, "MAX_PENDING", 100_000)
    reader, writer = pipe
    console = Console(stream=writer)
    console.announce("first")
    for number in range(10_000):  # more than the pipe and MAX_PENDING hold
        console.app_line("id", f"{number} {'x' * 80}")

    # Each notice has the number of lines that are missing in its place.
    assert reader.readline() == "first\n"
    number = lost = 0
    while number < 10_000:
        line = reader.readline()
        if match := re.fullmatch(r"\[(\d+) lines were not printed: they came too fast\]\n", line):
            number += int(match[1])
            lost += int(match[1])
        else:
            assert line.split()[3] == str(number)
            number += 1
    assert number == 10_000
    assert lost > 0
    console.note("goes on")
    assert reader.readline().endswith("goes on\n")


def test_console_goes_on_silently_when_nobody_can_read(pipe):
    others = threading.enumerate()
    reader, writer = pipe
    console = Console(stream=writer)
    reader.close()

    console.announce("first")
    console.close()
    console.note("second")
    console.close()

    for thread in threading.enumerate():
        if thread.name == "console" and thread not in others:
            thread.join(10)
            assert not thread.is_alive()


def test_everything_is_written_when_the_descriptor_does_not_block(pipe):
    reader, writer = pipe
    os.set_blocking(writer.fileno(), False)
    console = Console(stream=writer)
    console.announce("x" * 1_000_000)  # more than the pipe holds

    assert len(reader.readline()) == 1_000_001


def test_text_that_the_encoding_lacks_is_escaped(pipe):
    reader, writer = pipe
    writer.reconfigure(encoding="ascii")
    console = Console(stream=writer)
    console.announce("é")

    assert reader.readline() == "\\xe9\n"
