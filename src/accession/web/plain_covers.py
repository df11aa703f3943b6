"""Covers without a title, as PNG images (https://www.w3.org/TR/png/)."""

import colorsys
import struct
import zlib

_WIDTH, _HEIGHT, _SPINE = 160, 240, 5
_SATURATION, _LIGHTNESS, _SPINE_LIGHTNESS = 0.45, 0.32, 0.24
_EIGHT_BITS, _RGB = 8, 2


def draw_plain_cover(hue: int) -> bytes:
    """Return a PNG of one colour with a darker spine; `hue` is in degrees."""
    spine, front = (_rgb(hue, lightness) for lightness in (_SPINE_LIGHTNESS, _LIGHTNESS))
    unfiltered = b"\0"
    row = unfiltered + spine * _SPINE + front * (_WIDTH - _SPINE)
    header = struct.pack(">IIBBBBB", _WIDTH, _HEIGHT, _EIGHT_BITS, _RGB, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(row * _HEIGHT)),
            _chunk(b"IEND", b""),
        )
    )


def _rgb(hue: int, lightness: float) -> bytes:
    return bytes(round(255 * value) for value in colorsys.hls_to_rgb(hue / 360, lightness, _SATURATION))


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
