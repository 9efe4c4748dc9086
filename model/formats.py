"""The formats of image files: recognized by content, opened by Pillow's plugins."""

from __future__ import annotations

import io

# Importing these plugins registers them with Pillow; no others are registered.
from PIL import (
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

# Without EPS, which Pillow passes to Ghostscript, an interpreter for programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

# ISO/IEC 23008-12 (HEIF), annexes B and E: brands of the `ftyp` box.
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
# First bytes of formats that are not read, whose files people have all the same.
_UNREAD = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"%PDF-": "PDF",
}


class ImageError(ValueError):
    """These bytes are not a picture that can be captioned; the message says why, in one line."""


class TooManyPixelsError(ImageError):
    """The picture is larger than `max_pixels`."""


class MissingSupportError(ImageError):
    """The format needs a package that is not installed here."""


def format_of(data: bytes) -> str:
    """The format that the content has: one of `FORMATS`, or HEIC.

    Raises:
      ImageError: it is none of them.
    """
    if not data:
        raise ImageError("the file is empty")
    if data[4:8] == b"ftyp":
        box = data[8 : min(int.from_bytes(data[:4], "big"), 512)]
        brands = {box[at : at + 4] for at in range(0, len(box), 4)}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIC"
    else:
        for kind in FORMATS:
            accept = Image.OPEN[kind][1]
            if accept and accept(data[:16]) is True:
                return kind
    known = f"{', '.join(FORMATS)}, HEIC"
    if name := next((name for start, name in _UNREAD.items() if data.startswith(start)), None):
        raise ImageError(f"a {name} file, which is not read; convert it to one of {known}")
    raise ImageError(f"not an image of a known format ({known})")


def open_image(data: bytes, kind: str) -> Image.Image:
    """Opens the image and reads its header. `Image.open` would hide the reason if the header is damaged."""
    if kind == "HEIC":
        try:
            from pillow_heif import HeifImageFile
        except ImportError as error:
            raise MissingSupportError("a HEIC image needs pillow-heif: pip install 'caption-images[heic]'") from error
        return HeifImageFile(io.BytesIO(data))
    factory = Image.OPEN[kind][0]
    return factory(io.BytesIO(data), "")
