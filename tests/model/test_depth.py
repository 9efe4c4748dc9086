"""Samples of more than 8 bits are scaled to the range that they use, or refused; never captioned as blackness."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from model import ImageError, load_image
from tests.images import deep_png, encode, tiff

RAMP = np.linspace(0, 1, 64)[None].repeat(64, axis=0)


def brightness(data: bytes) -> tuple[int, int]:
    """Of the left and the right edge."""
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


@pytest.mark.parametrize(("bits", "least"), [(12, 230), (14, 250), (16, 255)])
@pytest.mark.parametrize("alpha", [False, True], ids=["RGB", "RGBA"])
def test_colour(bits: int, least: int, alpha: bool) -> None:
    samples = np.rint(RAMP * (2**bits - 1)).astype(np.uint16)
    opaque = [np.full_like(samples, 65_535)] if alpha else []
    dark, bright = brightness(deep_png(np.dstack([samples, samples, samples, *opaque])))
    assert dark == 0
    assert bright >= least


def test_colour_in_the_lowest_bits_fails() -> None:
    samples = np.full((9, 9, 3), 255, np.uint16)
    for data in (deep_png(samples), tiff(9, 9, samples.tobytes())):
        with pytest.raises(ImageError, match="16-bit samples use the lowest bits only"):
            load_image(data, 8)
