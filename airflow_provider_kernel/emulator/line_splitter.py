"""The output of a process, split into log lines. Pure; no I/O."""

from __future__ import annotations

#: Maximum bytes of a line, as on Kernel. The rest of a longer line is lost.
MAX_LINE_BYTES = 64 * 1024


class LineSplitter:
    """Splits bytes, fed in pieces of any size, into lines. Memory is bounded by one line and one piece."""

    def __init__(self) -> None:
        self._unfinished = b""
        self._has_unfinished = False

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that ``data`` completes. Bytes that are not UTF-8 become U+FFFD."""
        *ended, rest = data.split(b"\n")
        lines = []
        for piece in ended:
            self._extend(piece)
            lines.append(self._take())
        if rest:
            self._extend(rest)
        return lines

    def close(self) -> list[str]:
        """Return the last line if the output did not end with a line feed."""
        return [self._take()] if self._has_unfinished else []

    def _extend(self, piece: bytes) -> None:
        self._unfinished += piece[: MAX_LINE_BYTES + 1 - len(self._unfinished)]
        self._has_unfinished = True

    def _take(self) -> str:
        line, self._unfinished, self._has_unfinished = self._unfinished, b"", False
        return line.removesuffix(b"\r")[:MAX_LINE_BYTES].decode("utf-8", "replace")
