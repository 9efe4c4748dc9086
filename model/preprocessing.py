"""Decodes image files to the pixels that a captioner takes; training and captioning share `load_image`.

Pixels are always uint8; the encoder scales them to the backbone's input range (`model.backbones`).

  - Formats, recognized by content, not by file name: JPEG (also progressive, grey, CMYK with Adobe's inverted inks),
    PNG, WebP, GIF, BMP, TIFF and AVIF; HEIC with pillow-heif.
  - The first of several frames or pages is used.
  - EXIF orientation is applied; colour profiles are not.
  - Transparent pixels are blended with white.
  - Samples of more than 8 bits are scaled by the range that they use (`model.depth`).
  - A JPEG that lacks its end, and at most a tenth of the picture, is decoded; the rest of it is grey.
  - A PNG is decoded even if its text or color profile is invalid or very large.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from model.cut_jpeg import completed_jpeg
from model.depth import (
    has_high_bytes_only,
    is_deep,
    joined_bytes,
    load_low_bytes,
    read_planes_as_stored,
    to_8_bits,
    uses_low_bits,
)
from model.formats import FORMATS as FORMATS
from model.formats import ImageError as ImageError
from model.formats import MissingSupportError as MissingSupportError
from model.formats import TooManyPixelsError as TooManyPixelsError
from model.formats import format_of as format_of
from model.formats import open_image as open_image
from model.jpeg import is_one_pass, read_jpeg_header
from model.png_chunks import pixels_alone

try:
    from cykooz_resizer import FilterType, ResizeAlg, ResizeOptions, Resizer
except ImportError:  # it has no wheels for some platforms
    Resizer = None
else:
    _BICUBIC = ResizeOptions(resize_alg=ResizeAlg.convolution(FilterType.catmull_rom), use_alpha=False)

# EXIF 2.3, table 4, Orientation: the values that swap width and height.
_ROTATED_BY_90 = (5, 6, 7, 8)

# TIFF 6.0, section 15; a tile is usually 256 x 256 pixels, even in a smaller image.
_TILE_WIDTH, _TILE_LENGTH, _MAX_SMALL_TILE = 322, 323, 2**20

# Checked before memory for pixels is allocated: the header of a 34-byte WebP can ask for gigabytes.
MAX_PIXELS = 100_000_000

ALIGNMENT = 64  # bytes; TensorFlow shares memory that is aligned to it

_STRIP_PIXELS = 2**20  # converted to RGB at a time, to hold no further copies of a large image

_ENDS_EARLY = "the file ends too early"
# Patterns of Pillow's messages, and messages for users.
_REASONS = (
    (r"truncated|not enough image data|unpack(_from)? requires", _ENDS_EARLY),
    (r"broken data stream|decoder error|unrecognized data stream", "its pixel data is broken"),
    (r"cannot handle \d+-bit layers", "a JPEG of more than 8 bits, which is not supported; convert it to 8 bits"),
    (r"could not create decoder object", "it is damaged, or ends too early"),
    (r"unknown pixel mode", "a sample format that Pillow does not support; convert it to 8 bits"),
    (r"codec configuration|unknown raw mode|not implemented", "a variant that Pillow does not support"),
    (r"tile cannot extend|outside image", "its first frame is outside the picture"),
    (r"cannot load this image", "it holds no picture"),
    (r"not identified by this driver", "its header contains no size"),
    (r"seek to frame", "its first page is not where the header says"),
)


@dataclass(frozen=True)
class LoadedImage:
    """A decoded image, scaled to the captioner's input size.

    Attributes:
      pixels: uint8[H, W, 3], RGB; of `load_image` uint8[S, S, 3] without the aspect ratio, as in training.
      width: of the original after EXIF orientation, in pixels.
      height: of the original after EXIF orientation, in pixels.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int

    def in_proportion(self) -> Image.Image:
        """The image at its original aspect ratio, with a longer side as long as that of `pixels`."""
        size = _size_within(self.width, self.height, max(self.pixels.shape[:2]))
        return Image.fromarray(self.pixels).resize(size, Image.Resampling.BICUBIC)


def load_image(data: bytes, size: int, max_pixels: int = MAX_PIXELS) -> LoadedImage:
    """Decodes `data` and scales it to `size` x `size` RGB.

    Args:
      data: a whole image file.
      size: S, the side of the captioner's input, in pixels.
      max_pixels: larger images are refused by their header; for an image that is decoded at a reduced size, as large
        JPEGs are, the reduced size counts.

    Raises:
      ImageError: for anything that is not a whole picture of an allowed format.
      TooManyPixelsError: for a picture beyond `max_pixels`.
      MissingSupportError: for a format that needs a package which is not installed.
      MemoryError: there is too little of it.
    """
    return _load_scaled(data, max_pixels, lambda width, height: (size, size))


def load_picture(data: bytes, max_side: int, max_pixels: int = MAX_PIXELS) -> LoadedImage:
    """Decodes `data` to RGB in its own aspect ratio; scaled down where its longer side has more than `max_side` pixels.

    The other arguments and the errors are those of `load_image`.
    """

    def target(width: int, height: int) -> tuple[int, int]:
        return _size_within(width, height, max_side) if max(width, height) > max_side else (width, height)

    return _load_scaled(data, max_pixels, target)


def _size_within(width: int, height: int, side: int) -> tuple[int, int]:
    """The size in proportion whose longer side is `side`."""
    longer = max(width, height)
    return max(1, round(side * width / longer)), max(1, round(side * height / longer))


