"""Bytes that a process wrote, cut into the lines of a log. Pure; no I/O."""

from __future__ import annotations

#: A line is cut after so many bytes, as Kernel does; the rest of it is lost.
MAX_LINE = 64 * 1024


class LineSplitter:
    """Feed it the bytes as they come, in pieces of any size; memory is bounded by one line and one piece."""

    def __init__(self) -> None:
        self._begun = b""
        self._is_open = False

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that ``data`` completed. Bytes that are no UTF-8 become U+FFFD."""
        *ended, rest = data.split(b"\n")
        lines = []
        for piece in ended:
            self._extend(piece)
            lines.append(self._take())
        if rest:
            self._extend(rest)
        return lines

    def close(self) -> list[str]:
        """Return the last line, if it had no end."""
        return [self._take()] if self._is_open else []

    def _extend(self, piece: bytes) -> None:
        self._begun += piece[: MAX_LINE + 1 - len(self._begun)]
        self._is_open = True

    def _take(self) -> str:
        line, self._begun, self._is_open = self._begun, b"", False
        return line.removesuffix(b"\r")[:MAX_LINE].decode("utf-8", "replace")
