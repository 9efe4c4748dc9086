"""Samples of more than 8 bits are scaled to the range that they use, or refused; never captioned as blackness."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from model import ImageError, load_image
from model.preprocessing import load_picture
from tests.images import deep_png, encode

RAMP = np.linspace(0, 1, 64)[None].repeat(64, axis=0)


def brightness(data: bytes) -> tuple[int, int]:
    """The means of the left and of the right edge."""
    pixels = load_image(data, 64).pixels
    return int(pixels[:, 0].mean()), int(pixels[:, -1].mean())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_grey_integers(kind: str, bits: int) -> None:
    samples = np.rint(RAMP * (2**bits - 1)).astype(np.uint16)
    assert brightness(encode(Image.fromarray(samples), kind)) == (0, 255)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        pytest.param(RAMP, (0, 255), id="0 to 1"),
        pytest.param(RAMP * 0.01, (0, 255), id="0 to 0.01"),
        pytest.param(RAMP * 0.6, (0, 153), id="up to 1"),
        pytest.param(RAMP * 200, (0, 200), id="up to 255"),
        pytest.param(RAMP * 4095, (0, 255), id="0 to 4095"),
        pytest.param(RAMP * 40 - 20, (0, 255), id="degrees"),
        pytest.param(np.where(RAMP == 0, np.nan, RAMP), (0, 255), id="not a number"),
        pytest.param(np.where(RAMP == 0, -np.inf, RAMP), (0, 255), id="infinite"),
    ],
)
def test_float_tiffs(samples: np.ndarray, expected: tuple[int, int]) -> None:
    found = brightness(encode(Image.fromarray(samples.astype(np.float32)), "TIFF"))
    np.testing.assert_allclose(found, expected, atol=1)


def test_unsigned_integers_of_32_bits() -> None:
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, np.rint(RAMP * (2**32 - 1)).astype(np.uint32), photometric="minisblack")
    assert brightness(file.getvalue()) == (0, 255)


@pytest.mark.parametrize("scale", [2**24, -(2**24)], ids=["positive", "negative"])
def test_integers_of_32_bits(scale: int) -> None:
    found = brightness(encode(Image.fromarray((RAMP * scale).astype(np.int32)), "TIFF"))
    assert sorted(found) == [0, 255]


def test_a_float_tiff_without_a_number_fails() -> None:
    data = encode(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF")
    with pytest.raises(ImageError, match="none of its samples is a finite number"):
        load_image(data, 8)


def test_what_is_black_stays_black() -> None:
    for samples in (np.zeros((9, 9), np.uint16), np.zeros((9, 9), np.float32)):
        assert load_image(encode(Image.fromarray(samples), "TIFF"), 8).pixels.max() == 0


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("alpha", [False, True], ids=["RGB", "RGBA"])
def test_colour(bits: int, alpha: bool) -> None:
    samples = np.rint(RAMP * (2**bits - 1)).astype(np.uint16)
    opaque = [np.full_like(samples, 65_535)] if alpha else []
    pixels = load_image(deep_png(np.dstack([samples, samples // 2, samples, *opaque])), 64).pixels
    np.testing.assert_array_equal(pixels[0, :, 0], samples[0] >> (bits - 8))
    np.testing.assert_array_equal(pixels[0, :, 1], samples[0] // 2 >> (bits - 8))


def test_grey_with_opacity() -> None:
    samples = np.rint(RAMP * 1023).astype(np.uint16)
    assert brightness(deep_png(np.dstack([samples, np.full_like(samples, 65_535)]))) == (0, 255)


def test_an_image_that_lies_on_its_side() -> None:
    """The low bytes are turned with the high ones."""
    samples = np.rint(RAMP.T[:, :9] * 1023).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 8  # the left edge is the bottom
    data = deep_png(np.dstack([samples] * 3), (b"eXIf", exif.tobytes()[6:]))
    loaded = load_picture(data, 64)
    assert (loaded.width, loaded.height) == (64, 9)
    np.testing.assert_array_equal(loaded.pixels[0, :, 0], samples[:, 0] >> 2)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_tiffs(order: str, compression: str | None, planar: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    samples = np.rint(RAMP * 1023).astype(np.uint16)
    planes = np.stack([samples, samples // 2, samples], axis=0 if planar == "separate" else -1)
    file = io.BytesIO()
    tifffile.imwrite(file, planes, photometric="rgb", planarconfig=planar, byteorder=order, compression=compression)
    data = file.getvalue()
    if compression and planar == "separate":
        with pytest.raises(ImageError, match="16-bit samples use the lowest bits only; scale them"):
            load_image(data, 64)
        return
    pixels = load_image(data, 64).pixels
    np.testing.assert_array_equal(pixels[0, :, 0], samples[0] >> 2)
    np.testing.assert_array_equal(pixels[0, :, 1], samples[0] // 2 >> 2)