def _load_scaled(data: bytes, max_pixels: int, target: Callable[[int, int], tuple[int, int]]) -> LoadedImage:
    """Decodes `data` and scales it to the size that `target` gives for the image's own width and height."""
    kind = format_of(data)
    try:
        with warnings.catch_warnings():
            # Pillow warns about damaged metadata, and about sizes that max_pixels already limits.
            warnings.simplefilter("ignore")
            with open_image(data, kind) as image:
                return _load(image, target, max_pixels, data)
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"{_pixels_named(error)} are more than the limit of {max_pixels:,}") from error
    except Exception as error:  # Decoders raise OSError, SyntaxError, struct.error, IndexError, ... on damaged files.
        reason, cause = _reason(error), error
    if kind == "JPEG" and reason == _ENDS_EARLY and (completed := _completed(data)):
        return _load_scaled(completed, max_pixels, target)
    if kind == "PNG" and (pixels := pixels_alone(data)):
        return _load_scaled(pixels, max_pixels, target)
    raise ImageError(f"this {kind} cannot be decoded: {reason}") from cause


def _completed(data: bytes) -> bytes | None:
    """See `completed_jpeg`; None also for what cannot be decoded with an end either."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return completed_jpeg(data)
    except MemoryError:
        raise
    except Exception:  # as above
        return None


def _load(
    image: Image.Image, target: Callable[[int, int], tuple[int, int]], max_pixels: int, data: bytes
) -> LoadedImage:
    width, height = image.size
    # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that exceeds the requested size by a quarter, for which
    # `model.jpeg` gives the reason. Other formats ignore this.
    wanted = target(width, height)
    image.draft(None, (wanted[0] * 5 // 4, wanted[1] * 5 // 4))
    header = read_jpeg_header(data)
    held = image.size if header and is_one_pass(data, header) else (width, height)
    if held[0] * held[1] > max_pixels:
        raise TooManyPixelsError(f"{width} x {height} pixels are more than the limit of {max_pixels:,}")
    _check_tiles(image)
    read_planes_as_stored(image)
    high_bytes_only = has_high_bytes_only(image)
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation) in _ROTATED_BY_90:
        width, height, wanted = height, width, wanted[::-1]
    ImageOps.exif_transpose(image, in_place=True)
    if high_bytes_only and uses_low_bits(image):
        image = joined_bytes(image, _low_bytes(data))
    return LoadedImage(np.asarray(_scaled(to_rgb(image), *wanted), dtype=np.uint8), width, height)


def _low_bytes(data: bytes) -> Image.Image:
    """The low bytes of the samples, where an image of 16 bits was loaded with its high bytes."""
    image = open_image(data, format_of(data))
    read_planes_as_stored(image)
    load_low_bytes(image)
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _scaled(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scales RGB with an antialiased bicubic filter (a = -0.5), as Pillow does; few samples differ, by one unit.

    With SIMD, this takes a third of Pillow's time, which would be most of the time for a small JPEG. Rows are scaled
    first, as in Pillow: the intermediate image is rounded to integers, so the order affects the result.
    """
    if image.size == (width, height):
        return image
    if Resizer is None:
        return image.resize((width, height), Image.Resampling.BICUBIC)
    resizer = Resizer()
    rows, scaled = Image.new("RGB", (width, image.height)), Image.new("RGB", (width, height))
    resizer.resize_pil(image, rows, _BICUBIC)
    resizer.resize_pil(rows, scaled, _BICUBIC)
    return scaled


def _check_tiles(image: Image.Image) -> None:
    """Refuses a TIFF whose tiles are much larger than the image, since libtiff holds a tile in memory."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        width, height = (image.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH))
        if width * height > 4 * max(image.width * image.height, _MAX_SMALL_TILE):
            raise ValueError(f"its tiles of {width} x {height} pixels are larger than the picture")


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode of Pillow to RGB: transparency on white, samples of more than 8 bits by their range."""
    if is_deep(image):
        return to_8_bits(image).convert("RGB")
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    rgb = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        rgb.paste(_strip_to_rgb(image.crop(box)), box)
    return rgb


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _pixels_named(error: Image.DecompressionBombError) -> str:
    """The number of pixels that Pillow counted in a frame or tile, which may be larger than the image."""
    found = re.search(r"\((\d+) pixels\)", str(error))
    return f"{int(found[1]):,} pixels" if found else "its pixels"


def _reason(error: Exception) -> str:
    """The reason in a decoder's error, as one short line without names of objects."""
    said = " ".join(str(error).split())
    for pattern, meaning in _REASONS:
        if re.search(pattern, said, re.IGNORECASE):
            return meaning
    if isinstance(error, (OSError, SyntaxError, ValueError, RuntimeError)) and " " in said and "<" not in said:
        return said[:120]
    return f"its structure is broken ({type(error).__name__})"


def pad_batch(
    images: Sequence[npt.NDArray[np.uint8]], batch_size: int, out: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """Stacks images and pads the batch with black ones, so that all batches have one shape.

    Args:
      images: one or more, uint8[S, S, 3] each.
      batch_size: at least the number of images.
      out: an earlier batch to overwrite; allocating memory for 256 images takes longer than filling it.

    Returns:
      uint8[batch_size, S, S, 3].
    """
    shape = (batch_size, *images[0].shape)
    batch = _aligned(shape) if out is None or out.shape != shape else out
    np.stack(images, out=batch[: len(images)])
    batch[len(images) :] = 0
    return batch


def _aligned(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """An uninitialized array at an aligned address, which TensorFlow uses without a copy."""
    size = math.prod(shape)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].reshape(shape)
