"""
The lines that the emulator prints in the terminal. Pure; no I/O.

No line has a payload, a header or the query of a URL. What clients and apps wrote is printed with its control characters
escaped: they could move the cursor, hide text, or imitate a line of the emulator.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

#: Maximum characters of an app's line in the terminal. The event stream has the whole line.
MAX_APP_LINE = 2_000
#: Maximum characters of a reason, a message or a path.
MAX_DETAIL = 300
#: First characters of an invocation's id that mark its lines.
SHORT_ID = 8

#: Clients by the first part of their ``User-Agent``.
_CLIENTS = {
    "airflow-provider-kernel": "Airflow",
    "Kernel/Python": "the Python SDK",
    "AsyncKernel/Python": "the Python SDK",
    "Kernel/JS": "the Node SDK",
    "Kernel/Go": "the Go SDK",
    "Mozilla": "a browser",
}
#: Control characters except the tab, the separators and directions of Unicode, and halves of surrogate pairs.
_UNSAFE = re.compile(
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_DIM, _RED, _GREEN, _YELLOW = "2", "31", "32", "33"
#: Colours of ids. Neighbouring lines of two invocations are told apart.
_ID_COLOURS = ("36", "35", "34", "96", "95", "94")


def wants_colour(environment: Mapping[str, str], *, is_terminal: bool) -> bool:
    """
    Return whether lines have colours.

    :param environment: the emulator's variables, of which ``NO_COLOR``, ``FORCE_COLOR`` and ``TERM`` count, in this order.
    :param is_terminal: whether the lines are printed to a terminal.
    """
    if environment.get("NO_COLOR"):
        return False
    if force := environment.get("FORCE_COLOR"):
        return force != "0"
    return is_terminal and environment.get("TERM") != "dumb"


def client_name(user_agent: str) -> str:
    """Return what a person calls the client that sends this ``User-Agent``; an empty string if it sends none."""
    product = user_agent.partition(" ")[0]
    name = product.partition("/")[0]
    return _CLIENTS.get(product) or _CLIENTS.get(name) or shorten(name, 40)


def escape(text: str) -> str:
    """Return text that cannot control the terminal: control characters are written as in Python."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def shorten(text: str, length: int = MAX_DETAIL) -> str:
    """Return text in one line of at most ``length`` characters, escaped."""
    line = escape(" ".join(text[: 4 * length].split()))
    return line if len(line) <= length else f"{line[: length - 1]}…"


@dataclass(frozen=True)
class Lines:
    """
    Makes the lines. Each begins with the time of day, ``clock``.

    :param has_colour: whether the lines have colours.
    """

    has_colour: bool

    def started(self, clock: str, invocation_id: str, title: str, user_agent: str) -> str:
        """Return the line for the start of an invocation."""
        name = self._paint("1", shorten(title))
        source = f" from {client_name(user_agent)}" if user_agent else ""
        whole_id = self._paint(_DIM, f"(invocation {invocation_id})")
        return f"{self._begin(clock, invocation_id)} {name} started{source} {whole_id}"

    def app_line(self, clock: str, invocation_id: str, text: str) -> str:
        """Return the line for what an app printed."""
        shown = escape(text[:MAX_APP_LINE])
        if rest := len(text) - MAX_APP_LINE:
            shown += self._paint(_DIM, f" [{rest} more characters]") if rest > 0 else ""
        return f"{self._begin(clock, invocation_id)} {self._paint(_DIM, '|')} {shown}"

    def ended(self, clock: str, invocation_id: str, title: str, seconds: float, reason: str | None) -> str:
        """Return the line for the end of an invocation. It succeeded if ``reason`` is None."""
        if reason is None:
            status, end = self._paint(_GREEN, "succeeded"), f" in {seconds:.1f} s"
        else:
            status, end = self._paint(_RED, "failed"), f" after {seconds:.1f} s: {shorten(reason)}"
        return f"{self._begin(clock, invocation_id)} {shorten(title)} {status}{end}"

    def refused(self, clock: str, status: int, method: str, path: str, message: str) -> str:
        """Return the line for a request that was answered with an error."""
        number = self._paint(_RED if status >= 500 else _YELLOW, str(status))
        return f"{self._time(clock)} {number} {shorten(method)} {shorten(path)}: {shorten(message)}"

    def fault(self, clock: str, method: str, path: str, effects: str) -> str:
        """Return the line for a request that has a fault on purpose."""
        return f"{self._time(clock)} {shorten(method)} {shorten(path)}: {self._paint(_YELLOW, 'injected fault')}: {effects}"

    def request(self, clock: str, status: int, method: str, path: str, seconds: float) -> str:
        """Return the line for a request that was answered without an error."""
        return f"{self._time(clock)} {status} {shorten(method)} {shorten(path)} ({seconds * 1000:.0f} ms)"

    def note(self, clock: str, text: str) -> str:
        """Return the line for something that a person should know."""
        return f"{self._time(clock)} {self._paint(_YELLOW, escape(text))}"

    def _begin(self, clock: str, invocation_id: str) -> str:
        colour = _ID_COLOURS[zlib.crc32(invocation_id.encode()) % len(_ID_COLOURS)]
        return f"{self._time(clock)} {self._paint(colour, invocation_id[:SHORT_ID])}"

    def _time(self, clock: str) -> str:
        return self._paint(_DIM, clock)

    def _paint(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self.has_colour else text
