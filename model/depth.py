"""Samples of more than 8 bits, scaled to 8 bits by the range that they use.

Pillow clips 16-bit grey and floats at 255, and keeps the high byte of 16-bit colour; so 12-bit values of a microscope
or an X-ray in a 16-bit file, or reflectances from 0 to 1 in a float TIFF, would be captioned as blackness. The file of
16-bit colour that uses fewer bits is read twice, for the high and the low bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

# Bits that sensors use, of the 16 that files store.
_DEPTHS = (8, 10, 12, 14, 16)
_STRIP_PIXELS = 2**20
_BITS_PER_SAMPLE, _PLANAR, _SAMPLE_FORMAT = 258, 284, 339  # TIFF 6.0, sections 8 and 19


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
    tags = getattr(image, "tag_v2", {})
    # Pillow reads all integers of 32 bits as signed.
    unsigned = image.mode == "I" and tags.get(_BITS_PER_SAMPLE) == (32,) and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        samples = np.asarray(image.crop(box))
        yield box, (samples.view(np.uint32) if unsigned else samples).astype(np.float64)


def read_planes_as_stored(image: Image.Image) -> None:
    """Corrects how Pillow reads an uncompressed 16-bit TIFF with a plane for each colour, which it turns into noise.

    Must be called before the image is loaded.
    """
    tags: Any = getattr(image, "tag_v2", {})
    if len(tags.get(_BITS_PER_SAMPLE, ())) > 1 and tags[_BITS_PER_SAMPLE][0] == 16:
        order = "L" if tags.prefix == b"II" else "B"
        image.tile = [  # type: ignore[attr-defined]
            tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:]))
            if tile.codec_name == "raw" and tile.args[0] in image.getbands()
            else tile
            for tile in image.tile  # type: ignore[attr-defined]
        ]


def has_high_bytes_only(image: Image.Image) -> bool:
    """Whether Pillow will keep the high bytes of 16-bit samples; to be asked before the image is loaded."""
    return len(image.getbands()) > 1 and ";16" in _raw_mode(image)


def uses_low_bits(image: Image.Image) -> bool:
    """Whether samples of which the high bytes are left use no more than 14 bits, so that their low bytes matter."""
    return _highest(image, alpha=False) < 64


def load_low_bytes(image: Image.Image) -> None:
    """Loads the low bytes of 16-bit samples, by reading them in the other byte order; of an image opened anew.

    Raises:
      ValueError: Pillow takes the high bytes alone, of compressed planes or to undo a product with the opacity.
    """
    raw_mode = _raw_mode(image)
    planes = getattr(image, "tag_v2", {}).get(_PLANAR) == 2 and image.tile[0].codec_name == "libtiff"  # type: ignore[attr-defined]
    if planes or raw_mode.startswith("RGBa"):
        raise ValueError("its 16-bit samples use the lowest bits only; scale them to 16 bits")
    mode, _, order = raw_mode.partition(";16")
    other = "B" if order == "L" or (order == "N" and sys.byteorder == "little") else "L"
    # Grey and opacity are unpacked from one byte order only: their four bytes are read as they are.
    wanted = "RGBA" if mode == "LA" else f"{mode};16{other}"
    image.tile = [tile._replace(args=_with_raw_mode(tile.args, wanted)) for tile in image.tile]  # type: ignore[attr-defined]
    image.load()
    if mode == "LA":
        _, grey, _, opacity = image.split()
        image.im = Image.merge("RGBA", (grey, grey, grey, opacity)).im


def joined_bytes(high: Image.Image, low: Image.Image) -> Image.Image:
    """The highest 8 of the bits that 16-bit colour uses, from images of its high and its low bytes."""
    bits = next(bits for bits in _DEPTHS if _highest(high, alpha=False) < 2 ** (bits - 8))
    opacity_bits = bits if _highest(high, alpha=True) < 2 ** (bits - 8) else 16
    bands = []
    for name, upper, lower in zip(high.getbands(), high.split(), low.split(), strict=True):
        used = opacity_bits if name == "A" else bits
        upper = upper.point([value << (16 - used) & 255 for value in range(256)])
        bands.append(ImageChops.add(upper, lower.point([value >> (used - 8) for value in range(256)])))
    return Image.merge(high.mode, bands)


def _highest(image: Image.Image, alpha: bool) -> int:
    bands = zip(image.getbands(), image.split(), strict=True)
    return max((int(band.getextrema()[1]) for name, band in bands if (name == "A") == alpha), default=0)  # type: ignore[arg-type]


def _raw_mode(image: Image.Image) -> str:
    """How Pillow will unpack the samples; "" where nothing is to be loaded."""
    tiles: Sequence[Any] = getattr(image, "tile", ())
    if not tiles:
        return ""
    args = tiles[0].args
    return str(args[0] if isinstance(args, tuple) else args)


def _with_raw_mode(args: Any, raw_mode: str) -> Any:
    if not isinstance(args, tuple):
        return raw_mode
    plane = str(args[0]).partition(";")[0]  # of a TIFF with a plane for each colour
    return (raw_mode if len(plane) > 1 else f"{plane};{raw_mode.partition(';')[2]}", *args[1:])
