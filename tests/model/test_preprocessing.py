"""Image bytes to pixels: formats, orientation, depth, transparency, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from model import ImageError, load_image, pad_batch


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(left: object, right: object, mode: str = "RGB") -> Image.Image:
    """An image of 40 x 20 pixels in two colours."""
    image = Image.new(mode, (40, 20), left)
    image.paste(right, (20, 0, 40, 20))
    return image


def test_photograph_keeps_its_size_in_the_record_and_its_colours(photographs) -> None:
    data = photographs["rocket.jpg"].read_bytes()
    loaded = load_image(data, 97)
    assert (loaded.width, loaded.height) == Image.open(io.BytesIO(data)).size
    assert loaded.pixels.shape == (97, 97, 3)
    assert loaded.pixels.dtype == np.uint8
    exact = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((97, 97), Image.Resampling.BICUBIC))
    assert np.abs(exact.astype(int) - loaded.pixels).mean() < 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_formats(kind: str) -> None:
    pixels = load_image(encode(halves("red", "blue"), kind), 8).pixels
    np.testing.assert_allclose(pixels[4, 0], (255, 0, 0), atol=12)
    np.testing.assert_allclose(pixels[4, 7], (0, 0, 255), atol=12)


def test_exif_orientation_is_honoured() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by 90 degrees: left becomes top
    loaded = load_image(encode(halves("red", "blue"), "JPEG", exif=exif), 8)
    assert (loaded.width, loaded.height) == (20, 40)
    np.testing.assert_allclose(loaded.pixels[0, 4], (255, 0, 0), atol=12)
    np.testing.assert_allclose(loaded.pixels[7, 4], (0, 0, 255), atol=12)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.new("RGBA", (9, 9), (255, 0, 0, 0)), (255, 255, 255), id="transparent is white"),
        pytest.param(Image.new("RGBA", (9, 9), (0, 0, 0, 255)), (0, 0, 0), id="opaque keeps its colour"),
        pytest.param(Image.new("LA", (9, 9), (0, 0)), (255, 255, 255), id="grey with alpha"),
        pytest.param(Image.fromarray(np.full((9, 9), 0x8000, np.uint16)), (128, 128, 128), id="16-bit grey"),
        pytest.param(Image.new("1", (9, 9), 1), (255, 255, 255), id="bilevel"),
        pytest.param(Image.new("P", (9, 9), 0), (0, 0, 0), id="palette"),
    ],
)
def test_modes(image: Image.Image, expected: tuple[int, int, int]) -> None:
    pixels = load_image(encode(image, "PNG"), 5).pixels
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.array(expected, np.uint8), (5, 5, 3)))


def test_cmyk_jpeg() -> None:
    pixels = load_image(encode(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "JPEG"), 5).pixels
    np.testing.assert_allclose(pixels[2, 2], (255, 0, 0), atol=12)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes whose header claims that many pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    framed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "empty", id="empty file"),
        pytest.param(b"not an image, whatever its name", "not an image of a known format", id="text"),
        pytest.param(encode(halves("red", "blue"), "JPEG")[:-200], "damaged image", id="truncated JPEG"),
        pytest.param(encode(halves("red", "blue"), "PNG")[:60], "damaged image", id="truncated PNG"),
        pytest.param(bomb(12_000, 12_000), "12000 x 12000 pixels are more than", id="144 megapixels"),
        pytest.param(bomb(60_000, 60_000), "pixels", id="more than Pillow itself allows"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image", id="EPS"),
    ],
)
def test_refuses(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(data, 8)


def test_pad_batch_fills_up_with_black() -> None:
    white = np.full((3, 3, 3), 255, np.uint8)
    batch = pad_batch([white, white], 5)
    assert batch.shape == (5, 3, 3, 3)
    assert batch[:2].min() == 255
    assert batch[2:].max() == 0
