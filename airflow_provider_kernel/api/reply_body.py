"""
The body of a reply, chunk by chunk: decoded, limited in size, and for a triggerer without long strings. No I/O.

The HTTP clients decode and limit nothing themselves: one megabyte of gzip may expand to a gigabyte.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping

from airflow_provider_kernel.api.errors import KernelResponseTooLargeError, KernelTransportError

#: Encoding of replies that is requested and accepted; event streams are never encoded.
ACCEPT_ENCODING = "gzip"
#: Maximum number of bytes read of an error's body, and of a body without result.
MAX_ERROR_BYTES = 2**20
#: Bytes that are decoded at once, in a fraction of a millisecond.
PIECE_BYTES = 2**14
#: Maximum length, in bytes, of a string that a triggerer keeps: payloads and outputs may have megabytes.
MAX_SKIMMED_STRING = 512
#: Maximum size of a reply without its long strings, in bytes: a page of a hundred invocations is smaller.
MAX_SKIMMED_BYTES = 2**18
#: Maximum number of lists and objects in a reply to a triggerer; to decode them takes 30 ms of its event loop. Each takes
#: much longer than its two bytes.
MAX_CONTAINERS = 20_000


def has_too_many_containers(data: bytes | bytearray) -> bool:
    """Return whether JSON has more than :data:`MAX_CONTAINERS` opening brackets, those in strings included."""
    return data.count(b"[") + data.count(b"{") > MAX_CONTAINERS


def is_encoded(headers: Mapping[str, str]) -> bool:
    """Return whether a reply has a content encoding."""
    return (headers.get("Content-Encoding") or "").strip().lower() not in ("", "identity")


class ReplyBody:
    """
    The body of one reply. Call :meth:`feed` until ``full`` is set or the reply ends, then :meth:`close`.

    ``size`` is the number of bytes so far, decoded.

    :param headers: the reply's.
    :param is_success: whether the body is the result. Otherwise at most :data:`MAX_ERROR_BYTES` are read, and a larger body
        counts as empty.
    :param limit: maximum size of the body of a success, in bytes.
    :param skim: whether strings over :data:`MAX_SKIMMED_STRING` are replaced with null.
    :raises KernelTransportError: the encoding was not requested.
    """

    def __init__(
        self, headers: Mapping[str, str], *, is_success: bool, limit: int, skim: bool = False
    ) -> None:
        self.size = 0
        self.full = False
        self._is_success = is_success
        self._limit = limit if is_success else min(limit, MAX_ERROR_BYTES)
        self._received = 0
        self._body = bytearray()
        self._skimmer = _Skimmer() if skim and is_success else None
        self._gzip = None
        if is_encoded(headers):
            if headers["Content-Encoding"].strip().lower() not in ("gzip", "x-gzip"):
                raise KernelTransportError(
                    "The reply has an encoding that was not requested; a proxy may have answered."
                )
            self._gzip = zlib.decompressobj(31)

    def feed(self, data: bytes) -> Iterator[None]:
        """
        Add the next bytes; each step decodes :data:`PIECE_BYTES` at most.

        :raises KernelResponseTooLargeError: the body of a success is larger than the limit.
        :raises KernelTransportError: the body cannot be decoded.
        """
        self._received += len(data)
        for piece in self._decoded(data):
            self.size += len(piece)
            # Compressed bytes count, too: any number of them may decode to nothing.
            if max(self.size, self._received) > self._limit:
                self._end_too_large()
                return
            self._body += self._skimmer.feed(piece) if self._skimmer else piece
            if self._skimmer and len(self._body) > MAX_SKIMMED_BYTES:
                raise _too_large_for_kernels()
            yield

    def close(self) -> bytearray:
        """
        Return the body, which this object then no longer holds; the whole one for a success.

        :raises KernelResponseTooLargeError: it has too many lists and objects.
        :raises KernelTransportError: it was cut short.
        """
        if has_too_many_containers(self._body):
            if self._skimmer:
                raise _too_large_for_kernels()
            if not self._is_success:
                return bytearray()
        if self._gzip and self._received and not self._gzip.eof and not self.full:
            raise KernelTransportError("The reply was cut short.")
        body, self._body = self._body, bytearray()
        return body

    def _end_too_large(self) -> None:
        if self._is_success:
            raise KernelResponseTooLargeError(
                f"The reply is larger than {self._limit / 1e6:.0f} MB. If the app's output is, set the extra "
                "'max_response_mb' of the Airflow connection."
            )
        self.full = True
        self._body.clear()

    def _decoded(self, data: bytes) -> Iterator[bytes]:
        if self._gzip is None:
            for start in range(0, len(data), PIECE_BYTES):
                yield data[start : start + PIECE_BYTES]
            return
        while True:
            if self._gzip.eof:  # another gzip member follows
                self._gzip = zlib.decompressobj(31)
            try:
                piece = self._gzip.decompress(data, PIECE_BYTES)
            except zlib.error:
                raise KernelTransportError("The reply is not gzip, although its header says so.") from None
            data = self._gzip.unused_data if self._gzip.eof else self._gzip.unconsumed_tail
            yield piece
            # After a full piece, the decoder may hold more, although all bytes are consumed.
            if not data and (self._gzip.eof or len(piece) < PIECE_BYTES):
                return


def _too_large_for_kernels() -> KernelResponseTooLargeError:
    return KernelResponseTooLargeError(
        "The reply is larger than any of Kernel's, even without its long strings."
    )


_PLAIN = re.compile(rb'[^"]*')
_QUOTED = re.compile(rb'(?:[^"\\]+|\\.)*+', re.DOTALL)


class _Skimmer:
    """Copies JSON, split anywhere, with null in place of each string that is too long."""

    def __init__(self) -> None:
        self._string: bytearray | None = None  # the unfinished string, with its opening quote
        self._is_long = False
        self._is_escaped = False

    def feed(self, data: bytes) -> bytes:
        kept = bytearray()
        at = 0
        while at < len(data):
            if self._string is None:
                end = _match_end(_PLAIN, data, at)
                kept += data[at:end]
                if end < len(data):
                    self._string, self._is_long = bytearray(b'"'), False
                at = end + 1
                continue
            end = at
            if self._is_escaped:
                end, self._is_escaped = at + 1, False
            end = _match_end(_QUOTED, data, end)
            if (
                end < len(data) and data[end] == 0x5C
            ):  # a backslash, whose other half comes with the next bytes
                end, self._is_escaped = end + 1, True
            if not self._is_long:
                self._string += data[at:end]
                self._is_long = len(self._string) > MAX_SKIMMED_STRING
            if end < len(data):
                kept += b"null" if self._is_long else self._string + b'"'
                self._string = None
            elif self._is_long:
                self._string.clear()
            at = end + 1
        return bytes(kept)


def _match_end(pattern: re.Pattern[bytes], data: bytes, start: int) -> int:
    found = pattern.match(data, start)
    return found.end() if found else start
