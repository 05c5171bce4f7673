"""The picture of an X server's screen as PNG. Pure; no I/O."""

from __future__ import annotations

import struct
import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Fields of the header of an XWD file (X11/XWDFile.h), by their position.
_HEADER_SIZE, _WIDTH, _HEIGHT, _BITS_PER_PIXEL, _BYTES_PER_LINE, _COLORS = 0, 4, 5, 11, 12, 19


def png_of_screen(xwd: bytes, left: int, top: int, width: int, height: int) -> bytes:
    """
    Return a part of the screen as PNG.

    :param xwd: the file that Xvfb writes with ``-fbdir``: a screen of 32 bits per pixel, blue first.
    :param left: the part's first column; ``top``, ``width`` and ``height`` likewise. The screen must contain the part.
    :raises ValueError: the file has another form.
    """
    fields = struct.unpack(">25I", xwd[:100])
    stride = fields[_BYTES_PER_LINE]
    if fields[_BITS_PER_PIXEL] != 32:
        raise ValueError("the screen does not have 32 bits per pixel")
    start = fields[_HEADER_SIZE] + 12 * fields[_COLORS] + left * 4
    lines = bytearray()
    for row in range(top, top + height):
        line = xwd[start + row * stride : start + row * stride + width * 4]
        pixels = bytearray(width * 3)
        pixels[0::3], pixels[1::3], pixels[2::3] = line[2::4], line[1::4], line[0::4]
        lines += b"\0" + pixels  # 0: the line is not filtered.
    return b"".join(
        (
            _SIGNATURE,
            _chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)),
            _chunk(b"IDAT", zlib.compress(bytes(lines), 1)),
            _chunk(b"IEND", b""),
        )
    )


def is_drawn(xwd: bytes, width: int) -> bool:
    """Return whether there is anything in the upper lines of the screen, where a window has its tabs and its address."""
    fields = struct.unpack(">25I", xwd[:100])
    start = fields[_HEADER_SIZE] + 12 * fields[_COLORS]
    colours = set()
    for row in range(0, min(80, fields[_HEIGHT]), 4):
        position = start + row * fields[_BYTES_PER_LINE]
        line = xwd[position : position + width * 4]
        colours |= {line[pixel : pixel + 3] for pixel in range(0, len(line), 32)}
    return len(colours) > 2


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
