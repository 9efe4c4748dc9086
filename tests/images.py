"""Image files made by hand, good and bad."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_heic(image: Image.Image, **options) -> bytes:
    import pillow_heif

    pillow_heif.register_heif_opener()
    return encode(image, "HEIF", quality=90, **options)


def halves(left: object, right: object, mode: str = "RGB") -> Image.Image:
    """An image of 40 x 20 pixels in two colours."""
    image = Image.new(mode, (40, 20), left)
    image.paste(right, (20, 0, 40, 20))
    return image


def png(width: int, height: int, depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks after its header, whatever they hold."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    framed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (header, *chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def deep_png(samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of uint16[H, W, C], C from 2 to 4, which Pillow does not write; with more chunks before the pixels."""
    height, width, channels = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return png(width, height, 16, {2: 4, 3: 2, 4: 6}[channels], *chunks, (b"IDAT", zlib.compress(rows)))


def tiff(width: int, height: int, pixels: bytes = b"", **more: int) -> bytes:
    """A TIFF, RGB of 16 bits a sample, not compressed; `more` gives tags by their numbers, as `t259=8`."""
    offset = 8 + len(pixels)
    tags = {256: width, 257: height, 259: 1, 262: 2, 273: 8, 277: 3, 278: height, 279: len(pixels)}
    tags |= {int(name[1:]): value for name, value in more.items()}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    bits_at = offset + 2 + 12 * (len(entries) + 1) + 4
    entries.append(struct.pack("<HHII", 258, 3, 3, bits_at))
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", offset) + pixels + directory + struct.pack("<HHH", 16, 16, 16)


def jpeg_bomb(frame: int = 0xC0, scans: int = 1) -> bytes:
    """A JPEG of a few hundred bytes whose header claims 65,500 x 65,500 pixels."""
    whole = encode(Image.new("RGB", (16, 16)), "JPEG", progressive=frame == 0xC2)
    at = whole.index(bytes((0xFF, frame)))
    huge = whole[: at + 5] + struct.pack(">HH", 65_500, 65_500) + whole[at + 9 :]
    first_scan = huge.index(b"\xff\xda")
    return huge[:first_scan] + scans * huge[first_scan:]


def gif_bomb() -> bytes:
    """A GIF with a canvas of 65,535 x 65,535 pixels."""
    small = encode(Image.new("P", (4, 4)), "GIF")
    return small[:6] + struct.pack("<HH", 65_535, 65_535) + small[10:]


PNG_BOMB = png(60_000, 60_000, 8, 2, (b"IDAT", zlib.compress(b"")))
# 200 MB of text in 200 kB.
TEXT_BOMB = png(1, 1, 8, 0, (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 1)), (b"IDAT", b""))
TILE_BOMB = tiff(9, 9, bytes(100), t259=8, t322=16_000, t323=16_000, t324=8, t325=100)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
