"""Samples of more than 8 bits, scaled to 8 bits by the range that they use.

Pillow clips 16-bit grey and floats at 255, and keeps the high byte of 16-bit colour; so 12-bit values of a microscope
or an X-ray in a 16-bit file, or reflectances from 0 to 1 in a float TIFF, would be captioned as blackness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

# Bits that sensors use, of the 16 that files store.
_DEPTHS = (8, 10, 12, 14, 16)
_STRIP_PIXELS = 2**20
_TOO_DARK = 4  # of 256: high bytes below this come from samples of 8 or 10 bits, whose low bits are lost


class LowBitsError(ValueError):
    """16-bit colour whose values are so small that Pillow, which drops the low bytes, leaves next to nothing."""


def is_deep(image: Image.Image) -> bool:
    """Whether the samples of a loaded image are integers of more than 8 bits, or floats."""
    return image.mode.startswith("I") or image.mode == "F"


def to_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 8 bits from integers of more bits, or floats.

    Integers from 0 to 65,535 keep the highest 8 of the bits that the largest one needs, rounded up to the depths of
    sensors. Floats up to 1, or up to 255, are taken to be meant as such; all others, and integers beyond 16 bits, are
    stretched from their least to their greatest value. What is not finite becomes black.

    Raises:
      ValueError: no sample is a finite number.
    """
    convert = _conversion(image)
    grey = Image.new("L", image.size)
    for box, samples in _strips(image):
        grey.paste(Image.fromarray(convert(samples)), box)
    return grey


def _conversion(image: Image.Image) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.uint8]]:
    low, high = _range(image)
    if not low <= high:
        raise ValueError("none of its samples is a finite number")
    if image.mode != "F" and low >= 0 and high < 2**16:
        depth = next(bits for bits in _DEPTHS if high < 2**bits)
        return lambda samples: (samples.astype(np.int64) >> (depth - 8)).astype(np.uint8)
    if low >= 0 and 0.5 <= high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and 128 <= high <= 255:
        low, high = 0.0, 255.0
    elif low == high:
        low = min(0.0, low)
    scale = 255 / (high - low) if high > low else 0.0

    def stretch(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
        scaled = np.nan_to_num((samples - low) * scale, nan=0.0, posinf=0.0, neginf=0.0)
        return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)

    return stretch


def _range(image: Image.Image) -> tuple[float, float]:
    low, high = np.inf, -np.inf
    for _, samples in _strips(image):
        finite = samples[np.isfinite(samples)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return low, high


def _strips(image: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], npt.NDArray[np.float64]]]:
    """Boxes and samples, some at a time to hold no further copy of a large image."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        yield box, np.asarray(image.crop(box), dtype=np.float64)


def has_high_bytes_only(image: Image.Image) -> bool:
    """Whether Pillow will keep the high bytes of 16-bit samples; to be asked before the image is loaded."""
    bands = len(image.getbands()) > 1
    tiles: Sequence[Any] = getattr(image, "tile", ())
    return bands and bool(tiles) and ";16" in str(tiles[0][3])


def restored_range(image: Image.Image) -> Image.Image:
    """16-bit colour, of which the high bytes are left, with samples of 12 or 14 bits brought to 8.

    Raises:
      LowBitsError: the samples have 10 bits or fewer.
    """
    bands = image.split()
    colours = [band for band, name in zip(bands, image.getbands(), strict=True) if name != "A"]
    highest = max(int(band.getextrema()[1]) for band in colours)  # type: ignore[arg-type]
    if highest < _TOO_DARK:
        raise LowBitsError("its 16-bit samples use the lowest bits only; scale them to 16 bits")
    factor = 16 if highest < 16 else 4 if highest < 64 else 1
    if factor == 1:
        return image
    scaled = [band if name == "A" else band.point(lambda value: value * factor) for band, name in _named(image)]
    return Image.merge(image.mode, scaled)


def _named(image: Image.Image) -> Iterator[tuple[Image.Image, str]]:
    return zip(image.split(), image.getbands(), strict=True)
