"""Image bytes to the pixels that a captioner takes; training and captioning share this one function.

The backbone's own input range is applied later, inside the encoder (see `model.backbones`), so what travels
here is always `uint8`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# Told by content, not by file name. EPS is absent on purpose: Pillow hands it to Ghostscript, a program interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

# EXIF 2.3, table 4, Orientation: the values that swap width and height.
_TURNED_BY_90 = (5, 6, 7, 8)

# Checked from the header, before any pixel is allocated: a 34-byte WebP can claim gigabytes.
MAX_PIXELS = 100_000_000


class ImageError(ValueError):
    """These bytes are not a picture that can be captioned; the message says why."""


@dataclass(frozen=True)
class LoadedImage:
    """A decoded picture at the captioner's size.

    Attributes:
      pixels: uint8[size, size, 3], RGB, aspect ratio not kept (as the captioner was trained).
      width: pixels of the original as a viewer shows it, EXIF orientation honoured.
      height: likewise.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int


def load_image(data: bytes, size: int) -> LoadedImage:
    """Decodes `data` and scales it to `size` x `size` RGB.

    Args:
      data: a whole image file.
      size: the side of the captioner's input, in pixels.

    Raises:
      ImageError: for anything that is not a whole picture of an allowed format within `MAX_PIXELS`.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow warns of half-broken metadata and of sizes that MAX_PIXELS already judges.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _load(image, size)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"not an image of a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # Decoders raise OSError, SyntaxError, struct.error, IndexError, ... on damaged files.
        raise ImageError(f"damaged image: {error or type(error).__name__}") from error


def _load(image: Image.Image, size: int) -> LoadedImage:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} x {height} pixels are more than the limit of {MAX_PIXELS:,}")
    # A JPEG is decoded at 1/2, 1/4 or 1/8 when that still leaves twice the wanted size (other formats ignore this).
    image.draft(None, (2 * size, 2 * size))
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation) in _TURNED_BY_90:
        width, height = height, width
    small = to_rgb(ImageOps.exif_transpose(image)).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return LoadedImage(np.asarray(small, dtype=np.uint8), width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB: transparency on white, 16-bit samples by their high byte."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit grey at 255, which turns such pictures nearly white.
        high_byte = np.clip(np.asarray(image, dtype=np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(high_byte).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def pad_batch(images: Sequence[npt.NDArray[np.uint8]], batch_size: int) -> npt.NDArray[np.uint8]:
    """Images stacked and filled up with black ones: uint8[batch_size, S, S, 3], so that all batches have one shape."""
    batch = np.zeros((batch_size, *images[0].shape), np.uint8)
    batch[: len(images)] = images
    return batch
