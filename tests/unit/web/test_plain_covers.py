"""Plain covers are PNG images that any reader can decode."""

import struct
import zlib

import pytest

from accession.web.plain_covers import draw_plain_cover


def read_png(image: bytes) -> dict[bytes, bytes]:
    """Return the chunks of a PNG, whose checksums must be right."""
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, rest = {}, image[8:]
    while rest:
        (size,) = struct.unpack(">I", rest[:4])
        kind, content, checksum = rest[4:8], rest[8 : 8 + size], rest[8 + size : 12 + size]
        assert struct.unpack(">I", checksum) == (zlib.crc32(kind + content),)
        chunks[kind], rest = content, rest[12 + size :]
    return chunks


@pytest.mark.parametrize(
    ("hue", "spine", "front"),
    # hsl(0 45% 24%), hsl(0 45% 32%) and those of other hues, as a browser computes them.
    [
        (0, (89, 34, 34), (118, 45, 45)),
        (120, (34, 89, 34), (45, 118, 45)),
        (240, (34, 34, 89), (45, 45, 118)),
    ],
)
def test_plain_cover_has_a_spine_and_a_front(
    hue: int, spine: tuple[int, ...], front: tuple[int, ...]
) -> None:
    chunks = read_png(draw_plain_cover(hue))

    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (160, 240, 8, 2, 0, 0, 0)
    pixels = zlib.decompress(chunks[b"IDAT"])
    rows = [pixels[start : start + 481] for start in range(0, len(pixels), 481)]
    assert rows == [bytes([0, *spine * 5, *front * 155])] * 240
