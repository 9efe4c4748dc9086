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
# What lists and folders hold instead of images, by first bytes.
_OTHERS = {
    "a JPEG XL file, which is not supported; convert it": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
    "a JPEG 2000 file, which is not supported; convert it": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "a raw photograph of a camera, which is not supported; convert it": (
        b"FUJIFILMCCD-RAW",
        b"IIRO",
        b"IIRS",
        b"IIU\0",
    ),
    "an icon, which is not supported; convert it": (b"\0\0\1\0", b"\0\0\2\0", b"icns"),
    "a Photoshop file, which is not supported; convert it": (b"8BPS",),
    "an EPS drawing, which is a program and not supported; convert it": (b"%!PS", b"\xc5\xd0\xd3\xc6"),
    "a PDF file, which is not supported; convert its pages": (b"%PDF-",),
    "a Git LFS pointer; fetch the file with: git lfs pull": (b"version https://git-lfs.github.com/spec",),
    "a pointer of git-annex; get the file itself with: git annex get": (b"/annex/objects/",),
    "JSON text": (b'{"', b'[{"', b"{}", b"[]"),
    "a compressed file; unpack it": (
        *(b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"7z\xbc\xaf", b"Rar!"),
    ),
    "a file of Arrow, HDF5, NumPy or SQLite, which is not supported; write its images to Parquet or to files": (
        *(b"ARROW1", b"FEA1", b"\x89HDF\r\n", b"\x93NUMPY", b"SQLite format 3"),
    ),
    "a video, which is not supported": (b"\x1aE\xdf\xa3", b"\0\0\0\x08wide"),
}
_HEAD_BYTES = 1024


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
    what = _other(data)
    said = f", but {what}" if what else f" ({', '.join(FORMATS)}, HEIC)"
    raise ImageError(f"not an image of a known format{said}")


def _other(data: bytes) -> str | None:
    """What a file is that is no image, if that can be said."""
    if data[4:8] == b"ftyp":
        is_raw = data[8:12] == b"crx "
        return (
            "a raw photograph of a camera, which is not supported; convert it"
            if is_raw
            else "a video, which is not supported"
        )
    if not data.strip(b"\0"):
        return "a file of zeros"
    head = data[:_HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"<"):
        is_drawing = b"<svg" in head.lower()
        return "an SVG drawing, which is not supported; convert it" if is_drawing else "a web page or XML"
    known = next((what for what, starts in _OTHERS.items() if data.startswith(starts) or head.startswith(starts)), None)
    return known or ("a text file; a list of images needs the extension .txt" if _is_text(head) else None)


def _is_text(head: bytes) -> bool:
    """Whether these are printable characters; the last one may be cut."""
    text = head.decode("utf-8", "ignore")
    return len(text.encode()) > len(head) - 4 and all(
        character.isprintable() or character in "\t\r\n" for character in text
    )


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
