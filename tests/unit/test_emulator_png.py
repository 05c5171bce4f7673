"""Screenshots of an X server's screen."""

import struct
import zlib

import pytest

from airflow_provider_kernel.emulator.browsers.png import png_of_screen

pytestmark = pytest.mark.no_airflow


def screen(pixels, *, depth=32):
    """Return a screen as Xvfb writes it; ``pixels`` are rows of (red, green, blue)."""
    fields = [0] * 25
    fields[0], fields[4], fields[5] = 108, len(pixels[0]), len(pixels)
    fields[11], fields[12], fields[19] = depth, len(pixels[0]) * 4 + 8, 2
    rows = b"".join(b"".join(bytes((b, g, r, 0)) for r, g, b in row) + b"padding!" for row in pixels)
    return struct.pack(">25I", *fields) + b"\0" * 8 + b"\0" * 24 + rows


def pixels_of(png):
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    position, data, size = 8, b"", (0, 0)
    while position < len(png):
        length, kind = struct.unpack(">I4s", png[position : position + 8])
        content = png[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack(">I", png[position + 8 + length : position + 12 + length])
        assert checksum == zlib.crc32(kind + content)
        size = struct.unpack(">2I", content[:8]) if kind == b"IHDR" else size
        data += content if kind == b"IDAT" else b""
        position += 12 + length
    raw, stride = zlib.decompress(data), 1 + 3 * size[0]
    rows = [raw[row * stride + 1 : (row + 1) * stride] for row in range(size[1])]
    return [[tuple(row[i : i + 3]) for i in range(0, len(row), 3)] for row in rows]


PIXELS = [[(row, column, row * column) for column in range(7)] for row in range(5)]


def test_the_picture_is_the_screens():
    assert pixels_of(png_of_screen(screen(PIXELS), 0, 0, 7, 5)) == PIXELS


def test_a_part_is_cut_out():
    assert pixels_of(png_of_screen(screen(PIXELS), 2, 1, 3, 2)) == [row[2:5] for row in PIXELS[1:3]]


def test_another_depth_is_refused():
    with pytest.raises(ValueError, match="32 bits"):
        png_of_screen(screen(PIXELS, depth=16), 0, 0, 1, 1)
